// Reads over HTTP against a server that misbehaves as told: the truth of ranges, resuming, limits,
// the sequential lane.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "http_files.h"
#include "weightlift/checksum.h"

namespace {

using namespace http_files;
using std::chrono::milliseconds;

TEST(ReadsRanges) {
  const Server server([](Exchange& x) { x.ReplyRange(Data()); });
  const auto reader = Open(server);
  CHECK_EQ(reader->size(), Data().size());
  CHECK(Read(*reader, 0, 16) == Data().substr(0, 16));
  CHECK_EQ(server.seen().size(), 1);
  CHECK(Read(*reader, 10, 100) == Data().substr(10, 100));
  CHECK_EQ(server.seen().size(), 2);
  CHECK_EQ(server.seen().back().Header("range"), "bytes=16-109");
  CHECK_EQ(server.seen().back().Header("if-range"), "\"v1\"");
  CHECK_EQ(server.seen().back().Header("accept-encoding"), "identity");
  CHECK_EQ(server.connections(), 1);
  CHECK_THROWS(kTruncated, Read(*reader, Data().size(), 1));
}

TEST(ScattersOneRange) {
  const Server server([](Exchange& x) { x.ReplyRange(Data()); });
  const auto reader = Open(server);
  std::string a(5, '?');
  std::string b;
  std::string c(700'000, '?');
  const std::vector<std::span<std::byte>> outs{std::as_writable_bytes(std::span(a)),
                                               std::as_writable_bytes(std::span(b)),
                                               std::as_writable_bytes(std::span(c))};
  reader->ReadScatter(100, outs);
  CHECK(a + c == Data().substr(100, 700'005));
  CHECK_EQ(server.seen().size(), 2);
}

TEST(AnEmptyFile) {
  const Server ranges([](Exchange& x) { x.ReplyRange(""); });
  const Server whole([](Exchange& x) { x.Reply("200 OK", ""); });
  CHECK_EQ(Open(ranges)->size(), 0);
  CHECK_EQ(Open(whole)->size(), 0);
  CHECK_EQ(Read(*Open(whole), 0, 0), "");
}

TEST(WrongRangesAreNotTaken) {
  const std::string body(100, 'x');
  const std::string etag = "ETag: \"v1\"\r\n";
  const std::vector<std::string> fields{
      Exchange::ContentRange(16, 116, Data().size()),     // another range
      Exchange::ContentRange(1000, 1099, Data().size()),  // shorter
      "Content-Range: bytes 1000-1099/*\r\n",             // of a file of any size
      "",                                                 // not said
      "Content-Range: lines 1000-1099/1048576\r\n",       // of something else
      Exchange::ContentRange(1000, 1100, Data().size()) + "Content-Encoding: gzip\r\n",
  };
  for (const std::string& field : fields) {
    const Server server(
        Later([&](Exchange& x) { x.Reply("206 Partial Content", body, field + etag); }));
    const auto reader = Open(server);
    CHECK_THROWS(kTransport, Read(*reader, 1000, 100));
    CHECK_EQ(server.seen().size(), 2);  // not tried again
  }
}

TEST(ChangedFilesAreNoticed) {
  const std::vector<Server::Answer> answers{
      [](Exchange& x) { x.ReplyRange(Data(), "ETag: \"v2\"\r\n"); },
      [](Exchange& x) { x.ReplyRange(Data(), ""); },  // the ETag is gone
      [](Exchange& x) { x.ReplyRange(Data() + "more"); },
      [](Exchange& x) { x.Reply("200 OK", Data(), "ETag: \"v2\"\r\n"); },
      [](Exchange& x) { x.Reply("200 OK", Data().substr(1), "ETag: \"v1\"\r\n"); },
      [](Exchange& x) { x.Reply("412 Precondition Failed", ""); },
      [](Exchange& x) { x.Reply("416 Range Not Satisfiable", ""); },
  };
  for (const Server::Answer& answer : answers) {
    const Server server(Later(answer));
    const auto reader = Open(server);
    CHECK_THROWS(kChanged, Read(*reader, 1000, 100));
    CHECK_EQ(server.seen().size(), 2);
  }
}

TEST(LastModifiedPinsWhereThereIsNoETag) {
  std::atomic<bool> later{false};
  const Server server([&](Exchange& x) {
    x.ReplyRange(Data(), std::string("Last-Modified: Mon, 02 Nov 2026 10:00:0") +
                             (later ? "1" : "0") + " GMT\r\n");
  });
  const auto reader = Open(server);
  CHECK(Read(*reader, 50, 10) == Data().substr(50, 10));
  CHECK_EQ(server.seen().back().Header("if-range"), "");
  later = true;
  CHECK_THROWS(kChanged, Read(*reader, 50, 10));
}

TEST(WeakETagsAreComparedAndNotSent) {
  const Server server([](Exchange& x) { x.ReplyRange(Data(), "ETag: W/\"v1\"\r\n"); });
  const auto reader = Open(server);
  CHECK(Read(*reader, 50, 10) == Data().substr(50, 10));
  CHECK_EQ(server.seen().back().Header("if-range"), "");
}

TEST(WhatBreaksOffIsResumed) {
  const Server server(Later([](Exchange& x) {
    Part(x, 100'000);
    x.Close();
  }));
  const auto reader = Open(server);
  CHECK(Read(*reader, 1000, 450'000) == Data().substr(1000, 450'000));
  const auto seen = server.seen();
  CHECK_EQ(seen.size(), 6);
  for (std::size_t i = 1; i < seen.size(); ++i) {
    CHECK_EQ(seen[i].Header("range"),
             "bytes=" + std::to_string(1000 + (i - 1) * 100'000) + "-450999");
  }
}

TEST(ResetsAreResumed) {
  std::atomic<int> resets{3};
  const Server server(Later([&](Exchange& x) {
    if (resets-- <= 0) return x.ReplyRange(Data());
    Part(x, 70'000);
    x.Reset();
  }));
  CHECK(Read(*Open(server), 16, 500'000) == Data().substr(16, 500'000));
}

TEST(AttemptsWithoutProgressAreCounted) {
  const Server server(Later([](Exchange& x) { x.Close(); }));
  Options options = Quick();
  options.attempts = 4;
  const auto reader = Open(server, options);
  const Error error = fakes::ErrorOf([&] { Read(*reader, 100, 10); });
  CHECK(error.code() == ErrorCode::kTransport);
  CHECK_EQ(error.place().attempts.value_or(0), 4);
  CHECK_EQ(error.place().begin.value_or(0), 100);
  CHECK_EQ(error.place().end.value_or(0), 110);
  CHECK_EQ(error.place().path, server.url());
}

TEST(AttemptsWithProgressAreBounded) {
  const Server server(Later([](Exchange& x) {
    Part(x, 65'536);
    x.Close();
  }));
  Options options = Quick();
  options.attempts = 2;
  const Error error = fakes::ErrorOf([&] { Read(*Open(server, options), 16, 1'000'000); });
  CHECK_EQ(error.place().attempts.value_or(0), 8);
}

TEST(StatusesAreTriedAgainOrNot) {
  for (const char* const status : {"503 Service Unavailable", "429 Too Many Requests"}) {
    std::atomic<int> left{2};
    const Server server(Later([&](Exchange& x) {
      if (left-- > 0) return x.Reply(status, "busy");
      x.ReplyRange(Data());
    }));
    CHECK(Read(*Open(server), 20, 5) == Data().substr(20, 5));
    CHECK_EQ(server.seen().size(), 4);
  }
  const Server server(Later([](Exchange& x) { x.Reply("400 Bad Request", "what?"); }));
  CHECK_THROWS(kTransport, Read(*Open(server), 20, 5));
  CHECK_EQ(server.seen().size(), 2);
}

TEST(RetryAfterBeyondTheTotalTimeIsFinal) {
  const Server server(Later([](Exchange& x) { x.Reply("503 Busy", "", "Retry-After: 100\r\n"); }));
  Options options = Quick();
  options.total_timeout = 60;
  const Error error = fakes::ErrorOf([&] { Read(*Open(server, options), 20, 5); });
  CHECK_EQ(error.place().status.value_or(0), 503);
  CHECK_EQ(error.place().attempts.value_or(0), 1);
}

TEST(AStallIsTriedAgain) {
  std::atomic<int> left{1};
  const Server server(Later([&](Exchange& x) {
    if (left-- <= 0) return x.ReplyRange(Data());
    Part(x, 50);
    x.Hang();
  }));
  Options options = Quick();
  options.stall_timeout = 0.2;
  CHECK(Read(*Open(server, options), 100, 1000) == Data().substr(100, 1000));
  CHECK_EQ(server.seen().back().Header("range"), "bytes=150-1099");
}

TEST(ARangeThatIsIgnoredOnceIsAskedForAgain) {
  std::atomic<int> left{1};
  const Server server(Later([&](Exchange& x) {
    if (left-- > 0) return x.Reply("200 OK", Data(), "ETag: \"v1\"\r\n");
    x.ReplyRange(Data());
  }));
  CHECK(Read(*Open(server), 100, 10) == Data().substr(100, 10));
}

TEST(TooManyBytesAreAnError) {
  const Server server(Later([](Exchange& x) {
    x.Send("HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\nETag: \"v1\"\r\n" +
           Exchange::ContentRange(100, 110, Data().size()) + "\r\n14\r\n" + Data().substr(100, 20) +
           "\r\n0\r\n\r\n");
  }));
  CHECK_THROWS(kTransport, Read(*Open(server), 100, 10));
}

TEST(EndlessHeadersAreAnError) {
  const Server server([](Exchange& x) {
    x.Send("HTTP/1.1 206 Partial Content\r\n");
    while (!x.closed()) x.Send("X-Filler: " + std::string(1000, 'x') + "\r\n");
  });
  CHECK_THROWS(kTransport, Open(server));
}

// ---- the sequential lane ----------------------------------------------------------------------

TEST(AServerWithoutRanges) {
  const Server server([](Exchange& x) { x.Reply("200 OK", Data()); });
  const auto reader = Open(server);
  CHECK(!reader->ranged());
  CHECK_EQ(reader->size(), Data().size());
  CHECK(Read(*reader, 900'000, 1000) == Data().substr(900'000, 1000));
  CHECK(Read(*reader, 0, Data().size()) == Data());
  CHECK_EQ(server.seen().size(), 1);
}

TEST(ABodyOfUnknownSize) {
  const Server server([](Exchange& x) {
    x.Send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + Data());
    x.Close();
  });
  const auto reader = Open(server);
  CHECK_EQ(reader->size(), Data().size());
  CHECK(Read(*reader, 5, 1000) == Data().substr(5, 1000));
}

TEST(ABodyThatBreaksOffIsReadOn) {
  std::atomic<int> requests{0};
  const Server server([&](Exchange& x) {
    x.Send("HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nContent-Length: " + std::to_string(Data().size()) +
           "\r\n\r\n");
    x.Send(std::string_view(Data()).substr(0, ++requests == 1 ? 400'000u
                                              : requests == 2 ? 800'000u
                                                              : Data().size()));
    x.Close();
  });
  const auto reader = Open(server);
  CHECK(Read(*reader, 0, Data().size()) == Data());
  CHECK_EQ(requests, 3);
}

TEST(OtherBytesTheSecondTimeAreNoticed) {
  std::atomic<int> requests{0};
  const Server server([&](Exchange& x) {
    std::string body = Data();
    if (++requests > 1) body[100] = static_cast<char>(~body[100]);
    x.Send("HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n");
    x.Send(std::string_view(body).substr(0, requests > 1 ? body.size() : 500'000));
    x.Close();
  });
  const auto reader = Open(server);
  CHECK_THROWS(kChanged, Read(*reader, 0, Data().size()));
}

TEST(AnEncodedBodyIsDecoded) {
  // "hello hello hello" by gzip, with a stored block.
  const std::string text = "hello hello hello";
  std::string gzip("\x1f\x8b\x08\0\0\0\0\0\0\x03\x01\x11\x00\xee\xff", 15);
  gzip += text;
  const std::uint32_t crc = Crc32(std::as_bytes(std::span(text)));
  const auto size = static_cast<std::uint32_t>(text.size());
  gzip.append(reinterpret_cast<const char*>(&crc), 4);
  gzip.append(reinterpret_cast<const char*>(&size), 4);
  const Server server([&](Exchange& x) {
    const auto range = x.request.Range();
    if (!range) return x.Reply("200 OK", gzip, "Content-Encoding: gzip\r\n");
    x.Reply("206 Partial Content", gzip.substr(0, 16),
            Exchange::ContentRange(0, 16, gzip.size()) + "Content-Encoding: gzip\r\n");
  });
  const auto reader = Open(server);
  CHECK(!reader->ranged());
  CHECK_EQ(reader->size(), text.size());
  CHECK_EQ(Read(*reader, 0, text.size()), text);
}

TEST(AForkReadsABodyByItself) {
  std::atomic<int> asked{0};
  std::atomic<bool> forked{false};
  const Server server([&](Exchange& x) {
    const std::size_t half = Data().size() / 2;
    x.Send("HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nContent-Length: " + std::to_string(Data().size()) +
           "\r\n\r\n");
    x.Send(std::string_view(Data()).substr(0, half));
    if (asked++ == 0) {
      for (int i = 0; i < 1000 && !forked; ++i) std::this_thread::sleep_for(milliseconds(10));
    }
    x.Send(std::string_view(Data()).substr(half));
  });
  const auto client = Client::Make(Quick());
  const auto reader = client->Open(server.url(), 16, kNever);
  CHECK_EQ(Read(*reader, 0, 100), Data().substr(0, 100));
  const pid_t child = fork();
  if (child == 0) {
    try {
      _exit(Read(*reader, 0, Data().size()) == Data() ? 0 : 1);
    } catch (...) {
      _exit(2);
    }
  }
  forked = true;
  int status = -1;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK_EQ(status, 0);
  CHECK(Read(*reader, 0, Data().size()) == Data());
  CHECK_EQ(asked, 2);  // once by each
  CHECK_EQ(client->counters().retries, 0);
}

TEST(ManyThreadsWaitForOneBody) {
  const Server server([](Exchange& x) { x.Reply("200 OK", Data()); });
  const auto reader = Open(server);
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      const std::size_t offset = static_cast<std::size_t>(i) * 131'072;
      good += Read(*reader, offset, 131'072) == Data().substr(offset, 131'072);
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(good, 8);
}

}  // namespace
