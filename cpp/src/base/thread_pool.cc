#include "base/thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "base/resources.h"
#include "weightlift/error.h"

namespace weightlift {
namespace {

constexpr std::chrono::milliseconds kTickInterval{50};
constexpr int kMostThreads = 4 * kMaxPoolThreads;

using Task = std::function<void(std::size_t, int)>;

thread_local bool t_is_worker = false;

// One call of RunTasks. Lives on the caller's stack; `next` and `stop` are shared without a lock,
// the rest is guarded by the pool's mutex.
struct Job {
  Job(std::size_t task_count, const Task& job_task, int threads)
      : count(task_count), task(job_task), free_slots((std::uint32_t{1} << threads) - 1) {}

  bool exhausted() const { return stop.load() || next.load() >= count; }
  bool wants_worker() const { return free_slots != 0 && !exhausted(); }
  bool finished() const { return active == 0 && exhausted(); }

  const std::size_t count;
  const Task& task;
  std::atomic<std::size_t> next{0};
  std::atomic<bool> stop{false};

  std::uint32_t free_slots;  // one bit a value of `worker` that no thread holds
  int active = 0;
  std::size_t error_index = 0;
  std::exception_ptr error;
  std::condition_variable done;
};
static_assert(kMaxPoolThreads < 32);

class Pool {
 public:
  static Pool& Get();

  void Run(Job& job, int threads, const RunOptions& options);

 private:
  void EnsureThreads(int wanted);
  void StartThread();
  void Work();
  // Runs tasks of `job` until it is exhausted or another job waits for its turn. Returns the index
  // and exception of the task that failed, if one did.
  std::pair<std::size_t, std::exception_ptr> RunTurn(Job& job, int worker);
  Job* NextJob();
  void Remove(const Job& job);

  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<Job*> jobs_;                  // in turn order
  std::atomic<bool> taking_turns_{false};  // more than one job
  int threads_ = 0;
  int waiting_ = 0;  // of them, those that jobs which mostly wait may hold
};

std::atomic<Pool*> g_pool{nullptr};
// Counts forks: a caller that finds itself in a child, inside RunTasks, has lost its workers.
std::atomic<std::uint64_t> g_generation{0};

void ForgetPoolInChild() {
  // The threads are gone and the locks may be held for ever: the memory is all that is left of it.
  g_pool.store(nullptr);
  g_generation.fetch_add(1);
}
[[maybe_unused]] const int g_at_fork = pthread_atfork(nullptr, nullptr, ForgetPoolInChild);

Pool& Pool::Get() {
  Pool* pool = g_pool.load();
  if (pool == nullptr) {
    auto fresh = std::make_unique<Pool>();
    // Never destroyed: its threads live as long as the process.
    if (g_pool.compare_exchange_strong(pool, fresh.get())) pool = fresh.release();
  }
  return *pool;
}

void Pool::EnsureThreads(int wanted) {
  try {
    while (threads_ < wanted) StartThread();
  } catch (const std::system_error& error) {
    if (threads_ == 0) {
      throw Error(ErrorCode::kStorage, "cannot start a thread", {}, error.code().value());
    }
  }
}

void Pool::StartThread() {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread thread([this] { Work(); });
    pthread_setname_np(thread.native_handle(), "weightlift");
    thread.detach();
    ++threads_;
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Job* Pool::NextJob() {
  const auto it =
      std::find_if(jobs_.begin(), jobs_.end(), [](const Job* job) { return job->wants_worker(); });
  if (it == jobs_.end()) return nullptr;
  Job* const job = *it;
  jobs_.erase(it);
  jobs_.push_back(job);
  return job;
}

void Pool::Remove(const Job& job) {
  std::erase(jobs_, &job);
  taking_turns_.store(jobs_.size() > 1);
}

void Pool::Work() {
  t_is_worker = true;
  std::unique_lock lock(mutex_);
  for (;;) {
    Job* job = nullptr;
    work_.wait(lock, [&] { return (job = NextJob()) != nullptr; });
    const int worker = std::countr_zero(job->free_slots);
    const std::uint32_t slot = std::uint32_t{1} << worker;
    job->free_slots &= ~slot;
    ++job->active;

    lock.unlock();
    auto [index, error] = RunTurn(*job, worker);
    lock.lock();

    if (error && (!job->error || index < job->error_index)) {
      job->error_index = index;
      job->error = std::move(error);
    }
    job->free_slots |= slot;
    --job->active;
    // Under the lock: the job is gone as soon as its caller can take it.
    if (job->finished()) {
      job->done.notify_one();
    } else if (job->wants_worker()) {
      work_.notify_one();  // this thread may take another job's turn now
    }
  }
}

std::pair<std::size_t, std::exception_ptr> Pool::RunTurn(Job& job, int worker) {
  std::exception_ptr error;
  std::size_t index = 0;
  do {
    if (job.stop.load()) break;
    index = job.next.fetch_add(1);
    if (index >= job.count) break;
    try {
      job.task(index, worker);
    } catch (...) {
      error = std::current_exception();
      // Lower indices were handed out before this one, so they all run.
      job.stop.store(true);
    }
  } while (!error && !taking_turns_.load(std::memory_order_relaxed));
  return {index, std::move(error)};
}

void Pool::Run(Job& job, int threads, const RunOptions& options) {
  const std::function<void()>& tick = options.tick;
  const std::uint64_t generation = g_generation.load();
  std::exception_ptr cancelled;
  std::unique_lock lock(mutex_);
  EnsureThreads(std::min(threads + waiting_, kMostThreads));
  if (options.waits) waiting_ += threads;
  jobs_.push_back(&job);
  taking_turns_.store(jobs_.size() > 1);
  for (int i = 0; i < threads; ++i) work_.notify_one();
  while (!job.finished()) {
    if (!tick || cancelled) {
      job.done.wait(lock);
      continue;
    }
    if (job.done.wait_for(lock, kTickInterval) == std::cv_status::no_timeout) continue;
    lock.unlock();
    try {
      tick();
    } catch (...) {
      cancelled = std::current_exception();
      job.stop.store(true);
    }
    if (g_generation.load() != generation) {
      throw Error(ErrorCode::kCancelled, "the process was forked in the middle of this call");
    }
    lock.lock();
  }
  Remove(job);
  if (options.waits) waiting_ -= threads;
  lock.unlock();
  if (cancelled) std::rethrow_exception(cancelled);
  if (job.error) std::rethrow_exception(job.error);
}

void RunOnCallingThread(std::size_t count, const Task& task, const std::function<void()>& tick) {
  auto last_tick = std::chrono::steady_clock::now();
  for (std::size_t index = 0; index < count; ++index) {
    task(index, 0);
    if (!tick) continue;
    const auto now = std::chrono::steady_clock::now();
    if (now - last_tick < kTickInterval) continue;
    last_tick = now;
    tick();
  }
}

}  // namespace

int PoolThreads() {
  static const int threads = std::clamp(UsableCpus(), 2, kMaxPoolThreads);
  return threads;
}

int TaskThreads(const RunOptions& options) {
  if (options.on_calling_thread) return 1;
  return options.threads > 0 ? std::min(options.threads, kMaxPoolThreads) : PoolThreads();
}

void RunTasks(std::size_t count, const Task& task, const RunOptions& options) {
  if (count == 0) return;
  const int threads = TaskThreads(options);
  if (options.on_calling_thread || t_is_worker || (threads == 1 && !options.tick)) {
    RunOnCallingThread(count, task, options.tick);
    return;
  }
  Job job(count, task, threads);
  Pool::Get().Run(job,
                  static_cast<int>(std::min<std::size_t>(count, static_cast<std::size_t>(threads))),
                  options);
}

}  // namespace weightlift
