#include "http/spool.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "io/positional.h"
#include "weightlift/error.h"

namespace weightlift::http {
namespace {

constexpr std::uint64_t kKeptFree = 20;  // one part in so many of the file system

}  // namespace

Spool::Spool(std::uint64_t memory_bytes)
    : memory_bytes_((memory_bytes + kBlock - 1) / kBlock * kBlock) {
  blocks_.reserve(memory_bytes_ / kBlock);
}

void Spool::Append(std::span<const std::byte> bytes) {
  std::uint64_t at = size();
  while (!bytes.empty()) {
    if (at >= memory_bytes_) {
      if (!file_) OpenFile();
      const std::uint64_t begin = at - memory_bytes_;
      Reserve(bytes.size(), begin + bytes.size());
      WriteFully(file_.get(), begin, bytes, file_name_);
      at += bytes.size();
      break;
    }
    const std::size_t inside = at % kBlock;
    // Not value-initialised: what is not yet written is never read.
    if (inside == 0) blocks_.push_back(std::make_unique_for_overwrite<std::byte[]>(kBlock));
    const std::size_t part = std::min(bytes.size(), kBlock - inside);
    std::memcpy(blocks_.back().get() + inside, bytes.data(), part);
    bytes = bytes.subspan(part);
    at += part;
  }
  size_.store(at, std::memory_order_release);
}

void Spool::Read(std::uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    if (offset >= memory_bytes_) {
      ReadFully(file_.get(), offset - memory_bytes_, out, file_name_);
      return;
    }
    const std::size_t inside = offset % kBlock;
    const std::size_t part = std::min(out.size(), kBlock - inside);
    std::memcpy(out.data(), blocks_[offset / kBlock].get() + inside, part);
    out = out.subspan(part);
    offset += part;
  }
}

bool Spool::Holds(std::uint64_t offset, std::span<const std::byte> bytes) const {
  std::array<std::byte, 16384> kept;
  while (!bytes.empty()) {
    const std::size_t part = std::min(bytes.size(), kept.size());
    Read(offset, std::span(kept).first(part));
    if (std::memcmp(kept.data(), bytes.data(), part) != 0) return false;
    bytes = bytes.subspan(part);
    offset += part;
  }
  return true;
}

void Spool::Reserve(std::uint64_t nbytes, std::uint64_t end) {
  if (end <= reserved_) return;
  struct statvfs room;
  if (fstatvfs(file_.get(), &room) != 0) {
    throw SystemError(errno, "ask for free space", {.path = file_name_});
  }
  const std::uint64_t free = std::uint64_t{room.f_bavail} * room.f_frsize;
  const std::uint64_t kept = std::uint64_t{room.f_blocks} * room.f_frsize / kKeptFree;
  if (free < kept + nbytes) {
    throw Error(ErrorCode::kStorage,
                "the server sends the file without ranges, so it is kept in " + file_name_ +
                    ", and there is no room for more than its first " +
                    std::to_string(memory_bytes_ + end - nbytes) + " bytes (TMPDIR)",
                {.path = file_name_}, ENOSPC);
  }
  reserved_ = end + (free - kept - nbytes) / 2;  // others may use what is free, too
}

void Spool::OpenFile() {
  const char* const chosen = getenv("TMPDIR");
  const std::string folder = chosen != nullptr && *chosen != '\0' ? chosen : "/tmp";
  file_name_ = folder + "/weightlift-XXXXXX";
  file_ = UniqueFd(mkostemp(file_name_.data(), O_CLOEXEC));
  if (!file_) throw SystemError(errno, "make a temporary file", {.path = file_name_});
  unlink(file_name_.c_str());
}

}  // namespace weightlift::http
