// How much of a file is in the page cache, and what reading does about it.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "cache_tools.h"
#include "check.h"
#include "child.h"
#include "faults.h"
#include "io/page_cache_probe.h"
#include "temp_dir.h"
#include "weightlift/reader.h"

namespace {

using weightlift::FileReader;
using weightlift::Reader;
using weightlift::ReadMode;

constexpr std::size_t kMiB = 1 << 20;

TEST(ResidencyFollowsTheCache) {
  const TempDir dir;
  const std::string path = dir / "f";
  WriteFile(path, Pattern(8 * kMiB));
  const auto reader = FileReader::Open(path);
  CHECK_EQ(reader->Residency(0, 8 * kMiB), 1.0);
  CHECK_THROWS(kTruncated, reader->Residency(1, 8 * kMiB));
  DropCache(path);
  const double dropped = reader->Residency(0, 8 * kMiB);
  if (dropped == 1.0) return;  // a file system in memory
  CHECK_EQ(dropped, 0.0);
  const int fd = open(path.c_str(), O_RDONLY);
  posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);  // no reading ahead
  Bytes some(2 * kMiB);
  CHECK_EQ(pread(fd, some.data(), some.size(), 0), static_cast<ssize_t>(some.size()));
  close(fd);
  CHECK_EQ(reader->Residency(0, 8 * kMiB), 0.25);
  CHECK_EQ(reader->Residency(2 * kMiB - 1, 2), 0.5);  // a page on each side
}

TEST(ResidencyBySamples) {
  // What is asked where cachestat does not answer: on older kernels, and about files of others.
  const TempDir dir;
  const std::string path = dir / "f";
  WriteFile(path, Pattern(8 * kMiB));
  const int fd = open(path.c_str(), O_RDONLY);
  {
    const weightlift::PageCacheProbe residency(fd);
    CHECK_EQ(residency.SampledFraction(0, 0), 1.0);
    CHECK_EQ(residency.SampledFraction(0, 8 * kMiB), 1.0);
    CHECK_EQ(residency.SampledFraction(8 * kMiB - 1, 1), 1.0);
    DropCache(path);
    if (residency.CachedFraction(0, 8 * kMiB) == 0.0) {
      CHECK_EQ(residency.SampledFraction(0, 8 * kMiB), 0.0);
      CHECK(residency.CachedFraction(0, 8 * kMiB) < 0.05);  // samples bring no neighbours along
      posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
      Bytes some(2 * kMiB);
      CHECK_EQ(pread(fd, some.data(), some.size(), 0), static_cast<ssize_t>(some.size()));
      const double sampled = residency.SampledFraction(0, 4 * kMiB);
      CHECK(sampled >= 0.5 && sampled < 0.9);  // half, and what the samples before brought in
    }
  }
  close(fd);
}

TEST(APageThatArrivesWhileItIsAskedForWasNotCached) {
  const TempDir dir;
  const std::string path = dir / "f";
  WriteFile(path, Pattern(8 * kMiB));
  const int fd = open(path.c_str(), O_RDONLY);
  DropCache(path);
  const weightlift::PageCacheProbe residency(fd);
  if (residency.CachedFraction(0, 8 * kMiB) == 0.0) {
    // What the kernel does when the thread loses its processor between asking for a page and
    // looking for it.
    const faults::Inject inject([](const faults::Call& call) -> std::optional<long> {
      std::byte byte;
      if (call.name == "preadv2") syscall(SYS_pread64, call.fd, &byte, 1, call.offset);
      return std::nullopt;
    });
    CHECK_EQ(residency.SampledFraction(0, 8 * kMiB), 0.0);
    CHECK_EQ(residency.SampledFraction(0, 8 * kMiB), 1.0);  // by now, they are
  }
  close(fd);
}

TEST(ResidencyOfAFileOfSomebodyElse) {
  if (geteuid() != 0) return;  // the child below must be able to become somebody else
  const TempDir dir;
  const std::string path = dir / "f";
  WriteFile(path, Pattern(4 * kMiB));
  CHECK_EQ(chmod(dir.path().c_str(), 0755), 0);
  CHECK_EQ(chmod(path.c_str(), 0644), 0);
  DropCache(path);
  if (FileReader::Open(path)->Residency(0, 4 * kMiB) == 1.0) return;  // a file system in memory
  const int status = RunInChild([&] {
    if (setresuid(65534, 65534, 65534) != 0) return 1;
    const auto reader = FileReader::Open(path);
    if (reader->Residency(0, 4 * kMiB) > 0.1) return 2;
    if (ReadAt(*reader, 0, 4 * kMiB) != Pattern(4 * kMiB)) return 3;
    return 0;
  });
  CHECK_EQ(status, 0);
}

TEST(DirectReadsLeaveTheCacheAlone) {
  const TempDir dir;
  const std::string path = dir / "f";
  WriteFile(path, Pattern(4 * kMiB));
  const auto reader = FileReader::Open(path, ReadMode::kAuto);
  DropCache(path);
  if (reader->Residency(0, 4 * kMiB) == 1.0) return;  // a file system in memory
  ReadAt(*reader, 100, 3 * kMiB);
  CHECK(reader->Residency(0, 4 * kMiB) < 0.1);
}

}  // namespace
