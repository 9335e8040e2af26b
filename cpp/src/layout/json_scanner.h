// A strict pull scanner for JSON (RFC 8259), one pass, no recursion, no tree.
//
// The caller asks for what its format says must come next; anything else throws Error(kFormat) with
// the byte position. Strings are views of the text; only those with escapes are copied.
#ifndef WEIGHTLIFT_LAYOUT_JSON_SCANNER_H_
#define WEIGHTLIFT_LAYOUT_JSON_SCANNER_H_

#include <cstddef>
#include <cstdint>
#include <forward_list>
#include <string>
#include <string_view>

namespace weightlift {

class JsonScanner {
 public:
  // `base` is the position of the text in its file, for errors. The text must outlive the scanner
  // and the views it gives.
  JsonScanner(std::string_view text, std::uint64_t base) noexcept
      : begin_(text.data()), at_(begin_), end_(begin_ + text.size()), base_(base) {}

  // The next byte that is not white space, not consumed; 0 at the end.
  char Peek() noexcept {
    while (at_ != end_ && IsSpace(*at_)) ++at_;
    return at_ != end_ ? *at_ : '\0';
  }
  bool Accept(char token) noexcept {
    if (Peek() != token || at_ == end_) return false;
    ++at_;
    return true;
  }
  void Expect(char token) {
    if (!Accept(token)) FailExpected(token);
  }

  // A string, valid UTF-8. With escapes, its text is put into `unescaped`.
  std::string_view String(std::forward_list<std::string>& unescaped);

  // An integer from 0 to 2^64 - 1: digits alone, no sign, no fraction, no exponent, no leading
  // zero.
  std::uint64_t UnsignedInteger();

  // Any valid value. Nesting is limited; keys of skipped objects may repeat, since nobody reads
  // them.
  void SkipValue();

  // Nothing but white space may be left.
  void ExpectEnd();

  std::uint64_t position() const noexcept {
    return base_ + static_cast<std::uint64_t>(at_ - begin_);
  }

 private:
  static constexpr unsigned kMaxDepth = 64;

  static bool IsSpace(char c) noexcept { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

  const char* SkipPlain(const char* p) const noexcept;
  void StepOverUtf8();
  void SkipString();
  std::string_view StringWithEscapes(const char* start, std::forward_list<std::string>& unescaped);
  void Unescape(std::string& out);
  char32_t HexQuad();
  void SkipLiteral(std::string_view literal);
  void SkipNumber();
  void SkipDigits();

  [[noreturn]] void Fail(const std::string& message) const;
  [[noreturn]] void FailExpected(char token);

  const char* begin_;
  const char* at_;
  const char* end_;
  std::uint64_t base_;
};

}  // namespace weightlift

#endif  // WEIGHTLIFT_LAYOUT_JSON_SCANNER_H_
