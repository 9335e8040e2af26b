// Which sanitizer the test was built with, for the few tests that one cannot run.
#ifndef WEIGHTLIFT_TESTS_SANITIZERS_H_
#define WEIGHTLIFT_TESTS_SANITIZERS_H_

#if defined(__SANITIZE_THREAD__)
#define WEIGHTLIFT_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WEIGHTLIFT_TSAN 1
#endif
#endif

#ifdef WEIGHTLIFT_TSAN
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif

#endif  // WEIGHTLIFT_TESTS_SANITIZERS_H_
