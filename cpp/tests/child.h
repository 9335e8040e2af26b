// Runs a piece of a test in a forked child.
#ifndef WEIGHTLIFT_TESTS_CHILD_H_
#define WEIGHTLIFT_TESTS_CHILD_H_

#include <sys/wait.h>
#include <unistd.h>

#include <exception>
#include <functional>

// The exit status that `body` returned in the child, or 128 + the signal that ended it, or 99 when
// it threw. The child leaves without destructors or exit handlers.
inline int RunInChild(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    try {
      _exit(body());
    } catch (const std::exception&) {
      _exit(99);
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#endif  // WEIGHTLIFT_TESTS_CHILD_H_
