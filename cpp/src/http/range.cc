#include "http/range.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <optional>
#include <utility>

#include "http/headers.h"
#include "http/reader_base.h"
#include "http/retry.h"
#include "weightlift/error.h"

namespace weightlift::http {
namespace {

constexpr std::uint64_t kMostPart = 16u << 20;
constexpr std::uint64_t kLeastPart = 1u << 20;
constexpr int kManyConnections = 8;
constexpr std::uint64_t kLongPartsEach = 2;
constexpr std::uint64_t kPartsEach = 4;  // for each connection, so that all end at about one time
constexpr std::uint64_t kNotice = 256u << 10;  // bytes between two words to the gate

std::string Words(std::uint64_t begin, std::uint64_t end) {
  return "read bytes " + std::to_string(begin) + "-" + std::to_string(end - 1);
}

// Checks the head of a range's answer and passes the body on.
class PartReceiver final : public Receiver {
 public:
  PartReceiver(Gate& gate, const Validators& pinned, std::uint64_t begin, std::uint64_t end,
               StreamSink& sink)
      : gate_(gate), pinned_(pinned), begin_(begin), end_(end), at_(begin), sink_(sink) {}
  ~PartReceiver() override {
    if (unnoticed_ > 0) gate_.Arrived(unnoticed_);
  }

  bool OnHead(const Head& head) override {
    status_ = head.status;
    if (IsRedirect(head)) {
      hint_.Start(head);
      return true;
    }
    if (head.status == 206) {
      changed_ = Changed(head);
      if (changed_.empty()) wrong_ = Wrong(head);
      accepted_ = changed_.empty() && wrong_.empty();
      return accepted_;
    }
    if (head.status == 200) {  // If-Range says: the file is another one; or a range was ignored
      changed_ = pinned_.Difference(head);
      const auto length = ParseNumber(HeaderOr(head.headers, "Content-Length", ""));
      if (changed_.empty() && length && *length != pinned_.size) changed_ = SizeNow(*length);
      return false;
    }
    if (head.status == 412) changed_ = "the server says that it is no longer the same (412)";
    if (head.status == 416) changed_ = "the server says that it has no such range any more (416)";
    hint_.Start(head);
    return true;
  }

  bool OnBody(std::span<const std::byte> bytes) override {
    if (!accepted_) return hint_.Add(bytes);
    if (bytes.size() > end_ - at_) {
      wrong_ = "the answer goes on after the bytes that were asked for";
      bytes = bytes.first(static_cast<std::size_t>(end_ - at_));
    }
    unnoticed_ += bytes.size();
    at_ += bytes.size();
    sink_.Put(bytes);
    if (unnoticed_ >= kNotice) gate_.Arrived(std::exchange(unnoticed_, 0));
    return wrong_.empty();
  }

  std::uint64_t at() const { return at_; }
  bool complete() const { return accepted_ && at_ == end_ && wrong_.empty(); }
  const std::string& changed() const { return changed_; }
  const std::string& wrong() const { return wrong_; }
  bool ignored_range() const { return status_ == 200; }
  const Hint& hint() const { return hint_; }

 private:
  static std::string SizeNow(std::uint64_t size) {
    return "it has " + std::to_string(size) + " bytes now";
  }

  std::string Changed(const Head& head) const {
    std::string difference = pinned_.Difference(head);
    if (!difference.empty()) return difference;
    const auto range = ParseContentRange(HeaderOr(head.headers, "Content-Range", ""));
    if (range && range->size && *range->size != pinned_.size) return SizeNow(*range->size);
    return {};
  }

  std::string Wrong(const Head& head) const {
    const std::string text = HeaderOr(head.headers, "Content-Range", "(none)");
    const auto range = ParseContentRange(text);
    if (!range || range->begin != begin_ || range->end != end_ || range->size != pinned_.size) {
      return "the answer has the Content-Range '" + text + "', not 'bytes " +
             std::to_string(begin_) + "-" + std::to_string(end_ - 1) + "/" +
             std::to_string(pinned_.size) + "'";
    }
    const std::string encoding = HeaderOr(head.headers, "Content-Encoding", "identity");
    if (!SameName(encoding, "identity")) {
      return "the answer is a range of the file encoded by " + encoding;
    }
    const std::string* const length = FindHeader(head.headers, "Content-Length");
    if (length != nullptr && ParseNumber(*length) != end_ - begin_) {
      return "the answer's Content-Length " + *length + " is not its range's";
    }
    return {};
  }

  Gate& gate_;
  const Validators& pinned_;
  const std::uint64_t begin_, end_;
  std::uint64_t at_;
  StreamSink& sink_;
  std::uint64_t unnoticed_ = 0;
  int status_ = 0;
  bool accepted_ = false;
  std::string changed_;
  std::string wrong_;
  Hint hint_;
};

class RangedReader final : public ReaderBase {
 public:
  RangedReader(std::shared_ptr<Session> session, Opened opened, std::vector<std::byte> prefix)
      : ReaderBase(std::move(session), opened),
        asked_(std::move(opened.asked.url)),
        way_(std::move(opened.ask)),
        prefix_(std::move(prefix)) {
    if (IsStrong(pinned().etag)) way_.headers.emplace_back("If-Range", pinned().etag);
  }

  bool ranged() const noexcept override { return true; }

  std::uint64_t StreamBytes(std::uint64_t total) const noexcept override {
    const Options& options = session().options;
    if (options.part_bytes != 0) return options.part_bytes;
    const int limit = options.connections > 0 ? options.connections : session().gate.limit();
    // To many connections, parts are asked for because each waits: then few parts, long ones.
    const std::uint64_t each = limit >= kManyConnections ? kLongPartsEach : kPartsEach;
    return std::clamp(total / (each * static_cast<std::uint64_t>(limit)), kLeastPart, kMostPart);
  }

 private:
  void Stream(std::uint64_t offset, std::uint64_t nbytes, StreamSink& sink) const override {
    const std::uint64_t end = offset + nbytes;
    if (offset < prefix_.size()) {
      const std::uint64_t kept = std::min<std::uint64_t>(end, prefix_.size());
      sink.Put(std::span(prefix_).subspan(offset, kept - offset));
      offset = kept;
    }
    if (offset == end) return;
    const StopPredicate stop = [&] { return sink.Stopped(); };
    const Patience patience(stop, session().options.total_timeout);
    Retrier retrier(session().options);
    while (offset < end) {
      try {
        offset = Try(offset, end, sink, patience, retrier);
      } catch (Error& error) {
        Locate(error, offset, end, retrier.attempts() + 1);
        throw;
      }
    }
  }

  // Says where, and after how many attempts, of an error that ended the transfer itself.
  void Locate(Error& error, std::uint64_t begin, std::uint64_t end, int attempts) const {
    if (error.code() != ErrorCode::kTransport) return;
    ErrorPlace& place = error.place();
    if (place.path.empty()) place.path = name();
    if (!place.attempts) place.attempts = attempts;
    if (!place.begin) {
      place.begin = begin;
      place.end = end;
    }
  }

  // One attempt. Returns where to go on, having waited if that is not the end.
  std::uint64_t Try(std::uint64_t begin, std::uint64_t end, StreamSink& sink,
                    const Patience& patience, Retrier& retrier) const {
    PartReceiver receiver(session().gate, pinned(), begin, end, sink);
    std::optional<Error> failure;
    Attempt attempt;
    std::optional<std::chrono::milliseconds> retry_after;
    {
      const Gate::Pass pass(session().gate, patience);
      const Ask way = Way();
      Ask ask = way;
      const auto exchange = Send(ask, begin, end, receiver, patience);
      if (receiver.complete()) return end;
      Refuse(receiver, begin, end, exchange->head().status);
      attempt = exchange->attempt();
      if (attempt.code == CURLE_OK && IsExpired(attempt.status) && Forget(way)) return begin;
      attempt.wrong = !receiver.wrong().empty();
      attempt.ignored_range = receiver.ignored_range() && exchange->cut();
      failure = FailureOf(*exchange, ask, receiver, receiver.at(), end);
      retry_after = ParseRetryAfter(exchange->head().headers, std::chrono::system_clock::now());
    }
    retrier.Failed(attempt, receiver.at() - begin, retry_after, std::move(*failure), patience);
    session().retries.fetch_add(1, std::memory_order_relaxed);
    return receiver.at();
  }

  // Follows redirects, if there are any: only after the way was forgotten, or where it changed.
  std::unique_ptr<Exchange> Send(Ask& ask, std::uint64_t begin, std::uint64_t end,
                                 PartReceiver& receiver, const Patience& patience) const {
    for (int hops = 0;;) {
      ask.range = {begin, end};
      auto exchange = std::make_unique<Exchange>(session(), ask, receiver);
      exchange->Run(patience);
      const Head head = exchange->head();
      if (!IsRedirect(head) || exchange->attempt().code != CURLE_OK) {
        if (receiver.complete() && hops > 0) Remember(ask);
        return exchange;
      }
      exchange.reset();
      FollowRedirect(ask, head, ++hops, session().options);
    }
  }

  // --- where redirects have led to ---
  // What a signed URL answers when its time is over.
  static bool IsExpired(int status) {
    return status == 400 || status == 401 || status == 403 || status == 404 || status == 410;
  }
  Ask Way() const {
    const std::lock_guard lock(mutex_);
    return way_;
  }
  void Remember(const Ask& ask) const {
    const std::lock_guard lock(mutex_);
    way_.url = ask.url;
  }
  // Whether it may help to start from the URL that was asked for again.
  bool Forget(const Ask& way) const {
    if (way.url.text == asked_.text) return false;
    const std::lock_guard lock(mutex_);
    if (way_.url.text == way.url.text) way_.url = asked_;  // unless another thread did it already
    return true;
  }

  void Refuse(const PartReceiver& receiver, std::uint64_t begin, std::uint64_t end,
              int status) const {
    if (receiver.changed().empty()) return;
    throw Error(
        ErrorCode::kChanged,
        "the file has changed since it was opened: " + receiver.changed() + "; open it again",
        {.path = name(), .begin = begin, .end = end, .status = status}, ESTALE);
  }

  Error FailureOf(const Exchange& exchange, const Ask& ask, const PartReceiver& receiver,
                  std::uint64_t begin, std::uint64_t end) const {
    const int status = exchange.head().status;
    const std::string doing = Words(begin, end);
    Error failure =
        !receiver.wrong().empty()
            ? Nonsense(ask, "cannot " + doing + ": " + receiver.wrong(), status)
        : receiver.ignored_range()
            ? Nonsense(ask,
                       "cannot " + doing +
                           ": the server answers 200, with the whole file, to a part it was asked "
                           "for, although it gave parts before",
                       status)
            : Failure(exchange, ask, doing, receiver.hint());
    failure.place().path = name();
    failure.place().begin = begin;
    failure.place().end = end;
    return failure;
  }

  const Url asked_;
  mutable std::mutex mutex_;
  mutable Ask way_;  // guarded by mutex_
  const std::vector<std::byte> prefix_;
};

}  // namespace

std::shared_ptr<HttpReader> MakeRangedReader(std::shared_ptr<Session> session, Opened opened,
                                             std::vector<std::byte> prefix) {
  return std::make_shared<RangedReader>(std::move(session), std::move(opened), std::move(prefix));
}

}  // namespace weightlift::http
