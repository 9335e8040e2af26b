// Where a file that is about to be written really goes.
#ifndef WEIGHTLIFT_IO_TARGET_PATH_H_
#define WEIGHTLIFT_IO_TARGET_PATH_H_

#include <string>

namespace weightlift {

struct TargetPath {
  std::string directory;  // "." where the path has none
  std::string name;       // the last component: never empty, "." or ".."
};

// Splits `path` after following the symbolic links that its last component may be, also those whose
// target does not exist yet: so the file behind a link is replaced and the link stays. Throws Error
// when the path cannot name a file.
TargetPath ResolveTarget(const std::string& path);

}  // namespace weightlift

#endif  // WEIGHTLIFT_IO_TARGET_PATH_H_
