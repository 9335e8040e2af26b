"""Checksums on every instruction set, against zlib and a bitwise reference."""

from __future__ import annotations

import itertools
import zlib

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weightlift import _core

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
