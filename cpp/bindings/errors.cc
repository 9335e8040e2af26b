#include <cerrno>
#include <exception>

#include "bindings.h"

namespace weightlift::bindings {
namespace {

// The class of weightlift.errors that an Error becomes, or nullptr for Python's own.
const char* ClassName(const Error& error) {
  switch (error.code()) {
    case ErrorCode::kStorage:
      return error.sys_errno() == EDQUOT ? "QuotaError" : "StorageError";
    case ErrorCode::kNotFound:
      return "NotFoundError";
    case ErrorCode::kAccess:
      return "AccessError";
    case ErrorCode::kTruncated:
      return "TruncatedError";
    case ErrorCode::kChanged:
      return "ChangedError";
    case ErrorCode::kFormat:
      return "FormatError";
    case ErrorCode::kChecksum:
      return "ChecksumError";
    case ErrorCode::kUnsupported:
      return "UnsupportedFeatureError";
    case ErrorCode::kUnsafe:
      return "UnsafeContentError";
    case ErrorCode::kCancelled:
      return "WeightliftError";
    case ErrorCode::kTransport:
      return "TransportError";
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kOutOfMemory:
      return nullptr;
  }
  return "WeightliftError";
}

// A mistake of the caller's, or of the machine's: the place goes into the message.
void RaiseBuiltin(const Error& error) {
  std::string text = error.what();
  if (!error.place().path.empty()) text += " [file " + error.place().path + "]";
  PyObject* const type =
      error.code() == ErrorCode::kOutOfMemory ? PyExc_MemoryError : PyExc_ValueError;
  PyErr_SetObject(type, TextForPython(text).ptr());
}

// Readers of the local store are named by absolute paths or paths as given; none has a scheme.
bool IsUrl(const std::string& path) {
  return path.rfind("http://", 0) == 0 || path.rfind("https://", 0) == 0;
}

void Raise(const Error& error) {
  const char* const name = ClassName(error);
  if (name == nullptr) {
    RaiseBuiltin(error);
    return;
  }
  const ErrorPlace& place = error.place();
  py::dict where;
  if (!place.path.empty()) where[IsUrl(place.path) ? "url" : "path"] = TextForPython(place.path);
  if (!place.tensor_name.empty()) {
    where["tensor"] = TextForPython(place.tensor_name);
  } else if (place.tensor) {
    where["tensor"] = py::str("#" + std::to_string(*place.tensor));
  }
  if (place.begin) where["offset"] = py::int_(*place.begin);
  if (place.end) where["end"] = py::int_(*place.end);
  const py::object type = py::module_::import("weightlift.errors").attr(name);
  if (error.code() == ErrorCode::kTransport) {
    if (place.status) where["status"] = py::int_(*place.status);
    if (place.attempts) where["attempts"] = py::int_(*place.attempts);
  }
  const bool storage = PyObject_IsSubclass(type.ptr(), PyExc_OSError) == 1;
  if (storage && error.sys_errno() != 0) where["errno"] = py::int_(error.sys_errno());
  const py::object exception = type(TextForPython(error.what()), **where);
  PyErr_SetObject(type.ptr(), exception.ptr());
}

void Translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const Error& error) {
    try {
      Raise(error);
    } catch (py::error_already_set& failure) {
      failure.restore();  // weightlift.errors itself could not be used
    }
  }
}

}  // namespace

py::str TextForPython(const std::string& text) {
  PyObject* const str =
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "surrogateescape");
  if (str == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(str);
}

std::string PathFromPython(py::handle path) {
  PyObject* encoded = nullptr;
  if (PyUnicode_FSConverter(path.ptr(), &encoded) == 0) throw py::error_already_set();
  return py::reinterpret_steal<py::bytes>(encoded);
}

void Refuse(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

void NameTensor(Error& error, const py::object& names) {
  ErrorPlace& place = error.place();
  if (!place.tensor || !place.tensor_name.empty() || names.is_none()) return;
  if (*place.tensor >= py::len(names)) return;
  place.tensor_name = py::str(names[py::int_(*place.tensor)]);
}

void BindErrors(py::module_& /*m*/) { py::register_local_exception_translator(&Translate); }

}  // namespace weightlift::bindings
