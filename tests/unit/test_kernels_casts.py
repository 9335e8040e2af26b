"""Casts on every instruction set, against NumPy, ml_dtypes and exact references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.unit.kernel_support import (
    CASTABLE,
    FLOAT8,
    INTEGERS,
    NATIVE,
    NO_INFINITY,
    SMALL_FLOATS,
    Array,
    all_codes,
    assert_same_bits,
    cast,
    dtype_of,
    words,
)

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")


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
