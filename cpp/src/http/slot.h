// Reusable connections. A slot is one curl handle with a connection cache of its own, used by one
// thread at a time; names resolved and TLS sessions are shared by all slots of a pool.
#ifndef WEIGHTLIFT_HTTP_SLOT_H_
#define WEIGHTLIFT_HTTP_SLOT_H_

#include <curl/curl.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace weightlift::http {

class Share {
 public:
  Share();
  ~Share();
  Share(const Share&) = delete;
  Share& operator=(const Share&) = delete;
  CURLSH* get() const noexcept { return handle_; }

 private:
  static void Lock(CURL*, curl_lock_data data, curl_lock_access, void* self) noexcept;
  static void Unlock(CURL*, curl_lock_data data, void* self) noexcept;

  CURLSH* handle_;
  std::array<std::mutex, CURL_LOCK_DATA_LAST> mutexes_;
};

class Slot {
 public:
  explicit Slot(std::shared_ptr<Share> share);
  ~Slot();
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
  CURL* easy() const noexcept { return easy_; }
  CURLM* multi() const noexcept { return multi_; }
  // Whether a fork has made this process since: the connections are the parent's, who goes on using
  // them.
  bool foreign() const noexcept;

 private:
  const std::shared_ptr<Share> share_;
  const std::uint64_t generation_;
  CURL* easy_;
  CURLM* multi_;
};

// Thread-safe. After a fork the child finds it empty.
class SlotPool {
 public:
  SlotPool();
  ~SlotPool();
  SlotPool(const SlotPool&) = delete;
  SlotPool& operator=(const SlotPool&) = delete;

  std::unique_ptr<Slot> Take();
  // For the next one; closed if there are too many, dropped if it is foreign.
  void Give(std::unique_ptr<Slot> slot) noexcept;

 private:
  struct State {
    std::uint64_t generation;
    std::shared_ptr<Share> share;
    std::mutex mutex;
    std::vector<std::unique_ptr<Slot>> idle;  // last used last
  };
  State& Current();

  std::atomic<State*> state_;
};

}  // namespace weightlift::http

#endif  // WEIGHTLIFT_HTTP_SLOT_H_
