// What is written, and when it is seen.
#include "weightlift/writer.h"

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "faults.h"
#include "temp_dir.h"
#include "weightlift/buffer.h"
#include "writer_support.h"

namespace {

using namespace writer_support;

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

}  // namespace
