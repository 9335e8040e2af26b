"""A step back into a state: all of it, or the part that a process of many has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from weightlift._checksum import crc32c
from weightlift._layout import TensorTable
from weightlift._live import IntoOptions, load_into
from weightlift._load import load_source
from weightlift._slices import sliced
from weightlift._source import Names, Source
from weightlift.checkpoint._folders import Directory, Folder
from weightlift.checkpoint._manifest import INDEX, MAX_BYTES, Manifest
from weightlift.checkpoint._state import RANK, decode, encode, fill
from weightlift.errors import ChecksumError, FormatError
from weightlift.formats._boxes import Box
from weightlift.frameworks._adapters import expand, live_object
from weightlift.frameworks._shards import sharded, unsharded
from weightlift.frameworks._tensors import converter

__all__ = ["Wanted", "load_step", "open_folder", "open_step"]


@dataclass(frozen=True)
class Wanted:
    """What is to be restored; see ``Checkpointer.restore``."""

    into: Any = None
    names: Names = None
    strict: bool = True
    framework: str = "numpy"
    verify: bool = True
    rank: int = 0


def open_step(directory: Directory, step: int, mode: str = "auto") -> Source:
    """The tensors of a step; see ``open_folder``."""
    return open_folder(directory.folder(step), directory.manifest(step), mode)


def open_folder(folder: Folder, manifest: Manifest, mode: str = "auto") -> Source:
    """The tensors of a step, once the index is found to be that of its manifest, and the shards those of the index.

    Args:
        folder: Of the step.
        manifest: What lies in it.
        mode: How files are read; ``"buffered"`` where several processes read the same.
    """
    path = f"{folder.url}/{INDEX}"
    try:
        digest = crc32c(folder.read(INDEX, MAX_BYTES))
    except FileNotFoundError:
        raise FormatError("the step's index is gone", path=path) from None
    if digest != manifest.index_crc32c:
        raise ChecksumError(
            f"the index has the CRC-32C {digest:08x}, its manifest says {manifest.index_crc32c:08x}", path=path
        )
    source = folder.open(mode)
    source.refuse_damaged()  # its digest is over what the shards' headers say of each tensor
    return source


def load_step(source: Source, wanted: Wanted) -> Any:
    """The state; see ``Checkpointer.restore``."""
    rank = wanted.rank
    source = _of_rank(source, rank)
    if wanted.into is None:
        loaded = load_source(source, names=wanted.names, verify=wanted.verify, convert=converter(wanted.framework))
        return decode(loaded, rank) if wanted.names is None else loaded
    encoded = encode(wanted.into, rank)
    boxes: dict[str, list[Box]] = {}
    tree = _with_boxes(encoded, (), boxes)
    if boxes:
        source = sliced(source, boxes)
    options = IntoOptions(names=wanted.names, strict=wanted.strict, verify=wanted.verify)
    filled = load_into(source, tree, options)
    if not wanted.strict:
        return filled
    return fill(wanted.into, _without_boxes(encoded, filled) if boxes else filled, rank)


# --- what each process has of its own -------------------------------------------------------------
def _of_rank(source: Source, rank: int) -> Source:
    """``source`` without what other processes have of their own."""
    gone: set[str] = set()
    try:
        structure = _pruned(source.layout.structure, str(rank), gone)
    except (AttributeError, IndexError, TypeError, ValueError):
        raise FormatError("malformed structure", path=source.url) from None
    if not gone:
        return source
    layout, table = source.layout, source.table
    order = range(len(table)) if layout.order is None else layout.order.tolist()
    kept = {table.names[row]: table.entry(row) for row in order if table.names[row] not in gone}
    made = replace(layout, tensors=TensorTable.from_entries(kept), structure=structure, order=None)
    return replace(source, layout=made)


def _pruned(node: Any, rank: str, gone: set[str], *, ranks: bool = False) -> Any:
    """A structure with this rank's own part; the names of others' tensors are added to ``gone``."""
    if not isinstance(node, dict) or len(node) != 1:
        return node
    ((kind, items),) = node.items()
    if kind == "dict" and isinstance(items, list):
        made = []
        for key, item in items:
            if ranks and key != rank:
                _names_in(item, gone)
            else:
                made.append([key, _pruned(item, rank, gone, ranks=key == RANK)])
        return {kind: made}
    if kind in ("list", "tuple") and isinstance(items, list):
        return {kind: [_pruned(item, rank, gone) for item in items]}
    return node


def _names_in(node: Any, found: set[str]) -> None:
    if isinstance(node, str):
        found.add(node)
    elif isinstance(node, dict):
        for kind, items in node.items():
            for item in items if kind in ("dict", "list", "tuple") else ():
                _names_in(item[1] if kind == "dict" else item, found)


# --- what is spread over processes ----------------------------------------------------------------
def _with_boxes(tree: Any, path: tuple[str, ...], boxes: dict[str, list[Box]]) -> Any:
    """``tree`` with the boxes that this process has in the place of arrays; where they lie is put into ``boxes``."""
    if isinstance(tree, Mapping):
        return _mapped(tree, lambda key, item: _with_boxes(item, (*path, key), boxes))
    if isinstance(tree, (list, tuple)):
        return _listed(tree, lambda key, item: _with_boxes(item, (*path, key), boxes))
    if type(tree) is np.ndarray or tree is None or isinstance(tree, (int, float, str, bytes)):
        return tree
    spread = sharded(tree)
    if spread is not None:
        boxes[".".join(path)] = [(shard.begin, shard.shape) for shard in spread.shards]
        arrays = [shard.array for shard in spread.shards]
        return arrays[0] if len(arrays) == 1 else arrays
    expanded, live = expand(tree)
    if not live or expanded is tree:
        return tree
    inner: dict[str, list[Box]] = {}
    made = _with_boxes(expanded, path, inner)
    boxes |= inner
    return made if inner else tree


def _without_boxes(encoded: Any, filled: Any) -> Any:
    """What was filled, with arrays again in the place of their boxes."""
    if isinstance(encoded, Mapping) and isinstance(filled, Mapping):
        return _mapped(encoded, lambda key, item: _without_boxes(item, filled[key]), filled)
    if isinstance(encoded, (list, tuple)) and isinstance(filled, (list, tuple)) and len(encoded) == len(filled):
        return _listed(encoded, lambda key, item: _without_boxes(item, filled[int(key)]), filled)
    if encoded is None or isinstance(encoded, (np.ndarray, int, float, str, bytes)):
        return filled
    spread = sharded(encoded)
    if spread is not None:
        return unsharded(encoded, [filled] if len(spread.shards) == 1 else filled)
    return encoded if isinstance(filled, Mapping) and live_object(encoded) is not None else filled


def _mapped(tree: Mapping[Any, Any], change: Callable[[str, Any], Any], same: Any = None) -> Any:
    """A mapping with changed values; ``same`` (default: itself) where they are the same objects as there."""
    same = tree if same is None else same
    made = {key: change(str(key), item) for key, item in tree.items()}
    return same if all(made[key] is same[key] for key in made) else made


def _listed(tree: Sequence[Any], change: Callable[[str, Any], Any], same: Any = None) -> Any:
    same = tree if same is None else same
    made = [change(str(number), item) for number, item in enumerate(tree)]
    make: Any = getattr(tree, "_make", type(tree))  # of a named tuple
    return same if all(a is b for a, b in zip(made, same, strict=True)) else make(made)
