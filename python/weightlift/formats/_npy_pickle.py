"""NumPy's ``.npy`` around a pickle: what ``np.save`` makes of a dict, or of a list of different arrays.

Reading: the pickle is decoded by ``_pickle``, which runs nothing, in the words of ``_numpy_vocabulary``; the arrays in
it are extents of the file (``_npy_objects``).

Writing, asked for by ``format="npy-pickle"`` or a name that ends in ``.pickle.npy``: protocol 3 (4 for an array of
4 GiB and more), in words that NumPy 1 and 2 both know. A dict becomes an array of no axes, as ``np.save`` makes it,
a list one of one axis. Checksums, metadata and what pickles do not tell (a tuple at the top) go to the sidecar.

Specification: docs/formats/npy.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weightlift._dtypes import DType, array_shape
from weightlift._layout import Layout, ReadOptions, TensorTable
from weightlift._packing import Checksums, PackedFile, Packing, PackOptions, Placements, TensorSpecs
from weightlift._tree import SINGLE
from weightlift.errors import FormatError, UnsupportedFeatureError, WeightliftError
from weightlift.formats._npy import NPY, check_encodable, check_options
from weightlift.formats._npy_header import MAX_HEADER, build_object_header, header_length, object_shape
from weightlift.formats._npy_objects import check_repeated, decode_objects
from weightlift.formats._pickle_file import PickledFile
from weightlift.formats._torch_pickle import PickleWriter
from weightlift.formats._torch_tree import names_in, settle_names
from weightlift.protocols import Files, Reader

__all__ = ["NPY_PICKLE"]

_BYTES4 = 1 << 32


class NpyPickle:
    """The format; see the module."""

    name = "npy-pickle"
    keeps_values = True
    suffixes: Sequence[str] = (".pickle.npy", ".npy")
    metadata_in_file = False

    def sniff(self, head: bytes, size: int) -> bool:
        """By the magic string, and an element type of objects."""
        try:
            return object_shape(head[: header_length(head)]) is not None
        except FormatError:
            return False

    def read(self, files: Files, name: str) -> Layout:
        """The arrays in what was saved, and what was around them."""
        return self.read_with(files, name, ReadOptions())

    def read_with(self, files: Files, name: str, options: ReadOptions) -> Layout:
        """Likewise; with ``skip_unsafe``, what is code is left out."""
        reader = files.open(name)
        try:
            shape, begin = _header(reader)
            if shape is None:
                return NPY.read(files, name)
            walk = decode_objects(
                PickledFile(reader, begin, reader.size),
                shape,
                where=begin,
                located=True,
                skip_unsafe=options.skip_unsafe,
            )
            check_repeated(walk.tensors, reader.size)
        except WeightliftError as error:
            raise error.locate(path=reader.name) from None
        for refused in walk.objects.values():
            refused.locate(path=reader.name)
        rows = sorted(walk.tensors.items(), key=lambda item: [e.offset for p in item[1].pieces for e in p.extents])
        table = TensorTable.from_entries(dict(rows))
        layout = Layout(
            "npy-pickle", table, (name,), objects=walk.objects, structure=walk.structure, shared=True,
            extra={"skipped": walk.skipped} if walk.skipped else {},
        )  # fmt: skip
        return layout.validate([reader.size])

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> dict[int, str]:
        """Arrays are stored as they are."""
        check_encodable("npy-pickle", specs, quantize)
        return {}

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """Header, and a pickle with the arrays' data in it; an array alone needs no pickle."""
        check_options("npy-pickle", options, compressions=())
        if options.structure == SINGLE:
            return NPY.pack(specs, name, options)
        structure = settle_names(specs, options.structure)
        header, writer = _pickled(structure, specs)
        literals, offsets, at, taken = [], [], len(header), 0
        first = header
        for position, row in [*writer.gaps, (len(writer.out), -1)]:
            literal = first + bytes(writer.out[taken:position])
            literals.append((at - len(first), literal))
            at += position - taken
            first, taken = b"", position
            if row >= 0:
                offsets.append(at)
                at += int(specs.nbytes[row])
        rows = np.array([row for _, row in writer.gaps], np.uint32)
        placements = Placements.whole(
            rows, np.zeros(len(rows), np.uint32), np.array(offsets, np.uint64), specs.nbytes[rows].copy()
        )
        file = PackedFile(name, at, tuple(literals))
        kept = None if options.structure is None else structure
        return Packing([file], placements, sidecar=True, structure=kept)

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """Nothing in the file depends on checksums."""
        return {}

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """There is none."""
        raise UnsupportedFeatureError("npy-pickle has no manifest")


def _header(reader: Reader) -> tuple[tuple[int, ...] | None, int]:
    """The shape of the array of objects, None for another array; and where the data begins."""
    head = reader.read_at(0, min(reader.size, 4096))
    length = header_length(head)
    if length > reader.size or length > MAX_HEADER:
        raise FormatError(f"truncated: npy header of {length} bytes in a file of {reader.size}", offset=0)
    return object_shape(head[:length] if length <= len(head) else reader.read_at(0, length)), length


def _pickled(structure: Any, specs: TensorSpecs) -> tuple[bytes, _Writer]:
    """The header, and the pickle with gaps for the arrays, which stand in the order of ``specs``."""
    ((kind, items),) = structure.items()
    listed = kind in ("list", "tuple")
    shape = (len(items),) if listed else ()
    writer = _Writer(specs)
    writer.begin(shape)
    if names_in(structure)[0] != specs.names:
        writer.ahead()
    if listed:
        writer.out += b"]"
        writer.group(items, b"e")
    else:
        writer.out += b"]"
        writer.node(structure)
        writer.out += b"a"
    writer.out += b"tb."
    return build_object_header(shape), writer


class _Writer(PickleWriter):
    """Opcodes, with gaps for the elements of arrays.

    Attributes:
        gaps: Where in ``out`` the elements of a row belong, and the row.
    """

    def __init__(self, specs: TensorSpecs) -> None:
        super().__init__()
        self.gaps: list[tuple[int, int]] = []
        self._specs = specs
        self._number = {name: i for i, name in enumerate(specs.names)}
        self._types: dict[DType, int] = {}
        self._ahead: dict[str, int] = {}
        self._next = 1 << 16  # memo numbers beyond those of words
        large = len(specs) and int(specs.nbytes.max()) >= _BYTES4
        self.out += b"\x80\x04" if large else b"\x80\x03"

    def begin(self, shape: tuple[int, ...]) -> None:
        """The array of objects, up to its list."""
        self._empty_array()
        self.out += b"(K\x01"
        self.plain(shape)
        self._element_type(np.dtype(object))
        self.out += b"\x89"

    def ahead(self) -> None:
        """All arrays, to be fetched later: the structure has them in another order."""
        for name in self._specs.names:
            self.tensor(name)
            self._ahead[name] = self._put()
            self.out += b"0"

    def word(self, module: str, name: str) -> None:
        """A name, as Python 3 has it: protocol 3 translates none."""
        super().word("builtins" if module == "__builtin__" else module, name)

    def tensor(self, name: str) -> None:
        """An array, its elements a gap."""
        known = self._ahead.get(name)
        if known is not None:
            self._get(known)
            return
        i = self._number[name]
        dtype, nbytes = self._specs.dtypes[i], int(self._specs.nbytes[i])
        self._empty_array()
        self.out += b"(K\x01"
        self.plain(tuple(int(n) for n in array_shape(dtype, self._specs.shapes[i])))
        number = self._types.get(dtype)
        if number is None:
            self._element_type(dtype.numpy)
            self._types[dtype] = self._put()
        else:
            self._get(number)
        wide = nbytes >= _BYTES4
        self.out += b"\x89" + (b"\x8e" if wide else b"B") + nbytes.to_bytes(8 if wide else 4, "little")
        self.gaps.append((len(self.out), i))
        self.out += b"tb"

    def plain(self, value: Any) -> None:
        """What the state of an element type is made of."""
        if isinstance(value, np.dtype):
            self._element_type(value)
        elif isinstance(value, type):
            self.word("ml_dtypes", value.__name__)
        elif isinstance(value, tuple):
            self.out += b"("
            for item in value:
                self.plain(item)
            self.out += b"t"
        elif isinstance(value, Mapping):
            self.out += b"}("
            for key, item in value.items():
                self.plain(key)
                self.plain(item)
            self.out += b"u"
        elif isinstance(value, bytes):
            self.out += b"C" + bytes((len(value),)) + value
        else:
            self.scalar(value)

    def _empty_array(self) -> None:
        self.word("numpy.core.multiarray", "_reconstruct")
        self.word("numpy", "ndarray")
        self.out += b"K\x00\x85C\x01b\x87R"

    def _element_type(self, dtype: np.dtype[Any]) -> None:
        """As NumPy itself says it."""
        parts: Any = dtype.__reduce__()
        _, args, state = parts
        self.word("numpy", "dtype")
        self.plain(args)
        self.out += b"R"
        self.plain(state)
        self.out += b"b"

    def _put(self) -> int:
        self.out += b"r" + self._next.to_bytes(4, "little")
        self._next += 1
        return self._next - 1

    def _get(self, number: int) -> None:
        self.out += b"j" + number.to_bytes(4, "little")


NPY_PICKLE = NpyPickle()
"""The format, as it stands in ``FORMATS``."""
