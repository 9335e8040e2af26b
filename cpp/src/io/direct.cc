#include "io/direct.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <utility>

#include "base/checked.h"
#include "weightlift/error.h"

namespace weightlift {
namespace {

constexpr std::size_t kBounceBytes = std::size_t{1} << 20;
constexpr std::size_t kBounceAlignment = 4096;
// The bounce buffer fits no larger one, and none is seen in practice.
constexpr std::size_t kMaxAlignment = kBounceAlignment;
// One system call moves at most this: Linux stops a little short of 2 GiB, at an odd place.
constexpr std::size_t kMaxTransfer = std::size_t{1} << 30;

struct AlignedDelete {
  void operator()(std::byte* data) const noexcept {
    operator delete(data, std::align_val_t{kBounceAlignment});
  }
};

std::span<std::byte> BounceBuffer() {
  thread_local std::unique_ptr<std::byte, AlignedDelete> buffer;
  if (!buffer) {
    buffer.reset(
        static_cast<std::byte*>(operator new(kBounceBytes, std::align_val_t{kBounceAlignment})));
  }
  return {buffer.get(), kBounceBytes};
}

// Copies consecutive bytes into buffers, one after the other.
class Scatter {
 public:
  explicit Scatter(std::span<const std::span<std::byte>> outs) : outs_(outs) {}

  void Put(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const std::span<std::byte> left = outs_.front().subspan(filled_);
      const std::size_t count = std::min(left.size(), bytes.size());
      if (count != 0) std::memcpy(left.data(), bytes.data(), count);
      bytes = bytes.subspan(count);
      filled_ += count;
      if (filled_ == outs_.front().size()) {
        outs_ = outs_.subspan(1);
        filled_ = 0;
      }
    }
  }

 private:
  std::span<const std::span<std::byte>> outs_;
  std::size_t filled_ = 0;  // of the first
};

struct Alignments {
  std::size_t memory;
  std::size_t offset;
};

// nullopt: the file system says that it has no direct transfers for this file.
std::optional<Alignments> QueryAlignments(int fd) {
#ifdef STATX_DIOALIGN
  struct statx info = {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
      (info.stx_mask & STATX_DIOALIGN) != 0) {
    if (info.stx_dio_offset_align == 0 || info.stx_dio_mem_align == 0) return std::nullopt;
    return Alignments{info.stx_dio_mem_align, info.stx_dio_offset_align};
  }
#endif
  // Before Linux 6.1 nobody can say; this is enough for every device in use, and EINVAL tells.
  return Alignments{4096, 4096};
}

}  // namespace

DirectFile::DirectFile(UniqueFd fd, std::size_t memory_alignment,
                       std::size_t offset_alignment) noexcept
    : fd_(std::move(fd)),
      memory_alignment_(memory_alignment),
      offset_alignment_(offset_alignment) {}

std::unique_ptr<DirectFile> DirectFile::Reopen(int fd, int access) {
  // By descriptor, so that it is the same file even when its name is gone or names another.
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  UniqueFd direct(open(link.c_str(), access | O_DIRECT | O_CLOEXEC));
  if (!direct) return nullptr;
  const std::optional<Alignments> alignments = QueryAlignments(direct.get());
  if (!alignments || alignments->memory > kMaxAlignment || alignments->offset > kMaxAlignment) {
    return nullptr;
  }
  return std::unique_ptr<DirectFile>(
      new DirectFile(std::move(direct), alignments->memory, alignments->offset));
}

// Whether the whole blocks of the range would land on addresses that the device can write to.
bool DirectFile::InStep(std::uint64_t offset, std::span<const std::byte> out) const noexcept {
  const std::uint64_t to_block =
      (offset_alignment_ - offset % offset_alignment_) % offset_alignment_;
  const auto address = reinterpret_cast<std::uintptr_t>(out.data());
  return (address + to_block) % memory_alignment_ == 0 &&
         out.size() >= to_block + offset_alignment_;
}

std::size_t DirectFile::Read(std::uint64_t offset, std::span<const std::span<std::byte>> outs,
                             const std::string& path) {
  if (outs.size() == 1 && InStep(offset, outs.front())) {
    return ReadInPlace(offset, outs.front(), path);
  }
  return ReadBounced(offset, outs, path);
}

// The blocks at the two ends through the bounce buffer and all between in place, in one call.
std::size_t DirectFile::ReadInPlace(std::uint64_t offset, std::span<std::byte> out,
                                    const std::string& path) {
  const std::size_t align = offset_alignment_;
  const std::span<std::byte> bounce = BounceBuffer();
  std::byte* const tail_block = bounce.data() + kMaxAlignment;
  std::size_t done = 0;
  while (done < out.size() && usable()) {
    const std::uint64_t at = offset + done;
    const std::span<std::byte> left = out.subspan(done);
    const auto before =
        static_cast<std::size_t>(at % align);  // bytes of the first block not wanted
    const std::size_t head = before == 0 ? 0 : std::min(align - before, left.size());
    const std::size_t body = std::min(AlignDown(left.size() - head, align), kMaxTransfer);
    const std::size_t rest = left.size() - head - body;
    const std::size_t tail = rest < align ? rest : 0;

    std::array<iovec, 3> parts;
    int count = 0;
    const auto add = [&](std::byte* data, std::size_t size) {
      if (size != 0) parts[static_cast<std::size_t>(count++)] = {data, size};
    };
    add(bounce.data(), head != 0 ? align : 0);
    add(left.data() + head, body);
    add(tail_block, tail != 0 ? align : 0);
    const ssize_t result = preadv(fd_.get(), parts.data(), count, static_cast<off_t>(at - before));
    if (result < 0) {
      if (errno == EINTR) continue;
      if (errno == EINVAL) {
        usable_.store(false);
        break;
      }
      throw SystemError(errno, "read", {.path = path, .begin = at, .end = offset + out.size()});
    }
    const auto got = static_cast<std::size_t>(result);
    const std::size_t useful = std::min(got - std::min(got, before), head + body + tail);
    std::memcpy(left.data(), bounce.data() + before, std::min(head, useful));
    if (useful > head + body) {
      std::memcpy(left.data() + head + body, tail_block, useful - head - body);
    }
    done += useful;
    if (useful < head + body + tail) break;  // the end of the file, or nearly
  }
  return done;
}

std::size_t DirectFile::ReadBounced(std::uint64_t offset,
                                    std::span<const std::span<std::byte>> outs,
                                    const std::string& path) {
  const std::size_t align = offset_alignment_;
  const std::span<std::byte> bounce = BounceBuffer();
  std::size_t total = 0;
  for (const std::span<std::byte> out : outs) total += out.size();
  Scatter scatter(outs);
  std::size_t done = 0;
  while (done < total && usable()) {
    const std::uint64_t at = offset + done;
    const auto before = static_cast<std::size_t>(at % align);
    const std::size_t wanted = std::min(total - done, bounce.size() - before);
    const std::size_t length = AlignDown(before + wanted + align - 1, align);
    const ssize_t result = pread(fd_.get(), bounce.data(), length, static_cast<off_t>(at - before));
    if (result < 0) {
      if (errno == EINTR) continue;
      if (errno == EINVAL) {
        usable_.store(false);
        break;
      }
      throw SystemError(errno, "read", {.path = path, .begin = at, .end = offset + total});
    }
    const auto got = static_cast<std::size_t>(result);
    const std::size_t useful = std::min(got - std::min(got, before), wanted);
    scatter.Put(bounce.subspan(before, useful));
    done += useful;
    if (useful < wanted) break;
  }
  return done;
}

std::size_t DirectFile::Write(std::uint64_t offset, std::span<const std::byte> data,
                              const std::string& path) {
  std::size_t done = 0;
  while (done < data.size() && usable()) {
    const ssize_t put =
        pwrite(fd_.get(), data.data() + done, std::min(data.size() - done, kMaxTransfer),
               static_cast<off_t>(offset + done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno == EINVAL) {
      usable_.store(false);
      break;
    }
    if (put <= 0) {
      throw SystemError(put < 0 ? errno : EIO, "write",
                        {.path = path, .begin = offset + done, .end = offset + data.size()});
    }
    done += static_cast<std::size_t>(put);
    // A short write that ends off the grid leaves a rest that the device would refuse.
    if (done % offset_alignment_ != 0) break;
  }
  return done;
}

}  // namespace weightlift
