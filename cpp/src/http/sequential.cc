#include "http/sequential.h"

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <exception>
#include <limits>
#include <mutex>
#include <utility>

#include "http/headers.h"
#include "http/reader_base.h"
#include "weightlift/error.h"

namespace weightlift::http {
namespace {

constexpr std::uint64_t kAll = std::numeric_limits<std::uint64_t>::max();
constexpr std::chrono::milliseconds kStep{25};

// Brings the body in, as far as it is wanted. One thread at a time.
class Pump {
 public:
  Pump(Session& session, Ask ask, std::unique_ptr<WholeBody> body,
       std::unique_ptr<Exchange> exchange)
      : session_(session),
        ask_(std::move(ask)),
        body_(std::move(body)),
        exchange_(std::move(exchange)) {
    exchange_->SetReceiver(*body_);
  }

  const WholeBody& body() const noexcept { return *body_; }

  // Until `end` bytes have arrived, or all.
  void Reach(std::uint64_t end, const Patience& patience) {
    Retrier retrier(session_.options);
    while (!complete_ && body_->spool().size() < end) Try(end, patience, retrier);
  }

 private:
  void Try(std::uint64_t end, const Patience& patience, Retrier& retrier) {
    const std::uint64_t before = body_->spool().size();
    if (exchange_ && exchange_->foreign()) exchange_.reset();
    if (!exchange_) exchange_ = std::make_unique<Exchange>(session_, ask_, *body_);
    bool ended;
    try {
      ended = exchange_->Run(patience, [&] { return body_->spool().size() >= end; });
    } catch (const Error& error) {
      // What was stopped can go on.
      if (error.code() != ErrorCode::kCancelled) exchange_.reset();
      throw;
    }
    if (!ended) return;
    const std::unique_ptr<Exchange> exchange = std::move(exchange_);
    const std::string& changed = body_->changed();
    if (!changed.empty()) {
      throw Error(ErrorCode::kChanged,
                  "the file has changed while it was read: " + changed + "; open it again",
                  {.path = Redacted(ask_.url.text)}, ESTALE);
    }
    Attempt attempt = exchange->attempt();
    const std::uint64_t arrived = body_->spool().size();
    const bool whole = body_->size().value_or(arrived) == arrived;
    if (attempt.code == CURLE_OK && attempt.status == 200 && whole) {
      complete_ = true;
      return;
    }
    Error failure =
        Failure(*exchange, ask_, "read on from byte " + std::to_string(arrived), body_->hint());
    failure.place().begin = arrived;
    if (body_->size()) failure.place().end = *body_->size();
    const auto after = ParseRetryAfter(exchange->head().headers, std::chrono::system_clock::now());
    retrier.Failed(attempt, arrived - before, after, std::move(failure), patience);
    session_.retries.fetch_add(1, std::memory_order_relaxed);
  }

  Session& session_;
  const Ask ask_;
  const std::unique_ptr<WholeBody> body_;
  std::unique_ptr<Exchange> exchange_;
  bool complete_ = false;
};

class SequentialReader final : public ReaderBase {
 public:
  SequentialReader(std::shared_ptr<Session> session, const Opened& opened,
                   std::unique_ptr<Pump> pump)
      : ReaderBase(std::move(session), opened), pump_(std::move(pump)) {}

  bool ranged() const noexcept override { return false; }

 private:
  void Stream(std::uint64_t offset, std::uint64_t nbytes, StreamSink& sink) const override {
    while (nbytes > 0) {
      std::span<std::byte> room = sink.Room();
      room = room.first(static_cast<std::size_t>(std::min<std::uint64_t>(room.size(), nbytes)));
      WaitFor(offset + room.size(), sink);
      pump_->body().spool().Read(offset, room);
      sink.Filled(room.size());
      offset += room.size();
      nbytes -= room.size();
    }
  }

  // Until the bytes before `end` are there. Whoever waits first brings them in.
  void WaitFor(std::uint64_t end, StreamSink& sink) const {
    if (pump_->body().spool().size() >= end) return;
    const StopPredicate stop = [&] { return sink.Stopped(); };
    const Patience patience(stop, session().options.total_timeout);
    std::unique_lock lock(mutex_);
    while (pump_->body().spool().size() < end) {
      if (broken_) std::rethrow_exception(broken_);
      if (pumping_) {
        turn_.wait_for(lock, kStep);
        lock.unlock();
        patience.CheckStop();
        lock.lock();
        continue;
      }
      pumping_ = true;
      lock.unlock();
      std::exception_ptr error;
      bool final = false;
      try {
        pump_->Reach(end, patience);
      } catch (const Error& failure) {
        error = std::current_exception();
        final = failure.code() != ErrorCode::kCancelled;
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      pumping_ = false;
      if (final) broken_ = error;
      turn_.notify_all();
      if (error) std::rethrow_exception(error);
    }
  }

  const std::unique_ptr<Pump> pump_;
  mutable std::mutex mutex_;
  mutable std::condition_variable turn_;
  mutable bool pumping_ = false;
  mutable std::exception_ptr broken_;
};

}  // namespace

WholeBody::WholeBody(const Head& head) : size_(SizeOf(head)), pinned_(Validators::Of(head)) {}

std::optional<std::uint64_t> WholeBody::SizeOf(const Head& head) {
  if (!SameName(HeaderOr(head.headers, "Content-Encoding", "identity"), "identity")) {
    return std::nullopt;
  }
  if (FindHeader(head.headers, "Transfer-Encoding") != nullptr) return std::nullopt;
  return ParseNumber(HeaderOr(head.headers, "Content-Length", ""));
}

bool WholeBody::OnHead(const Head& head) {
  at_ = 0;
  accepted_ = head.status == 200;
  if (!accepted_) {
    hint_.Start(head);
    return true;
  }
  changed_ = pinned_.Difference(head);
  if (changed_.empty() && SizeOf(head) != size_) changed_ = "its size is another one now";
  return changed_.empty();
}

bool WholeBody::OnBody(std::span<const std::byte> bytes) {
  if (!accepted_) return hint_.Add(bytes);
  const std::uint64_t kept = spool_.size();
  if (at_ < kept) {  // again
    const auto again =
        bytes.first(static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), kept - at_)));
    if (!spool_.Holds(at_, again)) {
      changed_ = "other bytes come when it is asked for again";
      return false;
    }
    at_ += again.size();
    bytes = bytes.subspan(again.size());
  }
  spool_.Append(bytes);
  at_ += bytes.size();
  return true;
}

std::shared_ptr<HttpReader> MakeSequentialReader(std::shared_ptr<Session> session, Opened opened,
                                                 std::unique_ptr<WholeBody> body,
                                                 std::unique_ptr<Exchange> exchange,
                                                 const Patience& patience) {
  const std::optional<std::uint64_t> size = body->size();
  auto pump = std::make_unique<Pump>(*session, opened.ask, std::move(body), std::move(exchange));
  if (!size) pump->Reach(kAll, patience);
  opened.pinned = pump->body().pinned();
  opened.pinned.size = size ? *size : pump->body().spool().size();
  return std::make_shared<SequentialReader>(std::move(session), opened, std::move(pump));
}

}  // namespace weightlift::http
