#include "io/replaced_file.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace weightlift {
namespace {

// Smaller files are gone sooner than a thread wakes up.
constexpr off_t kSmallFile = 1 << 20;
// Descriptors are scarce; beyond these the caller waits.
constexpr std::size_t kMostFiles = 128;

// Two locks, always taken in this order: `closing` is held while a file is closed, so that a fork
// never comes between the closing of a descriptor and the note of it.
struct Queue {
  std::mutex closing;
  std::mutex mutex;
  std::condition_variable empty;
  std::vector<UniqueFd> files;
  bool running = false;
};

Queue& TheQueue() {
  static Queue* const queue = new Queue;  // never destroyed: its thread may outlive main
  return *queue;
}

void LockForFork() {
  TheQueue().closing.lock();
  TheQueue().mutex.lock();
}
void UnlockInParent() {
  TheQueue().mutex.unlock();
  TheQueue().closing.unlock();
}
void ForgetInChild() {
  Queue& queue = TheQueue();
  queue.files.clear();  // the parent has its own descriptors of them
  queue.running = false;
  UnlockInParent();
}
[[maybe_unused]] const int g_at_fork = pthread_atfork(LockForFork, UnlockInParent, ForgetInChild);

void CloseAll(Queue& queue) {
  for (;;) {
    const std::lock_guard closing(queue.closing);
    UniqueFd file;
    {
      const std::lock_guard lock(queue.mutex);
      if (queue.files.empty()) {
        queue.running = false;
        queue.empty.notify_all();
        return;
      }
      file = std::move(queue.files.back());
      queue.files.pop_back();
    }
    file.reset();
  }
}

// With all signals blocked: those of the process are for its other threads.
void StartThread(Queue& queue) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread thread([&queue] { CloseAll(queue); });
    pthread_setname_np(thread.native_handle(), "weightlift-free");
    thread.detach();
    queue.running = true;
  } catch (const std::exception&) {
    // No thread: who called waits instead.
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace

ReplacedFile::ReplacedFile(int directory, const std::string& name) noexcept {
  UniqueFd fd(openat(directory, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat info = {};
  if (fd && fstat(fd.get(), &info) == 0 && S_ISREG(info.st_mode) && info.st_nlink == 1 &&
      info.st_size >= kSmallFile) {
    fd_ = std::move(fd);
  }
}

ReplacedFile::~ReplacedFile() {
  if (!fd_) return;
  Queue& queue = TheQueue();
  const std::lock_guard lock(queue.mutex);
  if (queue.files.size() >= kMostFiles) return;
  if (!queue.running) StartThread(queue);
  if (!queue.running) return;
  try {
    queue.files.push_back(std::move(fd_));
  } catch (const std::exception&) {
    // Out of memory: closed here.
  }
}

void AwaitReplacedFiles() {
  Queue& queue = TheQueue();
  std::unique_lock lock(queue.mutex);
  queue.empty.wait(lock, [&] { return !queue.running; });
}

}  // namespace weightlift
