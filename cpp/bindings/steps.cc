#include "steps.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "weightlift/error.h"

namespace weightlift::bindings {
namespace {

// The fields of one step tuple, read in order with the type that the step expects.
class Fields {
 public:
  explicit Fields(const py::tuple& tuple) : tuple_(tuple), name_(Field<std::string>(0, "a name")) {}

  const std::string& name() const { return name_; }

  void ExpectCount(std::size_t count) const {
    if (tuple_.size() != count + 1) {
      Refuse("step \"" + name_ + "\" takes " + std::to_string(count) + " fields, not " +
             std::to_string(tuple_.size() - 1));
    }
  }

  std::uint32_t Size(std::size_t index) const {
    return Field<std::uint32_t>(index, "a size in bytes");
  }
  double Number(std::size_t index) const { return Field<double>(index, "a number"); }
  bool Flag(std::size_t index) const { return Field<bool>(index, "a bool"); }
  DType Type(std::size_t index) const { return DTypeFromPython(tuple_[index]); }

 private:
  template <class T>
  T Field(std::size_t index, const char* expected) const {
    try {
      return tuple_[index].cast<T>();
    } catch (const py::cast_error&) {
      Refuse("step " + py::repr(tuple_).cast<std::string>() + ": field " + std::to_string(index) +
             " is not " + expected);
    }
  }

  const py::tuple& tuple_;
  std::string name_;
};

Step StepFromPython(py::handle handle) {
  if (!py::isinstance<py::tuple>(handle) || py::len(handle) == 0) {
    Refuse("a step is a tuple that begins with its name, not " +
           py::repr(handle).cast<std::string>());
  }
  const auto tuple = py::reinterpret_borrow<py::tuple>(handle);
  const Fields fields(tuple);
  if (fields.name() == "byteswap") {
    fields.ExpectCount(2);
    return Byteswap{.word = fields.Size(1), .item = fields.Size(2)};
  }
  if (fields.name() == "cast") {
    fields.ExpectCount(3);
    return CastTo{.from = fields.Type(1), .to = fields.Type(2), .saturate = fields.Flag(3)};
  }
  if (fields.name() == "affine_decode") {
    fields.ExpectCount(4);
    return AffineDecode{.stored = fields.Type(1),
                        .to = fields.Type(2),
                        .scale = fields.Number(3),
                        .min = fields.Number(4)};
  }
  if (fields.name() == "affine_encode") {
    fields.ExpectCount(4);
    return AffineEncode{.stored = fields.Type(1),
                        .scale = fields.Number(2),
                        .min = fields.Number(3),
                        .max = fields.Number(4)};
  }
  Refuse("unknown step \"" + fields.name() +
         "\"; known: byteswap, cast, affine_decode, affine_encode");
}

}  // namespace

DType DTypeFromPython(py::handle name) {
  if (!py::isinstance<py::str>(name)) {
    Refuse("an element type is given by its name, not " + py::repr(name).cast<std::string>());
  }
  const auto text = name.cast<std::string>();
  const auto dtype = DTypeFromName(text);
  if (!dtype) Refuse("unknown element type \"" + text + "\"");
  return *dtype;
}

Pipeline PipelineFromPython(py::handle steps) {
  if (!py::isinstance<py::sequence>(steps) || py::isinstance<py::str>(steps)) {
    Refuse("steps are a sequence of tuples, not " + py::repr(steps).cast<std::string>());
  }
  std::vector<Step> parsed;
  for (const py::handle step : py::reinterpret_borrow<py::sequence>(steps)) {
    parsed.push_back(StepFromPython(step));
  }
  return Pipeline(parsed);
}

}  // namespace weightlift::bindings
