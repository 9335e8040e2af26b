// Remote files in plans, and stopping what waits for a network.
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "check.h"
#include "http_files.h"
#include "weightlift/checksum.h"
#include "weightlift/plan.h"

namespace {

using namespace http_files;

// ---- stopping -----------------------------------------------------------------------------------

// Runs `wait` with a predicate that stops it at its third question.
template <typename Wait>
void CheckStops(const Wait& wait) {
  std::atomic<int> asked{0};
  const auto begin = std::chrono::steady_clock::now();
  CHECK_THROWS(kCancelled, wait([&] { return ++asked >= 3; }));
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(10));
  CHECK_EQ(asked, 3);
}

TEST(ReadsStopWhileNoByteComes) {
  const Server server(Later([](Exchange& x) { x.Hang(); }));
  const auto reader = Open(server);
  std::byte byte;
  CheckStops([&](const StopPredicate& stop) { reader->ReadAtUnless(100, {&byte, 1}, stop); });
}

TEST(OpeningStopsWhileNoByteComes) {
  const Server server([](Exchange& x) { x.Hang(); });
  const auto client = Client::Make(Quick());
  CheckStops([&](const StopPredicate& stop) { client->Open(server.url(), 16, stop); });
}

TEST(WaitingForTheNextAttemptStops) {
  const Server server([](Exchange& x) { x.Reply("503 Busy", "", "Retry-After: 60\r\n"); });
  const auto client = Client::Make(Quick());
  CheckStops([&](const StopPredicate& stop) { client->Get(server.url(), 16, {}, stop); });
}

TEST(WaitingAtTheGateStops) {
  const Server server(Later([](Exchange& x) { x.Hang(); }));
  Options options = Quick();
  options.connections = 1;
  const auto reader = Open(server, options);
  std::atomic<bool> stop_first{false};
  std::byte first;
  std::thread thread([&] {
    CHECK_THROWS(kCancelled,
                 reader->ReadAtUnless(100, {&first, 1}, [&] { return stop_first.load(); }));
  });
  while (server.seen().size() < 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::byte byte;
  CheckStops([&](const StopPredicate& stop) { reader->ReadAtUnless(200, {&byte, 1}, stop); });
  stop_first = true;
  thread.join();
}

TEST(APlanStopsWhileNoByteComes) {
  const Server server(Later([](Exchange& x) { x.Hang(); }));
  const std::vector<std::shared_ptr<const Reader>> readers{Open(server)};
  std::vector<std::byte> memory(1000);
  const std::vector<std::span<std::byte>> buffers{memory};
  ReadPlan plan;
  plan.ops.push_back({.source = 0,
                      .tensor = kNoIndex,
                      .offset = 50,
                      .nbytes = 1000,
                      .buffer = 0,
                      .pipeline = kNoIndex,
                      .dest = 0});
  fakes::FakeMonitor monitor(
      [&](std::uint64_t, std::uint64_t) { throw Error(ErrorCode::kCancelled, "enough"); });
  const auto begin = std::chrono::steady_clock::now();
  CHECK_THROWS(kCancelled, ExecuteRead(plan, readers, buffers, {.monitor = &monitor}));
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(10));
}

TEST(AWritePlanStopsWhileItsSourceSendsNothing) {
  const Server server(Later([](Exchange& x) { x.Hang(); }));
  const std::vector<std::shared_ptr<const Reader>> readers{Open(server)};
  const auto target = std::make_shared<fakes::FakeWriter>(1000);
  const std::vector<std::shared_ptr<Writer>> writers{target};
  fakes::FakeMonitor monitor(
      [&](std::uint64_t, std::uint64_t) { throw Error(ErrorCode::kCancelled, "enough"); });
  WritePlan plan;
  plan.sources.emplace_back(ExtentSource{.reader = 0, .offset = 50, .nbytes = 1000});
  plan.ops.push_back({.file = 0,
                      .source = 0,
                      .offset = 0,
                      .nbytes = 1000,
                      .start = 0,
                      .pipeline = kNoIndex,
                      .tensor = kNoIndex});
  CHECK_THROWS(kCancelled, ExecuteWrite(plan, writers, readers, {.monitor = &monitor}));
}

// ---- plans --------------------------------------------------------------------------------------

TEST(ARemotePlanFailsAtTheFirstOpInPlanOrder) {
  const Server server([](Exchange& x) {
    const auto range = x.request.Range();
    if (range && range->second > 600'000) return x.Reply("400 Bad Request", "");
    x.ReplyRange(Data());
  });
  Options options = Quick();
  options.part_bytes = 100'000;
  const std::vector<std::shared_ptr<const Reader>> readers{Open(server, options)};
  std::vector<std::byte> memory(Data().size());
  const std::vector<std::span<std::byte>> buffers{memory};
  ReadPlan plan;
  for (std::uint32_t i = 10; i-- > 0;) {  // against the order of the file
    plan.ops.push_back({.source = 0,
                        .tensor = i,
                        .offset = i * 100'000u,
                        .nbytes = 100'000,
                        .buffer = 0,
                        .pipeline = kNoIndex,
                        .dest = i * 100'000u});
  }
  plan.checksums.resize(10);
  const Error error = fakes::ErrorOf([&] { ExecuteRead(plan, readers, buffers); });
  CHECK(error.code() == ErrorCode::kTransport);
  CHECK_EQ(error.place().tensor.value_or(0), 9);
}

TEST(AWritePlanTakesWhatComes) {
  const Server server([](Exchange& x) { x.ReplyRange(Data()); });
  const std::vector<std::shared_ptr<const Reader>> readers{Open(server)};
  const std::size_t nbytes = 999'984;
  const auto target = std::make_shared<fakes::FakeWriter>(nbytes);
  const std::vector<std::shared_ptr<Writer>> writers{target};
  WritePlan plan;
  plan.sources.emplace_back(ExtentSource{.reader = 0, .offset = 16, .nbytes = nbytes});
  plan.ops.push_back({.file = 0,
                      .source = 0,
                      .offset = 0,
                      .nbytes = nbytes,
                      .start = 0,
                      .pipeline = kNoIndex,
                      .tensor = 0});
  plan.tensors = 1;
  const WriteReport report = ExecuteWrite(plan, writers, readers, {});
  CHECK(std::memcmp(target->bytes.data(), Data().data() + 16, nbytes) == 0);
  CHECK_EQ(report.crc32c.at(0), Crc32c(std::as_bytes(std::span(Data())).subspan(16, nbytes)));
}

}  // namespace
