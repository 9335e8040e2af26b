#include "layout/json_scanner.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>

#include "layout/utf8.h"
#include "weightlift/error.h"

namespace weightlift {
namespace {

constexpr std::uint64_t kOnes = 0x0101010101010101;
constexpr std::uint64_t kHighs = 0x8080808080808080;

// The high bit of every byte of `word` that ends a run of plain ASCII: '"', '\\', controls and
// bytes from 0x80. Exact up to the lowest such byte, which is the first in memory on little-endian
// machines.
constexpr std::uint64_t NotPlain(std::uint64_t word) noexcept {
  const std::uint64_t quote = word ^ (kOnes * '"');
  const std::uint64_t backslash = word ^ (kOnes * '\\');
  return (word | ((word - kOnes * 0x20) & ~word) | ((quote - kOnes) & ~quote) |
          ((backslash - kOnes) & ~backslash)) &
         kHighs;
}

bool IsPlain(char c) noexcept {
  const auto byte = static_cast<unsigned char>(c);
  return byte >= 0x20 && byte < 0x80 && c != '"' && c != '\\';
}

bool IsDigit(char c) noexcept { return c >= '0' && c <= '9'; }

// How a byte looks in a message.
std::string Shown(char c) {
  if (c > 0x20 && c < 0x7F) return std::string("'") + c + "'";
  constexpr char kHex[] = "0123456789abcdef";
  const auto byte = static_cast<unsigned char>(c);
  return std::string("byte 0x") + kHex[byte >> 4] + kHex[byte & 15];
}

}  // namespace

// The first byte from p on that is not plain ASCII inside a string.
const char* JsonScanner::SkipPlain(const char* p) const noexcept {
  if constexpr (std::endian::native == std::endian::little) {
    while (end_ - p >= 8) {
      std::uint64_t word;
      std::memcpy(&word, p, sizeof word);
      const std::uint64_t found = NotPlain(word);
      if (found != 0) return p + std::countr_zero(found) / 8;
      p += 8;
    }
  }
  while (p != end_ && IsPlain(*p)) ++p;
  return p;
}

std::string_view JsonScanner::String(std::forward_list<std::string>& unescaped) {
  Expect('"');
  const char* const start = at_;
  for (;;) {
    at_ = SkipPlain(at_);
    if (at_ == end_) Fail("the text ends inside a string");
    if (*at_ == '"') {
      const std::string_view text(start, static_cast<std::size_t>(at_ - start));
      ++at_;
      return text;
    }
    if (*at_ == '\\') return StringWithEscapes(start, unescaped);
    StepOverUtf8();
  }
}

// `at_` is at a byte that is not plain and neither a quote nor a backslash.
void JsonScanner::StepOverUtf8() {
  if (static_cast<unsigned char>(*at_) < 0x20) Fail("control " + Shown(*at_) + " inside a string");
  const std::size_t length =
      Utf8Length(std::string_view(at_, static_cast<std::size_t>(end_ - at_)));
  if (length == 0) Fail("a string is not UTF-8 at " + Shown(*at_));
  at_ += length;
}

std::string_view JsonScanner::StringWithEscapes(const char* start,
                                                std::forward_list<std::string>& unescaped) {
  std::string& text = unescaped.emplace_front(start, at_);
  for (;;) {
    const char* const run = at_;
    at_ = SkipPlain(at_);
    text.append(run, at_);
    if (at_ == end_) Fail("the text ends inside a string");
    if (*at_ == '"') {
      ++at_;
      return text;
    }
    if (*at_ == '\\') {
      Unescape(text);
    } else {
      const char* const character = at_;
      StepOverUtf8();
      text.append(character, at_);
    }
  }
}

// `at_` is at a backslash; the pairs of UTF-16 that JSON writes are joined.
void JsonScanner::Unescape(std::string& out) {
  ++at_;
  if (at_ == end_) Fail("the text ends inside a string");
  const char kind = *at_++;
  switch (kind) {
    case '"':
    case '\\':
    case '/':
      out.push_back(kind);
      return;
    case 'b':
      out.push_back('\b');
      return;
    case 'f':
      out.push_back('\f');
      return;
    case 'n':
      out.push_back('\n');
      return;
    case 'r':
      out.push_back('\r');
      return;
    case 't':
      out.push_back('\t');
      return;
    case 'u':
      break;
    default:
      --at_;
      Fail("unknown escape " + Shown(kind));
  }
  char32_t code_point = HexQuad();
  if (code_point >= 0xDC00 && code_point < 0xE000) Fail("half a surrogate pair");
  if (code_point >= 0xD800 && code_point < 0xDC00) {
    if (end_ - at_ < 2 || at_[0] != '\\' || at_[1] != 'u') Fail("half a surrogate pair");
    at_ += 2;
    const char32_t low = HexQuad();
    if (low < 0xDC00 || low >= 0xE000) Fail("half a surrogate pair");
    code_point = 0x10000 + ((code_point - 0xD800) << 10) + (low - 0xDC00);
  }
  AppendUtf8(code_point, out);
}

char32_t JsonScanner::HexQuad() {
  if (end_ - at_ < 4) Fail("the text ends inside an escape");
  char32_t value = 0;
  for (int i = 0; i < 4; ++i, ++at_) {
    const char c = *at_;
    char32_t digit;
    if (IsDigit(c)) {
      digit = static_cast<char32_t>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      digit = static_cast<char32_t>(c - 'a' + 10);
    } else if (c >= 'A' && c <= 'F') {
      digit = static_cast<char32_t>(c - 'A' + 10);
    } else {
      Fail("expected a hexadecimal digit, found " + Shown(c));
    }
    value = value << 4 | digit;
  }
  return value;
}

std::uint64_t JsonScanner::UnsignedInteger() {
  if (!IsDigit(Peek())) {
    Fail(at_ == end_ ? "expected an integer, found the end"
                     : "expected an integer that is not negative, found " + Shown(*at_));
  }
  if (*at_ == '0' && end_ - at_ > 1 && IsDigit(at_[1])) Fail("a number with a leading zero");
  constexpr std::ptrdiff_t kSafeDigits = 19;  // 10^19 - 1 < 2^64
  const char* const safe_end = at_ + std::min(kSafeDigits, end_ - at_);
  const char* p = at_;
  std::uint64_t value = 0;
  for (; p != safe_end && IsDigit(*p); ++p) value = value * 10 + static_cast<unsigned>(*p - '0');
  for (; p != end_ && IsDigit(*p); ++p) {
    if (__builtin_mul_overflow(value, 10u, &value) ||
        __builtin_add_overflow(value, static_cast<unsigned>(*p - '0'), &value)) {
      Fail("a number beyond 2^64 - 1");
    }
  }
  at_ = p;
  if (at_ != end_ && (*at_ == '.' || *at_ == 'e' || *at_ == 'E')) {
    Fail("expected an integer, found a fraction or exponent");
  }
  return value;
}

void JsonScanner::SkipValue() {
  std::uint64_t objects = 0;  // bit d: the container at depth d + 1 is an object
  unsigned depth = 0;
  const auto key = [this] {
    SkipString();
    Expect(':');
  };
  for (;;) {
    const char first = Peek();
    if (first == '{' || first == '[') {
      if (depth == kMaxDepth) Fail("nested deeper than " + std::to_string(kMaxDepth));
      ++at_;
      const std::uint64_t bit = std::uint64_t{1} << depth++;
      const bool object = first == '{';
      objects = object ? objects | bit : objects & ~bit;
      if (Peek() != (object ? '}' : ']')) {
        if (object) key();
        continue;
      }
    } else if (first == '"') {
      SkipString();
    } else if (first == 't') {
      SkipLiteral("true");
    } else if (first == 'f') {
      SkipLiteral("false");
    } else if (first == 'n') {
      SkipLiteral("null");
    } else {
      SkipNumber();
    }
    for (;; --depth) {  // close what ends here, or go on to the next item
      if (depth == 0) return;
      const bool object = (objects >> (depth - 1) & 1) != 0;
      if (Accept(object ? '}' : ']')) continue;
      Expect(',');
      if (object) key();
      break;
    }
  }
}

void JsonScanner::SkipString() {
  std::forward_list<std::string> unescaped;
  String(unescaped);
}

void JsonScanner::SkipLiteral(std::string_view literal) {
  if (static_cast<std::size_t>(end_ - at_) < literal.size() ||
      std::string_view(at_, literal.size()) != literal) {
    Fail("expected a value, found " + Shown(*at_));
  }
  at_ += literal.size();
}

void JsonScanner::SkipNumber() {
  if (at_ == end_) Fail("expected a value, found the end");
  if (*at_ != '-' && !IsDigit(*at_)) Fail("expected a value, found " + Shown(*at_));
  if (*at_ == '-') ++at_;
  if (at_ != end_ && *at_ == '0') {
    ++at_;
    if (at_ != end_ && IsDigit(*at_)) Fail("a number with a leading zero");
  } else {
    SkipDigits();
  }
  if (at_ != end_ && *at_ == '.') {
    ++at_;
    SkipDigits();
  }
  if (at_ != end_ && (*at_ == 'e' || *at_ == 'E')) {
    ++at_;
    if (at_ != end_ && (*at_ == '+' || *at_ == '-')) ++at_;
    SkipDigits();
  }
}

void JsonScanner::SkipDigits() {
  if (at_ == end_ || !IsDigit(*at_)) Fail("a number without digits");
  while (at_ != end_ && IsDigit(*at_)) ++at_;
}

void JsonScanner::ExpectEnd() {
  Peek();
  if (at_ != end_) Fail("the JSON ends, and then comes " + Shown(*at_));
}

void JsonScanner::Fail(const std::string& message) const {
  ErrorPlace place;
  place.begin = position();
  throw Error(ErrorCode::kFormat, message, std::move(place));
}

void JsonScanner::FailExpected(char token) {
  Peek();
  Fail("expected " + Shown(token) + ", found " + (at_ == end_ ? "the end" : Shown(*at_)));
}

}  // namespace weightlift
