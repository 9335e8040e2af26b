// A file that is about to lose its name. Its pages and blocks go back to the system when the last
// descriptor of it is closed, which takes as long as writing a fifth of it: a thread of its own
// does that, so that whoever replaces a file need not wait.
//
//   const ReplacedFile old(directory, "model.bin");
//   renameat(…);                                     // at once, whatever the old file's size
//
// A child of fork does not keep the files alive. Where no descriptor or thread is to be had the
// rename takes as long as it does.
#ifndef WEIGHTLIFT_IO_REPLACED_FILE_H_
#define WEIGHTLIFT_IO_REPLACED_FILE_H_

#include <string>

#include "io/unique_fd.h"

namespace weightlift {

class ReplacedFile {
 public:
  // Keeps the file, if there is one and it has no other name.
  ReplacedFile(int directory, const std::string& name) noexcept;
  // Lets it go, on the thread.
  ~ReplacedFile();
  ReplacedFile(const ReplacedFile&) = delete;
  ReplacedFile& operator=(const ReplacedFile&) = delete;

 private:
  UniqueFd fd_;
};

// Waits until all that was let go is gone: the disk may be full only because of it.
void AwaitReplacedFiles();

}  // namespace weightlift

#endif  // WEIGHTLIFT_IO_REPLACED_FILE_H_
