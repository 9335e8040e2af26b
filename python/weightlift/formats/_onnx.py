"""The initialisers of ONNX models, read and written without ONNX.

Reading: every initialiser of the graph, by its name: ``raw_data`` and packed floats are extents of the file, values in
other typed fields are decoded, and external data are extents of the files beside the model. Nodes are skipped.

Writing: a model whose graph has initialisers and nothing else, as ``onnx.load`` reads it, below protobuf's 2 GiB.

Specification: docs/formats/onnx.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from weightlift._dtypes import DTYPES, DType, byte_size
from weightlift._layout import Extent, Inline, Layout, Piece, TensorEntry, TensorTable
from weightlift._packing import Checksums, PackedFile, Packing, PackOptions, Placements, TensorSpecs
from weightlift._strings import varint
from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError, WeightliftError
from weightlift.formats._npy import check_options
from weightlift.formats._onnx_proto import Initialiser, Model, parse_model, typed_bytes, varints
from weightlift.formats._storable import refuse, unstorable
from weightlift.protocols import Files, Reader

__all__ = ["ONNX"]

_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn",
    18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4_e2m1fn",
    24: "float8_e8m0fnu",
}  # fmt: skip
_NUMBERS = {name: number for number, name in _TYPES.items()}
_FLOATS = {"float32": 4, "complex64": 4, "float64": 10, "complex128": 10}
"""Types whose typed field holds their bytes, and that field."""

_WORDS = {"int64": 7, "uint32": 11, "uint64": 11}
"""Types that are numbers in another field than ``int32_data``."""

_IR, _OPSET = 8, 17
_MOST = (1 << 31) - 1  # protobuf's limit
_TAGS = (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72)


class Onnx:
    """The format; see the module."""

    name = "onnx"
    suffixes: Sequence[str] = (".onnx",)
    metadata_in_file = True

    def sniff(self, head: bytes, size: int) -> bool:
        """A ModelProto that begins with its version, which is not 1: a SavedModel begins so."""
        return len(head) > 3 and head[0] == 0x08 and 2 <= head[1] <= 64 and head[2] in _TAGS

    def read(self, files: Files, name: str) -> Layout:
        """The initialisers."""
        reader = files.open(name)
        try:
            layout = _layout(files, name, reader, parse_model(reader))
        except WeightliftError as error:
            raise error.locate(path=reader.name) from None
        return layout.validate([files.open(source).size for source in layout.sources])

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> dict[int, str]:
        """Arrays are stored as they are."""
        if quantize:
            raise UnsupportedFeatureError("onnx stores arrays as they are; quantize= needs a tfjs model.json or .gguf")
        refuse("onnx", unstorable(specs, lambda dtype: dtype.name in _NUMBERS))
        return {}

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """The graph is the last field, so that a file that is cut off says so."""
        check_options("onnx", options, compressions=())
        heads = []
        for tensor, dtype, shape, nbytes in zip(specs.names, specs.dtypes, specs.shapes, specs.nbytes, strict=True):
            dims = b"".join(_number(1, int(n)) for n in shape)
            inner = dims + _number(2, _NUMBERS[dtype.name]) + _field(8, tensor.encode("utf-8"))
            inner += _tag(9, int(nbytes))
            heads.append(_tag(5, len(inner) + int(nbytes)) + inner)
        graph = _field(2, b"weights")
        total = len(graph) + sum(map(len, heads)) + int(specs.nbytes.sum())
        opset = _field(8, _number(2, _OPSET))
        first = (
            _number(1, _IR) + _field(2, b"weightlift") + opset + _properties(options.metadata) + _tag(7, total) + graph
        )
        if len(first) + total > _MOST:
            raise UnsupportedFeatureError(f"an ONNX model of {total} bytes; protobuf holds 2 GiB: use .safetensors")
        literals, offsets, at = [], [], 0
        heads = [first + heads[0], *heads[1:]] if heads else [first]
        for head, nbytes in zip(heads, specs.nbytes.tolist() or [0], strict=True):
            literals.append((at, head))
            at += len(head)
            offsets.append(at)
            at += nbytes
        rows = np.arange(len(specs), dtype=np.uint32)
        placements = Placements.whole(
            rows, np.zeros(len(rows), np.uint32), np.array(offsets[: len(rows)], np.uint64), specs.nbytes.copy()
        )
        packed = PackedFile(name, at, tuple(literals))
        return Packing([packed], placements, sidecar=True, structure=options.structure)

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """Nothing in the file depends on checksums."""
        return {}

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """There is none."""
        raise UnsupportedFeatureError("onnx has no manifest")


# --- reading --------------------------------------------------------------------------------------
def _layout(files: Files, name: str, reader: Reader, model: Model) -> Layout:
    sources = {name: 0}
    for tensor in model.tensors:
        if tensor.location == 1:
            location = _plain_name(tensor)
            sources.setdefault(location, len(sources))
    files.prepare(list(sources))
    entries: dict[str, TensorEntry] = {}
    objects: dict[str, object] = {}
    for tensor in model.tensors:
        try:
            if not tensor.name or tensor.name in entries or tensor.name in objects:
                raise FormatError("an initialiser has no name, or that of another")
            entries[tensor.name] = _entry(reader, tensor, sources)
        except UnsupportedFeatureError as error:
            objects[tensor.name] = error.locate(path=reader.name, tensor=tensor.name)
        except FormatError as error:
            raise error.locate(tensor=tensor.name or None, offset=tensor.begin, end=tensor.end) from None
    for sparse in model.sparse:
        objects[sparse] = UnsupportedFeatureError("a sparse initialiser", path=reader.name, tensor=sparse)
    return Layout(
        "onnx", TensorTable.from_entries(entries), tuple(sources), objects=objects, metadata=model.metadata, shared=True
    )


def _plain_name(tensor: Initialiser) -> str:
    """The file that external data are in; UnsafeContentError if it may be out of the model's folder."""
    location = tensor.external.get("location", "")
    if not location or location in (".", "..") or any(c in location for c in "/\\\0") or location[1:2] == ":":
        raise UnsafeContentError(
            f"external data in {location[:200]!r}: only a file beside the model is read", tensor=tensor.name
        )
    return location


def _entry(reader: Reader, tensor: Initialiser, sources: Mapping[str, int]) -> TensorEntry:
    kind = _TYPES.get(tensor.type)
    if kind is None or tensor.segmented:
        what = "a part of a tensor" if tensor.segmented else f"elements of the type {tensor.type}"
        raise UnsupportedFeatureError(f"{what}{' (text)' if tensor.type == 8 else ''}")
    dtype, shape = DTYPES[kind], tuple(tensor.dims)
    if prod(n for n in shape if n) * 16 >= 1 << 63:
        raise FormatError(f"a tensor of shape {list(shape)} exceeds 64 bits")
    nbytes = byte_size(dtype, shape)
    if tensor.location == 1:
        where: Extent | Inline = _external(tensor, sources, nbytes)
    elif tensor.location != 0:
        raise UnsupportedFeatureError(f"data in the place {tensor.location}")
    elif tensor.raw is not None:
        where = Extent(0, *tensor.raw)
    else:
        where = _typed(reader, tensor, dtype)
    found = len(where.data) if isinstance(where, Inline) else where.nbytes
    if found != nbytes:
        raise FormatError(f"{dtype} of shape {list(shape)} takes {nbytes} bytes, {found} are there")
    return TensorEntry(dtype, shape, (Piece(where),))


def _external(tensor: Initialiser, sources: Mapping[str, int], nbytes: int) -> Extent:
    """Where external data are; ``validate`` sees that they lie in their file."""
    numbers = {}
    for key, default in (("offset", 0), ("length", nbytes)):
        text = tensor.external.get(key, str(default))
        if not text.isascii() or not text.isdigit() or len(text) > 19:
            raise FormatError(f"external_data has the {key} {text[:80]!r}")
        numbers[key] = int(text)
    return Extent(sources[tensor.external["location"]], numbers["offset"], numbers["length"])


def _typed(reader: Reader, tensor: Initialiser, dtype: DType) -> Extent | Inline:
    """Values in a field of their type: floats as they are, others as numbers of variable size."""
    field = _FLOATS.get(dtype.name) or _WORDS.get(dtype.name) or 5
    others = sorted(set(tensor.typed) - {field})
    if others:
        raise FormatError(f"{dtype} has values in field {others[0]}, which is not that of its type")
    runs = tensor.typed.get(field, [])
    if dtype.packed and runs:
        raise UnsupportedFeatureError(f"{dtype} in a typed field")
    if dtype.name in _FLOATS:
        if len(runs) == 1:
            return Extent(0, *runs[0][:2])
        return Inline(typed_bytes(reader, runs))
    values = np.array(varints(typed_bytes(reader, runs)), np.uint64)
    word = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[dtype.bits // 8]
    return Inline(values.astype(word).tobytes())  # negative numbers are those of 64 bits


# --- writing --------------------------------------------------------------------------------------
def _tag(number: int, count: int) -> bytes:
    """The beginning of a field of so many bytes."""
    return varint(number << 3 | 2) + varint(count)


def _field(number: int, data: bytes) -> bytes:
    return _tag(number, len(data)) + data


def _number(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def _properties(metadata: Mapping[str, Any]) -> bytes:
    """metadata_props, which are text."""
    wrong = [key for key, value in metadata.items() if not isinstance(value, str)]
    if wrong:
        raise UnsupportedFeatureError(
            f"ONNX's metadata are text; {wrong[0]!r} is a {type(metadata[wrong[0]]).__name__}"
        )
    return b"".join(_field(14, _field(1, k.encode()) + _field(2, v.encode())) for k, v in metadata.items())


ONNX = Onnx()
"""The format, as it stands in ``FORMATS``."""
