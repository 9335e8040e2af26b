#include "http/upload.h"

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "http/answer.h"
#include "http/headers.h"
#include "http/retry.h"
#include "weightlift/error.h"

namespace weightlift::http {
namespace {

constexpr std::uint64_t kKeptBody = 1u << 20;  // bodies up to this are kept, to be sent again
constexpr std::size_t kMostAnswer = 1u << 20;
constexpr std::chrono::milliseconds kStep{25};

// Whoever writes drives the transfer on, until curl has taken what is written; nobody does between
// two writes.
class UploadImpl final : public Upload, private Receiver, private Source {
 public:
  UploadImpl(std::shared_ptr<Session> session, Ask ask, UploadSpec spec)
      : session_(std::move(session)),
        ask_(std::move(ask)),
        spec_(std::move(spec)),
        name_(Redacted(ask_.url.text)),
        deadline_(Patience::Deadline(session_->options.total_timeout)),
        retrier_(session_->options) {}
  ~UploadImpl() override { Abort(); }

  const std::string& name() const noexcept override { return name_; }
  std::size_t direct_alignment() const noexcept override { return 0; }
  bool Sequential() const noexcept override { return true; }
  void Sync() override {}
  void WriteAt(std::uint64_t offset, std::span<const std::byte> data) override {
    WriteAtUnless(offset, data, {});
  }
  void Commit() override { CommitUnless({}); }

  void WriteAtUnless(std::uint64_t offset, std::span<const std::byte> data,
                     const StopPredicate& stop) override {
    if (offset > spec_.size || data.size() > spec_.size - offset) {
      Misuse("bytes " + std::to_string(offset) + "-" + std::to_string(offset + data.size()) +
             " are not in the " + std::to_string(spec_.size) + " bytes announced");
    }
    if (data.empty()) return;
    const Turn turn(*this, stop, [&] {
      if (offset < due_) Misuse("byte " + std::to_string(offset) + " has been sent already");
      return offset == due_;
    });
    current_ = data;
    if (spec_.suffix.empty() && offset + data.size() == spec_.size) {
      held_ = data.back();
      current_ = data.first(data.size() - 1);
    }
    taken_ = 0;
    if (!current_.empty()) Drive(turn.patience(), [this] { return taken_ == current_.size(); });
    if (spec_.size <= kKeptBody) {
      kept_.insert(kept_.end(), current_.begin(), current_.end());
      kept_taken_ = kept_.size();
    } else {
      released_ = true;
    }
    current_ = {};
    taken_ = 0;
    const std::lock_guard lock(mutex_);
    due_ += data.size();
  }

  void CommitUnless(const StopPredicate& stop) override {
    const Turn turn(*this, stop, [] { return true; });
    if (response_) Misuse("it has been committed already");
    if (due_ != spec_.size) {
      Misuse("only " + std::to_string(due_) + " of the " + std::to_string(spec_.size) +
             " bytes announced were written");
    }
    finishing_ = true;
    Drive(turn.patience(), {});
  }

  bool AgainUnless(const StopPredicate& stop) override {
    std::optional<Failed> failed;
    {
      const std::lock_guard lock(mutex_);
      failed = std::exchange(failed_, std::nullopt);
    }
    if (!failed) return false;
    const StopPredicate stopped = [&] { return aborted_.load() || (stop && stop()); };
    const Patience patience(stopped, deadline_);
    retrier_.Failed(failed->attempt, 0, failed->retry_after, std::move(failed->error), patience);
    session_->retries.fetch_add(1, std::memory_order_relaxed);
    const std::lock_guard lock(mutex_);
    broken_ = nullptr;
    due_ = 0;
    released_ = finishing_ = false;
    kept_.clear();
    held_.reset();
    Rewind();
    return true;
  }

  void Abort() noexcept override {
    std::unique_lock lock(mutex_);
    aborted_ = true;
    turn_.notify_all();
    turn_.wait(lock, [this] { return !busy_; });
    exchange_.reset();
  }

  const Response& response() const override {
    const std::lock_guard lock(mutex_);
    if (!response_) Misuse("there is no answer before it is committed");
    return *response_;
  }

 private:
  // Holds the transfer, from when `due` is true.
  class Turn {
   public:
    template <typename Due>
    Turn(UploadImpl& upload, const StopPredicate& stop, const Due& due)
        : upload_(upload),
          stop_([&upload, &stop] { return upload.aborted_.load() || (stop && stop()); }),
          patience_(stop_, upload.deadline_) {
      std::unique_lock lock(upload.mutex_);
      for (;;) {
        if (upload.broken_) std::rethrow_exception(upload.broken_);
        if (due() && !upload.busy_) break;
        upload.turn_.wait_for(lock, kStep);
        lock.unlock();
        patience_.CheckStop();
        lock.lock();
      }
      if (upload.aborted_) throw Error(ErrorCode::kCancelled, "the upload was aborted");
      upload.busy_ = true;
    }
    ~Turn() {
      const std::lock_guard lock(upload_.mutex_);
      upload_.busy_ = false;
      upload_.turn_.notify_all();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    const Patience& patience() const { return patience_; }

   private:
    UploadImpl& upload_;
    const StopPredicate stop_;
    const Patience patience_;
  };

  // An attempt that only the caller can make again.
  struct Failed {
    Attempt attempt;
    std::optional<std::chrono::milliseconds> retry_after;
    Error error;
  };

  [[noreturn]] void Misuse(const std::string& what) const {
    throw Error(ErrorCode::kInvalidArgument, "cannot upload: " + what, {.path = name_});
  }

  // Makes attempts until `until` is true, or, without one, until the answer is there.
  void Drive(const Patience& patience, const std::function<bool()>& until) {
    try {
      while (!Try(patience, until)) Rewind();
    } catch (const Error&) {
      Break(std::current_exception());
      throw;
    } catch (...) {  // what the predicate threw is for its own caller
      Break(std::make_exception_ptr(
          Error(ErrorCode::kCancelled, "the upload was interrupted", {.path = name_})));
      throw;
    }
  }

  // Half a body has gone out: there is no way on.
  void Break(std::exception_ptr error) {
    exchange_.reset();
    const std::lock_guard lock(mutex_);
    broken_ = std::move(error);
  }

  bool Try(const Patience& patience, const std::function<bool()>& until) {
    if (!exchange_)
      exchange_ = std::make_unique<Exchange>(*session_, ask_, static_cast<Receiver&>(*this),
                                             static_cast<Source*>(this));
    exchange_->Wake();
    if (!exchange_->Run(patience, until)) return true;
    const std::unique_ptr<Exchange> exchange = std::move(exchange_);
    const Head& head = exchange->head();
    Attempt attempt = exchange->attempt();
    if (attempt.code == CURLE_OK && IsRedirect(head) && !released_) {
      Redirect(head);
      return false;
    }
    if (attempt.code == CURLE_OK && IsSuccess(head.status)) {
      if (!finishing_) {
        throw Nonsense(ask_,
                       "the server answers " + std::to_string(head.status) +
                           " before it has got the whole body",
                       head.status);
      }
      const std::lock_guard lock(mutex_);
      response_ = {.status = head.status,
                   .headers = head.headers,
                   .body = std::move(answer_),
                   .url = Redacted(ask_.url.text)};
      return true;
    }
    attempt.repeatable = IsRepeatable(ask_.method);
    Error failure = Failure(*exchange, ask_, "upload", hint_);
    failure.place().path = name_;
    const auto retry_after = ParseRetryAfter(head.headers, std::chrono::system_clock::now());
    if (released_) {  // what was sent is not kept
      failure.place().attempts = retrier_.attempts() + 1;
      const std::lock_guard lock(mutex_);
      failed_ = {.attempt = attempt, .retry_after = retry_after, .error = failure};
      throw failure;
    }
    retrier_.Failed(attempt, 0, retry_after, std::move(failure), patience);
    session_->retries.fetch_add(1, std::memory_order_relaxed);
    return false;
  }

  void Redirect(const Head& head) {
    if (head.status != 307 && head.status != 308) {
      throw Nonsense(ask_,
                     "the upload is redirected by " + std::to_string(head.status) +
                         ", which would make it a GET; upload to " +
                         Redacted(*FindHeader(head.headers, "Location")) + " instead",
                     head.status);
    }
    FollowRedirect(ask_, head, ++hops_, session_->options);
  }

  void Rewind() { prefix_taken_ = suffix_taken_ = kept_taken_ = held_taken_ = taken_ = 0; }

  // --- Source ---
  std::uint64_t size() const override {
    return spec_.prefix.size() + spec_.size + spec_.suffix.size();
  }
  std::size_t Take(std::span<std::byte> out) override {
    const std::size_t room = out.size();
    const auto from = [&out](std::span<const std::byte> bytes, std::size_t& taken) {
      const std::size_t part = std::min(out.size(), bytes.size() - taken);
      if (part > 0) std::memcpy(out.data(), bytes.data() + taken, part);
      taken += part;
      out = out.subspan(part);
    };
    from(std::as_bytes(std::span(spec_.prefix)), prefix_taken_);
    from(kept_, kept_taken_);
    from(current_, taken_);
    if (finishing_) {
      if (held_) from({&*held_, 1}, held_taken_);
      from(std::as_bytes(std::span(spec_.suffix)), suffix_taken_);
    }
    return room - out.size();
  }

  // --- Receiver ---
  bool OnHead(const Head& head) override {
    answer_.clear();
    good_ = IsSuccess(head.status);
    if (!good_) hint_.Start(head);
    return true;
  }
  bool OnBody(std::span<const std::byte> bytes) override {
    if (!good_) return hint_.Add(bytes);
    if (bytes.size() > kMostAnswer - answer_.size()) {
      throw Error(ErrorCode::kFormat, "the answer to the upload is longer than 1 MiB",
                  {.path = name_});
    }
    answer_.insert(answer_.end(), bytes.begin(), bytes.end());
    return true;
  }

  const std::shared_ptr<Session> session_;
  Ask ask_;
  const UploadSpec spec_;
  const std::string name_;
  const std::optional<Patience::Clock::time_point> deadline_;

  // Of the thread whose turn it is:
  std::span<const std::byte> current_{};
  std::size_t taken_ = 0;
  std::size_t prefix_taken_ = 0;
  std::size_t suffix_taken_ = 0;
  std::vector<std::byte> kept_;
  std::size_t kept_taken_ = 0;
  // The last byte of a body without a suffix waits for Commit: a server that has a whole body takes
  // it, and Abort could not help that.
  std::optional<std::byte> held_;
  std::size_t held_taken_ = 0;
  Retrier retrier_;
  bool released_ = false;  // memory that was sent from is the caller's again
  bool finishing_ = false;
  int hops_ = 0;
  bool good_ = false;
  std::vector<std::byte> answer_;
  Hint hint_;
  std::unique_ptr<Exchange> exchange_;

  mutable std::mutex mutex_;  // guards the rest
  std::condition_variable turn_;
  std::uint64_t due_ = 0;  // also read by the thread whose turn it is
  bool busy_ = false;
  std::atomic<bool> aborted_{false};
  std::exception_ptr broken_;
  std::optional<Failed> failed_;
  std::optional<Response> response_;
};

}  // namespace

std::shared_ptr<Upload> MakeUpload(std::shared_ptr<Session> session, Ask ask, UploadSpec spec) {
  return std::make_shared<UploadImpl>(std::move(session), std::move(ask), std::move(spec));
}

}  // namespace weightlift::http
