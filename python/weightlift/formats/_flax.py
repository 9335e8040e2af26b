"""Flax's files: ``flax.serialization.to_bytes``, and the checkpoints of one file that it wrote before Orbax.

Reading: one MessagePack value, nested maps of arrays; the arrays are extents of the file.

Writing: what ``from_bytes`` and ``msgpack_restore`` read. Lists are maps of their numbers there, as Flax has them; that
they were lists is in the sidecar, with the checksums.

Specification: docs/formats/flax.md.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weightlift._dtypes import DTYPES, DType
from weightlift._layout import Chain, Extent, Layout, Piece, TensorEntry, TensorTable
from weightlift._packing import Checksums, PackedFile, Packing, PackOptions, Placements, TensorSpecs
from weightlift.errors import FormatError, UnsupportedFeatureError, WeightliftError
from weightlift.formats._flax_msgpack import CHUNKED, FlaxArray, parse_flax
from weightlift.formats._npy import check_options
from weightlift.formats._storable import refuse, unstorable
from weightlift.formats._torch_tree import TableWalk, settle_names
from weightlift.protocols import Files

__all__ = ["CHUNK", "FLAX"]

CHUNK = 1 << 30
"""Bytes from which Flax writes an array in pieces of so many."""


class Flax:
    """The format; see the module."""

    name = "flax"
    keeps_values = True
    suffixes: Sequence[str] = (".msgpack",)
    metadata_in_file = False

    def sniff(self, head: bytes, size: int) -> bool:
        """A map whose first key is text, or an array by itself, that ends no later than the file."""
        if len(head) < 3:
            return False
        first = {0xDE: 3, 0xDF: 5}.get(head[0], 1 if 0x81 <= head[0] <= 0x8F else 0)
        if first:
            return _begins_with_text(head[first:])
        begin = {0xC7: 2, 0xC8: 3, 0xC9: 5, **dict.fromkeys(range(0xD4, 0xD9), 1)}.get(head[0])
        return begin is not None and head[begin : begin + 2] == b"\x01\x93"

    def read(self, files: Files, name: str) -> Layout:
        """The arrays in the value, and the maps around them."""
        reader = files.open(name)
        try:
            root, parsed = parse_flax(reader)
            walk = _Walk(root, budget=10 * parsed + 1000)
        except WeightliftError as error:
            raise error.locate(path=reader.name) from None
        for refused in walk.objects.values():
            refused.locate(path=reader.name)
        layout = Layout(
            "flax", TensorTable.from_entries(walk.tensors), (name,), objects=walk.objects, structure=walk.structure
        )
        return layout.validate([reader.size])

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> dict[int, str]:
        """Arrays are stored as they are, in the types that JAX has."""
        if quantize:
            raise UnsupportedFeatureError("flax stores arrays as they are; quantize= needs a tfjs model.json or .gguf")
        refuse("flax", unstorable(specs, _known))
        return {}

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """One map, arrays in the order of the structure."""
        check_options("flax", options, compressions=())
        structure = settle_names(specs, options.structure)
        writer = _Writer(specs)
        writer.node(structure)
        literals, offsets, at, taken = [], [], 0, 0
        for position, _, _, count in [*writer.gaps, (len(writer.out), 0, 0, 0)]:
            literals.append((at, bytes(writer.out[taken:position])))
            at += position - taken
            taken = position
            offsets.append(at)
            at += count
        rows = [(row, start, count) for _, row, start, count in writer.gaps]
        columns = np.array(rows, np.uint64).reshape(-1, 3)
        placements = Placements(
            columns[:, 0].astype(np.uint32), np.zeros(len(rows), np.uint32), np.array(offsets[:-1], np.uint64),
            columns[:, 2].copy(), columns[:, 1].copy(),
        )  # fmt: skip
        kept = None if options.structure is None else structure
        file = PackedFile(name, at, tuple(literals))
        return Packing([file], placements, sidecar=True, structure=kept, listed=True)

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """Nothing in the file depends on checksums."""
        return {}

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """There is none."""
        raise UnsupportedFeatureError("flax has no manifest")


def _begins_with_text(data: bytes) -> bool:
    """Whether a key follows that is printable text, and a value."""
    if not data:
        return False
    if 0xA1 <= data[0] <= 0xBF:
        begin, count = 1, data[0] & 31
    elif data[0] == 0xD9 and len(data) > 1:
        begin, count = 2, data[1]
    else:
        return False
    try:
        return data[begin : begin + count].decode("utf-8").isprintable() and len(data) > begin + count
    except UnicodeDecodeError:
        return False


def _known(dtype: DType) -> bool:
    return dtype.core and not dtype.packed


# --- reading --------------------------------------------------------------------------------------
class _Walk(TableWalk):
    """The arrays in a value, by name."""

    array = FlaxArray
    leaves = (FlaxArray,)

    def _entry(self, value: Any) -> TensorEntry:
        return _entry(value)


def _entry(array: FlaxArray) -> TensorEntry:
    dtype = DTYPES.get(array.dtype)
    if dtype is None or not _known(dtype):
        raise UnsupportedFeatureError(f"elements of the type {array.dtype[:80]!r}")
    wanted = int(np.prod(array.shape, dtype=object)) * dtype.bits // 8
    if array.nbytes != wanted:
        begin, end = array.runs[0][0], sum(array.runs[-1])
        raise FormatError(
            f"{dtype} of shape {list(array.shape)} takes {wanted} bytes, {array.nbytes} are there",
            offset=begin,
            end=end,
        )
    extents = tuple(Extent(0, offset, count) for offset, count in array.runs)
    return TensorEntry(dtype, array.shape, (Piece(extents[0] if len(extents) == 1 else Chain(extents)),))


# --- writing --------------------------------------------------------------------------------------
class _Writer:
    """MessagePack, with gaps for the elements of arrays.

    Attributes:
        gaps: Where in ``out`` bytes of a row belong: (position, row, first byte, bytes).
    """

    def __init__(self, specs: TensorSpecs) -> None:
        self.out = bytearray()
        self.gaps: list[tuple[int, int, int, int]] = []
        self._specs = specs
        self._number = {name: i for i, name in enumerate(specs.names)}

    def node(self, node: Any) -> None:
        """A node of a structure (see ``_tree``)."""
        if isinstance(node, str):
            self.tensor(self._number[node])
            return
        ((kind, items),) = node.items()
        if kind in ("list", "tuple"):
            items = [[str(i), item] for i, item in enumerate(items)]
        if kind in ("dict", "list", "tuple"):
            self.out += _counted(len(items), 0x80, 15, {2: 0xDE, 4: 0xDF})
            for key, item in items:
                if not isinstance(key, str):
                    raise UnsupportedFeatureError(f"the key {key!r}: flax has text for keys")
                self.out += _packed(key)
                self.node(item)
        elif kind == "value":
            self.out += _packed(items)
        elif kind == "float":
            self.out += _packed(float(items))
        elif kind == "bytes":
            self.out += _binary(len(bytes.fromhex(items))) + bytes.fromhex(items)
        elif kind == "complex":
            self.out += b"\xc7\x13\x02\x92" + b"".join(_packed(float(part)) for part in items)
        else:
            raise UnsupportedFeatureError(f"flax has no place for a {kind}")

    def tensor(self, row: int) -> None:
        """An array, in pieces if it is large."""
        shape, nbytes = self._specs.shapes[row], int(self._specs.nbytes[row])
        dtype = self._specs.dtypes[row]
        if nbytes <= CHUNK:
            self._array(row, shape, 0, nbytes)
            return
        item = dtype.bits // 8
        step = CHUNK // item * item
        self.out += b"\x83" + _packed(CHUNKED) + b"\xc3" + _packed("shape")
        self.out += _counted(len(shape), 0x80, 15, {2: 0xDE, 4: 0xDF})
        for i, n in enumerate(shape):
            self.out += _packed(str(i)) + _packed(int(n))
        starts = range(0, nbytes, step)
        self.out += _packed("chunks") + _counted(len(starts), 0x80, 15, {2: 0xDE, 4: 0xDF})
        for i, start in enumerate(starts):
            count = min(step, nbytes - start)
            self.out += _packed(str(i))
            self._array(row, (count // item,), start, count)

    def _array(self, row: int, shape: tuple[int, ...], start: int, count: int) -> None:
        inner = b"\x93" + _counted(len(shape), 0x90, 15, {2: 0xDC, 4: 0xDD}) + b"".join(_packed(int(n)) for n in shape)
        inner += _packed(self._specs.dtypes[row].name) + _binary(count)
        total = len(inner) + count
        fixed = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}.get(total)
        head = bytes((fixed,)) if fixed else _sized(total, {1: 0xC7, 2: 0xC8, 4: 0xC9})
        self.out += head + b"\x01" + inner
        self.gaps.append((len(self.out), row, start, count))


def _sized(count: int, codes: Mapping[int, int]) -> bytes:
    """A code and a length, in the fewest bytes."""
    for size, code in codes.items():
        if count < 1 << 8 * size:
            return bytes((code,)) + count.to_bytes(size, "big")
    raise UnsupportedFeatureError(f"MessagePack has no strings of {count} bytes")


def _counted(count: int, small: int, most: int, codes: Mapping[int, int]) -> bytes:
    return bytes((small + count,)) if count <= most else _sized(count, codes)


def _binary(count: int) -> bytes:
    return _sized(count, {1: 0xC4, 2: 0xC5, 4: 0xC6})


def _packed(value: Any) -> bytes:
    """A plain value."""
    if value is None or isinstance(value, bool):
        return b"\xc0" if value is None else b"\xc3" if value else b"\xc2"
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, int):
        if 0 <= value < 128 or -32 <= value < 0:
            return bytes((value & 255,))
        for code, size in ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)) if value >= 0 else ((0xD3, 8),):
            if -(1 << 63) <= value < 1 << 8 * size:
                return bytes((code,)) + value.to_bytes(size, "big", signed=value < 0)
        raise UnsupportedFeatureError(f"MessagePack has no integer {value}: they have 64 bits")
    raw = str(value).encode("utf-8")
    return _counted(len(raw), 0xA0, 31, {1: 0xD9, 2: 0xDA, 4: 0xDB}) + raw


FLAX = Flax()
"""The format, as it stands in ``FORMATS``."""
