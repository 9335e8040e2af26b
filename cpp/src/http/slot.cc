#include "http/slot.h"

#include <cstddef>
#include <utility>

#include "http/global.h"
#include "weightlift/error.h"

namespace weightlift::http {
namespace {

constexpr std::size_t kMostIdle = 32;

template <typename T>
T* OrThrow(T* handle) {
  if (handle == nullptr) throw Error(ErrorCode::kOutOfMemory, "no memory for a connection");
  return handle;
}

}  // namespace

Share::Share() : handle_(OrThrow(curl_share_init())) {
  curl_share_setopt(handle_, CURLSHOPT_USERDATA, this);
  curl_share_setopt(handle_, CURLSHOPT_LOCKFUNC, &Share::Lock);
  curl_share_setopt(handle_, CURLSHOPT_UNLOCKFUNC, &Share::Unlock);
  curl_share_setopt(handle_, CURLSHOPT_SHARE, CURL_LOCK_DATA_DNS);
  curl_share_setopt(handle_, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION);
}

Share::~Share() { curl_share_cleanup(handle_); }

void Share::Lock(CURL*, curl_lock_data data, curl_lock_access, void* self) noexcept {
  static_cast<Share*>(self)->mutexes_[static_cast<std::size_t>(data)].lock();
}

void Share::Unlock(CURL*, curl_lock_data data, void* self) noexcept {
  static_cast<Share*>(self)->mutexes_[static_cast<std::size_t>(data)].unlock();
}

Slot::Slot(std::shared_ptr<Share> share)
    : share_(std::move(share)),
      generation_(ForkGeneration()),
      easy_(OrThrow(curl_easy_init())),
      multi_(curl_multi_init()) {
  if (multi_ == nullptr) {
    curl_easy_cleanup(easy_);
    OrThrow(multi_);
  }
  curl_easy_setopt(easy_, CURLOPT_SHARE, share_->get());
}

bool Slot::foreign() const noexcept { return generation_ != ForkGeneration(); }

Slot::~Slot() {
  if (foreign()) return;
  curl_easy_cleanup(easy_);
  curl_multi_cleanup(multi_);
}

SlotPool::SlotPool() : state_(nullptr) {
  EnsureCurl();
  Current();
}

SlotPool::~SlotPool() {
  State* const state = state_.load();
  if (state->generation != ForkGeneration()) return;
  delete state;
}

SlotPool::State& SlotPool::Current() {
  State* state = state_.load();
  const std::uint64_t generation = ForkGeneration();
  if (state == nullptr || state->generation != generation) {
    // The parent's state stays where it is: its lock may be held for ever.
    auto fresh = std::make_unique<State>();
    fresh->generation = generation;
    fresh->share = std::make_shared<Share>();
    fresh->idle.reserve(kMostIdle);
    if (state_.compare_exchange_strong(state, fresh.get())) state = fresh.release();
  }
  return *state;
}

std::unique_ptr<Slot> SlotPool::Take() {
  State& state = Current();
  {
    const std::lock_guard lock(state.mutex);
    if (!state.idle.empty()) {
      std::unique_ptr<Slot> slot = std::move(state.idle.back());
      state.idle.pop_back();
      return slot;
    }
  }
  return std::make_unique<Slot>(state.share);
}

void SlotPool::Give(std::unique_ptr<Slot> slot) noexcept {
  if (slot->foreign()) return;
  State& state = *state_.load();  // there is one: the slot's
  const std::lock_guard lock(state.mutex);
  if (state.idle.size() < kMostIdle) state.idle.push_back(std::move(slot));
}

}  // namespace weightlift::http
