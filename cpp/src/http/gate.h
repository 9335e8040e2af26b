// How many range requests of a client run at once. More connections pay where each is slow (long
// round trips, rate limits) and cost where they are not: the gate starts with two, with more where
// the server is far away, and lets more in as long as what arrives altogether grows with them.
// Where each is as fast as a CPU copes with, there are no more of them than CPUs.
#ifndef WEIGHTLIFT_HTTP_GATE_H_
#define WEIGHTLIFT_HTTP_GATE_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "base/resources.h"
#include "http/retry.h"

namespace weightlift::http {

inline constexpr int kMostConnections = 16;
// What every file starts with. One for each CPU would leave two CPUs idle for a tenth of the time,
// where server and client share them: each waits for the other between parts.
inline constexpr int kFirstConnections = 4;

// Climbs to the number of connections beyond which the rate grows no more. Pure but for its state.
class Climber {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Climber(int cpus) : cpus_(cpus) {}

  int limit() const noexcept { return limit_; }
  // Answers take this long to come. Heeded before anything else is known.
  void Answered(Clock::duration after);
  // What had arrived altogether by `now`, and whether all of limit() were at work since the last
  // call. Returns whether limit() has changed.
  bool Observe(Clock::time_point now, std::uint64_t bytes, bool saturated);

 private:
  void Restart(Clock::time_point now, std::uint64_t bytes);

  const int cpus_;
  int limit_ = kFirstConnections;
  int trusted_ = kFirstConnections;  // the limit that is known to pay
  double trusted_rate_ = 0;          // bytes a second with it; 0: not measured yet
  int rest_ = 0;                     // windows to wait before the next trial
  int failed_trials_ = 0;
  bool settled_ = false;  // the first part of a window after a change is not measured
  Clock::time_point window_begin_{};
  std::uint64_t window_bytes_ = 0;
};

// Thread-safe.
class Gate {
 public:
  explicit Gate(int fixed) : fixed_(fixed), climber_(UsableCpus()) {}  // 0: adaptive

  // Waits for a place and holds it. Throws when `patience` stops it.
  class Pass {
   public:
    Pass(Gate& gate, const Patience& patience) : gate_(gate) { gate_.Enter(patience); }
    ~Pass() { gate_.Leave(); }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;

   private:
    Gate& gate_;
  };

  // An answer began to come, so long after it was asked for.
  void Answered(Climber::Clock::duration after);
  // Bytes have arrived; to be told every few hundred KiB.
  void Arrived(std::uint64_t bytes);
  int limit() const;

 private:
  void Enter(const Patience& patience);
  void Leave() noexcept;

  const int fixed_;
  mutable std::mutex mutex_;
  std::condition_variable free_;
  Climber climber_;
  int inside_ = 0;
  int waiting_ = 0;
  bool saturated_ = true;  // since the last observation
  std::uint64_t bytes_ = 0;
};

}  // namespace weightlift::http

#endif  // WEIGHTLIFT_HTTP_GATE_H_
