#include "bindings.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "Weightlift's compiled core. Private: see weightlift.";
  using namespace weightlift::bindings;
  BindErrors(m);
  BindDTypes(m);
  BindKernels(m);
  BindMemory(m);
  BindArrays(m);
  BindFiles(m);
  BindPlans(m);
  BindLayout(m);
}
