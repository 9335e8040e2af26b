"""How every bench measures: cases in processes of their own, run in turn, medians compared.

A case is a function ``setup(params) -> run``; ``run()`` is timed and its result thrown away outside the timing.
Each case lives in one worker process for the whole bench, so that no case inherits another's heap, and its peak
memory is its own. Each round takes them in an order drawn anew, because what ran before a case is part of what it takes
(a load after a save of 1 GiB pays for the memory that the save left in pieces: measured, a third of its rate). Groups
of cases, which are compared among themselves only, run one after another. Two warm-up rounds are thrown away. CPU
seconds are user and system time of the worker and of the programs it starts.

    python bench/load_local.py [--quick] [--json FILE] [--rounds N] [--size BYTES] [--dir DIR]
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import multiprocessing as mp
import os
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30
CPUS = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Case:
    """One row of the table.

    ``setup`` is the name of a function in the bench's module. ``guarantees`` says what the row gives: owned or a
    view, verified, durable. ``role`` is "us", "peer" or "roofline"; ``needs`` a module or program.
    """

    name: str
    setup: str
    guarantees: str
    role: str = "peer"
    needs: str | None = None
    group: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Timed:
    """What ``run()`` returns when a program it started measured itself."""

    seconds: float
    cpu: float


class Skip(Exception):
    """Raised by ``setup`` when a case cannot run here; the text says why."""


def _cpu() -> float:
    return sum(
        u.ru_utime + u.ru_stime
        for u in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def _rss() -> tuple[int, int]:
    """(now, peak) resident bytes of this process."""
    now = peak = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            now = int(line.split()[1]) << 10
        elif line.startswith("VmHWM:"):
            peak = int(line.split()[1]) << 10
    return now, peak


def _worker(pipe: Any, module: str, case: Case, params: dict[str, Any]) -> None:
    sys.path[:0] = [str(ROOT / "bench")]
    try:
        run = getattr(importlib.import_module(module), case.setup)({**params, **case.args})
    except (Skip, ImportError) as error:
        pipe.send(("skip", f"{type(error).__name__}: {error}" if isinstance(error, ImportError) else str(error)))
        return
    except BaseException:
        pipe.send(("error", traceback.format_exc()))
        return
    gc.collect()
    pipe.send(("ready", _rss()[0]))
    while pipe.recv() == "run":
        try:
            Path("/proc/self/clear_refs").write_text("5")
            base = _rss()[0]
            cpu, begin = _cpu(), time.perf_counter()
            result = run()
            seconds, used = time.perf_counter() - begin, _cpu() - cpu
            if isinstance(result, Timed):
                seconds, used = result.seconds, result.cpu
            peak = _rss()[1] - base
            del result
            gc.collect()
            pipe.send(("done", (seconds, used, peak)))
        except BaseException:
            pipe.send(("error", traceback.format_exc()))
            return


@dataclass
class Row:
    """Measurements of a case."""

    case: Case
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: int = 0
    skipped: str = ""

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


def touch_memory(nbytes: int | None = None) -> None:
    """Write to each page of ``nbytes`` of free memory (default: nine tenths of all) once, in programs that end.

    A virtual machine gets memory from its host at the first touch, at a thirtieth of the speed of any later one, and
    gives it back to the host some seconds after it was freed: which row that falls to is chance (measured: 512 MiB of
    huge pages in 25 ms right after such programs, in 700 to 1300 ms after six seconds of nothing).
    """
    if nbytes is None:
        nbytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 9 // 10  # not what the page cache has
    program = (
        "import mmap, sys\n"
        "size, step = int(sys.argv[1]), mmap.PAGESIZE\n"
        "with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:\n"
        "    if hasattr(mmap, 'MADV_HUGEPAGE'): memory.madvise(mmap.MADV_HUGEPAGE)\n"
        "    for at in range(0, size, step): memory[at] = 1\n"
    )
    share = nbytes // CPUS
    running = [subprocess.Popen([sys.executable, "-S", "-c", program, str(share)]) for _ in range(CPUS)]
    statuses = [process.wait() for process in running]
    if any(statuses):
        raise RuntimeError("the program that touches memory failed")


@dataclass
class Session:
    """How the rows of a bench are run.

    ``before`` is called untimed in this process ahead of every run. ``memory`` bytes are touched ahead of each run, so
    that fresh memory costs every row the same; twice what a row needs is enough. ``apart``: the process of a row lives
    only for its turn of a round, with warm-ups of its own; where not all fit into memory together.
    """

    module: str
    params: dict[str, Any]
    rounds: int
    warmup: int = 2
    before: Callable[[Case], None] | None = None
    memory: int = 0
    apart: bool = False

    def rows(self, cases: Sequence[Case]) -> list[Row]:
        """Run all cases, group by group, each round in an order of its own."""
        rows, order = [Row(c) for c in cases], random.Random(0)
        for group in dict.fromkeys(c.group for c in cases):
            mine = [row for row in rows if row.case.group == group]
            if self.apart:
                for _ in range(self.rounds):
                    for row in order.sample(mine, len(mine)):
                        self._together([row], 1, order)
            else:
                self._together(mine, self.rounds, order)
        return rows

    def _together(self, rows: Sequence[Row], rounds: int, order: random.Random) -> None:
        """Run rows by turns, each in a process that lives through all rounds."""
        live: list[_Live] = []
        try:
            for row in rows:
                live += self._started(row)
            for turn in range(self.warmup + rounds):
                for one in order.sample(live, len(live)):
                    self._run(one, counts=turn >= self.warmup)
        finally:
            for one in live:
                one.stop()

    def _started(self, row: Row) -> list[_Live]:
        """The process of a row, once it is set up; none where that cannot run here."""
        context = mp.get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(target=_worker, args=(theirs, self.module, row.case, self.params))
        process.start()
        theirs.close()
        kind, value = mine.recv()
        if kind == "error":
            raise RuntimeError(f"{row.case.name}: set-up failed\n{value}")
        row.skipped = value if kind == "skip" else ""
        return [] if row.skipped else [_Live(row, mine, process)]

    def _run(self, one: _Live, *, counts: bool) -> None:
        """What the runs before have left in the page cache goes to the disk first: it is not charged to this one."""
        os.sync()
        if self.before is not None:
            self.before(one.row.case)
        if self.memory:
            touch_memory(min(self.memory, _available() * 3 // 4))
        one.pipe.send("run")
        kind, value = one.pipe.recv()
        if kind != "done":
            raise RuntimeError(f"{one.row.case.name} failed\n{value}")
        if counts:
            one.row.seconds.append(value[0])
            one.row.cpu.append(value[1])
        one.row.peak = max(one.row.peak, value[2])


@dataclass
class _Live:
    """A row and its process."""

    row: Row
    pipe: Any
    process: Any

    def stop(self) -> None:
        if self.process.is_alive():
            self.pipe.send("stop")
        self.process.join(5)
        self.process.kill()


def measure(module: str, cases: Sequence[Case], params: dict[str, Any], rounds: int, **how: Any) -> list[Row]:
    """Run all cases; ``how``: see :class:`Session`."""
    return Session(module, params, rounds, **how).rows(cases)


def table(title: str, rows: Sequence[Row], nbytes: int, *, unit: str = "GB/s", count: int = 0) -> list[dict[str, Any]]:
    """Print the rows with ratios to the best peer and to the roofline; returns them for ``--json``."""
    groups = list(dict.fromkeys(r.case.group for r in rows))
    records = []
    print(f"\n{title}")
    header = (
        f"  {'case':44} {'ms':>9} {unit:>8} {'CPU s/GiB':>10} {'peak MiB':>9} {'/peer':>7} {'/roof':>7}  guarantees"
    )
    print(header)
    for group in groups:
        mine = [r for r in rows if r.case.group == group]
        done = [r for r in mine if not r.skipped]
        peers = [r.median for r in done if r.case.role == "peer"]
        roofs = [r.median for r in done if r.case.role == "roofline"]
        if group:
            print(f"  -- {group}")
        for r in mine:
            if r.skipped:
                print(f"  {r.case.name:44} skipped: {r.skipped.strip().splitlines()[-1][:90]}")
                records.append({"case": r.case.name, "group": group, "skipped": r.skipped})
                continue
            rate = count / r.median / 1e6 if unit == "M/s" else nbytes / r.median / 1e9
            peer = min(peers) / r.median if peers else float("nan")
            roof = min(roofs) / r.median if roofs else float("nan")
            cpu = statistics.median(r.cpu) / (nbytes / GIB)
            print(
                f"  {r.case.name:44} {r.median * 1e3:9.2f} {rate:8.2f} {cpu:10.3f} {r.peak / 2**20:9.0f} "
                f"{peer:7.2f} {roof:7.2f}  {r.case.guarantees}"
            )
            records.append(
                {
                    "case": r.case.name, "group": group, "role": r.case.role, "guarantees": r.case.guarantees,
                    "seconds": r.seconds, "median_s": r.median, "gb_per_s": nbytes / r.median / 1e9,
                    "cpu_s_per_gib": cpu, "peak_bytes": r.peak, "ratio_best_peer": peer, "ratio_roofline": roof,
                }
            )  # fmt: skip
    return records


def ratio(rows: Sequence[Row], ours: str, theirs: str) -> float | None:
    """How many times faster ``ours`` is than ``theirs``; None when one did not run."""
    found = {r.case.name: r for r in rows if not r.skipped}
    return found[theirs].median / found[ours].median if ours in found and theirs in found else None


def claim(text: str, value: float | None, target: float, *, at_most: bool = False) -> dict[str, Any]:
    """Print one claim with its figure and whether it holds."""
    if value is None:
        print(f"  claim: {text}: not measured (a row was skipped)")
        return {"claim": text, "value": None, "target": target}
    held = value <= target if at_most else value >= target
    print(f"  claim: {text}: {value:.2f} ({'<=' if at_most else '>='} {target}) {'holds' if held else 'MISSED'}")
    return {"claim": text, "value": value, "target": target, "holds": held}


def arguments(description: str, size: int, quick: int, parts: Sequence[str] = ()) -> argparse.Namespace:
    """The common command line; ``parts``: what ``--only`` chooses from, where a bench has several."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small and short: does it run? The figures mean little")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--rounds", type=int, help="measured rounds (default 7; quick 1)")
    parser.add_argument("--size", type=int, help=f"model bytes (default {size})")
    parser.add_argument("--dir", type=Path, help="where the files go (default: a temporary directory here)")
    if parts:
        known = ", ".join(parts)
        parser.add_argument("--only", nargs="+", choices=parts, metavar="PART", help=f"run no others of: {known}")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 7)
    args.size = args.size or (quick if args.quick else size)
    args.warmup = 1 if args.quick else 2
    args.memory = 0 if args.quick else min(2 * args.size, _available() // 2)
    return args


def _available() -> int:
    """Bytes of memory that are free, or hold what can be read again."""
    found = re.search(r"^MemAvailable: *(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


class Workspace:
    """A directory for the bench's files, removed at the end; the machine is made ready."""

    def __init__(self, args: argparse.Namespace) -> None:
        if not args.quick:
            touch_memory()
        self.path = Path(tempfile.mkdtemp(prefix="weightlift-bench-", dir=args.dir or Path.cwd()))

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def finish(args: argparse.Namespace, title: str, records: list[dict[str, Any]]) -> None:
    """Write ``--json``."""
    if args.json:
        args.json.write_text(json.dumps({"bench": title, "quick": args.quick, "rows": records}, indent=1) + "\n")


def roofline(program: str, *arguments: str) -> Callable[[], Timed]:
    """A run of one of ``bench/roofline``'s programs, which time themselves."""
    return on_request(roofline_path(program), *arguments, "--on-request")


def on_request(*command: str) -> Callable[[], Timed]:
    """A run of a program that does its work for each line it is sent, and answers with its own times as JSON.

    The program is started, and sets itself up, once, as the other cases do: it finds the disk as busy as they do.
    """
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    ask, answers = process.stdin, process.stdout

    def run() -> Timed:
        ask.write("\n")
        ask.flush()
        line = answers.readline()
        if not line:
            raise RuntimeError(f"{command[0]} ended with status {process.wait()}")
        report = json.loads(line)
        return Timed(report["seconds"], report["cpu_s"])

    return run


def roofline_path(program: str) -> str:
    """Where the program was built: WEIGHTLIFT_ROOFLINE, or any build directory of this tree."""
    places = [Path(p) for p in (os.environ.get("WEIGHTLIFT_ROOFLINE"),) if p]
    places += sorted((ROOT / "build").glob("*/bench/roofline"))
    for place in places:
        if (place / program).is_file():
            return str(place / program)
    raise Skip(f"{program} is not built: cmake --preset release && cmake --build build/release")


def drop_caches(path: Path) -> None:
    """Put a file's pages out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
