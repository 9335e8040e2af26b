#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "plan/gather.h"
#include "plan_fakes.h"
#include "weightlift/buffer.h"
#include "weightlift/checksum.h"
#include "weightlift/plan.h"

namespace weightlift {
namespace {

using fakes::ErrorOf;
using fakes::FakeMonitor;
using fakes::FakeReader;
using fakes::FakeWriter;
using fakes::RandomBytes;
using Bytes = std::vector<std::byte>;

std::uint64_t Below(std::mt19937& random, std::uint64_t n) { return random() % n; }

// An array of random shape and strides in its own memory.
struct StridedArray {
  explicit StridedArray(std::mt19937& random);
  MemorySource source() const {
    return {.data = memory.data() + origin,
            .nbytes = nbytes,
            .item = item,
            .shape = shape,
            .strides = strides};
  }
  Bytes InCOrder() const;  // element by element

  Bytes memory;
  std::size_t origin = 0;
  std::uint64_t nbytes = 0;
  std::uint32_t item = 1;
  std::vector<std::uint64_t> shape;
  std::vector<std::int64_t> strides;
};

StridedArray::StridedArray(std::mt19937& random) {
  constexpr std::array<std::uint32_t, 7> kItems = {1, 2, 4, 8, 16, 3, 40};
  item = kItems[Below(random, kItems.size())];
  std::vector<std::size_t> order(Below(random, 5));
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::shuffle(order.begin(), order.end(), random);
  nbytes = item;
  for (std::size_t i = 0; i < order.size(); ++i) {
    shape.push_back(Below(random, 20) == 0 ? 0 : 1 + Below(random, i == 0 ? 90 : 9));
    nbytes *= shape.back();
  }
  // Strides as of a packed array with its axes in random order, some reversed, spread or repeated.
  strides.resize(shape.size());
  std::int64_t stride = item;
  std::int64_t below = 0;
  std::int64_t above = item;
  for (const std::size_t axis : order) {
    if (Below(random, 6) == 0) stride *= 2;
    strides[axis] = Below(random, 8) == 0 ? 0 : Below(random, 5) == 0 ? -stride : stride;
    const auto length = static_cast<std::int64_t>(std::max<std::uint64_t>(shape[axis], 1));
    (strides[axis] < 0 ? below : above) += strides[axis] * (length - 1);
    if (strides[axis] != 0) stride *= length;
  }
  memory =
      RandomBytes(static_cast<std::size_t>(above - below), static_cast<std::uint32_t>(random()));
  origin = static_cast<std::size_t>(-below);
}

Bytes StridedArray::InCOrder() const {
  Bytes bytes(nbytes);
  for (std::uint64_t i = 0; i < nbytes / item; ++i) {
    auto at = static_cast<std::int64_t>(origin);
    std::uint64_t rest = i;
    for (std::size_t axis = shape.size(); axis-- > 0; rest /= shape[axis]) {
      at += static_cast<std::int64_t>(rest % shape[axis]) * strides[axis];
    }
    std::memcpy(bytes.data() + i * item, memory.data() + at, item);
  }
  return bytes;
}

TEST(GatherIsLikeElementByElement) {
  std::mt19937 random(3);
  for (int round = 0; round < 1500; ++round) {
    const StridedArray array(random);
    const Gather gather(array.source());
    const Bytes expected = array.InCOrder();
    for (int part = 0; part < 5; ++part) {
      const std::uint64_t begin = part == 0 ? 0 : Below(random, expected.size() + 1);
      const std::uint64_t n =
          part == 0 ? expected.size() : Below(random, expected.size() - begin + 1);
      Bytes out(n);
      gather.Copy(begin, out);
      CHECK(std::equal(out.begin(), out.end(),
                       expected.begin() + static_cast<std::ptrdiff_t>(begin)));
    }
  }
}

TEST(GatherSeesContiguousMemory) {
  const Bytes memory(240);
  const auto contiguous = [&](std::vector<std::uint64_t> shape, std::vector<std::int64_t> strides) {
    return Gather({.data = memory.data(),
                   .nbytes = 240,
                   .item = 4,
                   .shape = std::move(shape),
                   .strides = std::move(strides)})
               .contiguous() != nullptr;
  };
  CHECK(contiguous({}, {}));
  CHECK(contiguous({3, 4, 5}, {80, 20, 4}));
  CHECK(contiguous({1, 60, 1}, {7, 4, -9}));
  CHECK(!contiguous({4, 3, 5}, {20, 80, 4}));
  CHECK(!contiguous({60}, {-4}));
}

// A write plan made at random, and what the files and checksums must be.
struct RandomPlan {
  RandomPlan(std::uint32_t seed, std::size_t alignment);
  void Run(ExecuteOptions options);
  void AddSource();
  void AddOps();

  std::mt19937 random;
  std::size_t alignment;
  WritePlan plan;
  std::vector<std::unique_ptr<StridedArray>> arrays;
  std::vector<std::shared_ptr<FakeReader>> readers;
  std::vector<Bytes> becomes;  // what each source becomes through its pipeline
  std::vector<std::uint32_t> pipelines;
  std::vector<std::uint64_t> sizes;  // of the files
};

RandomPlan::RandomPlan(std::uint32_t seed, std::size_t direct_alignment)
    : random(seed), alignment(direct_alignment) {
  plan.pipelines.emplace_back(std::vector<Step>{CastTo{DType::kUInt8, DType::kInt32}});
  plan.pipelines.emplace_back(std::vector<Step>{Byteswap{2, 2}});
  readers.push_back(std::make_shared<FakeReader>(
      RandomBytes(seed % 8 == 0 ? 700'000 : 3000, static_cast<std::uint32_t>(random()))));
  for (std::uint64_t n = Below(random, 12); n > 0; --n) AddSource();
  AddOps();
  plan.crc32c = Below(random, 4) != 0;
  plan.crc32 = Below(random, 2) != 0;
}

void RandomPlan::AddSource() {
  Bytes input;
  const bool extent = Below(random, 2) == 0;
  std::uint32_t pipeline =
      Below(random, 2) == 0 ? kNoIndex : static_cast<std::uint32_t>(Below(random, 2));
  if (extent) {
    const Bytes& file = readers[0]->bytes();
    ExtentSource source{.reader = 0, .offset = Below(random, file.size()), .nbytes = 0};
    source.nbytes = Below(random, file.size() - source.offset + 1) / 2 * 2;
    const auto begin = file.begin() + static_cast<std::ptrdiff_t>(source.offset);
    input.assign(begin, begin + static_cast<std::ptrdiff_t>(source.nbytes));
    if (Below(random, 2) == 0) {
      const bool crc32 = Below(random, 2) == 0;
      const std::uint32_t initial = Below(random, 2) == 0 ? 99 : 0;
      source.check = static_cast<std::uint32_t>(plan.source_checksums.size());
      plan.source_checksums.push_back(
          {.kind = crc32 ? ChecksumKind::kCrc32 : ChecksumKind::kCrc32c,
           .verify = true,
           .initial = initial,
           .expected = crc32 ? Crc32(input, initial) : Crc32c(input, initial)});
    }
    plan.sources.emplace_back(source);
  } else {
    arrays.push_back(std::make_unique<StridedArray>(random));
    input = arrays.back()->InCOrder();
    if (input.size() % 2 != 0) pipeline = kNoIndex;
    plan.sources.emplace_back(arrays.back()->source());
  }
  Bytes output = input;
  if (pipeline != kNoIndex) {
    const Pipeline& steps = plan.pipelines[pipeline];
    const std::size_t n = input.size() / steps.in_item();
    output.resize(n * steps.out_item());
    steps.Run(input.data(), output.data(), n);
  }
  becomes.push_back(std::move(output));
  pipelines.push_back(pipeline);
}

// Each source whole, in one op or several, over one or several files, with gaps.
void RandomPlan::AddOps() {
  sizes.push_back(Below(random, 50));
  const auto place = [&](std::uint32_t source, std::uint64_t start, std::uint64_t nbytes,
                         std::uint32_t tensor) {
    if (Below(random, 6) == 0) sizes.push_back(Below(random, 50));
    if (Below(random, 3) == 0) sizes.back() += Below(random, 20);
    plan.ops.push_back({.file = static_cast<std::uint32_t>(sizes.size() - 1),
                        .source = source,
                        .offset = sizes.back(),
                        .nbytes = nbytes,
                        .start = start,
                        .pipeline = source == kNoIndex ? kNoIndex : pipelines[source],
                        .tensor = tensor});
    sizes.back() += nbytes;
  };
  for (std::uint32_t i = 0; i < plan.sources.size(); ++i) {
    const auto tensor =
        Below(random, 5) == 0 ? kNoIndex : static_cast<std::uint32_t>(plan.tensors++);
    std::uint64_t at = 0;
    do {
      const std::uint64_t left = becomes[i].size() - at;
      const std::uint64_t n = Below(random, 2) == 0 ? left : Below(random, left + 1);
      place(i, at, n, tensor);
      at += n;
    } while (at < becomes[i].size());
    if (Below(random, 6) == 0) place(kNoIndex, 0, Below(random, 100), tensor);
  }
}

void RandomPlan::Run(ExecuteOptions options) {
  std::vector<Bytes> expected;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> written(sizes.size());  // per file
  std::vector<std::shared_ptr<FakeWriter>> files;
  for (const std::uint64_t size : sizes) {
    expected.emplace_back(size, std::byte{0xEE});
    files.push_back(std::make_shared<FakeWriter>(size, alignment));
  }
  std::vector<Bytes> tensors(plan.tensors);
  std::vector<bool> begun(sizes.size());
  for (const WriteOp& op : plan.ops) {
    Bytes stored(op.nbytes);
    if (op.source != kNoIndex) {
      const auto from = becomes[op.source].begin() + static_cast<std::ptrdiff_t>(op.start);
      stored.assign(from, from + static_cast<std::ptrdiff_t>(op.nbytes));
    }
    Bytes& file = expected[op.file];
    auto& [first, last] = written[op.file];
    if (!begun[op.file]) first = last = op.offset;
    begun[op.file] = true;
    std::fill(file.begin() + static_cast<std::ptrdiff_t>(last),
              file.begin() + static_cast<std::ptrdiff_t>(op.offset), std::byte{0});
    std::copy(stored.begin(), stored.end(), file.begin() + static_cast<std::ptrdiff_t>(op.offset));
    last = op.end();
    if (op.tensor != kNoIndex) {
      tensors[op.tensor].insert(tensors[op.tensor].end(), stored.begin(), stored.end());
    }
  }
  const std::vector<std::shared_ptr<Writer>> writers(files.begin(), files.end());
  const std::vector<std::shared_ptr<const Reader>> shared(readers.begin(), readers.end());
  const WriteReport report = ExecuteWrite(plan, writers, shared, options);
  for (std::size_t i = 0; i < files.size(); ++i) {
    CHECK(files[i]->bytes == expected[i]);
    const auto [first, last] = written[i];
    std::vector<int> once(sizes[i]);
    std::fill(once.begin() + static_cast<std::ptrdiff_t>(first),
              once.begin() + static_cast<std::ptrdiff_t>(last), 1);
    CHECK(files[i]->times == once);
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    CHECK_EQ(report.crc32c[i], plan.crc32c ? Crc32c(tensors[i]) : 0);
    CHECK_EQ(report.crc32[i], plan.crc32 ? Crc32(tensors[i]) : 0);
  }
}

TEST(RandomPlansAreLikeTheModel) {
  constexpr std::array<std::uint64_t, 6> kTaskBytes = {0, 3, 7, 64, 1000, 40'000};
  for (std::uint32_t seed = 0; seed < 200; ++seed) {
    RandomPlan random(seed, seed % 2 == 0 ? 0 : 512);
    random.readers[0]->cached = seed % 5 < 2 ? 0.3 : 1;
    random.Run({.threads = static_cast<int>(seed % 4),
                .monitor = nullptr,
                .task_bytes = seed % 8 == 0 ? 300'000 : kTaskBytes[seed % kTaskBytes.size()]});
  }
}

// `n` tensors of `each` bytes in memory, one after another in one file.
struct Tensors {
  Tensors(std::size_t n, std::size_t each, std::size_t alignment = 0)
      : memory(RandomBytes(n * each, 5)), file(std::make_shared<FakeWriter>(n * each, alignment)) {
    for (std::size_t i = 0; i < n; ++i) {
      plan.sources.emplace_back(MemorySource{
          .data = memory.data() + i * each, .nbytes = each, .item = 1, .shape = {}, .strides = {}});
      plan.ops.push_back({.file = 0,
                          .source = static_cast<std::uint32_t>(i),
                          .offset = i * each,
                          .nbytes = each,
                          .start = 0,
                          .pipeline = kNoIndex,
                          .tensor = static_cast<std::uint32_t>(i)});
    }
    plan.tensors = n;
  }
  WriteReport Run(ExecuteOptions options = {}) {
    const std::vector<std::shared_ptr<Writer>> writers = {file};
    const std::vector<std::shared_ptr<const Reader>> readers = {reader};
    return ExecuteWrite(plan, writers, readers, options);
  }

  Bytes memory;
  std::shared_ptr<FakeReader> reader = std::make_shared<FakeReader>(RandomBytes(100'000, 6));
  std::shared_ptr<FakeWriter> file;
  WritePlan plan;
};

TEST(LargeMemoryIsNotCopiedForABufferedWriter) {
  Tensors tensors(3, 2'000'000);
  tensors.Run();
  CHECK(tensors.file->bytes == tensors.memory);
  for (const std::byte* const source : tensors.file->sources) {
    CHECK(source >= tensors.memory.data());
    CHECK(source < tensors.memory.data() + tensors.memory.size());
  }
}

TEST(SmallTensorsAreGathered) {
  Tensors tensors(1000, 100);
  tensors.Run();
  CHECK(tensors.file->bytes == tensors.memory);
  CHECK_EQ(tensors.file->sources.size(), 1u);
}

TEST(DirectWritesComeFromAlignedMemory) {
  for (const std::size_t shift : {0u, 16u}) {
    Tensors tensors(1, 4u << 20, 512);
    const std::shared_ptr<Buffer> buffer = Buffer::Allocate((4u << 20) + 512);
    const std::span<std::byte> data = buffer->bytes().subspan(shift, 4u << 20);
    std::copy(tensors.memory.begin(), tensors.memory.end(), data.begin());
    std::get<MemorySource>(tensors.plan.sources[0]).data = data.data();
    tensors.Run();
    CHECK(tensors.file->bytes == tensors.memory);
    for (const std::byte* const source : tensors.file->sources) {
      CHECK_EQ(reinterpret_cast<std::uintptr_t>(source) % 512, 0u);
      CHECK_EQ(source >= data.data() && source < data.data() + data.size(), shift == 0);
    }
  }
}

TEST(FailedWriteIsReported) {
  Tensors tensors(10, 100'000);
  tensors.file->bad_byte = 456'789;
  const Error error =
      ErrorOf([&] { tensors.Run({.threads = 2, .monitor = nullptr, .task_bytes = 50'000}); });
  CHECK(error.code() == ErrorCode::kStorage);
  CHECK_EQ(error.sys_errno(), 28);
}

// Tensor i comes from an extent of the reader with a checksum.
void MakeExtent(Tensors& tensors, std::size_t i, std::uint64_t offset, std::uint64_t nbytes) {
  const auto check = static_cast<std::uint32_t>(tensors.plan.source_checksums.size());
  const std::span<const std::byte> bytes =
      std::span<const std::byte>(tensors.reader->bytes()).subspan(offset, nbytes);
  tensors.plan.sources[i] =
      ExtentSource{.reader = 0, .offset = offset, .nbytes = nbytes, .check = check};
  tensors.plan.source_checksums.push_back(
      {.kind = ChecksumKind::kCrc32c, .verify = true, .initial = 0, .expected = Crc32c(bytes)});
}

TEST(DamagedSourceIsFoundAndNamed) {
  Tensors tensors(10, 100);
  for (std::size_t i = 0; i < 10; ++i) MakeExtent(tensors, i, 1000 * i, 100);
  tensors.Run();
  tensors.reader->bytes()[4010] ^= std::byte{4};
  tensors.reader->bytes()[7010] ^= std::byte{4};
  const Error error =
      ErrorOf([&] { tensors.Run({.threads = 2, .monitor = nullptr, .task_bytes = 30}); });
  CHECK(error.code() == ErrorCode::kChecksum);
  CHECK_EQ(error.place().tensor.value_or(0), 4u);
  CHECK_EQ(error.place().begin.value_or(0), 4000u);
  CHECK_EQ(error.place().end.value_or(0), 4100u);
  CHECK_EQ(error.place().path, "fake");
  tensors.reader->bad_bytes = {2050};
  const Error failed = ErrorOf([&] { tensors.Run(); });
  CHECK(failed.code() == ErrorCode::kStorage);
  CHECK_EQ(failed.place().tensor.value_or(0), 2u);
  tensors.reader->changed = true;
  CHECK_THROWS(kChanged, tensors.Run());
}

TEST(OneChecksumOverTwoExtents) {
  Tensors tensors(2, 100);
  MakeExtent(tensors, 0, 50, 100);
  MakeExtent(tensors, 1, 150, 100);
  const std::span<const std::byte> both =
      std::span<const std::byte>(tensors.reader->bytes()).subspan(50, 200);
  tensors.plan.source_checksums[0].expected = Crc32c(both);
  std::get<ExtentSource>(tensors.plan.sources[1]).check = 0;
  tensors.Run({.threads = 1, .monitor = nullptr, .task_bytes = 30});
  tensors.reader->bytes()[249] ^= std::byte{4};
  CHECK_THROWS(kChecksum, tensors.Run());
}

TEST(CheckedSourceMustBeWrittenWholeAndOnce) {
  Tensors part(2, 100);
  MakeExtent(part, 0, 50, 101);
  CHECK_THROWS(kInvalidArgument, part.Run());
  Tensors twice(2, 100);
  MakeExtent(twice, 0, 50, 100);
  twice.plan.ops[1].source = 0;
  CHECK_THROWS(kInvalidArgument, twice.Run());
  Tensors never(2, 100);
  MakeExtent(never, 0, 50, 100);
  never.plan.ops[0].source = 1;
  CHECK_THROWS(kInvalidArgument, never.Run());
}

TEST(ImpossiblePlansAreRefused) {
  const auto refused = [](const auto& spoil) {
    Tensors tensors(3, 50);
    tensors.plan.pipelines.emplace_back(std::vector<Step>{Byteswap{4, 4}});
    spoil(tensors.plan);
    CHECK_THROWS(kInvalidArgument, tensors.Run());
    CHECK_EQ(tensors.file->sources.size(), 0u);
  };
  refused([](WritePlan& plan) { plan.ops[1].file = 1; });
  refused([](WritePlan& plan) { plan.ops[1].source = 3; });
  refused([](WritePlan& plan) { plan.ops[1].tensor = 3; });
  refused([](WritePlan& plan) { plan.ops[1].pipeline = 1; });
  refused([](WritePlan& plan) { plan.ops[1].pipeline = 0; });  // 50 bytes are not whole words
  refused([](WritePlan& plan) { plan.ops[1].start = 1; });
  refused([](WritePlan& plan) { plan.ops[1].offset = 49; });
  refused([](WritePlan& plan) { plan.ops[2].offset = ~std::uint64_t{0}; });
  refused([](WritePlan& plan) { std::swap(plan.ops[0], plan.ops[1]); });
  refused([](WritePlan& plan) { std::get<MemorySource>(plan.sources[1]).data = nullptr; });
  refused([](WritePlan& plan) { std::get<MemorySource>(plan.sources[1]).strides = {1}; });
  refused([](WritePlan& plan) {
    auto& source = std::get<MemorySource>(plan.sources[1]);
    source.shape = {49};
    source.strides = {1};
  });
  refused([](WritePlan& plan) {
    auto& source = std::get<MemorySource>(plan.sources[1]);
    source.shape = {std::uint64_t{1} << 63, 4, 50};  // overflows to nothing
    source.strides = {1, 1, 1};
  });
  refused([](WritePlan& plan) { plan.sources[1] = ExtentSource{.reader = 1, .nbytes = 50}; });
  refused([](WritePlan& plan) {
    plan.sources[1] = ExtentSource{.reader = 0, .nbytes = 50, .check = 0};
  });
  Tensors tensors(3, 50);
  tensors.plan.sources[1] = ExtentSource{.reader = 0, .offset = 99'990, .nbytes = 50};
  CHECK_THROWS(kTruncated, tensors.Run());
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

TEST(MonitorCancels) {
  Tensors tensors(64, 100'000);
  FakeMonitor monitor([&](std::uint64_t, std::uint64_t) { throw std::runtime_error("enough"); });
  bool thrown = false;
  try {
    tensors.Run({.threads = 2, .monitor = &monitor, .task_bytes = 0});
  } catch (const std::runtime_error& error) {
    thrown = std::string(error.what()) == "enough";
  }
  CHECK(thrown);
}

}  // namespace
}  // namespace weightlift
