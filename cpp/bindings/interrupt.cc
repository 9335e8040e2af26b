#include "bindings.h"

namespace weightlift::bindings {

bool CheckInterrupts() {
  const py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  py::module_::import("weightlift._stopping").attr("check")();
  return false;
}

}  // namespace weightlift::bindings
