#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <utility>

#include "base/checked.h"
#include "io/direct.h"
#include "io/file_info.h"
#include "io/positional.h"
#include "io/residency.h"
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

// What the default mode goes by. Asking costs a system call, so small reads are not asked about; a
// range is judged in cuts of kJudged, aligned in the file so that no cut has an end inside a block.
constexpr std::size_t kSmallRead = std::size_t{256} << 10;
constexpr std::size_t kJudged = std::size_t{16} << 20;
constexpr std::size_t kFinest = std::size_t{1} << 20;

class LocalFileReader final : public FileReader {
 public:
  LocalFileReader(UniqueFd fd, const struct stat& info, std::string path, ReadMode mode)
      : fd_(std::move(fd)),
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
    ForEachCut(offset, out.size(), [&](std::uint64_t begin, std::size_t nbytes, bool direct) {
      std::span<std::byte> part = out.subspan(static_cast<std::size_t>(begin - offset), nbytes);
      if (direct) {
        const std::size_t done = direct_->Read(begin, {&part, 1}, path_);
        part = part.subspan(done);
        begin += done;
      }
      ReadFully(fd_.get(), begin, part, path_);
    });
  }

  void ReadScatter(std::uint64_t offset,
                   std::span<const std::span<std::byte>> outs) const override {
    std::uint64_t nbytes = 0;
    for (const std::span<std::byte> out : outs) nbytes += out.size();
    CheckRange(*this, offset, nbytes);
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
    return CachedFraction(fd_.get(), offset, nbytes);
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
  // Calls read(begin, nbytes, direct) for consecutive cuts of the range.
  template <typename Read>
  void ForEachCut(std::uint64_t offset, std::size_t nbytes, const Read& read) const {
    if (mode_ == ReadMode::kBuffered || (mode_ == ReadMode::kAuto && nbytes < kSmallRead) ||
        !CanReadDirect()) {
      read(offset, nbytes, false);
      return;
    }
    while (nbytes != 0) {
      const std::size_t cut = std::min(nbytes, kJudged - static_cast<std::size_t>(offset % kJudged));
      if (mode_ == ReadMode::kDirect) {
        read(offset, cut, true);
      } else {
        Judge(offset, cut, read);
      }
      offset += cut;
      nbytes -= cut;
    }
  }

  template <typename Read>
  void Judge(std::uint64_t offset, std::size_t nbytes, const Read& read) const {
    const double cached = CachedFraction(fd_.get(), offset, nbytes);
    static const double hi = getenv("HI") ? atof(getenv("HI")) : 0.9;
    static const double lo = getenv("LO") ? atof(getenv("LO")) : 0.1;
    static const double mid = getenv("MID") ? atof(getenv("MID")) : 0.5;
    if (cached < 0 || cached >= hi) {
      read(offset, nbytes, false);
    } else if (cached <= lo) {
      read(offset, nbytes, true);
    } else if (nbytes <= kFinest) {
      read(offset, nbytes, cached < mid);
    } else {
      const std::size_t half = AlignDown(nbytes / 2 + kFinest - 1, kFinest);
      Judge(offset, half, read);
      Judge(offset + half, nbytes - half, read);
    }
  }

  bool CanReadDirect() const {
    std::call_once(direct_once_, [this] {
      if (mode_ == ReadMode::kDirect || !on_network_) direct_ = DirectFile::Reopen(fd_.get(), O_RDONLY);
    });
    return direct_ && direct_->usable();
  }

  const UniqueFd fd_;
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
