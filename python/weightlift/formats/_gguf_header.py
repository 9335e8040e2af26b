"""The header of a GGUF file, both ways: key-value pairs, and what each tensor is.

Every count and length is checked against the bytes that are left of the file before anything is made of it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from weightlift._ggml import BLOCKS
from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.protocols import Reader

__all__ = ["MAGIC", "PLAIN", "Header", "Info", "parse_gguf", "write_header"]

MAGIC = b"GGUF"
PLAIN = {
    0: "float32", 1: "float16", 24: "int8", 25: "int16", 26: "int32", 27: "int64", 28: "float64", 30: "bfloat16",
}  # fmt: skip
"""Types of one element a block, by number."""

_NUMBERS = {block.number: block for block in BLOCKS.values()}
_MOST = 256 << 20  # bytes of a header
_AHEAD = 1 << 16
_MAX_AXES = 4
_MAX_NAME = 1024
_WRITTEN_NAME = 63  # ggml's limit
_MAX_STRING = 1 << 30
_LIMIT = 1 << 63
_ALIGNMENT = "general.alignment"
_SCALARS = {0: "u1", 1: "i1", 2: "u2", 3: "i2", 4: "u4", 5: "i4", 6: "f4", 7: "?", 10: "u8", 11: "i8", 12: "f8"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Info:
    """A tensor: its name, shape (first axis slowest), the number of its type, and where it is in the data section."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def type_name(self) -> str:
        """As ggml calls it, or ours for plain elements."""
        return PLAIN.get(self.type) or _NUMBERS[self.type].name

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        block = _NUMBERS.get(self.type)
        if block is None:
            return prod(self.shape) * np.dtype(_plain_numpy(self.type)).itemsize
        return prod(self.shape) // block.elements * block.nbytes


def _plain_numpy(number: int) -> str:
    return "uint16" if PLAIN[number] == "bfloat16" else PLAIN[number]


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself.

    Attributes:
        metadata: Key-value pairs, in order.
        tensors: In the order of the file.
        data: Where the data section begins.
        alignment: Tensors begin at multiples of it, from there.
        big: Numbers are stored in big-endian order.
    """

    metadata: dict[str, Any]
    tensors: list[Info]
    data: int
    alignment: int
    big: bool


class _Cursor:
    """A reader's bytes one after another, read ahead."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.at = 0
        self.order = "<"
        self._data = b""
        self._begin = 0
        self._ahead = _AHEAD

    @property
    def left(self) -> int:
        return self.reader.size - self.at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise FormatError(f"the header ends within {count} bytes", offset=self.at, end=self.reader.size)
        if self.at + count > _MOST:
            raise FormatError(f"the header has more than {_MOST} bytes")
        begin = self.at - self._begin
        if begin + count > len(self._data):
            self._data = self.reader.read_at(self.at, min(max(count, self._ahead), self.left))
            self._begin, begin = self.at, 0
            self._ahead = min(2 * self._ahead, 1 << 22)
        self.at += count
        return self._data[begin : begin + count]

    def number(self, code: str) -> Any:
        """A number of a struct code."""
        (found,) = struct.unpack(self.order + code, self.take(struct.calcsize(self.order + code)))
        return found

    def text(self) -> str:
        count = self.number("Q")
        if count > min(self.left, _MAX_STRING):
            raise FormatError(f"text of {count} bytes where {self.left} are left", offset=self.at)
        raw = self.take(count)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"text that is not UTF-8: {raw[:80]!r}", offset=self.at - count, end=self.at) from None


def parse_gguf(reader: Reader) -> Header:
    """Parse and check a header; FormatError, UnsupportedFeatureError for another version or an unknown type."""
    cursor = _Cursor(reader)
    if cursor.take(min(4, reader.size)) != MAGIC:
        raise FormatError("not a GGUF file: it does not begin with GGUF", offset=0, end=4)
    version = cursor.number("I")
    if version & 0xFFFF == 0 and version:
        cursor.order, version = ">", int.from_bytes(version.to_bytes(4, "little"), "big")
    if version not in (2, 3):
        raise UnsupportedFeatureError(f"GGUF version {version}; 2 and 3 are known")
    tensors, pairs = cursor.number("Q"), cursor.number("Q")
    for what, count, least in (("key-value pairs", pairs, 13), ("tensors", tensors, 24)):
        if count > cursor.left // least:
            raise FormatError(f"{count} {what} in a header of which {cursor.left} bytes are left", offset=8, end=24)
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        begin, key = cursor.at, cursor.text()
        if not key or key in metadata:
            raise FormatError(f"the key {key!r} is empty, or there twice", offset=begin, end=cursor.at)
        metadata[key] = _value(cursor, cursor.number("I"), key)
    infos = [_info(cursor) for _ in range(tensors)]
    alignment = metadata.get(_ALIGNMENT, 32)
    if type(alignment) is not int or not 0 < alignment < 1 << 31 or alignment & (alignment - 1):
        raise FormatError(f"{_ALIGNMENT} is {alignment!r}; it must be a power of two")
    data = _padded(cursor.at, alignment)
    _check(infos, data, alignment, reader.size)
    return Header(metadata, infos, data, alignment, cursor.order == ">")


def _padded(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment


def _value(cursor: _Cursor, kind: int, key: str) -> Any:
    if kind == _STRING:
        return cursor.text()
    if kind == _ARRAY:
        return _array(cursor, key)
    if kind not in _SCALARS:
        raise FormatError(f"the value of {key[:80]!r} has the unknown type {kind}", offset=cursor.at - 4, end=cursor.at)
    code = _SCALARS[kind]
    return np.frombuffer(cursor.take(int(np.dtype(code).itemsize)), _ordered(cursor, code))[0].item()


def _ordered(cursor: _Cursor, code: str) -> np.dtype[Any]:
    return np.dtype(code if code == "?" else cursor.order + code)


def _array(cursor: _Cursor, key: str) -> list[Any]:
    kind, count = cursor.number("I"), cursor.number("Q")
    if kind == _ARRAY:
        raise UnsupportedFeatureError(f"the value of {key[:80]!r} is an array of arrays", offset=cursor.at)
    if kind != _STRING and kind not in _SCALARS:
        raise FormatError(f"the value of {key[:80]!r} is an array of the unknown type {kind}", offset=cursor.at)
    least = 8 if kind == _STRING else np.dtype(_SCALARS[kind]).itemsize
    if count > cursor.left // least:
        raise FormatError(f"an array of {count} values where {cursor.left} bytes are left", offset=cursor.at)
    if kind == _STRING:
        return [cursor.text() for _ in range(count)]
    code = _SCALARS[kind]
    found: list[Any] = np.frombuffer(cursor.take(count * least), _ordered(cursor, code)).tolist()
    return found


def _info(cursor: _Cursor) -> Info:
    begin, name = cursor.at, cursor.text()
    try:
        if not name or len(name) > _MAX_NAME:
            raise FormatError(f"a tensor's name of {len(name)} characters; it must have 1 to {_MAX_NAME}")
        axes = cursor.number("I")
        if axes > _MAX_AXES:
            raise FormatError(f"a tensor of {axes} axes; at most {_MAX_AXES} are allowed")
        shape = tuple(cursor.number("Q") for _ in range(axes))[::-1]
        number, offset = cursor.number("I"), cursor.number("Q")
        if prod(n for n in shape if n) * 16 >= _LIMIT:
            raise FormatError(f"a tensor of shape {list(shape)} exceeds 64 bits")
        block = _NUMBERS.get(number)
        if block is None and number not in PLAIN:
            raise UnsupportedFeatureError(f"the tensor has the type {number}, which is not known")
        if block is not None and (not shape or shape[-1] % block.elements):
            raise FormatError(
                f"shape {list(shape)} is not of whole blocks of {block.elements} elements of {block.name}"
            )
    except FormatError as error:
        raise error.locate(tensor=name[:200], offset=begin, end=cursor.at) from None
    return Info(name, shape, number, offset)


def _check(infos: Sequence[Info], data: int, alignment: int, size: int) -> None:
    """ggml's rule: tensors in order, each at the next multiple of the alignment; and nothing behind them."""
    at, end = 0, data
    names: set[str] = set()
    for info in infos:
        if info.name in names:
            raise FormatError("two tensors have this name", tensor=info.name)
        names.add(info.name)
        if info.offset != at:
            raise FormatError(
                f"the tensor is at {info.offset} of the data, and must follow the one before at {at}", tensor=info.name
            )
        end = data + at + info.nbytes
        if end > size:
            raise FormatError(
                f"truncated: the tensor ends at byte {end} of {size}", tensor=info.name, offset=data + at, end=size
            )
        at = _padded(at + info.nbytes, alignment)
    if infos and size != data + at:  # the last tensor is padded, too
        what = "truncated" if size < data + at else "bytes behind the last tensor"
        raise FormatError(
            f"{what}: the data section ends at byte {data + at}, the file has {size}", offset=end, end=size
        )


# --- writing --------------------------------------------------------------------------------------
def write_header(
    metadata: Mapping[str, Any], tensors: Sequence[tuple[str, tuple[int, ...], int, int]]
) -> tuple[bytes, list[int]]:
    """The header of (name, shape, type, bytes) tensors, padded, and where each begins in the file.

    UnsupportedFeatureError for names and values that GGUF cannot hold.
    """
    alignment = metadata.get(_ALIGNMENT, 32)
    if type(alignment) is not int or not 0 < alignment < 1 << 31 or alignment & (alignment - 1):
        raise UnsupportedFeatureError(f"{_ALIGNMENT} is {alignment!r}; it must be a power of two")
    out = bytearray(MAGIC + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        out += _text(key, "key") + _written(key, value)
    at, offsets = 0, []
    for name, shape, number, nbytes in tensors:
        if len(name.encode("utf-8", "replace")) > _WRITTEN_NAME:
            raise UnsupportedFeatureError(
                f"ggml's names have at most {_WRITTEN_NAME} bytes: {name[:100]!r}", tensor=name
            )
        if len(shape) > _MAX_AXES:
            raise UnsupportedFeatureError(
                f"ggml's tensors have at most {_MAX_AXES} axes, not {len(shape)}", tensor=name
            )
        out += _text(name, "name") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], number, at)
        offsets.append(at)
        at = _padded(at + nbytes, alignment)
    out += bytes(_padded(len(out), alignment) - len(out))
    return bytes(out), [len(out) + offset for offset in offsets]


def _text(value: str, what: str) -> bytes:
    try:
        raw = value.encode("utf-8")
    except UnicodeEncodeError:
        raise UnsupportedFeatureError(f"the {what} {value[:80]!r} is not Unicode text") from None
    if not raw and what != "value":
        raise UnsupportedFeatureError(f"an empty {what}")
    return struct.pack("<Q", len(raw)) + raw


def _written(key: str, value: Any) -> bytes:
    """The type and the bytes of a value: the first type that holds it exactly."""
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value, "value")
    if isinstance(value, (list, tuple)):
        return struct.pack("<I", _ARRAY) + _written_array(key, value)
    kind = _kind(key, [value])
    return struct.pack("<I", kind) + np.array([value], _little(kind)).tobytes()


def _written_array(key: str, values: Sequence[Any]) -> bytes:
    if values and all(isinstance(value, str) for value in values):
        return struct.pack("<IQ", _STRING, len(values)) + b"".join(_text(value, "value") for value in values)
    kind = _kind(key, values) if values else 5
    return struct.pack("<IQ", kind, len(values)) + np.array(values, _little(kind)).tobytes()


def _little(kind: int) -> np.dtype[Any]:
    return np.dtype(_SCALARS[kind] if kind == 7 else "<" + _SCALARS[kind])


def _kind(key: str, values: Sequence[Any]) -> int:
    """The number of the first type that holds all values: bool, u32, i32, u64, i64, f32, f64."""
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return 7
    if kinds == {int}:
        for kind, low, high in ((4, 0, 1 << 32), (5, -(1 << 31), 1 << 31), (10, 0, 1 << 64), (11, -_LIMIT, _LIMIT)):
            if low <= min(values) and max(values) < high:
                return kind
    if kinds == {float}:
        exact = all(not math.isfinite(v) or (abs(v) < 3.5e38 and float(np.float32(v)) == v) for v in values)
        return 6 if exact else 12
    raise UnsupportedFeatureError(
        f"GGUF cannot hold the metadata {key!r}: {str(values)[:80]}; it has text, numbers, booleans and lists"
    )
