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
#include <variant>
#include <vector>

#include "weightlift/dtype.h"

namespace weightlift {

// Reverses the bytes of each word of 2, 4, 8 or 16 bytes (complex64 is two words of 4).
struct Byteswap {
  std::uint32_t word;
  std::uint32_t item;  // bytes an element (a multiple of word)
};

// Value conversion between any two of: float64, float32, float16, bfloat16, the float8 types, the
// integers and bool; or between the two complex types.
//
// To a float: the value of the source is rounded once, to nearest, ties to even (float8_e8m0fnu:
// ties up; what is not positive becomes NaN). NaN stays NaN: float16 keeps the upper bits of the
// payload, bfloat16 and the float8 types only the sign, if they have one. Infinities stay where the
// target has them. Out of range, `saturate` false gives what IEEE and ml_dtypes give (infinity, or
// NaN where the type has no infinity); true gives the largest finite value. Float to integer
// truncates toward zero and saturates; NaN gives 0. Integer to integer keeps the low bits, as NumPy
// does; with `saturate` it gives the nearest value instead. To bool: not equal to zero.
struct CastTo {
  DType from;
  DType to;
  bool saturate = false;
};

// Stored uint8 or uint16 -> float32, or -> int32 (ECMAScript's Math.round, half up, then ToInt32):
// value * scale + min.
struct AffineDecode {
  DType stored;
  DType to;
  double scale;
  double min;
};

// float32 -> uint8 or uint16: round half to even of (clip(x, min, max) - min) / scale, in float64,
// kept within the stored type; NaN gives 0. The parameters must be finite, scale > 0, min <= max.
struct AffineEncode {
  DType stored;
  double scale;
  double min;
  double max;
};

using Step = std::variant<Byteswap, CastTo, AffineDecode, AffineEncode>;

// Copyable; Run may be called from any number of threads.
class Pipeline {
 public:
  Pipeline() = default;  // the identity over single bytes

  // Throws Error(kInvalidArgument) when a step is not one that exists or the steps do not fit
  // together.
  explicit Pipeline(const std::vector<Step>& steps);

  bool identity() const noexcept { return stages_.empty(); }
  std::size_t in_item() const noexcept { return in_item_; }    // bytes an element read
  std::size_t out_item() const noexcept { return out_item_; }  // bytes an element written

  // Converts n elements, tile by tile through scratch on the stack where there is more than one
  // stage. Throws only what ActiveIsa (isa.h) throws.
  void Run(const std::byte* src, std::byte* dst, std::size_t n) const;

 private:
  // A step, or one of the two halves of a cast that goes by way of float32.
  struct Stage {
    Step step;
    bool to_odd = false;    // rounds to odd, for the half that follows
    std::size_t units = 1;  // what the kernel counts, an element: 2 for complex types
    std::size_t out_item = 1;
  };

  void Append(const Byteswap& step);
  void Append(const CastTo& step);
  void Append(const AffineDecode& step);
  void Append(const AffineEncode& step);
  void Push(Stage stage, std::size_t in_item);
  static void RunStage(const Stage& stage, const std::byte* src, std::byte* dst, std::size_t n);

  std::vector<Stage> stages_;
  std::size_t in_item_ = 1;
  std::size_t out_item_ = 1;
  std::size_t widest_item_ = 1;  // of all that passes through the tiles
};

bool CanCast(DType from, DType to) noexcept;

// The smallest and the largest value, -0 counting as smaller than +0; both NaN when any element is
// NaN. Throws Error(kInvalidArgument) when n is 0. `values` need not be aligned.
struct MinMax {
  float min;
  float max;
};
MinMax FindMinMax(const std::byte* values, std::size_t n);

// The parameters TensorFlow.js's converter writes for this range (levels: 255 or 65,535): zero,
// where the range includes it, is exactly representable. A NaN or infinite end gives a NaN or
// infinite scale.
struct AffineParameters {
  double scale;
  double min;
  double max;
};
AffineParameters ChooseAffine(float min, float max, std::uint32_t levels) noexcept;

}  // namespace weightlift

#endif  // WEIGHTLIFT_CONVERT_H_
