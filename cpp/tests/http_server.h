// A tiny HTTP server inside the test: a function answers each request, byte by byte if it likes.
#ifndef WEIGHTLIFT_TESTS_HTTP_SERVER_H_
#define WEIGHTLIFT_TESTS_HTTP_SERVER_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace http_server {

struct Request {
  std::string method, target;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;

  std::string Header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
  // The range asked for, end exclusive.
  std::optional<std::pair<std::size_t, std::size_t>> Range() const {
    unsigned long begin = 0;
    unsigned long last = 0;
    const std::string text = Header("range");
    if (std::sscanf(text.c_str(), "bytes=%lu-%lu", &begin, &last) != 2) return std::nullopt;
    return std::pair{begin, last + 1};
  }
};

// One request to be answered. What it sends may fail: then the client has gone.
class Exchange {
 public:
  Exchange(int fd, const std::atomic<bool>& stop) : fd_(fd), stop_(stop) {}

  Request request;

  void Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) {
        close_ = true;
        return;
      }
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  // `fields`: whole lines, each ended by \r\n.
  void Reply(const std::string& status, std::string_view body, const std::string& fields = "") {
    Send("HTTP/1.1 " + status + "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
         fields + "\r\n");
    if (request.method != "HEAD") Send(body);
  }
  // 206 with what was asked for, else 200 with all.
  void ReplyRange(std::string_view data, const std::string& fields = "ETag: \"v1\"\r\n") {
    const auto range = request.Range();
    if (!range) return Reply("200 OK", data, fields);
    const std::size_t end = std::min(range->second, data.size());
    if (range->first >= end) {
      return Reply("416 Range Not Satisfiable", "",
                   "Content-Range: bytes */" + std::to_string(data.size()) + "\r\n" + fields);
    }
    Reply("206 Partial Content", data.substr(range->first, end - range->first),
          ContentRange(range->first, end, data.size()) + fields);
  }
  static std::string ContentRange(std::size_t begin, std::size_t end, std::size_t size) {
    return "Content-Range: bytes " + std::to_string(begin) + "-" + std::to_string(end - 1) + "/" +
           std::to_string(size) + "\r\n";
  }
  void Close() { close_ = true; }
  // Reset: the client sees an error rather than an end.
  void Reset() {
    const linger hard{1, 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close_ = true;
  }
  // Says nothing until the client goes away or the server stops.
  void Hang() {
    while (!stop_) {
      pollfd waiting{fd_, POLLIN | POLLRDHUP, 0};
      if (poll(&waiting, 1, 10) > 0) break;
    }
    close_ = true;
  }
  bool closed() const { return close_; }

 private:
  const int fd_;
  const std::atomic<bool>& stop_;
  bool close_ = false;
};

class Server {
 public:
  using Answer = std::function<void(Exchange&)>;

  // `pause`: before each 64 KiB that it receives.
  explicit Server(Answer answer, std::chrono::milliseconds pause = {})
      : answer_(std::move(answer)), pause_(pause) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (pause_.count() > 0) {  // or the kernel would take megabytes without a pause
      const int room = 256 << 10;
      setsockopt(listener_, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), length) != 0 ||
        listen(listener_, 64) != 0 ||
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
      throw std::runtime_error("no listening socket");
    }
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { Accept(); });
  }
  ~Server() {
    stop_ = true;
    acceptor_.join();
    for (std::thread& thread : threads_) thread.join();
    close(listener_);
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  std::string url(const std::string& target = "/w") const {
    return "http://127.0.0.1:" + std::to_string(port_) + target;
  }
  int port() const { return port_; }
  std::vector<Request> seen() const {
    const std::lock_guard lock(mutex_);
    return seen_;
  }
  int connections() const { return connections_; }

 private:
  bool Wait(int fd) const {
    while (!stop_) {
      pollfd waiting{fd, POLLIN, 0};
      if (poll(&waiting, 1, 10) > 0) return true;
    }
    return false;
  }

  void Accept() {
    while (Wait(listener_)) {
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) continue;
      ++connections_;
      threads_.emplace_back([this, fd] {
        std::string buffer;
        while (Serve(fd, buffer)) {
        }
        close(fd);
      });
    }
  }

  bool Receive(int fd, std::string& buffer) const {
    char chunk[65536];
    if (!Wait(fd)) return false;
    if (pause_.count() > 0) std::this_thread::sleep_for(pause_);
    const ssize_t n = recv(fd, chunk, sizeof(chunk), 0);
    if (n <= 0) return false;
    buffer.append(chunk, static_cast<std::size_t>(n));
    return true;
  }

  bool Serve(int fd, std::string& buffer) {
    std::size_t end;
    while ((end = buffer.find("\r\n\r\n")) == std::string::npos) {
      if (!Receive(fd, buffer)) return false;
    }
    Exchange exchange(fd, stop_);
    exchange.request = Parse(buffer.substr(0, end + 2));
    buffer.erase(0, end + 4);
    if (exchange.request.Header("expect") == "100-continue") {
      exchange.Send("HTTP/1.1 100 Continue\r\n\r\n");
    }
    const std::string length = exchange.request.Header("content-length");
    const std::size_t wanted = length.empty() ? 0 : std::stoul(length);
    while (buffer.size() < wanted) {
      if (!Receive(fd, buffer)) return false;
    }
    exchange.request.body = buffer.substr(0, wanted);
    buffer.erase(0, wanted);
    {
      const std::lock_guard lock(mutex_);
      seen_.push_back(exchange.request);
    }
    answer_(exchange);
    return !exchange.closed();
  }

  static Request Parse(const std::string& head) {
    Request request;
    std::size_t at = 0;
    for (bool first = true; at < head.size(); first = false) {
      const std::size_t end = head.find("\r\n", at);
      const std::string line = head.substr(at, end - at);
      at = end + 2;
      if (first) {
        const std::size_t space = line.find(' ');
        request.method = line.substr(0, space);
        request.target = line.substr(space + 1, line.rfind(' ') - space - 1);
        continue;
      }
      const std::size_t colon = line.find(':');
      std::string name = line.substr(0, colon);
      for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      request.headers[name] = line.substr(std::min(colon + 2, line.size()));
    }
    return request;
  }

  const Answer answer_;
  const std::chrono::milliseconds pause_;
  std::atomic<bool> stop_{false};
  std::atomic<int> connections_{0};
  int listener_ = -1;
  int port_ = 0;
  mutable std::mutex mutex_;
  std::vector<Request> seen_;
  std::vector<std::thread> threads_;  // of the acceptor
  std::thread acceptor_;
};

}  // namespace http_server

#endif  // WEIGHTLIFT_TESTS_HTTP_SERVER_H_
