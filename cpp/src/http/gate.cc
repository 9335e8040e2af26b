#include "http/gate.h"

#include <algorithm>

namespace weightlift::http {
namespace {

constexpr std::chrono::milliseconds kWindow{150};
constexpr std::chrono::milliseconds kSettle{50};
constexpr double kBusyRate = 250e6;  // bytes a second that keep a CPU busy, nearly
constexpr double kWorthIt = 1.1;     // a trial must bring this much more
constexpr int kRest = 8;             // windows after a trial that did not pay; doubles
constexpr int kLongestRest = 128;
constexpr std::chrono::milliseconds kStep{25};
// A server that answers only after this is not on this machine, nor in the next rack. A new
// connection then carries little for some round trips, and waits one for each part.
constexpr std::chrono::milliseconds kFar{4};
constexpr int kConnectionsToFar = 8;

}  // namespace

void Climber::Restart(Clock::time_point now, std::uint64_t bytes) {
  window_begin_ = now;
  window_bytes_ = bytes;
}

void Climber::Answered(Clock::duration after) {
  if (after < kFar || trusted_rate_ != 0 || limit_ > trusted_) return;
  limit_ = trusted_ = std::max(trusted_, kConnectionsToFar);
  settled_ = false;
}

bool Climber::Observe(Clock::time_point now, std::uint64_t bytes, bool saturated) {
  if (!saturated || window_begin_ == Clock::time_point{} || bytes < window_bytes_) {
    settled_ = false;
    Restart(now, bytes);
    return false;
  }
  const auto elapsed = now - window_begin_;
  if (!settled_) {
    if (elapsed < kSettle) return false;
    settled_ = true;
    Restart(now, bytes);
    return false;
  }
  if (elapsed < kWindow) return false;
  const double rate =
      static_cast<double>(bytes - window_bytes_) / std::chrono::duration<double>(elapsed).count();
  Restart(now, bytes);
  const int before = limit_;
  if (limit_ > trusted_) {  // a trial ends
    if (rate >= trusted_rate_ * kWorthIt) {
      trusted_ = limit_;
      trusted_rate_ = rate;
      failed_trials_ = 0;
      limit_ = std::min(limit_ * 2, kMostConnections);
    } else {
      limit_ = trusted_;
      rest_ = std::min(kRest << std::min(failed_trials_++, 6), kLongestRest);
    }
  } else {
    trusted_rate_ = trusted_rate_ == 0 ? rate : (trusted_rate_ + rate) / 2;
    const bool busy = limit_ >= cpus_ && rate >= kBusyRate * limit_;
    if (rest_ > 0) {
      --rest_;
    } else if (!busy) {
      limit_ = std::min(limit_ * 2, kMostConnections);
    }
  }
  if (limit_ != before) settled_ = false;
  return limit_ != before;
}

void Gate::Enter(const Patience& patience) {
  std::unique_lock lock(mutex_);
  ++waiting_;
  while (inside_ >= (fixed_ > 0 ? fixed_ : climber_.limit())) {
    free_.wait_for(lock, kStep);
    lock.unlock();
    try {
      patience.CheckStop();
    } catch (...) {
      lock.lock();
      --waiting_;
      throw;
    }
    lock.lock();
  }
  --waiting_;
  ++inside_;
}

void Gate::Leave() noexcept {
  const std::lock_guard lock(mutex_);
  --inside_;
  // With nobody waiting, the connections are fewer than they might be: the rate says nothing.
  if (waiting_ == 0) saturated_ = false;
  free_.notify_one();
}

void Gate::Answered(Climber::Clock::duration after) {
  if (fixed_ > 0) return;
  const std::lock_guard lock(mutex_);
  climber_.Answered(after);
  free_.notify_all();
}

void Gate::Arrived(std::uint64_t bytes) {
  if (fixed_ > 0) return;
  const std::lock_guard lock(mutex_);
  bytes_ += bytes;
  const bool full = inside_ >= climber_.limit() && saturated_;
  saturated_ = true;
  if (climber_.Observe(Climber::Clock::now(), bytes_, full)) free_.notify_all();
}

int Gate::limit() const {
  const std::lock_guard lock(mutex_);
  return fixed_ > 0 ? fixed_ : climber_.limit();
}

}  // namespace weightlift::http
