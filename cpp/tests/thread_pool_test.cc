#include "base/thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <chrono>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "child.h"
#include "sanitizers.h"

namespace {

using weightlift::kMaxPoolThreads;
using weightlift::PoolThreads;
using weightlift::RunOptions;
using weightlift::RunTasks;
using weightlift::TaskThreads;
using namespace std::chrono_literals;

// What a run throws, as text; "" for nothing.
std::string Outcome(std::size_t count, const std::function<void(std::size_t, int)>& task,
                    const RunOptions& options = {}) {
  try {
    RunTasks(count, task, options);
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

TEST(RunsEachIndexOnce) {
  for (const int threads : {0, 1, 2, 3, 16}) {
    std::vector<std::atomic<int>> runs(1000);
    RunTasks(runs.size(), [&](std::size_t i, int) { ++runs[i]; }, {.threads = threads});
    for (const std::atomic<int>& count : runs) CHECK_EQ(count.load(), 1);
  }
}

TEST(NothingToDo) {
  RunTasks(0, [](std::size_t, int) { CHECK(false); });
}

TEST(WorkersAreExclusiveAndInRange) {
  // A counter a worker that only one task at a time may touch: a race is a finding of TSan, and a
  // lost update shows in the sum.
  const RunOptions options{.threads = 4};
  std::array<int, 4> counters{};
  CHECK_EQ(TaskThreads(options), 4);
  RunTasks(
      20000, [&](std::size_t, int worker) { ++counters[static_cast<std::size_t>(worker)]; },
      options);
  CHECK_EQ(counters[0] + counters[1] + counters[2] + counters[3], 20000);
}

TEST(TasksStartInAscendingOrder) {
  std::mutex mutex;
  std::array<std::size_t, kMaxPoolThreads> last{};
  RunTasks(5000, [&](std::size_t i, int worker) {
    const std::lock_guard lock(mutex);
    std::size_t& before = last[static_cast<std::size_t>(worker)];
    CHECK(i >= before);
    before = i;
  });
}

TEST(RunsInParallel) {
  // Each task waits for the other: one thread alone would never end.
  std::atomic<int> arrived{0};
  RunTasks(2,
           [&](std::size_t, int) {
             ++arrived;
             while (arrived.load() < 2) std::this_thread::sleep_for(1ms);
           },
           {.threads = 2});
  CHECK_EQ(arrived.load(), 2);
}

TEST(LowestIndexWinsWhateverTheTiming) {
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> ran_before_three{0};
    const std::string outcome = Outcome(100,
                                        [&](std::size_t i, int) {
                                          if (i < 3) ++ran_before_three;
                                          if (i == 3) {
                                            std::this_thread::sleep_for(2ms);
                                            throw std::runtime_error("3");
                                          }
                                          if (i > 3) throw std::runtime_error(std::to_string(i));
                                        },
                                        {.threads = 4});
    CHECK_EQ(outcome, std::string("3"));
    CHECK_EQ(ran_before_three.load(), 3);
  }
}

TEST(AnErrorStopsWhatHasNotStarted) {
  std::atomic<int> started{0};
  const std::string outcome = Outcome(100000,
                                      [&](std::size_t i, int) {
                                        ++started;
                                        if (i == 0) throw std::runtime_error("first");
                                        std::this_thread::sleep_for(1ms);
                                      },
                                      {.threads = 2});
  CHECK_EQ(outcome, std::string("first"));
  CHECK(started.load() < 1000);
}

TEST(ThePoolWorksAfterAnError) {
  CHECK_EQ(Outcome(4, [](std::size_t, int) { throw std::runtime_error("no"); }), std::string("no"));
  std::atomic<int> runs{0};
  RunTasks(10, [&](std::size_t, int) { ++runs; });
  CHECK_EQ(runs.load(), 10);
}

TEST(TicksOnTheCallingThreadWhileTasksRun) {
  const std::thread::id caller = std::this_thread::get_id();
  int ticks = 0;
  RunTasks(4, [](std::size_t, int) { std::this_thread::sleep_for(150ms); },
           {.threads = 2, .tick = [&] {
              ++ticks;
              CHECK(std::this_thread::get_id() == caller);
            }});
  CHECK(ticks >= 2);  // 300 ms of work, a tick each 50 ms, on a machine that may be busy
  CHECK(ticks <= 40);
}

TEST(TickCancels) {
  std::atomic<int> running{0};
  std::atomic<int> started{0};
  const auto begin = std::chrono::steady_clock::now();
  const std::string outcome =
      Outcome(100000,
              [&](std::size_t, int) {
                ++running;
                ++started;
                std::this_thread::sleep_for(5ms);
                --running;
              },
              {.threads = 2, .tick = [] { throw std::runtime_error("stop"); }});
  CHECK_EQ(outcome, std::string("stop"));
  CHECK_EQ(running.load(), 0);  // all joined
  CHECK(started.load() < 10000);
  CHECK(std::chrono::steady_clock::now() - begin < 5s);
}

TEST(CancellationComesBeforeATasksError) {
  const std::string outcome =
      Outcome(1,
              [](std::size_t, int) {
                std::this_thread::sleep_for(200ms);
                throw std::runtime_error("task");
              },
              {.threads = 2, .tick = [] { throw std::runtime_error("tick"); }});
  CHECK_EQ(outcome, std::string("tick"));
}

TEST(OnCallingThread) {
  const std::thread::id caller = std::this_thread::get_id();
  std::vector<std::size_t> order;
  const RunOptions options{.on_calling_thread = true};
  CHECK_EQ(TaskThreads(options), 1);
  RunTasks(
      5,
      [&](std::size_t i, int worker) {
        CHECK(std::this_thread::get_id() == caller);
        CHECK_EQ(worker, 0);
        order.push_back(i);
      },
      options);
  CHECK(order == std::vector<std::size_t>({0, 1, 2, 3, 4}));
}

TEST(OnCallingThreadTicksAndCancels) {
  int runs = 0;
  const std::string outcome =
      Outcome(1000,
              [&](std::size_t, int) {
                ++runs;
                std::this_thread::sleep_for(10ms);
              },
              {.on_calling_thread = true, .tick = [] { throw std::runtime_error("stop"); }});
  CHECK_EQ(outcome, std::string("stop"));
  CHECK(runs < 100);
}

TEST(ACallFromATaskRunsThere) {
  std::atomic<int> runs{0};
  RunTasks(8,
           [&](std::size_t, int) {
             const std::thread::id outer = std::this_thread::get_id();
             RunTasks(8, [&](std::size_t, int worker) {
               CHECK(std::this_thread::get_id() == outer);
               CHECK_EQ(worker, 0);
               ++runs;
             });
           },
           {.threads = 2});
  CHECK_EQ(runs.load(), 64);
}

TEST(CallersTakeTurns) {
  // A short run that starts after a long one, with as many workers as there are, must not wait for
  // its end.
  std::atomic<bool> long_done{false};
  std::atomic<bool> long_started{false};
  std::thread background([&] {
    RunTasks(400,
             [&](std::size_t, int) {
               long_started = true;
               std::this_thread::sleep_for(5ms);
             },
             {.threads = kMaxPoolThreads});
    long_done = true;
  });
  while (!long_started.load()) std::this_thread::sleep_for(1ms);
  RunTasks(4, [](std::size_t, int) {}, {.threads = 2});
  CHECK(!long_done.load());
  background.join();
}

TEST(ManyCallersAtOnce) {
  std::vector<std::thread> callers;
  std::atomic<int> runs{0};
  for (int caller = 0; caller < 8; ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < 20; ++round) {
        std::vector<int> per_worker(static_cast<std::size_t>(kMaxPoolThreads));
        RunTasks(50,
                 [&](std::size_t, int worker) {
                   ++per_worker[static_cast<std::size_t>(worker)];
                   ++runs;
                 },
                 {.threads = 1 + caller % 4, .tick = [] {}});
        int sum = 0;
        for (const int count : per_worker) sum += count;
        CHECK_EQ(sum, 50);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK_EQ(runs.load(), 8 * 20 * 50);
}

TEST(SignalsAreBlockedInWorkers) {
  std::atomic<int> blocked{0};
  RunTasks(2,
           [&](std::size_t, int) {
             sigset_t set;
             pthread_sigmask(SIG_SETMASK, nullptr, &set);
             if (sigismember(&set, SIGINT) == 1) ++blocked;
           },
           {.threads = 2});
  CHECK_EQ(blocked.load(), 2);
  sigset_t own;
  pthread_sigmask(SIG_SETMASK, nullptr, &own);
  CHECK_EQ(sigismember(&own, SIGINT), 0);
}

TEST(AChildHasAPoolOfItsOwn) {
  if (kThreadSanitizer) return;  // it refuses threads in the child of a threaded process
  RunTasks(10, [](std::size_t, int) {}, {.threads = 4});
  for (int round = 0; round < 10; ++round) {
    // Forked while workers run and hold locks.
    std::atomic<bool> stop{false};
    std::thread busy([&] {
      while (!stop.load()) RunTasks(100, [](std::size_t, int) {}, {.threads = 4});
    });
    const int status = RunInChild([] {
      std::atomic<int> runs{0};
      RunTasks(100, [&](std::size_t, int) { ++runs; }, {.threads = 3});
      return runs.load();
    });
    stop = true;
    busy.join();
    CHECK_EQ(status, 100);
  }
}

TEST(AForkInATickEndsTheRunInTheChild) {
  if (kThreadSanitizer) return;
  // The child comes back from the tick into a run whose workers it does not have.
  pid_t child = -1;
  try {
    RunTasks(2, [](std::size_t, int) { std::this_thread::sleep_for(120ms); },
             {.threads = 2, .tick = [&] {
                if (child == -1) child = fork();
                if (child == 0) alarm(20);
              }});
  } catch (const weightlift::Error& error) {
    _exit(child == 0 && error.code() == weightlift::ErrorCode::kCancelled ? 42 : 1);
  }
  CHECK(child > 0);
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK_EQ(WEXITSTATUS(status), 42);
}

TEST(PoolSizeIsBounded) {
  CHECK(PoolThreads() >= 2);
  CHECK(PoolThreads() <= kMaxPoolThreads);
  CHECK_EQ(TaskThreads({.threads = 1000}), kMaxPoolThreads);
}

}  // namespace
