#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "http/answer.h"
#include "http/global.h"
#include "http/headers.h"
#include "http/range.h"
#include "http/retry.h"
#include "http/sequential.h"
#include "http/session.h"
#include "http/upload.h"
#include "weightlift/error.h"
#include "weightlift/http.h"

namespace weightlift::http {
namespace {

// A small body in memory; the start of an error page.
class SmallBody final : public Receiver {
 public:
  explicit SmallBody(std::uint64_t limit) : limit_(limit) {}

  bool OnHead(const Head& head) override {
    body_.clear();
    wanted_ = IsSuccess(head.status);
    if (!wanted_) hint_.Start(head);
    return true;
  }
  bool OnBody(std::span<const std::byte> bytes) override {
    if (!wanted_) return hint_.Add(bytes);
    too_long_ = bytes.size() > limit_ - body_.size();
    if (too_long_) return false;
    body_.insert(body_.end(), bytes.begin(), bytes.end());
    return true;
  }

  bool too_long() const { return too_long_; }
  std::vector<std::byte> TakeBody() { return std::move(body_); }
  const Hint& hint() const { return hint_; }

 private:
  const std::uint64_t limit_;
  bool wanted_ = false;
  bool too_long_ = false;
  std::vector<std::byte> body_;
  Hint hint_;
};

// The first answer of a file: which lane it is.
class FirstAnswer final : public Receiver {
 public:
  explicit FirstAnswer(std::uint64_t head_bytes) : head_bytes_(head_bytes) {}

  bool OnHead(const Head& head) override {
    if (head.status == 206) return TakeRange(head);
    if (head.status == 200) {
      whole_ = std::make_unique<WholeBody>(head);
      return true;
    }
    if (head.status == 416) {
      range_ = ParseContentRange(HeaderOr(head.headers, "Content-Range", ""));
      empty_ = range_ && !range_->begin && range_->size == 0u;
    }
    hint_.Start(head);
    return true;
  }
  bool OnBody(std::span<const std::byte> bytes) override {
    if (whole_) return whole_->OnBody(bytes);
    if (!accepted_) return hint_.Add(bytes);
    if (bytes.size() > *range_->end - prefix_.size()) {
      wrong_ = "the answer goes on after its Content-Range";
      return false;
    }
    prefix_.insert(prefix_.end(), bytes.begin(), bytes.end());
    return true;
  }

  bool is_whole() const { return whole_ != nullptr; }
  std::unique_ptr<WholeBody> TakeWhole() { return std::move(whole_); }
  bool is_empty() const { return empty_; }
  bool is_range() const { return accepted_ && prefix_.size() == *range_->end; }
  // Asked for without a range, the file may come whole: it is encoded, or of unknown size.
  bool wants_whole() const { return wants_whole_; }
  std::uint64_t size() const { return range_->size.value_or(0); }
  std::vector<std::byte> TakePrefix() { return std::move(prefix_); }
  const std::string& wrong() const { return wrong_; }
  const Hint& hint() const { return hint_; }

 private:
  bool TakeRange(const Head& head) {
    const std::string text = HeaderOr(head.headers, "Content-Range", "(none)");
    range_ = ParseContentRange(text);
    const bool encoded =
        !SameName(HeaderOr(head.headers, "Content-Encoding", "identity"), "identity");
    if (encoded || (range_ && !range_->size)) {
      wants_whole_ = true;
      return false;
    }
    if (!range_ || range_->begin != 0u || *range_->end != std::min(head_bytes_, *range_->size)) {
      wrong_ = "the answer has the Content-Range '" + text + "', to a request for bytes 0-" +
               std::to_string(head_bytes_ - 1);
      return false;
    }
    accepted_ = true;
    return true;
  }

  const std::uint64_t head_bytes_;
  std::unique_ptr<WholeBody> whole_;
  std::optional<ContentRange> range_;
  bool accepted_ = false;
  bool empty_ = false;
  bool wants_whole_ = false;
  std::vector<std::byte> prefix_;
  std::string wrong_;
  Hint hint_;
};

class ClientImpl final : public Client {
 public:
  explicit ClientImpl(Options options) : session_(std::make_shared<Session>(std::move(options))) {}

  std::shared_ptr<HttpReader> Open(const std::string& url, std::uint64_t head,
                                   const StopPredicate& stop) override;
  Response Get(const std::string& url, std::uint64_t limit, const Headers& headers,
               const StopPredicate& stop) override {
    Ask ask = FirstAsk(url, session_->options.method, headers);
    return Small(std::move(ask), limit, stop);
  }
  Response Request(const std::string& method, const std::string& url,
                   std::optional<std::span<const std::byte>> body, const Headers& headers,
                   std::uint64_t limit, const StopPredicate& stop) override {
    Ask ask = AskFor(url, method, headers);
    if (body && method == "HEAD") {
      throw Error(ErrorCode::kInvalidArgument, "a HEAD request has no body");
    }
    ask.body = body;
    return Small(std::move(ask), limit, stop);
  }
  std::shared_ptr<Upload> StartUpload(const std::string& url, UploadSpec spec) override {
    Ask ask = AskFor(url, spec.method, spec.headers);
    return MakeUpload(session_, std::move(ask), std::move(spec));
  }
  Counters counters() const override {
    return {.requests = session_->requests.load(),
            .bytes_received = session_->bytes_received.load(),
            .bytes_sent = session_->bytes_sent.load(),
            .retries = session_->retries.load()};
  }

 private:
  Ask AskFor(const std::string& url, const std::string& method, const Headers& headers) const {
    CheckMethod(method);
    CheckHeaders(headers);
    Ask ask;
    ask.method = method;
    ask.url = ParseUrl(url);
    const std::string& home = session_->options.home;
    ask.origin = home.empty() ? ask.url.origin : ParseUrl(home).origin;
    ask.user = ask.url.user;
    ask.password = ask.url.password;
    ask.headers = headers;
    return ask;
  }
  Ask FirstAsk(const std::string& url, const std::string& method, const Headers& headers) const {
    Ask ask = AskFor(url, method, headers);
    const std::vector<std::byte>& body = session_->options.body;
    if (!body.empty()) ask.body = body;
    return ask;
  }

  Response Small(Ask ask, std::uint64_t limit, const StopPredicate& stop);
  // One attempt at opening. nullptr: to be tried again, with `opened.ask` as it is now.
  std::shared_ptr<HttpReader> TryOpen(Opened& opened, int& hops, const Patience& patience,
                                      Retrier& retrier);
  std::shared_ptr<HttpReader> Accept(Opened& opened, FirstAnswer& answer, const Head& head);

  const std::shared_ptr<Session> session_;
};

std::shared_ptr<HttpReader> ClientImpl::Open(const std::string& url, std::uint64_t head,
                                             const StopPredicate& stop) {
  Opened opened;
  opened.asked = FirstAsk(url, session_->options.method, {});
  opened.ask = opened.asked;
  opened.ask.range = {0, std::max<std::uint64_t>(head, 1)};
  opened.name = Redacted(opened.asked.url.text);
  const Patience patience(stop, session_->options.total_timeout);
  Retrier retrier(session_->options);
  int hops = 0;
  for (;;) {
    if (auto reader = TryOpen(opened, hops, patience, retrier)) return reader;
  }
}

std::shared_ptr<HttpReader> ClientImpl::TryOpen(Opened& opened, int& hops, const Patience& patience,
                                                Retrier& retrier) {
  FirstAnswer answer(opened.ask.range ? opened.ask.range->second : 1);
  auto exchange = std::make_unique<Exchange>(*session_, opened.ask, answer);
  const bool ended = exchange->Run(patience, [&] { return answer.is_whole(); });
  const Head head = exchange->head();
  session_->gate.Answered(exchange->latency());
  if (IsRedirect(head) && (!ended || exchange->attempt().code == CURLE_OK)) {
    FollowRedirect(opened.ask, head, ++hops, session_->options);
    return nullptr;
  }
  opened.content_type = HeaderOr(head.headers, "Content-Type", "");
  if (answer.is_whole()) {
    opened.ask.range.reset();
    return MakeSequentialReader(session_, opened, answer.TakeWhole(), std::move(exchange),
                                patience);
  }
  if (answer.is_range() || answer.is_empty()) return Accept(opened, answer, head);
  if ((answer.wants_whole() || head.status == 416) && opened.ask.range) {
    opened.ask.range.reset();
    return nullptr;
  }
  Attempt attempt = exchange->attempt();
  attempt.wrong = !answer.wrong().empty();
  Error failure = attempt.wrong
                      ? Nonsense(opened.ask, "cannot open it: " + answer.wrong(), head.status)
                      : Failure(*exchange, opened.ask, "open it", answer.hint());
  failure.place().path = opened.name;
  const auto after = ParseRetryAfter(head.headers, std::chrono::system_clock::now());
  exchange.reset();
  retrier.Failed(attempt, 0, after, std::move(failure), patience);
  session_->retries.fetch_add(1, std::memory_order_relaxed);
  return nullptr;
}

std::shared_ptr<HttpReader> ClientImpl::Accept(Opened& opened, FirstAnswer& answer,
                                               const Head& head) {
  opened.pinned = Validators::Of(head);
  opened.pinned.size = answer.size();
  return MakeRangedReader(session_, std::move(opened), answer.TakePrefix());
}

Response ClientImpl::Small(Ask ask, std::uint64_t limit, const StopPredicate& stop) {
  const std::string name = Redacted(ask.url.text);
  const Patience patience(stop, session_->options.total_timeout);
  Retrier retrier(session_->options);
  for (int hops = 0;;) {
    SmallBody body(limit);
    Exchange exchange(*session_, ask, body);
    exchange.Run(patience);
    const Head& head = exchange.head();
    Attempt attempt = exchange.attempt();
    attempt.repeatable = IsRepeatable(ask.method);
    if (IsRedirect(head) && attempt.code == CURLE_OK) {
      FollowRedirect(ask, head, ++hops, session_->options);
      continue;
    }
    if (body.too_long()) {
      throw Error(ErrorCode::kFormat,
                  "the answer is longer than the " + std::to_string(limit) + " bytes expected",
                  {.path = name});
    }
    if (attempt.code == CURLE_OK && IsSuccess(head.status)) {
      return {.status = head.status,
              .headers = head.headers,
              .body = body.TakeBody(),
              .url = Redacted(ask.url.text)};
    }
    Error failure =
        Failure(exchange, ask, ask.method == "GET" ? "get it" : ask.method + " it", body.hint());
    failure.place().path = name;
    retrier.Failed(attempt, 0, ParseRetryAfter(head.headers, std::chrono::system_clock::now()),
                   std::move(failure), patience);
    session_->retries.fetch_add(1, std::memory_order_relaxed);
  }
}

void CheckOptions(const Options& options) {
  const auto refuse = [](const std::string& what) {
    throw Error(ErrorCode::kInvalidArgument, what);
  };
  CheckHeaders(options.headers);
  CheckMethod(options.method);
  if (options.bearer) CheckHeaders({{"Authorization", *options.bearer}});
  for (const double seconds : {options.stall_timeout, options.total_timeout, options.backoff}) {
    if (!(seconds >= 0 && seconds <= 1e6)) refuse("times are from 0 to 1,000,000 seconds");
  }
  if (!(options.connect_timeout > 0 && options.connect_timeout <= 1e6)) {
    refuse("connect_timeout is above 0 and at most 1,000,000 seconds");
  }
  if (options.attempts < 1 || options.attempts > 1'000'000) {
    refuse("attempts is from 1 to 1,000,000");
  }
  if (options.max_redirects < 0) refuse("max_redirects must not be negative");
  if (options.connections < 0 || options.connections > kMostConnections) {
    refuse("connections is from 1 to " + std::to_string(kMostConnections) + ", or 0 for adaptive");
  }
}

}  // namespace

std::string HttpReader::Identity() const {
  const std::string& validator = etag().empty() ? last_modified() : etag();
  return final_url() + "\n" + validator + "\n" + std::to_string(size());
}

std::shared_ptr<Client> Client::Make(Options options) {
  EnsureCurl();
  CheckOptions(options);
  return std::make_shared<ClientImpl>(std::move(options));
}

}  // namespace weightlift::http
