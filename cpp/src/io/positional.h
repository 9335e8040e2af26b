// Exact positional reads and writes: loops over short results and EINTR, in one place.
#ifndef WEIGHTLIFT_IO_POSITIONAL_H_
#define WEIGHTLIFT_IO_POSITIONAL_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace weightlift {

// All of `out`, or Error: kTruncated at the end of the file, else by errno. `path` is for messages.
void ReadFully(int fd, std::uint64_t offset, std::span<std::byte> out, const std::string& path);

// Consecutive bytes into several buffers, with as few calls as the system allows.
void ReadFullyScattered(int fd, std::uint64_t offset, std::span<const std::span<std::byte>> outs,
                        const std::string& path);

// All of `data`, or Error by errno.
void WriteFully(int fd, std::uint64_t offset, std::span<const std::byte> data,
                const std::string& path);

}  // namespace weightlift

#endif  // WEIGHTLIFT_IO_POSITIONAL_H_
