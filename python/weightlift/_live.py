"""Loading into live objects: match names and shapes, then read straight into the tensors' memory.

What is guaranteed when a load fails: names, shapes and types are settled before anything is written, so a mismatch
leaves the object as it was. So does every failure with ``assign=True``, and of tensors that are filled by copying
(another device, another order of elements): they are read and verified aside first. Tensors whose memory the
plan reads into directly may hold parts of the file after a failed read or a wrong checksum; the error says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._dtypes import STRING, DType, array_shape, from_name
from weightlift._globs import matches
from weightlift._load import (
    DTypes,
    Memory,
    Rename,
    dtype_chooser,
    fill_arrays,
    is_float,
    load_source,
    new_name,
    read_arrays,
    refuse_objects,
)
from weightlift._ops import Progress
from weightlift._parts import find_part, load_part, tensors_in, values_in
from weightlift._source import Names, Source, choose_rows
from weightlift.errors import MismatchError, UnsupportedFeatureError, WeightliftError
from weightlift.frameworks._adapters import live_object
from weightlift.frameworks._holder import names_of
from weightlift.frameworks._tensors import converter
from weightlift.protocols import HoldsParts, KnowsOtherNames, LiveTensors, LiveTree, NamesVariables, Slot
from weightlift.types import LoadReport

__all__ = ["IntoOptions", "load_into", "places_in"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class IntoOptions:
    """What the caller asked for; see :func:`weightlift.load`."""

    names: Names = None
    rename: Rename = None
    dtype: DTypes = None
    memory: Memory = "arena"
    strict: bool = True
    assign: bool = False
    verify: bool = True
    progress: Progress | None = None


def load_into(source: Source, obj: Any, options: IntoOptions) -> Any:
    """Fill a live object; it, or with ``strict=False`` a report."""
    live = live_object(obj)
    if live is None:
        raise UnsupportedFeatureError(
            f"into= is a {type(obj).__module__}.{type(obj).__qualname__}, which no adapter knows; for arrays use out=, "
            "for another framework weightlift.register_adapter"
        )
    if options.dtype is not None and not options.assign:
        raise UnsupportedFeatureError("dtype= with into=: the object's own types hold; or let assign=True replace them")
    report = _take_tree(source, obj, live, options) if isinstance(live, LiveTree) else _fill(source, live, options)
    return report.value if options.strict else report


def places_in(obj: Any, rename: Rename) -> Callable[[str, tuple[int, ...]], bool] | None:
    """Whether an object has a tensor of a name, once that is renamed, and a shape; None where it does not say."""
    live = live_object(obj)
    if live is None or isinstance(live, LiveTree):
        return None
    slots = live.slots()

    def fits(name: str, shape: tuple[int, ...]) -> bool:
        slot = slots.get(new_name(name, rename))
        return slot is not None and slot.shape in (None, shape)

    return fits


def _take_tree(source: Source, obj: Any, live: LiveTree, options: IntoOptions) -> LoadReport:
    """Load as ever, or the part of the file that is asked for, and let the object judge."""
    part = find_part(source.layout.structure, "", options.names, options.rename)
    if part is not None:
        tree = _load_part(source, part, live, options)
    else:
        tree = load_source(
            source, names=options.names, rename=options.rename, dtype=options.dtype, memory=options.memory,
            verify=options.verify, progress=options.progress, convert=converter(live.framework),
        )  # fmt: skip
    missing, unexpected = live.take_tree(tree, strict=options.strict and options.names is None, assign=options.assign)
    left = set(unexpected)
    return LoadReport(obj, tuple(n for n in names_of(tree) if n not in left), tuple(missing), tuple(unexpected))


def _load_part(source: Source, part: Any, live: LiveTree, options: IntoOptions) -> Any:
    if options.verify:
        source.refuse_damaged()
    return load_part(
        source, part, dtype=options.dtype, memory=options.memory, verify=options.verify,
        convert=converter(live.framework),
    )  # fmt: skip


@dataclass
class _Fit:
    """How the rows of a file meet the slots of an object.

    Attributes:
        rows: Row to read, by the slot name that gets it; one name of each tensor.
        copies: (name, row, name whose row is read): further rows for the same tensor.
        values: Plain values of the file, by the slot name that gets each.
        trees: What the structure has for each part of the object, by the path to it.
        missing: Slots without a row.
        unexpected: Names without a slot.
        wrong_shape: (name, shape wanted, shape found).
    """

    rows: dict[str, int] = field(default_factory=dict)
    copies: list[tuple[str, int, str]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    trees: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)

    def refuse(self, *, partial: bool) -> None:
        """MismatchError if anything is amiss; ``partial``: the caller chose some tensors, others may be missing."""
        missing = [] if partial else self.missing
        if not (missing or self.unexpected or self.wrong_shape):
            return
        shapes = [f"{name} is {list(want)}, in the file {list(have)}" for name, want, have in self.wrong_shape]
        parts = [
            f"{len(found)} {what}: {', '.join(found[:5])}{' ...' if len(found) > 5 else ''}"
            for what, found in (("missing", missing), ("unexpected", self.unexpected), ("of another shape", shapes))
            if found
        ]
        raise MismatchError(
            f"the file does not fit the object, which is unchanged: {'; '.join(parts)}. "
            "Choose with names=, map with rename=, or take what fits with strict=False",
            missing=missing,
            unexpected=self.unexpected,
            wrong_shape=self.wrong_shape,
        )


def _groups(slots: Mapping[str, Slot]) -> dict[str, Any]:
    """By name, what is equal for names of one tensor."""
    return {name: ("", name) if slot.tied is None else ("tied", slot.tied) for name, slot in slots.items()}


def _fit(
    source: Source,
    slots: Mapping[str, Slot],
    options: IntoOptions,
    own: Mapping[str, str],
    parts: Mapping[str, LiveTree],
) -> _Fit:
    """Match the chosen rows with the slots, by name, or by another that ``own`` has for it. Pure."""
    table, fit = source.table, _Fit()
    if any(slot.plain for slot in slots.values()):
        values = values_in(source.layout.structure, options.names, options.rename)
        fit.values = {name: value for name, value in values.items() if name in slots and slots[name].plain}
    found: dict[str, int] = {}
    first: dict[Any, str] = {}  # the name whose row is read, by what is equal for names of one tensor
    for row in choose_rows(table, _of_tensors(source, fit.values, options)).tolist():
        name = new_name(table.names[row], options.rename)
        name = name if name in slots else own.get(name, name)
        if name in found:
            raise MismatchError(f"rename gives two tensors the name {name!r}", tensor=table.names[row])
        found[name] = row
    groups = _groups(slots)
    _fit_parts(source, found, fit, options, parts)
    for name, row in found.items():
        if name not in slots:
            if not any(name.startswith(f"{place}.") for place in parts):
                fit.unexpected.append(name)
            continue
        wanted, have = slots[name].shape, array_shape(table.dtype(row), table.shapes[row])
        if wanted is not None and wanted != have:
            fit.wrong_shape.append((name, wanted, have))
        elif groups[name] in first:
            fit.copies.append((name, row, first[groups[name]]))
        else:
            first[groups[name]] = name
            fit.rows[name] = row
    settled = {*fit.values, *(name for name, _, _ in fit.wrong_shape)}
    fit.missing += [n for n, s in slots.items() if groups[n] not in first and n not in settled and not s.optional]
    return fit


def _of_tensors(source: Source, taken: Mapping[str, Any], options: IntoOptions) -> Names:
    """The chosen names without those that are only of plain values, if the object takes these."""
    names = options.names
    if names is None or not taken:
        return names
    values = values_in(source.layout.structure, names, None)
    mine = [value for value in values if new_name(value, options.rename) in taken]
    return [
        name
        for name in ([names] if isinstance(names, str) else names)
        if not any(matches(value, name) for value in mine) or any(matches(n, name) for n in source.table.names)
    ]


def _fit_parts(
    source: Source, found: Mapping[str, int], fit: _Fit, options: IntoOptions, parts: Mapping[str, LiveTree]
) -> None:
    """What the file has for the parts of an object; with ``names=`` for those of which it chooses all tensors."""
    chosen = {source.table.names[row] for row in found.values()}
    for place in parts:
        node = find_part(source.layout.structure, place, None, options.rename)
        tensors = tensors_in(node) if node is not None else []
        if node is None or (options.names is not None and not (tensors and chosen.issuperset(tensors))):
            fit.missing.append(place)
        else:
            fit.trees[place] = node


def _fill(source: Source, live: LiveTensors, options: IntoOptions) -> LoadReport:
    if options.verify:
        source.refuse_damaged()
        if options.names is None:
            source.check_whole()
    refuse_objects(source, options.names)
    names = _other_names(source, live, options)
    slots = live.slots()
    parts = live.parts() if isinstance(live, HoldsParts) else {}
    if parts and options.assign:
        raise UnsupportedFeatureError(
            f"assign=True makes new parameters, which {', '.join(parts)} in into= would not have: load them one by one"
        )
    fit = _fit(source, slots, options, names, parts)
    if options.strict:
        fit.refuse(partial=options.names is not None)
    dtypes = _dtypes(source, slots, fit, options)
    empty = next((n for n in fit.rows if slots[n].empty), None)
    if empty is not None and not options.assign:
        raise UnsupportedFeatureError("the tensor has no memory to load into: use assign=True", tensor=empty)
    _refuse_different_copies(source, fit, options)
    for place, node in fit.trees.items():  # before the first tensor: a part may refuse what it is given
        _take_part(place, parts[place], _load_part(source, node, parts[place], options), fit, options)
    taken = _read(source, slots, fit.rows, dtypes, options)
    groups = _groups(slots)
    by_group = {groups[name]: array for name, array in taken.items()}
    aside = {n: by_group[g] for n, g in groups.items() if g in by_group}
    value = live.take({**fit.values, **aside}, assign=options.assign)
    read = {groups[name] for name in fit.rows}
    loaded = (n for n, g in groups.items() if g in read or n in fit.values)
    return LoadReport(value, (*loaded, *fit.trees), tuple(fit.missing), tuple(fit.unexpected), tuple(fit.wrong_shape))


def _other_names(source: Source, live: LiveTensors, options: IntoOptions) -> dict[str, str]:
    """The object's own names, by others that the file may have for the same tensors."""
    own: dict[str, str] = {}
    if isinstance(live, NamesVariables):
        own = {name: ours for ours, name in live.names_in(source.format.name).items()}
    if isinstance(live, KnowsOtherNames):
        names = [new_name(name, options.rename) for name in source.table.names]
        own |= live.own_names(names, {names[row] for row in choose_rows(source.table, options.names).tolist()})
    return own


def _take_part(place: str, part: LiveTree, tree: Any, fit: _Fit, options: IntoOptions) -> None:
    """Give a part of an object its own; errors say which it is."""
    try:
        missing, unexpected = part.take_tree(tree, strict=options.strict, assign=False)
    except MismatchError as error:
        raise error.locate(tensor=place) from None
    fit.missing += [f"{place}.{name}" for name in missing]
    fit.unexpected += [f"{place}.{name}" for name in unexpected]


def _dtypes(source: Source, slots: Mapping[str, Slot], fit: _Fit, options: IntoOptions) -> dict[int, DType]:
    """The rows that are converted, and to what; UnsupportedFeatureError for what cannot be."""
    choose = dtype_chooser(options.dtype) if options.dtype is not None else lambda _name, _have: None
    result = {}
    for name, row in fit.rows.items():
        have, kind = source.table.dtype(row), slots[name].dtype
        if kind == have.name and not have.core and options.dtype is None:
            continue  # a type that only NumPy and ml_dtypes know, as int4 with a byte an element
        want = choose(name, have) or (have if kind is None else from_name(kind))
        if want == have:
            continue
        lossy = is_float(have) and not is_float(want) and not want.name.startswith("complex")
        if have == STRING or lossy or not (have.core and want.core and _core.can_cast(have.name, want.name)):
            raise UnsupportedFeatureError(f"the file has {have}, the object {want}: not converted", tensor=name)
        result[row] = want
    return result


def _refuse_different_copies(source: Source, fit: _Fit, options: IntoOptions) -> None:
    """One tensor of the object that is several in the file gets the first; MismatchError where they differ."""
    table = source.table
    for name, row, other in fit.copies:
        a, b = table.entry(row), table.entry(fit.rows[other])
        alike = a.dtype == b.dtype and a.strides == b.strides
        as_is = not any(piece.steps for piece in (*a.pieces, *b.pieces))
        if alike and (a.pieces == b.pieces or (as_is and a.checksum is not None and a.checksum == b.checksum)):
            continue
        x, y = read_arrays(source, np.array([row, fit.rows[other]], np.uint32), {}, verify=options.verify)
        if x.dtype != y.dtype or x.tobytes() != y.tobytes():
            raise MismatchError(f"{name} and {other} are one tensor in the object, and differ in the file", tensor=name)


def _read(
    source: Source, slots: Mapping[str, Slot], chosen: Mapping[str, int], dtypes: dict[int, DType], options: IntoOptions
) -> dict[str, Array]:
    """Read rows into the slots that have memory, and aside for the others; gives the latter."""
    aside = {n: r for n, r in chosen.items() if options.assign or slots[n].memory is None}
    direct = {n: r for n, r in chosen.items() if n not in aside}
    report = _Both(source, options.progress, list(aside.values()), list(direct.values()))
    arrays: list[Array] = []
    if aside:
        rows = np.array(list(aside.values()), np.uint32)
        mine = {row: dtype for row, dtype in dtypes.items() if row in set(aside.values())}
        arrays = read_arrays(source, rows, mine, memory=options.memory, verify=options.verify, progress=report.first())
    if direct:
        rows = np.array(list(direct.values()), np.uint32)
        try:
            memory = [slots[name].memory for name in direct]
            fill_arrays(source, rows, memory, verify=options.verify, progress=report.second())
        except WeightliftError as error:
            error.message += "; tensors of the object may hold parts of the file now (assign=True reads aside first)"
            error.args = (error.message, *error.args[1:])
            raise
    return dict(zip(aside, arrays, strict=True))


class _Both:
    """Progress of two reads as of one."""

    def __init__(self, source: Source, progress: Progress | None, aside: list[int], direct: list[int]) -> None:
        self._progress = progress
        self._sizes = (_stored(source, aside), _stored(source, direct)) if progress is not None else (0, 0)

    def first(self) -> Progress | None:
        progress = self._progress
        return None if progress is None else lambda done, total: progress(done, total + self._sizes[1])

    def second(self) -> Progress | None:
        progress = self._progress
        if progress is None:
            return None
        return lambda done, total: progress(self._sizes[0] + done, self._sizes[0] + total)


def _stored(source: Source, rows: list[int]) -> int:
    """Bytes that rows take in their files."""
    return sum(e.nbytes for row in rows for piece in source.table.entry(row).pieces for e in piece.extents)
