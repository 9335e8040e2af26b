"""Pipelines of kernels: types, lengths, alignment, threads, refusals, and the choice of the instruction set."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.unit.kernel_support import CASTABLE, assert_same_bits, cast, dtype_of, run

from weightlift import _core

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")


# --- the table ------------------------------------------------------------------------------------


def test_dtype_table_agrees_with_numpy_and_ml_dtypes() -> None:
    table = _core.dtype_table()
    assert len(table) == 23
    for name, bits, word in table:
        if bits < 8:
            assert hasattr(ml_dtypes, name)
            continue
        dtype = dtype_of(name)
        assert dtype.itemsize * 8 == bits
        assert word == (dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize)


def test_can_cast_says_what_run_pipeline_does() -> None:
    for (source, bits, _), (target, target_bits, _) in itertools.product(_core.dtype_table(), repeat=2):
        src = np.zeros(16, np.uint8)
        out = np.empty(16 * target_bits // bits if bits >= 8 else 16, np.uint8)
        steps = [("cast", source, target, False)]
        if _core.can_cast(source, target):
            _core.run_pipeline(steps, src, out)
        else:
            with pytest.raises(ValueError, match=f"no cast from {source} to {target}"):
                _core.run_pipeline(steps, src, out)
    assert _core.can_cast("float64", "float8_e5m2")
    assert not _core.can_cast("int4", "int8")
    assert not _core.can_cast("float32", "complex64")


# --- instruction sets, lengths and alignment ------------------------------------------------------


@pytest.mark.parametrize("source", CASTABLE)
def test_every_isa_gives_the_bits_of_the_portable_one(source: str) -> None:
    dtype = dtype_of(source)
    raw = np.random.default_rng(4).integers(0, 256, dtype.itemsize * 1000, np.uint8)
    values = raw.view(dtype)
    before = _core.isa()
    try:
        for target, saturate in itertools.product(CASTABLE, (False, True)):
            _core.set_isa("portable")
            expected = cast(values, target, saturate)
            for name in _core.available_isas()[1:]:
                _core.set_isa(name)
                assert_same_bits(cast(values, target, saturate), expected, values)
    finally:
        _core.set_isa(before)


@pytest.mark.parametrize(
    "steps",
    [
        [("cast", "float32", "float16", False)],
        [("cast", "float32", "bfloat16", True)],
        [("cast", "float16", "float32", False)],
        [("cast", "bfloat16", "float32", False)],
        [("cast", "float64", "bfloat16", False)],
        [("cast", "float32", "float8_e4m3fn", False)],
        [("cast", "float8_e5m2", "float32", False)],
        [("byteswap", 2, 2)],
        [("byteswap", 4, 8)],
        [("byteswap", 8, 8)],
        [("byteswap", 16, 16)],
        [("affine_decode", "uint8", "float32", 0.1, -3.0)],
        [("affine_decode", "uint16", "int32", 0.1, -3.0)],
        [("affine_encode", "uint8", 0.01, -1.0, 1.55)],
        [("affine_encode", "uint16", 0.0001, -1.0, 5.5535)],
        [("byteswap", 4, 4), ("cast", "float32", "float16", False), ("byteswap", 2, 2)],
    ],
    ids=str,
)
def test_short_lengths_and_unaligned_memory(isa: str, steps: list[tuple[Any, ...]]) -> None:
    item = {"byteswap": lambda s: s[2], "cast": lambda s: dtype_of(s[1]).itemsize}
    first, last = steps[0], steps[-1]
    in_item = item.get(first[0], lambda s: 4 if s[0] == "affine_encode" else dtype_of(s[1]).itemsize)(first)
    out_item = {
        "byteswap": lambda s: s[2],
        "cast": lambda s: dtype_of(s[2]).itemsize,
        "affine_decode": lambda s: 4,
        "affine_encode": lambda s: dtype_of(s[1]).itemsize,
    }[last[0]](last)
    n = 3000
    values = np.random.default_rng(5).standard_normal(n * in_item).astype(np.float32).view(np.uint8)[: n * in_item]
    whole = np.empty(n * out_item, np.uint8)
    _core.run_pipeline(steps, values, whole)
    for count in [*range(70), 127, 128, 129, 1000, 2049]:
        for misaligned in (0, 1, 3):
            src = np.empty(count * in_item + misaligned, np.uint8)[misaligned:]
            src[:] = values[: count * in_item]
            out = np.full(count * out_item + misaligned + 64, 0xA5, np.uint8)
            _core.run_pipeline(steps, src, out[misaligned : misaligned + count * out_item])
            assert (out[misaligned : misaligned + count * out_item] == whole[: count * out_item]).all()
            assert (out[:misaligned] == 0xA5).all()
            assert (out[misaligned + count * out_item :] == 0xA5).all()


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_threads_do_not_change_the_result(threads: int) -> None:
    values = np.random.default_rng(6).standard_normal((1 << 21) + 7).astype(np.float32)
    steps = [("cast", "float32", "float16", False), ("cast", "float16", "float64", False)]
    np.testing.assert_array_equal(run(steps, values, np.float64, threads), values.astype(np.float16).astype(np.float64))
    assert _core.min_max(values, threads) == (values.min(), values.max())


@pytest.mark.parametrize("dtype", ["u2", "u4", "u8", "c8", "c16"])
def test_byteswap(isa: str, dtype: str) -> None:
    values = np.random.default_rng(7).integers(0, 256, 16 * 999, np.uint8).view(dtype)
    word = values.itemsize // (2 if values.dtype.kind == "c" else 1)
    swapped = run([("byteswap", word, values.itemsize)], values, dtype)
    assert swapped.tobytes() == values.byteswap().tobytes()


def test_byteswap_of_16_byte_words(isa: str) -> None:
    values = np.arange(160, dtype=np.uint8)
    swapped = run([("byteswap", 16, 16)], values, np.uint8)
    assert swapped.tolist() == values.reshape(10, 16)[:, ::-1].ravel().tolist()


# --- refusals and the choice of the instruction set -----------------------------------------------


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([("inflate",)], "unknown step"),
        ([()], "a step is a tuple"),
        (["cast"], "a step is a tuple"),
        ("cast", "sequence of tuples"),
        ([("cast", "float32", "float17", False)], "unknown element type"),
        ([("cast", "float32", "complex64", False)], "no cast"),
        ([("cast", "int4", "int8", False)], "no cast"),
        ([("cast", "float32", "int8")], "takes 3 fields"),
        ([("cast", 3, "int8", False)], "by its name"),
        ([("byteswap", 3, 3)], "not of 2, 4, 8 or 16"),
        ([("byteswap", 4, 6)], "4-byte words"),
        ([("byteswap", 4, 0)], "4-byte words"),
        ([("byteswap", -4, 4)], "size in bytes"),
        ([("affine_decode", "int8", "float32", 1.0, 0.0)], "uint8 or uint16"),
        ([("affine_decode", "uint8", "float64", 1.0, 0.0)], "float32 or int32"),
        ([("affine_encode", "uint8", 0.0, 0.0, 1.0)], "scale > 0"),
        ([("affine_encode", "uint8", 1.0, 2.0, 1.0)], "min <= max"),
        ([("affine_encode", "uint8", float("nan"), 0.0, 1.0)], "finite"),
        ([("affine_encode", "uint8", 1.0, 0.0, float("inf"))], "finite"),
        ([("affine_encode", "uint8", "x", 0.0, 1.0)], "a number"),
        ([("cast", "float32", "float64", False), ("cast", "float32", "float64", False)], "do not fit together"),
    ],
)
def test_refuses_steps(steps: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.run_pipeline(steps, np.zeros(48, np.uint8), np.zeros(48, np.uint8))


def test_refuses_sizes_that_disagree() -> None:
    steps = [("cast", "float32", "float16", False)]
    with pytest.raises(ValueError, match="whole number"):
        _core.run_pipeline(steps, np.zeros(7, np.uint8), np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match="dst has 6 bytes"):
        _core.run_pipeline(steps, np.zeros(8, np.uint8), np.zeros(6, np.uint8))
    with pytest.raises(ValueError, match="dst has 5 bytes"):
        _core.run_pipeline(steps, np.zeros(8, np.uint8), np.zeros(5, np.uint8))
    whole = np.zeros(64, np.uint8)
    with pytest.raises(ValueError, match="overlap"):
        _core.run_pipeline(steps, whole[:32], whole[16:32])
    locked = np.zeros(16, np.uint8)
    locked.flags.writeable = False
    with pytest.raises((BufferError, ValueError)):
        _core.run_pipeline(steps, np.zeros(32, np.uint8), locked)
    with pytest.raises(ValueError, match="threads"):
        _core.run_pipeline(steps, np.zeros(8, np.uint8), np.zeros(4, np.uint8), -1)


def test_no_steps_copies() -> None:
    out = np.zeros(5, np.uint8)
    _core.run_pipeline([], np.arange(5, dtype=np.uint8), out)
    assert out.tolist() == [0, 1, 2, 3, 4]


def test_unknown_isa_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r'"mmx" is not available here; available: portable'):
        _core.set_isa("mmx")


@pytest.mark.parametrize("name", [*_core.available_isas(), "mmx"])
def test_environment_chooses_the_isa(name: str) -> None:
    program = "from weightlift import _core\ntry:\n  print(_core.isa())\nexcept ValueError as e:\n  print(e)\n"
    program += "_core.set_isa('portable')\nprint(_core.crc32c(b'123456789'))"
    environment = {**os.environ, "WEIGHTLIFT_FORCE_ISA": name}
    lines = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    if name == "mmx":
        assert lines[0].startswith('WEIGHTLIFT_FORCE_ISA: instruction set "mmx" is not available here; available: ')
    else:
        assert lines[0] == name
    assert lines[1] == str(0xE3069283)
