#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

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

class LocalFileReader final : public FileReader {
 public:
  LocalFileReader(UniqueFd fd, const struct stat& info, std::string path)
      : fd_(std::move(fd)),
        path_(std::move(path)),
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
    ReadFully(fd_.get(), offset, out, path_);
  }

  void ReadScatter(std::uint64_t offset,
                   std::span<const std::span<std::byte>> outs) const override {
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
  const UniqueFd fd_;
  const std::string path_;
  const std::uint64_t size_;
  const std::uint64_t device_;
  const std::uint64_t inode_;
  const std::int64_t mtime_ns_;
  const bool on_network_;
};

}  // namespace

std::shared_ptr<FileReader> FileReader::Open(const std::string& path, ReadMode /*mode*/) {
  // Without O_NONBLOCK, opening a FIFO would wait for a writer.
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) throw SystemError(errno, "open", {.path = path});
  const struct stat info = StatOf(fd.get(), path);
  if (!S_ISREG(info.st_mode)) {
    throw Error(ErrorCode::kFormat, "not a regular file: " + std::string(FileKind(info.st_mode)),
                {.path = path});
  }
  return std::make_shared<LocalFileReader>(std::move(fd), info, path);
}

}  // namespace weightlift
