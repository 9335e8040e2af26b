// URLs: parsed, compared and shown without their secrets.
#ifndef WEIGHTLIFT_HTTP_URL_H_
#define WEIGHTLIFT_HTTP_URL_H_

#include <optional>
#include <string>

namespace weightlift::http {

struct Url {
  std::string text;    // as it is requested: without user-info and fragment
  std::string origin;  // scheme://host:port, in lower case
  std::string scheme;
  std::optional<std::string> user;  // of the user-info, decoded
  std::optional<std::string> password;
};

// Throws kInvalidArgument for what is no http or https URL, or has control characters in it.
Url ParseUrl(const std::string& text);

// What a Location header means, seen from `base`. Its user-info is dropped: a server does not
// choose our credentials.
Url ResolveUrl(const Url& base, const std::string& location);

// For names and messages: no user-info, the query as "?...", no fragment.
std::string Redacted(const std::string& url);

}  // namespace weightlift::http

#endif  // WEIGHTLIFT_HTTP_URL_H_
