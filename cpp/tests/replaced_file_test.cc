// What becomes of files that lose their name.
#include "io/replaced_file.h"

#include <sched.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <string>
#include <system_error>

#include "check.h"
#include "child.h"
#include "temp_dir.h"
#include "weightlift/writer.h"
#include "writer_support.h"

namespace {

using namespace writer_support;
using weightlift::AwaitReplacedFiles;
using weightlift::RemoveFile;
using weightlift::RenameOver;

constexpr int kFiles = 40;

// Descriptors of this process whose file has no name any more.
int DeletedButOpen() {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const std::string target = std::filesystem::read_symlink(entry.path(), error).string();
    count += target.ends_with(" (deleted)") ? 1 : 0;
  }
  return count;
}

std::string Numbered(const TempDir& dir, const std::string& stem, int i) {
  return dir / (stem + std::to_string(i));
}

void MakeFiles(const TempDir& dir, const std::string& stem, std::size_t bytes) {
  for (int i = 0; i < kFiles; ++i) {
    Save(Numbered(dir, stem, i), Bytes(bytes), {.mode = WriteMode::kBuffered, .durable = false});
  }
}

TEST(IsGoneSoon) {
  const TempDir dir;
  MakeFiles(dir, "old", 2 * kMiB);
  MakeFiles(dir, "new", 5);
  for (int i = 0; i < kFiles; ++i) RenameOver(Numbered(dir, "new", i), Numbered(dir, "old", i));
  AwaitReplacedFiles();
  CHECK_EQ(DeletedButOpen(), 0);
  MakeFiles(dir, "old", 2 * kMiB);  // a commit over what is there
  MakeFiles(dir, "old", 2 * kMiB);
  for (int i = 0; i < kFiles; ++i) RemoveFile(Numbered(dir, "old", i));
  AwaitReplacedFiles();
  CHECK_EQ(DeletedButOpen(), 0);
  CHECK(dir.Names().empty());
}

TEST(IsWhatItWasForThoseWhoHoldIt) {
  const TempDir dir;
  const Bytes old = Pattern(2 * kMiB);
  Save(dir / "f", old);
  std::filesystem::create_hard_link(dir / "f", dir / "link");
  Save(dir / "f", Pattern(7));
  AwaitReplacedFiles();
  CHECK(ReadFile(dir / "link") == old);
}

TEST(IsNotKeptByAChild) {
  for (int round = 0; round < 10; ++round) {
    const TempDir dir;
    MakeFiles(dir, "f", 2 * kMiB);
    for (int i = 0; i < kFiles; ++i) RemoveFile(Numbered(dir, "f", i));
    // In the middle of it, as a rule. The child lets files go on a thread of its own.
    const int status = RunInChild([&] {
      if (DeletedButOpen() != 0) return 1;
      MakeFiles(dir, "child", 2 * kMiB);
      for (int i = 0; i < kFiles; ++i) RemoveFile(Numbered(dir, "child", i));
      AwaitReplacedFiles();
      return DeletedButOpen() == 0 ? 0 : 2;
    });
    CHECK_EQ(status, 0);
    AwaitReplacedFiles();
    CHECK_EQ(DeletedButOpen(), 0);
  }
}

TEST(IsWaitedForWhenTheDiskIsFull) {
  const TempDir dir;
  const int status = RunInChild([&] {  // with mounts of its own, so that nothing is left mounted
    if (unshare(CLONE_NEWNS) != 0 ||
        mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", dir.path().c_str(), "tmpfs", 0, "size=33m") != 0) {
      return 77;
    }
    const Bytes bytes(16 * kMiB);  // room for two
    for (int round = 0; round < 20; ++round) Save(dir / "f", bytes, {.durable = false});
    return 0;
  });
  if (status == 77) {
    std::printf("skipped: mounting needs privileges\n");
    return;
  }
  CHECK_EQ(status, 0);
}

TEST(SaysWhatIsWrong) {
  const TempDir dir;
  const auto renamed = FailureOf(dir / "a", [&] { RenameOver(dir / "a", dir / "b"); });
  CHECK(renamed && renamed->code == ErrorCode::kNotFound && renamed->sys_errno == ENOENT);
  const auto removed = FailureOf(dir / "a", [&] { RemoveFile(dir / "a"); });
  CHECK(removed && removed->code == ErrorCode::kNotFound && removed->sys_errno == ENOENT);
}

}  // namespace
