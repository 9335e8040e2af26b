"""Bundles put together by hand, also such as no writer makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weightlift._checksum import crc32c
from weightlift._strings import encode_varint_strings, masked
from weightlift.formats._tensorbundle_proto import field
from weightlift.formats._tensorbundle_table import build_table

HEADER = field(1, 1) + field(3, field(1, 1))


@dataclass
class Tensor:
    """An entry in the making; ``slices`` (start, length or None) by axis: it has no bytes of its own then."""

    dtype: int
    shape: Sequence[int]
    data: bytes = b""
    shard: int = 0
    slices: Sequence[Sequence[tuple[int, int | None]]] = ()
    crc: int | None = None


def strings(shape: Sequence[int], values: Sequence[bytes]) -> Tensor:
    """A tensor of strings."""
    data, crc = encode_varint_strings(values)
    return Tensor(7, shape, data, crc=crc)


def bundle(
    tensors: Mapping[bytes, Tensor], *, header: bytes = HEADER, shards: int = 1, prefix: str = "x"
) -> dict[str, bytes]:
    """The files of a bundle, by name; data files packed back to back."""
    files = {f"{prefix}.data-{i:05}-of-{shards:05}": bytearray() for i in range(shards)}
    pairs = []
    for key, tensor in tensors.items():
        dims = b"".join(field(2, field(1, n) if n else b"") for n in tensor.shape)
        message = field(1, tensor.dtype) + field(2, dims)
        if tensor.slices:
            message += b"".join(field(7, _slice(axes)) for axes in tensor.slices)
        else:
            file = files[f"{prefix}.data-{tensor.shard:05}-of-{shards:05}"]
            crc = crc32c(tensor.data) if tensor.crc is None else tensor.crc
            message += field(3, tensor.shard) + field(4, len(file)) + field(5, len(tensor.data))
            message += field(6, masked(crc), fixed32=True)
            file += tensor.data
        pairs.append((key, message))
    table = build_table([(b"", header), *sorted(pairs)])
    return {f"{prefix}.index": table, **{name: bytes(data) for name, data in files.items()}}


def _slice(axes: Sequence[tuple[int, int | None]]) -> bytes:
    extents = []
    for begin, length in axes:
        extents.append((field(1, begin) if begin else b"") + (b"" if length is None else field(2, length)))
    return b"".join(field(1, extent) for extent in extents)


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files; the index's path."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return next(folder / name for name in files if name.endswith(".index"))
