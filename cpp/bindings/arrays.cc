// What many arrays are, in one pass: 100,000 looks at `.dtype`, `.shape` and `.nbytes` from Python
// take longer than writing the arrays does.
#include <cstdint>
#include <span>
#include <unordered_map>

#include "bindings.h"
#include "shapes.h"

namespace weightlift::bindings {
namespace {

// Numbers dtypes in order of first use. By identity: equal types that are two objects get two
// numbers.
class DTypeNumbers {
 public:
  std::uint32_t Get(const py::array& array) {
    const py::dtype dtype = array.dtype();
    if (dtype.ptr() != last_) {
      last_ = dtype.ptr();
      const auto [found, is_new] = numbers_.try_emplace(last_, numbers_.size());
      if (is_new) dtypes_.append(dtype);  // which keeps it alive, so that its address stays its own
      number_ = found->second;
    }
    return number_;
  }
  const py::list& dtypes() const { return dtypes_; }

 private:
  std::unordered_map<PyObject*, std::uint32_t> numbers_;
  py::list dtypes_;
  PyObject* last_ = nullptr;
  std::uint32_t number_ = 0;
};

py::tuple DescribeArrays(const py::list& arrays) {
  const std::size_t n = arrays.size();
  py::array_t<std::uint32_t> dtype_index(static_cast<py::ssize_t>(n));
  py::array_t<std::uint64_t> nbytes(static_cast<py::ssize_t>(n));
  py::list shapes(n);
  std::uint32_t* const numbers = dtype_index.mutable_data();
  std::uint64_t* const sizes = nbytes.mutable_data();
  DTypeNumbers dtypes;
  ShapeTuples tuples;
  for (std::size_t i = 0; i < n; ++i) {
    const auto at = static_cast<Py_ssize_t>(i);
    const py::handle item = PyList_GET_ITEM(arrays.ptr(), at);
    if (!py::isinstance<py::array>(item)) {
      throw py::type_error("item " + std::to_string(i) + " is not an array");
    }
    const auto array = py::reinterpret_borrow<py::array>(item);
    numbers[i] = dtypes.Get(array);
    sizes[i] = static_cast<std::uint64_t>(array.nbytes());
    // Lengths are not negative, and a signed and an unsigned integer may share memory.
    const auto* const lengths = reinterpret_cast<const std::uint64_t*>(array.shape());
    PyList_SET_ITEM(shapes.ptr(), at,
                    tuples.Get({lengths, static_cast<std::size_t>(array.ndim())}));
  }
  return py::make_tuple(dtypes.dtypes(), dtype_index, nbytes, shapes);
}

}  // namespace

void BindArrays(py::module_& m) {
  static_assert(sizeof(py::ssize_t) == sizeof(std::uint64_t));
  m.def("describe_arrays", &DescribeArrays, py::arg("arrays"),
        "The distinct dtypes of arrays; and of each the number of its dtype, its bytes and shape.");
}

}  // namespace weightlift::bindings
