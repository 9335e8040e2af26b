#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "bindings.h"
#include "weightlift/buffer.h"
#include "weightlift/reader.h"

namespace weightlift::bindings {

namespace {

constexpr int kMaxDimensions = 32;  // NumPy 1 has 32, NumPy 2 has 64

py::buffer_info InfoOf(const std::byte* data, std::size_t size, bool readonly) {
  static const std::byte kNothing{};  // NumPy wants an address even for no bytes
  return {const_cast<std::byte*>(data != nullptr ? data : &kNothing),
          1,
          py::format_descriptor<unsigned char>::format(),
          1,
          {static_cast<py::ssize_t>(size)},
          {1},
          readonly};
}

// Makes views of one block of memory.
class ArrayMaker {
 public:
  ArrayMaker(py::object base, bool writeable)
      : base_(std::move(base)), held_(base_), writeable_(writeable && !held_.readonly()) {}

  // Steals nothing; returns a new reference. `offset` is checked against the block.
  PyObject* Make(std::size_t index, std::uint64_t offset, const py::dtype& dtype,
                 std::uint64_t item, PyObject* shape, bool fortran) const;

 private:
  [[noreturn]] static void Refuse(std::size_t index, const std::string& why) {
    throw Error(ErrorCode::kInvalidArgument, "array " + std::to_string(index) + ": " + why);
  }

  const py::object base_;
  const HeldBuffer held_;
  const bool writeable_;
};

PyObject* ArrayMaker::Make(std::size_t index, std::uint64_t offset, const py::dtype& dtype,
                           std::uint64_t item, PyObject* shape, bool fortran) const {
  using Api = py::detail::npy_api;
  static const Api& api = Api::get();

  const Py_ssize_t dimensions = PyTuple_GET_SIZE(shape);
  if (dimensions > kMaxDimensions) Refuse(index, "too many dimensions");
  std::array<Py_intptr_t, kMaxDimensions> lengths;
  std::uint64_t nbytes = item;
  bool overflow = false;
  bool empty = false;
  for (Py_ssize_t i = 0; i < dimensions; ++i) {
    const Py_ssize_t length = PyLong_AsSsize_t(PyTuple_GET_ITEM(shape, i));
    if (length == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    if (length < 0) Refuse(index, "negative length in shape");
    lengths[static_cast<std::size_t>(i)] = length;
    empty |= length == 0;
    overflow |= __builtin_mul_overflow(nbytes, static_cast<std::uint64_t>(length), &nbytes);
  }
  if (empty)
    nbytes = 0;
  else if (overflow)
    Refuse(index, "shape is too large");
  const std::span<std::byte> block = held_.writable();
  if (offset > block.size() || nbytes > block.size() - offset) {
    Refuse(index, "bytes " + std::to_string(offset) + "+" + std::to_string(nbytes) +
                      " are outside the " + std::to_string(block.size()) + " bytes of its base");
  }

  const int flags =
      (writeable_ ? Api::NPY_ARRAY_WRITEABLE_ : 0) | (fortran ? Api::NPY_ARRAY_F_CONTIGUOUS_ : 0);
  PyObject* const array = api.PyArray_NewFromDescr_(api.PyArray_Type_, dtype.inc_ref().ptr(),
                                                    static_cast<int>(dimensions), lengths.data(),
                                                    nullptr, block.data() + offset, flags, nullptr);
  if (array == nullptr) throw py::error_already_set();
  // Steals the reference to base, also when it fails.
  if (api.PyArray_SetBaseObject_(array, base_.inc_ref().ptr()) != 0) {
    Py_DECREF(array);
    throw py::error_already_set();
  }
  return array;
}

// Bytes an element of each dtype; refuses those that cannot be a view of plain memory.
std::vector<std::uint64_t> ItemSizes(const std::vector<py::dtype>& dtypes) {
  std::vector<std::uint64_t> sizes;
  for (const py::dtype& dtype : dtypes) {
    const std::string text = py::str(dtype);
    if (dtype.attr("hasobject").cast<bool>()) {
      throw Error(ErrorCode::kInvalidArgument, "dtype " + text + " holds Python objects");
    }
    if (dtype.itemsize() <= 0) {
      throw Error(ErrorCode::kInvalidArgument, "dtype " + text + " has elements of no bytes");
    }
    sizes.push_back(static_cast<std::uint64_t>(dtype.itemsize()));
  }
  return sizes;
}

py::list MakeArrays(py::object base, const Column<std::uint64_t>& offsets,
                    const std::vector<py::dtype>& dtypes, const Column<std::uint32_t>& dtype_index,
                    const py::sequence& shapes,
                    const std::optional<std::vector<std::size_t>>& fortran, bool writeable) {
  const std::size_t count = py::len(shapes);
  if (offsets.ndim() != 1 || dtype_index.ndim() != 1 ||
      static_cast<std::size_t>(offsets.size()) != count ||
      static_cast<std::size_t>(dtype_index.size()) != count) {
    throw Error(ErrorCode::kInvalidArgument, "offsets, dtype_index and shapes differ in length");
  }
  std::vector<bool> is_fortran(count);
  for (const std::size_t index : fortran.value_or(std::vector<std::size_t>())) {
    if (index >= count) {
      throw Error(ErrorCode::kInvalidArgument,
                  "no array " + std::to_string(index) + " to be Fortran");
    }
    is_fortran[index] = true;
  }
  const std::vector<std::uint64_t> items = ItemSizes(dtypes);
  const ArrayMaker maker(std::move(base), writeable);

  const auto fast_shapes =
      py::reinterpret_steal<py::object>(PySequence_Fast(shapes.ptr(), "shapes is not a sequence"));
  if (!fast_shapes) throw py::error_already_set();
  py::list arrays(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t type = dtype_index.data()[i];
    PyObject* const shape = PySequence_Fast_GET_ITEM(fast_shapes.ptr(), static_cast<Py_ssize_t>(i));
    if (type >= dtypes.size() || PyTuple_Check(shape) == 0) {
      throw Error(ErrorCode::kInvalidArgument,
                  "array " + std::to_string(i) + ": no such dtype, or its shape is not a tuple");
    }
    PyObject* const array =
        maker.Make(i, offsets.data()[i], dtypes[type], items[type], shape, is_fortran[i]);
    PyList_SET_ITEM(arrays.ptr(), static_cast<Py_ssize_t>(i), array);
  }
  return arrays;
}

// Whether two arrays at one address show the same elements.
bool SameView(const py::array& a, const py::array& b) {
  if (a.ndim() != b.ndim() || a.itemsize() != b.itemsize()) return false;
  return std::equal(a.shape(), a.shape() + a.ndim(), b.shape()) &&
         std::equal(a.strides(), a.strides() + a.ndim(), b.strides()) &&
         (a.dtype().is(b.dtype()) || a.dtype().equal(b.dtype()));
}

// Groups of positions, each of two or more arrays that are one memory. Sorting by address leaves
// few pairs to look at closely.
std::vector<std::vector<std::size_t>> SharedMemory(const std::vector<py::array>& arrays) {
  std::vector<std::pair<const void*, std::size_t>> places;
  places.reserve(arrays.size());
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    if (arrays[i].size() > 0) places.emplace_back(arrays[i].data(), i);
  }
  std::ranges::sort(places);
  std::vector<std::vector<std::size_t>> groups;
  for (std::size_t begin = 0; begin < places.size();) {
    std::size_t end = begin + 1;
    while (end < places.size() && places[end].first == places[begin].first) ++end;
    std::vector<bool> taken(end - begin, false);
    for (std::size_t i = begin; end - begin > 1 && i < end; ++i) {
      if (taken[i - begin]) continue;
      std::vector<std::size_t> group{places[i].second};
      for (std::size_t j = i + 1; j < end; ++j) {
        if (!taken[j - begin] && SameView(arrays[places[i].second], arrays[places[j].second])) {
          taken[j - begin] = true;
          group.push_back(places[j].second);
        }
      }
      if (group.size() > 1) groups.push_back(std::move(group));
    }
    begin = end;
  }
  std::ranges::sort(groups);
  return groups;
}

}  // namespace

void BindMemory(py::module_& m) {
  py::class_<BufferPool, std::shared_ptr<BufferPool>>(
      m, "BufferPool",
      "Keeps released load memory, up to ``max_bytes``, for the next load: give it as ``memory=``.")
      .def(py::init<std::uint64_t>(), py::arg("max_bytes"))
      .def_property_readonly("held_bytes", &BufferPool::held_bytes)
      .def("clear", &BufferPool::Clear, py::call_guard<py::gil_scoped_release>());

  py::class_<Buffer, std::shared_ptr<Buffer>>(m, "Buffer", py::buffer_protocol())
      .def(py::init([](std::uint64_t nbytes, std::shared_ptr<BufferPool> pool) {
             return Buffer::Allocate(nbytes, std::move(pool));
           }),
           py::arg("nbytes"), py::arg("pool") = nullptr)
      .def("__len__", [](const Buffer& buffer) { return buffer.bytes().size(); })
      .def_buffer([](Buffer& buffer) {
        return InfoOf(buffer.bytes().data(), buffer.bytes().size(), false);
      });

  py::class_<MappedFile, std::shared_ptr<MappedFile>>(m, "MappedFile", py::buffer_protocol())
      .def("__len__", [](const MappedFile& file) { return file.bytes().size(); })
      .def_buffer(
          [](MappedFile& file) { return InfoOf(file.bytes().data(), file.bytes().size(), true); });

  m.def("shared_memory", &SharedMemory, py::arg("arrays"),
        "Groups of positions whose arrays are one and the same memory.");
  m.def("make_arrays", &MakeArrays, py::arg("base"), py::arg("offsets"), py::arg("dtypes"),
        py::arg("dtype_index"), py::arg("shapes"), py::arg("fortran") = py::none(),
        py::arg("writeable") = true);
}

}  // namespace weightlift::bindings
