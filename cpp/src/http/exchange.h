// One request and its answer, one attempt. Redirects and retries are requests of their own.
#ifndef WEIGHTLIFT_HTTP_EXCHANGE_H_
#define WEIGHTLIFT_HTTP_EXCHANGE_H_

#include <curl/curl.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "http/retry.h"
#include "http/session.h"
#include "http/url.h"

namespace weightlift::http {

// What is asked.
struct Ask {
  std::string method = "GET";
  Url url{};
  std::string origin{};                           // of the URL the user gave: secrets go there only
  std::optional<std::string> user{}, password{};  // of that URL's user-info
  Headers headers{};                              // besides those of the options
  std::optional<std::pair<std::uint64_t, std::uint64_t>> range{};  // first byte, end exclusive
  std::optional<std::span<const std::byte>> body{};
};

struct Head {
  int status = 0;
  Headers headers{};
};

// Gets the answer as it comes, on the thread in Exchange::Run. What it throws comes out of Run.
// False: enough, the connection may be closed.
class Receiver {
 public:
  virtual ~Receiver() = default;
  virtual bool OnHead(const Head& head) = 0;
  virtual bool OnBody(std::span<const std::byte> bytes) = 0;
};

// Gives the body of an upload, likewise.
class Source {
 public:
  virtual ~Source() = default;
  virtual std::uint64_t size() const = 0;
  // Copies up to out.size() bytes; 0 when there are none yet.
  virtual std::size_t Take(std::span<std::byte> out) = 0;
};

class Exchange {
 public:
  // `source`: the body is an upload from there.
  Exchange(Session& session, const Ask& ask, Receiver& receiver, Source* source = nullptr);
  ~Exchange();  // breaks the connection off, if the answer is not complete
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  // Goes on until the transfer has ended (true) or `until` says so (false). Throws what the
  // receiver and the source throw, and when `patience` stops.
  bool Run(const Patience& patience, const std::function<bool()>& until = {});
  void SetReceiver(Receiver& receiver) noexcept { receiver_ = &receiver; }
  void Wake();  // the source has bytes again

  // After a fork, in the child: the transfer goes on in the parent, and cannot here.
  bool foreign() const noexcept { return slot_->foreign(); }
  bool ended() const noexcept { return ended_; }
  bool cut() const noexcept { return cut_; }  // the receiver had enough
  const Head& head() const noexcept { return head_; }
  // From the request's being sent to the first byte of its answer.
  std::chrono::microseconds latency() const;
  // After the end: how, and in words. A transfer that went well has code CURLE_OK.
  Attempt attempt() const;
  std::string Words() const;

 private:
  using Clock = std::chrono::steady_clock;

  void SetUp(const Ask& ask);
  void SetUpRequest(const Ask& ask);
  void SetUpConnection(bool trusted);
  void SetUpHeaders(const Ask& ask, bool trusted);
  template <typename T>
  void Set(CURLoption option, T value);
  void End(CURLcode code);
  void NoteSent();
  void Collect();  // curl's message that the transfer has ended
  bool HeaderLine(std::string_view line);

  // Called by libcurl, through which nothing can be thrown.
  static std::size_t OnHeaderData(char* data, std::size_t size, std::size_t count,
                                  void* self) noexcept;
  static std::size_t OnBodyData(char* data, std::size_t size, std::size_t count,
                                void* self) noexcept;
  static std::size_t OnBodyWanted(char* data, std::size_t size, std::size_t count,
                                  void* self) noexcept;
  static int OnConnected(void* self, char*, char*, int, int) noexcept;

  struct ListDeleter {
    void operator()(curl_slist* list) const { curl_slist_free_all(list); }
  };

  Session& session_;
  Receiver* receiver_;
  Source* const source_;
  std::unique_ptr<Slot> slot_;
  std::unique_ptr<curl_slist, ListDeleter> header_list_;
  std::array<char, CURL_ERROR_SIZE> error_{};
  Head head_;
  std::size_t head_bytes_ = 0;
  bool head_done_ = false;
  bool connected_ = false;
  bool paused_ = false;
  bool attached_ = false;
  bool ended_ = false;
  bool cut_ = false;
  bool stalled_ = false;
  CURLcode code_ = CURLE_OK;
  Clock::time_point active_{};  // when bytes went either way
  curl_off_t sent_ = 0;
  std::exception_ptr failure_;
};

}  // namespace weightlift::http

#endif  // WEIGHTLIFT_HTTP_EXCHANGE_H_
