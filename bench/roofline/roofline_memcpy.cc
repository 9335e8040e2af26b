// How fast memory is copied to memory that was touched before.
#include "roofline.h"

int main(int argc, char** argv) {
  const roofline::Options options(argc, argv);
  if (!options.positional().empty()) {
    roofline::Usage(
        "roofline_memcpy [--bytes 1073741824] [--threads 2] [--piece 8388608] "
        "[--repeat 1 | --on-request]");
  }
  const std::size_t size = options.Number("bytes", 1u << 30);
  const std::size_t threads = options.Number("threads", 2);
  const std::size_t piece = options.Number("piece", 8u << 20);
  const roofline::Memory source(size, true);
  const roofline::Memory target(size, true);
  roofline::FillRandom(source.data(), size);
  std::memset(target.data(), 1, size);
  for (roofline::Runs runs(options); runs.Next();) {
    const roofline::Stopwatch watch;
    roofline::ForPieces(size, piece, threads, [&](std::size_t begin, std::size_t nbytes) {
      std::memcpy(target.data() + begin, source.data() + begin, nbytes);
    });
    roofline::Report("memcpy", "hot", threads, size, watch.wall(), watch.cpu());
  }
  return 0;
}
