// How fast memory becomes a file on this machine: preallocate, write pieces from a pool of threads,
// rename; with --fsync also fdatasync and fsync of the directory; with --direct past the page
// cache. The source is as large as the file, so that it is read from DRAM as weights would be. With
// --bounce it lies at an address that a device cannot take, as arrays do: each piece is copied to
// aligned memory first, which is the least that a direct write of them costs.
#include <cstring>

#include "roofline.h"

int main(int argc, char** argv) {
  const roofline::Options options(argc, argv);
  if (options.positional().size() != 2) {
    roofline::Usage(
        "roofline_write FILE SIZE [--direct] [--fsync] [--bounce] [--threads 2] [--piece 8388608] "
        "[--repeat 1 | --on-request]");
  }
  const std::string& path = options.positional()[0];
  const auto size =
      static_cast<std::size_t>(std::strtoull(options.positional()[1].c_str(), nullptr, 10));
  const bool direct = options.Has("direct");
  const bool sync = options.Has("fsync");
  const bool bounce = options.Has("bounce");
  const std::size_t threads = options.Number("threads", 2);
  const std::size_t piece = options.Number("piece", 8u << 20);
  if (size == 0 || (direct && (size % 4096 != 0 || piece % 4096 != 0))) {
    roofline::Usage("SIZE must be positive; with --direct, SIZE and --piece multiples of 4096");
  }
  constexpr std::size_t kMallocHeader = 16;
  const roofline::Memory memory(size + kMallocHeader, true);
  std::byte* const source = memory.data() + (bounce ? kMallocHeader : 0);
  roofline::FillRandom(source, size);
  const std::string mode = std::string(direct ? "direct" : "buffered") +
                           (sync ? "-fsync" : "-no-fsync") + (bounce ? "-bounce" : "");
  for (roofline::Runs runs(options); runs.Next();) {
    const roofline::Stopwatch watch;
    const int fd = roofline::CreateTemporary(path, size, direct);
    roofline::ForPieces(size, piece, threads, [&](std::size_t begin, std::size_t nbytes) {
      const std::byte* data = source + begin;
      if (bounce) {
        thread_local const roofline::Memory aligned(piece, true);
        std::memcpy(aligned.data(), data, nbytes);
        data = aligned.data();
      }
      roofline::WriteExact(fd, data, nbytes, begin);
    });
    roofline::Publish(fd, path, sync);
    roofline::Report("write", mode, threads, size, watch.wall(), watch.cpu());
  }
  return 0;
}
