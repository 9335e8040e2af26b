// The one thread pool of the process: runs numbered tasks and waits for them.
//
//   RunTasks(tasks.size(), [&](std::size_t i, int worker) { Run(tasks[i], scratch[worker]); },
//            {.threads = options.threads, .tick = [&] { monitor->Tick(done, total); }});
//
// Threads start when they are first needed and stay; signals are blocked in them, so that the
// caller's thread takes Ctrl-C. After fork the child starts with a fresh pool.
#ifndef WEIGHTLIFT_BASE_THREAD_POOL_H_
#define WEIGHTLIFT_BASE_THREAD_POOL_H_

#include <cstddef>
#include <functional>

namespace weightlift {

inline constexpr int kMaxPoolThreads = 16;

// CPUs that this process may use (affinity and control-group quota), at least 2, at most
// kMaxPoolThreads.
int PoolThreads();

struct RunOptions {
  // Most tasks at once; 0: PoolThreads(). At most kMaxPoolThreads. See TaskThreads.
  int threads = 0;
  // Small work: run it on the calling thread, without waking anybody.
  bool on_calling_thread = false;
  // The tasks mostly wait, for a network: they get threads of their own beside
  // those of others, and leave the CPUs to them.
  bool waits = false;
  // Called on the calling thread, without locks, about every 50 ms while tasks run. May throw to
  // cancel: no further task starts, those that run are waited for, then the exception goes on.
  std::function<void()> tick{};
};

// How many distinct values `worker` can take under these options: the size for per-worker scratch.
int TaskThreads(const RunOptions& options);

// Calls task(index, worker) once for each index in [0, count), in parallel, starting them in
// ascending order. `worker` is in [0, TaskThreads(options)); no two tasks that run at the same time
// have the same one, and what one task wrote is seen by the next with the same worker.
//
// Returns when all are done. When tasks throw, no further task starts, those that run are waited
// for, and the exception of the lowest index is rethrown; every task with a lower index has run. So
// the outcome is that of a sequential run. An exception from `tick` comes before any of a task.
//
// Several threads may call it at once: their tasks take turns. A call from inside a task runs on
// the calling thread.
void RunTasks(std::size_t count, const std::function<void(std::size_t index, int worker)>& task,
              const RunOptions& options = {});

}  // namespace weightlift

#endif  // WEIGHTLIFT_BASE_THREAD_POOL_H_
