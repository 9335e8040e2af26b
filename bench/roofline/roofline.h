// What the speed-of-light programs share: options, fresh memory, pieces over threads, one JSON
// line.
//
// These programs say what the machine allows for a job, so they do only that job: no checks of the
// content, no checksums, no library. They exit with 1 and a message on any error.
#ifndef WEIGHTLIFT_BENCH_ROOFLINE_H_
#define WEIGHTLIFT_BENCH_ROOFLINE_H_

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace roofline {

inline constexpr std::size_t kHugePage = 2u << 20;

[[noreturn]] inline void Fail(const std::string& what) {
  std::fprintf(stderr, "%s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

[[noreturn]] inline void Usage(const char* text) {
  std::fprintf(stderr, "usage: %s\n", text);
  std::exit(2);
}

// Positional words, and `--flag value` or bare `--flag`.
class Options {
 public:
  Options(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
      const std::string word = argv[i];
      if (word.rfind("--", 0) != 0) {
        positional_.push_back(word);
      } else if (i + 1 < argc && std::string(argv[i + 1]).rfind("--", 0) != 0) {
        flags_.emplace_back(word.substr(2), argv[++i]);
      } else {
        flags_.emplace_back(word.substr(2), "");
      }
    }
  }
  const std::vector<std::string>& positional() const { return positional_; }
  bool Has(const std::string& name) const { return Find(name) != nullptr; }
  std::string Text(const std::string& name, const std::string& fallback) const {
    const std::string* value = Find(name);
    return value ? *value : fallback;
  }
  std::size_t Number(const std::string& name, std::size_t fallback) const {
    const std::string* value = Find(name);
    return value ? static_cast<std::size_t>(std::strtoull(value->c_str(), nullptr, 10)) : fallback;
  }

 private:
  const std::string* Find(const std::string& name) const {
    for (const auto& [key, value] : flags_) {
      if (key == name) return &value;
    }
    return nullptr;
  }
  std::vector<std::string> positional_;
  std::vector<std::pair<std::string, std::string>> flags_;
};

// The runs of a program: `--repeat N` of them, or with `--on-request` one for each line on the
// standard input, so that a bench can take turns with other programs that are set up already.
class Runs {
 public:
  explicit Runs(const Options& options)
      : on_request_(options.Has("on-request")), left_(options.Number("repeat", 1)) {}
  // Waits until another run is due; false when there is none.
  bool Next() {
    if (!on_request_) return left_-- > 0;
    int c = std::getchar();
    while (c != '\n' && c != EOF) c = std::getchar();
    return c != EOF;
  }

 private:
  bool on_request_;
  std::size_t left_;
};

// Anonymous memory, 2 MiB aligned, on huge pages or on 4 KiB pages.
class Memory {
 public:
  Memory(std::size_t size, bool huge) : mapped_(size + kHugePage) {
    void* p = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) Fail("mmap");
    base_ = static_cast<std::byte*>(p);
    madvise(base_, mapped_, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    const auto address = reinterpret_cast<std::uintptr_t>(base_);
    data_ = base_ + (kHugePage - address % kHugePage) % kHugePage;
  }
  ~Memory() { munmap(base_, mapped_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  std::byte* data() const { return data_; }

 private:
  std::size_t mapped_;
  std::byte* base_;
  std::byte* data_;
};

// xorshift: fast, and no disk or file system can compress it.
inline void FillRandom(std::byte* data, std::size_t size) {
  std::uint64_t state = 0x9E3779B97F4A7C15u;
  for (std::size_t i = 0; i + 8 <= size; i += 8) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    std::memcpy(data + i, &state, 8);
  }
}

// Calls work(offset, nbytes) for each piece of [0, total), on `threads` threads.
template <typename Work>
void ForPieces(std::size_t total, std::size_t piece, std::size_t threads, const Work& work) {
  std::atomic<std::size_t> next{0};
  const auto worker = [&] {
    for (;;) {
      const std::size_t begin = next.fetch_add(piece);
      if (begin >= total) return;
      work(begin, total - begin < piece ? total - begin : piece);
    }
  };
  std::vector<std::thread> pool;
  for (std::size_t i = 1; i < threads; ++i) pool.emplace_back(worker);
  worker();
  for (std::thread& thread : pool) thread.join();
}

inline void ReadExact(int fd, std::byte* out, std::size_t nbytes, std::size_t offset) {
  while (nbytes > 0) {
    const ssize_t n = pread(fd, out, nbytes, static_cast<off_t>(offset));
    if (n <= 0) Fail("pread");
    out += n;
    offset += static_cast<std::size_t>(n);
    nbytes -= static_cast<std::size_t>(n);
  }
}

inline void WriteExact(int fd, const std::byte* data, std::size_t nbytes, std::size_t offset) {
  while (nbytes > 0) {
    const ssize_t n = pwrite(fd, data, nbytes, static_cast<off_t>(offset));
    if (n <= 0) Fail("pwrite");
    data += n;
    offset += static_cast<std::size_t>(n);
    nbytes -= static_cast<std::size_t>(n);
  }
}

// Steps of a durable, atomic replacement: open a temporary file, ..., publish it.
inline int CreateTemporary(const std::string& path, std::size_t size, bool direct) {
  const std::string temporary = path + ".tmp";
  unlink(temporary.c_str());
  const int fd = open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | (direct ? O_DIRECT : 0), 0666);
  if (fd < 0) Fail("open " + temporary);
  if (posix_fallocate(fd, 0, static_cast<off_t>(size)) != 0) Fail("fallocate");
  return fd;
}

inline void Publish(int fd, const std::string& path, bool sync) {
  if (sync && fdatasync(fd) != 0) Fail("fdatasync");
  if (close(fd) != 0) Fail("close");
  if (rename((path + ".tmp").c_str(), path.c_str()) != 0) Fail("rename");
  if (!sync) return;
  const std::size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int dir = open(folder.c_str(), O_RDONLY | O_DIRECTORY);
  if (dir < 0 || fsync(dir) != 0) Fail("fsync " + folder);
  close(dir);
}

inline std::size_t FileSize(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0) Fail("fstat");
  return static_cast<std::size_t>(status.st_size);
}

// Wall and CPU seconds since it was made.
class Stopwatch {
 public:
  double wall() const { return Wall() - wall_; }
  double cpu() const { return Cpu() - cpu_; }

 private:
  static double Wall() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  static double Cpu() {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& t) {
      return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
    };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
  }
  double wall_ = Wall();
  double cpu_ = Cpu();
};

inline void Report(const char* program, const std::string& mode, std::size_t threads,
                   std::size_t bytes, double seconds, double cpu) {
  std::printf(
      "{\"program\": \"%s\", \"mode\": \"%s\", \"threads\": %zu, \"seconds\": %.6f, "
      "\"bytes\": %zu, \"gbps\": %.4f, \"cpu_s\": %.6f}\n",
      program, mode.c_str(), threads, seconds, bytes, static_cast<double>(bytes) / seconds / 1e9,
      cpu);
  std::fflush(stdout);
}

}  // namespace roofline

#endif  // WEIGHTLIFT_BENCH_ROOFLINE_H_
