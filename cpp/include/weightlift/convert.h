// Element conversions: what undoes (or makes) an encoding, as data.
//
// A `Step` says what happens to each element; a `Pipeline` is a chain of steps compiled for running
// over tiles that stay in cache. Steps are fixed-size: n elements in, n elements out. Everything is
// pure and thread-safe; memory may be unaligned; src and dst must not overlap unless said so.
//
// The quantisation arithmetic is TensorFlow.js's (docs/formats/tfjs.md), bit for bit, in float64.
#ifndef WEIGHTLIFT_CONVERT_H_
#define WEIGHTLIFT_CONVERT_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "weightlift/dtype.h"

namespace weightlift {

// Reverses the bytes of each word of 2, 4, 8 or 16 bytes (complex64 is two words of 4).
struct Byteswap {
  std::uint32_t word;
  std::uint32_t item;  // bytes an element (a multiple of word)
};

// Value conversion between any two of: the floats (float64, float32, float16, bfloat16 and the
// float8 types), the integers and bool, the complex types. To a float: round to nearest, ties to
// even; NaN stays NaN, infinities stay where the target has them. Out of range: `saturate` false
// gives what IEEE and ml_dtypes give (infinity, or NaN where the type has no infinity), true gives
// the largest finite value. Float to integer truncates toward zero and saturates, NaN gives 0.
struct CastTo {
  DType from;
  DType to;
  bool saturate = false;
};

// Stored uint8 or uint16 -> float32, or -> int32 (Math.round: half up): value * scale + min.
struct AffineDecode {
  DType stored;
  DType to;
  double scale;
  double min;
};

// float32 -> uint8 or uint16: round half to even of (clip(x, min, max) - min) / scale, in float64.
struct AffineEncode {
  DType stored;
  double scale;
  double min;
  double max;
};

using Step = std::variant<Byteswap, CastTo, AffineDecode, AffineEncode>;

// Throws Error(kInvalidArgument) when steps do not fit together or a cast is not offered.
class Pipeline {
 public:
  Pipeline() = default;  // the identity over single bytes
  explicit Pipeline(std::vector<Step> steps);

  bool identity() const noexcept { return steps_.empty(); }
  std::size_t in_item() const noexcept { return in_item_; }    // bytes an element read
  std::size_t out_item() const noexcept { return out_item_; }  // bytes an element written

  // Converts n elements. Uses per-thread scratch where there is more than one step.
  void Run(const std::byte* src, std::byte* dst, std::size_t n) const;

 private:
  std::vector<Step> steps_;
  std::size_t in_item_ = 1;
  std::size_t out_item_ = 1;
  std::vector<std::vector<float>> tables_;  // one a step; AffineDecode's 256 or 65,536 values
};

bool CanCast(DType from, DType to) noexcept;

// The smallest and largest value; NaN when any element is NaN; n must not be 0.
struct MinMax {
  float min;
  float max;
};
MinMax FindMinMax(std::span<const float> values) noexcept;

// The parameters TensorFlow.js's converter would write for this range (levels: 255 or 65,535).
struct AffineParameters {
  double scale;
  double min;
  double max;
};
AffineParameters ChooseAffine(float min, float max, std::uint32_t levels) noexcept;

}  // namespace weightlift

#endif  // WEIGHTLIFT_CONVERT_H_
