"""A damaged checkpoint of TensorFlow's loads as it was, or is an error: cut at every byte, flipped at every bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from tests.unit.tensorbundle_support import Tensor, bundle, strings

import weightlift as wl
from weightlift.formats import by_name
from weightlift.formats._tensorbundle_slices import slice_key
from weightlift.testing import MemoryFiles, read_tensors

FORMAT = by_name("tensorbundle-keys")
SLICES = [[(0, None), (0, 2)], [(0, None), (2, 1)]]


def files() -> dict[str, bytes]:
    """Plain, sliced and strings, in two data files without a gap."""
    whole = np.arange(6, dtype="<i2").reshape(2, 3)
    tensors = {
        b"a": Tensor(1, [2], np.array([1, 2], "<f4").tobytes()),
        b"p": Tensor(5, [2, 3], slices=SLICES),
        b"s": strings([2], [b"", b"text"]),
        slice_key(b"p", [(0, -1), (0, 2)]): Tensor(5, [2, 2], whole[:, :2].tobytes(), shard=1),
        slice_key(b"p", [(0, -1), (2, 1)]): Tensor(5, [2, 1], whole[:, 2:].tobytes(), shard=1),
    }
    return bundle(tensors, header=b"\x08\x02\x1a\x02\x08\x01", shards=2)


GOOD = files()


def values(contents: Mapping[str, bytes]) -> dict[str, Any]:
    memory = MemoryFiles(contents)
    tensors = read_tensors(FORMAT.read(memory, "x.index"), memory)
    return {name: (array.dtype, array.shape, array.tolist()) for name, array in tensors.items()}


EXPECTED = values(GOOD)


def damages() -> Iterator[tuple[str, dict[str, bytes]]]:
    for name, data in GOOD.items():
        for length in range(len(data)):
            yield f"{name} cut to {length}", {**GOOD, name: data[:length]}
        for at in range(len(data)):
            for bit in range(8):
                flipped = bytearray(data)
                flipped[at] ^= 1 << bit
                yield f"{name} bit {bit} of byte {at}", {**GOOD, name: bytes(flipped)}
        yield f"no {name}", {other: data for other, data in GOOD.items() if other != name}


def test_what_was_damaged_is_noticed_or_harmless() -> None:
    assert EXPECTED["p"][2] == [[0, 1, 2], [3, 4, 5]]
    assert EXPECTED["s"][2] == [b"", b"text"]
    noticed = 0
    for what, contents in damages():
        try:
            found = values(contents)
        except wl.WeightliftError:
            noticed += 1
            continue
        assert found == EXPECTED, what
        assert "index bit" in what, "only the padding of the footer may change"
    assert noticed > 2000


@pytest.mark.parametrize("part", ["x.data-00000-of-00002", "x.data-00001-of-00002"])
def test_a_missing_data_file_is_named(part: str) -> None:
    rest = {name: data for name, data in GOOD.items() if name != part}
    with pytest.raises(wl.NotFoundError, match=f"{part}.*not there"):
        values(rest)
