"""Buffers, their pool, mappings, and arrays made over them."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from weightlift import _core

MIB = 1 << 20


def make(base, offsets, dtypes, shapes, index=None, **options):
    count = len(shapes)
    return _core.make_arrays(
        base,
        np.asarray(offsets, np.uint64),
        [np.dtype(d) for d in dtypes],
        np.asarray(index if index is not None else [0] * count, np.uint32),
        shapes,
        **options,
    )


def filled(nbytes: int) -> _core.Buffer:
    buffer = _core.Buffer(nbytes)
    np.frombuffer(buffer, np.uint8)[:] = np.arange(nbytes, dtype=np.uint64) * 7 % 251
    return buffer


# ---- buffers ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("nbytes", [1, 4096, 2 * MIB - 1, 2 * MIB, 5 * MIB + 3])
def test_buffer_is_zeroed_aligned_and_writable(nbytes: int) -> None:
    buffer = _core.Buffer(nbytes)
    array = np.frombuffer(buffer, np.uint8)
    assert len(buffer) == nbytes == array.nbytes
    assert array.ctypes.data % (2 * MIB if nbytes >= 2 * MIB else 4096) == 0
    assert array.flags.writeable
    assert not array.any()
    array[-1] = 9
    assert memoryview(buffer)[nbytes - 1] == 9


def test_buffer_of_no_bytes() -> None:
    buffer = _core.Buffer(0)
    assert len(buffer) == 0
    assert bytes(buffer) == b""
    assert np.asarray(buffer).size == 0


@pytest.mark.parametrize("nbytes", [1 << 50, 1 << 62, (1 << 64) - 1])
def test_a_huge_buffer_is_a_memory_error_that_says_how_much(nbytes: int) -> None:
    with pytest.raises(MemoryError, match=str(nbytes)):
        _core.Buffer(nbytes)


@pytest.mark.parametrize("nbytes", [-1, 1 << 64, 1.5, "1"])
def test_a_size_that_is_none(nbytes: object) -> None:
    with pytest.raises(TypeError):
        _core.Buffer(nbytes)  # type: ignore[arg-type]


def test_memory_lives_while_a_view_does() -> None:
    pool = _core.BufferPool(64 * MIB)
    buffer = _core.Buffer(4 * MIB, pool)
    view = np.frombuffer(buffer, np.uint8)[5:6]
    del buffer
    gc.collect()
    assert pool.held_bytes == 0
    del view
    gc.collect()
    assert pool.held_bytes == 4 * MIB
    pool.clear()
    assert pool.held_bytes == 0


def test_the_pool_gives_the_same_memory_again() -> None:
    pool = _core.BufferPool(64 * MIB)
    first = np.frombuffer(_core.Buffer(4 * MIB, pool), np.uint8)
    first[:] = 7
    address = first.ctypes.data
    del first
    again = np.frombuffer(_core.Buffer(4 * MIB - 100, pool), np.uint8)
    assert again.ctypes.data == address
    assert again[0] == 7  # not zeroed: the caller fills it


def test_the_pool_is_bounded() -> None:
    pool = _core.BufferPool(5 * MIB)
    buffers = [_core.Buffer(3 * MIB, pool) for _ in range(3)]
    del buffers
    assert pool.held_bytes == 3 * MIB


def test_a_forked_child_uses_pool_and_threads() -> None:
    pool = _core.BufferPool(64 * MIB)
    _core.Buffer(4 * MIB, pool)
    source = np.arange(MIB, dtype=np.float32)
    cast = [("cast", "float32", "float16", False)]
    _core.run_pipeline(cast, source, np.empty(source.shape, np.float16), threads=2)  # starts the threads
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            _core.Buffer(MIB, pool)
            time.sleep(0.0001)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(3):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    out = np.empty(source.shape, np.float16)
                    _core.run_pipeline(cast, source, out, threads=2)
                    _core.Buffer(4 * MIB, pool)
                    code = 0 if np.array_equal(out, source.astype(np.float16)) else 2
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        thread.join()


# ---- arrays over a block -----------------------------------------------------------------------------
def test_views_of_every_kind_of_dtype() -> None:
    buffer = filled(4096)
    raw = bytes(buffer)
    dtypes = [
        "?", "i1", "<i2", ">i2", "<u4", "<i8", "<f2", "<f4", ">f8", "<c8", "<c16", "<U3", "S5", "V7",
        "<M8[ns]", "<m8[s]", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4,
        [("a", "<f4"), ("b", "i1", (3,))], ("<f4", (2,)),
    ]  # fmt: skip
    offsets = [8 * i for i in range(len(dtypes))]
    arrays = make(buffer, offsets, dtypes, [(2, 3)] * len(dtypes), range(len(dtypes)))
    for dtype, offset, array in zip(dtypes, offsets, arrays, strict=True):
        expected = np.ndarray((2, 3), np.dtype(dtype), raw, offset)
        assert array.dtype == expected.dtype
        assert array.shape == expected.shape
        assert array.tobytes() == expected.tobytes()
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert not array.flags.owndata
        assert array.flags.aligned == (array.ctypes.data % array.dtype.alignment == 0)


def test_shapes() -> None:
    buffer = filled(256)
    shapes = [(), (0,), (3, 0, 5), (1,), (64,), (2, 2, 2, 2, 2, 2), (1,) * 32]
    arrays = make(buffer, [0] * len(shapes), ["<f4"], shapes)
    assert [a.shape for a in arrays] == shapes
    assert arrays[0] == np.frombuffer(buffer, "<f4")[0]


def test_fortran_order() -> None:
    buffer = filled(64)
    plain, fortran = make(buffer, [0, 0], ["i1"], [(3, 4), (3, 4)], fortran=[1])
    flat = np.frombuffer(buffer, "i1")[:12]
    assert np.array_equal(plain, flat.reshape(3, 4))
    assert np.array_equal(fortran, flat.reshape(3, 4, order="F"))
    assert fortran.flags.f_contiguous
    assert not fortran.flags.c_contiguous


def test_the_base_is_the_block_itself() -> None:
    buffer = filled(64)
    (array,) = make(buffer, [8], ["<f4"], [(2,)])
    assert array.base is buffer
    array[...] = 1
    assert bytes(buffer)[8:16] == np.ones(2, "<f4").tobytes()
    reference = weakref.ref(array)
    del array
    gc.collect()
    assert reference() is None


def test_an_array_as_base() -> None:
    base = np.zeros(64, np.uint8)
    (array,) = make(base, [4], ["<i4"], [(3,)])
    array[:] = 5
    assert base[4] == 5
    base.flags.writeable = False
    assert not make(base, [4], ["<i4"], [(3,)])[0].flags.writeable
    with pytest.raises((BufferError, ValueError)):
        make(np.zeros((8, 8), np.uint8)[:, ::2], [0], ["i1"], [(1,)])


def test_read_only_views() -> None:
    (array,) = make(filled(64), [0], ["<f4"], [(4,)], writeable=False)
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_a_mapping_is_read_only_and_outlives_its_name(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(range(200)))
    mapped = _core.FileReader(str(path)).map()
    path.unlink()
    assert len(mapped) == 200
    (array,) = make(mapped, [10], ["u1"], [(5,)])
    del mapped
    gc.collect()
    assert array.tolist() == [10, 11, 12, 13, 14]
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    with pytest.raises((BufferError, TypeError)):
        memoryview(array.base)[0] = 1


@pytest.mark.parametrize(
    ("offset", "dtype", "shape", "why"),
    [
        (61, "<f4", (), "outside"),
        (65, "u1", (0,), "outside"),
        (0, "<f4", (17,), "outside"),
        ((1 << 64) - 2, "u1", (4,), "outside"),
        (0, "u1", (1 << 62, 1 << 62), "too large"),
        (0, "<f8", (1 << 61,), "too large"),
        (0, "u1", (-1,), "negative"),
        (0, "u1", (1,) * 33, "dimensions"),
        (0, "O", (1,), "Python objects"),
        (0, [("a", "O")], (1,), "Python objects"),
        (0, "U0", (1,), "no bytes"),
    ],
)
def test_what_does_not_fit_is_refused(offset: int, dtype: object, shape: tuple[int, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make(_core.Buffer(64), [offset], [dtype], [shape])


def test_no_bytes_at_the_very_end() -> None:
    (array,) = make(_core.Buffer(64), [64], ["<f4"], [(0, 1 << 60)])
    assert array.shape == (0, 1 << 60)
    (array,) = make(_core.Buffer(0), [0], ["<f4"], [(0,)])
    assert array.size == 0


def test_malformed_columns() -> None:
    buffer = _core.Buffer(64)
    with pytest.raises(ValueError, match="length"):
        make(buffer, [0, 0], ["u1"], [(1,)])
    with pytest.raises(ValueError, match="length"):
        make(buffer, [0], ["u1"], [(1,)], index=[0, 0])
    with pytest.raises(ValueError, match="dtype"):
        make(buffer, [0], ["u1"], [(1,)], index=[1])
    with pytest.raises(ValueError, match="tuple"):
        make(buffer, [0], ["u1"], [[1]])
    with pytest.raises(ValueError, match="Fortran"):
        make(buffer, [0], ["u1"], [(1,)], fortran=[1])
    with pytest.raises(TypeError):
        make(buffer, [0], ["u1"], [("x",)])
    with pytest.raises((TypeError, BufferError)):
        make(object(), [0], ["u1"], [(1,)])


def test_a_failure_half_way_leaks_nothing() -> None:
    pool = _core.BufferPool(64 * MIB)
    buffer = _core.Buffer(4 * MIB, pool)
    with pytest.raises(ValueError, match="array 1000"):
        make(buffer, [0] * 1000 + [8 * MIB], ["<f4"], [(2, 2)] * 1001)
    del buffer
    gc.collect()
    assert pool.held_bytes == 4 * MIB


# ---- what arrays are ---------------------------------------------------------------------------------
def test_arrays_are_described_in_one_pass() -> None:
    base = np.zeros((4, 6), np.float32)
    arrays = [base, base.T, base[::2, 1], np.zeros((), ">i2"), np.zeros((3, 0), ml_dtypes.bfloat16), base[:1]]
    dtypes, number, nbytes, shapes = _core.describe_arrays(arrays)
    assert [dtypes[k] for k in number.tolist()] == [a.dtype for a in arrays]
    assert dtypes[number[3]].byteorder == ">"
    assert nbytes.tolist() == [a.nbytes for a in arrays]
    assert shapes == [a.shape for a in arrays]
    assert [len(column) for column in _core.describe_arrays([])] == [0, 0, 0, 0]


def test_only_arrays_are_described() -> None:
    with pytest.raises(TypeError, match="item 1 is not an array"):
        _core.describe_arrays([np.zeros(1), [1.0]])
