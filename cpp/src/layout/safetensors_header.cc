#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <tuple>

#include "layout/duplicates.h"
#include "layout/json_scanner.h"
#include "layout/shape_size.h"
#include "weightlift/checksum.h"
#include "weightlift/error.h"
#include "weightlift/layout.h"

namespace weightlift {
namespace {

constexpr std::array<SafetensorsType, 20> kTypes{{
    {"F32", DType::kFloat32},
    {"BF16", DType::kBFloat16},
    {"F16", DType::kFloat16},
    {"F64", DType::kFloat64},
    {"BOOL", DType::kBool},
    {"U8", DType::kUInt8},
    {"I8", DType::kInt8},
    {"U16", DType::kUInt16},
    {"I16", DType::kInt16},
    {"U32", DType::kUInt32},
    {"I32", DType::kInt32},
    {"U64", DType::kUInt64},
    {"I64", DType::kInt64},
    {"C64", DType::kComplex64},
    {"F8_E4M3", DType::kFloat8E4M3FN},
    {"F8_E5M2", DType::kFloat8E5M2},
    {"F8_E8M0", DType::kFloat8E8M0FNU},
    {"F8_E4M3FNUZ", DType::kFloat8E4M3FNUZ},
    {"F8_E5M2FNUZ", DType::kFloat8E5M2FNUZ},
    {"F4", DType::kFloat4E2M1FN},
}};

// Types of the format that nothing here could hold an array of.
constexpr std::array<std::string_view, 2> kUnsupportedTypes{"F6_E2M3", "F6_E3M2"};

std::string Quoted(std::string_view text) {
  constexpr std::size_t kShown = 100;
  std::string quoted = "'";
  quoted += text.substr(0, kShown);
  quoted += text.size() > kShown ? "...'" : "'";
  return quoted;
}

[[noreturn]] void Fail(ErrorCode code, const std::string& message, std::string_view tensor,
                       std::optional<std::uint64_t> begin = std::nullopt,
                       std::optional<std::uint64_t> end = std::nullopt) {
  ErrorPlace place;
  place.tensor_name = tensor;
  place.begin = begin;
  place.end = end;
  throw Error(code, message, std::move(place));
}

class HeaderParser {
 public:
  HeaderParser(std::string_view json, std::uint64_t data_size)
      : scan_(json, kSafetensorsLengthBytes),
        data_begin_(kSafetensorsLengthBytes + json.size()),
        data_size_(data_size) {
    constexpr std::size_t kUsualEntry = 96;  // bytes of JSON a tensor takes, about
    header_.tensors.reserve(json.size() / kUsualEntry);
    header_.dimensions.reserve(2 * json.size() / kUsualEntry);
  }

  SafetensorsHeader Parse() {
    ParseObject();
    scan_.ExpectEnd();
    CheckUnique();
    SortTensors();
    CheckTiling();
    return std::move(header_);
  }

 private:
  void ParseObject();
  void ParseMetadata();
  void ParseTensor(std::string_view name);
  void ParseField(std::string_view field, SafetensorsTensor& tensor, unsigned& seen);
  std::uint32_t ParseType(std::string_view tensor);
  void ParseShape(SafetensorsTensor& tensor);
  void ParseOffsets(SafetensorsTensor& tensor);
  void CheckUnknownFields(std::string_view tensor);
  void CheckSize(const SafetensorsTensor& tensor) const;
  void CheckUnique();
  void SortTensors();
  void CheckTiling() const;

  // A tensor's fields, as bits of what has been seen.
  static constexpr unsigned kType = 1, kShape = 2, kOffsets = 4;

  JsonScanner scan_;
  std::uint64_t data_begin_;  // position of the data section in the file
  std::uint64_t data_size_;
  bool has_metadata_ = false;
  std::uint32_t last_type_ = 0;                   // most tensors have the type of the one before
  std::vector<std::string_view> unknown_fields_;  // of the tensor at hand
  SafetensorsHeader header_;
};

void HeaderParser::ParseObject() {
  scan_.Expect('{');
  if (scan_.Accept('}')) return;
  do {
    const std::string_view name = scan_.String(header_.unescaped);
    scan_.Expect(':');
    if (name == "__metadata__") {
      ParseMetadata();
    } else {
      ParseTensor(name);
    }
  } while (scan_.Accept(','));
  scan_.Expect('}');
}

void HeaderParser::ParseMetadata() {
  if (has_metadata_) Fail(ErrorCode::kFormat, "__metadata__ is there twice", {}, scan_.position());
  has_metadata_ = true;
  scan_.Expect('{');
  if (scan_.Accept('}')) return;
  do {
    const std::string_view key = scan_.String(header_.unescaped);
    scan_.Expect(':');
    if (scan_.Peek() != '"') {
      Fail(ErrorCode::kFormat, "the value of " + Quoted(key) + " in __metadata__ is not a string",
           {}, scan_.position());
    }
    header_.metadata.emplace_back(key, scan_.String(header_.unescaped));
  } while (scan_.Accept(','));
  scan_.Expect('}');
}

void HeaderParser::ParseTensor(std::string_view name) {
  if (name.empty()) {
    Fail(ErrorCode::kFormat, "the name of a tensor is empty", {}, scan_.position());
  }
  SafetensorsTensor tensor{name, header_.dimensions.size(), 0, 0, 0, 0, header_.tensors.size()};
  unsigned seen = 0;
  unknown_fields_.clear();
  try {
    scan_.Expect('{');
    if (!scan_.Accept('}')) {
      do {
        const std::string_view field = scan_.String(header_.unescaped);
        scan_.Expect(':');
        ParseField(field, tensor, seen);
      } while (scan_.Accept(','));
      scan_.Expect('}');
    }
  } catch (Error& error) {
    if (error.place().tensor_name.empty()) error.place().tensor_name = name;
    throw;
  }
  if (seen != (kType | kShape | kOffsets)) {
    const char* const missing = (seen & kType) == 0    ? "dtype"
                                : (seen & kShape) == 0 ? "shape"
                                                       : "data_offsets";
    Fail(ErrorCode::kFormat, std::string("the tensor has no ") + missing, name, scan_.position());
  }
  if (unknown_fields_.size() > 1) CheckUnknownFields(name);
  CheckSize(tensor);
  header_.tensors.push_back(tensor);
}

void HeaderParser::ParseField(std::string_view field, SafetensorsTensor& tensor, unsigned& seen) {
  const unsigned bit = field == "dtype"          ? kType
                       : field == "shape"        ? kShape
                       : field == "data_offsets" ? kOffsets
                                                 : 0;
  if ((seen & bit) != 0) {
    Fail(ErrorCode::kFormat, std::string(field) + " is there twice", tensor.name, scan_.position());
  }
  seen |= bit;
  switch (bit) {
    case kType:
      tensor.type = ParseType(tensor.name);
      break;
    case kShape:
      ParseShape(tensor);
      break;
    case kOffsets:
      ParseOffsets(tensor);
      break;
    default:
      unknown_fields_.push_back(field);
      scan_.SkipValue();
  }
}

std::uint32_t HeaderParser::ParseType(std::string_view tensor) {
  const std::uint64_t position = scan_.position();
  const std::string_view spelling = scan_.String(header_.unescaped);
  if (kTypes[last_type_].name == spelling) return last_type_;
  for (std::uint32_t i = 0; i < kTypes.size(); ++i) {
    if (kTypes[i].name == spelling) return last_type_ = i;
  }
  if (std::ranges::find(kUnsupportedTypes, spelling) != kUnsupportedTypes.end()) {
    Fail(ErrorCode::kUnsupported,
         "dtype " + std::string(spelling) + " has no array type that could hold it", tensor,
         position);
  }
  Fail(ErrorCode::kFormat, "unknown dtype " + Quoted(spelling), tensor, position);
}

void HeaderParser::ParseShape(SafetensorsTensor& tensor) {
  scan_.Expect('[');
  if (scan_.Accept(']')) return;
  do {
    if (tensor.rank == kMaxRank) {
      Fail(ErrorCode::kFormat, Describe(ShapeFault::kRank), tensor.name, scan_.position());
    }
    header_.dimensions.push_back(scan_.UnsignedInteger());
    ++tensor.rank;
  } while (scan_.Accept(','));
  scan_.Expect(']');
}

void HeaderParser::ParseOffsets(SafetensorsTensor& tensor) {
  scan_.Expect('[');
  tensor.begin = scan_.UnsignedInteger();
  scan_.Expect(',');
  tensor.end = scan_.UnsignedInteger();
  scan_.Expect(']');
}

void HeaderParser::CheckUnknownFields(std::string_view tensor) {
  const auto field = [this](std::size_t i) { return unknown_fields_[i]; };
  if (const auto twice = FindDuplicate(unknown_fields_.size(), field)) {
    Fail(ErrorCode::kFormat, "the field " + Quoted(field(*twice)) + " is there twice", tensor,
         scan_.position());
  }
}

// The extent is exactly what the type and the shape need.
void HeaderParser::CheckSize(const SafetensorsTensor& tensor) const {
  if (tensor.end < tensor.begin) {
    Fail(ErrorCode::kFormat,
         "data_offsets [" + std::to_string(tensor.begin) + ", " + std::to_string(tensor.end) +
             "] end before they begin",
         tensor.name, scan_.position());
  }
  const ShapeSize size = SizeOfShape(header_.shape(tensor), Info(kTypes[tensor.type].dtype).bits);
  if (size.fault != ShapeFault::kNone) {
    Fail(ErrorCode::kFormat, Describe(size.fault), tensor.name, scan_.position());
  }
  if (tensor.end - tensor.begin != size.bytes) {
    Fail(ErrorCode::kFormat,
         "data_offsets give " + std::to_string(tensor.end - tensor.begin) +
             " bytes, dtype and shape need " + std::to_string(size.bytes),
         tensor.name, scan_.position());
  }
}

void HeaderParser::CheckUnique() {
  const auto name = [this](std::size_t i) { return header_.tensors[i].name; };
  if (const auto twice = FindDuplicate(header_.tensors.size(), name)) {
    Fail(ErrorCode::kFormat, "two tensors have this name", name(*twice));
  }
  std::ranges::sort(header_.metadata);
  const auto twice = std::ranges::adjacent_find(
      header_.metadata, [](const auto& a, const auto& b) { return a.first == b.first; });
  if (twice != header_.metadata.end()) {
    Fail(ErrorCode::kFormat, "the key " + Quoted(twice->first) + " is there twice in __metadata__",
         {});
  }
}

// Data order; names decide among empty tensors, so that the order does not depend on the JSON's.
void HeaderParser::SortTensors() {
  const auto before = [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  };
  if (!std::ranges::is_sorted(header_.tensors, before)) std::ranges::sort(header_.tensors, before);
}

// The tensors fill the data section from its first byte to its last: a hole could hide content from
// one reader and show it to another.
void HeaderParser::CheckTiling() const {
  std::uint64_t filled = 0;
  for (const SafetensorsTensor& tensor : header_.tensors) {
    if (tensor.begin != filled) {
      const bool hole = tensor.begin > filled;
      Fail(ErrorCode::kFormat,
           std::string(hole ? "a hole before the tensor" : "overlaps the tensor before it") +
               ": it begins at " + std::to_string(tensor.begin) + " of the data, not at " +
               std::to_string(filled),
           tensor.name);
    }
    filled = tensor.end;
    if (filled > data_size_) {
      Fail(ErrorCode::kTruncated,
           "the file ends at byte " + std::to_string(data_begin_ + data_size_) +
               ", inside or before the tensor",
           tensor.name, data_begin_ + tensor.begin, data_begin_ + tensor.end);
    }
  }
  if (filled < data_size_) {
    Fail(ErrorCode::kFormat,
         std::to_string(data_size_ - filled) + " bytes after the last tensor belong to none", {},
         data_begin_ + filled, data_begin_ + data_size_);
  }
}

// CRC-32C of a sequence of numbers (8 bytes, little-endian) and texts (length, then the bytes).
class Digest {
 public:
  void Number(std::uint64_t value) {
    std::array<std::byte, 8> bytes;
    for (std::size_t i = 0; i < bytes.size(); ++i) {  // compilers make one store of it
      bytes[i] = static_cast<std::byte>(value >> (8 * i) & 0xFF);
    }
    Add(bytes);
  }
  void Text(std::string_view text) {
    Number(text.size());
    Add(std::as_bytes(std::span(text)));
  }
  std::uint32_t Finish() {
    Flush();
    return crc_;
  }

 private:
  void Add(std::span<const std::byte> bytes) {
    if (bytes.size() > buffer_.size() - used_) {
      Flush();
      if (bytes.size() > buffer_.size()) {
        crc_ = Crc32c(bytes, crc_);
        return;
      }
    }
    if (!bytes.empty()) std::memcpy(buffer_.data() + used_, bytes.data(), bytes.size());
    used_ += bytes.size();
  }
  void Flush() {
    crc_ = Crc32c(std::span(buffer_).first(used_), crc_);
    used_ = 0;
  }

  std::array<std::byte, 4096> buffer_;
  std::size_t used_ = 0;
  std::uint32_t crc_ = 0;
};

// Everything the header says, in an order that does not depend on how it was written, except the
// checksums themselves.
std::uint32_t TableDigest(const SafetensorsHeader& header) {
  Digest digest;
  std::uint64_t pairs = 0;
  for (const auto& [key, value] : header.metadata) pairs += key != kSafetensorsChecksumKey;
  digest.Number(pairs);
  for (const auto& [key, value] : header.metadata) {
    if (key == kSafetensorsChecksumKey) continue;
    digest.Text(key);
    digest.Text(value);
  }
  digest.Number(header.tensors.size());
  for (const SafetensorsTensor& tensor : header.tensors) {
    digest.Text(tensor.name);
    digest.Text(kTypes[tensor.type].name);
    digest.Number(tensor.rank);
    for (const std::uint64_t dimension : header.shape(tensor)) digest.Number(dimension);
    digest.Number(tensor.begin);
    digest.Number(tensor.end);
  }
  return digest.Finish();
}

}  // namespace

std::span<const SafetensorsType> SafetensorsTypes() noexcept { return kTypes; }

SafetensorsHeader ParseSafetensorsHeader(std::string_view json, std::uint64_t data_size) {
  SafetensorsHeader header = HeaderParser(json, data_size).Parse();
  header.table_digest = TableDigest(header);
  return header;
}

}  // namespace weightlift
