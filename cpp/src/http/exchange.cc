#include "http/exchange.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <string_view>
#include <utility>

#include "http/headers.h"
#include "weightlift/error.h"

namespace weightlift::http {
namespace {

constexpr int kPollMs = 25;
constexpr auto kAskStop = std::chrono::milliseconds(20);
constexpr std::size_t kMostHeadBytes = 256u << 10;
constexpr long kReceiveBuffer = 512L << 10;
constexpr long kSendBuffer = 512L << 10;

long Milliseconds(double seconds) {
  return static_cast<long>(std::clamp(seconds, 0.001, 1e6) * 1000);
}

void Check(CURLMcode code) {
  if (code != CURLM_OK) throw Error(ErrorCode::kTransport, curl_multi_strerror(code));
}

}  // namespace

Exchange::Exchange(Session& session, const Ask& ask, Receiver& receiver, Source* source)
    : session_(session), receiver_(&receiver), source_(source), slot_(session.slots.Take()) {
  SetUp(ask);
  Check(curl_multi_add_handle(slot_->multi(), slot_->easy()));
  attached_ = true;
  session_.requests.fetch_add(1, std::memory_order_relaxed);
}

Exchange::~Exchange() {
  if (foreign()) return;  // even to close the connection would break it for the parent
  if (attached_) curl_multi_remove_handle(slot_->multi(), slot_->easy());
  curl_easy_reset(slot_->easy());  // keeps its connections; forgets pointers to us
  session_.slots.Give(std::move(slot_));
}

template <typename T>
void Exchange::Set(CURLoption option, T value) {
  const CURLcode code = curl_easy_setopt(slot_->easy(), option, value);
  if (code != CURLE_OK) {
    throw Error(ErrorCode::kTransport, "libcurl refuses option " + std::to_string(option) + ": " +
                                           curl_easy_strerror(code));
  }
}

void Exchange::SetUp(const Ask& ask) {
  const bool trusted = ask.url.origin == ask.origin;
  Set(CURLOPT_ERRORBUFFER, error_.data());
  Set(CURLOPT_URL, ask.url.text.c_str());
  Set(CURLOPT_PATH_AS_IS, 1L);
#if LIBCURL_VERSION_NUM >= 0x075500
  Set(CURLOPT_PROTOCOLS_STR, "http,https");
#else
  Set(CURLOPT_PROTOCOLS, static_cast<long>(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
  Set(CURLOPT_NOSIGNAL, 1L);
#if LIBCURL_VERSION_NUM >= 0x075700
  Set(CURLOPT_QUICK_EXIT, 1L);  // a stop does not wait for the resolver
#endif
  Set(CURLOPT_HEADERFUNCTION, &Exchange::OnHeaderData);
  Set(CURLOPT_HEADERDATA, static_cast<void*>(this));
  Set(CURLOPT_WRITEFUNCTION, &Exchange::OnBodyData);
  Set(CURLOPT_WRITEDATA, static_cast<void*>(this));
  Set(CURLOPT_PREREQFUNCTION, &Exchange::OnConnected);
  Set(CURLOPT_PREREQDATA, static_cast<void*>(this));
  Set(CURLOPT_BUFFERSIZE, kReceiveBuffer);
  SetUpRequest(ask);
  SetUpConnection(trusted);
  SetUpHeaders(ask, trusted);
}

void Exchange::SetUpRequest(const Ask& ask) {
  if (source_ != nullptr) {
    Set(CURLOPT_UPLOAD, 1L);
    Set(CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(source_->size()));
    Set(CURLOPT_READFUNCTION, &Exchange::OnBodyWanted);
    Set(CURLOPT_READDATA, static_cast<void*>(this));
    Set(CURLOPT_UPLOAD_BUFFERSIZE, kSendBuffer);
    // On a connection that was kept, a server that has just closed it would cost the attempt.
    Set(CURLOPT_FRESH_CONNECT, 1L);
  } else if (ask.body) {
    Set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(ask.body->size()));
    Set(CURLOPT_POSTFIELDS, reinterpret_cast<const char*>(ask.body->data()));
  } else if (ask.method == "HEAD") {
    Set(CURLOPT_NOBODY, 1L);
  }
  if (ask.method != "HEAD") Set(CURLOPT_CUSTOMREQUEST, ask.method.c_str());
  if (ask.range) {
    const auto [begin, end] = *ask.range;
    Set(CURLOPT_RANGE, (std::to_string(begin) + "-" + std::to_string(end - 1)).c_str());
  }
  // Nothing is encoded for us; what comes encoded all the same is decoded.
  Set(CURLOPT_ACCEPT_ENCODING, "identity");
}

void Exchange::SetUpConnection(bool trusted) {
  const Options& options = session_.options;
  Set(CURLOPT_CONNECTTIMEOUT_MS, Milliseconds(options.connect_timeout));
  Set(CURLOPT_TCP_KEEPALIVE, 1L);
  switch (options.version) {
    case Version::kAuto:  // ranges run side by side, each on a connection of its own
    case Version::k1_1:
      Set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
      break;
    case Version::k2:
      Set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_2TLS));
      break;
  }
  Set(CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  if (!options.ca_file.empty()) Set(CURLOPT_CAINFO, options.ca_file.c_str());
  if (trusted && !options.client_cert.empty()) {
    Set(CURLOPT_SSLCERT, options.client_cert.c_str());
    if (!options.client_key.empty()) Set(CURLOPT_SSLKEY, options.client_key.c_str());
  }
  if (!options.tls_verify) {
    Set(CURLOPT_SSL_VERIFYPEER, 0L);
    Set(CURLOPT_SSL_VERIFYHOST, 0L);
  }
  if (options.proxy) Set(CURLOPT_PROXY, options.proxy->c_str());
  Set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
}

void Exchange::SetUpHeaders(const Ask& ask, bool trusted) {
  const Options& options = session_.options;
  if (trusted && options.netrc) {
    Set(CURLOPT_NETRC, static_cast<long>(CURL_NETRC_OPTIONAL));
    if (const char* const file = std::getenv("NETRC")) Set(CURLOPT_NETRC_FILE, file);
  }
  Set(CURLOPT_HTTPAUTH, static_cast<long>(CURLAUTH_BASIC));
  const std::optional<std::string>& user = options.user ? options.user : ask.user;
  const std::optional<std::string>& password = options.user ? options.password : ask.password;
  if (trusted && user) {
    Set(CURLOPT_USERNAME, user->c_str());
    Set(CURLOPT_PASSWORD, password.value_or("").c_str());
  }
  Headers sent = ask.headers;
  for (const Header& header : options.headers) {
    if (FindHeader(sent, header.first) == nullptr) sent.push_back(header);
  }
  if (options.bearer) sent.emplace_back("Authorization", "Bearer " + *options.bearer);
  if (FindHeader(sent, "User-Agent") == nullptr) sent.emplace_back("User-Agent", "weightlift");
  std::erase_if(sent, [&](const Header& h) { return !trusted && IsSecret(h.first); });
  const auto add = [&](const std::string& line) {
    curl_slist* const longer = curl_slist_append(header_list_.get(), line.c_str());
    if (longer == nullptr) throw Error(ErrorCode::kOutOfMemory, "no memory for headers");
    static_cast<void>(header_list_.release());
    header_list_.reset(longer);
  };
  for (const auto& [name, value] : sent) add(value.empty() ? name + ";" : name + ": " + value);
  // What libcurl would say of a body unasked.
  if (ask.body && FindHeader(sent, "Content-Type") == nullptr) add("Content-Type:");
  if (source_ == nullptr) add("Expect:");
  Set(CURLOPT_HTTPHEADER, header_list_.get());
}

bool Exchange::Run(const Patience& patience, const std::function<bool()>& until) {
  if (foreign()) {
    throw Error(ErrorCode::kTransport, "this process is a fork of the one that began the transfer");
  }
  active_ = Clock::now();
  Clock::time_point asked{};
  const auto stall = std::chrono::duration<double>(session_.options.stall_timeout);
  while (!ended_) {
    int running = 0;
    Check(curl_multi_perform(slot_->multi(), &running));
    NoteSent();
    Collect();
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    if (ended_) break;
    if (until && until()) return false;
    const Clock::time_point now = Clock::now();
    if (now - asked >= kAskStop) {
      patience.CheckStop();
      asked = now;
    }
    if (patience.expired()) {
      End(CURLE_OPERATION_TIMEDOUT);
      break;
    }
    if (connected_ && stall.count() > 0 && now - active_ > stall) {
      stalled_ = true;
      End(CURLE_OPERATION_TIMEDOUT);
      break;
    }
    Check(curl_multi_poll(slot_->multi(), nullptr, 0, kPollMs, nullptr));
  }
  return true;
}

// What is received comes to a callback; what is sent was in a buffer of curl's, perhaps for long.
void Exchange::NoteSent() {
  curl_off_t sent = 0;
  curl_easy_getinfo(slot_->easy(), CURLINFO_SIZE_UPLOAD_T, &sent);
  if (sent == sent_) return;
  sent_ = sent;
  active_ = Clock::now();
}

void Exchange::Collect() {
  int left = 0;
  while (const CURLMsg* const message = curl_multi_info_read(slot_->multi(), &left)) {
    if (message->msg == CURLMSG_DONE && message->easy_handle == slot_->easy()) {
      End(cut_ ? CURLE_OK : message->data.result);
    }
  }
}

void Exchange::End(CURLcode code) {
  code_ = code;
  ended_ = true;
  curl_multi_remove_handle(slot_->multi(), slot_->easy());
  attached_ = false;
}

void Exchange::Wake() {
  if (!paused_ || ended_) return;
  paused_ = false;
  curl_easy_pause(slot_->easy(), CURLPAUSE_CONT);
}

Attempt Exchange::attempt() const {
  return {.code = code_, .status = head_done_ ? head_.status : 0, .stalled = stalled_};
}

std::string Exchange::Words() const {
  if (stalled_) {
    std::ostringstream seconds;
    seconds << session_.options.stall_timeout;
    return "no byte came for " + seconds.str() + " s";
  }
  if (code_ != CURLE_OK) return error_[0] != '\0' ? error_.data() : curl_easy_strerror(code_);
  return "the answer, of status " + std::to_string(head_.status) + ", ends too early";
}

std::chrono::microseconds Exchange::latency() const {
  curl_off_t sent = 0;
  curl_off_t first_byte = 0;
  curl_easy_getinfo(slot_->easy(), CURLINFO_PRETRANSFER_TIME_T, &sent);
  curl_easy_getinfo(slot_->easy(), CURLINFO_STARTTRANSFER_TIME_T, &first_byte);
  return std::chrono::microseconds(std::max<curl_off_t>(first_byte - sent, 0));
}

// False: the transfer is to end.
bool Exchange::HeaderLine(std::string_view line) {
  head_bytes_ += line.size();
  if (head_bytes_ > kMostHeadBytes) {
    throw Error(ErrorCode::kTransport, "the answer's headers are longer than " +
                                           std::to_string(kMostHeadBytes) + " bytes");
  }
  if (head_done_) return true;  // a trailer
  while (!line.empty() && (line.back() == '\r' || line.back() == '\n')) line.remove_suffix(1);
  if (line.rfind("HTTP/", 0) == 0) {
    head_ = {};
    long status = 0;
    curl_easy_getinfo(slot_->easy(), CURLINFO_RESPONSE_CODE, &status);
    head_.status = static_cast<int>(status);
    return true;
  }
  if (!line.empty()) {
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) return true;
    std::string_view value = line.substr(colon + 1);
    const std::size_t first = value.find_first_not_of(" \t");
    value = first == std::string_view::npos ? std::string_view{} : value.substr(first);
    value = value.substr(0, value.find_last_not_of(" \t") + 1);
    head_.headers.emplace_back(line.substr(0, colon), value);
    return true;
  }
  if (head_.status < 200) return true;  // the answer proper is still to come
  head_done_ = true;
  return receiver_->OnHead(head_);
}

std::size_t Exchange::OnHeaderData(char* data, std::size_t size, std::size_t count,
                                   void* self) noexcept {
  auto& exchange = *static_cast<Exchange*>(self);
  exchange.active_ = Clock::now();
  try {
    if (exchange.HeaderLine({data, size * count})) return size * count;
    exchange.cut_ = true;
  } catch (...) {
    exchange.failure_ = std::current_exception();
  }
  return 0;
}

std::size_t Exchange::OnBodyData(char* data, std::size_t size, std::size_t count,
                                 void* self) noexcept {
  auto& exchange = *static_cast<Exchange*>(self);
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size * count);
  exchange.active_ = Clock::now();
  exchange.session_.bytes_received.fetch_add(bytes.size(), std::memory_order_relaxed);
  try {
    if (exchange.receiver_->OnBody(bytes)) return bytes.size();
    exchange.cut_ = true;
  } catch (...) {
    exchange.failure_ = std::current_exception();
  }
  return CURL_WRITEFUNC_ERROR;
}

std::size_t Exchange::OnBodyWanted(char* data, std::size_t size, std::size_t count,
                                   void* self) noexcept {
  auto& exchange = *static_cast<Exchange*>(self);
  try {
    const std::size_t taken =
        exchange.source_->Take({reinterpret_cast<std::byte*>(data), size * count});
    exchange.active_ = Clock::now();
    exchange.session_.bytes_sent.fetch_add(taken, std::memory_order_relaxed);
    if (taken > 0) return taken;
    exchange.paused_ = true;
    return CURL_READFUNC_PAUSE;
  } catch (...) {
    exchange.failure_ = std::current_exception();
    return CURL_READFUNC_ABORT;
  }
}

int Exchange::OnConnected(void* self, char*, char*, int, int) noexcept {
  auto& exchange = *static_cast<Exchange*>(self);
  exchange.connected_ = true;
  exchange.active_ = Clock::now();
  return CURL_PREREQFUNC_OK;
}

}  // namespace weightlift::http
