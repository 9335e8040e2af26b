// What answers mean: redirects, errors with a hint of their text, validators.
#ifndef WEIGHTLIFT_HTTP_ANSWER_H_
#define WEIGHTLIFT_HTTP_ANSWER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "http/exchange.h"
#include "weightlift/error.h"

namespace weightlift::http {

inline bool IsSuccess(int status) { return status >= 200 && status < 300; }
bool IsRedirect(const Head& head);

// Makes `ask` the request that a redirect asks for. Throws kTransport after `max_redirects` of
// them, for one from https to http, or to what is no URL.
void FollowRedirect(Ask& ask, const Head& head, int hops, const Options& options);

// The first line of an error page, if it is text; the rest is read and dropped, up to a limit, so
// that the connection can be used again.
class Hint {
 public:
  void Start(const Head& head);
  bool Add(std::span<const std::byte> bytes);  // false: enough
  std::string Line() const;                    // empty: none

 private:
  bool text_ = false;
  bool markup_ = false;
  std::size_t seen_ = 0;
  std::string kept_;
};

// How the answer identifies the content.
struct Validators {
  std::string etag{};
  std::string last_modified{};
  std::uint64_t size = 0;

  static Validators Of(const Head& head);  // size unset
  // What differs in an answer for the same URL, in words; empty: nothing.
  std::string Difference(const Head& head) const;
};

// The Error for an attempt that ended badly: by status where there is one, by the transport's words
// else. `doing`: "read bytes 0-99", the URL and its place are added.
Error Failure(const Exchange& exchange, const Ask& ask, const std::string& doing, const Hint& hint);

// kTransport with the place; for answers that make no sense.
Error Nonsense(const Ask& ask, const std::string& message, int status);

}  // namespace weightlift::http

#endif  // WEIGHTLIFT_HTTP_ANSWER_H_
