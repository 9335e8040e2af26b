// A small test harness. Each cpp/tests/<topic>_test.cc is one program:
//
//   #include "check.h"
//   TEST(AddsUp) { CHECK_EQ(1 + 1, 2); }
//
// A failed check is printed and the test goes on. CHECK_THROWS(kind, statement) wants an
// Error of that ErrorCode. main is here: it runs every test, or those whose names contain an
// argument, prints "N passed, N failed" and returns non-zero on failure.
#ifndef WEIGHTLIFT_TESTS_CHECK_H_
#define WEIGHTLIFT_TESTS_CHECK_H_

#include <algorithm>
#include <cstdio>
#include <exception>
#include <functional>
#include <iterator>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "weightlift/error.h"

namespace check {

struct Test {
  const char* name;
  void (*body)();
};

inline std::vector<Test>& Tests() {
  static std::vector<Test> tests;
  return tests;
}

inline int& Failures() {
  static int failures = 0;
  return failures;
}

struct Registration {
  Registration(const char* name, void (*body)()) { Tests().push_back({name, body}); }
};

inline void Fail(const char* file, int line, const std::string& message) {
  ++Failures();
  constexpr int kShown = 100;
  if (Failures() <= kShown) {
    std::fprintf(stderr, "%s:%d: %s\n", file, line, message.c_str());
  }
}

template <class T>
std::string Show(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return std::to_string(static_cast<long long>(value));
  } else if constexpr (std::is_same_v<T, bool>) {
    return value ? "true" : "false";
  } else if constexpr (requires(std::ostream& out) { out << value; }) {
    std::ostringstream out;
    out << +value;
    return out.str();
  } else {
    return "(a value that cannot be printed)";
  }
}
inline std::string Show(const std::string& value) { return '"' + value + '"'; }
inline std::string Show(std::string_view value) { return '"' + std::string(value) + '"'; }
inline std::string Show(const char* value) { return '"' + std::string(value) + '"'; }

template <class A, class B>
bool Equal(const A& a, const B& b) {
  if constexpr (std::is_integral_v<A> && std::is_integral_v<B> && !std::is_same_v<A, bool> &&
                !std::is_same_v<B, bool>) {
    return std::cmp_equal(a, b);  // whatever the signs of the types
  } else {
    return a == b;
  }
}

template <class A, class B>
void CheckEqual(const char* file, int line, const char* a_text, const char* b_text, const A& a,
                const B& b) {
  if (Equal(a, b)) return;
  Fail(file, line,
       std::string(a_text) + " == " + b_text + " failed: " + Show(a) + " against " + Show(b));
}

inline void CheckThrows(const char* file, int line, const char* text, weightlift::ErrorCode code,
                        const std::function<void()>& statement) {
  try {
    statement();
  } catch (const weightlift::Error& error) {
    if (error.code() != code) {
      Fail(file, line, std::string(text) + " threw another Error: " + error.what());
    }
    return;
  } catch (const std::exception& error) {
    Fail(file, line, std::string(text) + " threw something else: " + error.what());
    return;
  }
  Fail(file, line, std::string(text) + " did not throw");
}

inline bool RunTest(const Test& test) {
  const int before = Failures();
  try {
    test.body();
  } catch (const std::exception& error) {
    Fail(test.name, 0, std::string("unexpected exception: ") + error.what());
  }
  const bool passed = Failures() == before;
  std::printf("%s %s\n", passed ? "ok  " : "FAIL", test.name);
  return passed;
}

inline int RunAll(const std::vector<std::string_view>& filters) {
  int passed = 0;
  int failed = 0;
  for (const Test& test : Tests()) {
    const std::string_view name = test.name;
    const bool wanted =
        filters.empty() || std::any_of(filters.begin(), filters.end(), [name](auto filter) {
          return name.find(filter) != std::string_view::npos;
        });
    if (!wanted) continue;
    ++(RunTest(test) ? passed : failed);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}

}  // namespace check

#define TEST(name)                                                      \
  static void name();                                                   \
  static const check::Registration registration_of_##name(#name, name); \
  static void name()

#define CHECK(condition)                                                     \
  do {                                                                       \
    if (!(condition)) check::Fail(__FILE__, __LINE__, #condition " failed"); \
  } while (false)

#define CHECK_EQ(a, b) check::CheckEqual(__FILE__, __LINE__, #a, #b, (a), (b))

#define CHECK_THROWS(kind, ...)                                                     \
  check::CheckThrows(__FILE__, __LINE__, #__VA_ARGS__, weightlift::ErrorCode::kind, \
                     [&] { static_cast<void>(__VA_ARGS__); })

int main(int argc, char** argv) {
  return check::RunAll(std::vector<std::string_view>(std::next(argv), std::next(argv, argc)));
}

#endif  // WEIGHTLIFT_TESTS_CHECK_H_
