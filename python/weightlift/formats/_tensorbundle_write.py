"""Writing TensorFlow's checkpoints: data files, the index, and the ``checkpoint`` file that names the newest.

The data files hold nothing but tensors (and, in a checkpoint of objects, the object graph), each at a multiple of 64,
large ones at the start of a page. Everything else is in the index, which is made when the checksums are known, and
published last. It cannot name its data files: their names follow from its own, their number, and how many there are. So
where a name is taken, the new files are counted as if there were more of them (``counted_otherwise``), which the index
says, until they can have their names.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weightlift._layout import U32, U64
from weightlift._packing import (
    Checksums,
    Companion,
    Manifest,
    PackedFile,
    Packing,
    PackOptions,
    Placements,
    TensorSpecs,
)
from weightlift._strings import encode_varint_strings, masked
from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.formats._storable import refuse, unstorable
from weightlift.formats._tensorbundle_graph import object_graph
from weightlift.formats._tensorbundle_names import GRAPH, key_of
from weightlift.formats._tensorbundle_proto import EXTRA, field
from weightlift.formats._tensorbundle_rows import NUMBERS, STRING_TYPE
from weightlift.formats._tensorbundle_table import build_table

__all__ = ["INDEX", "STATE", "build_index", "counted_otherwise", "data_name", "pack_bundle", "refuse_types"]

INDEX = ".index"
STATE = "checkpoint"
"""The file that names the newest checkpoint of a folder."""

_ALIGNMENT = 64
_PAGE = 4096
_PAGE_FROM = 1 << 20  # tensors from this size on begin on a page, for direct reads and writes
_MOST_FILES = 99_999
_DATA = re.compile(r"(?P<prefix>.+)\.data-(?P<number>\d{5})-of-(?P<count>\d{5})", re.DOTALL)


# --- names of files -----------------------------------------------------------------------------------
def data_name(prefix: str, number: int, count: int) -> str:
    """The name of a data file."""
    return f"{prefix}.data-{number:05}-of-{count:05}"


def counted_otherwise(planned: Sequence[str], taken: Callable[[str], bool]) -> dict[str, str]:
    """Other names for a bundle's data files, none of which is taken: as if there were more of them."""
    found = [_DATA.fullmatch(name) for name in planned]
    least = len(planned) + 1
    while True:
        count = least + secrets.randbelow(_MOST_FILES - least)
        names = {m[0]: data_name(m["prefix"], int(m["number"]), count) for m in found if m is not None}
        if not any(taken(name) for name in names.values()):
            return names


# --- packing ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Item:
    """What the index says of one tensor, but for its checksum; ``row`` None: of the object graph."""

    key: bytes
    row: int | None
    dtype: int
    shape: tuple[int, ...]
    file: int
    offset: int
    nbytes: int


@dataclass(frozen=True)
class _State:
    """What the index is made of once the checksums are known; ``given``: those that are known before."""

    items: Sequence[_Item]
    planned: Sequence[str]
    given: Mapping[int | None, int]
    extra: bytes


def refuse_types(specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> None:
    """UnsupportedFeatureError that lists every tensor of a type that TensorFlow does not have."""
    if quantize:
        raise UnsupportedFeatureError("TensorFlow's checkpoints have no quantisation; use dtype='float16', or tfjs")
    held = unstorable(specs, lambda dtype: dtype.name in NUMBERS, strings=True)
    refuse("TensorFlow's checkpoints", held, f"; the types are {', '.join(sorted(NUMBERS))}")


def pack_bundle(specs: TensorSpecs, name: str, options: PackOptions, *, keys: bool) -> Packing:
    """Data files, an index, and the file that names it; ``keys``: tensors' names are keys as they stand."""
    prefix = name.removesuffix(INDEX)
    if not prefix:
        raise FormatError(f"the name {name!r} leaves no prefix for the files of a checkpoint")
    structure = options.structure if keys else _renamed(specs, options.structure)
    stored = [n if keys else key_of(n) for n in specs.names]
    _check_keys(stored)
    groups = _split(specs.nbytes, options.shard_size)
    planned = [data_name(prefix, i, len(groups)) for i in range(len(groups))]
    items: list[_Item] = []
    ends = []
    for number, rows in enumerate(groups):
        at = 0
        for row in rows:
            nbytes = int(specs.nbytes[row])
            alignment = _PAGE if nbytes >= _PAGE_FROM else _ALIGNMENT
            at = -(-at // alignment) * alignment
            dtype = STRING_TYPE if row in specs.strings else NUMBERS[specs.dtypes[row].name]
            items.append(_Item(stored[row].encode(), row, dtype, specs.shapes[row], number, at, nbytes))
            at += nbytes
        ends.append(at)
    placed = [(item.row, item.file, item.offset, item.nbytes) for item in items]
    given: dict[int | None, int] = dict(specs.string_sums.items())
    literals: list[tuple[tuple[int, bytes], ...]] = [()] * len(groups)
    if not keys:
        graph, given[None] = encode_varint_strings([object_graph(dict(zip(specs.names, stored, strict=True)))])
        items.append(_Item(GRAPH.encode(), None, STRING_TYPE, (), len(groups) - 1, ends[-1], len(graph)))
        literals[-1] = ((ends[-1], graph),)
        ends[-1] += len(graph)
    files = [PackedFile(n, end, parts) for n, end, parts in zip(planned, ends, literals, strict=True)]
    columns = np.array(placed, np.uint64).reshape(-1, 4)
    rows_of: U32 = columns[:, 0].astype(np.uint32)
    return Packing(
        files,
        Placements.whole(rows_of, columns[:, 1].astype(np.uint32), columns[:, 2].copy(), columns[:, 3].copy()),
        manifest=Manifest(prefix + INDEX),
        crc32c=True,
        state=_State(items, planned, given, _extra(options.metadata, structure)),
        structure=structure,
        companion=_state_file(prefix),
    )


def _renamed(specs: TensorSpecs, structure: Any) -> Any:
    """Let tensors in nested containers be called by paths with slashes, as objects are; the structure in new names."""
    paths: dict[str, str] = {}
    _collect(structure, (), paths)
    new = {name: path for name, path in paths.items() if path.replace("/", ".") == name and path.count("/")}
    if len({new.get(name, name) for name in specs.names}) < len(specs.names):
        return structure
    specs.names = [new.get(name, name) for name in specs.names]
    return _in_new_names(structure, new)


def _collect(node: Any, path: tuple[str, ...], paths: dict[str, str]) -> None:
    if isinstance(node, str):
        paths[node] = "/".join(path)
    elif isinstance(node, dict):
        for kind, items in node.items():
            if kind in ("list", "tuple"):
                items = list(enumerate(items))
            for key, below in items if kind in ("list", "tuple", "dict") else ():
                _collect(below, (*path, str(key)), paths)


def _in_new_names(node: Any, new: Mapping[str, str]) -> Any:
    if isinstance(node, str):
        return new.get(node, node)
    if isinstance(node, dict):
        ((kind, items),) = node.items()
        if kind == "dict":
            return {kind: [[key, _in_new_names(below, new)] for key, below in items]}
        return {kind: [_in_new_names(below, new) for below in items]}
    return node


def _check_keys(keys: Sequence[str]) -> None:
    for key in keys:
        if not key or key.startswith("\0"):
            raise UnsupportedFeatureError("a key of TensorFlow's is not empty and does not begin with NUL", tensor=key)
        try:
            key.encode()
        except UnicodeEncodeError:
            raise UnsupportedFeatureError("the name is not text that UTF-8 can hold", tensor=ascii(key)) from None


def _split(nbytes: U64, shard_size: int | None) -> list[list[int]]:
    """Rows of each data file: a file is closed when one more tensor would not fit."""
    if shard_size is not None and shard_size < 1:
        raise FormatError(f"shard_size is {shard_size}; it must be positive")
    groups: list[list[int]] = [[]]
    used = 0
    for row, size in enumerate(nbytes.tolist()):
        if groups[-1] and shard_size is not None and used + size > shard_size:
            groups.append([])
            used = 0
        groups[-1].append(row)
        used += size
    if len(groups) >= _MOST_FILES:
        raise FormatError(f"shard_size={shard_size} would make {len(groups)} files; fewer than {_MOST_FILES} can be")
    return groups


def _extra(metadata: Mapping[str, Any], structure: Any) -> bytes:
    """Our own field of the header; nothing where there is nothing to say."""
    own = {key: value for key, value in (("metadata", dict(metadata)), ("structure", structure)) if value}
    try:
        return json.dumps(own, separators=(",", ":"), allow_nan=False).encode() if own else b""
    except (TypeError, ValueError) as error:
        raise UnsupportedFeatureError(f"the metadata cannot be written as JSON: {error}") from None


def _state_file(prefix: str) -> Companion:
    quoted = "".join(f"\\{c}" if c in '"\\' else "\\n" if c == "\n" else c for c in prefix)
    text = f'model_checkpoint_path: "{quoted}"\nall_model_checkpoint_paths: "{quoted}"\n'
    return Companion(STATE, text.encode(), replaces=b"model_checkpoint_path:")


# --- the index ----------------------------------------------------------------------------------------
def build_index(packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
    """The index, with data files under the names that ``names`` gives them."""
    state: _State = packing.state
    found = [_DATA.fullmatch(names.get(name, name)) for name in state.planned]
    numbers = [(int(m["number"]), int(m["count"])) for m in found if m is not None]
    header = field(1, numbers[0][1]) + field(3, field(1, 1))
    if state.extra:
        header += field(EXTRA, state.extra)
    pairs = []
    for item in state.items:
        crc = state.given[item.row] if item.row in state.given else int(checksums.crc32c[item.row or 0])
        pairs.append((item.key, _entry(item, numbers[item.file][0], crc)))
    return build_table([(b"", header), *sorted(pairs)])


def _entry(item: _Item, number: int, crc: int) -> bytes:
    """``BundleEntryProto``, in which zeros are left out."""
    dims = b"".join(field(2, field(1, n) if n else b"") for n in item.shape)
    parts = [field(1, item.dtype), field(2, dims)]
    parts += [field(n, v) for n, v in ((3, number), (4, item.offset), (5, item.nbytes)) if v]
    parts.append(field(6, masked(crc), fixed32=True))
    return b"".join(parts)
