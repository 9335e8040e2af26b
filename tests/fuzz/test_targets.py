"""The fuzzers' targets, without a fuzzer: their seeds load, and a few thousand damaged ones keep the property."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.fuzz.targets import TARGETS, run, seeds


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_load(name: str, tmp_path: Path) -> None:
    found = [run(TARGETS[name], seed, tmp_path) for seed in seeds()[name]]
    assert found[0]
    assert sum(found) >= len(found) // 2


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_seeds_keep_the_property(name: str, tmp_path: Path) -> None:
    rng = random.Random(name)
    for seed in seeds()[name]:
        for _ in range(50):
            data = bytearray(seed)
            for _ in range(rng.randint(1, 3)):
                at = rng.randrange(len(data) + 1)
                match rng.randrange(4):
                    case 0:
                        data[at : at + 1] = bytes([rng.randrange(256)])
                    case 1:
                        data[at : at + 1] = bytes([(data[at] if at < len(data) else 0) ^ 1 << rng.randrange(8)])
                    case 2:
                        del data[at : at + rng.randint(1, 9)]
                    case _:
                        begin = rng.randrange(len(data) + 1)
                        data[at:at] = data[begin : begin + rng.randint(1, 30)]
            run(TARGETS[name], bytes(data), tmp_path)
