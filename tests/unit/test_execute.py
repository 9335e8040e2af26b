"""Plan execution through the bindings, against simple models in NumPy."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import time
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from weightlift import _core
from weightlift.errors import ChangedError, ChecksumError, TruncatedError, UnsupportedFeatureError

NONE = 0xFFFFFFFF
TASK_BYTES = (0, 1, 5, 100, 5000)


def u32(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)


def u64(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def random_bytes(n: int, seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, n, dtype=np.uint8).tobytes()


def read(readers: list[Any], buffers: list[Any], ops: list[tuple[int, ...]], **options: Any) -> np.ndarray:
    """``ops``: (source, tensor, offset, nbytes, buffer, dest, pipeline)."""
    columns = list(zip(*ops, strict=True)) or [()] * 7
    types = (np.uint32, np.uint32, np.uint64, np.uint64, np.uint32, np.uint64, np.uint32)
    arrays = [np.array(c, t) for c, t in zip(columns, types, strict=True)]
    return _core.execute_read(readers, buffers, *arrays, options.pop("pipelines", []), **options)


def write(
    path: Path, size: int, sources: list[Any], ops: list[tuple[int, ...]], tensors: int, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """``ops``: (source, offset, nbytes, start, pipeline, tensor), all to one file."""
    columns = list(zip(*ops, strict=True)) or [()] * 6
    types = (np.uint32, np.uint64, np.uint64, np.uint64, np.uint32, np.uint32)
    arrays = [np.array(c, t) for c, t in zip(columns, types, strict=True)]
    writer = _core.FileWriter(str(path), size, options.pop("mode", "auto"), False)
    readers = options.pop("readers", [])
    pipelines = options.pop("pipelines", [])
    zeros = np.zeros(len(ops), np.uint32)
    result = _core.execute_write([writer], readers, sources, zeros, *arrays, pipelines, tensors, **options)
    writer.commit()
    return result


# --- reading --------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["auto", "buffered", "direct"])
@pytest.mark.parametrize("seed", range(12))
def test_random_reads_are_like_slices(tmp_path: Path, mode: str, seed: int) -> None:
    rng = random.Random(seed)
    data = random_bytes(rng.choice([1, 5000, 300_000]), seed)
    path = tmp_path / "data"
    path.write_bytes(data)
    ops, dest = [], 0
    for i in range(rng.randint(1, 40)):
        offset = rng.randint(0, len(data))
        nbytes = rng.choice([0, rng.randint(0, len(data) - offset), min(len(data) - offset, 64)])
        dest += rng.choice([0, 0, 7])
        ops.append((0, i, offset, nbytes, 0, dest, NONE))
        dest += nbytes
    out = _core.Buffer(dest + 1)
    kind = np.array([rng.choice([0, 1, 2]) for _ in ops], np.uint8)
    sums = read(
        [_core.FileReader(str(path), mode)], [out], ops, check_kind=kind, task_bytes=rng.choice(TASK_BYTES),
        threads=rng.choice([0, 1, 3]),
    )  # fmt: skip
    for (_, i, offset, nbytes, _, at, _), found in zip(ops, sums, strict=True):
        stored = data[offset : offset + nbytes]
        assert bytes(memoryview(out)[at : at + nbytes]) == stored
        assert found == (0, _core.crc32c(stored), zlib.crc32(stored))[kind[i]]


@pytest.mark.parametrize("task_bytes", TASK_BYTES)
def test_fused_reads_are_like_astype(task_bytes: int) -> None:
    rng = np.random.default_rng(4)
    big = rng.integers(-1000, 1000, 3001).astype(">i4")
    half = rng.standard_normal(2003).astype(np.float16)
    reader = _core.MemoryReader(b"abc" + big.tobytes() + half.tobytes(), "memory")
    swapped = np.zeros(3001, np.int32)
    single = np.zeros(2003, np.float32)
    read(
        [reader], [swapped, single],
        [(0, 0, 3, big.nbytes, 0, 0, 0), (0, 1, 3 + big.nbytes, half.nbytes, 1, 0, 1)],
        pipelines=[[("byteswap", 4, 4)], [("cast", "float16", "float32", False)]], task_bytes=task_bytes,
    )  # fmt: skip
    assert np.array_equal(swapped, big)
    assert np.array_equal(single, half.astype(np.float32))


def test_destinations_of_every_kind() -> None:
    data = random_bytes(480, 1)
    reader = _core.MemoryReader(data, "memory")
    outs: list[Any] = [
        np.zeros(60, np.float64), np.zeros((3, 4, 5), np.float64, order="F"), np.zeros(240, ml_dtypes.bfloat16),
        np.zeros(60, "datetime64[s]"), np.zeros(40, [("a", "<i4"), ("b", "<f8")]), bytearray(480), _core.Buffer(480),
    ]  # fmt: skip
    read([reader], outs, [(0, NONE, 0, 480, i, 0, NONE) for i in range(len(outs))])
    for out in outs:
        assert (out.tobytes("A") if isinstance(out, np.ndarray) else bytes(memoryview(out))) == data


def test_destinations_that_cannot_be_are_refused() -> None:
    reader = _core.MemoryReader(bytes(80), "memory")
    frozen = np.zeros(10)
    frozen.flags.writeable = False
    for out in (frozen, np.zeros(20)[::2]):
        with pytest.raises(ValueError, match="destination array"):
            read([reader], [out], [(0, NONE, 0, 80, 0, 0, NONE)])
    with pytest.raises(UnsupportedFeatureError, match="Python objects"):
        read([reader], [np.zeros(10, object)], [(0, NONE, 0, 80, 0, 0, NONE)])
    with pytest.raises((BufferError, TypeError, ValueError)):
        read([reader], [b"x" * 80], [(0, NONE, 0, 80, 0, 0, NONE)])


def test_columns_must_match_and_plans_must_fit() -> None:
    reader = _core.MemoryReader(bytes(80), "memory")
    with pytest.raises(ValueError, match="column nbytes"):
        _core.execute_read([reader], [], u32(0), u32(0), u64(0), u64(1, 2), u32(0), u64(0), u32(0), [])
    with pytest.raises(ValueError, match="do not fit buffer"):
        read([reader], [np.zeros(9)], [(0, NONE, 0, 80, 0, 0, NONE)])
    with pytest.raises(TruncatedError) as caught:
        read([reader], [np.zeros(11)], [(0, 1, 0, 81, 0, 0, NONE)], names=["a", "b"])
    assert caught.value.tensor == "b"
    with pytest.raises(ValueError, match="checksum kind 3"):
        read([reader], [], [], check_kind=np.array([3], np.uint8))


def test_flipped_byte_names_tensor_file_and_range(tmp_path: Path) -> None:
    data = random_bytes(30_000, 2)
    path = tmp_path / "damaged"
    expected = [_core.crc32c(data[i : i + 1000]) for i in range(0, 30_000, 1000)]
    path.write_bytes(data[:12_345] + bytes([data[12_345] ^ 16]) + data[12_346:20_000] + bytes(10_000))
    ops = [(0, i, 1000 * i, 1000, NONE, 0, NONE) for i in range(30)]
    with pytest.raises(ChecksumError, match=f"expected 0x{expected[12]:08x}") as caught:
        read(
            [_core.FileReader(str(path))], [], ops, check_kind=np.ones(30, np.uint8), check_expected=u32(*expected),
            check_verify=np.ones(30, np.uint8), names=[f"layer{i}" for i in range(30)], task_bytes=700,
        )  # fmt: skip
    error = caught.value
    assert (error.tensor, error.path, error.offset, error.end) == ("layer12", str(path), 12_000, 13_000)


def test_file_that_shrinks_after_opening_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "shrinks"
    path.write_bytes(bytes(100_000))
    reader = _core.FileReader(str(path))
    with path.open("r+b") as file:
        file.truncate(50_000)
    with pytest.raises(ChangedError):
        read([reader], [np.zeros(100_000, np.uint8)], [(0, 0, 0, 100_000, 0, 0, NONE)])


def test_a_hundred_thousand_small_tensors(tmp_path: Path) -> None:
    n, each = 100_000, 40
    data = random_bytes(n * each, 3)
    path = tmp_path / "many"
    arrays = [np.frombuffer(data, np.uint8, each, each * i) for i in range(n)]
    index, at = np.arange(n, dtype=np.uint32), np.arange(n, dtype=np.uint64) * np.uint64(each)
    size, zero, none = np.full(n, each, np.uint64), np.zeros(n, np.uint32), np.full(n, NONE, np.uint32)
    writer = _core.FileWriter(str(path), n * each, "auto", False)
    sums, _ = _core.execute_write([writer], [], arrays, zero, index, at, size, zero, none, index, [], n)
    writer.commit()
    assert path.read_bytes() == data
    out = np.zeros(n * each, np.uint8)
    found = _core.execute_read(
        [_core.FileReader(str(path))], [out], zero, index, at, size, zero, at, none, [],
        check_kind=np.ones(n, np.uint8), check_expected=sums, check_verify=np.ones(n, np.uint8),
    )  # fmt: skip
    assert out.tobytes() == data
    assert np.array_equal(found, sums)


# --- writing --------------------------------------------------------------------------------------
def views(array: np.ndarray) -> list[np.ndarray]:
    """The same memory, looked at in every unusual way."""
    return [
        array, array.T, array[::-1], array[:, ::-1], array[::2, ::3], array[1:, :-1].T, array[:0], array[0, 0],
        array.reshape(-1, 1, 4).transpose(2, 0, 1), np.broadcast_to(array[0], (3, *array[0].shape)),
        np.asfortranarray(array), np.swapaxes(array.reshape(4, -1, array.shape[1]), 0, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["buffered", "direct"])
@pytest.mark.parametrize("dtype", ["u1", "<f2", ">f4", "f8", "c16", "S3", "datetime64[D]", "bfloat16"])
def test_arrays_of_any_strides(tmp_path: Path, mode: str, dtype: str) -> None:
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    memory = np.frombuffer(random_bytes(48 * 56 * kind.itemsize, 9), kind).reshape(48, 56)
    arrays = views(memory)
    for task_bytes in (0, 1000):
        ops, at = [], 0
        for i, array in enumerate(arrays):
            ops.append((i, at, array.nbytes, 0, NONE, i))
            at += array.nbytes
        path = tmp_path / "file"
        sums, crcs = write(path, at, arrays, ops, len(arrays), mode=mode, task_bytes=task_bytes, crc32=True)
        stored = [a.tobytes() for a in arrays]
        assert path.read_bytes() == b"".join(stored)
        assert sums.tolist() == [_core.crc32c(s) for s in stored]
        assert crcs.tolist() == [zlib.crc32(s) for s in stored]


def test_large_transposed_arrays(tmp_path: Path) -> None:
    array = np.frombuffer(random_bytes(3000 * 1100 * 4, 5), np.float32).reshape(1100, 3000)
    for mode in ("buffered", "direct"):
        path = tmp_path / mode
        write(path, array.nbytes, [array.T], [(0, 0, array.nbytes, 0, NONE, 0)], 1, mode=mode)
        assert path.read_bytes() == array.T.tobytes()


@pytest.mark.parametrize("task_bytes", TASK_BYTES)
def test_converted_writes_and_gaps(tmp_path: Path, task_bytes: int) -> None:
    values = np.linspace(-1, 1, 1001, dtype=np.float32)
    other = np.arange(300, dtype=np.int64)
    source = _core.MemoryReader(b"pad" + other.astype(">i8").tobytes(), "memory")
    check = _core.crc32c(other.astype(">i8").tobytes())
    path = tmp_path / "file"
    ops = [
        (0, 5, 1001 * 2, 0, 0, 0), (1, 2050, 2400, 0, 1, 1), (2, 4450, 3, 0, NONE, NONE), (NONE, 4453, 10, 0, NONE, 2),
    ]  # fmt: skip
    sums, _ = write(
        path, 4463, [values[::-1], (0, 3, 2400, 0), b"end"], ops, 3, readers=[source],
        pipelines=[[("cast", "float32", "float16", False)], [("byteswap", 8, 8)]], task_bytes=task_bytes,
        source_kind=np.ones(1, np.uint8), source_expected=u32(check), source_verify=np.ones(1, np.uint8),
    )  # fmt: skip
    half = values[::-1].astype(np.float16).tobytes()
    gap = 2050 - 5 - len(half)
    assert path.read_bytes() == bytes(5) + half + bytes(gap) + other.tobytes() + b"end" + bytes(10)
    assert sums.tolist() == [_core.crc32c(half), _core.crc32c(other.tobytes()), _core.crc32c(bytes(10))]


def test_shards_may_cut_elements(tmp_path: Path) -> None:
    values = np.arange(1000, dtype=np.uint16)
    stored = values.astype(np.uint32).byteswap().tobytes()
    cuts = [0, 1, 1003, 2222, 4000]
    paths = [tmp_path / f"shard{i}" for i in range(4)]
    sizes = np.diff(np.array(cuts, np.uint64))
    writers = [_core.FileWriter(str(p), int(n), "auto", False) for p, n in zip(paths, sizes, strict=True)]
    zero = np.zeros(4, np.uint32)
    sums, _ = _core.execute_write(
        writers, [], [values], np.arange(4, dtype=np.uint32), zero, zero, sizes, u64(*cuts[:-1]), zero, zero,
        [[("cast", "uint16", "uint32", False), ("byteswap", 4, 4)]], 1,
    )  # fmt: skip
    for writer in writers:
        writer.commit()
    assert b"".join(p.read_bytes() for p in paths) == stored
    assert sums[0] == _core.crc32c(stored)


def test_damaged_source_of_a_copy_is_named(tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(random_bytes(5000, 8))
    with pytest.raises(ChecksumError) as caught:
        write(
            tmp_path / "copy", 4000, [(0, 1000, 4000, 0)], [(0, 0, 4000, 0, NONE, 0)], 1,
            readers=[_core.FileReader(str(path))], source_kind=np.ones(1, np.uint8), source_expected=u32(1),
            source_verify=np.ones(1, np.uint8), names=["weight"],
        )  # fmt: skip
    error = caught.value
    assert (error.tensor, error.path, error.offset, error.end) == ("weight", str(path), 1000, 5000)
    assert not (tmp_path / "copy").exists()


def test_python_objects_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFeatureError, match="Python objects"):
        write(tmp_path / "file", 8, [np.array([None])], [(0, 0, 8, 0, NONE, 0)], 1)


# --- progress and interruption ----------------------------------------------------------------------
def test_progress_is_monotone_and_complete(tmp_path: Path) -> None:
    array = np.zeros(64 << 20, np.uint8)
    seen: list[tuple[int, int]] = []
    ops = [(0, 0, array.nbytes, 0, NONE, 0)]
    write(tmp_path / "file", array.nbytes, [array], ops, 1, progress=lambda *p: seen.append(p))
    assert seen == sorted(seen)
    assert seen[-1] == (array.nbytes, array.nbytes)
    seen.clear()
    reader = _core.FileReader(str(tmp_path / "file"))
    read([reader], [array], [(0, 0, 0, array.nbytes, 0, 0, NONE)], progress=lambda *p: seen.append(p))
    assert seen == sorted(seen)
    assert seen[-1] == (array.nbytes, array.nbytes)


def test_progress_may_cancel(tmp_path: Path) -> None:
    class EnoughError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        write(tmp_path / "file", 100, [bytes(100)], [(0, 0, 100, 0, NONE, 0)], 1, progress=stop)
    assert not (tmp_path / "file").exists()
    reader = _core.MemoryReader(bytes(1 << 20), "memory")
    with pytest.raises(EnoughError):
        read([reader], [np.zeros(1 << 20, np.uint8)], [(0, 0, 0, 1 << 20, 0, 0, NONE)], progress=stop)


LONG_READ = """
    import sys, time
    import numpy as np
    from weightlift import _core
    n = 2000
    reader = _core.MemoryReader(bytes(64 << 20), "memory")
    zero, size = np.zeros(n, np.uint32), np.full(n, 64 << 20, np.uint64)
    none = np.full(n, 0xFFFFFFFF, np.uint32)
    print("begin", flush=True)
    try:
        _core.execute_read([reader], [], zero, zero, zero, size, none, zero, none, [], np.ones(1, np.uint8))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(0)
    sys.exit(1)
"""


def test_ctrl_c_interrupts_a_long_plan() -> None:
    """128 GB to hash: only the interrupt ends it in time."""
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(LONG_READ)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begin\n"
    time.sleep(0.3)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == b"interrupted\n"
    taken = time.monotonic() - sent
    assert process.wait() == 0
    assert taken < 10, "the promise is 0.1 s; this leaves room for a busy machine, not for the whole plan"


# --- coalescing -----------------------------------------------------------------------------------
def test_coalesce() -> None:
    assert _core.coalesce(u64(0, 10, 30), u64(10, 10, 5), 100, 0) == [(0, 2, 0, 20), (2, 3, 30, 35)]
    assert _core.coalesce(u64(0, 10, 30), u64(10, 10, 5), 100, 10) == [(0, 3, 0, 35)]
    assert _core.coalesce(u64(0), u64(20), 10, 0) == [(0, 1, 0, 10), (0, 1, 10, 20)]
    with pytest.raises(ValueError, match="not sorted"):
        _core.coalesce(u64(5, 0), u64(1, 1), 10, 0)
    with pytest.raises(ValueError, match="overflows"):
        _core.coalesce(u64(2**64 - 1), u64(2), 10, 0)
