#include "io/target_path.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "weightlift/error.h"

namespace weightlift {
namespace {

constexpr int kMaxLinks = 40;  // as the kernel's own limit

TargetPath Split(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return {".", path};
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

}  // namespace

TargetPath ResolveTarget(const std::string& path) {
  std::string current = path;
  for (int links = 0; links <= kMaxLinks; ++links) {
    TargetPath target = Split(current);
    if (target.name.empty() || target.name == "." || target.name == "..") {
      const int code = path.empty() ? ENOENT : EISDIR;
      throw SystemError(code, "write", {.path = path});
    }
    std::error_code failure;
    const std::filesystem::path link = std::filesystem::read_symlink(current, failure);
    // Not a link, or nothing there: opening the directory and the file tells the rest.
    if (failure) return target;
    current = link.is_absolute() ? link.string() : target.directory + "/" + link.string();
  }
  throw SystemError(ELOOP, "write", {.path = path});
}

}  // namespace weightlift
