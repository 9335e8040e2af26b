// UTF-8 as Unicode defines it: no overlong forms, no surrogates, nothing beyond U+10FFFF.
#ifndef WEIGHTLIFT_LAYOUT_UTF8_H_
#define WEIGHTLIFT_LAYOUT_UTF8_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace weightlift {

// Bytes of the character that `text` begins with; 0 where it is not well-formed.
std::size_t Utf8Length(std::string_view text) noexcept;

// Appends one code point (at most U+10FFFF, not a surrogate).
void AppendUtf8(char32_t code_point, std::string& out);

}  // namespace weightlift

#endif  // WEIGHTLIFT_LAYOUT_UTF8_H_
