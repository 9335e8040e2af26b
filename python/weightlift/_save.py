"""Saving: arrays to specs, specs to a packing, a packing to files.

How files appear whole or not at all is the business of ``_publish`` (stores that take bytes in any order: directories)
and ``_send`` (stores that take them front to back: requests).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._arrays import all_arrays, as_array, check_strings
from weightlift._block_rows import as_blocks
from weightlift._dtypes import STRING, DType, byte_size, from_numpy
from weightlift._intake import Intake, scratch_directory
from weightlift._job import Job, SaveOptions, Target
from weightlift._layout import U32, U64
from weightlift._load import DTypes, dtype_chooser, read_arrays
from weightlift._ops import block
from weightlift._packing import Encoding, PackOptions, TensorSpecs
from weightlift._publish import Publication
from weightlift._quantize import settle_quantization
from weightlift._send import Sending
from weightlift._source import Row, refuse_options
from weightlift._steps import Byteswap, Cast
from weightlift._strings import encode_strings, string_elements
from weightlift._tree import flatten
from weightlift._urls import as_text, is_file, local_path
from weightlift._weights import TensorView
from weightlift.errors import UnsupportedFeatureError, WeightliftError
from weightlift.formats import by_name, by_suffix
from weightlift.formats._safetensors import SAFETENSORS
from weightlift.frameworks._adapters import expand, live_object
from weightlift.frameworks._torch_device import on_host
from weightlift.protocols import (
    EncodesStrings,
    Format,
    KeepsEncodings,
    KeepsValues,
    NamesVariables,
    SendsInOrder,
    StoresBlocks,
    TakesLateRanges,
)
from weightlift.stores import at_url
from weightlift.stores._local import LocalStore
from weightlift.types import SaveResult

__all__ = ["describe", "resolve_target", "save_leaves", "save_object"]

Array = npt.NDArray[Any]


def resolve_target(
    url: str | os.PathLike[str], format: str | None, store_options: Mapping[str, Any] | None = None
) -> Target:
    """The file to write and its format: as asked, by suffix, else safetensors."""
    fmt = by_name(format) if format is not None else None
    if not is_file(url):
        store, name = at_url(as_text(url), store_options or {})
        if not name:
            fmt = fmt or SAFETENSORS
            name = f"model{fmt.suffixes[-1]}"
        return Target(store, name, fmt or by_suffix(name) or SAFETENSORS, as_text(url))
    refuse_options(url, store_options)
    path = local_path(url)
    if path.is_dir() or str(url).endswith("/"):
        fmt = fmt or SAFETENSORS
        path = path / f"model{fmt.suffixes[-1]}"
    fmt = fmt or by_suffix(path.name) or SAFETENSORS
    if fmt.name == "tfjs" and not path.suffix:
        path = path / "model.json"
    return Target(LocalStore(path.parent, path.name), path.name, fmt, str(url))


def save_object(
    obj: Any,
    url: str | os.PathLike[str],
    options: SaveOptions,
    store_options: Mapping[str, Any] | None = None,
) -> SaveResult:
    """Save an array, a list, a tuple, a (nested) dict, a live object, or containers of these."""
    target = resolve_target(url, options.format, store_options)
    tree, live = expand(obj)
    # What stands beside the tensors of a live object (hyperparameters, None) has to come back as it was.
    values = live or (isinstance(target.format, KeepsValues) and target.format.keeps_values)
    found = live_object(obj) if live else None
    if isinstance(found, NamesVariables):
        theirs = found.names_in(target.format.name)
        tree = {theirs.get(name, name): value for name, value in tree.items()}
    names, leaves, structure = flatten(tree, values=values)
    return save_leaves(names, leaves, structure, target, options)


def save_leaves(
    names: list[str],
    leaves: Sequence[Any],
    structure: Any,
    target: Target,
    options: SaveOptions,
    *,
    verify: bool = True,
) -> SaveResult:
    """Save arrays, and tensors of open files (``Row``, ``TensorView``), which stream from there.

    ``verify``: compare the checksums of the latter.
    """
    arrays: list[Array | Row] = list(leaves)
    if not all_arrays(arrays):
        here = on_host(leaves, block)
        arrays = [_leaf(leaf, name, verify) for name, leaf in zip(names, here, strict=True)]
    if options.quantize and isinstance(target.format, StoresBlocks):
        arrays, options = as_blocks(target.format, names, arrays, options, verify=verify)
    job = describe(names, arrays, target.format)
    rows = {} if all_arrays(arrays) else {i: a for i, a in enumerate(arrays) if type(a) is Row}
    if options.dtype is not None:
        convert(job, options.dtype)
    raw = _encode(job, target.format, options, rows, in_order=isinstance(target.store, SendsInOrder))
    with Intake(scratch_directory(target.store), verify=verify) as intake:
        intake.fill(job, rows, raw)
        groups = _shared(arrays)
        job.specs.same = _stored_alike(job.specs, groups)
        shared = tuple(tuple(names[i] for i in group) for group in groups)
        return publish(job, target, structure, options, shared=shared)


def _leaf(leaf: Any, name: str, verify: bool) -> Array | Row:
    """What is to be stored under ``name``; strings of open files are read, as they have no fixed size."""
    row = leaf.row if isinstance(leaf, TensorView) else leaf
    if not isinstance(row, Row):
        return as_array(leaf, name)
    if row.dtype == STRING:
        return read_arrays(row.source, np.array([row.number], np.uint32), {}, verify=verify)[0]
    return row


# --- specs ----------------------------------------------------------------------------------------
def describe(names: list[str], arrays: Sequence[Array | Row], fmt: Format) -> Job:
    """Specs and sources of arrays, and of tensors of open files, before a format has encoded any."""
    found, index, sizes, shapes = _describe(arrays)
    kinds = [d if isinstance(d, DType) else STRING if d == np.dtype(object) else from_numpy(d) for d in found]
    swapped = [isinstance(d, np.dtype) and not d.isnative and kinds[k].core for k, d in enumerate(found)]
    numbers = index.tolist()
    specs = TensorSpecs(names, list(map(kinds.__getitem__, numbers)), shapes, sizes)
    job = Job(specs, list(arrays))
    if STRING in kinds:
        specs.strings = frozenset(i for i, k in enumerate(numbers) if kinds[k] is STRING)
    for i in specs.strings:
        check_strings(job.sources[i], names[i])
        if isinstance(fmt, EncodesStrings):
            job.sources[i], specs.string_sums[i] = fmt.encode_strings(string_elements(job.sources[i]))
        else:
            job.sources[i] = encode_strings(job.sources[i])
        sizes[i] = len(job.sources[i])
    for i in np.flatnonzero(np.array(swapped, bool)[index]).tolist() if any(swapped) else ():
        dtype = specs.dtypes[i]
        job.prefix[i] = (Byteswap(dtype.word, dtype.bits // 8),)
    return job


def _describe(arrays: Sequence[Array | Row]) -> tuple[Sequence[np.dtype[Any] | DType], U32, U64, list[tuple[int, ...]]]:
    """The distinct dtypes, and of each array the number of its dtype, its bytes and its shape."""
    if all_arrays(arrays):
        return _core.describe_arrays(arrays)  # one look at each, of a hundred thousand
    numbers: dict[Any, int] = {}
    index = np.array([numbers.setdefault(a.dtype, len(numbers)) for a in arrays], np.uint32)
    sizes = np.array([a.nbytes for a in arrays], np.uint64)
    return list(numbers), index, sizes, [a.shape for a in arrays]


def convert(job: Job, dtype: DTypes) -> None:
    """Let rows be stored as another type, as ``dtype=`` asks."""
    choose, specs = dtype_chooser(dtype), job.specs
    for i, have in enumerate(specs.dtypes):
        want = choose(specs.names[i], have)
        if want is not None and want != have:
            if not _core.can_cast(have.name, want.name):
                raise UnsupportedFeatureError(f"there is no conversion from {have} to {want}", tensor=specs.names[i])
            job.prefix[i] = (*job.prefix.get(i, ()), Cast(have.name, want.name))
            specs.dtypes[i] = want
            specs.nbytes[i] = byte_size(want, specs.shapes[i])


def _encode(job: Job, fmt: Format, options: SaveOptions, rows: Mapping[int, Row], *, in_order: bool) -> set[int]:
    """The format settles how tensors are stored, and what is quantised.

    ``in_order``: the manifest may be sent before the tensors.

    Returns:
        The rows of open files whose stored bytes are taken as they are, because the format has the same encoding.
    """
    specs = job.specs
    kept = _keep(specs, fmt, rows) if isinstance(fmt, KeepsEncodings) else {}
    wanted = fmt.encode(specs, options.quantize)
    late = isinstance(fmt, TakesLateRanges) and fmt.takes_late_ranges and not in_order
    job.quantization = settle_quantization(job, rows, wanted, report=options.quantization_report, late=late)
    return {i for i, encoding in kept.items() if specs.encodings.get(i) is encoding}


def _keep(specs: TensorSpecs, fmt: Any, rows: Mapping[int, Row]) -> dict[int, Encoding]:
    """Give rows of the format's own files the encoding that they have there, unless they are converted."""
    kept: dict[int, Encoding] = {}
    for i, row in rows.items():
        entry = row.entry
        if row.source.format.name == fmt.name and specs.dtypes[i] == entry.dtype and entry.strides is None:
            encoding = fmt.keep(entry)
            if encoding is not None:
                specs.encodings[i] = kept[i] = encoding
                specs.nbytes[i] = byte_size(encoding.stored, entry.shape)
    return kept


def _shared(arrays: Sequence[Array | Row]) -> list[list[int]]:
    """Groups of numbers of what is one and the same memory, or the same bytes of one file."""
    index = range(len(arrays)) if all_arrays(arrays) else [i for i, a in enumerate(arrays) if not isinstance(a, Row)]
    held: list[Any] = [arrays[i] for i in index]
    groups = [[index[k] for k in group] for group in _core.shared_memory(held)]
    if len(held) < len(arrays):
        groups += _same_rows({i: a for i, a in enumerate(arrays) if isinstance(a, Row)})
    return groups


def _same_rows(rows: Mapping[int, Row]) -> list[list[int]]:
    """Groups of rows that are the same view of the same bytes, which only some formats have."""
    found: dict[Any, list[int]] = {}
    for i, row in rows.items():
        if row.source.layout.shared and row.nbytes:
            entry = row.entry
            found.setdefault((id(row.source), entry.dtype, entry.shape, entry.pieces, entry.strides), []).append(i)
    return [group for group in found.values() if len(group) > 1]


def _stored_alike(specs: TensorSpecs, groups: Sequence[Sequence[int]]) -> dict[int, int]:
    """Rows of each group whose stored bytes are those of its first, unless they are converted in another way."""
    return {
        i: group[0]
        for group in groups
        for i in group[1:]
        if specs.dtypes[i] == specs.dtypes[group[0]] and specs.encodings.get(i) == specs.encodings.get(group[0])
    }


# --- writing --------------------------------------------------------------------------------------
def publish(
    job: Job, target: Target, structure: Any, options: SaveOptions, *, shared: tuple[tuple[str, ...], ...] = ()
) -> SaveResult:
    """Pack, write and publish."""
    packing = target.format.pack(
        job.specs,
        target.name,
        PackOptions(
            options.shard_size,
            options.compression,
            options.metadata,
            structure,
            options.checksums,
            options.extra,
            options.shards,
        ),
    )
    try:
        kind = Sending if isinstance(target.store, SendsInOrder) else Publication
        result = kind(job, packing, target, structure, options).run(shared)
    except WeightliftError as error:
        raise error.locate(path=target.path) from None
    return replace(result, quantization=job.quantization) if job.quantization else result
