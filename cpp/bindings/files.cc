#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "weightlift/reader.h"
#include "weightlift/writer.h"

namespace weightlift::bindings {
namespace {

// A reader of a Python object's memory, which it keeps alive. May be destroyed on any thread.
class ObjectReader final : public Reader {
 public:
  ObjectReader(py::handle object, std::string name)
      : held_(std::make_unique<HeldBuffer>(object)),
        reader_(MakeMemoryReader(held_->bytes(), std::move(name))) {}
  ~ObjectReader() override {
    const py::gil_scoped_acquire gil;
    held_.reset();
  }

  std::uint64_t size() const noexcept override { return reader_->size(); }
  const std::string& name() const noexcept override { return reader_->name(); }
  void ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    reader_->ReadAt(offset, out);
  }

 private:
  std::unique_ptr<HeldBuffer> held_;
  std::shared_ptr<Reader> reader_;
};

// A reader that lets a Python function fill memory, on whichever thread that is needed. May be
// destroyed on any thread.
class FunctionReader final : public Reader {
 public:
  FunctionReader(py::object function, std::uint64_t size, std::string name)
      : function_(std::move(function)), size_(size), name_(std::move(name)) {}
  ~FunctionReader() override {
    const py::gil_scoped_acquire gil;
    function_ = py::object();
  }

  std::uint64_t size() const noexcept override { return size_; }
  const std::string& name() const noexcept override { return name_; }
  void ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    CheckRange(*this, offset, out.size());
    if (out.empty()) return;
    const py::gil_scoped_acquire gil;
    const auto view = py::memoryview::from_memory(static_cast<void*>(out.data()),
                                                  static_cast<py::ssize_t>(out.size()));
    function_(offset, view);
    view.attr("release")();  // the memory is the caller's: nobody may keep it
  }

 private:
  py::object function_;
  std::uint64_t size_;
  std::string name_;
};

// A writer that hands its bytes to a Python function, on whichever thread they come; `sequential`:
// about in order, so that the function has to keep little. What commits and aborts is the Python
// class derived from it. May be destroyed on any thread.
class FunctionWriter final : public Writer {
 public:
  FunctionWriter(py::object function, std::string name, bool sequential)
      : function_(std::move(function)), name_(std::move(name)), sequential_(sequential) {}
  ~FunctionWriter() override {
    const py::gil_scoped_acquire gil;
    function_ = py::object();
  }

  const std::string& name() const noexcept override { return name_; }
  std::size_t direct_alignment() const noexcept override { return 0; }
  void WriteAt(std::uint64_t offset, std::span<const std::byte> data) override {
    const py::gil_scoped_acquire gil;
    const auto view = py::memoryview::from_memory(static_cast<const void*>(data.data()),
                                                  static_cast<py::ssize_t>(data.size()));
    function_(offset, view);
    view.attr("release")();  // the memory is the caller's: nobody may keep it
  }
  bool Sequential() const noexcept override { return sequential_; }
  void Sync() override {}
  void Commit() override {}
  void Abort() noexcept override {}

 private:
  py::object function_;
  std::string name_;
  bool sequential_;
};

ReadMode ReadModeFromName(const std::string& name) {
  if (name == "auto") return ReadMode::kAuto;
  if (name == "buffered") return ReadMode::kBuffered;
  if (name == "direct") return ReadMode::kDirect;
  throw py::value_error("mode is \"auto\", \"buffered\" or \"direct\", not \"" + name + "\"");
}

WriteMode WriteModeFromName(const std::string& name) {
  if (name == "auto") return WriteMode::kAuto;
  if (name == "buffered") return WriteMode::kBuffered;
  if (name == "direct") return WriteMode::kDirect;
  throw py::value_error("mode is \"auto\", \"buffered\" or \"direct\", not \"" + name + "\"");
}

py::bytes ReadBytes(const Reader& reader, std::uint64_t offset, std::uint64_t nbytes) {
  CheckRange(reader, offset, nbytes);  // before memory is asked for
  if (nbytes > static_cast<std::uint64_t>(PY_SSIZE_T_MAX)) {
    throw Error(ErrorCode::kOutOfMemory, "too many bytes at once", {.path = reader.name()});
  }
  PyObject* const object = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(nbytes));
  if (object == nullptr) throw py::error_already_set();
  auto bytes = py::reinterpret_steal<py::bytes>(object);
  auto* const data = reinterpret_cast<std::byte*>(PyBytes_AS_STRING(object));
  const py::gil_scoped_release release;
  reader.ReadAtUnless(offset, {data, static_cast<std::size_t>(nbytes)}, &CheckInterrupts);
  return bytes;
}

void ReadInto(const Reader& reader, std::uint64_t offset, const py::object& out) {
  const HeldBuffer held(out, HeldBuffer::Access::kWrite);
  const py::gil_scoped_release release;
  reader.ReadAtUnless(offset, held.writable(), &CheckInterrupts);
}

void BindReaders(py::module_& m) {
  py::class_<Reader, std::shared_ptr<Reader>>(m, "Reader")
      .def_property_readonly("size", &Reader::size)
      .def_property_readonly("name", [](const Reader& r) { return TextForPython(r.name()); })
      .def("read_at", &ReadBytes, py::arg("offset"), py::arg("nbytes"))
      .def("read_into", &ReadInto, py::arg("offset"), py::arg("out"))
      .def("check_unchanged", &Reader::CheckUnchanged, py::call_guard<py::gil_scoped_release>());

  py::class_<FileReader, Reader, std::shared_ptr<FileReader>>(m, "FileReader")
      .def(py::init([](const py::object& path, const std::string& mode) {
             const std::string name = PathFromPython(path);
             const ReadMode read_mode = ReadModeFromName(mode);
             const py::gil_scoped_release release;
             return FileReader::Open(name, read_mode);
           }),
           py::arg("path"), py::arg("mode") = "auto")
      .def_property_readonly("identity",
                             [](const FileReader& r) {
                               return py::make_tuple(r.device(), r.inode(), r.size(), r.mtime_ns());
                             })
      .def_property_readonly("on_network", &FileReader::on_network)
      .def(
          "residency",
          [](const FileReader& r, std::uint64_t offset, std::optional<std::uint64_t> nbytes) {
            const std::uint64_t rest = r.size() - std::min(offset, r.size());
            return r.Residency(offset, nbytes.value_or(rest));
          },
          py::arg("offset") = 0, py::arg("nbytes") = py::none(),
          py::call_guard<py::gil_scoped_release>())
      .def("map", &FileReader::Map, py::call_guard<py::gil_scoped_release>());

  py::class_<ObjectReader, Reader, std::shared_ptr<ObjectReader>>(m, "MemoryReader")
      .def(py::init([](const py::object& data, const py::object& name) {
             return std::make_shared<ObjectReader>(data, PathFromPython(name));
           }),
           py::arg("data"), py::arg("name"));

  py::class_<FunctionReader, Reader, std::shared_ptr<FunctionReader>>(m, "FunctionReader")
      .def(py::init([](py::object function, std::uint64_t size, const py::object& name) {
             return std::make_shared<FunctionReader>(std::move(function), size,
                                                     PathFromPython(name));
           }),
           py::arg("function"), py::arg("size"), py::arg("name"));
}

void BindWriters(py::module_& m) {
  using release = py::call_guard<py::gil_scoped_release>;
  py::class_<Writer, std::shared_ptr<Writer>>(m, "Writer")
      .def_property_readonly("name", [](const Writer& w) { return TextForPython(w.name()); })
      .def_property_readonly("direct_alignment", &Writer::direct_alignment)
      .def(
          "write_at",
          [](Writer& writer, std::uint64_t offset, const py::object& data) {
            const HeldBuffer held(data);
            const py::gil_scoped_release unlocked;
            writer.WriteAtUnless(offset, held.bytes(), &CheckInterrupts);
          },
          py::arg("offset"), py::arg("data"))
      .def("sync", &Writer::Sync, release())
      .def(
          "commit", [](Writer& writer) { writer.CommitUnless(&CheckInterrupts); }, release())
      .def("abort", &Writer::Abort, release());

  py::class_<FileWriter, Writer, std::shared_ptr<FileWriter>>(m, "FileWriter")
      .def(py::init([](const py::object& path, std::uint64_t size, const std::string& mode,
                       bool durable) {
             const std::string name = PathFromPython(path);
             const FileWriterOptions options{.mode = WriteModeFromName(mode), .durable = durable};
             const py::gil_scoped_release unlocked;
             return FileWriter::Create(name, size, options);
           }),
           py::arg("path"), py::arg("size"), py::arg("mode") = "auto", py::arg("durable") = true)
      .def("truncate", &FileWriter::Truncate, py::arg("size"), release());

  py::class_<FunctionWriter, Writer, std::shared_ptr<FunctionWriter>>(m, "FunctionWriter")
      .def(py::init([](py::object function, const py::object& name, bool sequential) {
             return std::make_shared<FunctionWriter>(std::move(function), PathFromPython(name),
                                                     sequential);
           }),
           py::arg("function"), py::arg("name"), py::arg("sequential") = false);

  m.def(
      "commit_all",
      [](const std::vector<std::shared_ptr<FileWriter>>& writers) {
        FileWriter::CommitAll(writers);
      },
      py::arg("writers"), release(), "Commit several files, sooner than one after the other.");

  m.def(
      "rename_over",
      [](const py::object& source, const py::object& target) {
        const std::string from = PathFromPython(source);
        const std::string to = PathFromPython(target);
        const py::gil_scoped_release released;
        RenameOver(from, to);
      },
      py::arg("source"), py::arg("target"), "Rename, without waiting for what was replaced.");

  m.def(
      "remove_file",
      [](const py::object& path) {
        const std::string name = PathFromPython(path);
        const py::gil_scoped_release released;
        RemoveFile(name);
      },
      py::arg("path"), "Remove a file, without waiting until its blocks are free.");

  m.def(
      "null_writer", [](const py::object& name) { return MakeNullWriter(PathFromPython(name)); },
      py::arg("name"));
}

}  // namespace

void BindFiles(py::module_& m) {
  BindReaders(m);
  BindWriters(m);
}

}  // namespace weightlift::bindings
