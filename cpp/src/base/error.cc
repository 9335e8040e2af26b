#include "weightlift/error.h"

#include <cerrno>
#include <system_error>
#include <utility>

namespace weightlift {
namespace {

ErrorCode CodeOf(int sys_errno) {
  switch (sys_errno) {
    case ENOENT:
    case ENOTDIR:
      return ErrorCode::kNotFound;
    case EACCES:
    case EPERM:
    case EROFS:
      return ErrorCode::kAccess;
    case ENOMEM:
      return ErrorCode::kOutOfMemory;
    default:
      return ErrorCode::kStorage;
  }
}

}  // namespace

Error SystemError(int sys_errno, const std::string& action, ErrorPlace place) {
  return Error(CodeOf(sys_errno),
               "cannot " + action + ": " + std::generic_category().message(sys_errno),
               std::move(place), sys_errno);
}

}  // namespace weightlift
