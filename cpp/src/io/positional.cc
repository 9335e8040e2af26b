#include "io/positional.h"

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <vector>

#include "weightlift/error.h"

namespace weightlift {
namespace {

// Linux moves at most 0x7ffff000 bytes a call; a rounder number keeps long transfers aligned.
constexpr std::size_t kMaxTransfer = std::size_t{1} << 30;

ErrorPlace PlaceOf(const std::string& path, std::uint64_t begin, std::uint64_t end) {
  return {.path = path, .begin = begin, .end = end};
}

Error EndOfFile(const std::string& path, std::uint64_t at, std::uint64_t begin, std::uint64_t end) {
  return Error(ErrorCode::kTruncated,
               "the file ends at byte " + std::to_string(at) + ", before the " +
                   std::to_string(end - begin) + " bytes wanted",
               PlaceOf(path, begin, end));
}

}  // namespace

void ReadFully(int fd, std::uint64_t offset, std::span<std::byte> out, const std::string& path) {
  for (std::size_t done = 0; done < out.size();) {
    const ssize_t got = pread(fd, out.data() + done, std::min(out.size() - done, kMaxTransfer),
                              static_cast<off_t>(offset + done));
    if (got > 0) {
      done += static_cast<std::size_t>(got);
    } else if (got == 0) {
      throw EndOfFile(path, offset + done, offset, offset + out.size());
    } else if (errno != EINTR) {
      throw SystemError(errno, "read", PlaceOf(path, offset + done, offset + out.size()));
    }
  }
}

void ReadFullyScattered(int fd, std::uint64_t offset, std::span<const std::span<std::byte>> outs,
                        const std::string& path) {
  std::vector<iovec> parts;
  parts.reserve(std::min<std::size_t>(outs.size(), IOV_MAX));
  std::size_t next = 0;  // of outs, to become a part
  while (next < outs.size()) {
    parts.clear();
    std::size_t wanted = 0;
    for (; next < outs.size() && parts.size() < IOV_MAX && wanted < kMaxTransfer; ++next) {
      if (outs[next].empty()) continue;
      parts.push_back({outs[next].data(), outs[next].size()});
      wanted += outs[next].size();
    }
    const std::uint64_t begin = offset;
    const std::uint64_t end = offset + wanted;
    for (std::span<iovec> left(parts); !left.empty();) {
      const ssize_t got =
          preadv(fd, left.data(), static_cast<int>(left.size()), static_cast<off_t>(offset));
      if (got == 0) throw EndOfFile(path, offset, begin, end);
      if (got < 0) {
        if (errno == EINTR) continue;
        throw SystemError(errno, "read", PlaceOf(path, offset, end));
      }
      offset += static_cast<std::uint64_t>(got);
      // Drop the parts that are full; cut the one that is not.
      auto rest = static_cast<std::size_t>(got);
      while (!left.empty() && rest >= left.front().iov_len) {
        rest -= left.front().iov_len;
        left = left.subspan(1);
      }
      if (rest != 0) {
        left.front().iov_base = static_cast<std::byte*>(left.front().iov_base) + rest;
        left.front().iov_len -= rest;
      }
    }
  }
}

void WriteFully(int fd, std::uint64_t offset, std::span<const std::byte> data,
                const std::string& path) {
  for (std::size_t done = 0; done < data.size();) {
    const ssize_t put = pwrite(fd, data.data() + done, std::min(data.size() - done, kMaxTransfer),
                               static_cast<off_t>(offset + done));
    if (put > 0) {
      done += static_cast<std::size_t>(put);
    } else if (put == 0) {
      throw SystemError(EIO, "write", PlaceOf(path, offset + done, offset + data.size()));
    } else if (errno != EINTR) {
      throw SystemError(errno, "write", PlaceOf(path, offset + done, offset + data.size()));
    }
  }
}

}  // namespace weightlift
