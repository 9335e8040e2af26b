// How fast float32 values become quantised shards on this machine, and shards values again.
//
// save: for each tensor, find the smallest and the largest value, quantise to uint8 piece by piece
// in cache, write the pieces into preallocated shards, rename these over those of the run before.
// load: read the shards piece by piece and decode the pieces into fresh memory on huge pages.
// Nothing is hashed, rounded exactly or synced, and a tensor never straddles shards.
#include <algorithm>
#include <bit>
#include <limits>
#include <optional>

#include "roofline.h"

namespace {

constexpr std::size_t kPieceBytes = 128u
                                    << 10;  // stored; in the second-level cache with its source

struct Grid {
  float scale, min;
};

Grid GridOf(const float* values, std::size_t n) {
  // As integers in the same order, which compilers vectorise as it stands.
  auto low = std::numeric_limits<std::int32_t>::max();
  auto high = std::numeric_limits<std::int32_t>::min();
  const auto flip = [](std::int32_t bits) { return bits ^ ((bits >> 31) & 0x7FFFFFFF); };
  for (std::size_t i = 0; i < n; ++i) {
    const std::int32_t key = flip(std::bit_cast<std::int32_t>(values[i]));
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  const auto min = std::bit_cast<float>(flip(low));
  return {(std::bit_cast<float>(flip(high)) - min) / 255, min};
}

void Quantise(const Grid& grid, const float* values, std::uint8_t* out, std::size_t n) {
  const float factor = 1 / grid.scale;
  const float offset = -grid.min * factor + 0x1p23F;  // the low bits of the sum are the level
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(values[i] * factor + offset));
  }
}

void Decode(const std::uint8_t* levels, float* values, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) values[i] = static_cast<float>(levels[i]) * 0.01F - 1;
}

struct Sizes {
  std::size_t values;   // in all
  std::size_t shard;    // values of one, and so its bytes
  std::size_t tensor;   // values of one
  std::size_t threads;  // that share the shards
};

std::string ShardPath(const std::string& folder, std::size_t begin, const Sizes& sizes) {
  return folder + "/shard" + std::to_string(begin / sizes.shard) + ".bin";
}

void Save(const std::string& folder, const float* values, const Sizes& sizes) {
  roofline::ForPieces(sizes.values, sizes.shard, sizes.threads, [&](std::size_t at, std::size_t n) {
    thread_local std::vector<std::uint8_t> piece(kPieceBytes);
    const std::string path = ShardPath(folder, at, sizes);
    const int fd = roofline::CreateTemporary(path, n, false);
    for (std::size_t tensor = 0; tensor < n; tensor += sizes.tensor) {
      const std::size_t end = std::min(n, tensor + sizes.tensor);
      const Grid grid = GridOf(values + at + tensor, end - tensor);
      for (std::size_t begin = tensor; begin < end; begin += kPieceBytes) {
        const std::size_t count = std::min(kPieceBytes, end - begin);
        Quantise(grid, values + at + begin, piece.data(), count);
        roofline::WriteExact(fd, reinterpret_cast<const std::byte*>(piece.data()), count, begin);
      }
    }
    roofline::Publish(fd, path, false);
  });
}

void Load(const std::string& folder, float* values, const Sizes& sizes) {
  roofline::ForPieces(sizes.values, sizes.shard, sizes.threads, [&](std::size_t at, std::size_t n) {
    thread_local std::vector<std::uint8_t> piece(kPieceBytes);
    const int fd = open(ShardPath(folder, at, sizes).c_str(), O_RDONLY);
    if (fd < 0) roofline::Fail("open");
    for (std::size_t begin = 0; begin < n; begin += kPieceBytes) {
      const std::size_t count = std::min(kPieceBytes, n - begin);
      roofline::ReadExact(fd, reinterpret_cast<std::byte*>(piece.data()), count, begin);
      Decode(piece.data(), values + at + begin, count);
    }
    close(fd);
  });
}

}  // namespace

int main(int argc, char** argv) {
  const roofline::Options options(argc, argv);
  const std::vector<std::string>& words = options.positional();
  if (words.size() != 3 || (words[0] != "save" && words[0] != "load")) {
    roofline::Usage(
        "roofline_quantize save|load FOLDER SIZE [--shard 4194304] [--tensor 1048576] "
        "[--threads 2] [--repeat 1 | --on-request]\nSIZE is bytes of float32; load makes the files "
        "first, untimed");
  }
  const std::size_t size = std::strtoull(words[2].c_str(), nullptr, 10);
  const Sizes sizes{.values = size / sizeof(float),
                    .shard = options.Number("shard", 4u << 20),
                    .tensor = options.Number("tensor", 1u << 20),
                    .threads = options.Number("threads", 2)};
  if (sizes.values == 0 || sizes.shard == 0 || sizes.tensor == 0) roofline::Usage("sizes are 0");
  std::optional<roofline::Memory> source(std::in_place, size, true);
  roofline::FillRandom(source->data(), size);
  auto* const bits = reinterpret_cast<std::uint32_t*>(source->data());
  for (std::size_t i = 0; i < sizes.values; ++i) bits[i] = (bits[i] & 0x807FFFFF) | (121u << 23);
  const auto* const values = reinterpret_cast<const float*>(source->data());
  if (words[0] == "load") {
    Save(words[1], values, sizes);
    source.reset();
  }
  for (roofline::Runs runs(options); runs.Next();) {
    std::optional<roofline::Memory> target;
    const roofline::Stopwatch watch;
    if (words[0] == "save") {
      Save(words[1], values, sizes);
    } else {
      target.emplace(size, true);
      Load(words[1], reinterpret_cast<float*>(target->data()), sizes);
    }
    roofline::Report("quantize", words[0], sizes.threads, size, watch.wall(), watch.cpu());
  }
  return 0;
}
