// Writers, when a step of their protocol fails.
#include <sched.h>
#include <sys/mount.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>

#include "check.h"
#include "child.h"
#include "faults.h"
#include "temp_dir.h"
#include "weightlift/buffer.h"
#include "weightlift/writer.h"
#include "writer_support.h"

namespace {

using namespace writer_support;

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
