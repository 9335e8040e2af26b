// Names: permissions, owners, links, what may be replaced, and what killed writers leave.
#include <signal.h>
#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "child.h"
#include "faults.h"
#include "sanitizers.h"
#include "temp_dir.h"
#include "weightlift/writer.h"
#include "writer_support.h"

namespace {

using namespace writer_support;

TEST(ModesFollowTheUmaskAndTheOldFile) {
  const TempDir dir;
  WithBothNamings([&] {
    for (const mode_t mask : {mode_t{022}, mode_t{077}, mode_t{002}}) {
      const Umask guard(mask);
      Save(dir / "new", Pattern(5));
      CHECK_EQ(ModeOf(dir / "new"), 0666 & ~mask);
      std::filesystem::remove(dir / "new");
      for (const mode_t mode : {mode_t{0600}, mode_t{0640}, mode_t{0664}, mode_t{0755}}) {
        WriteFile(dir / "old", Pattern(1));
        CHECK_EQ(chmod((dir / "old").c_str(), mode), 0);
        Save(dir / "old", Pattern(5));
        CHECK_EQ(ModeOf(dir / "old"), mode);
        CHECK(ReadFile(dir / "old") == Pattern(5));
      }
    }
  });
}

TEST(OwnerIsKeptWhereAllowed) {
  if (geteuid() != 0) return;  // only root may give files away
  const TempDir dir;
  WriteFile(dir / "f", Pattern(1));
  CHECK_EQ(chown((dir / "f").c_str(), 1234, 4321), 0);
  CHECK_EQ(chmod((dir / "f").c_str(), 0660), 0);
  Save(dir / "f", Pattern(5));
  struct stat info = {};
  CHECK_EQ(stat((dir / "f").c_str(), &info), 0);
  CHECK_EQ(info.st_uid, 1234);
  CHECK_EQ(info.st_gid, 4321);
  CHECK_EQ(info.st_mode & 07777, 0660);

  // Not allowed: the new group must not get what the old one had.
  const faults::Inject inject([](const faults::Call& call) -> std::optional<long> {
    return call.name == "fchown" ? std::optional<long>(-EPERM) : std::nullopt;
  });
  Save(dir / "f", Pattern(6));
  CHECK_EQ(ModeOf(dir / "f"), 0600);
}

TEST(LinksAreFollowedAndStay) {
  const TempDir dir;
  namespace fs = std::filesystem;
  fs::create_directory(dir / "sub");
  WriteFile(dir / "sub/real", Pattern(1));
  fs::create_symlink("sub/hop", dir / "link");
  fs::create_symlink("real", dir / "sub/hop");
  Save(dir / "link", Pattern(7));
  CHECK(fs::is_symlink(dir / "link"));
  CHECK(fs::is_symlink(dir / "sub/hop"));
  CHECK(ReadFile(dir / "sub/real") == Pattern(7));

  fs::create_symlink(dir / "sub/absent", dir / "dangling");
  Save(dir / "dangling", Pattern(8));
  CHECK(fs::is_symlink(dir / "dangling"));
  CHECK(ReadFile(dir / "sub/absent") == Pattern(8));

  fs::create_symlink("b", dir / "a");
  fs::create_symlink("a", dir / "b");
  const auto failure = FailureOf(dir / "a", [&] { FileWriter::Create(dir / "a", 1); });
  CHECK(failure && failure->sys_errno == ELOOP);
}

TEST(TargetsThatCannotBeFiles) {
  const TempDir dir;
  CHECK_EQ(mkfifo((dir / "fifo").c_str(), 0600), 0);
  const auto fifo = FailureOf(dir / "fifo", [&] { FileWriter::Create(dir / "fifo", 1); });
  CHECK(fifo && fifo->message.find("a FIFO") != std::string::npos);
  const auto directory = FailureOf(dir.path(), [&] { FileWriter::Create(dir.path(), 1); });
  CHECK(directory && directory->sys_errno == EISDIR);
  CHECK_THROWS(kStorage, FileWriter::Create(dir / "", 1));
  CHECK_THROWS(kStorage, FileWriter::Create(dir / ".", 1));
  CHECK_THROWS(kStorage, FileWriter::Create(dir / "..", 1));
  CHECK_THROWS(kNotFound, FileWriter::Create("", 1));
  const auto missing = FailureOf(dir / "no/f", [&] { FileWriter::Create(dir / "no/f", 1); });
  CHECK(missing && missing->code == ErrorCode::kNotFound);
  CHECK(missing && missing->message.find(dir / "no") != std::string::npos);
  WriteFile(dir / "plain", Pattern(1));
  CHECK_THROWS(kNotFound, FileWriter::Create(dir / "plain/f", 1));
  CHECK_THROWS(kStorage, FileWriter::Create(dir / std::string(256, 'x'), 1));
  CHECK_THROWS(kStorage, FileWriter::Create(dir / "f", UINT64_MAX));
  CHECK(dir.Names() == Names({"fifo", "plain"}));
}

TEST(ProtectedPlaces) {
  if (geteuid() != 0) return;  // the child below must be able to become somebody else
  const TempDir dir;
  WriteFile(dir / "f", Pattern(1));
  CHECK_EQ(chmod((dir / "f").c_str(), 0444), 0);
  const auto as_nobody = [&](mode_t directory_mode, const std::string& name) {
    CHECK_EQ(chmod(dir.path().c_str(), directory_mode), 0);
    return RunInChild([&] {
      if (setresuid(65534, 65534, 65534) != 0) return 1;
      const auto failure = FailureOf(dir / name, [&] { Save(dir / name, Pattern(5)); });
      return failure ? 10 + static_cast<int>(failure->code) : 0;
    });
  };
  constexpr int kAccess = 10 + static_cast<int>(ErrorCode::kAccess);
  CHECK_EQ(as_nobody(0755, "new"), kAccess);  // a directory that may not be written
  CHECK_EQ(as_nobody(0777, "f"), kAccess);    // a file that may not, though it could be replaced
  CHECK_EQ(as_nobody(0700, "f"), kAccess);
  CHECK_EQ(as_nobody(0777, "new"), 0);
  CHECK(dir.Names() == Names({"f", "new"}));
}

TEST(LongNames) {
  const TempDir dir;
  std::string umlauts;
  for (int i = 0; i < 127; ++i) umlauts += "\xC3\xA4";
  WithBothNamings([&] {
    for (const std::string& name :
         {std::string(255, 'n'), std::string(242, 'n'), std::string(241, 'n'), umlauts}) {
      Save(dir / name, Pattern(5));
      Save(dir / name, Pattern(6));  // over an old file
      CHECK(ReadFile(dir / name) == Pattern(6));
      CHECK(dir.Names() == Names({name}));
      std::filesystem::remove(dir / name);
    }
  });
}

TEST(LitterOfKilledWritersIsCollected) {
  const TempDir dir;
  const std::string longest(255, 'n');
  for (const std::string& name : {std::string("f"), longest}) {
    for (int i = 0; i < 3; ++i) {
      const int status = RunInChild([&] {
        const faults::Inject inject(OnlyNamedFiles);
        const auto writer = FileWriter::Create(dir / name, 5);
        raise(SIGKILL);
        return 0;
      });
      CHECK_EQ(status, 128 + SIGKILL);
      CHECK_EQ(dir.Names().size(), 1);  // each killed writer's litter is its successor's business
    }
    CHECK(dir.Names().front().ends_with(".wltmp"));
    Save(dir / name, Pattern(5));
    CHECK(dir.Names() == Names({name}));
    std::filesystem::remove(dir / name);
  }
}

TEST(KilledBetweenLinkAndRename) {
  const TempDir dir;
  WriteFile(dir / "f", Pattern(1));
  const int status = RunInChild([&] {
    const faults::Inject inject([](const faults::Call& call) -> std::optional<long> {
      if (call.name == "renameat") raise(SIGKILL);
      return std::nullopt;
    });
    Save(dir / "f", Pattern(5));
    return 0;
  });
  CHECK_EQ(status, 128 + SIGKILL);
  CHECK(ReadFile(dir / "f") == Pattern(1));
  Save(dir / "f", Pattern(6));
  CHECK(dir.Names() == Names({"f"}));
}

TEST(WhatOthersHoldIsNotCollected) {
  const TempDir dir;
  WriteFile(dir / ".f.abcdef.wltmp2", {});
  WriteFile(dir / ".f.abc.wltmp", {});
  WriteFile(dir / ".ff.abcdef.wltmp", {});
  WriteFile(dir / "f.abcdef.wltmp", {});
  std::filesystem::create_directory(dir / ".f.ghijkl.wltmp");
  const std::size_t before = dir.Names().size();
  std::shared_ptr<FileWriter> first;
  {
    const faults::Inject inject(OnlyNamedFiles);
    first = FileWriter::Create(dir / "f", 5);
  }
  CHECK_EQ(dir.Names().size(), before + 1);
  Save(dir / "f", Pattern(5, 2));
  CHECK_EQ(dir.Names().size(), before + 2);
  first->WriteAt(0, Pattern(5));
  first->Commit();
  CHECK(ReadFile(dir / "f") == Pattern(5));
  CHECK_EQ(dir.Names().size(), before + 1);
}

TEST(AChildDoesNotRemoveItsParentsFile) {
  if (kThreadSanitizer) return;
  const TempDir dir;
  const faults::Inject inject(OnlyNamedFiles);
  auto writer = FileWriter::Create(dir / "f", 5);
  CHECK_EQ(RunInChild([&] {
             writer.reset();
             return 0;
           }),
           0);
  writer->WriteAt(0, Pattern(5));
  writer->Commit();
  CHECK(ReadFile(dir / "f") == Pattern(5));
}

TEST(WritersOfOneTargetDoNotMix) {
  const TempDir dir;
  WithBothNamings([&] {
    std::vector<std::thread> threads;
    for (std::uint64_t t = 1; t <= 4; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 10; ++i) {
          Save(dir / "f", Pattern(20000 + t, t), {.mode = WriteMode::kAuto, .durable = false});
        }
      });
    }
    std::atomic<bool> stop{false};
    std::atomic<int> torn{0};
    std::thread observer([&] {
      while (!stop.load()) {
        if (!std::filesystem::exists(dir / "f")) continue;
        const Bytes now = ReadFile(dir / "f");
        if (now != Pattern(now.size(), now.size() - 20000)) ++torn;
      }
    });
    for (std::thread& thread : threads) thread.join();
    stop = true;
    observer.join();
    CHECK_EQ(torn.load(), 0);
    CHECK(dir.Names() == Names({"f"}));
    std::filesystem::remove(dir / "f");
  });
}

}  // namespace
