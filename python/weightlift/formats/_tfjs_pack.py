"""Writing TensorFlow.js: how each tensor is stored, which file it goes to, and the document that says so."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite, prod
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from weightlift._dtypes import DTYPES, DType
from weightlift._layout import U64, TensorEntry
from weightlift._packing import (
    Checksums,
    Encoding,
    Manifest,
    PackedFile,
    Packing,
    PackOptions,
    Placements,
    TensorSpecs,
    tolerance_of,
)
from weightlift._steps import AffineDecode, Cast
from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.formats._tfjs_manifest import MODEL_KEYS, QUANTIZED, WIDENED, Entries, compact, dump

__all__ = ["encode", "keep", "manifest", "pack", "weight_specs"]

MIN_SHARD_SIZE = 16
NATIVE = ("float32", "int32", "bool", "complex64")
_ADVICE = {
    "float64": "float32",
    "complex128": "complex64",
    "int64": "int32",
    "uint32": "int32",
    "uint64": "int32",
}


# --- how tensors are stored -----------------------------------------------------------------------
def encode(specs: TensorSpecs, quantize: Mapping[str, Any] | str | None) -> dict[int, str]:
    """Settle how rows are stored; returns the rows to quantise affinely or automatically, which is the caller's work.

    float16 is kept as TensorFlow.js's float16 quantisation; bfloat16, float8 and the small integers are widened
    exactly. Only float32 is quantised; a row that is quantised already (``keep``) stays so, unless it is to be
    quantised to another type.
    """
    _refuse(specs)
    affine: dict[int, str] = {}
    wanted = _quantization_map(specs.names, quantize)
    plain = set(NATIVE) - ({"float32"} if wanted else set())
    for i, dtype in enumerate(specs.dtypes):
        if dtype.name in plain:
            continue
        kept = specs.encodings.get(i)
        target = wanted.get(specs.names[i]) if dtype.name == "float32" else None
        automatic = target is not None and tolerance_of(target) is not None
        if i in specs.strings or (kept is not None and (automatic or target in (None, kept.quantization))):
            continue
        count = prod(specs.shapes[i])
        if target is not None and count:
            if target == "float16":
                _store(specs, i, Encoding(DTYPES["float16"], (Cast("float32", "float16"),), "float16"), count)
            else:
                affine[i] = target
                if not automatic:
                    specs.nbytes[i] = count * (1 if target == "uint8" else 2)
        elif dtype.name == "float16":
            _store(specs, i, Encoding(dtype, (), "float16"), count)
        elif dtype.name in WIDENED:
            wide = WIDENED[dtype.name]
            _store(specs, i, Encoding(DTYPES[wide], (Cast(dtype.name, wide),)), count)
    return affine


def keep(entry: TensorEntry) -> Encoding | None:
    """The encoding of a quantised weight's stored bytes, without steps; None for any other."""
    if len(entry.pieces) != 1 or len(entry.pieces[0].steps) != 1:
        return None
    (step,) = entry.pieces[0].steps
    if isinstance(step, AffineDecode):
        return Encoding(DTYPES[step.stored], (), step.stored, step.scale, step.min)
    if step == Cast("float16", "float32"):
        return Encoding(DTYPES["float16"], (), "float16")
    return None


def _store(specs: TensorSpecs, i: int, encoding: Encoding, count: int) -> None:
    specs.encodings[i] = encoding
    specs.nbytes[i] = count * encoding.stored.bits // 8


def _refuse(specs: TensorSpecs) -> None:
    """One error for all tensors that TensorFlow.js cannot hold."""
    held = {*NATIVE, *WIDENED, "float16"}
    bad = [i for i, dtype in enumerate(specs.dtypes) if dtype.name not in held and i not in specs.strings]
    if not bad:
        return
    kinds = sorted({specs.dtypes[i].name for i in bad})
    advice = {specs.names[i]: _ADVICE[specs.dtypes[i].name] for i in bad if specs.dtypes[i].name in _ADVICE}
    hint = "dtype='float32'" if kinds == ["float64"] else f"dtype={dict(list(advice.items())[:3])}" if advice else ""
    listed = ", ".join(f"{specs.names[i]!r} ({specs.dtypes[i]})" for i in bad[:20])
    raise UnsupportedFeatureError(
        "TensorFlow.js holds float32, int32, bool, complex64 and strings (narrower numbers are widened exactly); it "
        f"cannot hold {len(bad)} of {len(specs)} tensors: {listed}{', ...' if len(bad) > 20 else ''}"
        + (f"; convert them on the way, with {hint}" if hint else "; convert or leave them out"),
        tensor=specs.names[bad[0]] if len(bad) == 1 else None,
    )


def _quantization_map(names: Sequence[str], quantize: Mapping[str, Any] | str | None) -> dict[str, str]:
    """What each name is quantised to: ``"uint8"`` for all, or ``{type: True | glob | [globs]}`` as the converter."""
    if quantize is None:
        return {}
    chosen: dict[str, str] = {}
    rest: str | None = None
    for kind, patterns in ({quantize: True} if isinstance(quantize, str) else quantize).items():
        if kind not in QUANTIZED and tolerance_of(kind) is None:
            raise UnsupportedFeatureError(
                f"unknown quantization {kind!r}; TensorFlow.js has {', '.join(QUANTIZED)}, and 'auto:1e-3' chooses"
            )
        if patterns is True:
            if rest is not None:
                raise FormatError(f"both {rest!r} and {kind!r} are to quantise all other tensors; say True once")
            rest = kind
            continue
        for name in _matches(names, kind, [patterns] if isinstance(patterns, str) else patterns):
            if chosen.setdefault(name, kind) != kind:
                raise FormatError(f"quantised to both {chosen[name]!r} and {kind!r}", tensor=name)
    return chosen if rest is None else {n: chosen.get(n, rest) for n in names}


def _matches(names: Sequence[str], kind: str, patterns: Any) -> Iterator[str]:
    if not isinstance(patterns, (list, tuple, set, frozenset)) or not all(isinstance(p, str) for p in patterns):
        raise FormatError(f"quantize[{kind!r}] is {patterns!r}; give True, a pattern or a list of patterns")
    for pattern in patterns:
        found = [n for n in names if fnmatchcase(n, pattern)]
        if not found and not set(pattern) & set("*?["):
            raise FormatError(f"quantize[{kind!r}]: there is no such tensor", tensor=pattern)
        yield from found


# --- where they go --------------------------------------------------------------------------------
@dataclass(frozen=True)
class _State:
    """What ``manifest`` needs once the checksums are known."""

    document: dict[str, Any]
    entries: Entries
    files: tuple[str, ...]
    names: list[str]
    record: dict[str, Any]
    checksums: bool
    specs: TensorSpecs
    late: tuple[int, ...]


def pack(specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
    """One group: ``weights.bin``, or shards of ``shard_size`` bytes that weights may straddle.

    TensorFlow.js returns zeros for a shard list whose shards are all equal but for a larger last one, and for
    empty shards; such lists are never made.
    """
    if options.compression is not None:
        raise UnsupportedFeatureError(
            f"TensorFlow.js has no compression ({options.compression!r}); quantize= makes files smaller"
        )
    end = np.cumsum(specs.nbytes, dtype=np.uint64)
    total = int(end[-1]) if len(specs) else 0
    bounds = [0, total] if options.shard_size is None else _cuts(specs, end, total, options.shard_size)
    if total == 0:
        bounds = []
    stem = "" if PurePosixPath(name).name == "model.json" else PurePosixPath(name).name.removesuffix(".json") + "."
    shards = max(0, len(bounds) - 1)
    if options.shard_size is None:
        files = (f"{stem}weights.bin",) * shards
    else:
        files = tuple(f"{stem}group1-shard{k}of{shards}.bin" for k in range(1, shards + 1))
    sizes = np.diff(bounds).tolist() if bounds else []
    return Packing(
        files=[PackedFile(f, n) for f, n in zip(files, sizes, strict=True)],
        placements=_placements(specs, end, bounds),
        manifest=Manifest(name),
        state=_State(
            document=_document(options),
            entries=Entries(_entries(specs, options.extra)),
            files=files,
            names=specs.names,
            record=_record(specs, options),
            checksums=options.checksums,
            specs=specs,
            late=tuple(specs.late),
        ),
    )


def _cuts(specs: TensorSpecs, end: U64, total: int, shard_size: int) -> list[int]:
    """Where shards begin and end: every ``shard_size`` bytes, or up to 15 bytes sooner so that no element is cut."""
    if type(shard_size) is not int or shard_size < MIN_SHARD_SIZE:
        raise FormatError(f"shard_size is {shard_size!r}; it must be a whole number of at least {MIN_SHARD_SIZE} bytes")
    bounds = [0]
    while bounds[-1] < total:
        bounds.append(_cut(specs, end, min(bounds[-1] + shard_size, total)))
    sizes = np.diff(bounds)
    if len(sizes) > 1 and (sizes[:-1] == sizes[0]).all() and sizes[-1] > sizes[0]:
        bounds.insert(-1, _cut(specs, end, bounds[-2] + int(sizes[0])))
    return bounds


def _cut(specs: TensorSpecs, end: U64, at: int) -> int:
    """The last place up to byte ``at`` that is not inside an element."""
    row = int(np.searchsorted(end, at, "left"))
    begin = int(end[row]) - int(specs.nbytes[row])
    item = 1 if row in specs.strings else specs.stored(row).bits // 8
    return begin + (at - begin) // item * item


def _placements(specs: TensorSpecs, end: U64, bounds: list[int]) -> Placements:
    """One row for each part of a tensor between two cuts; none for tensors without bytes."""
    rows = np.flatnonzero(specs.nbytes).astype(np.uint32)
    if not len(rows):
        return Placements.whole(rows, rows, rows.astype(np.uint64), rows.astype(np.uint64))
    cuts = np.array(bounds, np.uint64)
    begins = end[rows] - specs.nbytes[rows]
    edges = np.union1d(begins, cuts)
    part, sizes = edges[:-1], np.diff(edges)
    which = np.searchsorted(begins, part, "right") - 1
    file = np.searchsorted(cuts, part, "right") - 1
    return Placements(rows[which], file.astype(np.uint32), part - cuts[file], sizes, part - begins[which])


# --- the document ---------------------------------------------------------------------------------
def _document(options: PackOptions) -> dict[str, Any]:
    """Every key but the manifest's and ours; what the user gives as metadata overrides what a model brought."""
    model = {k: v for k, v in options.extra.items() if k != "weightSpecs"}
    document = {"modelTopology": None, "weightsManifest": None, **model}
    if options.metadata:
        document["userDefinedMetadata"] = dict(options.metadata)
    plain: dict[str, Any] = json.loads(compact(document, "the model's description"), parse_float=_unsigned_zero)
    return plain


def _unsigned_zero(text: str) -> float:
    """A number that JavaScript does not change when it writes it anew: 0.0 for -0.0."""
    return float(text) + 0.0


def _entries(specs: TensorSpecs, extra: Mapping[str, Any]) -> list[dict[str, Any]]:
    columns = zip(specs.names, specs.shapes, specs.dtypes, strict=True)
    entries: list[dict[str, Any]] = [{"name": n, "shape": list(s), "dtype": d.name} for n, s, d in columns]
    for i in {*specs.encodings, *specs.strings}:
        entries[i]["dtype"] = _dtype(specs, i)
    groups = {e["name"]: e["group"] for e in extra.get("weightSpecs") or () if e.get("group") is not None}
    for entry in entries if groups else ():
        if entry["name"] in groups:
            entry["group"] = groups[entry["name"]]
    for i, encoding in specs.encodings.items():
        if encoding.quantization is not None and i not in specs.late:
            entries[i]["quantization"] = _quantization(encoding, specs.dtypes[i], specs.names[i])
    return entries


def _dtype(specs: TensorSpecs, i: int) -> str:
    """The dtype that TensorFlow.js decodes row ``i`` to."""
    if i in specs.strings:
        return "string"
    encoding = specs.encodings.get(i)
    if encoding is None or encoding.quantization is None:
        return specs.stored(i).name
    return "int32" if specs.dtypes[i].name == "int32" else "float32"


def _quantization(encoding: Encoding, dtype: DType, name: str) -> dict[str, Any]:
    if encoding.quantization == "float16":
        return {"dtype": "float16", "original_dtype": dtype.name}
    if encoding.scale is None or encoding.min is None or not (isfinite(encoding.scale) and isfinite(encoding.min)):
        raise UnsupportedFeatureError(
            f"cannot be quantised to {encoding.quantization}: it holds NaN or infinite values", tensor=name
        )
    return {
        "dtype": encoding.quantization,
        "min": encoding.min + 0.0,  # no -0.0: JavaScript would write it as 0
        "scale": encoding.scale,
        "original_dtype": dtype.name,
    }


def _record(specs: TensorSpecs, options: PackOptions) -> dict[str, Any]:
    """Our own key, but for the checksums; empty when there is nothing that TensorFlow.js does not hold itself."""
    record: dict[str, Any] = {}
    widened = {*WIDENED, "float16"}
    narrow = {
        specs.names[i]: d.name for i, d in enumerate(specs.dtypes) if d.name in widened and i not in specs.strings
    }
    if narrow:
        record["dtypes"] = narrow
    if options.structure is not None:
        record["structure"] = options.structure
    return record


def weight_specs(packing: Packing) -> Sequence[Mapping[str, Any]]:
    """The weights as the document lists them."""
    state: _State = packing.state
    return state.entries


def manifest(
    packing: Packing,
    checksums: Checksums,
    names: Mapping[str, str],
    first: Sequence[str] = MODEL_KEYS,
    *,
    without_bytes: Sequence[str] = (),
) -> bytes:
    """The document's bytes, with weight files under their final ``names``, and the keys ``first`` in this order.

    ``without_bytes``: the paths of weights that have no bytes, and so no file.
    """
    state, specs = packing.state, packing.state.specs
    for i in state.late:
        state.entries[i]["quantization"] = _quantization(specs.encodings[i], specs.dtypes[i], specs.names[i])
    record = dict(state.record)
    if state.checksums:
        record["crc32c"] = {n: f"{c:08x}" for n, c in zip(state.names, checksums.crc32c.tolist(), strict=True)}
    document = dict(state.document)
    paths = [names.get(f, f) for f in state.files] or list(without_bytes)
    document["weightsManifest"] = [{"paths": paths, "weights": state.entries}]
    return dump(document, record or None, first)
