#include "plan/sums.h"

#include <algorithm>
#include <cstdio>
#include <string>

namespace weightlift {
namespace {

std::string Hex(std::uint32_t value) {
  char text[11];
  std::snprintf(text, sizeof(text), "0x%08x", value);
  return text;
}

}  // namespace

void StoredRange::Add(std::size_t op, std::uint32_t op_source, std::uint64_t op_begin,
                      std::uint64_t op_end) {
  if (empty()) {
    *this = {.first_op = op, .last_op = op, .source = op_source, .begin = op_begin, .end = op_end};
    return;
  }
  last_op = op;
  if (op_source != source || op_begin == op_end) return;
  begin = begin == end ? op_begin : std::min(begin, op_begin);
  end = std::max(end, op_end);
}

Error ChecksumMismatch(const ChecksumSpec& spec, std::uint32_t found, std::uint32_t tensor,
                       const StoredRange& range,
                       std::span<const std::shared_ptr<const Reader>> readers) {
  const char* const name = spec.kind == ChecksumKind::kCrc32c ? "CRC-32C" : "CRC-32";
  Error error(ErrorCode::kChecksum, std::string(name) + " mismatch: expected " +
                                        Hex(spec.expected) + ", found " + Hex(found) +
                                        "; the bytes are damaged");
  if (tensor != kNoIndex) error.place().tensor = tensor;
  if (!range.empty()) {
    error.place().path = readers[range.source]->name();
    error.place().begin = range.begin;
    error.place().end = range.end;
  }
  return error;
}

}  // namespace weightlift
