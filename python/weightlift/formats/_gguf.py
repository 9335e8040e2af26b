"""GGUF, the files of llama.cpp (versions 2 and 3, either byte order), read and written without it.

Reading: metadata are the key-value pairs. Plain types are arrays; blocks of quantised values are uint8 arrays whose
last axis is in bytes, as gguf-py has them, and ``metadata["gguf.types"]`` names their types; with ``dequantize`` they
are float32. One shard of ``NAME-00001-of-00003.gguf`` stands for all.

Writing: version 3, little-endian: float32, float16, bfloat16, float64, int8 to int64, blocks of tensors that
``gguf.types`` names, and ``quantize="Q8_0"``. Checksums go to the sidecar.

Specification: docs/formats/gguf.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from weightlift._dtypes import DTYPES, DType
from weightlift._ggml import BIG_ENDIAN_BLOCKS, BLOCKS, DEQUANTIZED
from weightlift._globs import matches
from weightlift._layout import Extent, Layout, Piece, ReadOptions, TensorEntry, TensorTable
from weightlift._packing import Checksums, PackedFile, Packing, PackOptions, Placements, TensorSpecs
from weightlift._steps import Blocks, Byteswap
from weightlift.errors import FormatError, NotFoundError, UnsupportedFeatureError, WeightliftError
from weightlift.formats._gguf_header import MAGIC, PLAIN, Header, Info, parse_gguf, write_header
from weightlift.formats._npy import check_options
from weightlift.formats._storable import refuse, unstorable
from weightlift.protocols import Files

__all__ = ["GGUF", "TYPES"]

TYPES = "gguf.types"
"""The key of the metadata under which the types of blocks are, by tensor."""

_SHARD = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)
_NUMBERS = {name: number for number, name in PLAIN.items()}
_QUANTIZED = "Q8_0"
_MAX_SHARDS = 10_000


class Gguf:
    """The format; see the module."""

    name = "gguf"
    suffixes: Sequence[str] = (".gguf",)
    metadata_in_file = True

    def sniff(self, head: bytes, size: int) -> bool:
        """By the magic string."""
        return head.startswith(MAGIC)

    def read(self, files: Files, name: str) -> Layout:
        """Tensors, blocks as bytes."""
        return self.read_with(files, name, ReadOptions())

    def read_with(self, files: Files, name: str, options: ReadOptions) -> Layout:
        """Tensors; with ``dequantize``, blocks as the values that they stand for."""
        entries: dict[str, TensorEntry] = {}
        types: dict[str, str] = {}
        metadata: dict[str, Any] = {}
        objects: dict[str, object] = {}
        names = []
        for number, (shard, header) in enumerate(_shards(files, name)):
            names.append(shard)
            if number == 0:
                metadata = {key: v for key, v in header.metadata.items() if not key.startswith("split.")}
            for info in header.tensors:
                if info.name in entries or info.name in objects:
                    raise FormatError("two shards have this tensor", tensor=info.name, path=files.open(shard).name)
                try:
                    entries[info.name] = _entry(info, header, number, dequantize=options.dequantize)
                except UnsupportedFeatureError as error:
                    objects[info.name] = error.locate(path=files.open(shard).name)
                if info.type not in PLAIN and not options.dequantize:
                    types[info.name] = info.type_name
        if types:
            metadata[TYPES] = types
        layout = Layout("gguf", TensorTable.from_entries(entries), tuple(names), metadata=metadata, objects=objects)
        return layout.validate([files.open(shard).size for shard in names])

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> dict[int, str]:
        """Tensors are stored as they are; what is to be quantised is blocks already."""
        held = unstorable(specs, lambda dtype: dtype.name in _NUMBERS or dtype.name == "uint8")
        refuse("GGUF", held, f"; the types are {', '.join(_NUMBERS)}")
        return {}

    def blocks(
        self, quantize: Any, names: Sequence[str], dtypes: Sequence[DType], shapes: Sequence[tuple[int, ...]]
    ) -> Mapping[int, str]:
        """The rows that ``quantize`` asks to be stored in blocks, and in which type."""
        wanted = {quantize: True} if isinstance(quantize, str) else dict(quantize)
        if list(wanted) != [_QUANTIZED]:
            raise UnsupportedFeatureError(f"GGUF is written with quantize={_QUANTIZED!r}, not {list(wanted)}")
        globs: Any = wanted[_QUANTIZED]
        chosen: dict[int, str] = {}
        for i, (name, dtype, shape) in enumerate(zip(names, dtypes, shapes, strict=True)):
            fits = bool(shape) and shape[-1] % 32 == 0 and dtype.name in ("float32", "float16", "bfloat16", "float64")
            matrix = fits and len(shape) > 1  # vectors stay exact, as llama.cpp has them
            asked = matrix if globs is True else matches(name, globs)
            if asked and not fits:
                raise UnsupportedFeatureError(
                    f"{dtype} of shape {list(shape)} is not of blocks of 32 numbers", tensor=name
                )
            if asked:
                chosen[i] = _QUANTIZED
        return chosen

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """Header, then tensors in order, aligned."""
        check_options("gguf", options, compressions=())
        if _SHARD.fullmatch(name):
            raise UnsupportedFeatureError(f"{name!r} is the name of a shard; GGUF is written as one file")
        metadata = dict(options.metadata)
        types = metadata.pop(TYPES, {})
        rows = [
            (n, *_stored_type(n, dtype, shape, types), int(nbytes))
            for n, dtype, shape, nbytes in zip(specs.names, specs.dtypes, specs.shapes, specs.nbytes, strict=True)
        ]
        header, offsets = write_header(metadata, rows)
        numbers = np.arange(len(specs), dtype=np.uint32)
        placements = Placements.whole(
            numbers, np.zeros(len(specs), np.uint32), np.array(offsets, np.uint64), specs.nbytes.copy()
        )
        end = offsets[-1] + int(specs.nbytes[-1]) if offsets else len(header)
        padding = -end % int(metadata.get("general.alignment", 32))
        literals = ((0, header), *(((end, bytes(padding)),) if padding else ()))
        return Packing(
            [PackedFile(name, end + padding, literals)], placements, sidecar=True, structure=options.structure
        )

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """Nothing in the file depends on checksums."""
        return {}

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """There is none."""
        raise UnsupportedFeatureError("gguf has no manifest")


def _stored_type(
    name: str, dtype: DType, shape: tuple[int, ...], types: Mapping[str, str]
) -> tuple[tuple[int, ...], int]:
    """The shape in elements and the number of the type of a row."""
    if dtype.name != "uint8":
        return shape, _NUMBERS[dtype.name]
    block = BLOCKS.get(types.get(name, "")) if isinstance(types, Mapping) else None
    if block is None:
        raise UnsupportedFeatureError(
            f"GGUF has no uint8; bytes are blocks of a type that metadata[{TYPES!r}] gives, or of no meaning",
            tensor=name,
        )
    if not shape or shape[-1] % block.nbytes:
        raise UnsupportedFeatureError(
            f"{list(shape)} bytes are not whole blocks of {block.nbytes} bytes of {block.name}", tensor=name
        )
    return (*shape[:-1], shape[-1] // block.nbytes * block.elements), block.number


def _entry(info: Info, header: Header, source: int, *, dequantize: bool) -> TensorEntry:
    """The row of a tensor."""
    where = Extent(source, header.data + info.offset, info.nbytes)
    plain = PLAIN.get(info.type)
    if plain is not None:
        dtype = DTYPES[plain]
        swap = (Byteswap(dtype.word, dtype.bits // 8),) if header.big and dtype.word > 1 else ()
        return TensorEntry(dtype, info.shape, (Piece(where, swap),))
    block = BLOCKS[info.type_name]
    if not dequantize:
        shape = (*info.shape[:-1], info.shape[-1] // block.elements * block.nbytes)
        return TensorEntry(DTYPES["uint8"], shape, (Piece(where),))
    known = BIG_ENDIAN_BLOCKS if header.big else tuple(DEQUANTIZED)
    if block.name not in known:
        raise UnsupportedFeatureError(
            f"values of {block.name}{' in big-endian files' if header.big else ''} are not computed; read them as raw "
            f"blocks, without dequantize=True (known are {', '.join(known)})",
            tensor=info.name,
        )
    return TensorEntry(DTYPES["float32"], info.shape, (Piece(where, (Blocks(block.name, header.big),)),))


def _shards(files: Files, name: str) -> Iterator[tuple[str, Header]]:
    """The file, or all shards of the set that it belongs to, and their headers."""
    header = _parse(files, name)
    count = header.metadata.get("split.count", 1)
    if type(count) is not int or not 0 <= count <= _MAX_SHARDS:
        raise FormatError(f"split.count is {str(count)[:40]}", path=files.open(name).name)
    if count <= 1:
        yield name, header
        return
    named = _SHARD.fullmatch(name)
    if named is None or int(named[3]) != count:
        raise FormatError(
            f"a file of {count} shards must be called NAME-00001-of-{count:05d}.gguf", path=files.open(name).name
        )
    names = [f"{named[1]}-{number:05d}-of-{named[3]}.gguf" for number in range(1, count + 1)]
    files.prepare(names)
    total = 0
    for number, shard in enumerate(names):
        try:
            found = header if shard == name else _parse(files, shard)
        except NotFoundError as error:
            raise NotFoundError(f"the shard {shard!r} of {count} is not there", path=error.path) from None
        total += len(found.tensors)
        if found.metadata.get("split.no") != number or found.metadata.get("split.count") != count:
            raise FormatError(f"it does not say that it is shard {number} of {count}", path=files.open(shard).name)
        yield shard, found
    if header.metadata.get("split.tensors.count", total) != total:
        raise FormatError(
            f"the shards hold {total} tensors, split.tensors.count says {header.metadata['split.tensors.count']}",
            path=files.open(name).name,
        )


def _parse(files: Files, name: str) -> Header:
    reader = files.open(name)
    try:
        return parse_gguf(reader)
    except WeightliftError as error:
        raise error.locate(path=reader.name) from None


GGUF = Gguf()
"""The format, as it stands in ``FORMATS``."""
