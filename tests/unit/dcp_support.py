"""Checkpoints of torch.distributed.checkpoint of any content, good or bad, made byte by byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from tests.unit import torch_support as made

METADATA = "torch.distributed.checkpoint.metadata"
FILES = "torch.distributed.checkpoint.filesystem"


class Raw(bytes):
    """Opcodes that put one value on the stack."""


def value(item: Any) -> Raw:
    """The opcodes of a value."""
    match item:
        case Raw():
            return item
        case None:
            return Raw(b"N")
        case str():
            return Raw(made.text(item))
        case int():
            return Raw(made.number(item))
        case list():
            return Raw(b"](" + b"".join(map(value, item)) + b"e")
        case tuple():
            return Raw(b"(" + b"".join(map(value, item)) + b"t")
        case dict():
            return Raw(b"}(" + b"".join(value(key) + value(part) for key, part in item.items()) + b"u")
    raise TypeError(item)


def record(kind: str, state: Any, module: str = METADATA) -> Raw:
    """An object with attributes."""
    return Raw(made.name(module, kind) + b")\x81" + value(state) + b"b")


def size(*numbers: int) -> Raw:
    """A torch.Size."""
    return Raw(made.name("torch", "Size") + b"(" + value(numbers) + b"tR")


def properties(dtype: str = "float32", module: str = METADATA, enum: str = "_MEM_FORMAT_ENCODING") -> Raw:
    """Those of a tensor."""
    layout = Raw(made.name("torch.serialization", "_get_layout") + value(("torch.strided",)) + b"R")
    order = Raw(made.name(module, enum) + value((0,)) + b"R")
    state = (Raw(made.name("torch", dtype)), layout, Raw(b"\x89"), order, Raw(b"\x89"))
    return record("TensorProperties", state, module)


def tensor(shape: Sequence[int], chunks: Sequence[tuple[Sequence[int], Sequence[int]]], **props: str) -> Raw:
    """The entry of a tensor; ``chunks`` are (offsets, sizes)."""
    boxes = [record("ChunkStorageMetadata", {"offsets": size(*b), "sizes": size(*n)}) for b, n in chunks]
    return record("TensorStorageMetadata", {"properties": properties(**props), "size": size(*shape), "chunks": boxes})


def index(name: str, begin: Sequence[int] | None = None) -> Raw:
    """A key of the storage."""
    return record("MetadataIndex", {"fqn": name, "offset": None if begin is None else size(*begin)})


def place(file: str, offset: int, length: int, **more: Any) -> Raw:
    """Where something is stored."""
    return record("_StorageInfo", {"relative_path": file, "offset": offset, "length": length, **more}, FILES)


OBJECT = record("BytesStorageMetadata", {})


def metadata(entries: Mapping[str, Raw], storage: Mapping[Raw, Raw], planner: Any = None, **more: Any) -> bytes:
    """The file."""
    state = {"state_dict_metadata": dict(entries), "planner_data": planner, "storage_data": dict(storage), **more}
    return made.pickled(record("Metadata", state))


def saved(shape: Sequence[int], content: bytes, stride: Sequence[int] | None = None) -> bytes:
    """A float32 tensor, as ``torch.save`` stores one."""
    steps = stride or [prod(shape[i + 1 :]) for i in range(len(shape))]
    held = made.storage(numel=len(content) // 4)
    return made.archive(made.pickled(made.tensor(tuple(shape), tuple(steps), 0, held)), {"0": content})


def write(
    folder: Path, parts: Mapping[str, bytes], entries: Mapping[str, Raw], keys: Mapping[str, Raw], **more: Any
) -> Path:
    """A checkpoint of one data file; ``parts`` are what is stored, and ``keys`` the keys of the storage, by a label."""
    data, storage = b"", {}
    for label, content in parts.items():
        storage[keys[label]] = place("__0_0.distcp", len(data), len(content))
        data += content
    folder.mkdir(exist_ok=True)
    (folder / "__0_0.distcp").write_bytes(data)
    (folder / ".metadata").write_bytes(metadata(entries, storage, **more))
    return folder
