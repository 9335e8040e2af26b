// libcurl's state that is the process's, and whether this is still the process that made something.
#ifndef WEIGHTLIFT_HTTP_GLOBAL_H_
#define WEIGHTLIFT_HTTP_GLOBAL_H_

#include <cstdint>

namespace weightlift::http {

// Initialises libcurl once; thread-safe.
void EnsureCurl();

// Counts forks. Connections made under another count are the parent's: using or closing them here
// would spoil the parent's TLS sessions.
std::uint64_t ForkGeneration() noexcept;

}  // namespace weightlift::http

#endif  // WEIGHTLIFT_HTTP_GLOBAL_H_
