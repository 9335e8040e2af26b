// Small requests, redirects and where secrets go, and uploads.
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "http_server.h"
#include "plan_fakes.h"
#include "weightlift/http.h"
#include "weightlift/plan.h"

namespace {

using namespace weightlift;
using http::Client;
using http::Options;
using http::Response;
using http::Upload;
using http_server::Exchange;
using http_server::Request;
using http_server::Server;

const StopPredicate kNever{};

Options Quick() {
  Options options;
  options.backoff = 0.001;
  options.proxy = "";
  return options;
}

std::string Text(const Response& response) {
  return {reinterpret_cast<const char*>(response.body.data()), response.body.size()};
}

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

void Redirect(Exchange& x, const std::string& status, const std::string& where) {
  x.Reply(status, "moved", "Location: " + where + "\r\n");
}

// ---- redirects and secrets ----------------------------------------------------------------------

Options WithSecrets() {
  Options options = Quick();
  options.user = "user";
  options.password = "pass";
  options.headers = {{"X-Api-Key", "k"}, {"Cookie", "c=1"}, {"X-My-Token", "t"}, {"X-Plain", "p"}};
  return options;
}

bool HasSecrets(const Request& request) {
  return !request.Header("authorization").empty() || !request.Header("x-api-key").empty() ||
         !request.Header("cookie").empty() || !request.Header("x-my-token").empty();
}

TEST(SecretsFollowToTheSameOrigin) {
  const Server server([](Exchange& x) {
    if (x.request.target == "/w") return Redirect(x, "302 Found", "/elsewhere");
    x.Reply("200 OK", "here");
  });
  const Response response = Client::Make(WithSecrets())->Get(server.url(), 100, {}, kNever);
  CHECK_EQ(Text(response), "here");
  CHECK_EQ(response.url, server.url("/elsewhere"));
  const auto seen = server.seen();
  CHECK_EQ(seen.at(1).Header("authorization"), "Basic dXNlcjpwYXNz");
  CHECK_EQ(seen.at(1).Header("x-api-key"), "k");
}

TEST(SecretsDoNotFollowToAnotherPort) {
  const Server other([](Exchange& x) { x.ReplyRange(std::string(1000, 'x')); });
  const Server server([&](Exchange& x) { Redirect(x, "307 Temporary Redirect", other.url()); });
  const auto client = Client::Make(WithSecrets());
  CHECK_EQ(client->Get(server.url(), 1000, {}, kNever).body.size(), 1000);
  const auto reader = client->Open(server.url(), 10, kNever);
  std::byte byte;
  reader->ReadAt(500, {&byte, 1});
  CHECK(HasSecrets(server.seen().at(0)));
  CHECK_EQ(other.seen().size(), 3);
  for (const Request& request : other.seen()) {
    CHECK(!HasSecrets(request));
    CHECK_EQ(request.Header("x-plain"), "p");
  }
  CHECK_EQ(reader->final_url(), other.url());
  CHECK_EQ(reader->name(), server.url());
}

TEST(UserInfoAndBearerStayWithTheirOrigin) {
  const Server other([](Exchange& x) { x.Reply("200 OK", ""); });
  const Server server([&](Exchange& x) { Redirect(x, "301 Moved Permanently", other.url()); });
  std::string url = server.url();
  url.insert(7, "me:secret@");
  const auto client = Client::Make(Quick());
  const Response response = client->Get(url, 100, {}, kNever);
  CHECK_EQ(server.seen().at(0).Header("authorization"), "Basic bWU6c2VjcmV0");
  CHECK_EQ(other.seen().at(0).Header("authorization"), "");
  Options options = Quick();
  options.bearer = "abc";
  Client::Make(options)->Get(server.url(), 100, {}, kNever);
  CHECK_EQ(server.seen().at(1).Header("authorization"), "Bearer abc");
  CHECK_EQ(other.seen().at(1).Header("authorization"), "");
}

TEST(ALocationCannotGiveCredentials) {
  const Server server([](Exchange& x) {
    if (x.request.target != "/w") return x.Reply("200 OK", "");
    Redirect(x, "302 Found", "http://evil:pw@" + x.request.Header("host") + "/next");
  });
  Client::Make(Quick())->Get(server.url(), 100, {}, kNever);
  CHECK_EQ(server.seen().at(1).Header("authorization"), "");
}

TEST(LoopsEnd) {
  const Server server([](Exchange& x) { Redirect(x, "302 Found", "/w"); });
  Options options = Quick();
  options.max_redirects = 3;
  const auto client = Client::Make(options);
  CHECK_THROWS(kTransport, client->Open(server.url(), 10, kNever));
  CHECK_EQ(server.seen().size(), 4);
  CHECK_THROWS(kTransport, client->Get(server.url(), 10, {}, kNever));
}

TEST(RedirectsToOtherThingsAreRefused) {
  for (const char* const where :
       {"file:///etc/passwd", "ftp://127.0.0.1/x", "http://", "gopher://x"}) {
    const Server server([&](Exchange& x) { Redirect(x, "302 Found", where); });
    CHECK_THROWS(kTransport, Client::Make(Quick())->Open(server.url(), 10, kNever));
    CHECK_EQ(server.seen().size(), 1);
  }
}

TEST(APostBecomesAGetWhereItShould) {
  const Server server([](Exchange& x) {
    if (x.request.target == "/see") return Redirect(x, "303 See Other", "/result");
    if (x.request.target == "/keep") return Redirect(x, "308 Permanent Redirect", "/result");
    x.Reply("200 OK", x.request.method + x.request.body);
  });
  const auto client = Client::Make(Quick());
  const std::string body = " body";
  CHECK_EQ(Text(client->Request("POST", server.url("/see"), Bytes(body), {}, 100, kNever)), "GET");
  CHECK_EQ(Text(client->Request("POST", server.url("/keep"), Bytes(body), {}, 100, kNever)),
           "POST body");
}

TEST(SignedUrlsThatExpireAreAskedForAnew) {
  std::atomic<int> valid{0};
  const std::string data(1000, 'x');
  const Server server([&](Exchange& x) {
    if (x.request.target == "/w")
      return Redirect(x, "302 Found", "/signed" + std::to_string(valid));
    if (x.request.target != "/signed" + std::to_string(valid))
      return x.Reply("403 Forbidden", "expired");
    x.ReplyRange(data);
  });
  const auto reader = Client::Make(Quick())->Open(server.url(), 10, kNever);
  valid = 1;
  std::vector<std::byte> out(100);
  reader->ReadAt(500, out);
  CHECK_EQ(server.seen().back().target, "/signed1");
  CHECK_EQ(server.seen().back().Header("range"), "bytes=500-599");
  const std::size_t before = server.seen().size();
  reader->ReadAt(600, out);
  CHECK_EQ(server.seen().size(), before + 1);  // it knows the way now
}

// ---- small requests -----------------------------------------------------------------------------

TEST(PostsAreNotRepeatedBlindly) {
  const Server server([](Exchange& x) { x.Close(); });
  const auto client = Client::Make(Quick());
  CHECK_THROWS(kTransport, client->Request("POST", server.url(), std::nullopt, {}, 10, kNever));
  CHECK_EQ(server.seen().size(), 1);
  CHECK_THROWS(kTransport, client->Request("DELETE", server.url(), std::nullopt, {}, 10, kNever));
  CHECK_EQ(server.seen().size(), 7);
}

TEST(ErrorsQuoteTheFirstLine) {
  const Server server([](Exchange& x) {
    x.Reply("404 Not Found", "<html><head><title>No such model</title></head>",
            "Content-Type: text/html; charset=utf-8\r\n");
  });
  const Error error =
      fakes::ErrorOf([&] { Client::Make(Quick())->Get(server.url("/m?sig=s"), 10, {}, kNever); });
  CHECK(error.code() == ErrorCode::kNotFound);
  CHECK_EQ(std::string(error.what()), "cannot get it: the server answers 404 (No such model)");
  CHECK_EQ(error.place().path, server.url("/m?..."));
}

TEST(WhatIsSentSlowlyHasNotStalled) {
  const Server server([](Exchange& x) { x.Reply("200 OK", std::to_string(x.request.body.size())); },
                      std::chrono::milliseconds(5));
  Options options = Quick();
  options.stall_timeout = 1;  // to send it all takes longer
  options.attempts = 1;
  const std::string body(32u << 20, 'b');
  const Response response =
      Client::Make(options)->Request("PUT", server.url(), Bytes(body), {}, 100, kNever);
  CHECK_EQ(Text(response), std::to_string(body.size()));
}

TEST(HeadHasNoBodyWhateverItsLength) {
  const Server server([](Exchange& x) {
    x.Send("HTTP/1.1 200 OK\r\nContent-Length: 9000000000000000000\r\nETag: \"v\"\r\n\r\n");
  });
  const auto client = Client::Make(Quick());
  for (int i = 0; i < 2; ++i) {
    const Response response =
        client->Request("HEAD", server.url(), std::nullopt, {}, /*limit=*/0, kNever);
    CHECK_EQ(response.status, 200);
    CHECK(response.body.empty());
  }
  CHECK_EQ(server.connections(), 1);  // there was nothing to break off
  CHECK_THROWS(kInvalidArgument,
               client->Request("HEAD", server.url(), Bytes("x"), {}, /*limit=*/0, kNever));
}

TEST(CountersCount) {
  std::atomic<int> left{1};
  const Server server(
      [&](Exchange& x) { x.Reply(left-- > 0 ? "503 Busy" : "200 OK", std::string(100, 'x')); });
  const auto client = Client::Make(Quick());
  client->Get(server.url(), 100, {}, kNever);
  CHECK_EQ(client->counters().requests, 2);
  CHECK_EQ(client->counters().retries, 1);
  CHECK_EQ(client->counters().bytes_received, 200);
  CHECK_EQ(server.connections(), 1);
}

// ---- uploads
// --------------------------------------------------------------------------------------

const std::string& Body() {
  static const std::string body = [] {
    const std::vector<std::byte> bytes = fakes::RandomBytes(3u << 20, 3);
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }();
  return body;
}

void Accept(Exchange& x) { x.Reply("201 Created", "stored"); }

TEST(ThreadsTakeTurns) {
  const Server server(&Accept);
  const auto upload = Client::Make(Quick())->StartUpload(
      server.url(), {.method = "PUT", .size = Body().size(), .prefix = "<", .suffix = ">"});
  CHECK(upload->Sequential());
  constexpr std::size_t kThreads = 6;
  const std::size_t piece = Body().size() / kThreads;
  std::vector<std::thread> threads;
  for (std::size_t i = kThreads; i-- > 0;) {  // the last one first
    threads.emplace_back(
        [&, i] { upload->WriteAt(i * piece, Bytes(Body()).subspan(i * piece, piece)); });
  }
  for (std::thread& thread : threads) thread.join();
  upload->Commit();
  CHECK_EQ(upload->response().status, 201);
  CHECK_EQ(Text(upload->response()), "stored");
  const Request request = server.seen().at(0);
  CHECK_EQ(request.method, "PUT");
  CHECK_EQ(request.Header("content-length"), std::to_string(Body().size() + 2));
  CHECK(request.body == "<" + Body() + ">");
}

TEST(AnUploadOfNothing) {
  const Server server(&Accept);
  const auto upload = Client::Make(Quick())->StartUpload(server.url(), {});
  CHECK_THROWS(kInvalidArgument, upload->response());
  upload->Commit();
  CHECK_EQ(upload->response().status, 201);
  CHECK_EQ(server.seen().at(0).body, "");
  CHECK_THROWS(kInvalidArgument, upload->Commit());
}

TEST(MisuseOfAnUpload) {
  const Server server(&Accept);
  const auto upload = Client::Make(Quick())->StartUpload(server.url(), {.size = 10});
  const std::string text = "0123456789";
  CHECK_THROWS(kInvalidArgument, upload->WriteAt(5, Bytes(text)));
  upload->WriteAt(0, Bytes(text).first(4));
  CHECK_THROWS(kInvalidArgument, upload->WriteAt(0, Bytes(text).first(4)));
  CHECK_THROWS(kInvalidArgument, upload->Commit());
  upload->WriteAt(4, Bytes(text).subspan(4));
  upload->Commit();
  CHECK_EQ(server.seen().at(0).body, text);
}

TEST(ASmallUploadIsTriedAgain) {
  std::atomic<int> left{2};
  const Server server([&](Exchange& x) {
    if (left-- > 0) return x.Reply("503 Busy", "");
    Accept(x);
  });
  const auto upload =
      Client::Make(Quick())->StartUpload(server.url(), {.size = 4, .prefix = "(", .suffix = ")"});
  const std::string text = "abcd";
  upload->WriteAt(0, Bytes(text).first(2));
  upload->WriteAt(2, Bytes(text).subspan(2));
  upload->Commit();
  CHECK_EQ(server.seen().size(), 3);
  CHECK_EQ(server.seen().at(2).body, "(abcd)");
}

TEST(ALargeUploadIsNot) {
  const Server server([](Exchange& x) { x.Reply("500 Oops", ""); });
  const auto upload = Client::Make(Quick())->StartUpload(server.url(), {.size = Body().size()});
  const Error error = fakes::ErrorOf([&] {
    upload->WriteAt(0, Bytes(Body()));
    upload->Commit();
  });
  CHECK(error.code() == ErrorCode::kTransport);
  CHECK_EQ(error.place().status.value_or(0), 500);
  CHECK_EQ(server.seen().size(), 1);
  CHECK_THROWS(kTransport, upload->Commit());  // it stays broken
}

// Writes and commits until the server takes it; how often that was.
int SendUntilTaken(Upload& upload) {
  for (int sent = 1;; ++sent) {
    try {
      upload.WriteAt(0, Bytes(Body()));
      upload.Commit();
      return sent;
    } catch (const Error&) {
      if (!upload.AgainUnless(kNever)) throw;
    }
  }
}

TEST(ALargeUploadIsMadeAgainByItsCaller) {
  std::atomic<int> left{2};
  const Server server([&](Exchange& x) {
    if (left-- > 0) return x.Reply("503 Busy", "");
    Accept(x);
  });
  const auto upload = Client::Make(Quick())->StartUpload(
      server.url(), {.size = Body().size(), .prefix = "(", .suffix = ")"});
  CHECK(!upload->AgainUnless(kNever));  // nothing has failed
  CHECK_EQ(SendUntilTaken(*upload), 3);
  CHECK_EQ(server.seen().size(), 3);
  CHECK(server.seen().at(2).body == "(" + Body() + ")");
}

TEST(ALargeUploadIsMadeAgainSoOftenOnly) {
  const Server server([](Exchange& x) { x.Reply("500 Oops", ""); });
  Options options = Quick();
  options.attempts = 3;
  const auto upload = Client::Make(options)->StartUpload(server.url(), {.size = Body().size()});
  const Error error = fakes::ErrorOf([&] { SendUntilTaken(*upload); });
  CHECK_EQ(error.place().attempts.value_or(0), 3);
  CHECK_EQ(server.seen().size(), 3);
}

TEST(ALargeUploadIsNotMadeAgainInVain) {
  const Server refusing([](Exchange& x) { x.Reply("403 Forbidden", ""); });
  const auto refused = Client::Make(Quick())->StartUpload(refusing.url(), {.size = Body().size()});
  CHECK_THROWS(kAccess, SendUntilTaken(*refused));
  CHECK_EQ(refusing.seen().size(), 1);
  const Server failing([](Exchange& x) { x.Reply("500 Oops", ""); });
  const auto posted =
      Client::Make(Quick())->StartUpload(failing.url(), {.method = "POST", .size = Body().size()});
  CHECK_THROWS(kTransport, SendUntilTaken(*posted));  // it may have been acted on
  CHECK_EQ(failing.seen().size(), 1);
}

TEST(WaitingToMakeAnUploadAgainStops) {
  const Server server([](Exchange& x) { x.Reply("503 Busy", "", "Retry-After: 100\r\n"); });
  const auto upload = Client::Make(Quick())->StartUpload(server.url(), {.size = Body().size()});
  CHECK_THROWS(kTransport, (upload->WriteAt(0, Bytes(Body())), upload->Commit()));
  std::atomic<int> asked{0};
  CHECK_THROWS(kCancelled, upload->AgainUnless([&] { return ++asked >= 3; }));
}

TEST(AnUploadIsRedirected) {
  const Server other(&Accept);
  const Server server([&](Exchange& x) {
    Redirect(x, x.request.target == "/keep" ? "307 Temporary Redirect" : "302 Found", other.url());
  });
  const std::string text = "abcd";
  const auto client = Client::Make(WithSecrets());
  const auto upload = client->StartUpload(server.url("/keep"), {.size = 4});
  upload->WriteAt(0, Bytes(text));
  upload->Commit();
  CHECK_EQ(other.seen().at(0).body, text);
  CHECK(!HasSecrets(other.seen().at(0)));
  const auto lost = client->StartUpload(server.url("/lose"), {.size = 4});
  CHECK_THROWS(kTransport, (lost->WriteAt(0, Bytes(text)), lost->Commit()));
}

TEST(AbortBreaksItOff) {
  const Server server(&Accept);
  const auto upload = Client::Make(Quick())->StartUpload(server.url(), {.size = Body().size()});
  upload->WriteAt(0, Bytes(Body()).first(1000));
  upload->Abort();
  CHECK_THROWS(kCancelled, upload->WriteAt(1000, Bytes(Body()).subspan(1000, 10)));
  CHECK(server.seen().empty());  // no request was ever whole
}

TEST(WaitingForATurnStops) {
  const Server server(&Accept);
  const auto upload = Client::Make(Quick())->StartUpload(server.url(), {.size = 100});
  std::atomic<int> asked{0};
  const std::string text = "late";
  CHECK_THROWS(kCancelled, upload->WriteAtUnless(50, Bytes(text), [&] { return ++asked >= 3; }));
  CHECK_EQ(asked, 3);
}

TEST(WaitingForTheAnswerStops) {
  const Server server([](Exchange& x) { x.Hang(); });
  const auto upload = Client::Make(Quick())->StartUpload(server.url(), {});
  std::atomic<int> asked{0};
  CHECK_THROWS(kCancelled, upload->CommitUnless([&] { return ++asked >= 3; }));
}

TEST(APlanUploadsInOrder) {
  const Server server(&Accept);
  const auto upload =
      Client::Make(Quick())->StartUpload(server.url(), {.size = Body().size() + 100});
  const std::vector<std::shared_ptr<Writer>> writers{upload};
  WritePlan plan;
  plan.sources.emplace_back(MemorySource{.data = Bytes(Body()).data(),
                                         .nbytes = Body().size(),
                                         .item = 1,
                                         .shape = {},
                                         .strides = {}});
  plan.ops.push_back({.file = 0,
                      .source = kNoIndex,
                      .offset = 0,
                      .nbytes = 100,
                      .start = 0,
                      .pipeline = kNoIndex,
                      .tensor = kNoIndex});
  plan.ops.push_back({.file = 0,
                      .source = 0,
                      .offset = 100,
                      .nbytes = Body().size(),
                      .start = 0,
                      .pipeline = kNoIndex,
                      .tensor = 0});
  plan.tensors = 1;
  const WriteReport report = ExecuteWrite(plan, writers, {}, {.threads = 4});
  upload->Commit();
  CHECK(server.seen().at(0).body == std::string(100, '\0') + Body());
  CHECK_EQ(report.crc32c.at(0), Crc32c(Bytes(Body())));
}

TEST(APlanToAServerThatHangsIsCancelled) {
  // Larger than what the buffers of both ends take.
  const std::vector<std::byte> much(64u << 20);
  const int listener = socket(AF_INET, SOCK_STREAM, 0);  // accepts, and never reads
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  CHECK_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), length), 0);
  CHECK_EQ(listen(listener, 1), 0);
  CHECK_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length), 0);
  const auto upload = Client::Make(Quick())->StartUpload(
      "http://127.0.0.1:" + std::to_string(ntohs(address.sin_port)) + "/", {.size = much.size()});
  const std::vector<std::shared_ptr<Writer>> writers{upload};
  WritePlan plan;
  plan.sources.emplace_back(MemorySource{
      .data = much.data(), .nbytes = much.size(), .item = 1, .shape = {}, .strides = {}});
  plan.ops.push_back({.file = 0,
                      .source = 0,
                      .offset = 0,
                      .nbytes = much.size(),
                      .start = 0,
                      .pipeline = kNoIndex,
                      .tensor = kNoIndex});
  std::atomic<int> ticks{0};
  fakes::FakeMonitor monitor([&](std::uint64_t, std::uint64_t) {
    if (++ticks == 40) throw Error(ErrorCode::kCancelled, "enough");
  });
  CHECK_THROWS(kCancelled, ExecuteWrite(plan, writers, {}, {.threads = 3, .monitor = &monitor}));
  upload->Abort();
  close(listener);
}

}  // namespace
