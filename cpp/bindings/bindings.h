// What the binding files share: one Bind function a topic, and the one error translator.
#ifndef WEIGHTLIFT_BINDINGS_H_
#define WEIGHTLIFT_BINDINGS_H_

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <span>
#include <string>

#include "weightlift/error.h"

namespace weightlift::bindings {

namespace py = pybind11;

// A column of a table or a plan, converted where it has another type.
template <typename T>
using Column = py::array_t<T, py::array::c_style | py::array::forcecast>;

void BindErrors(py::module_& m);   // errors.cc: core Error -> weightlift.errors.*
void BindDTypes(py::module_& m);   // dtypes.cc
void BindKernels(py::module_& m);  // kernels.cc
void BindMemory(py::module_& m);   // memory.cc: Buffer, BufferPool, MappedFile, make_arrays
void BindArrays(py::module_& m);   // arrays.cc: describe_arrays
void BindFiles(py::module_& m);    // files.cc: readers and writers
void BindPlans(py::module_& m);    // plans.cc: execute_read, execute_write, coalesce
void BindLayout(py::module_& m);   // layout.cc: header parsers and validation

// The bytes of any object with a contiguous buffer (bytes, Buffer, MappedFile, an array of any
// dtype), held until destruction. Made, moved and destroyed with the GIL; the bytes may be used
// without it. Throws the Python error (BufferError, TypeError) where the object has none.
class HeldBuffer {
 public:
  enum class Access { kRead, kWrite };
  explicit HeldBuffer(py::handle object, Access access = Access::kRead);
  HeldBuffer(HeldBuffer&& other) noexcept;
  HeldBuffer& operator=(HeldBuffer&&) = delete;
  ~HeldBuffer();

  std::span<std::byte> writable() const noexcept;
  std::span<const std::byte> bytes() const noexcept;
  bool readonly() const noexcept { return view_.readonly != 0; }

 private:
  Py_buffer view_;
};

// A StopPredicate (stop.h) for calls from Python, asked on the thread that made the call. Throws
// what a signal handler raises (Ctrl-C), or Stopped when the call was told to stop
// (weightlift._stopping).
bool CheckInterrupts();

// Throws an Error of ErrorCode::kInvalidArgument: the Python layer has called with what makes no
// sense.
[[noreturn]] void Refuse(const std::string& message);

// For an Error that knows the tensor's index only: fills in its name from `names`, a sequence of
// str (or None).
void NameTensor(Error& error, const py::object& names);

// A path from Python: str, bytes or os.PathLike, in the file system's encoding.
std::string PathFromPython(py::handle path);
// A path or message for Python: bytes that are not text survive (surrogateescape).
py::str TextForPython(const std::string& text);

}  // namespace weightlift::bindings

#endif  // WEIGHTLIFT_BINDINGS_H_
