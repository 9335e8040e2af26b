// What a client and everything it made share: options, connections, the gate, counters.
#ifndef WEIGHTLIFT_HTTP_SESSION_H_
#define WEIGHTLIFT_HTTP_SESSION_H_

#include <atomic>
#include <cstdint>
#include <utility>

#include "http/gate.h"
#include "http/slot.h"
#include "weightlift/http.h"

namespace weightlift::http {

struct Session {
  explicit Session(Options made_with) : options(std::move(made_with)), gate(options.connections) {}

  const Options options;
  SlotPool slots;
  Gate gate;
  std::atomic<std::uint64_t> requests{0};
  std::atomic<std::uint64_t> bytes_received{0};
  std::atomic<std::uint64_t> bytes_sent{0};
  std::atomic<std::uint64_t> retries{0};
};

}  // namespace weightlift::http

#endif  // WEIGHTLIFT_HTTP_SESSION_H_
