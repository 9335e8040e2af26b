// A file descriptor that is closed when it goes out of scope.
#ifndef WEIGHTLIFT_IO_UNIQUE_FD_H_
#define WEIGHTLIFT_IO_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

namespace weightlift {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) noexcept : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  int release() noexcept { return std::exchange(fd_, -1); }
  void reset() noexcept {
    // Not retried on EINTR: Linux has released the number by then.
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }

 private:
  int fd_ = -1;
};

}  // namespace weightlift

#endif  // WEIGHTLIFT_IO_UNIQUE_FD_H_
