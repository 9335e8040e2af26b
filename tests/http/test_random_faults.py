"""A thousand random schedules of faults: each ends in the right bytes or the right error, none hangs."""

from __future__ import annotations

import faulthandler
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as WatchdogError
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.http import faults
from tests.http.fault_server import Fault, FaultServer, Resource
from tests.http.support import assert_same, model, model_bytes

import weightlift as wl

CASES = 1000
AT_ONCE = 8
WATCHDOG_SECONDS = 60
PATH = "/m.safetensors"
ALLOWED = (wl.TransportError, wl.ChangedError, wl.TruncatedError, wl.FormatError, wl.NotFoundError, wl.AccessError)


@dataclass(frozen=True)
class Version:
    """A model and its file."""

    tensors: dict[str, npt.NDArray[Any]]
    data: bytes


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Version]:
    """Models of 0.2 to 2 MiB; pairs have the same size."""
    folder, found = tmp_path_factory.mktemp("versions"), []
    for i, nbytes in enumerate((200_000, 500_000, 1_000_000, 2_000_000)):
        first = model(nbytes, i)
        second = {name: (a[::-1].copy() if a.ndim else a) for name, a in first.items()}
        found += [Version(t, model_bytes(t, folder)) for t in (first, second)]
    return found


def random_fault(rng: random.Random, now: Version, later: Version) -> tuple[Fault, bool]:
    """A fault, and whether it may hand over bytes that only a checksum can tell from the right ones."""
    byte = rng.choice([0, 1, rng.randrange(1, 5000), rng.randrange(1, 200_000)])
    plain: list[Callable[[], Fault]] = [
        lambda: faults.reset_at(byte),
        lambda: faults.close_at(byte),
        lambda: faults.stall_at(byte),
        lambda: faults.chunked_cut_at(byte),
        lambda: faults.too_long(byte + 1),
        lambda: faults.too_long_silently(byte + 1),
        lambda: faults.too_short(byte + 1),
        lambda: faults.less_than_asked(byte + 1),
        lambda: faults.whole_file(now.data),
        lambda: faults.wrong_content_range(begin=rng.choice([-1, 1, 64])),
        lambda: faults.wrong_content_range(end=rng.choice([-1, 1, 64])),
        lambda: faults.wrong_content_range(total=rng.choice([-1, 1, 1000])),
        lambda: faults.content_range(rng.choice([None, "", "bytes */*", "bytes 0-0/1", "\x7f"])),
        lambda: faults.status(rng.choice([400, 404, 408, 425, 429, 500, 502, 503, 503, 504])),
        lambda: faults.retry_after_seconds(rng.choice([429, 503]), 0),
        lambda: faults.changed(Resource(later.data, etag='"later"')),
        lambda: faults.redirect(rng.choice([PATH, "/elsewhere", "http://127.0.0.1:1/", "//", "ftp://x/"])),
        lambda: faults.huge_headers(rng.choice([5_000, 500_000])),
        lambda: rng.choice([faults.silence, faults.hang_up, faults.reset, faults.garbage_headers]),
        lambda: rng.choice([faults.chunked, faults.no_length, faults.close_after, faults.gzipped]),
    ]
    if rng.random() < 0.05:
        return faults.flipped(byte), True
    return rng.choice(plain)(), False


def random_schedule(rng: random.Random, now: Version, later: Version) -> tuple[Fault, bool]:
    """Up to five faults among right answers, and then right answers, more often than not."""
    chosen, needs_checksums = [], False
    for _ in range(rng.randrange(1, 6)):
        fault, silent = random_fault(rng, now, later)
        needs_checksums |= silent
        chosen += [faults.honest] * rng.choice([0, 0, 1, 3]) + [fault]
    last, silent = random_fault(rng, now, later) if rng.random() < 0.15 else (faults.honest, False)
    return faults.in_turn(*chosen, then=last), needs_checksums | silent


def run_case(seed: int, versions: list[Version]) -> str:
    """What came of it: ``right``, or the error's name; AssertionError for anything that must not be."""
    rng = random.Random(seed)
    pair = rng.randrange(0, len(versions), 2)
    now, later = versions[pair], versions[pair + 1]
    schedule, needs_checksums = random_schedule(rng, now, later)
    options = {
        "part_bytes": rng.choice([16, 64, 256]) << 10, "connections": rng.randrange(1, 5), "attempts": 3,
        "timeout": 0.25, "backoff": 0.001, "verify": needs_checksums or rng.random() < 0.5,
    }  # fmt: skip
    with FaultServer({PATH: Resource(now.data, etag='"now"')}, schedule) as server:
        try:
            loaded = wl.load(server.url(PATH), **options)
        except ALLOWED as error:
            assert error.url is not None and error.url.startswith("http://127.0.0.1:"), error
            return type(error).__name__
    if all(np.array_equal(loaded[n], a) for n, a in now.tensors.items()):
        assert_same(loaded, now.tensors)
    else:
        assert_same(loaded, later.tensors)
    return "right"


def test_a_thousand_random_schedules(versions: list[Version]) -> None:
    faulthandler.enable()
    outcomes: dict[str, int] = {}
    pool = ThreadPoolExecutor(AT_ONCE)
    running = [(seed, pool.submit(run_case, seed, versions)) for seed in range(CASES)]
    for seed, case in running:
        try:
            outcome = case.result(WATCHDOG_SECONDS)
        except WatchdogError:
            faulthandler.dump_traceback()
            pool.shutdown(wait=False, cancel_futures=True)
            pytest.fail(f"seed {seed} hangs")
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    pool.shutdown()
    assert outcomes["right"] > CASES // 5, f"the schedules leave no way through: {outcomes}"
    assert len(outcomes) >= 3, f"the schedules are no trial: {outcomes}"
