#include "bindings.h"

namespace weightlift::bindings {

HeldBuffer::HeldBuffer(py::handle object, Access access) {
  const int flags = access == Access::kWrite ? PyBUF_WRITABLE : PyBUF_SIMPLE;
  if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) throw py::error_already_set();
}

HeldBuffer::HeldBuffer(HeldBuffer&& other) noexcept : view_(other.view_) {
  other.view_.obj = nullptr;  // releasing such a view does nothing
}

HeldBuffer::~HeldBuffer() { PyBuffer_Release(&view_); }

std::span<std::byte> HeldBuffer::writable() const noexcept {
  return {static_cast<std::byte*>(view_.buf), static_cast<std::size_t>(view_.len)};
}

std::span<const std::byte> HeldBuffer::bytes() const noexcept { return writable(); }

}  // namespace weightlift::bindings
