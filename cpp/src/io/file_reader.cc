#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <utility>
#include <vector>

#include "base/checked.h"
#include "io/direct.h"
#include "io/file_info.h"
#include "io/page_cache_probe.h"
#include "io/positional.h"
#include "io/unique_fd.h"
#include "weightlift/error.h"
#include "weightlift/reader.h"

namespace weightlift {
namespace {

struct stat StatOf(int fd, const std::string& path) {
  struct stat info = {};
  if (fstat(fd, &info) != 0) throw SystemError(errno, "stat", {.path = path});
  return info;
}

class Mapping final : public MappedFile {
 public:
  Mapping(void* data, std::size_t size) : data_(static_cast<std::byte*>(data)), size_(size) {}
  ~Mapping() override {
    if (size_ != 0) munmap(data_, size_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::span<const std::byte> bytes() const noexcept override { return {data_, size_}; }

 private:
  std::byte* data_;
  std::size_t size_;
};

// What the default mode goes by (bench/residency). A read of cached bytes costs a copy, a direct
// read costs the device's time for all of them, and each hole in what is cached costs a wait of its
// own: so a stretch is read directly unless nearly all of it is cached. Asking is a system call:
// small reads are not asked about, and a large range is asked about in steps, then finer only where
// it is mixed.
constexpr std::uint64_t kSmallRead = 256 << 10;
constexpr std::uint64_t kStep = 16 << 20;
constexpr std::uint64_t kFineStep = 1 << 20;
constexpr double kAllCached = 0.98;
constexpr double kNoneCached = 0.02;
constexpr double kWorthCopying = 0.9;  // of a fine step

// A stretch of a file and how to read it.
struct Cut {
  std::uint64_t begin;
  std::uint64_t end;
  bool direct;
};

// Cuts of a file range in order; neighbours that are read the same way become one.
class Cuts {
 public:
  void Add(const Cut& cut) {
    if (!cuts_.empty() && cuts_.back().direct == cut.direct) {
      cuts_.back().end = cut.end;
    } else {
      cuts_.push_back(cut);
    }
  }
  auto begin() const { return cuts_.begin(); }
  auto end() const { return cuts_.end(); }

 private:
  std::vector<Cut> cuts_;
};

// The end of the step that `offset` is in: steps are aligned, so that no cut starts inside a block.
std::uint64_t StepEnd(std::uint64_t offset, std::uint64_t step, std::uint64_t end) {
  return std::min(AlignDown(offset, step) + step, end);
}

// Whether a short stretch is better read directly; not where the system cannot tell.
bool HasHoles(const PageCacheProbe& probe, std::uint64_t offset, std::uint64_t nbytes) {
  const double cached = probe.CachedFraction(offset, nbytes);
  return cached >= 0 && cached < kWorthCopying;
}

Cuts CutByResidency(const PageCacheProbe& probe, std::uint64_t offset, std::uint64_t end) {
  Cuts cuts;
  while (offset < end) {
    const std::uint64_t step_end = StepEnd(offset, kStep, end);
    const double cached = probe.CachedFraction(offset, step_end - offset);
    if (cached < 0 || cached >= kAllCached || cached <= kNoneCached) {
      cuts.Add({offset, step_end, cached >= 0 && cached <= kNoneCached});
      offset = step_end;
    }
    while (offset < step_end) {
      const std::uint64_t fine_end = StepEnd(offset, kFineStep, step_end);
      cuts.Add({offset, fine_end, HasHoles(probe, offset, fine_end - offset)});
      offset = fine_end;
    }
  }
  return cuts;
}

class LocalFileReader final : public FileReader {
 public:
  LocalFileReader(UniqueFd fd, const struct stat& info, std::string path, ReadMode mode)
      : fd_(std::move(fd)),
        probe_(fd_.get()),
        path_(std::move(path)),
        mode_(mode),
        size_(static_cast<std::uint64_t>(info.st_size)),
        device_(info.st_dev),
        inode_(info.st_ino),
        mtime_ns_(MtimeNs(info)),
        on_network_(OnNetwork(fd_.get())) {}

  std::uint64_t size() const noexcept override { return size_; }
  const std::string& name() const noexcept override { return path_; }
  bool on_network() const noexcept override { return on_network_; }
  std::uint64_t device() const noexcept override { return device_; }
  std::uint64_t inode() const noexcept override { return inode_; }
  std::int64_t mtime_ns() const noexcept override { return mtime_ns_; }

  void ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    CheckRange(*this, offset, out.size());
    if (!ReadsDirect(out.size())) {
      ReadFully(fd_.get(), offset, out, path_);
      return;
    }
    const std::uint64_t end = offset + out.size();
    Cuts cuts;
    if (mode_ == ReadMode::kDirect) {
      cuts.Add({offset, end, true});
    } else {
      cuts = CutByResidency(probe_, offset, end);
    }
    for (Cut cut : cuts) {
      std::span<std::byte> part = out.subspan(cut.begin - offset, cut.end - cut.begin);
      if (cut.direct) part = part.subspan(direct_->Read(cut.begin, {&part, 1}, path_));
      ReadFully(fd_.get(), cut.end - part.size(), part, path_);
    }
  }

  void ReadScatter(std::uint64_t offset,
                   std::span<const std::span<std::byte>> outs) const override {
    std::uint64_t nbytes = 0;
    for (const std::span<std::byte> out : outs) nbytes += out.size();
    CheckRange(*this, offset, nbytes);
    if (ReadsDirect(nbytes) && (mode_ == ReadMode::kDirect || HasHoles(probe_, offset, nbytes))) {
      std::size_t done = direct_->Read(offset, outs, path_);
      if (done == nbytes) return;
      std::vector<std::span<std::byte>> rest(outs.begin(), outs.end());
      for (std::span<std::byte>& out : rest) {
        const std::size_t filled = std::min(done, out.size());
        out = out.subspan(filled);
        offset += filled;
        done -= filled;
      }
      ReadFullyScattered(fd_.get(), offset, rest, path_);
      return;
    }
    ReadFullyScattered(fd_.get(), offset, outs, path_);
  }

  void CheckUnchanged() const override {
    const struct stat now = StatOf(fd_.get(), path_);
    if (static_cast<std::uint64_t>(now.st_size) == size_ && MtimeNs(now) == mtime_ns_) return;
    throw Error(ErrorCode::kChanged, "the file changed while it was read", {.path = path_});
  }

  void WillNeed(std::uint64_t offset, std::uint64_t nbytes) const override {
    posix_fadvise(fd_.get(), static_cast<off_t>(offset), static_cast<off_t>(nbytes),
                  POSIX_FADV_WILLNEED);
  }

  double Residency(std::uint64_t offset, std::uint64_t nbytes) const override {
    CheckRange(*this, offset, nbytes);
    return probe_.CachedFraction(offset, nbytes);
  }

  std::shared_ptr<MappedFile> Map() const override {
    CheckUnchanged();
    if (size_ == 0) return std::make_shared<Mapping>(nullptr, 0);
    void* const at = mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd_.get(), 0);
    if (at == MAP_FAILED) throw SystemError(errno, "map", {.path = path_});
    auto mapping = std::make_shared<Mapping>(at, size_);
    // What was cut off before or meanwhile would be SIGBUS at the first touch.
    CheckUnchanged();
    return mapping;
  }

 private:
  // Whether a read of this size may go direct; opens the descriptor for it when first needed.
  bool ReadsDirect(std::uint64_t nbytes) const {
    if (mode_ == ReadMode::kBuffered) return false;
    if (mode_ == ReadMode::kAuto && (on_network_ || nbytes <= kSmallRead)) return false;
    std::call_once(direct_once_, [this] { direct_ = DirectFile::Reopen(fd_.get(), O_RDONLY); });
    return direct_ && direct_->usable();
  }

  const UniqueFd fd_;
  const PageCacheProbe probe_;
  const std::string path_;
  const ReadMode mode_;
  const std::uint64_t size_;
  const std::uint64_t device_;
  const std::uint64_t inode_;
  const std::int64_t mtime_ns_;
  const bool on_network_;
  mutable std::once_flag direct_once_;
  mutable std::unique_ptr<DirectFile> direct_;
};

}  // namespace

std::shared_ptr<FileReader> FileReader::Open(const std::string& path, ReadMode mode) {
  // Without O_NONBLOCK, opening a FIFO would wait for a writer.
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) throw SystemError(errno, "open", {.path = path});
  const struct stat info = StatOf(fd.get(), path);
  if (!S_ISREG(info.st_mode)) {
    throw Error(ErrorCode::kFormat, "not a regular file: " + std::string(FileKind(info.st_mode)),
                {.path = path});
  }
  return std::make_shared<LocalFileReader>(std::move(fd), info, path, mode);
}

}  // namespace weightlift
