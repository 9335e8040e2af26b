// Shapes as Python tuples. Models repeat few shapes many times, and a tuple that is shared costs
// nothing.
#ifndef WEIGHTLIFT_BINDINGS_SHAPES_H_
#define WEIGHTLIFT_BINDINGS_SHAPES_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "bindings.h"

namespace weightlift::bindings {

class ShapeTuples {
 public:
  // A new reference.
  PyObject* Get(std::span<const std::uint64_t> shape) {
    std::uint64_t hash = shape.size();
    for (const std::uint64_t dimension : shape) hash = (hash ^ dimension) * 0x9E3779B97F4A7C15;
    Entry& entry = entries_[hash >> 56];
    if (!entry.tuple || !std::ranges::equal(entry.shape, shape)) {
      entry.tuple = Make(shape);
      entry.shape.assign(shape.begin(), shape.end());
    }
    return py::object(entry.tuple).release().ptr();
  }

 private:
  struct Entry {
    std::vector<std::uint64_t> shape;
    py::object tuple;
  };

  static py::object Make(std::span<const std::uint64_t> shape) {
    py::tuple tuple(shape.size());
    for (std::size_t axis = 0; axis < shape.size(); ++axis) tuple[axis] = py::int_(shape[axis]);
    return tuple;
  }

  std::array<Entry, 256> entries_;
};

}  // namespace weightlift::bindings

#endif  // WEIGHTLIFT_BINDINGS_SHAPES_H_
