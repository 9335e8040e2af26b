#include "http/headers.h"

#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>

#include "weightlift/error.h"

namespace weightlift::http {
namespace {

char Lower(char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); }

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) { return Lower(c); });
  return lower;
}

std::string_view Trim(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// RFC 9110's "token".
bool IsToken(std::string_view text) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           kMarks.find(c) != std::string_view::npos;
  });
}

}  // namespace

bool SameName(std::string_view a, std::string_view b) noexcept {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return Lower(x) == Lower(y); });
}

const std::string* FindHeader(const Headers& headers, std::string_view name) noexcept {
  const auto found = std::find_if(headers.begin(), headers.end(), [&](const Header& header) {
    return SameName(header.first, name);
  });
  return found == headers.end() ? nullptr : &found->second;
}

std::string HeaderOr(const Headers& headers, std::string_view name, std::string fallback) {
  const std::string* const value = FindHeader(headers, name);
  return value != nullptr ? *value : std::move(fallback);
}

void CheckHeaders(const Headers& headers) {
  for (const auto& [name, value] : headers) {
    if (!IsToken(name)) {
      throw Error(ErrorCode::kInvalidArgument, "'" + name + "' is no name of a header");
    }
    if (value.find_first_of(std::string_view("\0\r\n", 3)) != std::string::npos) {
      throw Error(ErrorCode::kInvalidArgument,
                  "the value of the header '" + name + "' has NUL, CR or LF in it");
    }
  }
}

void CheckMethod(const std::string& method) {
  if (!IsToken(method)) {
    throw Error(ErrorCode::kInvalidArgument, "'" + method + "' is no method of HTTP");
  }
}

bool IsRepeatable(std::string_view method) noexcept {
  return method == "GET" || method == "HEAD" || method == "PUT" || method == "DELETE" ||
         method == "OPTIONS";
}

bool IsSecret(std::string_view name) {
  const std::string lower = Lower(name);
  constexpr std::array kParts = {"auth",   "cookie",   "credential", "key",
                                 "secret", "password", "session",    "token"};
  return std::any_of(kParts.begin(), kParts.end(),
                     [&](std::string_view part) { return lower.find(part) != std::string::npos; });
}

std::optional<std::uint64_t> ParseNumber(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

std::optional<ContentRange> ParseContentRange(std::string_view text) {
  text = Trim(text);
  constexpr std::string_view kUnit = "bytes";
  if (text.size() < kUnit.size() || !SameName(text.substr(0, kUnit.size()), kUnit)) {
    return std::nullopt;
  }
  text = Trim(text.substr(kUnit.size()));
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  const std::string_view range = Trim(text.substr(0, slash));
  const std::string_view total = Trim(text.substr(slash + 1));
  ContentRange found;
  if (total != "*") {
    found.size = ParseNumber(total);
    if (!found.size) return std::nullopt;
  }
  if (range == "*") return found;
  const std::size_t dash = range.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  found.begin = ParseNumber(range.substr(0, dash));
  const auto last = ParseNumber(range.substr(dash + 1));
  if (!found.begin || !last || *last < *found.begin || *last == UINT64_MAX) return std::nullopt;
  found.end = *last + 1;
  if (found.size && *found.end > *found.size) return std::nullopt;
  return found;
}

std::optional<std::chrono::milliseconds> ParseRetryAfter(
    const Headers& headers, std::chrono::system_clock::time_point now) {
  const std::string* const text = FindHeader(headers, "Retry-After");
  if (text == nullptr) return std::nullopt;
  constexpr std::uint64_t kLongest = 365ull * 86400;
  if (const auto seconds = ParseNumber(Trim(*text))) {
    return std::chrono::seconds(std::min(*seconds, kLongest));
  }
  const std::time_t then = curl_getdate(text->c_str(), nullptr);
  if (then == -1) return std::nullopt;
  // The clock's own units do not reach to every year that can be written.
  const std::time_t longest = std::chrono::system_clock::to_time_t(now) + std::time_t{kLongest};
  const auto wait = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::system_clock::from_time_t(std::clamp<std::time_t>(then, 0, longest)) - now);
  return std::max(wait, std::chrono::milliseconds(0));
}

bool IsStrong(const std::string& etag) {
  return etag.size() >= 2 && etag.front() == '"' && etag.back() == '"';
}

}  // namespace weightlift::http
