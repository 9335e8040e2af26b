// A file of a megabyte on a server that misbehaves as told, for the tests of reads over HTTP.
#ifndef WEIGHTLIFT_TESTS_HTTP_FILES_H_
#define WEIGHTLIFT_TESTS_HTTP_FILES_H_

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "http_server.h"
#include "plan_fakes.h"
#include "weightlift/http.h"

namespace http_files {

using namespace weightlift;
using http::Client;
using http::HttpReader;
using http::Options;
using http_server::Exchange;
using http_server::Server;

inline const std::string& Data() {
  static const std::string data = [] {
    const std::vector<std::byte> bytes = fakes::RandomBytes(1u << 20, 7);
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }();
  return data;
}

inline Options Quick() {
  Options options;
  options.backoff = 0.001;
  options.proxy = "";
  return options;
}

inline const StopPredicate kNever{};

inline std::string Read(const Reader& reader, std::uint64_t offset, std::size_t nbytes) {
  std::string out(nbytes, '?');
  reader.ReadAt(offset, std::as_writable_bytes(std::span(out)));
  return out;
}

inline bool IsFirst(const Exchange& x) {
  return x.request.Range() == std::pair<std::size_t, std::size_t>{0, 16};
}

// Gives the first 16 bytes as it should; what comes after is the test's.
inline Server::Answer Later(Server::Answer answer) {
  return [answer](Exchange& x) {
    if (IsFirst(x)) return x.ReplyRange(Data());
    answer(x);
  };
}

inline std::shared_ptr<HttpReader> Open(const Server& server, const Options& options = Quick()) {
  return Client::Make(options)->Open(server.url(), 16, kNever);
}

// Sends the head of the right answer and `sent` bytes of it.
inline void Part(Exchange& x, std::size_t sent) {
  const auto [begin, end] = *x.request.Range();
  x.Send("HTTP/1.1 206 Partial Content\r\nContent-Length: " + std::to_string(end - begin) +
         "\r\nETag: \"v1\"\r\n" + Exchange::ContentRange(begin, end, Data().size()) + "\r\n");
  x.Send(std::string_view(Data()).substr(begin, std::min(sent, end - begin)));
}

}  // namespace http_files

#endif  // WEIGHTLIFT_TESTS_HTTP_FILES_H_
