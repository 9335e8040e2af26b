// What the tests of file writers share.
#ifndef WEIGHTLIFT_TESTS_WRITER_SUPPORT_H_
#define WEIGHTLIFT_TESTS_WRITER_SUPPORT_H_

#include <sys/stat.h>

#include <cerrno>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "check.h"
#include "faults.h"
#include "temp_dir.h"
#include "weightlift/buffer.h"
#include "weightlift/error.h"
#include "weightlift/writer.h"

namespace writer_support {

using weightlift::Buffer;
using weightlift::Error;
using weightlift::ErrorCode;
using weightlift::FileWriter;
using weightlift::FileWriterOptions;
using weightlift::WriteMode;

inline constexpr std::size_t kMiB = 1 << 20;
inline constexpr WriteMode kModes[] = {WriteMode::kAuto, WriteMode::kBuffered, WriteMode::kDirect};
using Names = std::vector<std::string>;

inline void Save(const std::string& path, const Bytes& bytes,
                 const FileWriterOptions& options = {}) {
  const auto writer = FileWriter::Create(path, bytes.size(), options);
  writer->WriteAt(0, bytes);
  writer->Commit();
}

// The code and errno of the Error that `body` throws, with the path checked; {} when it throws
// none.
struct Failure {
  ErrorCode code;
  int sys_errno;
  std::string message;
};
inline std::optional<Failure> FailureOf(const std::string& path,
                                        const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    CHECK_EQ(error.place().path, path);
    return Failure{error.code(), error.sys_errno(), error.what()};
  }
  return std::nullopt;
}

inline mode_t ModeOf(const std::string& path) {
  struct stat info = {};
  CHECK_EQ(stat(path.c_str(), &info), 0);
  return info.st_mode & 07777;
}

class Umask {
 public:
  explicit Umask(mode_t mask) : before_(umask(mask)) {}
  ~Umask() { umask(before_); }
  Umask(const Umask&) = delete;
  Umask& operator=(const Umask&) = delete;

 private:
  mode_t before_;
};

// A file system without unnamed files.
inline std::optional<long> OnlyNamedFiles(const faults::Call& call) {
  if (call.name == "openat" && (call.flags & O_TMPFILE) == O_TMPFILE) return -EOPNOTSUPP;
  return std::nullopt;
}

// Runs `body` with unnamed temporaries, where there are such, and with named ones.
inline void WithBothNamings(const std::function<void()>& body) {
  body();
  const faults::Inject inject(OnlyNamedFiles);
  body();
}

}  // namespace writer_support

#endif  // WEIGHTLIFT_TESTS_WRITER_SUPPORT_H_
