// Header fields: checked, found and understood.
#ifndef WEIGHTLIFT_HTTP_HEADERS_H_
#define WEIGHTLIFT_HTTP_HEADERS_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "weightlift/http.h"

namespace weightlift::http {

bool SameName(std::string_view a, std::string_view b) noexcept;  // whatever the case

// The first field of that name (in any case), or nullptr.
const std::string* FindHeader(const Headers& headers, std::string_view name) noexcept;
std::string HeaderOr(const Headers& headers, std::string_view name, std::string fallback);

// Throws kInvalidArgument for names that are no tokens and values with NUL, CR or LF.
void CheckHeaders(const Headers& headers);
// Likewise, for a method.
void CheckMethod(const std::string& method);

// Whether a request of that method can be made twice with the effect of one.
bool IsRepeatable(std::string_view method) noexcept;

// Whether a field may hold a secret, by its name: Authorization, Cookie, Private-Token, X-Api-Key
// and the like. Better one too many: it only stays away from other hosts.
bool IsSecret(std::string_view name);

// "bytes 0-99/1000", "bytes */1000"; nullopt for anything else. `end` is exclusive.
struct ContentRange {
  std::optional<std::uint64_t> begin, end;  // unset: "*", nothing could be had
  std::optional<std::uint64_t> size;        // unset: "*", not known
};
std::optional<ContentRange> ParseContentRange(std::string_view text);

std::optional<std::uint64_t> ParseNumber(std::string_view text);

// Seconds, or an HTTP date from `now` on; nullopt where there is none or nonsense.
std::optional<std::chrono::milliseconds> ParseRetryAfter(const Headers& headers,
                                                         std::chrono::system_clock::time_point now);

// Whether an ETag may stand in If-Range.
bool IsStrong(const std::string& etag);

}  // namespace weightlift::http

#endif  // WEIGHTLIFT_HTTP_HEADERS_H_
