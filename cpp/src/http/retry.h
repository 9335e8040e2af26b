// What is tried again, when, and how often.
#ifndef WEIGHTLIFT_HTTP_RETRY_H_
#define WEIGHTLIFT_HTTP_RETRY_H_

#include <curl/curl.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "weightlift/error.h"
#include "weightlift/http.h"

namespace weightlift::http {

// How one attempt ended, if not well.
struct Attempt {
  CURLcode code = CURLE_OK;  // of the transfer
  int status = 0;            // of the answer; 0: there was none
  bool stalled = false;      // no byte came for too long
  bool wrong = false;        // the answer is not one to what was asked
  // A 200 to a range of a file that has not changed: some proxy in between had a bad moment.
  bool ignored_range = false;
  // Doing it twice does the same as doing it once (so not a POST).
  bool repeatable = true;
};

enum class RetryVerdict : std::uint8_t { kRetry, kFinal };

// The one predicate. Another try may help against connections that fail or break, stalls, 408, 425,
// 429 and 5xx; not against refusals, certificates and answers that make no sense.
RetryVerdict Judge(const Attempt& attempt) noexcept;

// Who waits, and until when: asks `stop`, watches the total time.
class Patience {
 public:
  using Clock = std::chrono::steady_clock;

  Patience(const StopPredicate& stop, double total_seconds)
      : Patience(stop, Deadline(total_seconds)) {}
  Patience(const StopPredicate& stop, std::optional<Clock::time_point> deadline)
      : stop_(stop), deadline_(deadline) {}
  // So many seconds from now; 0: never.
  static std::optional<Clock::time_point> Deadline(double total_seconds);

  // Throws kCancelled when stopped, or what the predicate throws.
  void CheckStop() const;
  bool expired() const { return deadline_ && Clock::now() >= *deadline_; }
  // Whether a wait of that length ends in time.
  bool Allows(std::chrono::milliseconds wait) const;
  void Sleep(std::chrono::milliseconds wait) const;

 private:
  const StopPredicate& stop_;
  std::optional<Clock::time_point> deadline_;
};

// Counts the attempts of one part.
class Retrier {
 public:
  explicit Retrier(const Options& options) : options_(options) {}

  // After an attempt that failed with `failure`, having brought `progress` bytes: waits as long as
  // it should and returns, or throws the failure with the number of attempts.
  void Failed(const Attempt& attempt, std::uint64_t progress,
              std::optional<std::chrono::milliseconds> retry_after, Error failure,
              const Patience& patience);

  int attempts() const { return total_; }

 private:
  std::chrono::milliseconds Backoff() const;

  const Options& options_;
  int total_ = 0;
  int in_a_row_ = 0;
};

}  // namespace weightlift::http

#endif  // WEIGHTLIFT_HTTP_RETRY_H_
