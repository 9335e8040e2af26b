"""Models of several torch files, and the index that maps each tensor to its file (``pytorch_model.bin.index.json``).

The index is laid out, and checked, as that of safetensors shards. Each file holds a flat dict of tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from weightlift._layout import Chain, Extent, Layout, Piece, TensorEntry, TensorTable
from weightlift.errors import FormatError, NotFoundError
from weightlift.formats._safetensors_index import DERIVED, checked_shards, is_index, parse_index
from weightlift.protocols import Files, Reader

__all__ = ["is_torch_index", "read_torch_index"]

_SHARD = re.compile(rb':\s*"[^"]+\.(bin|pt|pth)"')


def is_torch_index(head: bytes) -> bool:
    """Whether a file that begins so is an index of torch files."""
    return is_index(head) and b'"weight_map"' in head and _SHARD.search(head) is not None


def read_torch_index(files: Files, reader: Reader, read: Callable[[Files, str], Layout]) -> Layout:
    """The layout of all shards of the index in ``reader``, each of which ``read`` reads.

    Raises:
        FormatError: The index or a shard breaks a rule, or they do not belong together.
        UnsafeContentError: A shard's name could reach beyond the folder, or a shard is unsafe.
        NotFoundError: A shard is missing.
    """
    metadata, weight_map = parse_index(reader)
    shards = checked_shards(weight_map)
    files.prepare(shards)
    found: dict[str, TensorEntry] = {}
    damaged = []
    for number, shard in enumerate(shards):
        layout = _read_shard(files, shard, read)
        found.update(_mapped(layout, number, shard, weight_map))
        damaged += [f"{shard}: {layout.damaged}"] if layout.damaged else []
    absent = [f"{name!r} ({shard})" for name, shard in weight_map.items() if name not in found]
    if absent:
        listed = ", ".join(absent[:10])
        raise FormatError(f"{len(absent)} tensors of the index are not in the file they are mapped to: {listed}")
    table = TensorTable.from_entries({name: found[name] for name in weight_map})
    kept = {key: value for key, value in metadata.items() if key not in DERIVED}
    return Layout("torch", table, tuple(shards), metadata=kept, shared=True, damaged="; ".join(damaged) or None)


def _read_shard(files: Files, shard: str, read: Callable[[Files, str], Layout]) -> Layout:
    try:
        layout = read(files, shard)
    except NotFoundError as error:
        raise NotFoundError(f"the index names the file {shard!r}, which is not there", path=error.path) from None
    if layout.structure is not None or len(layout.sources) != 1:
        raise FormatError("a file of a sharded model must hold a flat dict of tensors", path=files.open(shard).name)
    return layout


def _mapped(layout: Layout, number: int, shard: str, weight_map: Mapping[str, Any]) -> dict[str, TensorEntry]:
    """The tensors that the index maps to this shard, which is source ``number``; others are left out."""
    entries: dict[str, TensorEntry] = {}
    for name, entry in layout.tensors.items():
        target = weight_map.get(name)
        if target is not None and target != shard:
            raise FormatError(f"the tensor is in {shard!r}, the index maps it to {target!r}", tensor=name)
        if target is not None:
            entries[name] = replace(entry, pieces=tuple(_of_source(piece, number) for piece in entry.pieces))
    return entries


def _of_source(piece: Piece, number: int) -> Piece:
    if isinstance(piece.where, Extent):
        return replace(piece, where=replace(piece.where, source=number))
    if isinstance(piece.where, Chain):
        return replace(piece, where=Chain(tuple(replace(e, source=number) for e in piece.where.extents)))
    return piece
