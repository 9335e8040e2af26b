// Sources and targets that misbehave as told, for the tests of plan execution.
#ifndef WEIGHTLIFT_TESTS_PLAN_FAKES_H_
#define WEIGHTLIFT_TESTS_PLAN_FAKES_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "weightlift/error.h"
#include "weightlift/plan.h"

namespace weightlift::fakes {

inline std::vector<std::byte> RandomBytes(std::size_t n, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(n);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// Memory as a file, cached to any degree, or as a stream; reads that touch a bad byte fail.
class FakeReader final : public FileReader {
 public:
  explicit FakeReader(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}

  std::uint64_t size() const noexcept override { return bytes_.size(); }
  const std::string& name() const noexcept override { return name_; }
  void ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    ++calls;
    CheckRange(*this, offset, out.size());
    for (const std::uint64_t bad : bad_bytes) {
      if (bad >= offset && bad < offset + out.size()) {
        throw Error(ErrorCode::kStorage, "cannot read byte " + std::to_string(bad));
      }
    }
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
  }
  bool Streams() const noexcept override { return streams; }
  // In pieces of any size, by one way and the other; up to the first bad byte.
  void ReadStream(std::uint64_t offset, std::uint64_t nbytes, StreamSink& sink) const override {
    if (!streams) return FileReader::ReadStream(offset, nbytes, sink);
    std::mt19937 random(static_cast<std::uint32_t>(offset));
    const std::uint64_t end = offset + nbytes;
    std::uint64_t good = end;
    for (const std::uint64_t bad : bad_bytes) {
      if (bad >= offset) good = std::min(good, bad);
    }
    while (offset < good) {
      std::uint64_t n = std::min<std::uint64_t>(1 + random() % 700, good - offset);
      const std::byte* const from = bytes_.data() + offset;
      if (random() % 4 == 0) {
        const std::span<std::byte> room = sink.Room();
        n = std::min<std::uint64_t>(n, room.size());
        std::memcpy(room.data(), from, n);
        sink.Filled(n);
      } else {
        sink.Put({from, n});
      }
      offset += n;
    }
    if (good < end) throw Error(ErrorCode::kStorage, "cannot read byte " + std::to_string(good));
  }
  void CheckUnchanged() const override {
    if (changed) throw Error(ErrorCode::kChanged, "changed");
  }

  double Residency(std::uint64_t, std::uint64_t) const override { return cached; }
  std::shared_ptr<MappedFile> Map() const override { return nullptr; }
  bool on_network() const noexcept override { return false; }
  std::uint64_t device() const noexcept override { return 0; }
  std::uint64_t inode() const noexcept override { return 0; }
  std::int64_t mtime_ns() const noexcept override { return 0; }

  std::vector<std::byte>& bytes() { return bytes_; }
  double cached = 1;
  bool streams = false;
  std::vector<std::uint64_t> bad_bytes;
  bool changed = false;
  mutable std::atomic<int> calls{0};

 private:
  std::vector<std::byte> bytes_;
  std::string name_ = "fake";
};

// A file in memory, filled with 0xEE, that remembers which bytes were written how often.
class FakeWriter final : public Writer {
 public:
  explicit FakeWriter(std::size_t size, std::size_t alignment = 0)
      : bytes(size, std::byte{0xEE}), times(size), alignment_(alignment) {}

  const std::string& name() const noexcept override { return name_; }
  std::size_t direct_alignment() const noexcept override { return alignment_; }
  void WriteAt(std::uint64_t offset, std::span<const std::byte> data) override {
    const std::lock_guard lock(mutex_);
    if (offset > bytes.size() || data.size() > bytes.size() - offset) {
      throw Error(ErrorCode::kInvalidArgument, "a write beyond the end");
    }
    if (bad_byte >= offset && bad_byte < offset + data.size()) {
      throw Error(ErrorCode::kStorage, "cannot write", {}, 28);
    }
    std::copy(data.begin(), data.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset));
    for (std::size_t i = offset; i < offset + data.size(); ++i) ++times[i];
    sources.push_back(data.data());
  }
  void Sync() override {}
  void Commit() override {}
  void Abort() noexcept override {}

  std::vector<std::byte> bytes;
  std::vector<int> times;
  std::vector<const std::byte*> sources;  // where each write came from
  std::uint64_t bad_byte = std::numeric_limits<std::uint64_t>::max();

 private:
  std::mutex mutex_;
  std::string name_ = "fake";
  const std::size_t alignment_;
};

class FakeMonitor final : public Monitor {
 public:
  explicit FakeMonitor(std::function<void(std::uint64_t, std::uint64_t)> tick)
      : tick_(std::move(tick)) {}
  void Tick(std::uint64_t done, std::uint64_t total) override { tick_(done, total); }

 private:
  std::function<void(std::uint64_t, std::uint64_t)> tick_;
};

// The Error that run() throws; fails the test by throwing something else if there is none.
template <typename Run>
Error ErrorOf(const Run& run) {
  try {
    run();
  } catch (const Error& error) {
    return error;
  }
  throw std::logic_error("no error was thrown");
}

}  // namespace weightlift::fakes

#endif  // WEIGHTLIFT_TESTS_PLAN_FAKES_H_
