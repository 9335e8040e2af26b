// How fast a file becomes memory on this machine; or several, one behind the other, by pread.
//
//   owned-huge   pread into fresh memory on huge pages (mapping and faults are timed)
//   owned-4k     the same on 4 KiB pages
//   hot          pread into memory that was touched before
//   direct       O_DIRECT into memory that was touched before
//   mmap-touch   map the file and touch every page
#include "roofline.h"

using roofline::Fail;

namespace {

// Sums one byte of every page, so that the reads cannot be optimised away.
void TouchPages(const std::byte* data, std::size_t begin, std::size_t nbytes,
                std::atomic<unsigned>& sink) {
  unsigned sum = 0;
  for (std::size_t i = begin; i < begin + nbytes; i += 4096) sum += static_cast<unsigned>(data[i]);
  sink.fetch_add(sum, std::memory_order_relaxed);
}

struct File {
  int fd;
  std::size_t begin;  // of its bytes among those of all
  std::size_t end;
};

void ReadAcross(const std::vector<File>& files, std::byte* data, std::size_t begin,
                std::size_t nbytes) {
  for (const File& file : files) {
    const std::size_t from = std::max(begin, file.begin);
    const std::size_t to = std::min(begin + nbytes, file.end);
    if (from < to) roofline::ReadExact(file.fd, data + from, to - from, from - file.begin);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const roofline::Options options(argc, argv);
  const std::string mode = options.Text("mode", "owned-huge");
  const bool direct = mode == "direct";
  const bool mapped = mode == "mmap-touch";
  const bool reused = mode == "hot" || direct;
  const std::vector<std::string>& paths = options.positional();
  if (paths.empty() || (paths.size() > 1 && (direct || mapped)) ||
      !(reused || mapped || mode == "owned-huge" || mode == "owned-4k")) {
    roofline::Usage(
        "roofline_read FILE... [--mode owned-huge|owned-4k|hot|direct|mmap-touch] [--threads 2] "
        "[--piece 8388608] [--repeat 1 | --on-request]");
  }
  const std::size_t threads = options.Number("threads", 2);
  const std::size_t piece = options.Number("piece", 8u << 20);
  std::vector<File> files;
  std::size_t size = 0;
  for (const std::string& path : paths) {
    const int fd = open(path.c_str(), O_RDONLY | (direct ? O_DIRECT : 0));
    if (fd < 0) Fail("open " + path);
    files.push_back({fd, size, size + roofline::FileSize(fd)});
    size = files.back().end;
  }
  if (size == 0) return 0;
  const int fd = files[0].fd;

  // A direct read may run to the end of the file in whole blocks only: room for the last one.
  const std::size_t room = size + 4096;
  const roofline::Memory reused_memory(reused ? room : 1, true);
  if (reused) std::memset(reused_memory.data(), 1, room);
  std::atomic<unsigned> sink{0};
  for (roofline::Runs runs(options); runs.Next();) {
    roofline::Stopwatch watch;
    double wall = 0;
    double cpu = 0;
    if (mapped) {
      void* p = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
      if (p == MAP_FAILED) Fail("mmap");
      const auto* data = static_cast<const std::byte*>(p);
      roofline::ForPieces(size, piece, threads, [&](std::size_t begin, std::size_t nbytes) {
        TouchPages(data, begin, nbytes, sink);
      });
      wall = watch.wall();
      cpu = watch.cpu();
      munmap(p, size);
    } else {
      const roofline::Memory fresh(reused ? 1 : room, mode != "owned-4k");
      std::byte* const data = reused ? reused_memory.data() : fresh.data();
      roofline::ForPieces(size, piece, threads, [&](std::size_t begin, std::size_t nbytes) {
        if (!direct) return ReadAcross(files, data, begin, nbytes);
        const std::size_t whole = (nbytes + 4095) / 4096 * 4096;
        const ssize_t n = pread(fd, data + begin, whole, static_cast<off_t>(begin));
        if (n < 0 || static_cast<std::size_t>(n) < nbytes) Fail("pread");
      });
      wall = watch.wall();  // before the memory is given back
      cpu = watch.cpu();
    }
    roofline::Report("read", mode, threads, size, wall, cpu);
  }
  for (const File& file : files) close(file.fd);
  return 0;
}
