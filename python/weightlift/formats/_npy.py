"""NumPy's ``.npy``: a header and one array.

Reading: the header says type, shape and order; the data follows it to the end of the file, one extent.
Big-endian numbers become native by a byte swap; Fortran order stays as it is, as strides. Types that only
NumPy knows (structs, dates, strings, long double) pass as raw bytes, whatever their byte order.

Writing: byte for byte what ``np.save`` writes for a C-order array; only types of ml_dtypes, of which npy
keeps no more than the size, need the sidecar to come back as what they were.

Stricter than ``np.load``: bytes after the array are refused (NumPy ignores them), and so is every pickle.
Specification: numpy.org/doc/stable/reference/generated/numpy.lib.format.html; docs/formats/npy.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from weightlift._json import impostor
from weightlift._layout import Extent, Layout, Piece, TensorEntry, TensorTable
from weightlift._packing import Checksums, PackedFile, Packing, PackOptions, Placements, TensorSpecs
from weightlift._tree import SINGLE
from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.formats._npy_header import (
    HEAD_BYTES,
    MAGIC,
    Header,
    build_header,
    header_length,
    object_shape,
    parse_header,
)
from weightlift.protocols import Files, Reader

__all__ = ["NPY", "check_encodable", "check_options"]

_FIRST_READ = 4096  # holds nearly every header


class Npy:
    """The npy format; see the module."""

    name = "npy"
    suffixes: Sequence[str] = (".npy",)
    metadata_in_file = False

    def sniff(self, head: bytes, size: int) -> bool:
        """By the magic string; what holds a pickle is another format."""
        if not head.startswith(MAGIC):
            return False
        try:
            return object_shape(head[: header_length(head)]) is None
        except FormatError:
            return True  # whose reader says what is wrong with it

    def read(self, files: Files, name: str) -> Layout:
        """The one array, called ``tensor``."""
        reader = files.open(name)
        try:
            header = _read_header(reader)
            found = reader.size - header.nbytes
            if found < header.data_nbytes:
                raise FormatError(
                    f"truncated: {header.dtype} of shape {header.shape} takes {header.data_nbytes} bytes, "
                    f"{found} are there",
                    offset=header.nbytes,
                    end=reader.size,
                )
            if found > header.data_nbytes:
                raise _trailing_error(reader, header)
        except FormatError as error:
            error.locate(path=reader.name, tensor=SINGLE)
            raise
        piece = Piece(Extent(0, header.nbytes, header.data_nbytes), header.steps)
        entry = TensorEntry(header.dtype, header.shape, (piece,), header.strides)
        layout = Layout("npy", TensorTable.from_entries({SINGLE: entry}), (name,), structure=SINGLE)
        return layout.validate([reader.size])

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> dict[int, str]:
        """Arrays are stored as they are."""
        check_encodable("npy", specs, quantize)
        return {}

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """Header, then data; one array only."""
        check_options("npy", options, compressions=())
        if options.structure != SINGLE or len(specs) != 1:
            raise UnsupportedFeatureError(
                f"npy holds one array, and {len(specs)} in a container were given; use .npz or .safetensors, or, for "
                "a pickle as np.save makes it, format='npy-pickle'"
            )
        header = build_header(specs.dtypes[0], specs.shapes[0])
        nbytes = int(specs.nbytes[0])
        file = PackedFile(name, len(header) + nbytes, ((0, header),))
        first = np.zeros(1, np.uint32)
        offset = np.array([len(header)], np.uint64)
        return Packing([file], Placements.whole(first, first, offset, specs.nbytes.copy()), sidecar=True)

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """Nothing in an npy file depends on checksums."""
        return {}

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """There is none."""
        raise UnsupportedFeatureError("npy has no manifest")


def check_encodable(format_name: str, specs: TensorSpecs, quantize: object) -> None:
    """UnsupportedFeatureError for what npy's types cannot hold, with every tensor's name."""
    if quantize:
        raise UnsupportedFeatureError(f"{format_name} stores arrays as they are; quantize= needs a tfjs model.json")
    refused = [f"{specs.names[i]} (strings)" for i in sorted(specs.strings)]
    for name, dtype in zip(specs.names, specs.dtypes, strict=True):
        if not dtype.core:
            try:
                build_header(dtype, ())
            except UnsupportedFeatureError as error:
                refused.append(f"{name} ({error.message})")
    if refused:
        raise UnsupportedFeatureError(
            f"{format_name} cannot hold {', '.join(refused)}; convert them to a type with a fixed size"
        )


def check_options(format_name: str, options: PackOptions, *, compressions: Sequence[str]) -> None:
    """UnsupportedFeatureError for options that NumPy's formats have no place for."""
    if options.shard_size is not None:
        raise UnsupportedFeatureError(f"{format_name} is one file; shard_size= needs .safetensors or model.json")
    if options.compression is not None and options.compression not in compressions:
        hint = f"; known are {', '.join(compressions)}" if compressions else "; .npz has compression='deflate'"
        raise UnsupportedFeatureError(f"{format_name} has no compression {options.compression!r}{hint}")
    if options.extra:
        raise UnsupportedFeatureError(
            f"{format_name} holds arrays only, no {', '.join(sorted(options.extra))}; save models as model.json"
        )


def _read_header(reader: Reader) -> Header:
    head = reader.read_at(0, min(reader.size, _FIRST_READ))
    found = impostor(head)
    if found is not None:
        raise FormatError(f"not an npy file: it is {found}", offset=0)
    length = 0
    try:
        length = header_length(head[:HEAD_BYTES])
        if length > reader.size:
            raise FormatError(f"truncated: npy header of {length} bytes in a file of {reader.size}")
        return parse_header(head[:length] if length <= len(head) else reader.read_at(0, length))
    except FormatError as error:
        error.locate(offset=0, end=min(length or HEAD_BYTES, reader.size))
        raise


def _trailing_error(reader: Reader, header: Header) -> FormatError:
    end = header.nbytes + header.data_nbytes
    more = reader.size - end
    another = reader.read_at(end, min(more, len(MAGIC))) == MAGIC
    hint = "another array begins there: use .npz for several" if another else "NumPy would ignore them"
    return FormatError(f"{more} bytes after the array; {hint}", offset=end, end=reader.size)


NPY = Npy()
"""The format, as it stands in ``FORMATS``."""
