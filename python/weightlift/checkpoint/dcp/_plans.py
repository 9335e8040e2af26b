"""The plans of torch.distributed.checkpoint, carried out: items to shards, and boxes of shards to tensors."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlanner, ReadItem, SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult

from weightlift._arrays import as_array
from weightlift._ops import block
from weightlift._slices import fill_slices
from weightlift._source import Source
from weightlift.checkpoint._manifest import Manifest
from weightlift.checkpoint._parts import Keeper, Part, State
from weightlift.checkpoint._restore import open_folder
from weightlift.checkpoint._write import Step, Writing, Written, finish_step, write_shards
from weightlift.checkpoint.dcp._target import Target
from weightlift.checkpoint.dcp._values import bytes_of, to_node, value_of
from weightlift.errors import FormatError, MismatchError, StorageError, UnsupportedFeatureError
from weightlift.formats._boxes import Box
from weightlift.formats._dcp_tree import structure_of
from weightlift.formats._safetensors_pieces import piece_name
from weightlift.frameworks._torch_device import on_host

Keys = tuple[str | int, ...]
"""The path of a leaf: keys of dicts, and indices of lists."""

__all__ = ["Opened", "finish", "new_id", "opened", "process_number", "read_tensors", "read_values", "write"]

_KEY = "torch.distributed.checkpoint"
"""Of the manifest's metadata: ``{"paths": {NAME: [KEY, ...]}, "values": {NAME: NODE}}``."""


def new_id() -> str:
    """Of a save, or a load."""
    return str(uuid4())


def process_number() -> int:
    """Of this process, in its job."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


# --- writing --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Stored:
    """What a process tells of an item: where to and all its shards (one object for all items), the node of a value."""

    folder: str
    written: Written
    node: Any = None


def write(
    target: Target, plan: SavePlan, planner: SavePlanner, *, rank: int, bandwidth: float | None
) -> list[WriteResult]:
    """Write the items of a plan, durably."""
    folder = target.made
    state, nodes = State(None, []), {}
    sizes: list[int] = []
    tensors = [None if item.type == WriteItemType.BYTE_IO else _resolved(item, planner) for item in plan.items]
    for item, tensor in zip(plan.items, on_host(tensors, block), strict=True):
        before = len(state.arrays)
        if item.type == WriteItemType.BYTE_IO:
            nodes[item.index.fqn], inner = to_node(value_of(planner, item), item.index.fqn)
            for name, tensor in inner.items():
                state.add(name, as_array(tensor, name), None, keeper=Keeper.THIS)
        else:
            _add(state, item, tensor)
        sizes.append(sum(array.nbytes for array in state.arrays[before:]))
    writing = Writing(False, bandwidth, lambda done, total: None, target.label(rank))
    written = write_shards(folder, Step(0, state, {}, {}), None, writing)
    return [
        WriteResult(item.index, size, _Stored(folder.name, written, nodes.get(item.index.fqn)))
        for item, size in zip(plan.items, sizes, strict=True)
    ]


def _resolved(item: WriteItem, planner: SavePlanner) -> torch.Tensor:
    tensor = planner.resolve_data(item)
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
        raise UnsupportedFeatureError("it is sparse or quantised: only plain tensors are stored", tensor=item.index.fqn)
    return tensor


def _add(state: State, item: WriteItem, tensor: torch.Tensor) -> None:
    """The array of a tensor, or of a shard of one."""
    name, data = item.index.fqn, item.tensor_data
    assert data is not None
    shape, begin, size = (tuple(map(int, n)) for n in (data.size, data.chunk.offsets, data.chunk.sizes))
    array = as_array(tensor, name)
    if array.shape != size:
        raise MismatchError(f"the plan says {list(size)} for its shard, which is {list(array.shape)}", tensor=name)
    if size == shape:
        state.add(name, array, None, keeper=Keeper.THIS)
    else:
        state.add(piece_name(name, begin, size), array, Part(name, shape, begin), keeper=Keeper.THIS)


def finish(
    target: Target, metadata: Metadata, results: Sequence[Sequence[WriteResult]], extra: Mapping[str, Any]
) -> None:
    """Write the index and the manifest of what all processes have written: after that it is the checkpoint."""
    folder = target.made
    nodes: dict[str, Any] = {}
    written: list[Written] = []
    for result in results:
        stored: list[_Stored] = [one.storage_data for one in result]
        if stored:
            written.append(stored[0].written)
            if stored[0].folder != folder.name:
                raise StorageError("another job is writing a checkpoint of this name", url=folder.url)
        nodes |= {one.index.fqn: s.node for one, s in zip(result, stored, strict=True) if s.node is not None}
    leaves = {name: nodes.get(name, name) for name in metadata.state_dict_metadata}
    paths = {name: tuple(path) for name, path in (metadata.planner_data or {}).items() if name in leaves}
    structure = structure_of(leaves, paths)
    said = {**extra, _KEY: {"paths": {name: list(path) for name, path in paths.items()}, "values": nodes}}
    state = State(structure, list(leaves))
    step = Step(0, state, {}, said)
    manifest, _ = finish_step(folder, step, written, world_size=len(results), identity=target.identity)
    target.commit(manifest)
    metadata.storage_data = {one.index: None for result in results for one in result}


# --- reading --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Opened:
    """A checkpoint: its tensors, the nodes of its values, and what DCP wants to know."""

    source: Source
    nodes: Mapping[str, Any]
    metadata: Metadata


def opened(target: Target) -> Opened:
    """Open a checkpoint; FormatError, ChecksumError where it is damaged."""
    folder, manifest = target.current()
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    source = open_folder(folder, manifest, "buffered" if several else "auto")  # what all read, the disk reads once
    try:
        paths, nodes = _values(manifest, source)
        inner = {name for node in nodes.values() for name in _names(node)}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise FormatError(f"malformed manifest: {_KEY!r} of its metadata", path=folder.url) from None
    known: dict[str, Any] = {}
    for row, name in enumerate(source.table.names):
        if name not in inner:
            shape = source.table.shapes[row]
            boxes = [box for box, _ in source.layout.parts.get(name, ())] or [((0,) * len(shape), shape)]
            chunks = [ChunkStorageMetadata(torch.Size(begin), torch.Size(size)) for begin, size in boxes]
            properties = TensorProperties(dtype=_torch_type(source.table.dtype(row).name, name))
            known[name] = TensorStorageMetadata(properties, torch.Size(shape), chunks)
    known |= {name: BytesStorageMetadata() for name in nodes}
    return Opened(source, nodes, Metadata(known, planner_data={n: paths.get(n, (n,)) for n in known}, storage_data={}))


def _values(manifest: Manifest, source: Source) -> tuple[dict[str, Keys], dict[str, Any]]:
    """The paths and the nodes of values: as DCP's planner had them, or for a Checkpointer's step as the state has."""
    said = manifest.metadata.get(_KEY)
    if said is None:
        paths: dict[str, Keys] = {}
        nodes: dict[str, Any] = {}
        if source.layout.structure is not None:
            _flat(source.layout.structure, (), paths, nodes)
        return paths, nodes
    paths = {name: tuple(path) for name, path in said["paths"].items()}
    if not all(type(key) in (str, int) for path in paths.values() for key in path):
        raise TypeError("a key in a path")
    return paths, dict(said["values"])


def _flat(node: Any, path: Keys, paths: dict[str, Keys], nodes: dict[str, Any]) -> None:
    """The leaves of a structure, as DCP flattens dicts and lists."""
    if isinstance(node, str):
        paths[node] = path
        return
    ((kind, items),) = node.items()
    if kind not in ("dict", "list", "tuple") or not items:
        name = ".".join(map(str, path))
        paths[name], nodes[name] = path, node
        return
    for key, item in items if kind == "dict" else enumerate(items):
        _flat(item, (*path, key), paths, nodes)


def _names(node: Any) -> list[str]:
    """The tensors in the node of a value."""
    if isinstance(node, str):
        return [node]
    ((kind, items),) = node.items()
    inner = items if kind in ("list", "tuple") else [item for _, item in items] if kind == "dict" else ()
    return [name for item in inner for name in _names(item)]


def read_tensors(of: Opened, items: Sequence[ReadItem], planner: LoadPlanner, *, verify: bool) -> None:
    """Read what the items say into the tensors that the planner has for it."""
    wanted: list[tuple[str, Box, np.ndarray[Any, Any]]] = []
    aside: list[tuple[torch.Tensor, torch.Tensor]] = []
    targets: list[torch.Tensor] = []
    for item in items:
        name, size = item.storage_index.fqn, tuple(map(int, item.lengths))
        target = planner.resolve_tensor(item).detach()
        if tuple(target.shape) != size:
            raise MismatchError(f"{list(size)} are to be loaded into {list(target.shape)}", tensor=name)
        memory = target
        if target.device.type != "cpu":
            memory = torch.empty(target.shape, dtype=target.dtype)
            aside.append((target, memory))
        chunk = item.storage_index.offset or (0,) * len(size)
        begin = tuple(int(a) + int(b) for a, b in zip(chunk, item.storage_offsets, strict=True))
        wanted.append((name, (begin, size), as_array(memory, name)))
        targets.append(target)
    fill_slices(of.source, wanted, verify=verify)
    for target, memory in aside:
        target.copy_(memory)
    for item, target in zip(items, targets, strict=True):
        planner.commit_tensor(item, target)


def read_values(of: Opened, items: Sequence[ReadItem], planner: LoadPlanner) -> None:
    """Give the planner the values that are no tensors, as ``torch.save`` makes them."""
    made: dict[str, bytes] = {}  # learning rates, betas: a few values, thousands of times
    for item in items:
        node = of.nodes[item.storage_index.fqn]
        names = _names(node)
        key = repr(node)
        if names or key not in made:
            made[key] = bytes_of(node, {name: _tensor(of.source, name) for name in names})
        planner.load_bytes(item, io.BytesIO(made[key]))


def _tensor(source: Source, name: str) -> torch.Tensor:
    row = source.table.index(name)
    shape = source.table.shapes[row]
    tensor = torch.empty(shape, dtype=_torch_type(source.table.dtype(row).name, name))
    fill_slices(source, [(name, ((0,) * len(shape), shape), as_array(tensor, name))])
    return tensor


def _torch_type(name: str, tensor: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise UnsupportedFeatureError(f"torch has no type {name!r}", tensor=tensor)
    return found
