#include "http/retry.h"

#include <algorithm>
#include <random>
#include <thread>

namespace weightlift::http {
namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t kProgress = 64u << 10;  // bytes that count as some
constexpr int kTotalFactor = 4;                 // attempts with some progress, too
constexpr double kLongestBackoff = 20;          // seconds
// Servers may ask for hours; a caller who set no total time did not mean to wait for them.
constexpr milliseconds kLongestWait = std::chrono::minutes(5);
constexpr milliseconds kStep{25};

// How a transfer ended that another try would end no better.
bool IsHopeless(CURLcode code) noexcept {
  switch (code) {
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_FAILED_INIT:
    case CURLE_URL_MALFORMAT:
    case CURLE_NOT_BUILT_IN:
    case CURLE_OUT_OF_MEMORY:
    case CURLE_BAD_FUNCTION_ARGUMENT:
    case CURLE_UNKNOWN_OPTION:
    case CURLE_LOGIN_DENIED:
    case CURLE_BAD_CONTENT_ENCODING:
    case CURLE_FILESIZE_EXCEEDED:
    case CURLE_SSL_ENGINE_NOTFOUND:
    case CURLE_SSL_ENGINE_SETFAILED:
    case CURLE_SSL_ENGINE_INITFAILED:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CRL_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_CLIENTCERT:
      return true;
    default:
      return false;
  }
}

bool IsPassing(int status) noexcept {
  switch (status) {
    case 408:  // request timeout
    case 425:  // too early
    case 429:  // too many requests
      return true;
    // A server that says that it cannot, whenever it is asked.
    case 501:  // not implemented
    case 505:  // HTTP version not supported
    case 506:  // misconfigured: variants of variants
    case 508:  // misconfigured: a loop
    case 510:  // wants an extension
    case 511:  // wants the user to log in to the network
      return false;
    default:
      return status >= 500 && status < 600;
  }
}

// Whether it is sure that the server has not acted on the request.
bool NothingDone(const Attempt& attempt) noexcept {
  if (attempt.code == CURLE_COULDNT_CONNECT || attempt.code == CURLE_COULDNT_RESOLVE_HOST ||
      attempt.code == CURLE_COULDNT_RESOLVE_PROXY || attempt.code == CURLE_SSL_CONNECT_ERROR) {
    return true;
  }
  return attempt.code == CURLE_OK && (attempt.status == 408 || attempt.status == 425 ||
                                      attempt.status == 429 || attempt.status == 503);
}

}  // namespace

RetryVerdict Judge(const Attempt& attempt) noexcept {
  if (attempt.wrong) return RetryVerdict::kFinal;
  // What may have been done already is not done again.
  if (!attempt.repeatable && !NothingDone(attempt)) return RetryVerdict::kFinal;
  if (attempt.ignored_range) return RetryVerdict::kRetry;
  if (attempt.status >= 300) {
    return IsPassing(attempt.status) ? RetryVerdict::kRetry : RetryVerdict::kFinal;
  }
  return IsHopeless(attempt.code) ? RetryVerdict::kFinal : RetryVerdict::kRetry;
}

std::optional<Patience::Clock::time_point> Patience::Deadline(double total_seconds) {
  if (total_seconds <= 0) return std::nullopt;
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(total_seconds));
}

void Patience::CheckStop() const {
  if (stop_ && stop_()) throw Error(ErrorCode::kCancelled, "stopped");
}

bool Patience::Allows(milliseconds wait) const {
  return deadline_ ? Clock::now() + wait < *deadline_ : wait <= kLongestWait;
}

void Patience::Sleep(milliseconds wait) const {
  const Clock::time_point end = Clock::now() + wait;
  for (;;) {
    CheckStop();
    const auto left = std::chrono::ceil<milliseconds>(end - Clock::now());
    if (left <= milliseconds(0)) return;
    std::this_thread::sleep_for(std::min(left, kStep));
  }
}

void Retrier::Failed(const Attempt& attempt, std::uint64_t progress,
                     std::optional<milliseconds> retry_after, Error failure,
                     const Patience& patience) {
  ++total_;
  in_a_row_ = progress >= kProgress ? 1 : in_a_row_ + 1;
  failure.place().attempts = total_;
  if (Judge(attempt) == RetryVerdict::kFinal) throw failure;
  const auto give_up = [&](const std::string& why) {
    throw Error(failure.code(), std::string(failure.what()) + why, failure.place(),
                failure.sys_errno());
  };
  const std::string tries =
      "; gave up after " + std::to_string(total_) + (total_ == 1 ? " attempt" : " attempts");
  if (patience.expired()) give_up(tries + ": the total time is over");
  if (in_a_row_ >= options_.attempts || total_ >= kTotalFactor * options_.attempts) give_up(tries);
  const milliseconds wait = std::max(Backoff(), retry_after.value_or(milliseconds(0)));
  if (!patience.Allows(wait)) {
    give_up(tries + ": the next would be too late, in " + std::to_string(wait.count() / 1000) +
            " s");
  }
  patience.Sleep(wait);
}

milliseconds Retrier::Backoff() const {
  thread_local std::mt19937_64 random{std::random_device{}()};
  const double doubled =
      options_.backoff * static_cast<double>(1ull << std::min(in_a_row_ - 1, 40));
  std::uniform_real_distribution<double> jitter(0, std::min(doubled, kLongestBackoff));
  return milliseconds(static_cast<long>(jitter(random) * 1000));
}

}  // namespace weightlift::http
