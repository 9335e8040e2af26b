"""The MessagePack that Flax writes, parsed: maps, lists and plain values, arrays by where they lie.

Specification: github.com/msgpack/msgpack/blob/master/spec.md; Flax's extensions: docs/formats/flax.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.formats._pickle_file import PickledFile
from weightlift.protocols import Reader

__all__ = ["CHUNKED", "FlaxArray", "parse_flax"]

CHUNKED = "__msgpack_chunked_array__"
"""The key of a map that stands for an array in pieces."""

_MAX_DEPTH = 100
_MAX_AXES = 64
_MAX_PLAIN = 1 << 20  # bytes of a string that is no array's
_LIMIT = 1 << 63
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i",
    0xD3: ">q",
}  # fmt: skip
_CONSTANTS: dict[int, Any] = {0xC0: None, 0xC2: False, 0xC3: True}


@dataclass(frozen=True, slots=True, eq=False)
class FlaxArray:
    """An array.

    Attributes:
        shape: In elements.
        dtype: NumPy's or ml_dtypes' name of the type.
        runs: Where its elements are: (offset, bytes), one run after another.
    """

    shape: tuple[int, ...]
    dtype: str
    runs: tuple[tuple[int, int], ...]

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return sum(count for _, count in self.runs)


def parse_flax(reader: Reader) -> tuple[Any, int]:
    """What a file holds, and how many bytes of it are not arrays'.

    Raises:
        FormatError: It is malformed, or goes on behind its value.
        UnsupportedFeatureError: It holds an extension that is not Flax's.
    """
    parser = _Parser(reader)
    try:
        value = parser.value(0)
        if parser.at != reader.size:
            raise FormatError(f"{reader.size - parser.at} bytes behind the value")
    except FormatError as error:
        raise error.locate(offset=parser.begin, end=parser.at) from None
    return value, parser.data.fetched


class _Parser:
    """A position in the file; ``begin`` is where the last value began."""

    def __init__(self, reader: Reader) -> None:
        self.data = PickledFile(reader, 0, reader.size)
        self.at = 0
        self.end = reader.size
        self.begin = 0

    def take(self, count: int) -> bytes:
        if count > self.end - self.at:
            raise FormatError(f"the data end within {count} bytes")
        found: bytes = self.data[self.at : self.at + count] if count else b""
        self.at += count
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def value(self, depth: int) -> Any:
        """The next value."""
        self.begin = self.at
        if depth > _MAX_DEPTH:
            raise FormatError(f"values nested deeper than {_MAX_DEPTH}")
        code = self.take(1)[0]
        if code < 0x80 or code >= 0xE0:
            return code if code < 0x80 else code - 256
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in _NUMBERS:
            form = _NUMBERS[code]
            return struct.unpack(form, self.take(struct.calcsize(form)))[0]
        if code < 0xA0 or code in (0xDC, 0xDD, 0xDE, 0xDF):
            return self.container(code, depth)
        if code < 0xC0 or code in (0xD9, 0xDA, 0xDB):
            return self.text(code & 31 if code < 0xC0 else self.number(1 << (code - 0xD9)))
        if code in (0xC4, 0xC5, 0xC6):
            return self.plain(self.number(1 << (code - 0xC4)))
        if 0xC7 <= code <= 0xC9:
            return self.extension(self.number(1 << (code - 0xC7)))
        if 0xD4 <= code <= 0xD8:
            return self.extension(1 << (code - 0xD4))
        raise FormatError(f"no value begins with the byte 0x{code:02x}")

    def plain(self, count: int) -> bytes:
        if count > min(_MAX_PLAIN, self.end - self.at):
            raise FormatError(f"a string of {count} bytes; at most {_MAX_PLAIN}, and what is left, are read")
        return self.take(count)

    def text(self, count: int) -> str:
        raw = self.plain(count)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"text that is not UTF-8: {raw[:80]!r}") from None

    def container(self, code: int, depth: int) -> Any:
        mapped = code < 0x90 or code >= 0xDE
        count = code & 15 if code < 0xA0 else self.number(4 if code & 1 else 2)
        if count > (self.end - self.at) // (2 if mapped else 1):
            raise FormatError(f"a container of {count} values where {self.end - self.at} bytes are left")
        if not mapped:
            return [self.value(depth + 1) for _ in range(count)]
        found: dict[Any, Any] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if type(key) not in (str, int, bool, type(None), float) or key in found:
                raise FormatError(f"the key {str(key)[:80]!r} is not text or a number, or there twice")
            found[key] = self.value(depth + 1)
        return _whole(found) if CHUNKED in found else found

    def extension(self, count: int) -> Any:
        kind, begin, outer = self.number(1), self.at, self.end
        if count > outer - begin:
            raise FormatError(f"an extension of {count} bytes where {outer - begin} are left")
        read: Callable[[], Any] | None = {_ARRAY: self.array, _SCALAR: self.array, _COMPLEX: self.complex}.get(kind)
        if read is None:
            raise UnsupportedFeatureError(f"the extension {kind}, which is not one of Flax's")
        self.end = begin + count
        found = read()
        if self.at != self.end:
            raise FormatError(f"an extension of {count} bytes holds {self.at - begin}")
        self.end = outer
        return found

    def complex(self) -> complex:
        parts = self.value(_MAX_DEPTH - 1)
        if type(parts) is not list or len(parts) != 2 or {*map(type, parts)} - {int, float}:
            raise FormatError("a complex number is not two numbers")
        return complex(*parts)

    def array(self) -> FlaxArray:
        """``[shape, name of the type, elements]``, the last of which are not read."""
        if self.take(1) != b"\x93":
            raise FormatError("an array is not (shape, type, elements)")
        shape = _shape(self.value(_MAX_DEPTH - 1))
        name = self.value(_MAX_DEPTH)
        if type(name) is bytes:
            name = name.decode("latin-1")
        if type(name) is not str or len(name) > 80:
            raise FormatError("the type of an array has no name")
        code = self.take(1)[0]
        if code not in (0xC4, 0xC5, 0xC6):
            raise FormatError("the elements of an array are not a string of bytes")
        count = self.number(1 << (code - 0xC4))
        if count > self.end - self.at:
            raise FormatError(f"elements of {count} bytes where {self.end - self.at} are left")
        begin = self.at
        self.at += count
        return FlaxArray(shape, name, ((begin, count),))


def _shape(value: Any) -> tuple[int, ...]:
    if type(value) is not list or len(value) > _MAX_AXES or any(type(n) is not int or n < 0 for n in value):
        raise FormatError(f"the shape of an array is {str(value)[:80]}")
    if prod(n for n in value if n) >= _LIMIT:
        raise FormatError(f"an array of shape {str(value)[:80]} exceeds 64 bits")
    return tuple(value)


def _whole(pieces: dict[Any, Any]) -> FlaxArray:
    """The array that a map of chunks stands for."""
    shape, chunks = _listed(pieces.get("shape")), _listed(pieces.get("chunks"))
    if set(pieces) != {CHUNKED, "shape", "chunks"} or not all(isinstance(chunk, FlaxArray) for chunk in chunks):
        raise FormatError("a chunked array is not a shape and chunks")
    kinds = {chunk.dtype for chunk in chunks}
    if len(kinds) != 1:
        raise FormatError(f"the chunks of an array are of {len(kinds)} types")
    return FlaxArray(_shape(shape), kinds.pop(), tuple(run for chunk in chunks for run in chunk.runs))


def _listed(value: Any) -> list[Any]:
    """A list, which Flax writes as a map of its numbers."""
    if type(value) is not dict or list(value) != [str(i) for i in range(len(value))]:
        raise FormatError("a list in a chunked array is not a map of numbers")
    return list(value.values())
