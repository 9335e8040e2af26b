"""Pickles for ``torch.load``: protocol 2, in the words that ``weights_only=True`` knows."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from weightlift._dtypes import DType
from weightlift.errors import FormatError, UnsupportedFeatureError

__all__ = ["KINDS", "PickleWriter", "StorageRow", "write_pickle"]

_CLASSES = {
    "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
    "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage",
    "uint8": "ByteStorage", "bool": "BoolStorage", "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}  # fmt: skip
"""Types that storages have had a class for since long ago."""

_NEWER = {
    **{name: name for name in (
        "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
        "float8_e8m0fnu",
    )},
    "float4_e2m1fn": "float4_e2m1fn_x2",
}  # fmt: skip
"""Types that only tensors have: their storages are bytes."""

KINDS = (*_CLASSES, *_NEWER)
"""What torch has a type for."""

_MARK, _STOP = b"(", b"."


@dataclass(frozen=True, slots=True)
class StorageRow:
    """A tensor that is all of a storage, in C order: the storage's key, its type and shape, and its bytes."""

    key: str
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int


def write_pickle(structure: Any, row: Callable[[str], StorageRow]) -> bytes:
    """The pickle of a structure (see ``_tree``), whose names stand for the tensors that ``row`` knows."""
    writer = _Writer(row)
    writer.out += b"\x80\x02"
    writer.node(structure)
    return bytes(writer.out + _STOP)


class PickleWriter:
    """Opcodes, one node after another; what recurs in every tensor is written once and fetched from the memo."""

    def __init__(self) -> None:
        self.out = bytearray()
        self._memo: dict[bytes, int] = {}

    def once(self, code: bytes) -> None:
        """A part that recurs."""
        known = self._memo.get(code)
        if known is not None:
            self.out += bytes((0x68, known))
            return
        self._memo[code] = number = len(self._memo)
        self.out += code + bytes((0x71, number))

    def word(self, module: str, name: str) -> None:
        self.once(f"c{module}\n{name}\n".encode())

    def node(self, node: Any) -> None:
        if isinstance(node, str):
            self.tensor(node)
            return
        ((kind, items),) = node.items()
        if kind == "dict":
            self.out += b"}"
            if items:
                self.out += _MARK
                for key, item in items:
                    self.scalar(key)
                    self.node(item)
                self.out += b"u"
        elif kind == "list":
            self.out += b"]"
            self.group(items, b"e")
        elif kind == "tuple":
            self.out += _MARK
            for item in items:
                self.node(item)
            self.out += b"t"
        elif kind == "set":
            self.word("__builtin__", "set")
            self.out += _MARK + b"]"
            self.group(items, b"e")
            self.out += b"tR"
        else:
            self.value(kind, items)

    def group(self, items: list[Any], end: bytes) -> None:
        if items:
            self.out += _MARK
            for item in items:
                self.node(item)
            self.out += end

    def value(self, kind: str, text: Any) -> None:
        if kind == "value":
            self.scalar(text)
        elif kind == "float":
            self.scalar(float(text))
        elif kind == "complex":
            self.word("__builtin__", "complex")
            self.out += _MARK
            for part in text:
                self.scalar(float(part))
            self.out += b"tR"
        elif kind == "bytes":
            self.word("_codecs", "encode")
            self.out += _MARK
            self.scalar(bytes.fromhex(text).decode("latin-1"))
            self.once(_text("latin1"))
            self.out += b"tR"
        else:
            raise FormatError(f"malformed structure: {kind[:80]!r}")

    def scalar(self, value: Any) -> None:
        if value is None:
            self.out += b"N"
        elif isinstance(value, bool):
            self.out += b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            self.out += _integer(value)
        elif isinstance(value, float):
            self.out += b"G" + struct.pack(">d", value)
        else:
            self.out += _text(value)

    def tensor(self, name: str) -> None:
        """What stands for the tensor of a name."""
        raise FormatError(f"a pickle of plain values holds no tensor {name[:80]!r}")


class _Writer(PickleWriter):
    """Tensors as torch has them."""

    def __init__(self, row: Callable[[str], StorageRow]) -> None:
        super().__init__()
        self._row = row

    def tensor(self, name: str) -> None:
        """The call that rebuilds a tensor, which is what torch.save writes."""
        row = self._row(name)
        newer = _NEWER.get(row.dtype.name)
        shape, numel = row.shape, prod(row.shape)
        if newer is not None:
            numel = row.nbytes
            if row.dtype.packed:
                shape = _packed_shape(row)
        self.word("torch._utils", "_rebuild_tensor_v2" if newer is None else "_rebuild_tensor_v3")
        self.out += _MARK + _MARK
        self.once(_text("storage"))
        if newer is None:
            self.word("torch", _CLASSES[row.dtype.name])
        else:
            self.word("torch.storage", "UntypedStorage")
        self.out += _text(row.key)
        self.once(_text("cpu"))
        self.out += _integer(numel) + b"tQK\x00" + _integers(shape) + _integers(_strides(shape)) + b"\x89"
        self.word("collections", "OrderedDict")
        self.out += b")R"
        if newer is not None:
            self.word("torch", newer)
        self.out += b"tR"


def _packed_shape(row: StorageRow) -> tuple[int, ...]:
    """The shape in bytes."""
    if not row.shape or row.shape[-1] % 2:
        raise UnsupportedFeatureError(
            f"torch cannot hold {row.dtype} of shape {list(row.shape)}: it packs two in a byte"
        )
    return (*row.shape[:-1], row.shape[-1] // 2)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """As torch gives them to a contiguous tensor, for which an axis of no elements counts as one."""
    step, strides = 1, []
    for size in reversed(shape):
        strides.append(step)
        step *= max(1, size)
    return tuple(reversed(strides))


def _integers(values: tuple[int, ...]) -> bytes:
    return _MARK + b"".join(map(_integer, values)) + b"t"


def _integer(value: int) -> bytes:
    if 0 <= value < 1 << 8:
        return bytes((0x4B, value))
    if 0 <= value < 1 << 16:
        return b"M" + value.to_bytes(2, "little")
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    size = value.bit_length() // 8 + 1
    if size > 255:
        raise UnsupportedFeatureError(f"an integer of {size} bytes; at most 255 are written")
    return bytes((0x8A, size)) + value.to_bytes(size, "little", signed=True)


def _text(value: str) -> bytes:
    try:
        raw = value.encode("utf-8")
    except UnicodeEncodeError:
        raise UnsupportedFeatureError(f"{value[:80]!r} is not Unicode text") from None
    return b"X" + len(raw).to_bytes(4, "little") + raw
