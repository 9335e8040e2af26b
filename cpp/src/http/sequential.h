// The sequential lane: a body that comes once, in order, and is kept as it comes.
#ifndef WEIGHTLIFT_HTTP_SEQUENTIAL_H_
#define WEIGHTLIFT_HTTP_SEQUENTIAL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "http/answer.h"
#include "http/range.h"
#include "http/spool.h"

namespace weightlift::http {

// One whole body, over several attempts if need be: what an attempt repeats is compared with what
// has been kept.
class WholeBody final : public Receiver {
 public:
  // For an answer that has come: `head` is its.
  explicit WholeBody(const Head& head);

  bool OnHead(const Head& head) override;  // of a further attempt
  bool OnBody(std::span<const std::byte> bytes) override;

  const Spool& spool() const noexcept { return spool_; }
  // From Content-Length; unset where there is none or it counts encoded bytes.
  std::optional<std::uint64_t> size() const noexcept { return size_; }
  const Validators& pinned() const noexcept { return pinned_; }
  const std::string& changed() const noexcept { return changed_; }
  const Hint& hint() const noexcept { return hint_; }

 private:
  static std::optional<std::uint64_t> SizeOf(const Head& head);

  Spool spool_;
  const std::optional<std::uint64_t> size_;
  const Validators pinned_;
  std::uint64_t at_ = 0;  // in the attempt at hand
  bool accepted_ = true;
  std::string changed_;
  Hint hint_;
};

// Goes on with `exchange`, which has brought the head of `body` and may have brought more. Waits
// for all of it where the size is not known.
std::shared_ptr<HttpReader> MakeSequentialReader(std::shared_ptr<Session> session, Opened opened,
                                                 std::unique_ptr<WholeBody> body,
                                                 std::unique_ptr<Exchange> exchange,
                                                 const Patience& patience);

}  // namespace weightlift::http

#endif  // WEIGHTLIFT_HTTP_SEQUENTIAL_H_
