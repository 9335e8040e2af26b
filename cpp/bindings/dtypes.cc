#include <cstddef>
#include <string>

#include "bindings.h"
#include "weightlift/dtype.h"

namespace weightlift::bindings {
namespace {

py::list DTypeTable() {
  py::list table;
  for (const DTypeInfo& info : AllDTypes()) {
    table.append(py::make_tuple(std::string(info.name), static_cast<int>(info.bits),
                                static_cast<int>(info.word)));
  }
  return table;
}

}  // namespace

void BindDTypes(py::module_& m) {
  m.def("dtype_table", DTypeTable,
        "(name, bits, byte-order word) of every element type, in code order.");
}

}  // namespace weightlift::bindings
