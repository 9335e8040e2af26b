#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "check.h"
#include "weightlift/plan.h"

namespace weightlift {
namespace {

ReadOp Op(std::uint64_t offset, std::uint64_t nbytes, std::uint32_t source = 0) {
  return {.source = source,
          .tensor = 0,
          .offset = offset,
          .nbytes = nbytes,
          .buffer = kNoIndex,
          .pipeline = kNoIndex,
          .dest = 0};
}

std::string Describe(const char* name, const std::vector<ReadTask>& tasks) {
  std::ostringstream text;
  text << name << ':';
  for (const ReadTask& task : tasks) {
    text << " [" << task.first << ',' << task.last << ' ' << task.begin << '-' << task.end << ']';
  }
  return text.str();
}

struct Case {
  const char* name;
  std::vector<ReadOp> ops;
  CoalesceOptions options;
  std::vector<ReadTask> expected;
};

const std::vector<Case>& Cases() {
  static const std::vector<Case> cases = {
      {"nothing", {}, {100, 0}, {}},
      {"one op", {Op(10, 20)}, {100, 0}, {{0, 1, 10, 30}}},
      {"consecutive ops merge", {Op(0, 10), Op(10, 5), Op(15, 5)}, {100, 0}, {{0, 3, 0, 20}}},
      {"a gap separates", {Op(0, 10), Op(11, 5)}, {100, 0}, {{0, 1, 0, 10}, {1, 2, 11, 16}}},
      {"a small gap is read", {Op(0, 10), Op(12, 5)}, {100, 2}, {{0, 2, 0, 17}}},
      {"a gap just too large", {Op(0, 10), Op(13, 5)}, {100, 2}, {{0, 1, 0, 10}, {1, 2, 13, 18}}},
      {"sources separate", {Op(0, 10, 0), Op(10, 5, 1)}, {100, 9}, {{0, 1, 0, 10}, {1, 2, 10, 15}}},
      {"overlap separates", {Op(0, 10), Op(5, 10)}, {100, 9}, {{0, 1, 0, 10}, {1, 2, 5, 15}}},
      {"the same bytes twice", {Op(3, 4), Op(3, 4)}, {100, 0}, {{0, 1, 3, 7}, {1, 2, 3, 7}}},
      {"inside another", {Op(0, 10), Op(2, 3)}, {100, 0}, {{0, 1, 0, 10}, {1, 2, 2, 5}}},
      {"no bytes, no task", {Op(0, 0), Op(5, 0)}, {100, 100}, {}},
      {"no bytes at the edges", {Op(0, 0), Op(0, 4), Op(4, 0)}, {100, 0}, {{1, 2, 0, 4}}},
      {"no bytes between", {Op(0, 4), Op(4, 0), Op(4, 4)}, {100, 0}, {{0, 3, 0, 8}}},
      {"a large op splits",
       {Op(0, 300)},
       {100, 0},
       {{0, 1, 0, 100}, {0, 1, 100, 200}, {0, 1, 200, 300}}},
      {"cuts are aligned in the file",
       {Op(30, 200)},
       {100, 0},
       {{0, 1, 30, 100}, {0, 1, 100, 230}}},
      {"a short start joins the next",
       {Op(90, 210)},
       {100, 0},
       {{0, 1, 90, 200}, {0, 1, 200, 300}}},
      {"a short end joins the last", {Op(0, 149)}, {100, 0}, {{0, 1, 0, 149}}},
      {"an end of half a task stands alone",
       {Op(0, 150)},
       {100, 0},
       {{0, 1, 0, 100}, {0, 1, 100, 150}}},
      {"small ops fill tasks",
       {Op(0, 60), Op(60, 60), Op(120, 80)},
       {100, 0},
       {{0, 2, 0, 100}, {1, 3, 100, 200}}},
      {"a cut between ops",
       {Op(0, 100), Op(100, 100)},
       {100, 0},
       {{0, 1, 0, 100}, {1, 2, 100, 200}}},
      {"a cut in a gap", {Op(0, 90), Op(110, 90)}, {100, 50}, {{0, 1, 0, 90}, {1, 2, 110, 200}}},
      {"a cut before an op of no bytes",
       {Op(0, 100), Op(100, 0), Op(100, 100)},
       {100, 0},
       {{0, 1, 0, 100}, {2, 3, 100, 200}}},
      {"task_bytes 0 counts as 1", {Op(5, 2)}, {0, 0}, {{0, 1, 5, 6}, {0, 1, 6, 7}}},
      {"the end of the address space",
       {Op(std::numeric_limits<std::uint64_t>::max() - 10, 10)},
       {100, 0},
       {{0, 1, std::numeric_limits<std::uint64_t>::max() - 10,
         std::numeric_limits<std::uint64_t>::max()}}},
  };
  return cases;
}

TEST(TableOfCases) {
  for (const Case& c : Cases()) {
    CHECK_EQ(Describe(c.name, Coalesce(c.ops, c.options)), Describe(c.name, c.expected));
  }
}

// Whatever the plan: each op's bytes are in its tasks exactly once, and no task is oversized.
TEST(EveryByteOnce) {
  std::mt19937 random(1);
  const auto below = [&](std::uint64_t n) { return random() % n; };
  for (int round = 0; round < 2000; ++round) {
    std::vector<ReadOp> ops;
    std::uint64_t at = below(50);
    std::uint32_t source = 0;
    for (std::uint64_t n = below(20); n > 0; --n) {
      const std::uint64_t nbytes = below(3) == 0 ? 0 : below(200);
      ops.push_back(Op(at, nbytes, source));
      at += below(2) == 0 ? nbytes : below(nbytes + 20);  // some overlap
      if (below(8) == 0) {
        ++source;
        at = below(50);
      }
    }
    const CoalesceOptions options{.task_bytes = 1 + below(100), .max_gap = below(30)};
    std::vector<std::uint64_t> covered(ops.size());
    for (const ReadTask& task : Coalesce(ops, options)) {
      CHECK(task.first < task.last && task.last <= ops.size());
      CHECK(task.begin < task.end);
      CHECK(task.end - task.begin < 2 * options.task_bytes);
      CHECK(ops[task.first].nbytes > 0 && ops[task.last - 1].nbytes > 0);
      CHECK(task.begin >= ops[task.first].offset && task.begin < ops[task.first].end());
      CHECK(task.end > ops[task.last - 1].offset && task.end <= ops[task.last - 1].end());
      for (std::size_t i = task.first; i < task.last; ++i) {
        CHECK_EQ(ops[i].source, ops[task.first].source);
        const std::uint64_t begin = std::max(task.begin, ops[i].offset);
        const std::uint64_t end = std::min(task.end, ops[i].end());
        if (begin < end) covered[i] += end - begin;
      }
    }
    for (std::size_t i = 0; i < ops.size(); ++i) CHECK_EQ(covered[i], ops[i].nbytes);
  }
}

}  // namespace
}  // namespace weightlift
