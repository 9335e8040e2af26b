#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "base/checked.h"
#include "io/positional.h"
#include "io/unique_fd.h"
#include "weightlift/error.h"
#include "weightlift/writer.h"

namespace weightlift {
namespace {

class LocalFileWriter final : public FileWriter {
 public:
  LocalFileWriter(std::string path, std::uint64_t size, const FileWriterOptions& options)
      : path_(std::move(path)), temporary_(path_ + ".wltmp"), size_(size), options_(options) {
    fd_ = UniqueFd(open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (!fd_) throw SystemError(errno, "create", {.path = path_});
  }
  ~LocalFileWriter() override { Abort(); }

  const std::string& name() const noexcept override { return path_; }
  std::size_t direct_alignment() const noexcept override { return 0; }

  void WriteAt(std::uint64_t offset, std::span<const std::byte> data) override {
    if (!FitsInside(offset, data.size(), size_)) {
      throw Error(ErrorCode::kInvalidArgument, "write beyond the declared size", {.path = path_});
    }
    WriteFully(fd_.get(), offset, data, path_);
  }
  void Sync() override {
    if (fdatasync(fd_.get()) != 0) throw SystemError(errno, "sync", {.path = path_});
  }
  void Commit() override {
    if (ftruncate(fd_.get(), static_cast<off_t>(size_)) != 0) {
      throw SystemError(errno, "resize", {.path = path_});
    }
    if (options_.durable) Sync();
    if (rename(temporary_.c_str(), path_.c_str()) != 0) {
      throw SystemError(errno, "rename", {.path = path_});
    }
    fd_.reset();
  }
  void Abort() noexcept override {
    if (fd_) unlink(temporary_.c_str());
    fd_.reset();
  }

 private:
  const std::string path_;
  const std::string temporary_;
  const std::uint64_t size_;
  const FileWriterOptions options_;
  UniqueFd fd_;
};

}  // namespace

std::shared_ptr<FileWriter> FileWriter::Create(const std::string& path, std::uint64_t size,
                                               const FileWriterOptions& options) {
  return std::make_shared<LocalFileWriter>(path, size, options);
}

}  // namespace weightlift
