// What the workers of one running plan share: progress, cancellation, and the first error in plan
// order.
#ifndef WEIGHTLIFT_PLAN_EXECUTION_H_
#define WEIGHTLIFT_PLAN_EXECUTION_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <mutex>

#include "base/thread_pool.h"
#include "weightlift/plan.h"

namespace weightlift {

class Execution {
 public:
  // What the tasks do most of the time.
  enum class Work : std::uint8_t { kBusy, kWaits };

  // `threads` 0: the pool's size. Work below kInlineBytes runs on the calling
  // thread, unless it waits: then that thread watches over it.
  Execution(std::uint64_t total_bytes, int threads, Monitor* monitor, Work work = Work::kBusy);

  // How many distinct values `worker` takes below.
  int workers() const;

  // Calls task(index, worker) for [0, count) on the pool and joins. Errors of tasks are for Fail,
  // so tasks must not throw; what the monitor throws is thrown from here.
  void Run(std::size_t count, const std::function<void(std::size_t, int)>& task);

  // --- for tasks ---
  void Advance(std::uint64_t bytes) { done_.fetch_add(bytes, std::memory_order_relaxed); }

  // Records the exception, unless an earlier op has failed already.
  void Fail(std::size_t op, std::exception_ptr error);

  // Whether nothing from `op` on matters any more. Ops before a failed one still run, so that the
  // first error in plan order does not depend on timing.
  bool Abandoned(std::size_t op) const {
    return op > failed_op_.load(std::memory_order_relaxed) ||
           cancelled_.load(std::memory_order_relaxed);
  }
  bool undisturbed() const {
    return failed_op_.load(std::memory_order_relaxed) == kNoOp &&
           !cancelled_.load(std::memory_order_relaxed);
  }

  // --- after Run ---
  static constexpr std::size_t kNoOp = std::numeric_limits<std::size_t>::max();
  std::size_t failed_op() const { return failed_op_.load(); }  // kNoOp: none
  [[noreturn]] void Rethrow() const { std::rethrow_exception(error_); }
  void Finish() const;  // the monitor's last tick, of a run that went well

 private:
  static constexpr std::uint64_t kInlineBytes = 512u << 10;

  RunOptions Options() const;

  const std::uint64_t total_;
  const int threads_;
  Monitor* const monitor_;
  const Work work_;
  std::atomic<std::uint64_t> done_{0};
  std::atomic<std::size_t> failed_op_{kNoOp};
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;  // guards error_ while Run runs
  std::exception_ptr error_;
};

}  // namespace weightlift

#endif  // WEIGHTLIFT_PLAN_EXECUTION_H_
