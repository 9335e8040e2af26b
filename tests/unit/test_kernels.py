"""The kernels against NumPy, ml_dtypes, zlib and exact references, on every instruction set of this machine."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weightlift import _core

Array = npt.NDArray[Any]

FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
SMALL_FLOATS = ("float16", "bfloat16", *FLOAT8)
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
NATIVE = ("bool", *INTEGERS, "float32", "float64")
CASTABLE = (*NATIVE, *SMALL_FLOATS)
NO_INFINITY = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")


@pytest.fixture(params=_core.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _core.isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(before)


def dtype_of(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, name))


def words(array: Array) -> Array:
    """The bits of each element."""
    return array.view(f"u{array.dtype.itemsize}")


def run(steps: list[tuple[Any, ...]], source: Array, dtype: Any, threads: int = 1) -> Array:
    out = np.empty(source.shape, dtype)
    _core.run_pipeline(steps, source, out, threads)
    return out


def cast(source: Array, target: str, saturate: bool = False) -> Array:
    return run([("cast", source.dtype.name, target, saturate)], source, dtype_of(target))


def all_codes(name: str) -> Array:
    """Every value of a type of 8 or 16 bits."""
    dtype = dtype_of(name)
    return np.arange(1 << (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}").view(dtype)


def assert_same_bits(got: Array, expected: Array, source: Array) -> None:
    differs = np.flatnonzero(words(got) != words(expected))
    if differs.size:
        shown = [(source[i], hex(words(got)[i]), hex(words(expected)[i])) for i in differs[:5]]
        raise AssertionError(f"{differs.size} of {got.size} differ: (source, got, expected) {shown}")


# --- samples --------------------------------------------------------------------------------------


def float32_sample() -> Array:
    """Every exponent with the mantissas around the rounding boundary of every narrower type, and random bits."""
    mantissas = {0, 1, 2, (1 << 23) - 1, (1 << 23) - 2}
    for kept in (0, 1, 2, 3, 7, 10):
        half = 1 << (22 - kept)
        for head in (0, 1, (1 << kept) - 1, (1 << kept) // 2):
            middle = ((head << (23 - kept)) | half) & 0x7FFFFF
            mantissas |= {max(middle - 1, 0), middle, middle + 1, middle ^ half, (middle - 2 * half) & 0x7FFFFF}
    column = np.array(sorted(mantissas), np.uint32)
    grid = (np.arange(256, dtype=np.uint32)[:, None] << 23) | column
    bits = np.concatenate([grid.ravel(), grid.ravel() | np.uint32(1 << 31)])
    return np.concatenate([bits, np.random.default_rng(1).integers(0, 1 << 32, 200_003, np.uint32)]).view(np.float32)


def float64_sample() -> Array:
    """The float32 sample, its neighbours in float64, the midpoints between float32 neighbours, random bits."""
    exact = float32_sample().astype(np.float64)
    middle = (exact + np.nextafter(float32_sample(), np.float32(np.inf)).astype(np.float64)) / 2
    near = [exact, np.nextafter(exact, np.inf), np.nextafter(exact, -np.inf), middle, np.nextafter(middle, -np.inf)]
    random = np.random.default_rng(2).integers(0, 1 << 64, 100_003, np.uint64).view(np.float64)
    extremes = np.array([5e-324, -5e-324, 1e-300, 2.0**-150, 1.5 * 2.0**-150, 1.7e308, -1.7e308, 2.0**128, -0.0])
    return np.concatenate([*near, random, extremes])


with np.errstate(all="ignore"):
    FLOAT32 = float32_sample()
    FLOAT64 = float64_sample()


def quiet(array: Array) -> Array:
    """Signalling NaNs made quiet: what processors do on conversion, where NumPy's software path does not."""
    bits = words(array).copy()
    bits[np.isnan(array)] |= {4: 1 << 22, 8: 1 << 51}[array.dtype.itemsize]
    return bits.view(array.dtype)


def rounded(values: Array, name: str, saturate: bool = False) -> Array:
    """``values`` (float64) to a small float: one rounding, decided by exact comparison with the midpoints."""
    codes = all_codes(name)
    table = codes.astype(np.float32).astype(np.float64)
    is_positive = np.isfinite(table) & ~np.signbit(table)
    positive = table[is_positive]
    positive_codes = words(codes)[is_positive]
    order = np.argsort(positive)
    positive, positive_codes = positive[order], positive_codes[order]
    # What lies beyond the largest value begins halfway to the value that would come next.
    beyond = 2 * positive[-1] - positive[-2]
    if name == "float8_e8m0fnu":
        beyond = 2 * positive[-1]
    middle = (positive + np.append(positive[1:], beyond)) / 2

    magnitude = np.abs(np.nan_to_num(values, nan=0.0))
    index = np.searchsorted(middle, magnitude, side="left")
    is_tie = (index < len(middle)) & (middle[np.minimum(index, len(middle) - 1)] == magnitude)
    up_on_tie = positive_codes[np.minimum(index, len(middle) - 1)] % 2 == 1
    if name == "float8_e8m0fnu":
        up_on_tie = np.ones_like(up_on_tie)
    index = index + (is_tie & up_on_tie)
    is_beyond = index >= len(positive)
    result = positive_codes[np.minimum(index, len(positive) - 1)]

    infinity = cast_code(np.inf, name)
    is_infinite = np.isinf(values)
    if saturate and name in NO_INFINITY:
        pass
    elif saturate:
        result = np.where(is_infinite, infinity, result)
    else:
        result = np.where(is_beyond, infinity, result)
    nan_bits = cast_code(np.nan, name)
    result = np.where(np.isnan(values), nan_bits, result)
    if name == "float8_e8m0fnu":
        result = np.where((values > 0), result, nan_bits)
    else:
        sign = np.array(1 << (8 * codes.dtype.itemsize - 1), result.dtype)
        has_sign = np.signbit(values) & ~(name.endswith("fnuz") & (result == 0))
        result = np.where(has_sign, result | sign, result)
    return result.astype(words(codes).dtype).view(codes.dtype)


def misrounded_by_ml_dtypes(values: Array) -> Array:
    """Where ml_dtypes makes 2^-126 of a float8_e8m0fnu, although 2^-127 is nearer."""
    return (values > 2.0**-127) & (values < 1.5 * 2.0**-127)


def cast_code(value: float, name: str) -> int:
    return int(words(np.array([value], np.float32).astype(dtype_of(name)))[0])


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


# --- casts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", SMALL_FLOATS)
def test_float32_to_small_float_as_ml_dtypes(isa: str, target: str) -> None:
    source = quiet(FLOAT32) if target == "float16" else FLOAT32
    if target == "float8_e8m0fnu":
        source = source[~misrounded_by_ml_dtypes(source)]
    assert_same_bits(cast(source, target), source.astype(dtype_of(target)), source)


def test_signalling_nans_become_quiet_float16(isa: str) -> None:
    nans = np.array([0x7F800001, 0x7FA00000, 0xFF812345], np.uint32).view(np.float32)
    assert words(cast(nans, "float16")).tolist() == [0x7E00, 0x7F00, 0xFE09]


@pytest.mark.parametrize("target", SMALL_FLOATS)
@pytest.mark.parametrize("saturate", [False, True])
def test_float64_to_small_float_rounds_once(isa: str, target: str, saturate: bool) -> None:
    source = FLOAT64
    got, expected = cast(source, target, saturate), rounded(source, target, saturate)
    not_nan = ~np.isnan(source)
    assert_same_bits(got[not_nan], expected[not_nan], source[not_nan])
    assert np.isnan(got[~not_nan].astype(np.float32)).all()


@pytest.mark.parametrize("target", SMALL_FLOATS)
def test_float32_saturates(isa: str, target: str) -> None:
    source = FLOAT32[~np.isnan(FLOAT32)]
    assert_same_bits(cast(source, target, True), rounded(source.astype(np.float64), target, True), source)


def test_float64_to_float16_as_numpy(isa: str) -> None:
    source = quiet(FLOAT64)
    assert_same_bits(cast(source, "float16"), source.astype(np.float16), source)


def test_float64_does_not_round_twice(isa: str) -> None:
    # 1 + half a unit + a little: to float32 first, the little is lost and the tie goes down to 1.
    source = np.array([1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-11 + 2.0**-40])
    assert cast(source, "bfloat16")[0].astype(float) == 1 + 2.0**-7
    assert cast(source, "float16")[1] == 1 + 2.0**-10


@pytest.mark.parametrize("source", SMALL_FLOATS)
@pytest.mark.parametrize("target", ["float32", "float64", *SMALL_FLOATS])
def test_every_code_of_small_floats(isa: str, source: str, target: str) -> None:
    values = all_codes(source)
    if target == "float8_e8m0fnu":
        values = values[~misrounded_by_ml_dtypes(values.astype(np.float32))]
    got = cast(values, target)
    exact = values.astype(np.float32)
    if source == target:
        expected = values
    elif target == "float32":
        expected = exact
    else:
        expected = exact.astype(dtype_of(target))
        is_nan = np.isnan(exact)
        if target in ("float16", "float64"):  # the payload is kept, but quiet
            expected[is_nan] = quiet(exact).astype(dtype_of(target))[is_nan]
    assert_same_bits(got, expected, values)


def test_float16_decodes_as_tensorflow_js(isa: str) -> None:
    # docs/formats/tfjs.md, compatibility vectors: payloads of signalling NaNs are kept.
    codes = np.array([0x3C00, 0x7C00, 0x7C01, 0x8000, 0x0001, 0x03FF, 0x8001], np.uint16).view(np.float16)
    assert cast(codes, "float32").tobytes().hex() == "0000803f0000807f0020807f000000800000803300c07f38000080b3"


def test_float32_float64(isa: str) -> None:
    assert_same_bits(cast(FLOAT32, "float64"), FLOAT32.astype(np.float64), FLOAT32)
    assert_same_bits(cast(FLOAT64, "float32"), FLOAT64.astype(np.float32), FLOAT64)
    wide = np.array([1e39, -1e39, np.inf, -np.inf, 3.4028235677973366e38])
    most = np.finfo(np.float32).max
    assert cast(wide, "float32", True).tolist() == [most, -most, np.inf, -np.inf, most]
    assert np.isnan(cast(np.array([np.nan]), "float32", True)[0])


def integer_sample(name: str) -> Array:
    info = np.iinfo(name)
    edges = {info.min, info.max, 0, 1}
    for power in range(info.bits):
        for delta in (-1, 0, 1):
            edges |= {(1 << power) + delta, -(1 << power) + delta, (3 << power) // 2 + delta}
    kept = np.array([edge for edge in sorted(edges) if info.min <= edge <= info.max], name)
    random = np.random.default_rng(3).integers(info.min, info.max, 5_000, name, endpoint=True)
    return np.concatenate([kept, random])


@pytest.mark.parametrize("source", INTEGERS)
@pytest.mark.parametrize("target", NATIVE)
def test_integers(isa: str, source: str, target: str) -> None:
    values = integer_sample(source)
    assert_same_bits(cast(values, target), values.astype(target), values)
    if target in INTEGERS:
        info = np.iinfo(target)
        clipped = [min(max(int(value), info.min), info.max) for value in values]
        assert cast(values, target, True).tolist() == clipped
    else:
        assert_same_bits(cast(values, target, True), values.astype(target), values)


def nearest_bfloat16(value: int) -> float:
    """An integer to bfloat16, by integer arithmetic."""
    magnitude = abs(value)
    drop = max(magnitude.bit_length() - 8, 0)
    head, tail = magnitude >> drop, magnitude & ((1 << drop) - 1)
    half = 1 << drop >> 1
    head += drop > 0 and (tail > half or (tail == half and head % 2 == 1))
    return float(head << drop) * (-1 if value < 0 else 1)


@pytest.mark.parametrize("source", INTEGERS)
def test_integers_to_small_floats_round_once(isa: str, source: str) -> None:
    values = integer_sample(source)
    bits = np.iinfo(source).bits
    near_ties = [
        (1 << power) + (1 << (power - 8)) + (1 << max(power - shift, 0)) - delta
        for power in range(8, bits - 1)
        for shift in (24, 26, 53, 60)
        for delta in (0, 1)
    ]
    values = np.concatenate([values, np.array([v for v in near_ties if v <= np.iinfo(source).max], source)])
    expected = np.array([nearest_bfloat16(int(value)) for value in values])
    np.testing.assert_array_equal(cast(values, "bfloat16").astype(np.float64), expected)
    for target in ("float16", *FLOAT8):  # whatever float64 cannot hold of these is out of their range
        if target == "float8_e8m0fnu" and bits == 64:
            continue
        expected = rounded(values.astype(np.float64), target)
        assert_same_bits(cast(values, target), expected, values)


@pytest.mark.parametrize("source", ["float32", "float64", *SMALL_FLOATS])
@pytest.mark.parametrize("target", INTEGERS)
def test_float_to_integer_truncates_and_saturates(isa: str, source: str, target: str) -> None:
    values = {"float32": FLOAT32, "float64": FLOAT64}.get(source)
    if values is None:
        values = all_codes(source)
    info = np.iinfo(target)
    edges = np.array([info.min, info.max, float(info.min) - 1, float(info.max) + 1, -0.5, 0.5, 255.99, 2.0**31 - 128])
    if source in ("float32", "float64"):
        values = np.concatenate([values, edges.astype(source)])[-60_000:]
    exact = values.astype(np.float32 if source != "float64" else source).astype(np.float64)
    expected = [
        0 if v != v else info.min if v <= info.min else info.max if v >= info.max else int(v) for v in exact.tolist()
    ]
    assert cast(values, target).tolist() == expected


@pytest.mark.parametrize("target", CASTABLE)
def test_bool(isa: str, target: str) -> None:
    flags = np.array([0, 1, 2, 255, 0, 1], np.uint8).view(np.bool_)
    expected = np.array([0, 1, 1, 1, 0, 1], np.float32).astype(dtype_of(target))
    if target != "bool":
        assert_same_bits(cast(flags, target), expected, flags)
    if target in ("float32", "float64", *SMALL_FLOATS):
        values = np.array([0.0, -0.0, 1.0, np.nan, np.inf, 2.0**-120]).astype(np.float32).astype(dtype_of(target))
        expected = values.astype(np.float32) != 0
        assert cast(values, "bool").tolist() == expected.tolist()


def test_complex(isa: str) -> None:
    wide = FLOAT64[:100_000].view(np.complex128)
    narrow = FLOAT32[:100_000].view(np.complex64)
    assert_same_bits(cast(wide, "complex64").view(np.float32), FLOAT64[:100_000].astype(np.float32), FLOAT64)
    assert_same_bits(cast(narrow, "complex128").view(np.float64), FLOAT32[:100_000].astype(np.float64), FLOAT32)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float32, st.integers(0, 70), elements=st.floats(width=32)))
def test_hypothesis_float32_casts(values: Array) -> None:
    values = quiet(values)[~misrounded_by_ml_dtypes(values)]
    for name in SMALL_FLOATS:
        assert_same_bits(cast(values, name), values.astype(dtype_of(name)), values)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 70), elements=st.floats(allow_nan=False)))
def test_hypothesis_float64_casts(values: Array) -> None:
    for name in SMALL_FLOATS:
        assert_same_bits(cast(values, name), rounded(values, name), values)


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


# --- affine quantisation --------------------------------------------------------------------------


def reference_affine(minimum: np.float32, maximum: np.float32, levels: int) -> tuple[float, float, float]:
    """The converter's algorithm (docs/formats/tfjs.md) as NumPy 2 evaluates it."""
    low, high = np.float64(minimum), np.float64(maximum)
    if low == high:
        return 1.0, float(low), float(low)
    scale = (high - low) / levels
    if low <= 0 <= high:
        zero_point = np.round((0 - low) / scale)
        shifted = -zero_point * scale
        return float(scale), float(shifted), float(levels * scale + shifted)
    return float(scale), float(low), float(high)


def test_choose_affine_as_numpy_computes_it() -> None:
    rng = np.random.default_rng(8)
    count = 60_000
    bits = rng.integers(0, 1 << 32, (count, 2), np.uint32).view(np.float32)
    normal = rng.standard_normal((count, 2)).astype(np.float32)
    near = np.stack([normal[:, 0], np.nextafter(normal[:, 0], np.float32(9))], axis=1)
    special = np.array(list(itertools.product([0.0, -0.0, 1e-45, -1e-45, 1.2, -0.1, 3.4e38, -3.4e38, 1e-38], repeat=2)))
    pairs = np.concatenate([bits, normal, near, special.astype(np.float32)])
    pairs = np.sort(pairs[np.isfinite(pairs).all(axis=1)], axis=1)
    assert len(pairs) > 100_000
    for index, (low, high) in enumerate(pairs):
        levels = (255, 65535)[index % 2]
        got, expected = _core.choose_affine(low, high, levels), reference_affine(low, high, levels)
        assert np.array(got).tobytes() == np.array(expected).tobytes(), (low, high, levels)


def test_choose_affine_of_what_is_not_finite() -> None:
    with np.errstate(all="ignore"):
        for low, high in [(np.nan, np.nan), (-np.inf, 1.0), (0.0, np.inf), (1.0, np.inf), (-np.inf, np.inf)]:
            got = _core.choose_affine(low, high, 255)
            np.testing.assert_array_equal(got, reference_affine(np.float32(low), np.float32(high), 255))


QUANTISED_CASES = {
    "normal": np.random.default_rng(9).standard_normal(50_001).astype(np.float32),
    "positive": np.random.default_rng(10).uniform(3, 5, 50_001).astype(np.float32),
    "negative": np.random.default_rng(11).uniform(-1e-3, -1e-5, 50_001).astype(np.float32),
    "wide": np.array([-3.4e38, 3.4e38, 1e30, 0, 1e-30, -2e37] * 7, np.float32),
    "tiny": np.array([1e-45, 0, -1e-45, 3e-45, 1e-38] * 7, np.float32),
    "constant": np.full(33, 0.3, np.float32),
    "vector": np.array([0, -0.1, 1.2], np.float32),
    # Scale 1 from 0: every half-integer is a tie.
    "ties": np.concatenate([np.arange(0, 255.5, 0.5), np.nextafter(np.arange(0, 255.5, 0.5), 9e9)]).astype(np.float32),
}


@pytest.mark.parametrize("stored", ["uint8", "uint16"])
@pytest.mark.parametrize("case", QUANTISED_CASES)
def test_quantise_as_numpy(isa: str, stored: str, case: str) -> None:
    data = QUANTISED_CASES[case]
    scale, low, high = reference_affine(data.min(), data.max(), np.iinfo(stored).max)
    if case == "ties" and stored == "uint8":
        scale, low, high = 1.0, 0.0, 255.0
    expected = np.round((data.astype(np.float64).clip(low, high) - low) / scale).astype(stored)
    got = run([("affine_encode", stored, scale, low, high)], data, stored)
    assert_same_bits(got, expected, data)
    back = (expected.astype(np.float64) * scale + low).astype(np.float32)
    assert_same_bits(run([("affine_decode", stored, "float32", scale, low)], expected, np.float32), back, expected)


def test_quantise_the_documented_vectors(isa: str) -> None:
    data = np.array([0, -0.1, 1.2], np.float32)
    scale, low, high = _core.choose_affine(*_core.min_max(data), 255)
    assert (scale, low) == (0.0050980394085248315, -0.10196078817049663)
    assert run([("affine_encode", "uint8", scale, low, high)], data, np.uint8).tolist() == [20, 0, 255]


def test_quantise_near_ties(isa: str) -> None:
    """Values whose quotient lies within a few units in the last place of a half-integer."""
    rng = np.random.default_rng(12)
    for stored in ("uint8", "uint16"):
        levels = np.iinfo(stored).max
        for _ in range(20):
            scale, low, high = reference_affine(*np.sort(rng.standard_normal(2).astype(np.float32)), levels)
            ties = ((rng.integers(0, levels, 2000) + 0.5) * scale + low).astype(np.float32)
            data = np.concatenate([ties, np.nextafter(ties, np.float32(9)), np.nextafter(ties, np.float32(-9))])
            expected = np.round((data.astype(np.float64).clip(low, high) - low) / scale).astype(stored)
            assert_same_bits(run([("affine_encode", stored, scale, low, high)], data, stored), expected, data)
    # Exact ties in float64: scale is a power of two.
    for scale in (0.5, 2.0**-30, 2.0**-140):
        data = (np.arange(0, 2 * 255, dtype=np.float64) * scale / 2).astype(np.float32)
        expected = np.round(data.astype(np.float64) / scale).astype(np.uint8)
        got = run([("affine_encode", "uint8", scale, 0.0, 255 * scale)], data, np.uint8)
        assert_same_bits(got, expected, data)


def test_quantise_of_nan_and_infinities(isa: str) -> None:
    data = np.array([np.nan, np.inf, -np.inf, 0.5] * 9, np.float32)
    for stored, top in (("uint8", 255), ("uint16", 65535)):
        got = run([("affine_encode", stored, 1 / top, 0.0, 1.0)], data, stored)
        assert got.tolist() == [0, top, 0, round(0.5 * top)] * 9


def test_quantise_stays_within_the_stored_type(isa: str) -> None:
    data = np.array([0.0, 1.0, 300.0, 1e9, 3e38] * 9, np.float32)
    got = run([("affine_encode", "uint8", 1.0, 0.0, 1e300)], data, np.uint8)
    assert got.tolist() == [0, 1, 255, 255, 255] * 9
    assert run([("affine_encode", "uint8", 5e-324, 0.0, 1.0)], data, np.uint8).tolist() == [0, 255, 255, 255, 255] * 9


@pytest.mark.parametrize("stored", ["uint8", "uint16"])
@pytest.mark.parametrize(("scale", "low"), [(1.0, -2.5), (0.1, -3.0), (1e30, 5.0), (1e-30, -1e-3), (np.nan, 0.0)])
def test_dequantise_every_code(isa: str, stored: str, scale: float, low: float) -> None:
    codes = np.arange(np.iinfo(stored).max + 1, dtype=stored)
    with np.errstate(over="ignore"):
        expected = (codes.astype(np.float64) * scale + low).astype(np.float32)
    got = run([("affine_decode", stored, "float32", scale, low)], codes, np.float32)
    np.testing.assert_array_equal(got, expected)


def javascript_int32(value: float) -> int:
    """ECMAScript: ToInt32(Math.round(value))."""
    if not np.isfinite(value):
        return 0
    rounded = int(np.floor(value)) + int(value - np.floor(value) >= 0.5)
    return (rounded + 2**31) % 2**32 - 2**31


@pytest.mark.parametrize(
    ("scale", "low"),
    [(1.0, -2.5), (0.5, -3.25), (0.1, 0.0), (1e7, -3e9), (1e30, 0.0), (np.inf, 1.0), (1.0, 0.49999999999999994)],
)
@pytest.mark.parametrize("stored", ["uint8", "uint16"])
def test_dequantise_to_int32_as_javascript(isa: str, stored: str, scale: float, low: float) -> None:
    codes = np.arange(np.iinfo(stored).max + 1, dtype=stored)
    with np.errstate(invalid="ignore"):
        values = codes.astype(np.float64) * scale + low
    got = run([("affine_decode", stored, "int32", scale, low)], codes, np.int32)
    assert got.tolist() == [javascript_int32(value) for value in values]
    if (scale, low) == (1.0, -2.5):
        assert got[:6].tolist() == [-2, -1, 0, 1, 2, 3]


# --- smallest and largest -------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 63, 64, 65, 1000, 70_001])
def test_min_max(isa: str, count: int) -> None:
    values = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    for data in (values, np.abs(values), -np.abs(values)):
        assert _core.min_max(data) == (data.min(), data.max())
    for place in {0, count // 2, count - 1}:
        for bits in (0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF):
            with_nan = values.copy()
            with_nan.view(np.uint32)[place] = bits
            assert np.isnan(_core.min_max(with_nan)).all()
        for infinity in (np.inf, -np.inf):
            with_infinity = values.copy()
            with_infinity[place] = infinity
            assert _core.min_max(with_infinity) == (with_infinity.min(), with_infinity.max())


def test_min_max_orders_zeros(isa: str) -> None:
    low, high = _core.min_max(np.array([0.0, -0.0, 0.0], np.float32))
    assert (np.signbit(low), np.signbit(high)) == (True, False)


def test_min_max_refuses() -> None:
    with pytest.raises(ValueError, match="empty"):
        _core.min_max(np.empty(0, np.float32))
    with pytest.raises(ValueError, match="float32"):
        _core.min_max(np.zeros(3))


# --- checksums ------------------------------------------------------------------------------------


def crc32c_reference(data: bytes, crc: int = 0) -> int:
    state = crc ^ 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def test_known_checksums(isa: str) -> None:
    assert _core.crc32c(b"123456789") == 0xE3069283
    assert _core.crc32(b"123456789") == 0xCBF43926
    # RFC 3720, B.4
    assert _core.crc32c(bytes(32)) == 0x8A9136AA
    assert _core.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert _core.crc32c(bytes(range(32))) == 0x46DD794E
    assert _core.crc32c(b"") == 0
    assert _core.crc32c(b"", 0x12345678) == 0x12345678


def test_checksums_of_every_length(isa: str) -> None:
    data = np.random.default_rng(13).integers(0, 256, 5000, np.uint8)
    expected = 0x1234
    running = [expected]
    for byte in data.tobytes():
        expected = crc32c_reference(bytes([byte]), expected)
        running.append(expected)
    for length in [*range(600), 1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096, 5000]:
        assert _core.crc32c(data[:length], 0x1234) == running[length]
    for length, offset in itertools.product([*range(300), 1024, 1500, 4000], (0, 1, 7)):
        piece = data[offset : offset + length]
        assert _core.crc32(piece, 0x1234) == zlib.crc32(piece, 0x1234)


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 13, 3_000_001])
def test_checksums_of_large_data(isa: str, size: int) -> None:
    data = np.random.default_rng(14).integers(0, 256, size, np.uint8)
    assert _core.crc32(data) == zlib.crc32(data)
    crc = 0
    for begin in range(0, size, 777):  # short pieces, so that other code paths compute it
        crc = _core.crc32c(data[begin : begin + 777], crc)
    assert _core.crc32c(data) == crc


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_combine(a: bytes, b: bytes) -> None:
    for checksum, combine in ((_core.crc32c, _core.crc32c_combine), (_core.crc32, _core.crc32_combine)):
        assert combine(checksum(a), checksum(b), len(b)) == checksum(a + b)


def test_combine_of_huge_lengths() -> None:
    # x^(8 n) has the same period as the polynomial: 2^32 - 1 bytes of zeros for CRC-32.
    for length in (0, 2**32 - 1, (2**32 - 1) << 20):
        assert _core.crc32_combine(0xDEADBEEF, 0, length) == 0xDEADBEEF
    assert _core.crc32c_combine(0xDEADBEEF, 0, 2**31 - 1) == 0xDEADBEEF
    a, b = _core.crc32c(b"abc"), _core.crc32c(b"defg")
    two_steps = _core.crc32c_combine(_core.crc32c_combine(a, b, 1 << 62), 0, 1 << 63)
    assert two_steps == _core.crc32c_combine(a, _core.crc32c_combine(b, 0, 1 << 63), (1 << 62) + (1 << 63))


def test_checksum_of_any_buffer() -> None:
    array = np.arange(100, dtype=np.float32).astype(ml_dtypes.bfloat16)
    assert _core.crc32(array) == zlib.crc32(array.tobytes())
    assert _core.crc32(memoryview(b"abc")) == _core.crc32(bytearray(b"abc")) == zlib.crc32(b"abc")
    with pytest.raises((BufferError, ValueError)):
        _core.crc32(np.arange(10)[::2])
    with pytest.raises(TypeError):
        _core.crc32("text")


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
