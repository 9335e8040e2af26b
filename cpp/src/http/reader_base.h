// What both lanes' readers share: the pinned identity, and all reads on top of one Stream.
#ifndef WEIGHTLIFT_HTTP_READER_BASE_H_
#define WEIGHTLIFT_HTTP_READER_BASE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "http/range.h"
#include "weightlift/http.h"

namespace weightlift::http {

// Fills buffers one after the other.
class SpansSink final : public StreamSink {
 public:
  explicit SpansSink(std::span<const std::span<std::byte>> outs) : outs_(outs) {}
  std::span<std::byte> Room() override {
    while (filled_ == outs_.front().size()) {
      outs_ = outs_.subspan(1);
      filled_ = 0;
    }
    return outs_.front().subspan(filled_);
  }
  void Filled(std::size_t nbytes) override { filled_ += nbytes; }
  bool Stopped() override { return false; }

 private:
  std::span<const std::span<std::byte>> outs_;
  std::size_t filled_ = 0;
};

class ReaderBase : public HttpReader {
 public:
  ReaderBase(std::shared_ptr<Session> session, const Opened& opened)
      : session_(std::move(session)),
        pinned_(opened.pinned),
        content_type_(opened.content_type),
        name_(opened.name),
        final_url_(opened.ask.url.text) {}

  std::uint64_t size() const noexcept override { return pinned_.size; }
  const std::string& name() const noexcept override { return name_; }
  const std::string& final_url() const noexcept override { return final_url_; }
  const std::string& etag() const noexcept override { return pinned_.etag; }
  const std::string& last_modified() const noexcept override { return pinned_.last_modified; }
  const std::string& content_type() const noexcept override { return content_type_; }
  bool Streams() const noexcept override { return true; }

  void ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    ReadAtUnless(offset, out, {});
  }
  void ReadScatter(std::uint64_t offset,
                   std::span<const std::span<std::byte>> outs) const override {
    std::uint64_t nbytes = 0;
    for (const std::span<std::byte> out : outs) nbytes += out.size();
    SpansSink sink(outs);
    ReadStream(offset, nbytes, sink);
  }
  void ReadStream(std::uint64_t offset, std::uint64_t nbytes, StreamSink& sink) const final {
    CheckRange(*this, offset, nbytes);
    if (nbytes > 0) Stream(offset, nbytes, sink);
  }

 protected:
  // `nbytes` is not 0, and the range is in the file.
  virtual void Stream(std::uint64_t offset, std::uint64_t nbytes, StreamSink& sink) const = 0;
  Session& session() const noexcept { return *session_; }
  const Validators& pinned() const noexcept { return pinned_; }

 private:
  const std::shared_ptr<Session> session_;
  const Validators pinned_;
  const std::string content_type_;
  const std::string name_;
  const std::string final_url_;
};

}  // namespace weightlift::http

#endif  // WEIGHTLIFT_HTTP_READER_BASE_H_
