#include <algorithm>
#include <array>
#include <charconv>
#include <limits>

#include "weightlift/layout.h"

namespace weightlift {
namespace {

void AppendNumber(std::string& out, std::uint64_t value) {
  std::array<char, std::numeric_limits<std::uint64_t>::digits10 + 1> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  out.append(digits.data(), end);
}

// What must not stand in a JSON string as it is.
bool NeedsEscape(char c) { return c == '"' || c == '\\' || static_cast<unsigned char>(c) < 0x20; }

void AppendEscape(std::string& out, char c) {
  constexpr std::string_view kPlain = "\"\\\n\r\t\b\f";
  constexpr std::string_view kLetters = "\"\\nrtbf";
  out += '\\';
  if (const std::size_t i = kPlain.find(c); i != std::string_view::npos) {
    out += kLetters[i];
    return;
  }
  constexpr std::string_view kHex = "0123456789abcdef";
  const auto code = static_cast<unsigned char>(c);
  out += "u00";
  out += kHex[code >> 4];
  out += kHex[code & 15];
}

void AppendQuoted(std::string& out, std::string_view text) {
  out += '"';
  while (!text.empty()) {
    const auto stop = std::ranges::find_if(text, NeedsEscape);
    const auto plain = static_cast<std::size_t>(stop - text.begin());
    out += text.substr(0, plain);
    text.remove_prefix(plain);
    if (text.empty()) break;
    AppendEscape(out, text.front());
    text.remove_prefix(1);
  }
  out += '"';
}

void AppendEntry(std::string& out, const SafetensorsRows& rows, std::size_t i) {
  AppendQuoted(out, rows.names[i]);
  out += R"(:{"dtype":")";
  out += SafetensorsTypes()[rows.type[i]].name;
  out += R"(","shape":[)";
  for (std::size_t k = rows.first_dimension[i]; k < rows.first_dimension[i + 1]; ++k) {
    if (k != rows.first_dimension[i]) out += ',';
    AppendNumber(out, static_cast<std::uint64_t>(rows.dimensions[k]));
  }
  out += R"(],"data_offsets":[)";
  AppendNumber(out, rows.begin[i]);
  out += ',';
  AppendNumber(out, rows.end[i]);
  out += "]}";
}

}  // namespace

std::string WriteSafetensorsHeader(const SafetensorsRows& rows, std::string_view metadata,
                                   std::uint64_t alignment) {
  constexpr std::size_t kUsualEntry = 128;
  std::string out(kSafetensorsLengthBytes, '\0');
  out.reserve(out.size() + metadata.size() + alignment + rows.names.size() * kUsualEntry);
  out += '{';
  if (!metadata.empty()) {
    out += R"("__metadata__":)";
    out += metadata;
  }
  for (std::size_t i = 0; i < rows.names.size(); ++i) {
    if (i != 0 || !metadata.empty()) out += ',';
    AppendEntry(out, rows, i);
  }
  out += '}';
  out.append((alignment - out.size() % alignment) % alignment, ' ');
  const std::uint64_t length = out.size() - kSafetensorsLengthBytes;
  for (std::size_t i = 0; i < kSafetensorsLengthBytes; ++i) {
    out[i] = static_cast<char>(length >> (8 * i) & 0xFF);
  }
  return out;
}

}  // namespace weightlift
