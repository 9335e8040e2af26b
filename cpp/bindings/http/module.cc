#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "weightlift/http.h"

namespace weightlift::bindings {
namespace {

using http::Client;
using http::Headers;
using http::HttpReader;
using http::Options;
using http::Response;
using http::Upload;
using http::UploadSpec;

http::Version VersionFromName(const std::string& name) {
  if (name == "auto") return http::Version::kAuto;
  if (name == "1.1") return http::Version::k1_1;
  if (name == "2") return http::Version::k2;
  throw py::value_error("http_version is \"auto\", \"1.1\" or \"2\", not \"" + name + "\"");
}

std::string PathOrEmpty(const py::object& path) {
  return path.is_none() ? std::string() : PathFromPython(path);
}

// Fields have no declared encoding; this one loses nothing.
py::str Latin1(const std::string& text) {
  PyObject* const str =
      PyUnicode_DecodeLatin1(text.data(), static_cast<Py_ssize_t>(text.size()), nullptr);
  if (str == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(str);
}

py::bytes ToBytes(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Options MakeOptions(Headers headers, std::optional<std::string> user,
                    std::optional<std::string> password, std::optional<std::string> bearer,
                    bool netrc, const py::object& ca_file, const py::object& client_cert,
                    const py::object& client_key, bool tls_verify, std::optional<std::string> proxy,
                    double connect_timeout, double stall_timeout, double total_timeout,
                    int attempts, double backoff, int max_redirects, int connections,
                    std::uint64_t part_bytes, const std::string& http_version, std::string home,
                    std::string method, const py::object& body) {
  Options options{.headers = std::move(headers),
                  .user = std::move(user),
                  .password = std::move(password),
                  .bearer = std::move(bearer),
                  .netrc = netrc,
                  .ca_file = PathOrEmpty(ca_file),
                  .client_cert = PathOrEmpty(client_cert),
                  .client_key = PathOrEmpty(client_key),
                  .tls_verify = tls_verify,
                  .proxy = std::move(proxy),
                  .connect_timeout = connect_timeout,
                  .stall_timeout = stall_timeout,
                  .total_timeout = total_timeout,
                  .attempts = attempts,
                  .backoff = backoff,
                  .max_redirects = max_redirects,
                  .connections = connections,
                  .part_bytes = part_bytes,
                  .version = VersionFromName(http_version),
                  .home = std::move(home),
                  .method = std::move(method)};
  if (!body.is_none()) {
    const HeldBuffer held(body);
    options.body.assign(held.bytes().begin(), held.bytes().end());
  }
  return options;
}

void BindOptions(py::module_& m) {
  const Options defaults;
  const auto none = py::none();
  py::class_<Options>(m, "Options")
      .def(py::init(&MakeOptions), py::kw_only(), py::arg("headers") = Headers(),
           py::arg("user") = none, py::arg("password") = none, py::arg("bearer") = none,
           py::arg("netrc") = false, py::arg("ca_file") = none, py::arg("client_cert") = none,
           py::arg("client_key") = none, py::arg("tls_verify") = true, py::arg("proxy") = none,
           py::arg("connect_timeout") = defaults.connect_timeout,
           py::arg("stall_timeout") = defaults.stall_timeout,
           py::arg("total_timeout") = defaults.total_timeout,
           py::arg("attempts") = defaults.attempts, py::arg("backoff") = defaults.backoff,
           py::arg("max_redirects") = defaults.max_redirects,
           py::arg("connections") = defaults.connections,
           py::arg("part_bytes") = defaults.part_bytes, py::arg("http_version") = "auto",
           py::arg("home") = defaults.home, py::arg("method") = defaults.method,
           py::arg("body") = none)
      .def_readonly("netrc", &Options::netrc)
      .def_readonly("tls_verify", &Options::tls_verify)
      .def_readonly("connect_timeout", &Options::connect_timeout)
      .def_readonly("stall_timeout", &Options::stall_timeout)
      .def_readonly("total_timeout", &Options::total_timeout)
      .def_readonly("attempts", &Options::attempts)
      .def_readonly("backoff", &Options::backoff)
      .def_readonly("max_redirects", &Options::max_redirects)
      .def_readonly("connections", &Options::connections)
      .def_readonly("part_bytes", &Options::part_bytes)
      .def_readonly("method", &Options::method);
}

void BindResponse(py::module_& m) {
  py::class_<Response>(m, "Response")
      .def_readonly("status", &Response::status)
      .def_property_readonly("headers",
                             [](const Response& r) {
                               py::list list;
                               for (const auto& [name, value] : r.headers) {
                                 list.append(py::make_tuple(Latin1(name), Latin1(value)));
                               }
                               return list;
                             })
      .def_property_readonly("body", [](const Response& r) { return ToBytes(r.body); })
      .def_property_readonly("url", [](const Response& r) { return TextForPython(r.url); });
}

void BindReader(py::module_& m) {
  py::class_<HttpReader, Reader, std::shared_ptr<HttpReader>>(m, "Reader")
      .def_property_readonly("final_url",
                             [](const HttpReader& r) { return TextForPython(r.final_url()); })
      .def_property_readonly("etag", [](const HttpReader& r) { return Latin1(r.etag()); })
      .def_property_readonly("last_modified",
                             [](const HttpReader& r) { return Latin1(r.last_modified()); })
      .def_property_readonly("content_type",
                             [](const HttpReader& r) { return Latin1(r.content_type()); })
      .def_property_readonly("ranged", &HttpReader::ranged)
      .def_property_readonly("identity", [](const HttpReader& r) { return Latin1(r.Identity()); });
}

void BindUpload(py::module_& m) {
  py::class_<Upload, Writer, std::shared_ptr<Upload>>(m, "Upload")
      .def("again",
           [](Upload& upload) {
             const py::gil_scoped_release release;
             return upload.AgainUnless(&CheckInterrupts);
           })
      .def_property_readonly("response", [](const Upload& upload) { return upload.response(); });
}

Response Request(Client& client, const std::string& method, const std::string& url,
                 const py::object& body, const Headers& headers, std::uint64_t limit) {
  std::optional<HeldBuffer> held;
  std::optional<std::span<const std::byte>> bytes;
  if (!body.is_none()) bytes = held.emplace(body).bytes();
  const py::gil_scoped_release release;
  return client.Request(method, url, bytes, headers, limit, &CheckInterrupts);
}

void BindClient(py::module_& m) {
  using release = py::call_guard<py::gil_scoped_release>;
  py::class_<Client, std::shared_ptr<Client>>(m, "Client")
      .def(py::init([](const Options& options) { return Client::Make(options); }),
           py::arg("options") = Options())
      .def(
          "open",
          [](Client& client, const std::string& url, std::uint64_t head) {
            return client.Open(url, head, &CheckInterrupts);
          },
          py::arg("url"), py::kw_only(), py::arg("head") = 65536, release())
      .def(
          "get",
          [](Client& client, const std::string& url, std::uint64_t limit, const Headers& headers) {
            return client.Get(url, limit, headers, &CheckInterrupts);
          },
          py::arg("url"), py::kw_only(), py::arg("limit"), py::arg("headers") = Headers(),
          release())
      .def("request", &Request, py::arg("method"), py::arg("url"), py::kw_only(),
           py::arg("body") = py::none(), py::arg("headers") = Headers(),
           py::arg("limit") = 16u << 20)
      .def(
          "upload",
          [](Client& client, const std::string& url, const std::string& method, Headers headers,
             std::uint64_t size, const py::bytes& prefix, const py::bytes& suffix) {
            UploadSpec spec{.method = method,
                            .headers = std::move(headers),
                            .size = size,
                            .prefix = prefix,
                            .suffix = suffix};
            const py::gil_scoped_release unlocked;
            return client.StartUpload(url, std::move(spec));
          },
          py::arg("url"), py::kw_only(), py::arg("method") = "PUT", py::arg("headers") = Headers(),
          py::arg("size"), py::arg("prefix") = py::bytes(), py::arg("suffix") = py::bytes())
      .def_property_readonly("requests", [](const Client& c) { return c.counters().requests; })
      .def_property_readonly("bytes_received",
                             [](const Client& c) { return c.counters().bytes_received; })
      .def_property_readonly("bytes_sent", [](const Client& c) { return c.counters().bytes_sent; })
      .def_property_readonly("retries", [](const Client& c) { return c.counters().retries; });
}

}  // namespace
}  // namespace weightlift::bindings

PYBIND11_MODULE(_http, m) {
  m.doc() = "Weightlift's HTTP client. Private: see weightlift.";
  namespace py = pybind11;
  using namespace weightlift::bindings;
  py::module_::import("weightlift._core");  // its Reader and Writer are the bases of ours
  BindErrors(m);
  BindOptions(m);
  BindResponse(m);
  BindReader(m);
  BindUpload(m);
  BindClient(m);
}
