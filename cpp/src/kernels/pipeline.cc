#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "kernels/dispatch.h"
#include "weightlift/convert.h"
#include "weightlift/error.h"

namespace weightlift {
namespace {

using kernels::ConvertFn;
using kernels::KernelTable;

// What passes between two stages at a time: two of these stay in the first-level cache.
constexpr std::size_t kTileBytes = std::size_t{8} << 10;

std::size_t Index(DType dtype) { return static_cast<std::size_t>(dtype); }

std::size_t ItemBytes(DType dtype) { return Info(dtype).bits / 8; }

bool IsComplex(DType dtype) { return dtype == DType::kComplex64 || dtype == DType::kComplex128; }

// A complex number converts as its two parts.
DType Part(DType dtype) {
  if (dtype == DType::kComplex64) return DType::kFloat32;
  if (dtype == DType::kComplex128) return DType::kFloat64;
  return dtype;
}

std::string Name(DType dtype) { return std::string(Info(dtype).name); }

[[noreturn]] void Refuse(const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, message);
}

void CheckStored(DType stored, const char* step) {
  if (stored != DType::kUInt8 && stored != DType::kUInt16) {
    Refuse(std::string(step) + ": stored type must be uint8 or uint16, not " + Name(stored));
  }
}

}  // namespace

bool CanCast(DType from, DType to) noexcept {
  return Info(from).bits >= 8 && Info(to).bits >= 8 && IsComplex(from) == IsComplex(to);
}

Pipeline::Pipeline(const std::vector<Step>& steps) {
  for (const Step& step : steps) {
    std::visit([this](const auto& known) { Append(known); }, step);
  }
}

// `in_item` is the element size that the stage reads.
void Pipeline::Push(Stage stage, std::size_t in_item) {
  if (stages_.empty()) {
    in_item_ = in_item;
  } else if (in_item != out_item_) {
    Refuse("steps do not fit together: one writes elements of " + std::to_string(out_item_) +
           " bytes, the next one reads elements of " + std::to_string(in_item));
  }
  out_item_ = stage.out_item;
  widest_item_ = std::max({widest_item_, in_item, out_item_});
  stages_.push_back(std::move(stage));
}

void Pipeline::Append(const Byteswap& step) {
  const bool is_word = step.word == 2 || step.word == 4 || step.word == 8 || step.word == 16;
  if (!is_word) {
    Refuse("byteswap: words of " + std::to_string(step.word) + " bytes, not of 2, 4, 8 or 16");
  }
  if (step.item == 0 || step.item % step.word != 0 || step.item > kTileBytes) {
    Refuse("byteswap: elements of " + std::to_string(step.item) +
           " bytes are not a small number of " + std::to_string(step.word) + "-byte words");
  }
  Push({.step = step, .units = step.item / step.word, .out_item = step.item}, step.item);
}

void Pipeline::Append(const CastTo& step) {
  if (!CanCast(step.from, step.to)) {
    Refuse("no cast from " + Name(step.from) + " to " + Name(step.to));
  }
  const KernelTable& offered = kernels::PortableKernels();
  const std::size_t in_item = ItemBytes(step.from);
  const std::size_t out_item = ItemBytes(step.to);
  const CastTo parts{Part(step.from), Part(step.to), step.saturate};
  if (offered.CastEntry(parts.from, parts.to, parts.saturate) != nullptr) {
    const std::size_t units = IsComplex(step.from) ? 2 : 1;
    Push({.step = parts, .units = units, .out_item = out_item}, in_item);
    return;
  }
  // By way of float32, which either holds the source exactly or takes it rounded to odd.
  const bool to_odd = offered.to_odd_float32[Index(step.from)] != nullptr;
  Push({.step = CastTo{step.from, DType::kFloat32, false}, .to_odd = to_odd, .out_item = 4},
       in_item);
  Push({.step = CastTo{DType::kFloat32, step.to, step.saturate}, .out_item = out_item}, 4);
}

void Pipeline::Append(const AffineDecode& step) {
  CheckStored(step.stored, "affine_decode");
  if (step.to != DType::kFloat32 && step.to != DType::kInt32) {
    Refuse("affine_decode: target type must be float32 or int32, not " + Name(step.to));
  }
  Push({.step = step, .out_item = 4}, ItemBytes(step.stored));
}

void Pipeline::Append(const AffineEncode& step) {
  CheckStored(step.stored, "affine_encode");
  const bool are_finite =
      std::isfinite(step.scale) && std::isfinite(step.min) && std::isfinite(step.max);
  if (!are_finite || step.scale <= 0 || step.min > step.max) {
    Refuse("affine_encode: needs finite parameters with scale > 0 and min <= max, not scale " +
           std::to_string(step.scale) + ", min " + std::to_string(step.min) + ", max " +
           std::to_string(step.max));
  }
  Push({.step = step, .out_item = ItemBytes(step.stored)}, 4);
}

void Pipeline::RunStage(const Stage& stage, const std::byte* src, std::byte* dst, std::size_t n) {
  const KernelTable& table = kernels::Kernels();
  if (const auto* swap = std::get_if<Byteswap>(&stage.step)) {
    const std::size_t entry = swap->word == 2 ? 0 : swap->word == 4 ? 1 : swap->word == 8 ? 2 : 3;
    table.byteswap[entry](src, dst, n * stage.units);
  } else if (const auto* cast = std::get_if<CastTo>(&stage.step)) {
    const ConvertFn convert = stage.to_odd ? table.to_odd_float32[Index(cast->from)]
                                           : table.CastEntry(cast->from, cast->to, cast->saturate);
    convert(src, dst, n * stage.units);
  } else if (const auto* decode = std::get_if<AffineDecode>(&stage.step)) {
    const std::size_t entry = decode->stored == DType::kUInt16 ? 1 : 0;
    const bool to_float = decode->to == DType::kFloat32;
    (to_float ? table.affine_to_float32 : table.affine_to_int32)[entry](*decode, src, dst, n);
  } else if (const auto* encode = std::get_if<AffineEncode>(&stage.step)) {
    table.affine_encode[encode->stored == DType::kUInt16 ? 1 : 0](*encode, src, dst, n);
  }
}

void Pipeline::Run(const std::byte* src, std::byte* dst, std::size_t n) const {
  if (n == 0) return;
  if (stages_.empty()) {
    std::copy_n(src, n, dst);
    return;
  }
  if (stages_.size() == 1) {
    RunStage(stages_.front(), src, dst, n);
    return;
  }
  // Not initialised: every byte that is read was written by the stage before.
  alignas(64) std::array<std::array<std::byte, kTileBytes>, 2> scratch;
  const std::size_t tile = kTileBytes / widest_item_;
  for (std::size_t begin = 0; begin < n; begin += tile) {
    const std::size_t count = std::min(tile, n - begin);
    const std::byte* from = src + begin * in_item_;
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      const bool is_last = i + 1 == stages_.size();
      std::byte* to = is_last ? dst + begin * out_item_ : scratch[i % 2].data();
      RunStage(stages_[i], from, to, count);
      from = to;
    }
  }
}

MinMax FindMinMax(const std::byte* values, std::size_t n) {
  if (n == 0) Refuse("no smallest value: there are no elements");
  return kernels::Kernels().min_max(values, n);
}

AffineParameters ChooseAffine(float min, float max, std::uint32_t levels) noexcept {
  const auto low = static_cast<double>(min);
  const auto high = static_cast<double>(max);
  if (low == high) return {1.0, low, low};
  const auto steps = static_cast<double>(levels);
  const double scale = (high - low) / steps;
  if (!(low <= 0 && 0 <= high)) return {scale, low, high};
  // Shift the grid so that zero falls on it.
  const double zero_point = std::nearbyint((0 - low) / scale);
  const double shifted = -zero_point * scale;
  return {scale, shifted, steps * scale + shifted};
}

}  // namespace weightlift
