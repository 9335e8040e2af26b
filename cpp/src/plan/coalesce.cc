#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "weightlift/plan.h"

namespace weightlift {
namespace {

// A maximal run of ops: one source, ascending, no overlap, no gap above the limit.
struct Run {
  std::size_t first, last;
  std::uint64_t begin, end;
};

// The run that starts at `first`, which is not empty. It ends with an op that is not empty, too.
Run FindRun(std::span<const ReadOp> ops, std::size_t first, std::uint64_t max_gap) {
  Run run{first, first + 1, ops[first].offset, ops[first].end()};
  for (std::size_t i = first + 1; i < ops.size(); ++i) {
    const ReadOp& op = ops[i];
    if (op.nbytes == 0) continue;
    const bool joins =
        op.source == ops[first].source && op.offset >= run.end && op.offset - run.end <= max_gap;
    if (!joins) break;
    run.last = i + 1;
    run.end = op.end();
  }
  return run;
}

// Where to cut next: at a multiple of task_bytes in the file, so that direct reads are aligned, but
// neither piece shorter than half a task.
std::uint64_t NextCut(std::uint64_t begin, std::uint64_t end, std::uint64_t task_bytes) {
  std::uint64_t size = task_bytes - begin % task_bytes;
  if (size < (task_bytes + 1) / 2) size += task_bytes;
  const std::uint64_t left = end - begin;
  return left < size || left - size < (task_bytes + 1) / 2 ? end : begin + size;
}

void CutRun(std::span<const ReadOp> ops, const Run& run, std::uint64_t task_bytes,
            std::vector<ReadTask>& tasks) {
  std::size_t first = run.first;
  std::uint64_t begin = run.begin;
  while (begin < run.end) {
    const std::uint64_t end = NextCut(begin, run.end, task_bytes);
    std::size_t last = first + 1;
    std::uint64_t used = ops[first].end();  // end of the last op that has bytes before `end`
    for (std::size_t i = last; i < run.last && ops[i].offset < end; ++i) {
      if (ops[i].nbytes == 0) continue;
      last = i + 1;
      used = ops[i].end();
    }
    tasks.push_back({first, last, begin, std::min(end, used)});
    // A task neither starts nor ends in a gap or on an empty op.
    if (used <= end) {
      first = last;
      while (first < run.last && ops[first].nbytes == 0) ++first;
      begin = first < run.last ? ops[first].offset : run.end;
    } else {
      first = last - 1;
      begin = end;
    }
  }
}

}  // namespace

std::vector<ReadTask> Coalesce(std::span<const ReadOp> sorted_ops, const CoalesceOptions& options) {
  const std::uint64_t task_bytes = std::max<std::uint64_t>(options.task_bytes, 1);
  std::vector<ReadTask> tasks;
  std::size_t i = 0;
  while (i < sorted_ops.size()) {
    if (sorted_ops[i].nbytes == 0) {
      ++i;
      continue;
    }
    const Run run = FindRun(sorted_ops, i, options.max_gap);
    CutRun(sorted_ops, run, task_bytes, tasks);
    i = run.last;
  }
  return tasks;
}

}  // namespace weightlift
