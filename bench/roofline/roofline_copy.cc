// How fast one file becomes another on this machine: each thread reads a piece and writes it, so
// that one reads while another writes. Past the page cache unless --buffered-read or
// --buffered-write say otherwise; with --fsync it is durable before the clock stops.
#include "roofline.h"

int main(int argc, char** argv) {
  const roofline::Options options(argc, argv);
  if (options.positional().size() != 2) {
    roofline::Usage(
        "roofline_copy SRC DST [--buffered-read] [--buffered-write] [--fsync] [--threads 2] "
        "[--piece 8388608] [--repeat 1 | --on-request]");
  }
  const bool direct_read = !options.Has("buffered-read");
  const bool direct_write = !options.Has("buffered-write");
  const bool sync = options.Has("fsync");
  const std::size_t threads = options.Number("threads", 2);
  const std::size_t piece = options.Number("piece", 8u << 20);
  const std::string& target = options.positional()[1];
  const int in = open(options.positional()[0].c_str(), O_RDONLY | (direct_read ? O_DIRECT : 0));
  if (in < 0) roofline::Fail("open " + options.positional()[0]);
  const std::size_t size = roofline::FileSize(in);
  const std::string mode = std::string(direct_read ? "direct" : "buffered") + "-to-" +
                           (direct_write ? "direct" : "buffered") + (sync ? "-fsync" : "-no-fsync");
  for (roofline::Runs runs(options); runs.Next();) {
    const roofline::Stopwatch watch;
    const int out = roofline::CreateTemporary(target, size, direct_write);
    std::atomic<std::size_t> next{0};
    const auto worker = [&] {
      const roofline::Memory bounce(piece, true);
      for (;;) {
        const std::size_t begin = next.fetch_add(piece);
        if (begin >= size) return;
        const std::size_t nbytes = size - begin < piece ? size - begin : piece;
        // Whole blocks, for O_DIRECT; the surplus at the end is cut off below.
        const std::size_t whole = (nbytes + 4095) / 4096 * 4096;
        const ssize_t n = pread(in, bounce.data(), whole, static_cast<off_t>(begin));
        if (n < 0 || static_cast<std::size_t>(n) < nbytes) roofline::Fail("pread");
        roofline::WriteExact(out, bounce.data(), direct_write ? whole : nbytes, begin);
      }
    };
    std::vector<std::thread> pool;
    for (std::size_t i = 1; i < threads; ++i) pool.emplace_back(worker);
    worker();
    for (std::thread& thread : pool) thread.join();
    if (ftruncate(out, static_cast<off_t>(size)) != 0) roofline::Fail("ftruncate");
    roofline::Publish(out, target, sync);
    roofline::Report("copy", mode, threads, size, watch.wall(), watch.cpu());
  }
  close(in);
  return 0;
}
