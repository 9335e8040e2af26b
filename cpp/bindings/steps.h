// Python's step tuples (see _core.pyi) as the core's steps; for every binding that takes pipelines.
#ifndef WEIGHTLIFT_BINDINGS_STEPS_H_
#define WEIGHTLIFT_BINDINGS_STEPS_H_

#include "bindings.h"
#include "weightlift/convert.h"
#include "weightlift/dtype.h"

namespace weightlift::bindings {

// Throws Error(kInvalidArgument) when `name` is not a string that names an element type.
DType DTypeFromPython(py::handle name);

// From a sequence of step tuples. Throws Error(kInvalidArgument) when one is not a known step or
// the steps do not fit together.
Pipeline PipelineFromPython(py::handle steps);

}  // namespace weightlift::bindings

#endif  // WEIGHTLIFT_BINDINGS_STEPS_H_
