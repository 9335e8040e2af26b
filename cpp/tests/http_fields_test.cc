// The pure parts of the HTTP client: URLs, fields, what is tried again, how many connections pay.
#include <algorithm>
#include <chrono>
#include <string>

#include "check.h"
#include "http/answer.h"
#include "http/gate.h"
#include "http/headers.h"
#include "http/retry.h"
#include "http/url.h"

namespace {

using namespace weightlift::http;
using std::chrono::milliseconds;

TEST(UrlsAreParsed) {
  const Url url = ParseUrl("HTTPS://us%40er:p%3Aw@Example.COM/a/../b?q=1#part");
  CHECK_EQ(url.origin, "https://example.com:443");
  CHECK_EQ(url.scheme, "https");
  CHECK_EQ(url.user.value_or(""), "us@er");
  CHECK_EQ(url.password.value_or(""), "p:w");
  CHECK(url.text.find('@') == std::string::npos);
  CHECK(url.text.find("/a/../b?q=1") != std::string::npos);
  CHECK(url.text.find('#') == std::string::npos);
  CHECK_EQ(ParseUrl("http://[::1]:8080/x").origin, "http://[::1]:8080");
}

TEST(WhatIsNoUrlIsRefused) {
  for (const char* const text :
       {"", "file:///etc/passwd", "ftp://host/x", "http://", "nonsense", "http://host/a b",
        "http://host/\r\nX: y", "http://host/\x01", "http://host:99999/"}) {
    CHECK_THROWS(kInvalidArgument, ParseUrl(text));
  }
  CHECK_THROWS(kInvalidArgument, ParseUrl(std::string("http://host/\0x", 14)));
}

TEST(LocationsAreResolved) {
  const Url base = ParseUrl("https://host/a/b?c");
  CHECK_EQ(ResolveUrl(base, "d").text, "https://host/a/d");
  CHECK_EQ(ResolveUrl(base, "/d?e").text, "https://host/d?e");
  CHECK_EQ(ResolveUrl(base, "//other/x").origin, "https://other:443");
  CHECK_EQ(ResolveUrl(base, "http://other/x").scheme, "http");
  CHECK(!ResolveUrl(base, "https://user:pw@other/x").user);
  CHECK_THROWS(kInvalidArgument, ResolveUrl(base, "file:///etc/passwd"));
}

TEST(NamesShowNoSecrets) {
  CHECK_EQ(Redacted("http://u:p@host/x?key=s#f"), "http://host/x?...");
  CHECK_EQ(Redacted("http://u:p@ss@host/x"), "http://host/x");
  CHECK_EQ(Redacted("http://host/a@b"), "http://host/a@b");
  CHECK_EQ(Redacted("http://u:p@host?key=s"), "http://host?...");
}

TEST(ContentRanges) {
  const auto whole = ParseContentRange("bytes 0-99/1000");
  CHECK(whole && whole->begin == 0u && whole->end == 100u && whole->size == 1000u);
  const auto none = ParseContentRange("bytes */1000");
  CHECK(none && !none->begin && none->size == 1000u);
  const auto unknown = ParseContentRange("bytes 5-9/*");
  CHECK(unknown && unknown->begin == 5u && !unknown->size);
  for (const char* const text :
       {"", "bytes", "bytes 0-99", "bytes 9-5/10", "bytes 0-10/10", "items 0-9/10", "bytes -1-9/10",
        "bytes 0-9/1x", "bytes 0-18446744073709551615/*", "bytes 0-9/99999999999999999999"}) {
    CHECK(!ParseContentRange(text));
  }
}

TEST(RetryAfterInBothForms) {
  const auto now = std::chrono::system_clock::from_time_t(1793620800);  // 2 Nov 2026, 12:00 UTC
  CHECK(ParseRetryAfter({{"retry-after", "7"}}, now) == milliseconds(7000));
  CHECK(ParseRetryAfter({{"Retry-After", "Mon, 02 Nov 2026 12:00:30 GMT"}}, now) ==
        milliseconds(30000));
  CHECK(ParseRetryAfter({{"Retry-After", "Mon, 02 Nov 2026 11:00:00 GMT"}}, now) ==
        milliseconds(0));
  // Beyond what the clock's units reach.
  const milliseconds year = std::chrono::hours(365 * 24);
  CHECK(ParseRetryAfter({{"Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"}}, now) == year);
  CHECK(ParseRetryAfter({{"Retry-After", "18446744073709551615"}}, now) == year);
  CHECK(!ParseRetryAfter({{"Retry-After", "soon"}}, now));
  CHECK(!ParseRetryAfter({}, now));
}

TEST(FieldsAreChecked) {
  CheckHeaders({{"X-A", "b"}, {"x", ""}});
  CHECK_THROWS(kInvalidArgument, CheckHeaders({{"", "b"}}));
  CHECK_THROWS(kInvalidArgument, CheckHeaders({{"X A", "b"}}));
  CHECK_THROWS(kInvalidArgument, CheckHeaders({{"X-A:", "b"}}));
  CHECK_THROWS(kInvalidArgument, CheckHeaders({{"X-A", "b\r\nX-B: c"}}));
  CHECK_THROWS(kInvalidArgument, CheckHeaders({{"X-A", std::string("b\0c", 3)}}));
  for (const char* const name : {"Authorization", "PROXY-AUTHORIZATION", "Cookie", "X-API-Key",
                                 "x-auth-token", "X-Amz-Security-Token", "X-Secret",
                                 "PRIVATE-TOKEN", "Ocp-Apim-Subscription-Key", "Session-Id"}) {
    CHECK(IsSecret(name));
  }
  for (const char* const name : {"Accept", "X-Request-Id", "Range", "User-Agent"}) {
    CHECK(!IsSecret(name));
  }
}

TEST(OnePredicateSaysWhatIsTriedAgain) {
  const auto retried = [](const Attempt& attempt) {
    return Judge(attempt) == RetryVerdict::kRetry;
  };
  for (const CURLcode code : {CURLE_COULDNT_CONNECT, CURLE_COULDNT_RESOLVE_HOST, CURLE_RECV_ERROR,
                              CURLE_SEND_ERROR, CURLE_GOT_NOTHING, CURLE_PARTIAL_FILE,
                              CURLE_OPERATION_TIMEDOUT, CURLE_SSL_CONNECT_ERROR, CURLE_HTTP2}) {
    CHECK(retried({.code = code}));
  }
  for (const CURLcode code : {CURLE_PEER_FAILED_VERIFICATION, CURLE_URL_MALFORMAT,
                              CURLE_UNSUPPORTED_PROTOCOL, CURLE_SSL_CERTPROBLEM}) {
    CHECK(!retried({.code = code}));
  }
  for (const int status : {408, 425, 429, 500, 502, 503, 504, 507, 520, 524, 529, 599}) {
    CHECK(retried({.status = status}));
  }
  for (const int status : {304, 400, 401, 403, 404, 409, 410, 412, 416, 422, 501, 505, 511, 600}) {
    CHECK(!retried({.status = status}));
    CHECK(!retried({.code = CURLE_OPERATION_TIMEDOUT, .status = status, .stalled = true}));
  }
  CHECK(retried({.code = CURLE_OPERATION_TIMEDOUT, .status = 206, .stalled = true}));
  CHECK(!retried({.status = 206, .wrong = true}));
  CHECK(retried({.status = 200, .ignored_range = true}));
  // A request that may have been acted on is not made twice.
  CHECK(retried({.code = CURLE_COULDNT_CONNECT, .repeatable = false}));
  CHECK(retried({.status = 503, .repeatable = false}));
  CHECK(!retried({.code = CURLE_RECV_ERROR, .repeatable = false}));
  CHECK(!retried({.status = 500, .repeatable = false}));
}

// Runs a link whose rate depends on the number of connections, for some seconds.
int ClimbOn(double seconds, double (*rate)(int), int cpus = 2) {
  Climber climber(cpus);
  Climber::Clock::time_point now{std::chrono::hours(1)};
  double bytes = 0;
  for (double t = 0; t < seconds; t += 0.01) {
    now += milliseconds(10);
    bytes += rate(climber.limit()) * 0.01;
    climber.Observe(now, static_cast<std::uint64_t>(bytes), true);
  }
  return climber.limit();
}

TEST(ConnectionsGrowWhereEachIsSlow) {
  CHECK_EQ(ClimbOn(3, [](int n) { return n * 1e7; }), 16);
}

TEST(ConnectionsStayWhereMoreBringNothing) {
  const int limit = ClimbOn(1.05, [](int) { return 1e8; });
  CHECK(limit == 4 || limit == 8);  // 8 while it tries
  int most = 0;
  for (double t = 1; t < 4; t += 0.25) most = std::max(most, ClimbOn(t, [](int) { return 1e8; }));
  CHECK(most <= 8);
}

TEST(ConnectionsThatKeepTheCpusBusyStay) {
  CHECK_EQ(ClimbOn(3, [](int n) { return n * 6e8; }), 4);
  CHECK_EQ(ClimbOn(
               3, [](int n) { return n * 6e8; }, 16),
           16);
}

TEST(ConnectionsToAFarServerAreManyFromTheStart) {
  Climber near(2);
  near.Answered(milliseconds(1));
  CHECK_EQ(near.limit(), 4);
  Climber far(2);
  far.Answered(milliseconds(20));
  CHECK_EQ(far.limit(), 8);
  // What was measured counts more than what one answer took.
  Climber::Clock::time_point now{std::chrono::hours(1)};
  Climber busy(2);
  for (int i = 0; i < 40; ++i) {
    now += milliseconds(10);
    busy.Observe(now, static_cast<std::uint64_t>(i) * 20'000'000, true);
  }
  busy.Answered(milliseconds(20));
  CHECK_EQ(busy.limit(), 4);
}

TEST(ConnectionsStopWhereTheLinkIsFull) {
  // Four fill it: eight are tried and given up.
  const int limit = ClimbOn(2, [](int n) { return std::min(n, 4) * 1e8; });
  CHECK(limit == 4 || limit == 8);
}

}  // namespace
