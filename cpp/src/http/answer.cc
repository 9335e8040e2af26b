#include "http/answer.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <string_view>

#include "http/headers.h"

namespace weightlift::http {
namespace {

constexpr std::size_t kHintBytes = 2048;
constexpr std::size_t kHintLine = 200;
constexpr std::size_t kMostDrained = 64u << 10;

// An error page in HTML, without its tags.
std::string WithoutTags(const std::string& markup) {
  std::string text;
  bool tag = false;
  for (const char c : markup) {
    if (c == '<') {
      tag = true;
      text += '\n';
    } else if (c == '>') {
      tag = false;
    } else if (!tag) {
      text += c;
    }
  }
  return text;
}

std::string FirstLine(const std::string& text) {
  std::size_t begin = 0;
  while (begin < text.size() && std::isspace(static_cast<unsigned char>(text[begin])) != 0) ++begin;
  std::string line;
  for (std::size_t i = begin; i < text.size() && text[i] != '\n' && text[i] != '\r'; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    line += byte < 0x20 || byte == 0x7F ? ' ' : text[i];
  }
  if (line.size() > kHintLine) {
    std::size_t cut = kHintLine;  // not in the middle of a character
    while (cut > 0 && (static_cast<unsigned char>(line[cut]) & 0xC0) == 0x80) --cut;
    line.resize(cut);
    line += "...";
  }
  return line;
}

}  // namespace

bool IsRedirect(const Head& head) {
  switch (head.status) {
    case 301:
    case 302:
    case 303:
    case 307:
    case 308:
      return FindHeader(head.headers, "Location") != nullptr;
    default:
      return false;
  }
}

Error Nonsense(const Ask& ask, const std::string& message, int status) {
  return Error(ErrorCode::kTransport, message, {.path = Redacted(ask.url.text), .status = status},
               EPROTO);
}

void FollowRedirect(Ask& ask, const Head& head, int hops, const Options& options) {
  if (hops > options.max_redirects) {
    throw Nonsense(ask,
                   "redirected more than " + std::to_string(options.max_redirects) +
                       " times: a loop? (max_redirects)",
                   head.status);
  }
  const std::string& location = *FindHeader(head.headers, "Location");
  Url next;
  try {
    next = ResolveUrl(ask.url, location);
  } catch (const Error& error) {
    throw Nonsense(ask, std::string("redirected to what cannot be followed: ") + error.what(),
                   head.status);
  }
  if (ask.url.scheme == "https" && next.scheme != "https") {
    throw Nonsense(ask, "redirected from https to " + Redacted(next.text) + ": refused",
                   head.status);
  }
  const bool becomes_get =
      head.status == 303 || ((head.status == 301 || head.status == 302) && ask.method == "POST");
  if (becomes_get && ask.method != "HEAD") {
    ask.method = "GET";
    ask.body.reset();
  }
  ask.url = std::move(next);
}

void Hint::Start(const Head& head) {
  const std::string type = HeaderOr(head.headers, "Content-Type", "");
  markup_ = type.find("html") != std::string::npos || type.find("xml") != std::string::npos;
  text_ = markup_ || type.rfind("text/", 0) == 0 || type.find("json") != std::string::npos;
  seen_ = 0;
  kept_.clear();
}

bool Hint::Add(std::span<const std::byte> bytes) {
  seen_ += bytes.size();
  if (text_ && kept_.size() < kHintBytes) {
    kept_.append(reinterpret_cast<const char*>(bytes.data()),
                 std::min(bytes.size(), kHintBytes - kept_.size()));
  }
  return seen_ <= kMostDrained;
}

std::string Hint::Line() const { return FirstLine(markup_ ? WithoutTags(kept_) : kept_); }

Validators Validators::Of(const Head& head) {
  return {.etag = HeaderOr(head.headers, "ETag", ""),
          .last_modified = HeaderOr(head.headers, "Last-Modified", ""),
          .size = 0};
}

std::string Validators::Difference(const Head& head) const {
  const Validators now = Of(head);
  const auto differs = [](const std::string& name, const std::string& was, const std::string& is) {
    return "its " + name + " was " + was + ", and is " + (is.empty() ? "missing" : is) + " now";
  };
  if (!etag.empty()) {
    return now.etag == etag ? std::string() : differs("ETag", etag, now.etag);
  }
  if (last_modified.empty() || now.last_modified == last_modified) return {};
  return differs("Last-Modified", last_modified, now.last_modified);
}

Error Failure(const Exchange& exchange, const Ask& ask, const std::string& doing,
              const Hint& hint) {
  const Attempt attempt = exchange.attempt();
  ErrorPlace place{.path = Redacted(ask.url.text)};
  if (attempt.status != 0) place.status = attempt.status;
  std::string message = "cannot " + doing + ": ";
  if (attempt.status < 300) {
    return Error(ErrorCode::kTransport, message + exchange.Words(), std::move(place), EIO);
  }
  message += "the server answers " + std::to_string(attempt.status);
  const std::string line = hint.Line();
  if (!line.empty()) message += " (" + line + ")";
  switch (attempt.status) {
    case 404:
    case 410:
      return Error(ErrorCode::kNotFound, message, std::move(place), ENOENT);
    case 401:
    case 403:
      return Error(ErrorCode::kAccess, message, std::move(place), EACCES);
    default:
      return Error(ErrorCode::kTransport, message, std::move(place), EIO);
  }
}

}  // namespace weightlift::http
