#include "weightlift/buffer.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "child.h"
#include "sanitizers.h"

namespace {

using weightlift::Buffer;
using weightlift::BufferPool;

constexpr std::uint64_t kMiB = 1 << 20;

std::uintptr_t AddressOf(const Buffer& buffer) {
  return reinterpret_cast<std::uintptr_t>(buffer.bytes().data());
}

bool AllZero(const Buffer& buffer) {
  const auto bytes = buffer.bytes();
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

TEST(NoBytes) {
  const auto buffer = Buffer::Allocate(0);
  CHECK_EQ(buffer->bytes().size(), 0);
  const auto pool = std::make_shared<BufferPool>(kMiB);
  Buffer::Allocate(0, pool).reset();
  CHECK_EQ(pool->held_bytes(), 0);
}

TEST(AlignedZeroFilledWritable) {
  for (const std::uint64_t size : {std::uint64_t{1}, std::uint64_t{4095}, std::uint64_t{4097},
                                   2 * kMiB - 1, 2 * kMiB, 2 * kMiB + 1, 5 * kMiB + 17}) {
    const auto buffer = Buffer::Allocate(size);
    CHECK_EQ(buffer->bytes().size(), size);
    CHECK_EQ(AddressOf(*buffer) % (size >= 2 * kMiB ? 2 * kMiB : 4096), 0);
    CHECK(AllZero(*buffer));
    std::fill(buffer->bytes().begin(), buffer->bytes().end(), std::byte{0xFF});
  }
}

TEST(ManyAlignedBuffersDoNotOverlap) {
  std::vector<std::shared_ptr<Buffer>> buffers;
  for (int i = 0; i < 20; ++i) {
    buffers.push_back(Buffer::Allocate(2 * kMiB + static_cast<std::uint64_t>(i) * 4096));
    std::fill(buffers.back()->bytes().begin(), buffers.back()->bytes().end(),
              static_cast<std::byte>(i + 1));
  }
  for (int i = 0; i < 20; ++i) {
    const auto bytes = buffers[static_cast<std::size_t>(i)]->bytes();
    CHECK(std::all_of(bytes.begin(), bytes.end(),
                      [i](std::byte b) { return b == static_cast<std::byte>(i + 1); }));
  }
}

TEST(HugeSizesFailCleanly) {
  for (const std::uint64_t size :
       {std::uint64_t{1} << 62, std::uint64_t{1} << 50, std::numeric_limits<std::uint64_t>::max(),
        std::numeric_limits<std::uint64_t>::max() - 4096}) {
    CHECK_THROWS(kOutOfMemory, Buffer::Allocate(size));
    try {
      Buffer::Allocate(size, std::make_shared<BufferPool>(kMiB));
    } catch (const weightlift::Error& error) {
      CHECK(std::string(error.what()).find(std::to_string(size)) != std::string::npos);
    }
  }
}

TEST(PoolKeepsAndGivesAgain) {
  const auto pool = std::make_shared<BufferPool>(64 * kMiB);
  auto buffer = Buffer::Allocate(8 * kMiB, pool);
  const std::uintptr_t address = AddressOf(*buffer);
  CHECK_EQ(pool->held_bytes(), 0);
  buffer.reset();
  CHECK_EQ(pool->held_bytes(), 8 * kMiB);
  buffer = Buffer::Allocate(7 * kMiB, pool);
  CHECK_EQ(AddressOf(*buffer), address);
  CHECK_EQ(buffer->bytes().size(), 7 * kMiB);
  CHECK_EQ(pool->held_bytes(), 0);
  buffer.reset();
  CHECK_EQ(pool->held_bytes(), 8 * kMiB);  // the memory keeps its own size
  pool->Clear();
  CHECK_EQ(pool->held_bytes(), 0);
}

TEST(PoolTakesTheBestFit) {
  const auto pool = std::make_shared<BufferPool>(64 * kMiB);
  std::vector<std::shared_ptr<Buffer>> buffers;
  for (const std::uint64_t size : {10U, 6U, 8U}) {
    buffers.push_back(Buffer::Allocate(size * kMiB, pool));
  }
  const std::uintptr_t six = AddressOf(*buffers[1]);
  const std::uintptr_t eight = AddressOf(*buffers[2]);
  buffers.clear();
  const auto first = Buffer::Allocate(6 * kMiB - 5, pool);
  const auto second = Buffer::Allocate(6 * kMiB - 5, pool);
  CHECK_EQ(AddressOf(*first), six);
  CHECK_EQ(AddressOf(*second), eight);
}

TEST(PoolDoesNotWasteMoreThanHalf) {
  const auto pool = std::make_shared<BufferPool>(64 * kMiB);
  Buffer::Allocate(16 * kMiB, pool).reset();
  const auto small = Buffer::Allocate(7 * kMiB, pool);
  CHECK_EQ(pool->held_bytes(), 16 * kMiB);
  const auto half = Buffer::Allocate(8 * kMiB, pool);
  CHECK_EQ(pool->held_bytes(), 0);
}

TEST(PoolIsBounded) {
  const auto pool = std::make_shared<BufferPool>(10 * kMiB);
  auto a = Buffer::Allocate(6 * kMiB, pool);
  auto b = Buffer::Allocate(6 * kMiB, pool);
  auto large = Buffer::Allocate(12 * kMiB, pool);
  a.reset();
  b.reset();
  large.reset();
  CHECK_EQ(pool->held_bytes(), 6 * kMiB);
  const auto none = std::make_shared<BufferPool>(0);
  Buffer::Allocate(kMiB, none).reset();
  CHECK_EQ(none->held_bytes(), 0);
}

TEST(ABufferOutlivesThePoolsOtherOwners) {
  auto pool = std::make_shared<BufferPool>(10 * kMiB);
  const auto buffer = Buffer::Allocate(kMiB, pool);
  pool.reset();
  buffer->bytes()[kMiB - 1] = std::byte{1};
}

TEST(PoolOnManyThreads) {
  const auto pool = std::make_shared<BufferPool>(8 * kMiB);
  std::vector<std::thread> threads;
  std::atomic<int> mixed{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint64_t i = 0; i < 200; ++i) {
        const auto buffer = Buffer::Allocate((1 + i % 7) * 64 * 1024, pool);
        const auto mark = static_cast<std::byte>(t + 1);
        buffer->bytes().front() = mark;
        buffer->bytes().back() = mark;
        std::this_thread::yield();
        if (buffer->bytes().front() != mark || buffer->bytes().back() != mark) ++mixed;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(mixed.load(), 0);
  CHECK(pool->held_bytes() <= 8 * kMiB);
}

TEST(AChildMayUseThePool) {
  if (kThreadSanitizer) return;  // it does not follow a threaded process into its children
  const auto pool = std::make_shared<BufferPool>(8 * kMiB);
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop.load()) Buffer::Allocate(64 * 1024, pool).reset();
  });
  for (int round = 0; round < 20; ++round) {
    const int status = RunInChild([&] {
      alarm(20);  // instead of waiting for a lock for ever
      Buffer::Allocate(64 * 1024, pool).reset();
      pool->Clear();
      return 7;
    });
    CHECK_EQ(status, 7);
  }
  stop = true;
  busy.join();
}

}  // namespace
