#include "io/file_info.h"

#include <sys/vfs.h>

#include <algorithm>
#include <array>

namespace weightlift {
namespace {

// statfs(2) magic numbers, 32 bits each.
constexpr std::array<std::uint32_t, 15> kNetworkMagics = {
    0x00006969,  // NFS
    0x0000517B,  // SMB
    0xFF534D42,  // CIFS
    0xFE534D42,  // SMB2
    0x65735546,  // FUSE
    0x0BD00BD0,  // Lustre
    0x01021997,  // 9p
    0x00C36400,  // Ceph
    0x5346414F,  // AFS
    0x6B414653,  // kAFS
    0x73757245,  // Coda
    0x0000564C,  // NCP
    0x47504653,  // GPFS
    0x20030528,  // OrangeFS
    0x19830326,  // BeeGFS
};

// 0, which no file system has, where the system cannot tell.
std::uint32_t FileSystemMagic(int fd) noexcept {
  struct statfs info = {};
  if (fstatfs(fd, &info) != 0) return 0;
  // The field's type, and so its sign, differs between machines.
  return static_cast<std::uint32_t>(info.f_type);
}

}  // namespace

std::string_view FileKind(mode_t mode) noexcept {
  if (S_ISREG(mode)) return "a regular file";
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  return "not a file of a known kind";
}

bool OnNetwork(int fd) noexcept {
  const std::uint32_t magic = FileSystemMagic(fd);
  return std::find(kNetworkMagics.begin(), kNetworkMagics.end(), magic) != kNetworkMagics.end();
}

bool InMemory(int fd) noexcept {
  const std::uint32_t magic = FileSystemMagic(fd);
  return magic == 0x01021994 /* tmpfs */ || magic == 0x858458F6 /* ramfs */;
}

}  // namespace weightlift
