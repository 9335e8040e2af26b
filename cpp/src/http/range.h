// The parallel lane: one range of a pinned file, by as many attempts as it takes.
#ifndef WEIGHTLIFT_HTTP_RANGE_H_
#define WEIGHTLIFT_HTTP_RANGE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "http/answer.h"
#include "http/session.h"
#include "weightlift/http.h"

namespace weightlift::http {

// What opening a URL has found.
struct Opened {
  Ask asked{};  // as the user asked, before redirects
  Ask ask{};    // as it was answered; without a range
  Validators pinned{};
  std::string content_type{};
  std::string name{};
};

std::shared_ptr<HttpReader> MakeRangedReader(std::shared_ptr<Session> session, Opened opened,
                                             std::vector<std::byte> prefix);

}  // namespace weightlift::http

#endif  // WEIGHTLIFT_HTTP_RANGE_H_
