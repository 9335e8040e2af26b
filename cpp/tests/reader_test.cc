#include "weightlift/reader.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <utime.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "cache_tools.h"
#include "check.h"
#include "child.h"
#include "faults.h"
#include "temp_dir.h"
#include "weightlift/buffer.h"

namespace {

using weightlift::Buffer;
using weightlift::Error;
using weightlift::ErrorCode;
using weightlift::FileReader;
using weightlift::MakeMemoryReader;
using weightlift::Reader;
using weightlift::ReadMode;

constexpr std::size_t kMiB = 1 << 20;
constexpr ReadMode kModes[] = {ReadMode::kAuto, ReadMode::kBuffered, ReadMode::kDirect};

bool Holds(std::span<const std::byte> found, const Bytes& file, std::size_t offset) {
  return found.empty() || std::memcmp(found.data(), file.data() + offset, found.size()) == 0;
}

TEST(MemoryReaderReadsAndChecks) {
  const Bytes data = Pattern(100);
  const auto reader = MakeMemoryReader(data, "some memory");
  CHECK_EQ(reader->size(), 100);
  CHECK_EQ(reader->name(), std::string("some memory"));
  CHECK(Holds(ReadAt(*reader, 10, 90), data, 10));
  CHECK_EQ(ReadAt(*reader, 100, 0).size(), 0);
  CHECK_THROWS(kTruncated, ReadAt(*reader, 11, 90));
  CHECK_THROWS(kTruncated, ReadAt(*reader, 101, 0));
  CHECK_THROWS(kTruncated, ReadAt(*reader, UINT64_MAX, 2));
  Bytes a(3), b(0), c(5);
  const std::span<std::byte> outs[] = {a, b, c};
  reader->ReadScatter(7, outs);
  CHECK(Holds(a, data, 7));
  CHECK(Holds(c, data, 10));
}

TEST(TruncationNamesPathAndRange) {
  const auto reader = MakeMemoryReader({}, "x.bin");
  try {
    ReadAt(*reader, 5, 7);
    CHECK(false);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kTruncated);
    CHECK_EQ(error.place().path, std::string("x.bin"));
    CHECK_EQ(error.place().begin.value_or(0), 5);
    CHECK_EQ(error.place().end.value_or(0), 12);
  }
}

TEST(ReadsInEveryModeAtEveryMisalignment) {
  const TempDir dir;
  // Not a whole number of blocks, so that the last one is short.
  const Bytes file = Pattern(300 * 1024 + 123);
  WriteFile(dir / "f", file);
  const auto buffer = Buffer::Allocate(kMiB);
  for (const ReadMode mode : kModes) {
    const auto reader = FileReader::Open(dir / "f", mode);
    CHECK_EQ(reader->size(), file.size());
    for (const std::size_t offset : {0U, 1U, 8U, 511U, 512U, 513U, 4095U, 4096U, 5000U}) {
      for (const std::size_t size :
           {0U, 1U, 511U, 512U, 513U, 1024U, 1535U, 4096U, 8191U, 16384U, 70000U}) {
        for (const std::size_t skew : {0U, 1U, 4U, 64U, 511U, 512U, 904U}) {
          const auto out = buffer->bytes().subspan(4096 + skew, size);
          std::byte& before = buffer->bytes()[4096 + skew - 1];
          std::byte& after = buffer->bytes()[4096 + skew + size];
          before = after = std::byte{0xA5};
          reader->ReadAt(offset, out);
          CHECK(Holds(out, file, offset));
          CHECK(before == std::byte{0xA5} && after == std::byte{0xA5});
        }
      }
    }
    // To the very end, and all of it.
    for (const std::size_t size : {1U, 100U, 123U, 124U, 635U, 5000U}) {
      CHECK(Holds(ReadAt(*reader, file.size() - size, size), file, file.size() - size));
    }
    CHECK(ReadAt(*reader, 0, file.size()) == file);
    CHECK_THROWS(kTruncated, ReadAt(*reader, file.size() - 10, 11));
    CHECK_THROWS(kTruncated, ReadAt(*reader, UINT64_MAX - 3, 8));
  }
}

TEST(LargeReadsInEveryMode) {
  const TempDir dir;
  const Bytes file = Pattern(40 * kMiB + 777);
  WriteFile(dir / "f", file);
  for (const ReadMode mode : kModes) {
    for (const std::size_t skew : {0U, 3U}) {
      DropCache(dir / "f");
      const auto reader = FileReader::Open(dir / "f", mode);
      const auto buffer = Buffer::Allocate(file.size() + skew);
      const auto out = buffer->bytes().subspan(skew, file.size() - 5);
      reader->ReadAt(5, out);
      CHECK(Holds(out, file, 5));
    }
  }
}

TEST(PartlyCachedFilesReadTheSame) {
  const TempDir dir;
  const Bytes file = Pattern(20 * kMiB + 99);
  WriteFile(dir / "f", file);
  const auto reader = FileReader::Open(dir / "f", ReadMode::kAuto);
  const auto buffered = FileReader::Open(dir / "f", ReadMode::kBuffered);
  const auto buffer = Buffer::Allocate(file.size());
  for (const std::size_t piece : {std::size_t{4096}, std::size_t{200000}, 3 * kMiB}) {
    DropCache(dir / "f");
    for (std::size_t at = 0; at + piece <= file.size(); at += 2 * piece) {
      ReadAt(*buffered, at, piece);
    }
    std::fill(buffer->bytes().begin(), buffer->bytes().end(), std::byte{0});
    reader->ReadAt(0, buffer->bytes());
    CHECK(Holds(buffer->bytes(), file, 0));
  }
}

TEST(ScatterInEveryMode) {
  const TempDir dir;
  const Bytes file = Pattern(3 * kMiB);
  WriteFile(dir / "f", file);
  for (const ReadMode mode : kModes) {
    for (const bool cold : {false, true}) {
      if (cold) DropCache(dir / "f");
      const auto reader = FileReader::Open(dir / "f", mode);
      // More parts than one call takes, of all small sizes, some empty, and one large.
      std::vector<Bytes> parts;
      for (std::size_t i = 0; i < IOV_MAX + 700; ++i) parts.emplace_back(i % 700);
      parts.emplace_back(kMiB + 3);
      std::vector<std::span<std::byte>> outs(parts.begin(), parts.end());
      reader->ReadScatter(1001, outs);
      std::size_t at = 1001;
      bool equal = true;
      for (const Bytes& part : parts) {
        equal = equal && Holds(part, file, at);
        at += part.size();
      }
      CHECK(equal);
      CHECK_THROWS(kTruncated, reader->ReadScatter(file.size() - 1000, outs));
    }
  }
}

TEST(EmptyFile) {
  const TempDir dir;
  WriteFile(dir / "f", {});
  for (const ReadMode mode : kModes) {
    const auto reader = FileReader::Open(dir / "f", mode);
    CHECK_EQ(reader->size(), 0);
    CHECK_EQ(ReadAt(*reader, 0, 0).size(), 0);
    CHECK_THROWS(kTruncated, ReadAt(*reader, 0, 1));
    CHECK_EQ(reader->Map()->bytes().size(), 0);
    CHECK_EQ(reader->Residency(0, 0), 1.0);
  }
}

TEST(WhatIsNotAFileIsRefusedByName) {
  const TempDir dir;
  const auto message = [](const std::string& path) {
    try {
      FileReader::Open(path);
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::kFormat);
      CHECK_EQ(error.place().path, path);
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(message(dir.path()).find("a directory") != std::string::npos);
  CHECK_EQ(mkfifo((dir / "fifo").c_str(), 0600), 0);
  CHECK(message(dir / "fifo").find("a FIFO") != std::string::npos);  // and without waiting
  CHECK(message("/dev/null").find("a character device") != std::string::npos);

  // A socket cannot be opened at all; the system's own words must do.
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, (dir / "socket").c_str(), sizeof(address.sun_path) - 1);
  CHECK_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  CHECK_THROWS(kStorage, FileReader::Open(dir / "socket"));
  close(fd);
}

TEST(MissingFiles) {
  const TempDir dir;
  CHECK_THROWS(kNotFound, FileReader::Open(dir / "none"));
  WriteFile(dir / "f", Pattern(1));
  CHECK_THROWS(kNotFound, FileReader::Open(dir / "f/below"));
  CHECK_THROWS(kNotFound, FileReader::Open(""));
  std::filesystem::create_symlink("nowhere", dir / "dangling");
  CHECK_THROWS(kNotFound, FileReader::Open(dir / "dangling"));
}

TEST(IdentityIsPinned) {
  const TempDir dir;
  WriteFile(dir / "f", Pattern(10));
  const auto reader = FileReader::Open(dir / "f");
  struct stat info = {};
  CHECK_EQ(stat((dir / "f").c_str(), &info), 0);
  CHECK_EQ(reader->inode(), info.st_ino);
  CHECK_EQ(reader->device(), info.st_dev);
  CHECK_EQ(reader->mtime_ns() / 1'000'000'000, info.st_mtim.tv_sec);
  CHECK(!reader->on_network());
}

TEST(ChangesAreSeen) {
  const TempDir dir;
  const std::string path = dir / "f";
  WriteFile(path, Pattern(10000));
  auto reader = FileReader::Open(path);
  reader->CheckUnchanged();

  // Replaced by rename: the old file is still whole.
  WriteFile(dir / "g", Pattern(10000, 2));
  std::filesystem::rename(dir / "g", path);
  reader->CheckUnchanged();
  CHECK(ReadAt(*reader, 0, 10000) == Pattern(10000));
  CHECK(reader->Map()->bytes().size() == 10000);

  reader = FileReader::Open(path);
  std::filesystem::resize_file(path, 10001);
  CHECK_THROWS(kChanged, reader->CheckUnchanged());
  CHECK_THROWS(kChanged, reader->Map());

  reader = FileReader::Open(path);
  const utimbuf times{1000, 1000};
  CHECK_EQ(utime(path.c_str(), &times), 0);
  CHECK_THROWS(kChanged, reader->CheckUnchanged());
}

TEST(AFileCutShortWhileItIsOpen) {
  const TempDir dir;
  const std::string path = dir / "f";
  for (const ReadMode mode : kModes) {
    WriteFile(path, Pattern(2 * kMiB));
    const auto reader = FileReader::Open(path, mode);
    std::filesystem::resize_file(path, kMiB + 700);
    CHECK_THROWS(kTruncated, ReadAt(*reader, 0, 2 * kMiB));
    CHECK_THROWS(kTruncated, ReadAt(*reader, kMiB + 699, 2));
    Bytes a(kMiB), b(kMiB);
    const std::span<std::byte> outs[] = {a, b};
    CHECK_THROWS(kTruncated, reader->ReadScatter(0, outs));
    CHECK_THROWS(kChanged, reader->Map());
    CHECK(Holds(ReadAt(*reader, 10, kMiB), Pattern(2 * kMiB), 10));  // what is there can be read
  }
}

TEST(AForbiddenFile) {
  if (geteuid() != 0) return;
  const TempDir dir;
  WriteFile(dir / "f", Pattern(1));
  CHECK_EQ(chmod(dir.path().c_str(), 0755), 0);
  CHECK_EQ(chmod((dir / "f").c_str(), 0), 0);
  const int status = RunInChild([&] {
    if (setresuid(65534, 65534, 65534) != 0) return 1;
    try {
      FileReader::Open(dir / "f");
    } catch (const Error& error) {
      return error.code() == ErrorCode::kAccess && error.sys_errno() == EACCES ? 0 : 2;
    }
    return 3;
  });
  CHECK_EQ(status, 0);
}

TEST(MapsTheWholeFile) {
  const TempDir dir;
  const Bytes file = Pattern(100001);
  WriteFile(dir / "f", file);
  std::shared_ptr<weightlift::MappedFile> map;
  {
    const auto reader = FileReader::Open(dir / "f");
    map = reader->Map();
  }
  std::filesystem::remove(dir / "f");
  CHECK_EQ(map->bytes().size(), file.size());
  CHECK(Holds(map->bytes(), file, 0));
}

TEST(InterruptedAndShortReadsGoOn) {
  const TempDir dir;
  const Bytes file = Pattern(kMiB + 33);
  WriteFile(dir / "f", file);
  for (const ReadMode mode : {ReadMode::kBuffered, ReadMode::kDirect}) {
    const auto reader = FileReader::Open(dir / "f", mode);
    std::atomic<int> calls{0};
    const faults::Inject inject([&](const faults::Call& call) -> std::optional<long> {
      if (call.name != "pread" && call.name != "preadv") return std::nullopt;
      const int turn = calls++;
      if (turn % 3 == 0) return -EINTR;
      // Direct transfers stop at a block; buffered ones anywhere.
      return faults::IsDirect(call.fd) ? 4096 * (1 + turn % 5) : 1 + turn * 7919 % 40000;
    });
    CHECK(Holds(ReadAt(*reader, 3, kMiB), file, 3));
    Bytes a(100), b(0), c(5000), d(300000);
    const std::span<std::byte> outs[] = {a, b, c, d};
    reader->ReadScatter(17, outs);
    CHECK(Holds(a, file, 17));
    CHECK(Holds(c, file, 117));
    CHECK(Holds(d, file, 5117));
    CHECK(calls.load() > 10);
  }
}

TEST(InputErrorsKeepTheirErrno) {
  const TempDir dir;
  WriteFile(dir / "f", Pattern(kMiB));
  for (const ReadMode mode : {ReadMode::kBuffered, ReadMode::kDirect}) {
    const auto reader = FileReader::Open(dir / "f", mode);
    const faults::Inject inject([&](const faults::Call& call) -> std::optional<long> {
      if (call.name == "pread" || call.name == "preadv") return -EIO;
      return std::nullopt;
    });
    const auto check = [&](const std::function<void()>& read) {
      try {
        read();
        CHECK(false);
      } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::kStorage);
        CHECK_EQ(error.sys_errno(), EIO);
        CHECK_EQ(error.place().path, dir / "f");
        CHECK_EQ(error.place().begin.value_or(0), 4096);
        CHECK_EQ(error.place().end.value_or(0), 4096 + 300000);
      }
    };
    Bytes out(300000);
    const std::span<std::byte> halves[] = {std::span(out).first(100000),
                                           std::span(out).subspan(100000)};
    check([&] { reader->ReadAt(4096, out); });
    check([&] { reader->ReadScatter(4096, halves); });
  }
}

TEST(ARefusedDirectReadFallsBack) {
  const TempDir dir;
  const Bytes file = Pattern(kMiB);
  WriteFile(dir / "f", file);
  const auto reader = FileReader::Open(dir / "f", ReadMode::kDirect);
  std::atomic<int> direct_calls{0};
  const faults::Inject inject([&](const faults::Call& call) -> std::optional<long> {
    if ((call.name == "pread" || call.name == "preadv") && faults::IsDirect(call.fd)) {
      ++direct_calls;
      return -EINVAL;
    }
    return std::nullopt;
  });
  for (int round = 0; round < 3; ++round) CHECK(ReadAt(*reader, 0, kMiB) == file);
  CHECK(direct_calls.load() <= 1);  // for good
}

TEST(ReadersOnManyThreads) {
  const TempDir dir;
  const Bytes file = Pattern(8 * kMiB);
  WriteFile(dir / "f", file);
  for (const ReadMode mode : kModes) {
    const auto reader = FileReader::Open(dir / "f", mode);
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (std::size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t i = 0; i < 20; ++i) {
          const std::size_t offset = (t * 977 + i * 131071) % (7 * kMiB);
          if (!Holds(ReadAt(*reader, offset, kMiB - 13), file, offset)) ++wrong;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK_EQ(wrong.load(), 0);
  }
}

}  // namespace
