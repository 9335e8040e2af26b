#include "http/global.h"

#include <curl/curl.h>
#include <pthread.h>

#include <atomic>

#include "weightlift/error.h"

namespace weightlift::http {
namespace {

std::atomic<std::uint64_t> g_generation{0};

void CountFork() { g_generation.fetch_add(1); }

}  // namespace

void EnsureCurl() {
  static const CURLcode code = [] {
    pthread_atfork(nullptr, nullptr, CountFork);
    // Never cleaned up: other libraries of the process may use libcurl, too.
    return curl_global_init(CURL_GLOBAL_DEFAULT);
  }();
  if (code != CURLE_OK) {
    throw Error(ErrorCode::kTransport,
                std::string("libcurl cannot be used here: ") + curl_easy_strerror(code));
  }
}

std::uint64_t ForkGeneration() noexcept { return g_generation.load(std::memory_order_relaxed); }

}  // namespace weightlift::http
