"""Affine quantisation as TensorFlow.js has it, and the smallest and largest value, on every instruction set."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tests.unit.kernel_support import assert_same_bits, run

from weightlift import _core

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")


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
