#include "plan/execution.h"

#include <utility>

#include "base/thread_pool.h"

namespace weightlift {

Execution::Execution(std::uint64_t total_bytes, int threads, Monitor* monitor, Work work)
    : total_(total_bytes), threads_(threads), monitor_(monitor), work_(work) {}

RunOptions Execution::Options() const {
  return {.threads = threads_,
          .on_calling_thread = work_ == Work::kBusy && total_ < kInlineBytes,
          .waits = work_ == Work::kWaits,
          .tick = nullptr};
}

int Execution::workers() const { return TaskThreads(Options()); }

void Execution::Run(std::size_t count, const std::function<void(std::size_t, int)>& task) {
  RunOptions options = Options();
  if (monitor_ != nullptr) {
    options.tick = [this] {
      try {
        monitor_->Tick(done_.load(std::memory_order_relaxed), total_);
      } catch (...) {
        cancelled_.store(true);
        throw;
      }
    };
  }
  RunTasks(count, task, options);
}

void Execution::Fail(std::size_t op, std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  if (op >= failed_op_.load()) return;
  failed_op_.store(op);
  error_ = std::move(error);
}

void Execution::Finish() const {
  if (monitor_ != nullptr) monitor_->Tick(total_, total_);
}

}  // namespace weightlift
