// The protocol is in weightlift/writer.h; what the file is before it has its name is in
// io/temporary_file.h.
//
// Direct and buffered writes of one file are kept apart by whole pages: only whole, aligned pages
// go direct, and the rest of a range, less than a page at each end, goes through the page cache. So
// no page is ever written both ways, whatever ranges the callers choose.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/checked.h"
#include "base/thread_pool.h"
#include "io/direct.h"
#include "io/file_info.h"
#include "io/positional.h"
#include "io/replaced_file.h"
#include "io/target_path.h"
#include "io/temporary_file.h"
#include "io/unique_fd.h"
#include "weightlift/error.h"
#include "weightlift/writer.h"

namespace weightlift {
namespace {

// Below this a direct write waits for the device more than it saves in copying.
constexpr std::uint64_t kSmallFile = 1 << 20;
// Buffered bytes of a durable file are sent to the device once this many have been written, so that
// the device works while the rest is still being made.
constexpr std::size_t kWritebackBytes = 1 << 20;

// Syncs at the same time share the file system's commits and the device's flushes.
constexpr int kSyncThreads = 8;

constexpr mode_t kPermissionBits = 07777;

// Adds the path to an Error that was made where it was not known.
template <typename Function>
auto WithPath(const std::string& path, const Function& function) {
  try {
    return function();
  } catch (Error& error) {
    error.place().path = path;
    throw;
  }
}

UniqueFd OpenDirectory(const std::string& directory, const std::string& path) {
  UniqueFd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) throw SystemError(errno, "open the directory " + directory, {.path = path});
  return fd;
}

// What the target is now; nullopt: nothing. Throws where it cannot be replaced.
std::optional<struct stat> StatTarget(int directory, const std::string& name,
                                      const std::string& path) {
  struct stat info = {};
  if (fstatat(directory, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return std::nullopt;
    throw SystemError(errno, "stat", {.path = path});
  }
  if (!S_ISREG(info.st_mode)) {
    throw Error(ErrorCode::kStorage,
                "cannot write: the target is " + std::string(FileKind(info.st_mode)),
                {.path = path}, S_ISDIR(info.st_mode) ? EISDIR : 0);
  }
  // Renaming over a write-protected file would work; that it is protected is still to be respected.
  if (faccessat(directory, name.c_str(), W_OK, AT_EACCESS) != 0) {
    throw SystemError(errno, "replace", {.path = path});
  }
  return info;
}

// Gives `fd` the permission bits of `old` and, as far as we may, its owner. Where the group cannot
// be kept, the new group gets no more than everybody has.
void TakeOver(int fd, const struct stat& old) {
  mode_t mode = old.st_mode & kPermissionBits;
  if (fchown(fd, old.st_uid, old.st_gid) != 0) {
    mode &= 0777;
    if (fchown(fd, static_cast<uid_t>(-1), old.st_gid) != 0) {
      mode &= static_cast<mode_t>(~070) | ((mode & 07) << 3);
    }
  }
  if (fchmod(fd, mode) != 0) throw SystemError(errno, "set the permissions");
}

// Makes room for `size` bytes, or at least sets the size where the file system cannot promise room.
void Preallocate(int fd, std::uint64_t size) {
  if (size == 0) return;
  const auto length = static_cast<off_t>(size);
  if (length < 0) throw SystemError(EFBIG, "allocate " + std::to_string(size) + " bytes");
  bool waited = false;
  while (fallocate(fd, 0, 0, length) != 0) {
    if (errno == EINTR) continue;
    if (errno == ENOSPC && !std::exchange(waited, true)) {
      AwaitReplacedFiles();
      continue;
    }
    if (errno != EOPNOTSUPP && errno != ENOSYS) {
      throw SystemError(errno, "allocate " + std::to_string(size) + " bytes");
    }
    if (ftruncate(fd, length) != 0) throw SystemError(errno, "set the size");
    return;
  }
}

class LocalFileWriter final : public FileWriter {
 public:
  LocalFileWriter(const std::string& path, std::uint64_t size, const FileWriterOptions& options)
      : path_(path), size_(size), durable_(options.durable) {
    const TargetPath target = ResolveTarget(path);
    directory_ = OpenDirectory(target.directory, path);
    const std::optional<struct stat> old = StatTarget(directory_.get(), target.name, path);
    CollectLitter(directory_.get(), target.name);
    WithPath(path_, [&] {
      file_ = std::make_unique<TemporaryFile>(directory_.get(), target.name,
                                              static_cast<mode_t>(old ? 0600 : 0666));
      Preallocate(file_->fd(), size);
      OpenDirect(options.mode);
      if (old) TakeOver(file_->fd(), *old);
    });
  }

  const std::string& name() const noexcept override { return path_; }
  std::size_t direct_alignment() const noexcept override {
    return direct_ && direct_->usable() ? direct_alignment_ : 0;
  }

  // Pages of the file from memory of any address that the device can reach: for most it need not be
  // a page's.
  bool GoesDirect(std::uint64_t offset, std::span<const std::byte> data) const noexcept override {
    const std::size_t align = direct_alignment();
    if (align == 0) return false;
    const auto address = reinterpret_cast<std::uintptr_t>(data.data());
    return (address + ToGrid(offset, align)) % direct_->memory_alignment() == 0;
  }

  void WriteAt(std::uint64_t offset, std::span<const std::byte> data) override {
    if (!FitsInside(offset, data.size(), size_)) {
      throw Error(ErrorCode::kInvalidArgument,
                  "cannot write " + std::to_string(data.size()) + " bytes at " +
                      std::to_string(offset) + " of a file of " + std::to_string(size_),
                  {.path = path_});
    }
    if (!file_) throw Error(ErrorCode::kInvalidArgument, "the file is closed", {.path = path_});
    try {
      WriteBoth(offset, data);
    } catch (...) {
      failed_.store(true);
      throw;
    }
  }

  void Truncate(std::uint64_t size) override {
    if (!file_ || size > size_) {
      throw Error(
          ErrorCode::kInvalidArgument,
          "cannot cut to " + std::to_string(size) + " bytes a file of " + std::to_string(size_),
          {.path = path_});
    }
    if (ftruncate(file_->fd(), static_cast<off_t>(size)) != 0) {
      throw SystemError(errno, "set the size", {.path = path_});
    }
    size_ = size;
  }

  void Sync() override {
    if (!file_) throw Error(ErrorCode::kInvalidArgument, "the file is closed", {.path = path_});
    SyncDescriptor(file_->fd());
  }

  void Commit() override {
    try {
      Finish();
      Publish();
      SyncDirectory();
    } catch (...) {
      Abort();
      throw;
    }
  }

  void Abort() noexcept override {
    direct_.reset();
    file_.reset();
    finished_.reset();
  }

  // The steps of Commit, once and in this order. First: nothing can be written any more, and what
  // was written is durable.
  void Finish() {
    if (!file_) throw Error(ErrorCode::kInvalidArgument, "the file is closed", {.path = path_});
    finished_ = std::move(file_);
    direct_.reset();
    if (failed_.load()) {
      throw Error(ErrorCode::kInvalidArgument, "cannot commit: a write has failed",
                  {.path = path_});
    }
    if (durable_) SyncDescriptor(finished_->fd());
  }

  // Under the target's name; durably so once the directory has been synced.
  void Publish() {
    WithPath(path_, [&] { finished_->Publish(); });
    finished_.reset();
  }

  void SyncDirectory() const {
    // EINVAL: a file system whose directories need no sync.
    if (durable_ && fsync(directory_.get()) != 0 && errno != EINVAL) {
      throw SystemError(errno, "sync the directory", {.path = path_});
    }
  }

  // Two writers of one directory have the same.
  std::pair<dev_t, ino_t> DirectoryIdentity() const {
    struct stat info = {};
    if (fstat(directory_.get(), &info) != 0) throw SystemError(errno, "stat", {.path = path_});
    return {info.st_dev, info.st_ino};
  }

 private:
  // Bytes from `offset` to the next multiple of `align`.
  static std::size_t ToGrid(std::uint64_t offset, std::size_t align) {
    return static_cast<std::size_t>((align - offset % align) % align);
  }

  void OpenDirect(WriteMode mode) {
    if (mode == WriteMode::kBuffered) return;
    const int fd = file_->fd();
    if (mode == WriteMode::kAuto &&
        (!durable_ || size_ < kSmallFile || OnNetwork(fd) || InMemory(fd))) {
      return;
    }
    direct_ = DirectFile::Reopen(fd, O_RDWR);
    if (!direct_) return;
    direct_alignment_ = std::max({direct_->memory_alignment(), direct_->offset_alignment(),
                                  static_cast<std::size_t>(sysconf(_SC_PAGESIZE))});
  }

  void WriteBoth(std::uint64_t offset, std::span<const std::byte> data) {
    if (!GoesDirect(offset, data)) {
      WriteBuffered(offset, data);
      return;
    }
    const std::size_t align = direct_alignment_;
    const std::size_t head = std::min(ToGrid(offset, align), data.size());
    const std::size_t body = AlignDown(data.size() - head, align);
    if (body == 0) {
      WriteBuffered(offset, data);
      return;
    }
    WriteBuffered(offset, data.first(head));
    const std::size_t done = direct_->Write(offset + head, data.subspan(head, body), path_);
    WriteBuffered(offset + head + done, data.subspan(head + done));
  }

  void WriteBuffered(std::uint64_t offset, std::span<const std::byte> data) {
    WriteFully(file_->fd(), offset, data, path_);
    if (durable_ && data.size() >= kWritebackBytes) {
      // Only starts the transfer; what fails is told by fdatasync.
      sync_file_range(file_->fd(), static_cast<off_t>(offset), static_cast<off_t>(data.size()),
                      SYNC_FILE_RANGE_WRITE);
    }
  }

  void SyncDescriptor(int fd) {
    while (fdatasync(fd) != 0) {
      if (errno != EINTR) throw SystemError(errno, "sync", {.path = path_});
    }
  }

  const std::string path_;
  std::uint64_t size_;
  const bool durable_;
  UniqueFd directory_;
  std::unique_ptr<TemporaryFile> file_;      // nullptr: finished or aborted
  std::unique_ptr<TemporaryFile> finished_;  // complete, not published yet
  std::unique_ptr<DirectFile> direct_;
  std::size_t direct_alignment_ = 0;
  std::atomic<bool> failed_{false};
};

}  // namespace

std::shared_ptr<FileWriter> FileWriter::Create(const std::string& path, std::uint64_t size,
                                               const FileWriterOptions& options) {
  return std::make_shared<LocalFileWriter>(path, size, options);
}

void RenameOver(const std::string& from, const std::string& to) {
  const ReplacedFile old(AT_FDCWD, to);
  if (rename(from.c_str(), to.c_str()) != 0) throw SystemError(errno, "rename", {.path = from});
}

void RemoveFile(const std::string& path) {
  const ReplacedFile old(AT_FDCWD, path);
  if (unlink(path.c_str()) != 0) throw SystemError(errno, "remove", {.path = path});
}

void FileWriter::CommitAll(std::span<const std::shared_ptr<FileWriter>> writers) {
  std::vector<LocalFileWriter*> files;
  for (const std::shared_ptr<FileWriter>& writer : writers) {
    files.push_back(dynamic_cast<LocalFileWriter*>(writer.get()));
    if (files.back() == nullptr) throw Error(ErrorCode::kInvalidArgument, "a writer is missing");
  }
  try {
    RunTasks(files.size(), [&](std::size_t i, int) { files[i]->Finish(); },
             {.threads = kSyncThreads, .on_calling_thread = false, .tick = nullptr});
    for (LocalFileWriter* const file : files) file->Publish();
    std::set<std::pair<dev_t, ino_t>> synced;
    for (const LocalFileWriter* const file : files) {
      if (synced.insert(file->DirectoryIdentity()).second) file->SyncDirectory();
    }
  } catch (...) {
    for (LocalFileWriter* const file : files) file->Abort();
    throw;
  }
}

}  // namespace weightlift
