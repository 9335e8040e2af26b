// How a call that may wait for long is asked to give up.
#ifndef WEIGHTLIFT_STOP_H_
#define WEIGHTLIFT_STOP_H_

#include <functional>

namespace weightlift {

// Asked every 50 ms or more often, on the thread that waits; true, or an exception, ends the wait.
// What returns true ends it with Error(kCancelled). An empty one never stops anything.
using StopPredicate = std::function<bool()>;

}  // namespace weightlift

#endif  // WEIGHTLIFT_STOP_H_
