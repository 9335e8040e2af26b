"""A thousand random schedules of faults: each ends in the right bytes or the right error, none hangs.

What is right is known beforehand: see outcomes.py.
"""

from __future__ import annotations

import faulthandler
import random
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as WatchdogError
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.http.fault_server import FaultServer, Resource
from tests.http.outcomes import PATH, RIGHT, Costs, Outcome, Schedule, possible, random_schedule
from tests.http.support import assert_same, model, model_bytes

import weightlift as wl

CASES = 1000
AT_ONCE = 8
WATCHDOG_SECONDS = 60
STALL_SECONDS = 1.0
"""After so long without a byte an attempt is given up; random_schedule leaves attempts for answers that a busy machine
makes so late."""
PATIENCE_SECONDS = 300.0
PART_BYTES = (16 << 10, 64 << 10, 256 << 10)


@dataclass(frozen=True)
class Version:
    """A model, its file, and what an honest load of it costs, by the length of parts."""

    tensors: dict[str, npt.NDArray[Any]]
    data: bytes
    costs: dict[int, Costs]


def honest_costs(data: bytes, part_bytes: int) -> Costs:
    with FaultServer({PATH: Resource(data)}) as server:
        wl.load(server.url(PATH), part_bytes=part_bytes, connections=1)
        ranges = [r.range for r in server.requests]
    head, *parts = [end - begin for begin, end in ranges if end is not None]
    return Costs(head, tuple(parts))


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Version]:
    """Models of 0.2 to 2 MiB; pairs have the same size."""
    folder, found = tmp_path_factory.mktemp("versions"), []
    for i, nbytes in enumerate((200_000, 500_000, 1_000_000, 2_000_000)):
        first = model(nbytes, i)
        second = {name: (a[::-1].copy() if a.ndim else a) for name, a in first.items()}
        for tensors in (first, second):
            data = model_bytes(tensors, folder)
            found.append(Version(tensors, data, {n: honest_costs(data, n) for n in PART_BYTES}))
    return found


def load(now: Version, later: Version, schedule: Schedule, expected: set[Outcome], **options: Any) -> Outcome:
    """What came of it; AssertionError for an end that is not expected, and for values that neither version has."""
    with FaultServer({PATH: Resource(now.data, etag='"now"')}, schedule.fault()) as server:
        try:
            loaded = wl.load(server.url(PATH), **options)
        except wl.WeightliftError as error:
            assert error.url is not None and error.url.startswith("http://127.0.0.1:"), error
            assert isinstance(error, tuple(e for e in expected if isinstance(e, type))), error
            return type(error)
    assert RIGHT in expected, "it succeeded"
    opened = now if np.array_equal(loaded["w0"], now.tensors["w0"]) else later
    assert_same(loaded, opened.tensors)
    return RIGHT


def run_case(seed: int, versions: list[Version]) -> tuple[set[Outcome], Outcome]:
    """What may come of it, and what came; AssertionError if that is not among them."""
    rng = random.Random(seed)
    pair = rng.randrange(0, len(versions), 2)
    now, later = versions[pair], versions[pair + 1]
    schedule, part_bytes = random_schedule(rng, now.data, later.data), rng.choice(PART_BYTES)
    expected = possible(schedule, now.costs[part_bytes])
    options = {
        "part_bytes": part_bytes, "connections": rng.randrange(1, 5), "attempts": schedule.attempts, "backoff": 0.001,
        "timeout": STALL_SECONDS if schedule.stalls else PATIENCE_SECONDS,
        "verify": schedule.flips or rng.random() < 0.5,
    }  # fmt: skip
    try:
        return expected, load(now, later, schedule, expected, **options)
    except BaseException as error:
        raise AssertionError(f"seed {seed}: {schedule}: {error!r}; possible: {expected}") from error


def test_a_thousand_random_schedules(versions: list[Version]) -> None:
    faulthandler.enable()
    results: list[tuple[set[Outcome], Outcome]] = []
    pool = ThreadPoolExecutor(AT_ONCE)
    running = [(seed, pool.submit(run_case, seed, versions)) for seed in range(CASES)]
    for seed, case in running:
        try:
            results.append(case.result(WATCHDOG_SECONDS))
        except WatchdogError:
            faulthandler.dump_traceback()
            pool.shutdown(wait=False, cancel_futures=True)
            pytest.fail(f"seed {seed} hangs")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    pool.shutdown()
    must_succeed = sum(expected == {RIGHT} for expected, _ in results)
    must_fail = sum(RIGHT not in expected for expected, _ in results)
    assert must_succeed > CASES * 0.4 and must_fail > CASES * 0.3, (must_succeed, must_fail)
    assert must_succeed + must_fail > CASES * 0.85, f"too much is left open: {must_succeed}, {must_fail}"
    ends = {outcome for _, outcome in results}
    assert ends >= {RIGHT, wl.TransportError, wl.ChangedError, wl.ChecksumError, wl.NotFoundError, wl.AccessError}
