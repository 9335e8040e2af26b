"""Orbax checkpoints (JAX, Flax): a directory of JSON about a tree, and of Zarr arrays, which tensorstore decodes.

What is read here is the JSON; the arrays come as one file of their elements from the store (``OpensArrays``), which
has tensorstore open them. The files that tell a checkpoint are known by content, so that a directory, or any of them,
gets an answer that helps, with tensorstore or without.

Specification: docs/formats/orbax.md.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

from weightlift._dtypes import byte_size, from_numpy
from weightlift._json import loads
from weightlift._layout import Extent, Layout, Piece, TensorEntry, TensorTable
from weightlift._stored_arrays import ArraysReader, OpensArrays, StoredArrays
from weightlift.errors import (
    NotFoundError,
    UnsafeContentError,
    UnsupportedFeatureError,
    WeightliftError,
)
from weightlift.formats._dcp_tree import structure_of
from weightlift.formats._orbax_tree import ADVICE, MAX_JSON, SavedTree, parse_strings, parse_tree
from weightlift.formats._read_only import ReadOnly
from weightlift.protocols import Files

__all__ = ["ORBAX", "Orbax"]

_MANIFEST = b"\x0c\xdb\x3a\x2a"
_JSON = re.compile(rb'\s*\{\s*"(tree_metadata|item_handlers)"\s*:')
_TREE = "_METADATA"
_STEP = "_CHECKPOINT_METADATA"
_DATABASE = "manifest.ocdbt"
_MAX_ITEMS = 1000
_MAX_RATIO = 20_000
"""The tensors may take so many times the bytes of the files: as much as Zstandard makes of zeros."""

_MOST_ALWAYS = 64 << 20


class Orbax(ReadOnly):
    """The orbax format; see the module."""

    name = "orbax"
    suffixes: Sequence[str] = ("_checkpoint_metadata", "manifest.ocdbt")
    instead = "Orbax checkpoints are not written; save as .safetensors or .msgpack"

    def sniff(self, head: bytes, size: int) -> bool:
        """The manifest of a database, or JSON that begins as Orbax's."""
        return head.startswith(_MANIFEST) or _JSON.match(head) is not None

    def read(self, files: Files, name: str) -> Layout:
        """The arrays of the tree in the directory of ``name``, or of the only tree below it."""
        described_by = _tree_of(files, name)
        reader = files.open(described_by)
        try:
            tree = parse_tree(_read_json(files, described_by))
            return _layout(files, described_by, tree)
        except WeightliftError as error:
            raise error.locate(path=reader.name) from None


def _read_json(files: Files, name: str) -> bytes:
    reader = files.open(name)
    if reader.size > MAX_JSON:
        raise UnsafeContentError(f"{name} has {reader.size} bytes; at most {MAX_JSON} are read", path=reader.name)
    return reader.read_at(0, reader.size)


def _there(files: Files, name: str) -> bool:
    try:
        files.open(name)
    except NotFoundError:
        return False
    return True


def _tree_of(files: Files, name: str) -> str:
    """The ``_METADATA`` that is meant by one of the files: beside it, or in the directory of the only item."""
    folder = posixpath.dirname(name)
    beside = posixpath.join(folder, _TREE)
    if _there(files, beside):
        return beside
    found = [at for item in _items(files, name) if _there(files, at := posixpath.join(folder, item, _TREE))]
    if len(found) == 1:
        return found[0]
    what = f"in which the items {', '.join(map(posixpath.dirname, found))} are trees: open the directory of one"
    raise UnsupportedFeatureError(
        f"an Orbax checkpoint {what if found else f'without {_TREE}, which tells of its tree, is not read; {ADVICE}'}",
        path=files.open(name).name,
    )


def _items(files: Files, name: str) -> list[str]:
    """Names of the items of a step, each of which is a directory."""
    if posixpath.basename(name) != _STEP:
        return []
    value = loads(_read_json(files, name), what=_STEP, max_bytes=MAX_JSON)
    items = value.get("item_handlers") if isinstance(value, dict) else None
    if not isinstance(items, dict):
        return []
    if len(items) > _MAX_ITEMS:
        raise UnsafeContentError(f"{_STEP} names {len(items)} items; at most {_MAX_ITEMS} are looked for")
    return list(items)


def _layout(files: Files, described_by: str, tree: SavedTree) -> Layout:
    """The layout, once the arrays are open."""
    folder = posixpath.dirname(described_by)
    nodes: dict[str, Any] = dict(tree.empty)
    if tree.strings:
        nodes |= parse_strings(_read_json(files, posixpath.join(folder, "_strings.json")), tree.strings)
    database = tree.database
    if database is None:
        database = _there(files, posixpath.join(folder, _DATABASE))
    for name in tree.arrays:
        if not database and not _is_folder(name):
            raise UnsafeContentError("the name of an array leads out of the checkpoint's directory", tensor=name)
    structure = structure_of({name: nodes.get(name, name) for name in tree.paths}, tree.paths)
    table, size = TensorTable.from_entries({}), files.open(described_by).size
    if tree.arrays:
        arrays = _open(files, StoredArrays(described_by, tree.arrays, tree.driver, database, tree.complete))
        table, size = TensorTable.from_entries(_entries(arrays)), arrays.size
    layout = Layout("orbax", table, (described_by,), metadata=tree.metadata, structure=structure)
    return layout.validate([size])


def _open(files: Files, stored: StoredArrays) -> ArraysReader:
    """The arrays, where they can be read."""
    if not isinstance(files, OpensArrays):
        raise UnsupportedFeatureError(f"an Orbax checkpoint is read from a local directory; {ADVICE}")
    try:
        return files.open_arrays(stored)
    except UnsupportedFeatureError as error:
        raise UnsupportedFeatureError(f"an Orbax checkpoint: {error.message}; or {ADVICE}") from error


def _is_folder(name: str) -> bool:
    """Whether a name is that of a directory below the checkpoint's."""
    return not {"", ".", ".."}.intersection(name.split("/")) and "\0" not in name and "\\" not in name


def _entries(arrays: ArraysReader) -> Mapping[str, TensorEntry]:
    """Rows of the arrays, all of which together are not more than the files can hold."""
    entries: dict[str, TensorEntry] = {}
    total, limit = 0, max(_MAX_RATIO * arrays.stored, _MOST_ALWAYS)
    for name, place in arrays.arrays.items():
        try:
            dtype = from_numpy(place.dtype)
        except UnsupportedFeatureError as error:
            raise error.locate(tensor=name) from None
        nbytes = byte_size(dtype, place.shape)
        total += nbytes
        if total > limit:
            raise UnsafeContentError(
                f"the tensors take {total} bytes and more, of files of {arrays.stored}; at most {limit} are made",
                tensor=name,
            )
        entries[name] = TensorEntry(dtype, place.shape, (Piece(Extent(0, place.offset, nbytes)),))
    return entries


ORBAX = Orbax()
"""The format, as it stands in ``FORMATS``."""
