"""The protocol buffers of a TensorBundle: its header and its entries.

Messages: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/protobuf/tensor_bundle.proto. They are
few and small, so they are decoded here, by the rules of the wire format alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from weightlift._strings import unmasked, varint
from weightlift.errors import FormatError

__all__ = [
    "EXTRA",
    "Entry",
    "Header",
    "field",
    "fields",
    "parse_entry",
    "parse_header",
    "read_varint",
]

EXTRA = 29101
"""Number of the header's field that is ours: JSON. TensorFlow passes over fields that it does not know."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_SHARDS = 100_000
_MOST_AXES = 254
_SIGN = 1 << 63

Axis = tuple[int, int]
"""Where a slice begins along an axis, and how long it is there; (0, -1): all of it."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the bundle says of itself.

    Attributes:
        shards: Into how many data files it is numbered.
        big: Whether elements are stored in big-endian order.
        extra: Our own field; empty where there is none.
    """

    shards: int
    big: bool
    extra: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """What the bundle says of one tensor, or of one slice of a tensor.

    Attributes:
        dtype: Number of the element type, as in ``types.proto``.
        shape: In elements.
        shard: Number of the data file.
        offset: Its first byte there.
        size: Bytes there.
        crc: CRC-32C of the stored bytes, unmasked (strings: of what ``VarintStrings`` says).
        slices: Where each slice lies in the whole, if it is stored in slices.
    """

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    slices: tuple[tuple[Axis, ...], ...]


# --- the wire format --------------------------------------------------------------------------------
def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned number at ``at``, and where the next thing is."""
    if at < len(data) and data[at] < 0x80:  # as nearly all are
        return data[at], at + 1
    value = shift = 0
    for i in range(at, min(at + 10, len(data))):
        byte = data[i]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, i + 1
        shift += 7
    raise FormatError("a number is cut off or has more than 64 bits", offset=at)


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message, in order."""
    at, end = 0, len(data)
    while at < end:
        key = data[at]
        key, at = (key, at + 1) if key < 0x80 else read_varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise FormatError("not a protocol buffer: a field has the number 0")
        if kind == _VARINT:
            value, at = read_varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = read_varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise FormatError(f"not a protocol buffer: field {number} is of the unknown kind {kind}")
        if at + size > end:
            raise FormatError(f"not a protocol buffer: field {number} has {size} bytes, {end - at} are left")
        part = data[at : at + size]
        at += size
        yield number, part if kind == _BYTES else int.from_bytes(part, "little")


def field(number: int, value: int | bytes, *, fixed32: bool = False) -> bytes:
    """One field as it is stored; numbers as varints, or as four bytes."""
    if isinstance(value, bytes):
        return varint(number << 3 | _BYTES) + varint(len(value)) + value
    if fixed32:
        return varint(number << 3 | _FIXED32) + value.to_bytes(4, "little")
    return varint(number << 3 | _VARINT) + varint(value)


def _number(value: int | bytes, what: str) -> int:
    """A number that must not be negative."""
    if not isinstance(value, int):
        raise FormatError(f"not a protocol buffer of TensorFlow's: {what} is not a number")
    if value >= _SIGN:
        raise FormatError(f"{what} is negative ({value - 2 * _SIGN})")
    return value


def _message(value: int | bytes, what: str) -> bytes:
    if not isinstance(value, bytes):
        raise FormatError(f"not a protocol buffer of TensorFlow's: {what} is not a message")
    return value


# --- the messages -----------------------------------------------------------------------------------
def parse_header(data: bytes) -> Header:
    """``BundleHeaderProto``; FormatError for a version that is not for us."""
    shards, order, extra, consumer = 0, 0, b"", 0
    for number, value in fields(data):
        if number == 1:
            shards = _number(value, "the number of shards")
        elif number == 2:
            order = _number(value, "the byte order")
        elif number == 3:
            version = dict(fields(_message(value, "the version")))
            consumer = _number(version.get(2, 0), "min_consumer")
        elif number == EXTRA:
            extra = _message(value, "the extra field")
    if consumer > 1:
        raise FormatError(f"the bundle is for readers of version {consumer} and later; version 1 is known")
    if order > 1:
        raise FormatError(f"the bundle has the byte order {order}; 0 (little) and 1 (big) are known")
    if not 0 < shards < _MOST_SHARDS:
        raise FormatError(f"the bundle is numbered into {shards} data files; 1 to {_MOST_SHARDS - 1} are accepted")
    return Header(shards, order == 1, extra)


def parse_entry(data: bytes) -> Entry:
    """``BundleEntryProto``."""
    dtype = shard = offset = size = crc = 0
    shape: tuple[int, ...] = ()
    slices: list[tuple[Axis, ...]] = []
    for number, value in fields(data):
        if number == 1:
            dtype = _number(value, "the type")
        elif number == 2:
            shape += _parse_shape(_message(value, "the shape"))
        elif number == 3:
            shard = _number(value, "the number of the data file")
        elif number == 4:
            offset = _number(value, "the offset")
        elif number == 5:
            size = _number(value, "the size")
        elif number == 6:
            crc = unmasked(_number(value, "the checksum") & 0xFFFFFFFF)
        elif number == 7:
            slices.append(_parse_slice(_message(value, "a slice")))
    if len(shape) > _MOST_AXES:
        raise FormatError(f"a shape of {len(shape)} axes; TensorFlow has at most {_MOST_AXES}")
    return Entry(dtype, shape, shard, offset, size, crc, tuple(slices))


@lru_cache(maxsize=1024)
def _parse_shape(data: bytes) -> tuple[int, ...]:
    shape = []
    for number, value in fields(data):
        if number == 2:
            sizes = [_number(v, "a dimension") for n, v in fields(_message(value, "a dimension")) if n == 1]
            shape.append(sizes[-1] if sizes else 0)
        elif number == 3 and value:
            raise FormatError("the tensor is of unknown rank")
    return tuple(shape)


def _parse_slice(data: bytes) -> tuple[Axis, ...]:
    axes = []
    for number, value in fields(data):
        if number == 1:
            begin, length = 0, -1
            for n, v in fields(_message(value, "an extent of a slice")):
                if n == 1:
                    begin = _number(v, "the start of a slice")
                elif n == 2:
                    length = _number(v, "the length of a slice")
            axes.append((begin, length))
    return tuple(axes)
