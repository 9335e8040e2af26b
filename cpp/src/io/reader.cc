#include "weightlift/reader.h"

#include "base/checked.h"
#include "weightlift/error.h"

namespace weightlift {

void CheckRange(const Reader& reader, std::uint64_t offset, std::uint64_t nbytes) {
  if (FitsInside(offset, nbytes, reader.size())) return;
  const std::uint64_t end = CheckedAdd(offset, nbytes).value_or(UINT64_MAX);
  throw Error(ErrorCode::kTruncated,
              "the file ends at byte " + std::to_string(reader.size()) + ", before the " +
                  std::to_string(nbytes) + " bytes wanted",
              {.path = reader.name(), .begin = offset, .end = end});
}

void Reader::ReadScatter(std::uint64_t offset, std::span<const std::span<std::byte>> outs) const {
  for (const std::span<std::byte> out : outs) {
    ReadAt(offset, out);
    offset += out.size();
  }
}

}  // namespace weightlift
