// The file that a writer fills before it becomes the target: unnamed where the file system can
// (O_TMPFILE), so that nothing is left however the process dies; else with a hidden name beside the
// target, `.NAME.xxxxxx.wltmp`, that its writer holds a lock (flock) on. A temporary name whose
// lock is free belongs to nobody: its writer was killed, and the next writer of the same target
// removes it.
#ifndef WEIGHTLIFT_IO_TEMPORARY_FILE_H_
#define WEIGHTLIFT_IO_TEMPORARY_FILE_H_

#include <sys/types.h>

#include <string>

#include "io/unique_fd.h"

namespace weightlift {

enum class Naming {
  kUnnamedIfPossible,
  kNamed,
};

class TemporaryFile {
 public:
  // In the directory open as `directory`, which must stay open while this object lives; opened for
  // reading and writing. `mode` is subject to the umask. Throws Error without a place.
  TemporaryFile(int directory, std::string target, mode_t mode,
                Naming naming = Naming::kUnnamedIfPossible);
  // Removes the file unless it was published.
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  int fd() const noexcept { return fd_.get(); }

  // Gives the file the target's name, in one step, whether or not that name exists. Throws Error
  // without a place; the target is then as it was.
  void Publish();

 private:
  bool CreateUnnamed(mode_t mode);
  void CreateNamed(mode_t mode);
  void RemoveName() noexcept;

  const int directory_;
  const std::string target_;
  const pid_t owner_;  // the child of a fork must not remove its parent's file
  UniqueFd fd_;
  std::string name_;  // in the directory; empty: none
};

// Removes the temporary files of dead writers of `target`. Failures are no concern of the caller's.
void CollectLitter(int directory, const std::string& target) noexcept;

}  // namespace weightlift

#endif  // WEIGHTLIFT_IO_TEMPORARY_FILE_H_
