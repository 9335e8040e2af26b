// How fast a file comes from an HTTP server on this machine, by plain sockets: range requests over
// N connections, straight from the socket into fresh memory on huge pages. No library, no checks
// beyond the status and the length.
#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>

#include "roofline.h"

using roofline::Fail;

namespace {

struct Target {
  std::string host, port, path;
};

Target Parse(const std::string& url) {
  const std::string scheme = "http://";
  if (url.rfind(scheme, 0) != 0) roofline::Usage("roofline_http http://HOST:PORT/PATH ...");
  const std::size_t slash = url.find('/', scheme.size());
  const std::string place = url.substr(scheme.size(), slash - scheme.size());
  const std::size_t colon = place.find(':');
  return {place.substr(0, colon), colon == std::string::npos ? "80" : place.substr(colon + 1),
          slash == std::string::npos ? "/" : url.substr(slash)};
}

class Connection {
 public:
  explicit Connection(const Target& target) : target_(target) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (getaddrinfo(target.host.c_str(), target.port.c_str(), &hints, &found) != 0) {
      Fail("getaddrinfo " + target.host);
    }
    fd_ = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, found->ai_protocol);
    if (fd_ < 0 || connect(fd_, found->ai_addr, found->ai_addrlen) != 0) Fail("connect");
    freeaddrinfo(found);
  }
  ~Connection() { close(fd_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Reads [offset, offset + nbytes) into `out`; returns the size of the whole file.
  std::size_t Read(std::size_t offset, std::size_t nbytes, std::byte* out) {
    const std::string request = "GET " + target_.path + " HTTP/1.1\r\nHost: " + target_.host +
                                "\r\nRange: bytes=" + std::to_string(offset) + "-" +
                                std::to_string(offset + nbytes - 1) + "\r\n\r\n";
    if (send(fd_, request.data(), request.size(), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(request.size())) {
      Fail("send");
    }
    std::string head;
    std::size_t end;
    while ((end = head.find("\r\n\r\n")) == std::string::npos) {
      char chunk[1024];
      const ssize_t n = recv(fd_, chunk, sizeof(chunk), 0);
      if (n <= 0) Fail("recv");
      head.append(chunk, static_cast<std::size_t>(n));
    }
    if (head.rfind("HTTP/1.1 206", 0) != 0) Fail("no 206: " + head.substr(0, 40));
    const std::size_t range = head.find("Content-Range: bytes ");
    if (range == std::string::npos) Fail("no Content-Range");
    const std::size_t size = std::strtoull(head.c_str() + head.find('/', range) + 1, nullptr, 10);
    std::size_t done = head.size() - (end + 4);
    std::memcpy(out, head.data() + end + 4, done);
    while (done < nbytes) {
      const ssize_t n = recv(fd_, out + done, nbytes - done, 0);
      if (n <= 0) Fail("recv");
      done += static_cast<std::size_t>(n);
    }
    return size;
  }

 private:
  const Target& target_;
  int fd_;
};

}  // namespace

int main(int argc, char** argv) {
  const roofline::Options options(argc, argv);
  if (options.positional().size() != 1) {
    roofline::Usage(
        "roofline_http http://HOST:PORT/PATH [--connections 2] [--piece 16777216] [--repeat 1 | "
        "--on-request]");
  }
  const Target target = Parse(options.positional()[0]);
  const std::size_t connections = options.Number("connections", 2);
  const std::size_t piece = options.Number("piece", 16u << 20);
  std::byte first{};
  const std::size_t size = Connection(target).Read(0, 1, &first);
  for (roofline::Runs runs(options); runs.Next();) {
    roofline::Stopwatch watch;
    const roofline::Memory memory(size, true);
    std::atomic<std::size_t> next{0};
    const auto work = [&] {
      Connection connection(target);
      for (;;) {
        const std::size_t begin = next.fetch_add(piece);
        if (begin >= size) return;
        connection.Read(begin, size - begin < piece ? size - begin : piece, memory.data() + begin);
      }
    };
    std::vector<std::thread> threads;
    for (std::size_t i = 1; i < connections; ++i) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
    const double wall = watch.wall();  // before the memory is given back
    roofline::Report("http", "ranges", connections, size, wall, watch.cpu());
  }
  return 0;
}
