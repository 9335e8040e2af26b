"""What layouts and packings mean, in the plainest NumPy: the measure for the engine and for formats.

No threads, no ranges, everything in memory, one tensor after another. Slow and short on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._checksum import crc32, crc32c
from weightlift._dtypes import STRING, array_shape, byte_size, from_name, from_numpy
from weightlift._ggml import BLOCKS, dequantize_blocks
from weightlift._inflate import inflate
from weightlift._layout import Extent, Fill, Inline, Layout, Piece, TensorEntry
from weightlift._packing import Checksums, Packing, PackOptions, TensorSpecs
from weightlift._steps import (
    AffineDecode,
    Blocks,
    Byteswap,
    Cast,
    Chunks,
    Deflate,
    Sparse,
    Step,
    Strided,
    Strings,
    Tiles,
    UpperHalf,
    VarintStrings,
    Zstd,
)
from weightlift._strings import decode_varint_strings
from weightlift._unchunk import place_chunks
from weightlift._zstd import place_frames
from weightlift.errors import ChecksumError, FormatError, NotFoundError, TruncatedError
from weightlift.protocols import Files, Format, Reader

__all__ = ["MemoryFiles", "MemoryReader", "Written", "read_tensors", "write_tensors"]

Array = npt.NDArray[Any]


class MemoryReader:
    """A Reader of bytes; counts what was read."""

    def __init__(self, data: bytes, name: str) -> None:
        """Read ``data``, called ``name`` in messages."""
        self._data = data
        self._name = name
        self.bytes_read = 0

    @property
    def size(self) -> int:
        """Bytes there are."""
        return len(self._data)

    @property
    def name(self) -> str:
        """For messages."""
        return self._name

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Exactly ``nbytes`` bytes, or TruncatedError."""
        if offset < 0 or nbytes < 0 or offset + nbytes > len(self._data):
            raise TruncatedError("read beyond the end", path=self._name, offset=offset, end=offset + nbytes)
        self.bytes_read += nbytes
        return self._data[offset : offset + nbytes]


class MemoryFiles:
    """Files in a dict of bytes, by relative name."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        """Hold ``contents``; readers are made once and kept in ``readers``."""
        self.contents = contents
        self.readers: dict[str, MemoryReader] = {}

    def open(self, relative: str) -> MemoryReader:
        """The reader of ``relative``; NotFoundError."""
        if relative not in self.contents:
            raise NotFoundError("no such file", path=relative)
        return self.readers.setdefault(relative, MemoryReader(self.contents[relative], relative))

    remote = False

    def prepare(self, names: Sequence[str]) -> None:
        """Nothing to do."""


# --- reading --------------------------------------------------------------------------------------
def read_tensors(layout: Layout, files: Files, *, verify: bool = True) -> dict[str, Array]:
    """Every tensor of ``layout``; ChecksumError where one does not match its checksum."""
    readers = [files.open(name) for name in layout.sources]
    tensors = {}
    for name, entry in layout.tensors.items():
        try:
            tensors[name] = _read_tensor(entry, readers, verify)
        except FormatError as error:
            error.locate(tensor=name)
            raise
    return tensors


def _read_tensor(entry: TensorEntry, readers: list[Reader], verify: bool) -> Array:
    checksum = entry.checksum
    crc = 0 if checksum is None else checksum.initial
    decoded = []
    for piece in entry.pieces:
        stored = _stored_bytes(piece, readers)
        if checksum is not None:
            crc = (crc32c if checksum.kind == "crc32c" else crc32)(stored, crc)
        decoded.append(_decode(piece, stored, readers, verify))
    if verify and checksum is not None and crc != checksum.value:
        raise ChecksumError(f"{checksum.kind} is {crc:08x}, expected {checksum.value:08x}")
    if any(isinstance(value, list) for value in decoded):
        strings: Array = np.empty(entry.shape, object)
        strings.reshape(-1)[:] = [string for value in decoded for string in value]
        return strings
    data = b"".join(decoded)
    if len(data) != byte_size(entry.dtype, entry.shape):
        raise FormatError(f"{len(data)} bytes decoded for {entry.dtype} of shape {entry.shape}")
    shape = array_shape(entry.dtype, entry.shape)
    array: Array = np.ndarray(shape, entry.dtype.numpy, bytearray(data), strides=entry.strides)
    return array


def _stored_bytes(piece: Piece, readers: list[Reader]) -> bytes:
    if isinstance(piece.where, Inline):
        return piece.where.data
    if isinstance(piece.where, Fill):
        return bytes([piece.where.value]) * piece.where.nbytes
    return b"".join(readers[e.source].read_at(e.offset, e.nbytes) for e in piece.extents)


def _decode(piece: Piece, stored: bytes, readers: list[Reader], verify: bool) -> Any:
    """The bytes of the tensor's part, or a list of strings."""
    data: Any = stored
    for step in piece.steps:
        if isinstance(step, Deflate):
            out = bytearray(step.nbytes - step.skip)
            if not isinstance(piece.where, Extent):
                raise FormatError("only extents are deflated")
            inflate(readers[piece.where.source], piece.where, step, out, verify=verify)
            data = bytes(out)
        elif isinstance(step, Strided):
            data = _viewed(step, data)
        elif isinstance(step, Chunks):
            data = place_chunks(step, data, verify=verify).tobytes()
        elif isinstance(step, Zstd):
            data = place_frames(step, np.frombuffer(data, np.uint8), verify=verify).tobytes()
        elif isinstance(step, Tiles):
            data = _tiled(step, data)
        elif isinstance(step, Blocks):
            data = _values(step, data)
        elif isinstance(step, Sparse):
            data = _densified(step, data)
        elif isinstance(step, Strings):
            data = _split_strings(data, step.count)
        elif isinstance(step, VarintStrings):
            data = decode_varint_strings(data, step.count, step.crc32c if verify else None)
        else:
            data = _convert(step, data)
    return data


def _values(step: Blocks, data: bytes) -> bytes:
    """The values of blocks, one block after another."""
    block = BLOCKS[step.kind]
    out = np.empty((len(data) // block.nbytes, block.elements), np.float32)
    for i, row in enumerate(out):
        one = np.frombuffer(data, np.uint8, block.nbytes, i * block.nbytes)
        dequantize_blocks(step.kind, one, row, big=step.big)
    return out.tobytes()


def _viewed(step: Strided, data: bytes) -> bytes:
    """What a view shows, element by element."""
    dtype = from_name(step.dtype).numpy
    picked = [np.zeros(0, dtype)]
    for index in np.ndindex(step.shape):
        at = step.offset + sum(i * stride for i, stride in zip(index, step.strides, strict=True))
        picked.append(np.frombuffer(data, dtype, 1, at))
    found = np.concatenate(picked)
    found = np.conjugate(found) if step.conj else found
    return (np.negative(found) if step.neg else found).tobytes()


def _tiled(step: Tiles, data: bytes) -> bytes:
    """What boxes make up, element by element."""
    item = from_name(step.dtype).numpy.itemsize
    out = bytearray(len(data))
    at = 0
    for begin, size in step.boxes:
        for index in np.ndindex(size):
            flat = 0
            for axis, whole in enumerate(step.shape):
                flat = flat * whole + begin[axis] + index[axis]
            out[flat * item : (flat + 1) * item] = data[at : at + item]
            at += item
    return bytes(out)


def _densified(step: Sparse, data: bytes) -> bytes:
    """A sparse array with its zeros, element by element."""
    parts, at = {}, 0
    for name, kind, count in step.parts:
        dtype = from_name(kind).numpy
        parts[name] = np.frombuffer(data, dtype, count, at)
        at += count * dtype.itemsize
    array = np.zeros(step.shape, parts["data"].dtype)
    if step.kind == "row_sparse":
        for number, row in enumerate(parts["indices"]):
            if not 0 <= row < len(array):
                raise FormatError(f"row {row} of {len(array)}")
            array[row] = parts["data"].reshape(len(parts["indices"]), *step.shape[1:])[number]
        return array.tobytes()
    indptr = parts.get("indptr", np.zeros(0, np.int64))
    for row in range(len(array) if len(indptr) else 0):
        for k in range(indptr[row], indptr[row + 1]):
            array[row, parts["indices"][k]] = parts["data"][k]
    return array.tobytes()


def _split_strings(data: bytes, count: int) -> list[bytes]:
    strings, at = [], 0
    for _ in range(count):
        length = int.from_bytes(data[at : at + 4], "little")
        strings.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(data):
        raise FormatError(f"{count} strings take {at} of {len(data)} bytes")
    return strings


def _convert(step: Step, data: bytes) -> bytes:
    """A step of fixed size."""
    if isinstance(step, Byteswap):
        return np.frombuffer(data, np.uint8).reshape(-1, step.word)[:, ::-1].tobytes()
    if isinstance(step, Cast):
        values = np.frombuffer(data, from_name(step.source).numpy)
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(from_name(step.target).numpy).tobytes()
    if isinstance(step, UpperHalf):
        return np.frombuffer(data, "<u2")[1::2].tobytes()
    if isinstance(step, AffineDecode):
        values = np.frombuffer(data, from_name(step.stored).numpy).astype(np.float64) * step.scale + step.min
        return values.astype(step.target).tobytes()
    raise FormatError(f"the reference has no {type(step).__name__}")


# --- writing --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Written:
    """A save: what was planned, and the files it made.

    Attributes:
        name: The file to read.
        files: Content by relative name; there is no sidecar.
        specs: As the format left them.
        packing: The plan.
        stored: Each tensor's stored bytes.
        checksums: Of them.
    """

    name: str
    files: Mapping[str, bytes]
    specs: TensorSpecs
    packing: Packing
    stored: list[bytes]
    checksums: Checksums


def write_tensors(
    format: Format, tensors: Mapping[str, Array], name: str, options: PackOptions | None = None
) -> Written:
    """Save ``tensors`` as ``name``, in memory.

    Arrays of objects are arrays of bytes (strings). No quantisation.
    """
    strings = frozenset(i for i, array in enumerate(tensors.values()) if array.dtype.hasobject)
    stored = [_serialise(array) for array in tensors.values()]
    specs = TensorSpecs(
        list(tensors),
        [STRING if a.dtype.hasobject else from_numpy(a.dtype) for a in tensors.values()],
        [array.shape for array in tensors.values()],
        np.array([len(data) for data in stored], np.uint64),
        strings=strings,
    )
    format.encode(specs, None)
    for row, encoding in specs.encodings.items():
        for step in encoding.steps:
            stored[row] = _convert(step, stored[row])
    packing = format.pack(specs, name, options or PackOptions())
    checksums = Checksums(
        np.array([crc32c(data) for data in stored], np.uint32), np.array([crc32(data) for data in stored], np.uint32)
    )
    if packing.compressed:
        parts: list[bytes] = []
        format.compress(packing, enumerate(stored), parts.append)  # type: ignore[attr-defined]
        files = {packing.files[0].name: b"".join(parts)}
    else:
        files = _assemble(format, packing, stored, checksums)
    main = packing.files[0].name if packing.manifest is None else packing.manifest.name
    return Written(main, files, specs, packing, stored, checksums)


def _serialise(array: Array) -> bytes:
    if array.dtype.hasobject:
        return b"".join(len(string).to_bytes(4, "little") + string for string in array.reshape(-1))
    dtype = from_numpy(array.dtype).numpy
    return array.astype(dtype, copy=False).tobytes()


def _assemble(format: Format, packing: Packing, stored: list[bytes], checksums: Checksums) -> dict[str, bytes]:
    """Literals, payload and patches, and the manifest."""
    contents = [bytearray(file.nbytes) for file in packing.files]
    for content, file in zip(contents, packing.files, strict=True):
        for offset, literal in file.literals:
            content[offset : offset + len(literal)] = literal
    where = packing.placements
    columns = (where.tensor, where.file, where.offset, where.nbytes, where.start)
    for tensor, number, offset, nbytes, start in zip(*(column.tolist() for column in columns), strict=True):
        contents[number][offset : offset + nbytes] = stored[tensor][start : start + nbytes]
    for number, patches in format.seal(packing, checksums).items():
        for offset, patch in patches:
            contents[number][offset : offset + len(patch)] = patch
    result = {file.name: bytes(content) for file, content in zip(packing.files, contents, strict=True)}
    if packing.manifest is not None:
        names = {file.name: file.name for file in packing.files}
        result[packing.manifest.name] = format.manifest(packing, checksums, names)
    return result
