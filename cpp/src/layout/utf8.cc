#include "layout/utf8.h"

namespace weightlift {
namespace {

unsigned At(std::string_view text, std::size_t i) noexcept {
  return static_cast<unsigned char>(text[i]);
}

bool Continues(std::string_view text, std::size_t i) noexcept {
  return i < text.size() && (At(text, i) & 0xC0) == 0x80;
}

}  // namespace

std::size_t Utf8Length(std::string_view text) noexcept {
  if (text.empty()) return 0;
  const unsigned lead = At(text, 0);
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || !Continues(text, 1)) return 0;  // a continuation, or an overlong form
  if (lead < 0xE0) return 2;
  const unsigned second = At(text, 1);
  if (lead < 0xF0) {
    if (lead == 0xE0 && second < 0xA0) return 0;   // overlong
    if (lead == 0xED && second >= 0xA0) return 0;  // surrogate
    return Continues(text, 2) ? 3 : 0;
  }
  if (lead > 0xF4) return 0;
  if (lead == 0xF0 && second < 0x90) return 0;   // overlong
  if (lead == 0xF4 && second >= 0x90) return 0;  // beyond U+10FFFF
  return Continues(text, 2) && Continues(text, 3) ? 4 : 0;
}

void AppendUtf8(char32_t code_point, std::string& out) {
  const auto byte = [&out](char32_t value) { out.push_back(static_cast<char>(value)); };
  if (code_point < 0x80) {
    byte(code_point);
    return;
  }
  if (code_point < 0x800) {
    byte(0xC0 | (code_point >> 6));
  } else {
    if (code_point < 0x10000) {
      byte(0xE0 | (code_point >> 12));
    } else {
      byte(0xF0 | (code_point >> 18));
      byte(0x80 | ((code_point >> 12) & 0x3F));
    }
    byte(0x80 | ((code_point >> 6) & 0x3F));
  }
  byte(0x80 | (code_point & 0x3F));
}

}  // namespace weightlift
