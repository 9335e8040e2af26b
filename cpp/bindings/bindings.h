// What the binding files share: one Bind function a topic, and the one error translator.
#ifndef WEIGHTLIFT_BINDINGS_H_
#define WEIGHTLIFT_BINDINGS_H_

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace weightlift::bindings {

namespace py = pybind11;

void BindErrors(py::module_& m);   // errors.cc: core Error -> weightlift.errors.*
void BindDTypes(py::module_& m);   // dtypes.cc
void BindKernels(py::module_& m);  // kernels.cc
void BindMemory(py::module_& m);   // memory.cc: Buffer, BufferPool, MappedFile, make_arrays
void BindFiles(py::module_& m);    // files.cc: readers and writers
void BindPlans(py::module_& m);    // plans.cc: execute_read, execute_write, coalesce
void BindLayout(py::module_& m);   // layout.cc: header parsers and validation

}  // namespace weightlift::bindings

#endif  // WEIGHTLIFT_BINDINGS_H_
