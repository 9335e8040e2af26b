#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "steps.h"
#include "weightlift/buffer.h"
#include "weightlift/plan.h"

namespace weightlift::bindings {
namespace {

// One column of a plan: as many values as the plan has rows.
template <typename T>
std::span<const T> Rows(const Column<T>& array, std::size_t rows, const char* name) {
  if (array.ndim() != 1 || static_cast<std::size_t>(array.size()) != rows) {
    Refuse(std::string("column ") + name + " does not have " + std::to_string(rows) + " rows");
  }
  return {array.data(), rows};
}

// A column that may be left out: zeros.
template <typename T>
std::vector<T> OptionalRows(const std::optional<Column<T>>& array, std::size_t rows,
                            const char* name) {
  if (!array) return std::vector<T>(rows);
  const std::span<const T> column = Rows(*array, rows, name);
  return {column.begin(), column.end()};
}

template <typename T>
py::array_t<T> ToNumpy(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

std::vector<Pipeline> PipelinesFromPython(const py::sequence& pipelines) {
  std::vector<Pipeline> made;
  for (const py::handle steps : pipelines) made.push_back(PipelineFromPython(steps));
  return made;
}

// The columns that describe checksums; `kind` decides how many there are.
struct CheckColumns {
  std::optional<Column<std::uint8_t>> kind;
  std::optional<Column<std::uint32_t>> initial;
  std::optional<Column<std::uint32_t>> expected;
  std::optional<Column<std::uint8_t>> verify;

  std::vector<ChecksumSpec> Specs() const {
    if (!kind) return {};
    const auto rows = static_cast<std::size_t>(kind->size());
    const std::span<const std::uint8_t> kinds = Rows(*kind, rows, "check kind");
    const auto initials = OptionalRows(initial, rows, "check initial");
    const auto expecteds = OptionalRows(expected, rows, "check expected");
    const auto verifies = OptionalRows(verify, rows, "check verify");
    std::vector<ChecksumSpec> specs(rows);
    for (std::size_t i = 0; i < rows; ++i) {
      if (kinds[i] > static_cast<std::uint8_t>(ChecksumKind::kCrc32)) {
        Refuse("checksum kind " + std::to_string(kinds[i]) + " is not known");
      }
      specs[i] = {.kind = static_cast<ChecksumKind>(kinds[i]),
                  .verify = verifies[i] != 0,
                  .initial = initials[i],
                  .expected = expecteds[i]};
    }
    return specs;
  }
};

// Runs signal handlers and the progress callback, and asks whether the call was stopped; what they
// raise cancels the plan.
class PythonMonitor final : public Monitor {
 public:
  explicit PythonMonitor(py::object progress) : progress_(std::move(progress)) {}

  void Tick(std::uint64_t done, std::uint64_t total) override {
    const py::gil_scoped_acquire gil;
    CheckInterrupts();
    if (!progress_.is_none()) progress_(done, total);
  }

 private:
  const py::object progress_;
};

struct RunArguments {
  py::object names;
  int threads;
  py::object progress;
  std::uint64_t task_bytes;
};

// Calls run(options) without the GIL; errors get the tensor's name.
template <typename Run>
auto RunPlan(const RunArguments& arguments, const Run& run) {
  PythonMonitor monitor(arguments.progress);
  const ExecuteOptions options{
      .threads = arguments.threads, .monitor = &monitor, .task_bytes = arguments.task_bytes};
  try {
    const py::gil_scoped_release release;
    return run(options);
  } catch (Error& error) {
    NameTensor(error, arguments.names);
    throw;
  }
}

// Memory that is written into or read from, held while a plan runs.
class HeldMemory {
 public:
  // Any object with a writable buffer, or an array whose memory is one block in any order.
  std::span<std::byte> Destination(py::handle object) {
    if (!py::isinstance<py::array>(object)) {
      return buffers_.emplace_back(object, HeldBuffer::Access::kWrite).writable();
    }
    auto array = py::reinterpret_borrow<py::array>(object);
    if (!array.writeable()) Refuse("a destination array is read-only");
    if ((array.flags() & (py::array::c_style | py::array::f_style)) == 0) {
      Refuse("a destination array is not one block of memory");
    }
    RefuseObjects(array);
    const std::span<std::byte> bytes(static_cast<std::byte*>(array.mutable_data()),
                                     static_cast<std::size_t>(array.nbytes()));
    objects_.push_back(std::move(array));
    return bytes;
  }

  MemorySource Source(py::handle object) {
    if (!py::isinstance<py::array>(object)) {
      const std::span<const std::byte> bytes = buffers_.emplace_back(object).bytes();
      return {.data = bytes.data(), .nbytes = bytes.size(), .item = 1, .shape = {}, .strides = {}};
    }
    auto array = py::reinterpret_borrow<py::array>(object);
    RefuseObjects(array);
    MemorySource source{.data = static_cast<const std::byte*>(array.data()),
                        .nbytes = static_cast<std::uint64_t>(array.nbytes()),
                        .item = static_cast<std::uint32_t>(array.itemsize()),
                        .shape = {},
                        .strides = {}};
    if ((array.flags() & py::array::c_style) == 0) {
      source.shape.assign(array.shape(), array.shape() + array.ndim());
      source.strides.assign(array.strides(), array.strides() + array.ndim());
    }
    objects_.push_back(std::move(array));
    return source;
  }

 private:
  // Pointers to Python objects are not bytes. Arrays of one plan mostly share their dtypes.
  void RefuseObjects(const py::array& array) {
    const py::dtype dtype = array.dtype();
    if (dtype.is(plain_)) return;
    if (dtype.attr("hasobject").cast<bool>()) {
      throw Error(ErrorCode::kUnsupported, "an array of Python objects has no plain bytes");
    }
    plain_ = dtype;
  }

  std::vector<HeldBuffer> buffers_;
  std::vector<py::object> objects_;
  py::object plain_;  // the last dtype found to hold no objects
};

py::array_t<std::uint32_t> RunRead(
    const std::vector<std::shared_ptr<Reader>>& readers, const py::sequence& buffers,
    const Column<std::uint32_t>& source, const Column<std::uint32_t>& tensor,
    const Column<std::uint64_t>& offset, const Column<std::uint64_t>& nbytes,
    const Column<std::uint32_t>& buffer, const Column<std::uint64_t>& dest,
    const Column<std::uint32_t>& pipeline, const py::sequence& pipelines,
    const CheckColumns& checks, const RunArguments& arguments) {
  const auto rows = static_cast<std::size_t>(source.size());
  const auto sources = Rows(source, rows, "source");
  const auto tensors = Rows(tensor, rows, "tensor");
  const auto offsets = Rows(offset, rows, "offset");
  const auto sizes = Rows(nbytes, rows, "nbytes");
  const auto targets = Rows(buffer, rows, "buffer");
  const auto dests = Rows(dest, rows, "dest");
  const auto steps = Rows(pipeline, rows, "pipeline");
  ReadPlan plan{
      .ops = {}, .pipelines = PipelinesFromPython(pipelines), .checksums = checks.Specs()};
  plan.ops.reserve(rows);
  for (std::size_t i = 0; i < rows; ++i) {
    plan.ops.push_back({.source = sources[i],
                        .tensor = tensors[i],
                        .offset = offsets[i],
                        .nbytes = sizes[i],
                        .buffer = targets[i],
                        .pipeline = steps[i],
                        .dest = dests[i]});
  }
  HeldMemory held;
  std::vector<std::span<std::byte>> destinations;
  for (const py::handle object : buffers) destinations.push_back(held.Destination(object));
  const std::vector<std::shared_ptr<const Reader>> shared(readers.begin(), readers.end());
  return ToNumpy(RunPlan(arguments, [&](const ExecuteOptions& options) {
    return ExecuteRead(plan, shared, destinations, options);
  }));
}

// (reader index, offset, nbytes, check index or -1), or an object with memory.
WriteSource SourceFromPython(py::handle object, HeldMemory& held) {
  if (!py::isinstance<py::tuple>(object)) return held.Source(object);
  const auto [reader, offset, nbytes, check] =
      object.cast<std::tuple<std::uint32_t, std::uint64_t, std::uint64_t, std::int64_t>>();
  if (check < -1 || check >= std::int64_t{kNoIndex}) Refuse("no checksum " + std::to_string(check));
  return ExtentSource{.reader = reader,
                      .offset = offset,
                      .nbytes = nbytes,
                      .check = check < 0 ? kNoIndex : static_cast<std::uint32_t>(check)};
}

// Ranges that the plan finds: (pipeline, source) a row, and where the parameters go.
struct LateColumns {
  std::optional<Column<std::uint32_t>> ranges;
  std::optional<py::array_t<double>> chosen;

  std::vector<LateRange> Ranges() const {
    if (!ranges) return {};
    if (ranges->ndim() != 2 || ranges->shape(1) != 2) Refuse("late_ranges must be pairs");
    if (!chosen || chosen->ndim() != 2 || chosen->shape(0) != ranges->shape(0) ||
        chosen->shape(1) != 3) {
      Refuse("chosen must have three columns and a row for each of late_ranges");
    }
    const auto pairs = ranges->unchecked<2>();
    std::vector<LateRange> made;
    for (py::ssize_t i = 0; i < pairs.shape(0); ++i) made.push_back({pairs(i, 0), pairs(i, 1)});
    return made;
  }

  void Give(const std::vector<AffineParameters>& found) {
    if (found.empty()) return;
    auto rows = chosen->mutable_unchecked<2>();
    for (py::ssize_t i = 0; i < rows.shape(0); ++i) {
      const auto& [scale, min, max] = found[static_cast<std::size_t>(i)];
      rows(i, 0) = scale;
      rows(i, 1) = min;
      rows(i, 2) = max;
    }
  }
};

struct ChecksumsWanted {
  std::size_t tensors;
  bool crc32c;
  bool crc32;
};

py::tuple RunWrite(const std::vector<std::shared_ptr<Writer>>& writers,
                   const std::vector<std::shared_ptr<Reader>>& readers, const py::sequence& sources,
                   const Column<std::uint32_t>& file, const Column<std::uint32_t>& source,
                   const Column<std::uint64_t>& offset, const Column<std::uint64_t>& nbytes,
                   const Column<std::uint64_t>& start, const Column<std::uint32_t>& pipeline,
                   const Column<std::uint32_t>& tensor, const py::sequence& pipelines,
                   const ChecksumsWanted& wanted, const CheckColumns& checks, LateColumns late,
                   const RunArguments& arguments) {
  const auto rows = static_cast<std::size_t>(file.size());
  const auto files = Rows(file, rows, "file");
  const auto froms = Rows(source, rows, "source");
  const auto offsets = Rows(offset, rows, "offset");
  const auto sizes = Rows(nbytes, rows, "nbytes");
  const auto starts = Rows(start, rows, "start");
  const auto steps = Rows(pipeline, rows, "pipeline");
  const auto tensors = Rows(tensor, rows, "tensor");
  WritePlan plan{.ops = {},
                 .sources = {},
                 .pipelines = PipelinesFromPython(pipelines),
                 .tensors = wanted.tensors,
                 .crc32c = wanted.crc32c,
                 .crc32 = wanted.crc32,
                 .source_checksums = checks.Specs(),
                 .late_ranges = late.Ranges()};
  plan.ops.reserve(rows);
  for (std::size_t i = 0; i < rows; ++i) {
    plan.ops.push_back({.file = files[i],
                        .source = froms[i],
                        .offset = offsets[i],
                        .nbytes = sizes[i],
                        .start = starts[i],
                        .pipeline = steps[i],
                        .tensor = tensors[i]});
  }
  HeldMemory held;
  plan.sources.reserve(py::len(sources));
  for (const py::handle object : sources) plan.sources.push_back(SourceFromPython(object, held));
  const std::vector<std::shared_ptr<const Reader>> shared(readers.begin(), readers.end());
  const WriteReport report = RunPlan(arguments, [&](const ExecuteOptions& options) {
    return ExecuteWrite(plan, writers, shared, options);
  });
  late.Give(report.chosen);
  return py::make_tuple(ToNumpy(report.crc32c), ToNumpy(report.crc32));
}

std::vector<std::tuple<std::size_t, std::size_t, std::uint64_t, std::uint64_t>> RunCoalesce(
    const Column<std::uint64_t>& offset, const Column<std::uint64_t>& nbytes,
    std::uint64_t task_bytes, std::uint64_t max_gap) {
  const auto rows = static_cast<std::size_t>(offset.size());
  const auto offsets = Rows(offset, rows, "offset");
  const auto sizes = Rows(nbytes, rows, "nbytes");
  std::vector<ReadOp> ops;
  for (std::size_t i = 0; i < rows; ++i) {
    std::uint64_t end;
    if (__builtin_add_overflow(offsets[i], sizes[i], &end)) Refuse("an extent overflows 64 bits");
    if (i > 0 && offsets[i] < offsets[i - 1]) Refuse("the extents are not sorted");
    ops.push_back({.source = 0,
                   .tensor = kNoIndex,
                   .offset = offsets[i],
                   .nbytes = sizes[i],
                   .buffer = kNoIndex,
                   .pipeline = kNoIndex,
                   .dest = 0});
  }
  std::vector<std::tuple<std::size_t, std::size_t, std::uint64_t, std::uint64_t>> tasks;
  for (const ReadTask& task : Coalesce(ops, {.task_bytes = task_bytes, .max_gap = max_gap})) {
    tasks.emplace_back(task.first, task.last, task.begin, task.end);
  }
  return tasks;
}

}  // namespace

void BindPlans(py::module_& m) {
  using U8 = std::optional<Column<std::uint8_t>>;
  using U32 = std::optional<Column<std::uint32_t>>;
  const auto none = py::none();

  m.def(
      "execute_read",
      [](const std::vector<std::shared_ptr<Reader>>& readers, const py::sequence& buffers,
         const Column<std::uint32_t>& source, const Column<std::uint32_t>& tensor,
         const Column<std::uint64_t>& offset, const Column<std::uint64_t>& nbytes,
         const Column<std::uint32_t>& buffer, const Column<std::uint64_t>& dest,
         const Column<std::uint32_t>& pipeline, const py::sequence& pipelines, U8 check_kind,
         U32 check_initial, U32 check_expected, U8 check_verify, py::object names, int threads,
         py::object progress, std::uint64_t task_bytes) {
        return RunRead(readers, buffers, source, tensor, offset, nbytes, buffer, dest, pipeline,
                       pipelines,
                       {std::move(check_kind), std::move(check_initial), std::move(check_expected),
                        std::move(check_verify)},
                       {std::move(names), threads, std::move(progress), task_bytes});
      },
      py::arg("readers"), py::arg("buffers"), py::arg("source"), py::arg("tensor"),
      py::arg("offset"), py::arg("nbytes"), py::arg("buffer"), py::arg("dest"), py::arg("pipeline"),
      py::arg("pipelines"), py::arg("check_kind") = none, py::arg("check_initial") = none,
      py::arg("check_expected") = none, py::arg("check_verify") = none, py::arg("names") = none,
      py::arg("threads") = 0, py::arg("progress") = none, py::arg("task_bytes") = 0);

  m.def(
      "execute_write",
      [](const std::vector<std::shared_ptr<Writer>>& writers,
         const std::vector<std::shared_ptr<Reader>>& readers, const py::sequence& sources,
         const Column<std::uint32_t>& file, const Column<std::uint32_t>& source,
         const Column<std::uint64_t>& offset, const Column<std::uint64_t>& nbytes,
         const Column<std::uint64_t>& start, const Column<std::uint32_t>& pipeline,
         const Column<std::uint32_t>& tensor, const py::sequence& pipelines, std::size_t tensors,
         bool crc32c, bool crc32, U8 source_kind, U32 source_initial, U32 source_expected,
         U8 source_verify, py::object names, int threads, py::object progress,
         std::uint64_t task_bytes, U32 late_ranges, std::optional<py::array_t<double>> chosen) {
        return RunWrite(writers, readers, sources, file, source, offset, nbytes, start, pipeline,
                        tensor, pipelines, {tensors, crc32c, crc32},
                        {std::move(source_kind), std::move(source_initial),
                         std::move(source_expected), std::move(source_verify)},
                        {std::move(late_ranges), std::move(chosen)},
                        {std::move(names), threads, std::move(progress), task_bytes});
      },
      py::arg("writers"), py::arg("readers"), py::arg("sources"), py::arg("file"),
      py::arg("source"), py::arg("offset"), py::arg("nbytes"), py::arg("start"),
      py::arg("pipeline"), py::arg("tensor"), py::arg("pipelines"), py::arg("tensors"),
      py::arg("crc32c") = true, py::arg("crc32") = false, py::arg("source_kind") = none,
      py::arg("source_initial") = none, py::arg("source_expected") = none,
      py::arg("source_verify") = none, py::arg("names") = none, py::arg("threads") = 0,
      py::arg("progress") = none, py::arg("task_bytes") = 0, py::arg("late_ranges") = none,
      py::arg("chosen") = none);

  m.def("coalesce", &RunCoalesce, py::arg("offset"), py::arg("nbytes"), py::arg("task_bytes"),
        py::arg("max_gap"));
}

}  // namespace weightlift::bindings
