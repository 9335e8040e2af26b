// Errors of the core.
//
// Everything the core can refuse or fail at is thrown as one type, `Error`, that carries a code and
// the place: file, tensor, byte range, errno. Nothing in the core prints, aborts or asserts on
// input. The bindings turn an Error into one class of the Python exception tree
// (weightlift/errors.py).
#ifndef WEIGHTLIFT_ERROR_H_
#define WEIGHTLIFT_ERROR_H_

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace weightlift {

enum class ErrorCode : std::uint8_t {
  kStorage,      // an operating-system failure that has no better name (EIO, ENOSPC, ...)
  kNotFound,     // no such file or directory
  kAccess,       // permission refused
  kTruncated,    // the file ends before the bytes that were asked for
  kChanged,      // the file is not the one that was opened
  kFormat,       // the bytes break the format's rules
  kChecksum,     // the bytes do not match their checksum
  kUnsupported,  // a known feature that this build cannot do
  kUnsafe,       // content that is refused for safety
  kInvalidArgument,
  kOutOfMemory,
  kCancelled,  // the monitor asked to stop
  kTransport,  // a request failed for good
};

// Where something went wrong. Every part is optional; callers further up fill in what they know.
struct ErrorPlace {
  std::string path{};                     // file or URL, without secrets
  std::optional<std::uint64_t> tensor{};  // index of the tensor in the plan or table at hand
  std::string tensor_name{};              // its name, where the thrower knows it
  std::optional<std::uint64_t> begin{};   // byte range in the file, end exclusive
  std::optional<std::uint64_t> end{};
  std::optional<int> status{};    // of the last answer, for kTransport
  std::optional<int> attempts{};  // made, for kTransport
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message, ErrorPlace place = {}, int sys_errno = 0)
      : std::runtime_error(message), code_(code), place_(std::move(place)), errno_(sys_errno) {}

  ErrorCode code() const noexcept { return code_; }
  const ErrorPlace& place() const noexcept { return place_; }
  ErrorPlace& place() noexcept { return place_; }
  int sys_errno() const noexcept { return errno_; }

 private:
  ErrorCode code_;
  ErrorPlace place_;
  int errno_;
};

// The Error for a failed system call: kNotFound, kAccess, kStorage ... by `sys_errno`.
// `action` reads like "open" or "write"; the message becomes "cannot <action>: <strerror>".
Error SystemError(int sys_errno, const std::string& action, ErrorPlace place = {});

}  // namespace weightlift

#endif  // WEIGHTLIFT_ERROR_H_
