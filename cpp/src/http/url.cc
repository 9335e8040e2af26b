#include "http/url.h"

#include <curl/curl.h>

#include <algorithm>
#include <cctype>
#include <memory>

#include "weightlift/error.h"

namespace weightlift::http {
namespace {

struct UrlDeleter {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
using Handle = std::unique_ptr<CURLU, UrlDeleter>;

Handle MakeHandle() {
  Handle handle(curl_url());
  if (!handle) throw Error(ErrorCode::kOutOfMemory, "no memory for a URL");
  return handle;
}

[[noreturn]] void Refuse(const std::string& text, const std::string& why) {
  throw Error(ErrorCode::kInvalidArgument, "cannot use the URL " + Redacted(text) + ": " + why);
}

std::optional<std::string> Part(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK) return std::nullopt;
  std::string copy(text);
  curl_free(text);
  return copy;
}

bool HasControls(const std::string& text) {
  return std::any_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 || byte == 0x7F;
  });
}

std::string Lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

Url Describe(CURLU* handle, const std::string& text) {
  Url url;
  url.scheme = Lower(Part(handle, CURLUPART_SCHEME).value_or(""));
  if (url.scheme != "http" && url.scheme != "https") {
    Refuse(text, "only http and https are spoken here");
  }
  const std::string host = Lower(Part(handle, CURLUPART_HOST).value_or(""));
  if (host.empty()) Refuse(text, "it names no host");
  const auto port = Part(handle, CURLUPART_PORT, CURLU_DEFAULT_PORT);
  url.origin = url.scheme + "://" + host + ":" + port.value_or("");
  url.user = Part(handle, CURLUPART_USER, CURLU_URLDECODE);
  url.password = Part(handle, CURLUPART_PASSWORD, CURLU_URLDECODE);
  for (const CURLUPart part : {CURLUPART_USER, CURLUPART_PASSWORD, CURLUPART_FRAGMENT}) {
    curl_url_set(handle, part, nullptr, 0);
  }
  const auto whole = Part(handle, CURLUPART_URL);
  if (!whole) Refuse(text, "it is malformed");
  url.text = *whole;
  return url;
}

}  // namespace

Url ParseUrl(const std::string& text) {
  if (HasControls(text)) Refuse(text, "it has control characters in it");
  const Handle handle = MakeHandle();
  const CURLUcode code = curl_url_set(handle.get(), CURLUPART_URL, text.c_str(),
                                      CURLU_PATH_AS_IS | CURLU_NON_SUPPORT_SCHEME);
  if (code != CURLUE_OK) Refuse(text, curl_url_strerror(code));
  return Describe(handle.get(), text);
}

Url ResolveUrl(const Url& base, const std::string& location) {
  if (HasControls(location)) Refuse(location, "it has control characters in it");
  const Handle handle = MakeHandle();
  CURLUcode code = curl_url_set(handle.get(), CURLUPART_URL, base.text.c_str(), CURLU_PATH_AS_IS);
  if (code == CURLUE_OK) {
    code = curl_url_set(
        handle.get(), CURLUPART_URL, location.c_str(),
        CURLU_PATH_AS_IS | CURLU_URLENCODE | CURLU_ALLOW_SPACE | CURLU_NON_SUPPORT_SCHEME);
  }
  if (code != CURLUE_OK) Refuse(location, curl_url_strerror(code));
  Url url = Describe(handle.get(), location);
  url.user.reset();
  url.password.reset();
  return url;
}

std::string Redacted(const std::string& url) {
  std::string shown = url.substr(0, url.find('#'));
  const std::size_t query = shown.find('?');
  if (query != std::string::npos) shown.replace(query, std::string::npos, "?...");
  const std::size_t host = shown.find("://");
  if (host != std::string::npos) {
    const std::size_t path = shown.find_first_of("/?", host + 3);
    const std::size_t at = shown.rfind('@', path);
    if (at != std::string::npos && at > host) shown.erase(host + 3, at - host - 2);
  }
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  return shown;
}

}  // namespace weightlift::http
