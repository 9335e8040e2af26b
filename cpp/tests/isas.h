// Running a test on every instruction set of this machine.
#ifndef WEIGHTLIFT_TESTS_ISAS_H_
#define WEIGHTLIFT_TESTS_ISAS_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "check.h"
#include "weightlift/isa.h"

namespace check {

// Calls body() once for each instruction set, which is then in use; says which one failed.
template <class Body>
void OnEveryIsa(const Body& body) {
  const std::string before(weightlift::ActiveIsa());
  for (const std::string_view isa : weightlift::AvailableIsas()) {
    const int failures = Failures();
    weightlift::SetIsa(isa);
    body();
    if (Failures() != failures) {
      std::fprintf(stderr, "  ... on %s\n", std::string(isa).c_str());
    }
  }
  weightlift::SetIsa(before);
}

inline std::vector<std::byte> RandomBytes(std::size_t n, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(n);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() & 0xFF);
  return bytes;
}

}  // namespace check

#endif  // WEIGHTLIFT_TESTS_ISAS_H_
