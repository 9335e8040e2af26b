#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "plan_fakes.h"
#include "weightlift/checksum.h"
#include "weightlift/plan.h"

namespace weightlift {
namespace {

using fakes::ErrorOf;
using fakes::FakeMonitor;
using fakes::FakeReader;
using fakes::RandomBytes;
using Bytes = std::vector<std::byte>;

std::uint64_t Below(std::mt19937& random, std::uint64_t n) { return random() % n; }

// Reads `readers` by `plan` into `buffers`.
std::vector<std::uint32_t> Execute(const ReadPlan& plan,
                                   const std::vector<std::shared_ptr<FakeReader>>& readers,
                                   std::vector<Bytes>& buffers, ExecuteOptions options = {}) {
  const std::vector<std::shared_ptr<const Reader>> shared(readers.begin(), readers.end());
  const std::vector<std::span<std::byte>> spans(buffers.begin(), buffers.end());
  return ExecuteRead(plan, shared, spans, options);
}

// A plan made at random: several sources and buffers, ops in any order, gaps, overlapping sources,
// ops of no bytes, pipelines, bytes that are only hashed.
struct RandomPlan {
  explicit RandomPlan(std::uint32_t seed);
  void Run(ExecuteOptions options);

  std::mt19937 random;
  ReadPlan plan;
  std::vector<std::shared_ptr<FakeReader>> readers;
  std::vector<Bytes> buffers;
};

RandomPlan::RandomPlan(std::uint32_t seed) : random(seed) {
  for (std::uint64_t n = 1 + Below(random, 3); n > 0; --n) {
    readers.push_back(std::make_shared<FakeReader>(
        RandomBytes(Below(random, 4) == 0 ? 70'000 : 1 + Below(random, 4000),
                    static_cast<std::uint32_t>(random()))));
  }
  plan.pipelines.emplace_back(std::vector<Step>{Byteswap{4, 4}});
  plan.pipelines.emplace_back(std::vector<Step>{CastTo{DType::kUInt8, DType::kInt64}});
  plan.pipelines.emplace_back(std::vector<Step>{Byteswap{8, 24}});
  buffers.resize(1 + Below(random, 2));
  const std::size_t tensors = 1 + Below(random, 6);
  for (std::size_t i = 0; i < tensors; ++i) {
    plan.checksums.push_back({.kind = static_cast<ChecksumKind>(Below(random, 3)),
                              .verify = false,
                              .initial = Below(random, 3) == 0 ? 12345u : 0u,
                              .expected = 0});
  }
  for (std::uint64_t n = Below(random, 40); n > 0; --n) {
    ReadOp op{};
    op.source = static_cast<std::uint32_t>(Below(random, readers.size()));
    const std::uint64_t size = readers[op.source]->size();
    op.tensor =
        Below(random, 8) == 0 ? kNoIndex : static_cast<std::uint32_t>(Below(random, tensors));
    const bool follows = !plan.ops.empty() && Below(random, 2) == 0;
    if (follows) op.source = plan.ops.back().source;
    op.offset = follows
                    ? std::min(plan.ops.back().end() + Below(random, 4), readers[op.source]->size())
                    : Below(random, size + 1);
    op.nbytes =
        Below(random, 5) == 0 ? 0 : Below(random, readers[op.source]->size() - op.offset + 1);
    op.buffer = Below(random, 5) == 0 ? kNoIndex
                                      : static_cast<std::uint32_t>(Below(random, buffers.size()));
    op.pipeline = op.buffer == kNoIndex || Below(random, 2) == 0
                      ? kNoIndex
                      : static_cast<std::uint32_t>(Below(random, plan.pipelines.size()));
    std::uint64_t output = op.nbytes;
    if (op.pipeline != kNoIndex) {
      const Pipeline& pipeline = plan.pipelines[op.pipeline];
      op.nbytes -= op.nbytes % pipeline.in_item();
      output = op.nbytes / pipeline.in_item() * pipeline.out_item();
    }
    if (op.buffer != kNoIndex) {
      op.dest = buffers[op.buffer].size() + Below(random, 3);
      buffers[op.buffer].resize(op.dest + output, std::byte{0xAA});
    }
    plan.ops.push_back(op);
  }
}

// Runs the plan and a simple model of it, one op after another, and compares.
void RandomPlan::Run(ExecuteOptions options) {
  std::vector<Bytes> expected = buffers;
  std::vector<std::uint32_t> sums;
  for (const ChecksumSpec& spec : plan.checksums) {
    sums.push_back(spec.kind == ChecksumKind::kNone ? 0 : spec.initial);
  }
  for (const ReadOp& op : plan.ops) {
    const std::span<const std::byte> stored =
        std::span<const std::byte>(readers[op.source]->bytes()).subspan(op.offset, op.nbytes);
    if (op.tensor != kNoIndex) {
      std::uint32_t& sum = sums[op.tensor];
      if (plan.checksums[op.tensor].kind == ChecksumKind::kCrc32c) sum = Crc32c(stored, sum);
      if (plan.checksums[op.tensor].kind == ChecksumKind::kCrc32) sum = Crc32(stored, sum);
    }
    if (op.buffer == kNoIndex) continue;
    const auto target = std::span<std::byte>(expected[op.buffer]).subspan(op.dest);
    if (op.pipeline == kNoIndex) {
      std::copy(stored.begin(), stored.end(), target.begin());
    } else {
      const Pipeline& pipeline = plan.pipelines[op.pipeline];
      pipeline.Run(stored.data(), target.data(), stored.size() / pipeline.in_item());
    }
  }
  CHECK(Execute(plan, readers, buffers, options) == sums);
  for (std::size_t i = 0; i < buffers.size(); ++i) CHECK(buffers[i] == expected[i]);
}

TEST(RandomPlansAreLikeTheModel) {
  constexpr std::array<std::uint64_t, 6> kTaskBytes = {0, 1, 7, 64, 1000, 40'000};
  for (std::uint32_t seed = 0; seed < 300; ++seed) {
    RandomPlan random(seed);
    for (const auto& reader : random.readers) {
      reader->cached = seed % 5 < 2 ? 0.3 : 1;
      reader->streams = seed % 7 < 3;
    }
    random.Run({.threads = static_cast<int>(seed % 4),
                .monitor = nullptr,
                .task_bytes = kTaskBytes[seed % kTaskBytes.size()]});
  }
}

// One source of `n` tensors of `each` bytes, into one buffer, with CRC-32C that matches.
struct Tensors {
  Tensors(std::size_t n, std::size_t each)
      : reader(std::make_shared<FakeReader>(RandomBytes(n * each, 7))),
        buffers(1, Bytes(n * each)) {
    for (std::size_t i = 0; i < n; ++i) {
      const std::uint64_t at = i * each;
      plan.ops.push_back({.source = 0,
                          .tensor = static_cast<std::uint32_t>(i),
                          .offset = at,
                          .nbytes = each,
                          .buffer = 0,
                          .pipeline = kNoIndex,
                          .dest = at});
      plan.checksums.push_back({.kind = ChecksumKind::kCrc32c,
                                .verify = true,
                                .initial = 0,
                                .expected = Crc32c({reader->bytes().data() + at, each})});
    }
  }
  std::vector<std::uint32_t> Run(ExecuteOptions options = {}) {
    return Execute(plan, {reader}, buffers, options);
  }

  std::shared_ptr<FakeReader> reader;
  std::vector<Bytes> buffers;
  ReadPlan plan;
};

TEST(LargePlanOnThePool) {
  for (const bool streams : {false, true}) {
    Tensors tensors(9, 1'000'003);
    tensors.reader->streams = streams;
    tensors.Run();
    CHECK(tensors.buffers[0] == tensors.reader->bytes());
  }
}

TEST(ColdTasksAreReadByOneCallWhereverTheyLand) {
  for (const std::size_t shift : {0u, 1u}) {
    Tensors tensors(3, 700'000);
    tensors.reader->cached = 0;
    Bytes memory(3 * 700'000 + 4096);
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    const std::span<std::byte> out =
        std::span<std::byte>(memory).subspan(4096 - address % 4096 + shift, 3 * 700'000 - shift);
    tensors.plan.ops[2].nbytes -= shift;
    tensors.plan.checksums[2].verify = false;
    const std::vector<std::shared_ptr<const Reader>> readers = {tensors.reader};
    ExecuteRead(tensors.plan, readers, {{out}},
                {.threads = 1, .monitor = nullptr, .task_bytes = 4u << 20});
    CHECK(std::equal(out.begin(), out.end(), tensors.reader->bytes().begin()));
    CHECK_EQ(tensors.reader->calls.load(), 1);
  }
}

TEST(AdjacentOpsAreReadByOneCall) {
  Tensors tensors(100, 1000);
  tensors.Run();
  CHECK_EQ(tensors.reader->calls.load(), 1);
}

void FlipABit(bool streams) {
  Tensors tensors(20, 5000);
  tensors.reader->streams = streams;
  tensors.reader->bytes()[7 * 5000 + 4999] ^= std::byte{1};
  const Error error =
      ErrorOf([&] { tensors.Run({.threads = 2, .monitor = nullptr, .task_bytes = 3000}); });
  CHECK(error.code() == ErrorCode::kChecksum);
  CHECK_EQ(error.place().tensor.value_or(0), 7u);
  CHECK_EQ(error.place().begin.value_or(0), 35'000u);
  CHECK_EQ(error.place().end.value_or(0), 40'000u);
  CHECK_EQ(error.place().path, "fake");
  CHECK(std::string(error.what()).find("expected 0x") != std::string::npos);
}

TEST(FlippedBitIsFoundAndNamed) {
  FlipABit(false);
  FlipABit(true);
}

TEST(ComputedChecksumIsNotCompared) {
  Tensors tensors(3, 50);
  for (ChecksumSpec& spec : tensors.plan.checksums) spec.verify = false;
  const std::uint32_t right = tensors.plan.checksums[1].expected;
  tensors.plan.checksums[1].expected = 0;
  CHECK_EQ(tensors.Run()[1], right);
}

TEST(FirstErrorInPlanOrderWins) {
  for (const std::uint64_t task_bytes : {100u, 5000u, 1'000'000u}) {
    for (int round = 0; round < 10; ++round) {
      Tensors tensors(40, 20'000);
      // In the file, op 0 comes last: plan order is not file order.
      std::reverse(tensors.plan.ops.begin(), tensors.plan.ops.end());
      tensors.reader->bad_bytes = {3, 5 * 20'000 + 1, 30 * 20'000 + 19'999};
      const ExecuteOptions options{.threads = 4, .monitor = nullptr, .task_bytes = task_bytes};
      const Error failed = ErrorOf([&] { tensors.Run(options); });
      CHECK(failed.code() == ErrorCode::kStorage);
      CHECK_EQ(failed.place().tensor.value_or(0), 30u);
      // Damage that comes before the failure in the plan is the first error.
      tensors.reader->bytes()[31 * 20'000] ^= std::byte{1};
      const Error damaged = ErrorOf([&] { tensors.Run(options); });
      CHECK(damaged.code() == ErrorCode::kChecksum);
      CHECK_EQ(damaged.place().tensor.value_or(0), 31u);
      // A source that changed explains both.
      tensors.reader->changed = true;
      CHECK_THROWS(kChanged, tensors.Run(options));
    }
  }
}

TEST(DamageAfterAFailureIsNotReported) {
  Tensors tensors(40, 20'000);
  tensors.reader->bad_bytes = {5 * 20'000};
  tensors.reader->bytes()[6 * 20'000] ^= std::byte{1};
  CHECK_THROWS(kStorage, tensors.Run({.threads = 4, .monitor = nullptr, .task_bytes = 5000}));
}

TEST(ChangedSourceIsReportedThoughAllWentWell) {
  Tensors tensors(3, 50);
  tensors.reader->changed = true;
  CHECK_THROWS(kChanged, tensors.Run());
}

TEST(EndOfSourceIsCheckedBeforeReading) {
  Tensors tensors(3, 50);
  tensors.reader->bytes().resize(149);
  const Error error = ErrorOf([&] { tensors.Run(); });
  CHECK(error.code() == ErrorCode::kTruncated);
  CHECK_EQ(error.place().tensor.value_or(0), 2u);
  CHECK_EQ(tensors.reader->calls.load(), 0);
}

TEST(ImpossiblePlansAreRefused) {
  const auto refused = [](const auto& spoil) {
    Tensors tensors(3, 50);
    tensors.plan.pipelines.emplace_back(std::vector<Step>{Byteswap{4, 4}});
    spoil(tensors.plan.ops[1]);
    CHECK_THROWS(kInvalidArgument, tensors.Run());
    CHECK_EQ(tensors.reader->calls.load(), 0);
  };
  refused([](ReadOp& op) { op.source = 1; });
  refused([](ReadOp& op) { op.tensor = 3; });
  refused([](ReadOp& op) { op.buffer = 1; });
  refused([](ReadOp& op) { op.pipeline = 1; });
  refused([](ReadOp& op) { op.pipeline = 0; });  // 50 bytes are not whole words of 4
  refused([](ReadOp& op) { op.dest = 101; });
  refused([](ReadOp& op) { op.dest = ~std::uint64_t{0}; });
  refused([](ReadOp& op) {
    op.buffer = kNoIndex;
    op.pipeline = 0;
    op.nbytes = 48;
  });
  Tensors tensors(3, 50);
  tensors.plan.ops[1].offset = ~std::uint64_t{0};
  CHECK_THROWS(kTruncated, tensors.Run());
  CHECK_THROWS(kInvalidArgument, Execute(tensors.plan, {nullptr}, tensors.buffers));
}

TEST(EmptyPlanTicksOnce) {
  int ticks = 0;
  FakeMonitor monitor([&](std::uint64_t done, std::uint64_t total) {
    ++ticks;
    CHECK_EQ(done, 0u);
    CHECK_EQ(total, 0u);
  });
  std::vector<Bytes> buffers;
  CHECK(Execute({}, {}, buffers, {.threads = 0, .monitor = &monitor, .task_bytes = 0}).empty());
  CHECK_EQ(ticks, 1);
}

TEST(ProgressIsMonotoneAndComplete) {
  Tensors tensors(64, 100'000);
  std::uint64_t last = 0;
  FakeMonitor monitor([&](std::uint64_t done, std::uint64_t total) {
    CHECK(done >= last && done <= total);
    CHECK_EQ(total, 6'400'000u);
    last = done;
  });
  tensors.Run({.threads = 2, .monitor = &monitor, .task_bytes = 0});
  CHECK_EQ(last, 6'400'000u);
}

// Each read takes a while.
class SlowReader final : public Reader {
 public:
  std::uint64_t size() const noexcept override { return 1u << 30; }
  const std::string& name() const noexcept override { return name_; }
  void ReadAt(std::uint64_t, std::span<std::byte>) const override {
    std::this_thread::sleep_for(std::chrono::milliseconds(40));
  }

 private:
  std::string name_ = "slow";
};

TEST(MonitorCancelsWithin100Milliseconds) {
  ReadPlan plan;
  plan.ops.push_back({.source = 0,
                      .tensor = kNoIndex,
                      .offset = 0,
                      .nbytes = 1u << 30,
                      .buffer = kNoIndex,
                      .pipeline = kNoIndex,
                      .dest = 0});
  const std::vector<std::shared_ptr<const Reader>> readers = {std::make_shared<SlowReader>()};
  std::chrono::steady_clock::time_point cancelled;
  FakeMonitor monitor([&](std::uint64_t, std::uint64_t) {
    cancelled = std::chrono::steady_clock::now();
    throw std::runtime_error("enough");
  });
  bool thrown = false;
  try {
    ExecuteRead(plan, readers, {}, {.threads = 2, .monitor = &monitor, .task_bytes = 0});
  } catch (const std::runtime_error& error) {
    thrown = std::string(error.what()) == "enough";
  }
  CHECK(thrown);
  // A generous limit: the machine may be busy.
  CHECK(std::chrono::steady_clock::now() - cancelled < std::chrono::milliseconds(1000));
}

}  // namespace
}  // namespace weightlift
