// The safetensors header parser: any bytes are a header that keeps every promise, or an Error.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "layout/utf8.h"
#include "weightlift/error.h"
#include "weightlift/layout.h"

namespace {

void Require(bool promise) {
  if (!promise) std::abort();
}

void RequireUtf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = weightlift::Utf8Length(text);
    Require(length != 0);
    text.remove_prefix(length);
  }
}

void RequirePromises(const weightlift::SafetensorsHeader& header, std::uint64_t data_size) {
  std::uint64_t filled = 0;
  for (const weightlift::SafetensorsTensor& tensor : header.tensors) {
    RequireUtf8(tensor.name);
    Require(!tensor.name.empty());
    Require(tensor.begin == filled && tensor.end >= tensor.begin);
    filled = tensor.end;
    std::uint64_t elements = 1;
    for (const std::uint64_t dimension : header.shape(tensor)) elements *= dimension;
    const weightlift::DType dtype = weightlift::SafetensorsTypes()[tensor.type].dtype;
    Require(weightlift::ByteSize(dtype, elements) == tensor.end - tensor.begin);
  }
  Require(filled == data_size);
  for (const auto& [key, value] : header.metadata) {
    RequireUtf8(key);
    RequireUtf8(value);
  }
  Require(std::ranges::is_sorted(header.metadata));
}

}  // namespace

// The first 8 bytes are the size of the data section.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::uint64_t data_size = 0;
  if (size < sizeof data_size) return 0;
  std::memcpy(&data_size, data, sizeof data_size);
  const std::string_view json(reinterpret_cast<const char*>(data) + sizeof data_size,
                              size - sizeof data_size);
  try {
    RequirePromises(weightlift::ParseSafetensorsHeader(json, data_size), data_size);
  } catch (const weightlift::Error& error) {
    Require(error.code() == weightlift::ErrorCode::kFormat ||
            error.code() == weightlift::ErrorCode::kTruncated ||
            error.code() == weightlift::ErrorCode::kUnsupported);
  }
  return 0;
}
