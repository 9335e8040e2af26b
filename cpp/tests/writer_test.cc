#include "weightlift/writer.h"

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "child.h"
#include "faults.h"
#include "sanitizers.h"
#include "temp_dir.h"
#include "weightlift/buffer.h"

namespace {

using weightlift::Buffer;
using weightlift::Error;
using weightlift::ErrorCode;
using weightlift::FileWriter;
using weightlift::FileWriterOptions;
using weightlift::WriteMode;

constexpr std::size_t kMiB = 1 << 20;
constexpr WriteMode kModes[] = {WriteMode::kAuto, WriteMode::kBuffered, WriteMode::kDirect};
using Names = std::vector<std::string>;

void Save(const std::string& path, const Bytes& bytes, const FileWriterOptions& options = {}) {
  const auto writer = FileWriter::Create(path, bytes.size(), options);
  writer->WriteAt(0, bytes);
  writer->Commit();
}

// The code and errno of the Error that `body` throws, with the path checked; {} when it throws
// none.
struct Failure {
  ErrorCode code;
  int sys_errno;
  std::string message;
};
std::optional<Failure> FailureOf(const std::string& path, const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    CHECK_EQ(error.place().path, path);
    return Failure{error.code(), error.sys_errno(), error.what()};
  }
  return std::nullopt;
}

mode_t ModeOf(const std::string& path) {
  struct stat info = {};
  CHECK_EQ(stat(path.c_str(), &info), 0);
  return info.st_mode & 07777;
}

class Umask {
 public:
  explicit Umask(mode_t mask) : before_(umask(mask)) {}
  ~Umask() { umask(before_); }
  Umask(const Umask&) = delete;
  Umask& operator=(const Umask&) = delete;

 private:
  mode_t before_;
};

// A file system without unnamed files.
std::optional<long> OnlyNamedFiles(const faults::Call& call) {
  if (call.name == "openat" && (call.flags & O_TMPFILE) == O_TMPFILE) return -EOPNOTSUPP;
  return std::nullopt;
}

// Runs `body` with unnamed temporaries, where there are such, and with named ones.
void WithBothNamings(const std::function<void()>& body) {
  body();
  const faults::Inject inject(OnlyNamedFiles);
  body();
}

TEST(WritesInEveryModeAtEveryMisalignment) {
  const TempDir dir;
  const auto buffer = Buffer::Allocate(2 * kMiB);
  const Bytes pattern = Pattern(2 * kMiB);
  std::copy(pattern.begin(), pattern.end(), buffer->bytes().begin());
  for (const WriteMode mode : kModes) {
    for (const std::size_t skew : {0U, 1U, 64U, 512U, 4095U}) {
      // Pieces that end on, before and after blocks and pages, written back to front.
      std::vector<std::size_t> ends = {0};
      for (std::size_t i = 0; ends.back() < kMiB; ++i) {
        const std::size_t steps[] = {1, 511, 512, 513, 4095, 4096, 4097, 8192, 70000, 131072};
        ends.push_back(ends.back() + steps[i % 10]);
      }
      const auto writer = FileWriter::Create(dir / "f", ends.back(), {.mode = mode});
      for (std::size_t i = ends.size() - 1; i > 0; --i) {
        writer->WriteAt(ends[i - 1],
                        buffer->bytes().subspan(skew + ends[i - 1], ends[i] - ends[i - 1]));
      }
      writer->Commit();
      const Bytes written = ReadFile(dir / "f");
      CHECK_EQ(written.size(), ends.back());
      CHECK(std::equal(written.begin(), written.end(),
                       pattern.begin() + static_cast<std::ptrdiff_t>(skew)));
    }
  }
}

TEST(EveryShortRangeOfAlignedMemory) {
  // Direct: one page is enough to go both ways, so each start and end around a page is tried.
  const TempDir dir;
  const auto buffer = Buffer::Allocate(64 * 1024);
  const Bytes pattern = Pattern(64 * 1024);
  std::copy(pattern.begin(), pattern.end(), buffer->bytes().begin());
  for (const std::size_t begin : {0U, 1U, 4095U, 4096U, 4097U, 8191U}) {
    for (const std::size_t size : {1U, 4095U, 4096U, 4097U, 8192U, 12287U, 12288U, 12289U}) {
      const auto writer = FileWriter::Create(dir / "f", begin + size + 3,
                                             {.mode = WriteMode::kDirect, .durable = false});
      writer->WriteAt(begin, buffer->bytes().subspan(begin, size));
      writer->Commit();
      Bytes expected(begin + size + 3);
      std::copy_n(pattern.begin() + static_cast<std::ptrdiff_t>(begin), size,
                  expected.begin() + static_cast<std::ptrdiff_t>(begin));
      CHECK(ReadFile(dir / "f") == expected);  // what was not written is zeros
    }
  }
}

TEST(Sizes) {
  const TempDir dir;
  WithBothNamings([&] {
    for (const WriteMode mode : kModes) {
      for (const bool durable : {false, true}) {
        for (const std::size_t size :
             {std::size_t{0}, std::size_t{1}, std::size_t{4096}, kMiB + 1, 9 * kMiB + 5}) {
          const Bytes bytes = Pattern(size);
          Save(dir / "f", bytes, {.mode = mode, .durable = durable});
          CHECK(ReadFile(dir / "f") == bytes);
          CHECK(dir.Names() == Names({"f"}));
        }
      }
    }
  });
}

TEST(ManyThreadsAtRaggedPlaces) {
  const TempDir dir;
  const Bytes bytes = Pattern(16 * kMiB + 321);
  for (const WriteMode mode : kModes) {
    const auto writer = FileWriter::Create(dir / "f", bytes.size(), {.mode = mode});
    std::atomic<std::size_t> next{0};
    const std::size_t piece = 300 * 1024 + 77;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        const auto buffer = Buffer::Allocate(kMiB);
        for (std::size_t at; (at = piece * next++) < bytes.size();) {
          const std::size_t size = std::min(piece, bytes.size() - at);
          // In step with the file, so that whole pages go direct.
          const auto data = buffer->bytes().subspan(at % 4096, size);
          std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), size, data.begin());
          writer->WriteAt(at, data);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    writer->Commit();
    CHECK(ReadFile(dir / "f") == bytes);
  }
}

TEST(OutsideTheDeclaredSize) {
  const TempDir dir;
  const auto writer = FileWriter::Create(dir / "f", 10);
  const Bytes bytes = Pattern(6);
  CHECK_THROWS(kInvalidArgument, writer->WriteAt(5, bytes));
  CHECK_THROWS(kInvalidArgument, writer->WriteAt(UINT64_MAX - 2, bytes));
  writer->WriteAt(4, bytes);
  writer->WriteAt(10, {});
}

TEST(TheFinalSizeMayShrink) {
  const TempDir dir;
  for (const WriteMode mode : kModes) {
    const auto writer = FileWriter::Create(dir / "f", 3 * kMiB, {.mode = mode});
    const Bytes bytes = Pattern(2 * kMiB);
    writer->WriteAt(0, bytes);
    writer->Truncate(2 * kMiB - 77);
    CHECK_THROWS(kInvalidArgument, writer->Truncate(2 * kMiB));
    CHECK_THROWS(kInvalidArgument, writer->WriteAt(2 * kMiB - 77, Pattern(1)));
    writer->Commit();
    CHECK_THROWS(kInvalidArgument, writer->Truncate(0));
    CHECK(ReadFile(dir / "f") == Bytes(bytes.begin(), bytes.end() - 77));
    struct stat info = {};
    CHECK_EQ(stat((dir / "f").c_str(), &info), 0);
    CHECK(info.st_blocks * 512 < static_cast<off_t>(2 * kMiB + 512 * 1024));  // nothing kept beyond
  }
}

TEST(NothingIsSeenBeforeCommit) {
  const TempDir dir;
  WithBothNamings([&] {
    const Bytes old = Pattern(100);
    WriteFile(dir / "f", old);
    const auto writer = FileWriter::Create(dir / "f", kMiB);
    writer->WriteAt(0, Pattern(kMiB, 2));
    writer->Sync();
    CHECK(ReadFile(dir / "f") == old);
    writer->Commit();
    CHECK(ReadFile(dir / "f") == Pattern(kMiB, 2));
    CHECK(dir.Names() == Names({"f"}));
  });
}

TEST(AbortAndDestructionLeaveNothing) {
  const TempDir dir;
  WithBothNamings([&] {
    auto writer = FileWriter::Create(dir / "f", kMiB);
    writer->WriteAt(0, Pattern(kMiB));
    writer->Abort();
    writer->Abort();
    CHECK(dir.Names().empty());
    CHECK_THROWS(kInvalidArgument, writer->Commit());
    CHECK_THROWS(kInvalidArgument, writer->WriteAt(0, Pattern(1)));
    CHECK_THROWS(kInvalidArgument, writer->Sync());
    writer = FileWriter::Create(dir / "f", kMiB);
    writer.reset();
    CHECK(dir.Names().empty());
  });
}

TEST(CommitIsOnce) {
  const TempDir dir;
  const auto writer = FileWriter::Create(dir / "f", 3);
  writer->Commit();
  CHECK_THROWS(kInvalidArgument, writer->Commit());
  CHECK_THROWS(kInvalidArgument, writer->WriteAt(0, Pattern(1)));
  writer->Abort();
  CHECK(dir.Names() == Names({"f"}));
}

using Writers = std::vector<std::shared_ptr<FileWriter>>;

Writers WritersOf(const std::vector<std::string>& paths, const FileWriterOptions& options = {}) {
  Writers writers;
  for (const std::string& path : paths) {
    writers.push_back(FileWriter::Create(path, 3, options));
    writers.back()->WriteAt(0, Pattern(3));
  }
  return writers;
}

TEST(CommitAllSyncsFilesThenNamesThenDirectories) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "d");
  const std::vector<std::string> paths{dir / "a", dir / "d/b", dir / "c"};
  std::mutex mutex;
  std::string calls;
  const faults::Inject inject([&](const faults::Call& call) -> std::optional<long> {
    const std::lock_guard lock(mutex);
    if (call.name == "fdatasync") calls += 'f';
    if (call.name == "linkat") calls += 'l';
    if (call.name == "fsync") calls += 'd';
    return std::nullopt;
  });
  FileWriter::CommitAll(WritersOf(paths));
  CHECK_EQ(calls, std::string("fffllldd"));
  for (const std::string& path : paths) CHECK(ReadFile(path) == Pattern(3));
  calls.clear();
  FileWriter::CommitAll(WritersOf({dir / "e"}, {.mode = WriteMode::kAuto, .durable = false}));
  CHECK_EQ(calls, std::string("l"));
  FileWriter::CommitAll({});
}

TEST(CommitAllPublishesNothingThatIsNotDurable) {
  const TempDir dir;
  const Writers writers = WritersOf({dir / "a", dir / "b", dir / "c"});
  std::atomic<int> syncs{0};
  const faults::Inject inject([&](const faults::Call& call) -> std::optional<long> {
    if (call.name == "fdatasync" && ++syncs == 2) return -EIO;
    return std::nullopt;
  });
  bool failed = false;
  try {
    FileWriter::CommitAll(writers);
  } catch (const Error& error) {
    failed = error.sys_errno() == EIO;
  }
  CHECK(failed);
  CHECK(dir.Names().empty());
  for (const auto& writer : writers) CHECK_THROWS(kInvalidArgument, writer->Commit());
}

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

TEST(InterruptedAndShortWritesGoOn) {
  const TempDir dir;
  const Bytes pattern = Pattern(2 * kMiB);
  const auto buffer = Buffer::Allocate(pattern.size());
  std::copy(pattern.begin(), pattern.end(), buffer->bytes().begin());
  for (const WriteMode mode : {WriteMode::kBuffered, WriteMode::kDirect}) {
    std::atomic<int> calls{0};
    const faults::Inject inject([&](const faults::Call& call) -> std::optional<long> {
      const int turn = calls++;
      if (call.name == "fallocate" || call.name == "fdatasync") {
        return turn % 2 == 0 ? std::optional<long>(-EINTR) : std::nullopt;
      }
      if (call.name != "pwrite") return std::nullopt;
      if (turn % 3 == 0) return -EINTR;
      // A direct transfer may stop off the grid too: what is left must find another way.
      return faults::IsDirect(call.fd) && turn < 20 ? 4096 * (1 + turn % 5) : 1 + turn * 7919;
    });
    const auto writer = FileWriter::Create(dir / "f", pattern.size(), {.mode = mode});
    writer->WriteAt(0, buffer->bytes().first(kMiB + 5));
    writer->WriteAt(kMiB + 5, buffer->bytes().subspan(kMiB + 5));
    writer->Commit();
    CHECK(calls.load() > 10);
    CHECK(ReadFile(dir / "f") == pattern);
  }
}

TEST(FailuresLeaveTheOldFileAndNoLitter) {
  struct Case {
    const char* call;
    int error;
    ErrorCode code;
  };
  const Case cases[] = {
      {"fallocate", ENOSPC, ErrorCode::kStorage}, {"fallocate", EDQUOT, ErrorCode::kStorage},
      {"fallocate", EFBIG, ErrorCode::kStorage},  {"pwrite", ENOSPC, ErrorCode::kStorage},
      {"pwrite", EDQUOT, ErrorCode::kStorage},    {"pwrite", EIO, ErrorCode::kStorage},
      {"fdatasync", EIO, ErrorCode::kStorage},    {"renameat", EACCES, ErrorCode::kAccess},
  };
  const TempDir dir;
  const Bytes old = Pattern(100);
  WriteFile(dir / "f", old);
  for (const bool named : {false, true}) {
    for (const WriteMode mode : {WriteMode::kBuffered, WriteMode::kDirect}) {
      for (const Case& c : cases) {
        const faults::Inject inject([&](const faults::Call& call) -> std::optional<long> {
          if (call.name == c.call) return -c.error;
          return named ? OnlyNamedFiles(call) : std::nullopt;
        });
        const auto failure =
            FailureOf(dir / "f", [&] { Save(dir / "f", Pattern(kMiB, 2), {.mode = mode}); });
        CHECK(failure && failure->code == c.code);
        CHECK(failure && failure->sys_errno == c.error);
        CHECK(ReadFile(dir / "f") == old);
        CHECK(dir.Names() == Names({"f"}));
      }
    }
  }
}

TEST(WhatGoesDirectIsWrittenFromWhereItIs) {
  const TempDir dir;
  const Bytes file = Pattern(2 * kMiB);
  const auto buffer = Buffer::Allocate(file.size() + 4096);
  for (const std::size_t skew : {0U, 4U, 16U, 512U, 4095U}) {
    const std::span<std::byte> data = buffer->bytes().subspan(skew, file.size());
    std::copy(file.begin(), file.end(), data.begin());
    for (const std::size_t offset : {0U, 16U, 3584U, 4096U}) {
      const auto writer =
          FileWriter::Create(dir / "f", offset + file.size(), {.mode = WriteMode::kDirect});
      std::atomic<bool> in_place{false};
      {
        const faults::Inject inject([&](const faults::Call& call) -> std::optional<long> {
          if (call.name == "pwrite" && faults::IsDirect(call.fd)) in_place = true;
          return std::nullopt;
        });
        writer->WriteAt(offset, data);
      }
      CHECK_EQ(in_place.load(), writer->GoesDirect(offset, data));
      if (skew == 0 && offset == 0) CHECK_EQ(in_place.load(), writer->direct_alignment() != 0);
      writer->Commit();
      const Bytes found = ReadFile(dir / "f");
      CHECK(std::equal(file.begin(), file.end(), found.end() - static_cast<long>(file.size())));
    }
  }
}

TEST(AFailedWriteCannotBeCommitted) {
  const TempDir dir;
  const auto writer = FileWriter::Create(dir / "f", kMiB);
  {
    const faults::Inject inject([](const faults::Call& call) -> std::optional<long> {
      return call.name == "pwrite" ? std::optional<long>(-EIO) : std::nullopt;
    });
    CHECK_THROWS(kStorage, writer->WriteAt(0, Pattern(100)));
  }
  writer->WriteAt(100, Pattern(100));
  CHECK_THROWS(kInvalidArgument, writer->Commit());
  CHECK(dir.Names().empty());
}

TEST(PoorFileSystems) {
  // No preallocation, no locks, no unnamed files, no O_DIRECT after all, no sync of directories.
  const TempDir dir;
  const auto buffer = Buffer::Allocate(2 * kMiB);
  const faults::Inject inject([](const faults::Call& call) -> std::optional<long> {
    if (call.name == "fallocate") return -EOPNOTSUPP;
    if (call.name == "flock") return -ENOLCK;
    if (call.name == "pwrite" && faults::IsDirect(call.fd)) return -EINVAL;
    if (call.name == "fsync") return -EINVAL;
    return OnlyNamedFiles(call);
  });
  for (int round = 0; round < 2; ++round) {
    const auto writer = FileWriter::Create(dir / "f", 2 * kMiB + 10, {.mode = WriteMode::kDirect});
    writer->WriteAt(0, buffer->bytes());
    CHECK_EQ(writer->direct_alignment(), 0);  // it knows better now
    writer->Commit();
    CHECK(ReadFile(dir / "f") == Bytes(2 * kMiB + 10));
    CHECK(dir.Names() == Names({"f"}));
  }
}

TEST(ADirectoryThatCannotBeSyncedIsReported) {
  const TempDir dir;
  const faults::Inject inject([](const faults::Call& call) -> std::optional<long> {
    return call.name == "fsync" ? std::optional<long>(-EIO) : std::nullopt;
  });
  const auto failure = FailureOf(dir / "f", [&] { Save(dir / "f", Pattern(5)); });
  CHECK(failure && failure->sys_errno == EIO);
  Save(dir / "g", Pattern(5), {.mode = WriteMode::kAuto, .durable = false});
  CHECK(dir.Names() == Names({"f", "g"}));
}

TEST(AFullDisk) {
  const TempDir dir;
  // In a child with mounts of its own, so that nothing is left mounted.
  const int status = RunInChild([&] {
    if (unshare(CLONE_NEWNS) != 0 ||
        mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", dir.path().c_str(), "tmpfs", 0, "size=2m") != 0) {
      return 77;
    }
    const Bytes old = Pattern(kMiB / 2);
    Save(dir / "f", old);
    for (const WriteMode mode : kModes) {
      const auto failure =
          FailureOf(dir / "f", [&] { Save(dir / "f", Pattern(4 * kMiB), {.mode = mode}); });
      if (!failure || failure->sys_errno != ENOSPC) return 1;
      if (ReadFile(dir / "f") != old || dir.Names() != Names({"f"})) return 2;
    }
    Save(dir / "f", Pattern(kMiB));  // there is room again
    return ReadFile(dir / "f") == Pattern(kMiB) ? 0 : 3;
  });
  if (status == 77) {
    std::printf("skipped: mounting needs privileges\n");
    return;
  }
  CHECK_EQ(status, 0);
}

}  // namespace
