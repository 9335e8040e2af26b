"""Writing deflated npz archives: many threads, one stream, bounded memory."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from weightlift._checksum import crc32, crc32c
from weightlift._dtypes import from_numpy
from weightlift._packing import Packing, PackOptions, TensorSpecs
from weightlift.errors import FormatError
from weightlift.formats._npz import NPZ
from weightlift.testing import MemoryFiles, read_tensors

Array = np.ndarray[Any, Any]


def load(data: bytes) -> dict[str, Array]:
    files = MemoryFiles({"x.npz": data})
    return read_tensors(NPZ.read(files, "x.npz"), files)


def packing_of(arrays: dict[str, Array]) -> Packing:
    specs = TensorSpecs(
        list(arrays),
        [from_numpy(a.dtype) for a in arrays.values()],
        [a.shape for a in arrays.values()],
        np.array([a.nbytes for a in arrays.values()], np.uint64),
    )
    return NPZ.pack(specs, "x.npz", PackOptions(compression="deflate"))


def assert_same(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert list(found) == list(expected)
    assert all(np.array_equal(found[name], array) for name, array in expected.items())


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_chunks_deflated_in_parallel_are_one_stream(threads: int) -> None:
    rng = np.random.default_rng(3)
    arrays = {
        "noise": rng.integers(0, 256, 5_000_001, np.uint8),
        "zeros": np.zeros(3 << 20, np.uint8),
        "words": rng.integers(0, 50, 1 << 19).astype("f4"),
        "exact": np.zeros((1 << 20) - 128, np.uint8),
        "empty": np.zeros(0),
        "one": np.ones(1),
    }
    packing = packing_of(arrays)
    parts: list[bytes] = []
    checksums = NPZ.compress(packing, enumerate(arrays.values()), parts.append, threads=threads)
    data = b"".join(parts)
    assert len(data) <= packing.files[0].nbytes
    assert NPZ.seal(packing, checksums) == {}
    with np.load(io.BytesIO(data)) as read:
        assert_same({name: read[name] for name in read}, arrays)
    assert_same(load(data), arrays)
    for i, array in enumerate(arrays.values()):
        assert (checksums.crc32c[i], checksums.crc32[i]) == (crc32c(array.tobytes()), crc32(array.tobytes()))


def test_payload_may_come_in_parts_of_a_reused_buffer() -> None:
    array = np.arange(600_000, dtype=np.uint32)
    arrays = {"a": array, "e": array[:0], "b": array}
    buffer = bytearray(300_000)

    def parts() -> Any:
        data = array.tobytes()
        for row in (0, 2):
            for at in range(0, len(data), len(buffer)):
                piece = data[at : at + len(buffer)]
                buffer[: len(piece)] = piece
                yield row, memoryview(buffer)[: len(piece)]
                buffer[:] = bytes(len(buffer))

    written: list[bytes] = []
    NPZ.compress(packing_of(arrays), parts(), written.append)
    assert_same(load(b"".join(written)), arrays)


@pytest.mark.parametrize("payload", [[], [(0, b"123")], [(0, b"12345")], [(1, b"1234")], [(0, b"1234"), (0, b"5")]])
def test_payload_that_is_not_what_was_promised(payload: list[tuple[int, bytes]]) -> None:
    with pytest.raises(FormatError, match="payload has too"):
        NPZ.compress(packing_of({"a": np.zeros(4, np.uint8)}), payload, lambda data: None)


def test_failing_sink_stops_the_workers() -> None:
    zeros = np.zeros(50 << 20, np.uint8)
    taken: list[int] = []

    def sink(data: bytes) -> None:
        taken.append(len(data))
        if len(taken) == 3:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        NPZ.compress(packing_of({"a": zeros}), [(0, zeros)], sink, threads=2)
    assert len(taken) == 3
