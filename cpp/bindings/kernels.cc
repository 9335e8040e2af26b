#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/thread_pool.h"
#include "bindings.h"
#include "steps.h"
#include "weightlift/checksum.h"
#include "weightlift/convert.h"
#include "weightlift/isa.h"

namespace weightlift::bindings {
namespace {

using Bytes = std::span<const std::byte>;

// One task's share: long enough to be worth handing to a thread, short enough to share out evenly.
constexpr std::size_t kTaskBytes = std::size_t{1} << 20;

// Calls work(task, begin, end) for consecutive ranges that cover [0, n).
void InParallel(std::size_t n, std::size_t per_task, int threads,
                const std::function<void(std::size_t, std::size_t, std::size_t)>& work) {
  const std::size_t tasks = n / per_task + (n % per_task != 0 ? 1 : 0);
  RunTasks(tasks,
           [&](std::size_t task, int) {
             const std::size_t begin = task * per_task;
             work(task, begin, std::min(n, begin + per_task));
           },
           {.threads = threads, .on_calling_thread = tasks <= 1, .tick = {}});
}

int CheckThreads(int threads) {
  if (threads < 0) throw py::value_error("threads must not be negative");
  return threads;
}

template <std::uint32_t (*kChecksum)(Bytes, std::uint32_t)>
std::uint32_t Checksum(const py::object& data, std::uint32_t crc) {
  const HeldBuffer held(data);
  const py::gil_scoped_release release;
  return kChecksum(held.bytes(), crc);
}

// The number of elements, when the sizes of source and destination agree on one.
std::size_t CountElements(const Pipeline& pipeline, Bytes src, Bytes dst) {
  const std::size_t n = src.size() / pipeline.in_item();
  if (src.size() % pipeline.in_item() != 0) {
    throw py::value_error("src has " + std::to_string(src.size()) +
                          " bytes, not a whole number of elements of " +
                          std::to_string(pipeline.in_item()));
  }
  if (dst.size() % pipeline.out_item() != 0 || dst.size() / pipeline.out_item() != n) {
    throw py::value_error("dst has " + std::to_string(dst.size()) + " bytes, not " +
                          std::to_string(n) + " elements of " +
                          std::to_string(pipeline.out_item()));
  }
  return n;
}

bool Overlap(Bytes a, Bytes b) {
  const auto before = std::less<const std::byte*>();
  return !a.empty() && !b.empty() && before(a.data(), b.data() + b.size()) &&
         before(b.data(), a.data() + a.size());
}

void RunPipeline(const py::object& steps, const py::object& src, const py::object& dst,
                 int threads) {
  CheckThreads(threads);
  const Pipeline pipeline = PipelineFromPython(steps);
  const HeldBuffer from(src);
  const HeldBuffer to(dst, HeldBuffer::Access::kWrite);
  const std::size_t n = CountElements(pipeline, from.bytes(), to.bytes());
  if (Overlap(from.bytes(), to.bytes())) throw py::value_error("src and dst overlap");

  const std::byte* const source = from.bytes().data();
  std::byte* const target = to.writable().data();
  const py::gil_scoped_release release;
  InParallel(n, std::max<std::size_t>(1, kTaskBytes / pipeline.in_item()), threads,
             [&](std::size_t, std::size_t begin, std::size_t end) {
               pipeline.Run(source + begin * pipeline.in_item(),
                            target + begin * pipeline.out_item(), end - begin);
             });
}

std::pair<float, float> FindMinMaxOf(const py::array& values, int threads) {
  CheckThreads(threads);
  if (!py::isinstance<py::array_t<float>>(values)) {
    throw py::value_error("min_max takes a float32 array, not " +
                          py::str(values.dtype()).cast<std::string>());
  }
  const HeldBuffer held(values);
  const Bytes bytes = held.bytes();
  if (bytes.empty()) throw py::value_error("min_max: the array is empty");

  const py::gil_scoped_release release;
  constexpr std::size_t kPerTask = kTaskBytes / sizeof(float);
  const std::size_t n = bytes.size() / sizeof(float);
  std::vector<MinMax> parts(n / kPerTask + 1, FindMinMax(bytes.data(), 1));
  InParallel(n, kPerTask, threads, [&](std::size_t task, std::size_t begin, std::size_t end) {
    parts[task] = FindMinMax(bytes.data() + begin * sizeof(float), end - begin);
  });
  // The same rule once more: the smallest and the largest of all ends.
  static_assert(sizeof(MinMax) == 2 * sizeof(float));
  const MinMax all = FindMinMax(std::as_bytes(std::span(parts)).data(), parts.size() * 2);
  return {all.min, all.max};
}

std::tuple<double, double, double> ChooseAffineOf(float minimum, float maximum,
                                                  std::uint32_t levels) {
  if (levels == 0) throw py::value_error("choose_affine: levels must be at least 1");
  const AffineParameters chosen = ChooseAffine(minimum, maximum, levels);
  return {chosen.scale, chosen.min, chosen.max};
}

bool CanCastByName(const py::object& source, const py::object& target) {
  return CanCast(DTypeFromPython(source), DTypeFromPython(target));
}

}  // namespace

void BindKernels(py::module_& m) {
  m.def("isa", ActiveIsa, "The instruction set that the kernels use.");
  m.def("available_isas", AvailableIsas,
        "Those that set_isa takes, from the plainest to the best.");
  m.def("set_isa", SetIsa, py::arg("name"),
        "For tests; WEIGHTLIFT_FORCE_ISA does the same at start.");
  m.def("pool_threads", PoolThreads, "How many tasks run at once by default.");

  m.def("crc32c", Checksum<Crc32c>, py::arg("data"), py::arg("crc") = 0,
        "CRC-32C of the bytes of a contiguous array or any buffer.");
  m.def("crc32", Checksum<Crc32>, py::arg("data"), py::arg("crc") = 0,
        "CRC-32 (zip) of the bytes of a contiguous array or any buffer.");
  m.def("crc32c_combine", Crc32cCombine, py::arg("a"), py::arg("b"), py::arg("b_length"));
  m.def("crc32_combine", Crc32Combine, py::arg("a"), py::arg("b"), py::arg("b_length"));

  m.def("run_pipeline", RunPipeline, py::arg("steps"), py::arg("src"), py::arg("dst"),
        py::arg("threads") = 0,
        "Convert every element of contiguous src into contiguous dst (bytes are reinterpreted).");
  m.def("can_cast", CanCastByName, py::arg("source"), py::arg("target"));
  m.def("min_max", FindMinMaxOf, py::arg("values"), py::arg("threads") = 0,
        "Of a contiguous float32 array; (nan, nan) if any is NaN; ValueError when empty.");
  m.def("choose_affine", ChooseAffineOf, py::arg("minimum"), py::arg("maximum"), py::arg("levels"),
        "(scale, min, max) as TensorFlow.js's converter computes them.");
}

}  // namespace weightlift::bindings
