// HTTP(S): range reads into memory, small requests, streamed uploads. A library of its own
// (weightlift_http), so that a program that reads local files does not load libcurl.
//
// Truth. A part is taken only from a 206 that has exactly the Content-Range asked for and the size
// and the validators (ETag, Last-Modified) seen when the URL was opened; all else is an Error, and
// what changed meanwhile is kChanged. Bytes that were handed on are kept: an attempt that breaks
// off is resumed behind them.
//
// Secrets. User, password, what .netrc says, bearer token, cookies, client certificate and headers
// that look like keys go to the scheme, host and port of the URL that was asked for, and to no
// other. Error messages and names show neither user-info nor query strings.
//
// Waiting. All calls take a StopPredicate (stop.h), asked about every 50 ms. Errors: kNotFound
// (404, 410), kAccess (401, 403), kChanged, kTransport for what else went wrong on the wire, with
// status and attempts; kInvalidArgument for URLs and headers that cannot be sent.
#ifndef WEIGHTLIFT_HTTP_H_
#define WEIGHTLIFT_HTTP_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "weightlift/reader.h"
#include "weightlift/stop.h"
#include "weightlift/writer.h"

namespace weightlift::http {

using Header = std::pair<std::string, std::string>;
using Headers = std::vector<Header>;

enum class Version : std::uint8_t { kAuto, k1_1, k2 };

struct Options {
  Headers headers{};
  std::optional<std::string> user{};
  std::optional<std::string> password{};
  std::optional<std::string> bearer{};
  bool netrc = false;
  std::string ca_file{};  // empty: the system's store
  std::string client_cert{};
  std::string client_key{};
  bool tls_verify = true;
  std::optional<std::string> proxy{};  // unset: http_proxy etc.; empty: none
  double connect_timeout = 30;         // seconds
  double stall_timeout = 20;           // without a byte either way
  double total_timeout = 0;            // of one call, with all its attempts; 0: none
  int attempts = 6;                    // in a row without progress, for each part
  double backoff = 0.2;                // doubles, with full jitter, up to 20 s
  int max_redirects = 10;
  int connections = 0;           // 0: adaptive, 1 to 16
  std::uint64_t part_bytes = 0;  // 0: adaptive
  Version version = Version::kAuto;
  std::string home{};             // secrets go to this URL's host only; empty: to that of each URL
  std::string method = "GET";     // of Open and Get
  std::vector<std::byte> body{};  // sent by Open and Get, if not empty
};

struct Response {
  int status = 0;
  Headers headers{};
  std::vector<std::byte> body{};
  std::string url{};  // where it came from in the end, as name()
};

struct Counters {
  std::uint64_t requests = 0;
  std::uint64_t bytes_received = 0;  // of bodies
  std::uint64_t bytes_sent = 0;
  std::uint64_t retries = 0;
};

// A remote file, pinned when it was opened. Its Client may be gone before it.
class HttpReader : public Reader {
 public:
  virtual const std::string& final_url() const noexcept = 0;  // after redirects, with its query
  virtual const std::string& etag() const noexcept = 0;       // empty: none
  virtual const std::string& last_modified() const noexcept = 0;
  virtual const std::string& content_type() const noexcept = 0;
  // False: the server has no ranges; the body comes once, in order, and is kept as it comes.
  virtual bool ranged() const noexcept = 0;
  // Names the content: the same for as long as URL, validators and size are.
  std::string Identity() const;
};

struct UploadSpec {
  std::string method = "PUT";
  Headers headers{};
  std::uint64_t size = 0;  // of what WriteAt gets
  std::string prefix{};    // sent before it (the head of a multipart body)
  std::string suffix{};    // and after it
};

// The body of one request, written in ascending order without gaps. Several threads may write at
// once: who is not yet due waits. Bytes are sent from the caller's memory and not kept, but for
// bodies up to 1 MiB: an attempt that fails after a WriteAt has returned is the caller's to make
// again.
class Upload : public Writer {
 public:
  // After the other calls have failed: true when the body can be written once more, from its first
  // byte on; the time to wait is over then. False: that would not help, or the upload has not
  // failed. Throws the failure once more when it was the last attempt, and kCancelled.
  virtual bool AgainUnless(const StopPredicate& stop) = 0;
  // Sends the rest and waits for the answer, which must be 2xx; else throws as a read does.
  void CommitUnless(const StopPredicate& stop) override = 0;
  virtual const Response& response() const = 0;  // kInvalidArgument before Commit
};

// Thread-safe. Connections are kept and used again; a process made by fork starts with none.
class Client {
 public:
  static std::shared_ptr<Client> Make(Options options);
  virtual ~Client() = default;

  // One request for the first `head` bytes, which are kept: reads of them cost nothing.
  virtual std::shared_ptr<HttpReader> Open(const std::string& url, std::uint64_t head,
                                           const StopPredicate& stop) = 0;
  // A whole small body. kFormat: it is longer than `limit` bytes.
  virtual Response Get(const std::string& url, std::uint64_t limit, const Headers& headers,
                       const StopPredicate& stop) = 0;
  // Any method; the body, if there is one, may be sent more than once. Any status that is not 2xx
  // is an error. The answer to HEAD has no body, whatever length it names.
  virtual Response Request(const std::string& method, const std::string& url,
                           std::optional<std::span<const std::byte>> body, const Headers& headers,
                           std::uint64_t limit, const StopPredicate& stop) = 0;
  virtual std::shared_ptr<Upload> StartUpload(const std::string& url, UploadSpec spec) = 0;
  virtual Counters counters() const = 0;
};

}  // namespace weightlift::http

#endif  // WEIGHTLIFT_HTTP_H_
