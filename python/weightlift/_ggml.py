"""ggml's element types: blocks of quantised values, and the float32 values that they stand for.

A block holds a fixed number of elements along the last axis: small integers, and one or two float16 scales. Values are
computed in float32 in the order of ggml's reference, so that every bit agrees. Specification: docs/formats/gguf.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["BIG_ENDIAN_BLOCKS", "BLOCKS", "DEQUANTIZED", "Block", "dequantize_blocks", "quantize_q8_0"]

Array: TypeAlias = npt.NDArray[Any]

_WINDOW = 4096  # blocks at a time, so that what is made on the way stays in cache


@dataclass(frozen=True, slots=True)
class Block:
    """A type of blocks.

    Attributes:
        name: As ggml calls it.
        number: In files.
        elements: Of a block.
        nbytes: Of a block.
    """

    name: str
    number: int
    elements: int
    nbytes: int


BLOCKS = {
    name: Block(name, number, elements, nbytes)
    for name, number, elements, nbytes in (
        ("Q4_0", 2, 32, 18), ("Q4_1", 3, 32, 20), ("Q5_0", 6, 32, 22), ("Q5_1", 7, 32, 24), ("Q8_0", 8, 32, 34),
        ("Q2_K", 10, 256, 84), ("Q3_K", 11, 256, 110), ("Q4_K", 12, 256, 144), ("Q5_K", 13, 256, 176),
        ("Q6_K", 14, 256, 210), ("Q8_K", 15, 256, 292), ("IQ2_XXS", 16, 256, 66), ("IQ2_XS", 17, 256, 74),
        ("IQ3_XXS", 18, 256, 98), ("IQ1_S", 19, 256, 50), ("IQ4_NL", 20, 32, 18), ("IQ3_S", 21, 256, 110),
        ("IQ2_S", 22, 256, 82), ("IQ4_XS", 23, 256, 136), ("IQ1_M", 29, 256, 56), ("TQ1_0", 34, 256, 54),
        ("TQ2_0", 35, 256, 66), ("MXFP4", 39, 32, 17), ("NVFP4", 40, 64, 36), ("Q1_0", 41, 128, 18),
    )
}  # fmt: skip
"""By name."""


def dequantize_blocks(kind: str, stored: Array, out: Array, *, big: bool = False) -> None:
    """Fill ``out`` with the values of blocks.

    Args:
        kind: A name in ``DEQUANTIZED``.
        stored: Whole blocks, uint8, one axis.
        out: float32, one axis, as many elements as the blocks have.
        big: Scales are stored in big-endian order; ``BIG_ENDIAN_BLOCKS`` only.
    """
    block, decode = BLOCKS[kind], DEQUANTIZED[kind]
    rows = stored.reshape(-1, block.nbytes)
    values = out.reshape(-1, block.elements)
    half = np.dtype(">f2" if big else "<f2")
    with np.errstate(all="ignore"):  # scales may be infinite, or not numbers
        for at in range(0, len(rows), _WINDOW):
            decode(rows[at : at + _WINDOW], values[at : at + _WINDOW], half)


def quantize_q8_0(values: Array) -> Array:
    """Blocks of Q8_0 of float32 values, uint8, the last axis in bytes; it must be a multiple of 32."""
    shape, source = values.shape, values.reshape(-1, 32)
    out = np.empty((len(source), 34), np.uint8)
    with np.errstate(all="ignore"):
        for at in range(0, len(source), _WINDOW):
            part = source[at : at + _WINDOW].astype(np.float32)
            scale = np.abs(part).max(axis=1, keepdims=True) / np.float32(127)
            inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
            scaled = part * inverse
            size = np.abs(scaled)
            floor = np.floor(size)
            rounded = np.sign(scaled) * (floor + np.floor(np.float32(2) * (size - floor)))  # halves away from zero
            out[at : at + _WINDOW, :2] = scale.astype("<f2").view(np.uint8)
            out[at : at + _WINDOW, 2:] = rounded.astype(np.int8).view(np.uint8)
    return out.reshape(*shape[:-1], shape[-1] // 32 * 34)


def _halves(blocks: Array, at: int, half: np.dtype[Any]) -> Array:
    """The float16 at byte ``at`` of each block, as float32, one column."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(half).astype(np.float32)


def _nibbles(packed: Array) -> Array:
    """Low nibbles, then high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _fifth_bits(blocks: Array, at: int) -> Array:
    """32 bits of each block, moved to bit 4."""
    bits = np.unpackbits(np.ascontiguousarray(blocks[:, at : at + 4]), axis=1, bitorder="little")
    return bits << 4


def _q4_0(blocks: Array, out: Array, half: np.dtype[Any]) -> None:
    q = _nibbles(blocks[:, 2:]).astype(np.int8) - np.int8(8)
    np.multiply(_halves(blocks, 0, half), q.astype(np.float32), out=out)


def _q4_1(blocks: Array, out: Array, half: np.dtype[Any]) -> None:
    np.multiply(_halves(blocks, 0, half), _nibbles(blocks[:, 4:]).astype(np.float32), out=out)
    out += _halves(blocks, 2, half)


def _q5_0(blocks: Array, out: Array, half: np.dtype[Any]) -> None:
    q = (_nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)).astype(np.int8) - np.int8(16)
    np.multiply(_halves(blocks, 0, half), q.astype(np.float32), out=out)


def _q5_1(blocks: Array, out: Array, half: np.dtype[Any]) -> None:
    q = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    np.multiply(_halves(blocks, 0, half), q.astype(np.float32), out=out)
    out += _halves(blocks, 2, half)


def _q8_0(blocks: Array, out: Array, half: np.dtype[Any]) -> None:
    np.multiply(_halves(blocks, 0, half), blocks[:, 2:].view(np.int8).astype(np.float32), out=out)


def _iq4_nl(blocks: Array, out: Array, half: np.dtype[Any]) -> None:
    np.multiply(_halves(blocks, 0, half), _IQ4_NL[_nibbles(blocks[:, 2:])], out=out)


def _mxfp4(blocks: Array, out: Array, _half: np.dtype[Any]) -> None:
    scale = np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128).astype(np.float32)
    np.multiply(scale, _MXFP4[_nibbles(blocks[:, 1:])], out=out)


_IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_MXFP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def _two_bits(packed: Array) -> Array:
    """(n, 64) bytes to (n, 256): in each half of 128 four planes of two bits of 32 bytes."""
    planes = packed.reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    found: Array = planes & 3
    return found.reshape(len(packed), 256)


def _spread(scales: Array, elements: int) -> Array:
    """Each scale for so many elements, float32."""
    return np.repeat(scales, elements, axis=1)


def _q2_k(blocks: Array, out: Array, half: np.dtype[Any]) -> None:
    packed = blocks[:, :16]
    d, low = _halves(blocks, 80, half), _halves(blocks, 82, half)
    np.multiply(_spread(d * (packed & 15).astype(np.float32), 16), _two_bits(blocks[:, 16:80]), out=out)
    out -= _spread(low * (packed >> 4).astype(np.float32), 16)


def _q3_k(blocks: Array, out: Array, half: np.dtype[Any]) -> None:
    low = _nibbles(blocks[:, 96:104])
    high = blocks[:, None, 104:108] >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)
    scales = (low | (high.reshape(-1, 16) & 3) << 4).astype(np.int8) - np.int8(32)
    bits = blocks[:, None, :32] >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    missing = (bits.reshape(-1, 256) & 1) ^ 1
    q = _two_bits(blocks[:, 32:96]).astype(np.int8) - (missing << 2).astype(np.int8)
    np.multiply(_spread(_halves(blocks, 108, half) * scales.astype(np.float32), 16), q.astype(np.float32), out=out)


def _six_bits(scales: Array) -> tuple[Array, Array]:
    """Scales and minima of Q4_K and Q5_K: eight of six bits each, in 12 bytes."""
    low, middle, high = scales[:, :4], scales[:, 4:8], scales[:, 8:12]
    scale = np.concatenate([low & 63, (high & 15) | (low >> 6) << 4], axis=1)
    minimum = np.concatenate([middle & 63, (high >> 4) | (middle >> 6) << 4], axis=1)
    return scale.astype(np.float32), minimum.astype(np.float32)


def _q4_k(blocks: Array, out: Array, half: np.dtype[Any]) -> None:
    _k_values(blocks, out, half, _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 256))


def _q5_k(blocks: Array, out: Array, half: np.dtype[Any]) -> None:
    bits = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    q = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 256) | (bits.reshape(-1, 256) & 1) << 4
    _k_values(blocks, out, half, q)


def _k_values(blocks: Array, out: Array, half: np.dtype[Any], q: Array) -> None:
    scale, minimum = _six_bits(blocks[:, 4:16])
    np.multiply(_spread(_halves(blocks, 0, half) * scale, 32), q.astype(np.float32), out=out)
    out -= _spread(_halves(blocks, 2, half) * minimum, 32)


def _q6_k(blocks: Array, out: Array, half: np.dtype[Any]) -> None:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 256)
    q = (low | _two_bits(blocks[:, 128:192]) << 4).astype(np.int8) - np.int8(32)
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32)
    np.multiply(_spread(_halves(blocks, 208, half) * scales, 16), q.astype(np.float32), out=out)


DEQUANTIZED: dict[str, Callable[[Array, Array, np.dtype[Any]], None]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "Q2_K": _q2_k, "Q3_K": _q3_k,
    "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, "IQ4_NL": _iq4_nl, "MXFP4": _mxfp4,
}  # fmt: skip
"""What is computed here: the values of (n, bytes) blocks into (n, elements), scales of a type of halves."""

BIG_ENDIAN_BLOCKS = ("Q4_0", "Q8_0", "Q4_K", "Q6_K", "MXFP4")
"""Types of which it is settled how a big-endian file holds them: only the float16 scales are swapped."""
