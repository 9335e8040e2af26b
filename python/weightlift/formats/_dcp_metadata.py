"""What the ``.metadata`` of a checkpoint of torch.distributed.checkpoint says: a pickle of plain records.

It is decoded as any pickle is here, to inert nodes in a closed list of words, and then checked: what is needed of it is
there, of the right kind, and its chunks name files beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError, WeightliftError
from weightlift.formats._pickle import Keyed, Refused, decode_pickle
from weightlift.formats._torch_vocabulary import TorchVocabulary
from weightlift.formats._vocabulary import Named

__all__ = ["MODULE", "Checkpoint", "Chunk", "Item", "ShardedTensor", "parse_metadata"]

MODULE = "torch.distributed.checkpoint.metadata"
_FILES = "torch.distributed.checkpoint.filesystem"
_OLD = "torch.distributed._shard.sharded_tensor.metadata"
_LIMIT = 1 << 63
_MAX_AXES = 64
_RECORDS = frozenset(
    {
        *((MODULE, name) for name in (
            "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties",
            "MetadataIndex", "StorageMeta",
        )),
        (_FILES, "_StorageInfo"),
        (_OLD, "TensorProperties"),
    }
)  # fmt: skip
_ENUMS = frozenset({(MODULE, "_MEM_FORMAT_ENCODING"), (_OLD, "MEM_FORMAT_ENCODING")})
_PATHS = frozenset(
    {
        (module, name)
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    }
)


@dataclass(frozen=True, slots=True)
class Item:
    """Where something that ``torch.save`` made lies: ``length`` bytes at ``offset`` of a file beside the metadata.

    Attributes:
        file: Its name.
        offset: In bytes.
        length: In bytes.
        transforms: What the bytes went through after that (compression); empty: nothing.
    """

    file: str
    offset: int
    length: int
    transforms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a tensor: where it begins, its shape, and where it is stored."""

    begin: tuple[int, ...]
    size: tuple[int, ...]
    item: Item

    def __str__(self) -> str:
        """As messages call it."""
        return f"the chunk of shape {list(self.size)} at {list(self.begin)}"


@dataclass(frozen=True, slots=True)
class ShardedTensor:
    """A tensor: torch's name of its element type, its shape, and the chunks that have elements."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Checkpoint:
    """What is in a checkpoint.

    Attributes:
        entries: By name: tensors, and where other objects are stored.
        paths: Keys and list indices on the way to an entry in the object that was saved; empty if they are not kept.
    """

    entries: Mapping[str, ShardedTensor | Item]
    paths: Mapping[str, tuple[str | int, ...]]


@dataclass(slots=True, eq=False)
class _Record(Keyed):
    """A record of the list: its class and attributes."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)


class _Words(TorchVocabulary):
    """torch's words, and the records of DCP."""

    def find(self, module: str, name: str) -> object:
        """The node of a name."""
        known = (module, name) in _RECORDS or (module, name) in _ENUMS or (module, name) in _PATHS
        return Named(module, name) if known else super().find(module, name)

    def call(self, callee: object, args: tuple[Any, ...]) -> object:
        """Members of enumerations are their numbers, and paths text; neither is needed."""
        if isinstance(callee, Named) and (callee.module, callee.name) in _ENUMS:
            return args[0] if len(args) == 1 and type(args[0]) is int else None
        if isinstance(callee, Named) and (callee.module, callee.name) in _PATHS:
            return "/".join(str(part) for part in args if type(part) is str)
        return super().call(callee, args)

    def new(self, kind: object, args: tuple[Any, ...]) -> object:
        """An empty record."""
        if isinstance(kind, Named) and (kind.module, kind.name) in _RECORDS and not args:
            return _Record(kind.name)
        return super().new(kind, args)

    def build(self, target: object, state: object) -> None:
        """The attributes of a record; those of a TensorProperties are a tuple, the type first."""
        if type(target) is not _Record:
            return super().build(target, state)
        if target.kind == "TensorProperties" and type(state) is tuple and state:
            target.fields["dtype"] = state[0]
        elif type(state) is dict and all(type(key) is str for key in state):
            target.fields.update(state)
        else:
            raise FormatError(f"a {target.kind} has attributes of the kind {type(state).__name__}")
        return None


def parse_metadata(data: bytes, *, skip_unsafe: bool = False) -> Checkpoint:
    """The checked content of a ``.metadata``.

    Raises:
        FormatError: It is malformed, or incomplete.
        UnsafeContentError: It names code, or files elsewhere.
        UnsupportedFeatureError: It is of another kind of storage.
    """
    root, end = decode_pickle(data, _Words(skip_unsafe=skip_unsafe))
    if end != len(data):
        raise FormatError(f"{len(data) - end} bytes after the pickle", offset=end, end=len(data))
    metadata = _record(root, "Metadata", "the pickle")
    entries = metadata.get("state_dict_metadata")
    if type(entries) is not dict or not all(type(name) is str for name in entries):
        raise FormatError("the metadata have no state_dict_metadata by names")
    stored = _stored(metadata.get("storage_data"))
    found: dict[str, ShardedTensor | Item] = {}
    for name, entry in entries.items():
        try:
            found[name] = _entry(name, entry, stored)
        except WeightliftError as error:
            raise error.locate(tensor=name) from None
    return Checkpoint(found, _paths(metadata.get("planner_data"), found))


_Stored = Mapping[tuple[str, tuple[int, ...] | None], Any]


def _record(value: object, kind: str, what: str) -> Mapping[str, Any]:
    """The attributes of a record of this kind."""
    if isinstance(value, Refused):
        raise UnsafeContentError(f"{what} is {value.name}, which is never made")
    if not isinstance(value, _Record) or value.kind != kind:
        found = value.kind if isinstance(value, _Record) else type(value).__name__.lower()
        raise FormatError(f"{what} is a {found[:80]}, not a {kind}")
    return value.fields


def _stored(value: object) -> _Stored:
    """Where each chunk and object is, by its name and where it begins."""
    if type(value) is not dict:
        raise UnsupportedFeatureError(
            "the metadata do not say where the files have what; only what torch's own file system writer saves is read"
        )
    found: dict[tuple[str, tuple[int, ...] | None], Any] = {}
    for key, place in value.items():
        index = _record(key, "MetadataIndex", "a key of the storage")
        name, begin = index.get("fqn"), index.get("offset")
        if type(name) is not str:
            raise FormatError("a key of the storage has no name")
        where = name, None if begin is None else _numbers(begin, "offset in a key of the storage")
        if where in found:
            raise FormatError(f"the chunk at {where[1]} is stored twice", tensor=name)
        found[where] = place
    return found


def _entry(name: str, entry: object, stored: _Stored) -> ShardedTensor | Item:
    """One entry, checked but for whether its chunks fill it."""
    if isinstance(entry, _Record) and entry.kind == "BytesStorageMetadata":
        return _item(stored.get((name, None)), "the object")
    fields = _record(entry, "TensorStorageMetadata", "the entry")
    dtype = _record(fields.get("properties"), "TensorProperties", "its properties").get("dtype")
    if not isinstance(dtype, Named) or dtype.module != "torch":
        raise FormatError(f"its type is {str(dtype)[:80]!r}")
    shape = _numbers(fields.get("size"), "size")
    listed = fields.get("chunks")
    if type(listed) is not list:
        raise FormatError("its chunks are no list")
    chunks = []
    for number, one in enumerate(listed):
        box = _record(one, "ChunkStorageMetadata", f"chunk {number}")
        begin, size = _numbers(box.get("offsets"), "offsets"), _numbers(box.get("sizes"), "sizes")
        if len(begin) != len(shape) or len(size) != len(shape):
            raise FormatError(f"chunk {number} has {len(begin)} offsets and {len(size)} sizes; {len(shape)} axes")
        if any(b + n > whole for b, n, whole in zip(begin, size, shape, strict=True)):
            raise FormatError(f"chunk {number}, {list(size)} at {list(begin)}, reaches out of the shape {list(shape)}")
        if 0 not in size:
            what = f"chunk {number}, {list(size)} at {list(begin)},"
            chunks.append(Chunk(begin, size, _item(stored.get((name, begin)), what)))
    return ShardedTensor(dtype.name, shape, tuple(chunks))


def _item(value: object, what: str) -> Item:
    """Where something is stored; UnsafeContentError for a file that may be elsewhere."""
    if value is None:
        raise FormatError(f"the metadata do not say where {what} is stored")
    place = _record(value, "_StorageInfo", f"the place of {what}")
    file = place.get("relative_path")
    if type(file) is not str or not file or file in (".", "..") or any(c in file for c in "/\\:\0"):
        raise UnsafeContentError(f"{what} is in the file {str(file)[:200]!r}; only files beside .metadata are read")
    transforms = place.get("transform_descriptors") or ()
    if type(transforms) not in (list, tuple) or not all(type(word) is str for word in transforms):
        raise FormatError(f"what was done to the bytes of {what} is not said in words")
    offset, length = _numbers((place.get("offset"), place.get("length")), f"place of {what}")
    return Item(file, offset, length, tuple(transforms))


def _numbers(values: object, what: str) -> tuple[int, ...]:
    if type(values) is not tuple or len(values) > _MAX_AXES:
        raise FormatError(f"the {what} is a {type(values).__name__.lower()}; a few numbers are expected")
    for value in values:
        if type(value) is not int or not 0 <= value < _LIMIT:
            raise FormatError(f"the {what} has {str(value)[:40]}; it must be a number from 0 to 2**63 - 1")
    return values


def _paths(value: object, names: Iterable[str]) -> Mapping[str, tuple[str | int, ...]]:
    """The planner's paths, if these are those of torch's own planner, for all names."""
    if type(value) is not dict or not all(_is_path(path) for path in value.values()):
        return {}
    return {name: value.get(name) or (name,) for name in names} if value else {}


def _is_path(value: object) -> bool:
    return type(value) is tuple and 0 < len(value) <= _MAX_AXES and all(type(key) in (str, int) for key in value)
