"""Checksums beside the file, for formats that have no room for them: ``NAME.crc32c``.

A sidecar is JSON: ``{"weightlift": 1, "records": [...]}``. A record speaks of one version of the file:
``nbytes`` (its size), ``digest`` (CRC-32C of all its bytes that are not payload: headers, padding, directory),
``names`` (of the tensors as they were saved, where the format keeps them in another order), ``crc32c`` (of each
tensor's stored bytes, in that order; like the digest left out for a compressed archive, whose
own CRC-32 is verified), ``dtypes`` (of tensors whose type the format forgets), ``structure``, ``metadata``, and
``self`` (CRC-32C of the record's other keys, as canonical JSON).

Protocol. File and sidecar cannot change in one step, so a save first publishes a sidecar with the new record
and the old ones, then the file, then a sidecar with the new record alone: whatever instant the save is killed
at, one record fits the file that is there. A file that no record fits was changed by something else. Of two models that
differ in their values alone both records fit what is beside the values; then a tensor of which they say different
checksums decides.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from weightlift import _core
from weightlift._checksum import from_hex, to_hex
from weightlift._dtypes import DTYPES
from weightlift._json import loads
from weightlift._layout import U32, Layout, TensorTable
from weightlift._packing import Placements
from weightlift.errors import FormatError, NotFoundError
from weightlift.protocols import Files, Store, SupportsPreload

__all__ = ["SUFFIX", "attach", "dump", "existing_records", "may_rename", "record", "rest_digest"]

SUFFIX = ".crc32c"
MAX_BYTES = 256 << 20
_BLOCK = 8 << 20
KEPT = 4
"""Records kept of interrupted saves."""


def rest_digest(nbytes: int, placements: Placements, literals: Sequence[tuple[int, bytes]]) -> int:
    """CRC-32C of every byte of a file that is not payload, in order; gaps are zeros. For a file being written."""
    taken = np.concatenate([placements.offset[:, None], (placements.offset + placements.nbytes)[:, None]], axis=1)
    # Each literal lies in one gap; a patch comes after the literal it changes, which begins no later.
    ordered = deque(sorted(literals, key=lambda literal: literal[0]))
    crc = 0
    for begin, end in _gaps(nbytes, taken):
        image = bytearray(end - begin)
        while ordered and ordered[0][0] < end:
            offset, data = ordered.popleft()
            image[offset - begin : offset - begin + len(data)] = data
        crc = _core.crc32c(image, crc)
    return crc


def file_digest(reader: Any, table: TensorTable) -> int:
    """The same of a file as it is: all bytes that no extent of the table covers."""
    extents = [(e.offset, e.offset + e.nbytes) for ps in table.pieces.values() for p in ps for e in p.extents]
    plain = np.ones(len(table), bool)
    plain[list(table.pieces)] = False
    taken = np.stack([table.offset[plain], (table.offset + table.nbytes)[plain]], axis=1)
    if extents:
        taken = np.concatenate([taken, np.array(extents, np.uint64)])
    gaps, crc = list(_gaps(reader.size, taken)), 0
    if isinstance(reader, SupportsPreload):
        reader.preload([(begin, end - begin) for begin, end in gaps])
    for begin, end in gaps:
        crc = _core.crc32c(reader.read_at(begin, end - begin), crc)
    return crc


def _gaps(nbytes: int, taken: Any) -> Iterator[tuple[int, int]]:
    """Ranges of a file that ``taken`` (rows of begin and end) leaves over."""
    at = 0
    for begin, end in taken[np.lexsort((taken[:, 1], taken[:, 0]))].tolist():
        if begin > at:
            yield at, begin
        at = max(at, end)
    if at < nbytes:
        yield at, nbytes


def record(
    nbytes: int,
    digest: int | None,
    crc32c: Sequence[int] | None,
    dtypes: Mapping[str, str],
    structure: Any,
    metadata: Mapping[str, Any],
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """The record of a file: see the module for its keys."""
    result: dict[str, Any] = {"nbytes": nbytes}
    if digest is not None:
        result["digest"] = f"{digest:08x}"
    if crc32c is not None:
        result["crc32c"] = "".join(f"{c:08x}" for c in crc32c)
    optional = {"dtypes": dtypes, "structure": structure, "metadata": metadata, "names": list(names)}
    result.update({k: v for k, v in optional.items() if v})
    return {**result, "self": _own_digest(result)}


def _own_digest(candidate: Mapping[str, Any]) -> str:
    """CRC-32C of a record's canonical text, the digest itself left out."""
    rest = {k: v for k, v in candidate.items() if k != "self"}
    return f"{_core.crc32c(json.dumps(rest, sort_keys=True, separators=(',', ':')).encode()):08x}"


def dump(records: Sequence[Mapping[str, Any]]) -> bytes:
    """The sidecar's bytes."""
    return json.dumps({"weightlift": 1, "records": list(records[:KEPT])}, separators=(",", ":")).encode() + b"\n"


def existing_records(store: Store, name: str) -> list[dict[str, Any]]:
    """Records of an existing sidecar; none when there is no sidecar, or one that cannot be read."""
    try:
        return _read(store, name) or []
    except FormatError:
        return []


def _read(files: Files | Store, name: str) -> list[dict[str, Any]] | None:
    try:
        reader = files.open(name + SUFFIX)
    except NotFoundError:
        return None
    if reader.size > MAX_BYTES:
        raise FormatError(f"sidecar of {reader.size} bytes is refused (limit {MAX_BYTES})", path=reader.name)
    value = loads(reader.read_at(0, reader.size), what="checksum sidecar", max_bytes=MAX_BYTES)
    records = value.get("records") if isinstance(value, dict) and value.get("weightlift") == 1 else None
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise FormatError("not a checksum sidecar of version 1", path=reader.name)
    return records


def may_rename(table: TensorTable) -> bool:
    """Whether a sidecar could say what type a tensor is: the format keeps raw bytes of types that NumPy lacks."""
    return any(not dtype.core and dtype.numpy.kind == "V" and dtype.numpy.names is None for dtype in table.dtypes)


def attach(layout: Layout, files: Files, name: str, *, metadata: bool) -> None:
    """Fill a layout's checksums, true dtypes, structure and, if asked, metadata from the sidecar, if there is one."""
    name = layout.sidecar_of or name
    try:
        records = _read(files, name)
    except FormatError as error:
        layout.damaged = f"its sidecar cannot be read: {error.message}"
        return
    if records is None:
        return
    path = files.open(name + SUFFIX).name
    reader = files.open(name)
    fitting = [candidate for candidate in records if candidate.get("nbytes") == reader.size]
    digest = f"{file_digest(reader, layout.tensors):08x}" if any("digest" in c for c in fitting) else None
    fitting = [candidate for candidate in fitting if candidate.get("digest", digest) == digest]
    if fitting:
        _apply(layout, _of_the_values(fitting, layout, files), path, metadata=metadata)
        return
    layout.damaged = (
        f"no record of {path} fits it: it was damaged, or written by another program since; "
        "delete the sidecar or pass verify=False if that was meant"
    )


def _of_the_values(fitting: list[dict[str, Any]], layout: Layout, files: Files) -> dict[str, Any]:
    """The record whose checksums are those of the file's values, told by as few tensors as there must be read."""
    sums = [_sums_by_name(candidate, layout.tensors) for candidate in fitting]
    left = [number for number, known in enumerate(sums) if known]
    while sums[0] and len(left) > 1:
        told = [name for name in sums[left[0]] if len({sums[number].get(name) for number in left}) > 1]
        if not told:
            break
        name = min(told, key=lambda one: layout.tensors[one].nbytes)
        found = _stored_crc32c(layout, files, name)
        right = [number for number in left if sums[number].get(name) == found]
        if not right:
            break  # whatever it was, it is damaged
        left = right
    return fitting[left[0] if sums[0] else 0]


def _sums_by_name(candidate: Mapping[str, Any], table: TensorTable) -> dict[str, int]:
    """A record's checksums; none if it has none, or not one a tensor."""
    text, names = candidate.get("crc32c"), candidate.get("names", table.names)
    values = from_hex(text, len(names)) if isinstance(names, list) else None
    if values is None:
        return {}
    named = zip(names, values.tolist(), strict=True)
    return {name: value for name, value in named if isinstance(name, str) and name in table}


def _stored_crc32c(layout: Layout, files: Files, name: str) -> int:
    """CRC-32C of a tensor's stored bytes."""
    crc = 0
    for extent in (extent for piece in layout.tensors[name].pieces for extent in piece.extents):
        reader = files.open(layout.sources[extent.source])
        for at in range(0, extent.nbytes, _BLOCK):
            crc = _core.crc32c(reader.read_at(extent.offset + at, min(_BLOCK, extent.nbytes - at)), crc)
    return crc


def _set_sums(table: TensorTable, text: Any, order: U32 | None) -> bool:
    """Checksums of all rows, in table order or in another; False if they are not one a tensor."""
    if order is None:
        return table.set_crc32c(text)
    values = from_hex(text, len(order))
    if values is None:
        return False
    placed = np.zeros(len(order), np.uint32)
    placed[order] = values
    return table.set_crc32c(to_hex(placed))


def _apply(layout: Layout, candidate: Mapping[str, Any], path: str, *, metadata: bool) -> None:
    table = layout.tensors
    if candidate.get("self") != _own_digest(candidate):
        layout.damaged = f"the record of {path} does not match its own digest: it was edited or damaged"
        return
    text, names = candidate.get("crc32c"), candidate.get("names")
    if names is not None:
        texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not texts or sorted(names) != sorted(table.names):
            layout.damaged = f"{path} names other tensors than the file has"
            return
        layout.order = np.array([table.index(name) for name in names], np.uint32)
    if text is not None and not _set_sums(table, text, layout.order if names is not None else None):
        layout.damaged = f"{path} does not hold one checksum a tensor"
        return
    dtypes = candidate.get("dtypes")
    for tensor, dtype in dtypes.items() if isinstance(dtypes, dict) else ():
        known = DTYPES.get(dtype) if isinstance(dtype, str) else None
        if tensor in table and known is not None and known.bits == table[tensor].dtype.bits:
            table.set_dtype(table.index(tensor), known)
    layout.structure = candidate.get("structure", layout.structure)
    kept = candidate.get("metadata")
    if metadata and isinstance(kept, dict):
        layout.metadata = kept
