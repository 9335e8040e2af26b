// Header parsers and the validation of extents, for Python: columns in, columns out.
#include "weightlift/layout.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bindings.h"
#include "shapes.h"
#include "weightlift/error.h"

namespace weightlift::bindings {
namespace {

template <typename T>
std::span<const T> Values(const Column<T>& column) {
  return {column.data(), static_cast<std::size_t>(column.size())};
}

py::object Owned(PyObject* object) {
  if (object == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(object);
}

py::object Text(std::string_view text) {
  return Owned(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), nullptr));
}

py::tuple HeaderColumns(const SafetensorsHeader& header) {
  const std::size_t n = header.tensors.size();
  const auto count = static_cast<Py_ssize_t>(n);
  py::list names(count);
  py::list shapes(count);
  py::list types;
  py::array_t<std::uint32_t> type_index(count);
  py::array_t<std::uint64_t> begin(count);
  py::array_t<std::uint64_t> end(count);
  py::array_t<std::uint32_t> order(count);
  std::uint32_t* const order_column = order.mutable_data();
  std::uint32_t* const type_column = type_index.mutable_data();
  std::uint64_t* const begin_column = begin.mutable_data();
  std::uint64_t* const end_column = end.mutable_data();
  std::vector<std::optional<std::uint32_t>> type_number(SafetensorsTypes().size());
  ShapeTuples tuples;
  for (std::size_t i = 0; i < n; ++i) {
    const SafetensorsTensor& tensor = header.tensors[i];
    const auto at = static_cast<Py_ssize_t>(i);
    PyList_SET_ITEM(names.ptr(), at, Text(tensor.name).release().ptr());
    PyList_SET_ITEM(shapes.ptr(), at, tuples.Get(header.shape(tensor)));
    std::optional<std::uint32_t>& number = type_number[tensor.type];
    if (!number) {
      number = static_cast<std::uint32_t>(types.size());
      types.append(Text(SafetensorsTypes()[tensor.type].name));
    }
    type_column[i] = *number;
    begin_column[i] = tensor.begin;
    end_column[i] = tensor.end;
    order_column[tensor.listed] = static_cast<std::uint32_t>(i);
  }
  py::dict metadata;
  for (const auto& [key, value] : header.metadata) metadata[Text(key)] = Text(value);
  return py::make_tuple(names, types, type_index, shapes, begin, end, metadata, header.table_digest,
                        order);
}

py::tuple ParseSafetensors(const py::bytes& json, std::uint64_t data_size,
                           const std::string& path) {
  const std::string_view text(PyBytes_AS_STRING(json.ptr()),
                              static_cast<std::size_t>(PyBytes_GET_SIZE(json.ptr())));
  try {
    const SafetensorsHeader header = [&] {
      py::gil_scoped_release release;
      return ParseSafetensorsHeader(text, data_size);
    }();
    return HeaderColumns(header);
  } catch (Error& error) {
    error.place().path = path;
    throw;
  }
}

py::list SafetensorsTypeNames() {
  py::list names;
  for (const SafetensorsType& type : SafetensorsTypes()) {
    names.append(py::make_tuple(Text(type.name), Text(Info(type.dtype).name)));
  }
  return names;
}

// The texts of a sequence of str, as views that live as long as the sequence does.
class Texts {
 public:
  // `fault` is what text that is not Unicode is.
  Texts(const py::handle& sequence, const char* what, ErrorCode fault = ErrorCode::kFormat)
      : items_(Owned(PySequence_Fast(sequence.ptr(), what))) {
    const Py_ssize_t n = PySequence_Fast_GET_SIZE(items_.ptr());
    views_.reserve(static_cast<std::size_t>(n));
    for (Py_ssize_t i = 0; i < n; ++i) {
      PyObject* const item = PySequence_Fast_GET_ITEM(items_.ptr(), i);
      if (!PyUnicode_Check(item)) throw py::type_error(what);
      Py_ssize_t size = 0;
      const char* const text = PyUnicode_AsUTF8AndSize(item, &size);
      if (text == nullptr) {
        PyErr_Clear();
        throw Error(fault, "a name holds half a surrogate pair: " +
                               py::repr(py::handle(item)).cast<std::string>());
      }
      views_.emplace_back(text, static_cast<std::size_t>(size));
    }
  }
  std::span<const std::string_view> views() const { return views_; }

 private:
  py::object items_;
  std::vector<std::string_view> views_;
};

// All dimensions of a sequence of tuples of int, one after another.
struct Dimensions {
  std::vector<std::int64_t> values;
  std::vector<std::size_t> first{0};
};

// `names` are those of the tensors, for the error.
Dimensions Flatten(const py::handle& shapes, std::span<const std::string_view> names) {
  const py::object items = Owned(PySequence_Fast(shapes.ptr(), "shapes is not a sequence"));
  const Py_ssize_t n = PySequence_Fast_GET_SIZE(items.ptr());
  Dimensions dimensions;
  dimensions.first.reserve(static_cast<std::size_t>(n) + 1);
  dimensions.values.reserve(2 * static_cast<std::size_t>(n));
  for (Py_ssize_t i = 0; i < n; ++i) {
    PyObject* const shape = PySequence_Fast_GET_ITEM(items.ptr(), i);
    if (!PyTuple_Check(shape)) throw py::type_error("a shape is not a tuple");
    const Py_ssize_t rank = PyTuple_GET_SIZE(shape);
    for (Py_ssize_t axis = 0; axis < rank; ++axis) {
      int overflow = 0;
      const long long value =
          PyLong_AsLongLongAndOverflow(PyTuple_GET_ITEM(shape, axis), &overflow);
      if (value == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
      if (overflow != 0) {
        ErrorPlace place;
        if (static_cast<std::size_t>(i) < names.size()) {
          place.tensor_name = names[static_cast<std::size_t>(i)];
        }
        throw Error(ErrorCode::kFormat, "a dimension is beyond 64 bits", std::move(place));
      }
      dimensions.values.push_back(value);
    }
    dimensions.first.push_back(dimensions.values.size());
  }
  return dimensions;
}

// The core's numbers of the types of a header, by their spellings.
std::vector<std::uint32_t> TypeNumbers(const std::vector<std::string>& spellings) {
  const std::span<const SafetensorsType> known = SafetensorsTypes();
  std::vector<std::uint32_t> numbers;
  for (const std::string& spelling : spellings) {
    const auto found = std::ranges::find(known, spelling, &SafetensorsType::name);
    if (found == known.end()) {
      throw Error(ErrorCode::kInvalidArgument, "no safetensors type is spelled " + spelling);
    }
    numbers.push_back(static_cast<std::uint32_t>(found - known.begin()));
  }
  return numbers;
}

// Reading the header back gives its digest, and holds sizes against shapes before anything is
// written.
py::tuple WriteSafetensors(const py::object& names, const std::vector<std::string>& types,
                           const Column<std::uint32_t>& type_index, const py::object& shapes,
                           const Column<std::uint64_t>& begin, const Column<std::uint64_t>& end,
                           const std::string& metadata, std::uint64_t data_size,
                           std::uint64_t alignment) {
  const Texts texts(names, "names is not a sequence of str", ErrorCode::kUnsupported);
  const std::size_t n = texts.views().size();
  const Dimensions dimensions = Flatten(shapes, texts.views());
  std::vector<std::uint32_t> type(Values(type_index).begin(), Values(type_index).end());
  const auto fits = [n](std::size_t size) { return size == n; };
  if (!fits(type.size()) || !fits(dimensions.first.size() - 1) || !fits(Values(begin).size()) ||
      !fits(Values(end).size()) || alignment == 0) {
    throw Error(ErrorCode::kInvalidArgument, "the columns of the tensors do not fit together");
  }
  const std::vector<std::uint32_t> numbers = TypeNumbers(types);
  for (std::uint32_t& t : type) {
    if (t >= numbers.size()) throw Error(ErrorCode::kInvalidArgument, "no such type");
    t = numbers[t];
  }
  const SafetensorsRows rows{.names = texts.views(),
                             .type = type,
                             .dimensions = dimensions.values,
                             .first_dimension = dimensions.first,
                             .begin = Values(begin),
                             .end = Values(end)};
  std::string text;
  std::uint32_t digest = 0;
  {
    const py::gil_scoped_release release;
    text = WriteSafetensorsHeader(rows, metadata, alignment);
    const std::string_view json = std::string_view(text).substr(kSafetensorsLengthBytes);
    digest = ParseSafetensorsHeader(json, data_size).table_digest;
  }
  return py::make_tuple(py::bytes(text), digest);
}

void Validate(const py::object& names, const py::object& shapes, const Column<std::uint32_t>& bits,
              const Column<bool>& plain, const Column<std::uint32_t>& source,
              const Column<std::uint64_t>& offset, const Column<std::uint64_t>& nbytes,
              const Column<std::uint32_t>& piece_tensor, const Column<std::uint32_t>& piece_source,
              const Column<std::uint64_t>& piece_offset, const Column<std::uint64_t>& piece_nbytes,
              const Column<std::uint64_t>& source_sizes, const py::object& source_names,
              bool allow_overlap, const Column<std::uint32_t>& strided) {
  const Texts name_texts(names, "names is not a sequence of str");
  const Texts source_texts(source_names, "source_names is not a sequence of str");
  const Dimensions dimensions = Flatten(shapes, name_texts.views());
  if (piece_source.size() != piece_tensor.size() || piece_offset.size() != piece_tensor.size() ||
      piece_nbytes.size() != piece_tensor.size()) {
    throw Error(ErrorCode::kInvalidArgument, "the columns of the pieces do not fit together");
  }
  std::vector<ExtentTable::Piece> pieces;
  pieces.reserve(static_cast<std::size_t>(piece_tensor.size()));
  for (py::ssize_t i = 0; i < piece_tensor.size(); ++i) {
    pieces.push_back({piece_tensor.data()[i], piece_source.data()[i], piece_offset.data()[i],
                      piece_nbytes.data()[i]});
  }
  const ExtentTable table{
      .names = name_texts.views(),
      .dimensions = dimensions.values,
      .first_dimension = dimensions.first,
      .bits = Values(bits),
      .plain = Values(plain),
      .source = Values(source),
      .offset = Values(offset),
      .nbytes = Values(nbytes),
      .strided = Values(strided),
      .pieces = pieces,
      .source_sizes = Values(source_sizes),
      .source_names = source_texts.views(),
  };
  py::gil_scoped_release release;
  ValidateExtents(table, allow_overlap ? Overlap::kAllowed : Overlap::kRefused);
}

}  // namespace

void BindLayout(py::module_& m) {
  m.def("parse_safetensors", &ParseSafetensors, py::arg("header"), py::arg("data_size"),
        py::arg("path"), "Parse a safetensors header strictly; columns in data order.");
  m.def("write_safetensors_header", &WriteSafetensors, py::arg("names"), py::arg("types"),
        py::arg("type_index"), py::arg("shapes"), py::arg("begin"), py::arg("end"),
        py::arg("metadata"), py::arg("data_size"), py::arg("alignment"),
        "The beginning of a safetensors file, and the digest of its table.");
  m.def("safetensors_types", &SafetensorsTypeNames,
        "(spelling in a safetensors header, name in the dtype table) of every type.");
  m.def("validate_extents", &Validate, py::arg("names"), py::arg("shapes"), py::arg("bits"),
        py::arg("plain"), py::arg("source"), py::arg("offset"), py::arg("nbytes"),
        py::arg("piece_tensor"), py::arg("piece_source"), py::arg("piece_offset"),
        py::arg("piece_nbytes"), py::arg("source_sizes"), py::arg("source_names"),
        py::arg("allow_overlap"), py::arg("strided"), "Check a table of tensors in one pass.");
}

}  // namespace weightlift::bindings
