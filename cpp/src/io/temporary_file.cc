#include "io/temporary_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "io/replaced_file.h"
#include "weightlift/error.h"

namespace weightlift {
namespace {

constexpr std::string_view kSuffix = ".wltmp";
constexpr std::size_t kRandomLetters = 6;
constexpr int kMaxTries = 100;

// What all temporary names of a target begin with: `.NAME.`, with NAME cut and its hash (FNV-1a)
// added where the directory would not take the whole.
std::string NamePrefix(int directory, const std::string& target) {
  const long limit = fpathconf(directory, _PC_NAME_MAX);
  const std::size_t longest = limit > 0 ? static_cast<std::size_t>(limit) : 255;
  const std::size_t extra = 2 + kRandomLetters + kSuffix.size();
  // Piece by piece: GCC 12 sees an overlap in `"." + string` that is not there (PR 105651).
  std::string prefix(1, '.');
  if (target.size() + extra <= longest) return prefix.append(target).append(1, '.');

  std::uint64_t hash = 14695981039346656037U;
  for (const char c : target) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
  std::array<char, 18> digits;
  std::snprintf(digits.data(), digits.size(), "~%016llx", static_cast<unsigned long long>(hash));
  std::size_t cut = longest - std::min(longest, extra + digits.size() - 1);
  // Not in the middle of a UTF-8 character: some file systems refuse what is not text.
  while (cut > 0 && (static_cast<unsigned char>(target[cut]) & 0xC0) == 0x80) --cut;
  return prefix.append(target, 0, cut).append(digits.data()).append(1, '.');
}

std::string RandomName(const std::string& prefix) {
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz234567";
  std::array<unsigned char, kRandomLetters> random{};
  if (getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size())) {
    throw SystemError(errno, "get random bytes");
  }
  std::string name = prefix;
  for (const unsigned char byte : random) name += kLetters[byte % kLetters.size()];
  return name.append(kSuffix);
}

std::string DescriptorLink(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

bool NameIsOf(int directory, const std::string& name, int fd) {
  struct stat named = {};
  struct stat open_file = {};
  return fstatat(directory, name.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0 &&
         fstat(fd, &open_file) == 0 && named.st_ino == open_file.st_ino &&
         named.st_dev == open_file.st_dev;
}

}  // namespace

TemporaryFile::TemporaryFile(int directory, std::string target, mode_t mode, Naming naming)
    : directory_(directory), target_(std::move(target)), owner_(getpid()) {
  if (naming == Naming::kNamed || !CreateUnnamed(mode)) CreateNamed(mode);
}

TemporaryFile::~TemporaryFile() { RemoveName(); }

void TemporaryFile::RemoveName() noexcept {
  if (!name_.empty() && owner_ == getpid()) unlinkat(directory_, name_.c_str(), 0);
  name_.clear();
}

// False where the file system has no unnamed files, or they could not get a name later.
bool TemporaryFile::CreateUnnamed(mode_t mode) {
  UniqueFd fd(openat(directory_, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode));
  if (!fd || access(DescriptorLink(fd.get()).c_str(), F_OK) != 0) return false;
  // Taken while nobody else can see the file; held until it is closed. Where the file system has no
  // locks the collector cannot take one either, and leaves everything alone.
  flock(fd.get(), LOCK_EX | LOCK_NB);
  fd_ = std::move(fd);
  return true;
}

void TemporaryFile::CreateNamed(mode_t mode) {
  const std::string prefix = NamePrefix(directory_, target_);
  for (int tries = 0; tries < kMaxTries; ++tries) {
    std::string name = RandomName(prefix);
    UniqueFd fd(openat(directory_, name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode));
    if (!fd) {
      if (errno == EEXIST || errno == EINTR) continue;
      throw SystemError(errno, "create a temporary file");
    }
    // A collector may have come between: then it holds the lock, or has removed the name already.
    const bool locked = flock(fd.get(), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
    if (locked && NameIsOf(directory_, name, fd.get())) {
      fd_ = std::move(fd);
      name_ = std::move(name);
      return;
    }
  }
  throw SystemError(EEXIST, "create a temporary file");
}

void TemporaryFile::Publish() {
  if (name_.empty()) {
    // A new name: link straight to it. A name in use cannot be linked over, so the file gets a
    // temporary one for a moment.
    const std::string link = DescriptorLink(fd_.get());
    if (linkat(AT_FDCWD, link.c_str(), directory_, target_.c_str(), AT_SYMLINK_FOLLOW) == 0) return;
    if (errno != EEXIST) throw SystemError(errno, "link");
    const std::string prefix = NamePrefix(directory_, target_);
    for (int tries = 0; name_.empty(); ++tries) {
      std::string name = RandomName(prefix);
      if (linkat(AT_FDCWD, link.c_str(), directory_, name.c_str(), AT_SYMLINK_FOLLOW) == 0) {
        name_ = std::move(name);
      } else if (errno != EEXIST || tries == kMaxTries) {
        throw SystemError(errno, "link");
      }
    }
  }
  const ReplacedFile old(directory_, target_);
  if (renameat(directory_, name_.c_str(), directory_, target_.c_str()) != 0) {
    throw SystemError(errno, "rename");
  }
  name_.clear();
}

void CollectLitter(int directory, const std::string& target) noexcept try {
  const std::string prefix = NamePrefix(directory, target);
  // A descriptor of its own: reading a directory moves the descriptor's position.
  UniqueFd fd(openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const auto close_directory = [](DIR* open_directory) { closedir(open_directory); };
  const std::unique_ptr<DIR, decltype(close_directory)> dir(fd ? fdopendir(fd.get()) : nullptr);
  if (!dir) return;
  fd.release();
  std::vector<std::string> found;
  while (const dirent* entry = readdir(dir.get())) {
    const std::string_view name = entry->d_name;
    if (name.size() == prefix.size() + kRandomLetters + kSuffix.size() &&
        name.starts_with(prefix) && name.ends_with(kSuffix)) {
      found.emplace_back(name);
    }
  }
  for (const std::string& name : found) {
    const UniqueFd file(
        openat(directory, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (file && flock(file.get(), LOCK_EX | LOCK_NB) == 0 &&
        NameIsOf(directory, name, file.get())) {
      unlinkat(directory, name.c_str(), 0);
    }
  }
} catch (const std::exception&) {
  // Out of memory: the litter stays for the next writer.
}

}  // namespace weightlift
