"""A source as another framework would have saved it: parameters by other names, their axes in another order.

Nothing is copied here. A tensor whose axes are turned stays where it is, and its row says so (``strides``); gates in
another order are boxes that are put together when the tensor is read. Only biases that are added, stacked or taken
apart are read at once, as they are small.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._convention_names import Place, join, split_all
from weightlift._dtypes import STRING
from weightlift._layer_kinds import all_kinds, parse_conventions
from weightlift._layer_match import Group, Key, Made, outcomes, turned
from weightlift._layout import Fill, Inline, Piece, TensorEntry, TensorTable, stored_axes
from weightlift._load import read_arrays, refuse_objects
from weightlift._source import Names, Source, choose_rows
from weightlift._steps import VARIABLE_STEPS, Deflate, Tiles
from weightlift.errors import ConventionsError, MismatchError, UnsupportedFeatureError

__all__ = ["with_conventions"]

Array = npt.NDArray[Any]
Outcome = tuple[Made, ...]
Fits = Callable[[str, tuple[int, ...]], bool]

KEEP, SKIP = "keep", "skip"
_SHOWN = 20
_MOST_OF_A_CHANNEL = 256
"""Outputs that a depthwise convolution makes of a channel, as far as they are tried."""
_MOST_BOXES = 1 << 20
"""Runs of a tensor whose gates are put in order: more than any layer of use has."""


@dataclass
class _Layer:
    """A layer of the source: its rows by what they are called in it."""

    place: Place
    rows: dict[Key, int]


def with_conventions(
    source: Source,
    conventions: str,
    *,
    kinds: Mapping[str, str | Sequence[str]],
    names: Names = None,
    fits: Fits | None = None,
    verify: bool = True,
) -> Source:
    """The chosen tensors of a source as another framework would call and arrange them.

    Args:
        source: Open.
        conventions: ``"torch->keras"``.
        kinds: What layers are, where that is not certain: kinds, or ``"keep"`` and ``"skip"``, by glob.
        names: Of the source.
        fits: Whether what is filled has a tensor of this name and shape, which decides between kinds.
        verify: Compare the checksums of what is read here.

    Raises:
        ConventionsError: Layers without a rule, or with several; it lists them all.
    """
    frameworks = parse_conventions(conventions)
    if verify:
        source.refuse_damaged()
    refuse_objects(source, names)
    if verify and names is None:
        source.check_whole()
    table = source.table
    rows = choose_rows(table, names).tolist()
    if names is None and source.layout.order is not None:
        rows = source.layout.order.tolist()
    wanted = {pattern: [kind] if isinstance(kind, str) else list(kind) for pattern, kind in kinds.items()}
    _check_kinds(wanted)
    resolver = _Resolver(table, frameworks, wanted, fits)
    places = split_all(frameworks[0], [table.names[row] for row in rows])
    plan = resolver.plan(rows, places)
    return _rebuilt(source, plan, verify=verify)


def _check_kinds(kinds: Mapping[str, Sequence[str]]) -> None:
    known = {*all_kinds(), KEEP, SKIP}
    for kind in (k for wanted in kinds.values() for k in wanted):
        name, _, multiplier = kind.partition("*")
        if name not in known or (multiplier and not (multiplier.isdecimal() and name.startswith("Depthwise"))):
            raise UnsupportedFeatureError(f"kinds= has no kind {kind!r}: known are {', '.join(sorted(known))}")


# --- what becomes of each layer -----------------------------------------------------------------------------------
class _Resolver:
    """Finds the rule of each layer; what has none is gathered and reported together."""

    def __init__(
        self, table: TensorTable, frameworks: tuple[str, str], kinds: Mapping[str, Sequence[str]], fits: Fits | None
    ) -> None:
        self._table, self._frameworks, self._kinds, self._fits = table, frameworks, kinds, fits
        self._matched: set[str] = set()
        self._problems: list[tuple[str, str, str]] = []

    def plan(self, rows: Sequence[int], places: Sequence[Place]) -> list[tuple[Mapping[Key, int], Made]]:
        """What is made of which rows, in order; ConventionsError."""
        result: list[tuple[Mapping[Key, int], Made]] = []
        layers: dict[tuple[str, ...], _Layer] = {}
        for row, place in zip(rows, places, strict=True):
            said = self._said(place.layer, self._table.names[row])
            if place.ignored or SKIP in said:
                continue
            if KEEP in said:
                name = join(self._frameworks[1], [*place.path, str(place.leaf)])
                result.append(({place.leaf: row}, Made(name, "keep", (place.leaf,))))
                continue
            layer = layers.setdefault(place.path, _Layer(place, {}))
            if place.leaf in layer.rows:
                both = f"{self._table.names[layer.rows[place.leaf]]!r} and {self._table.names[row]!r}"
                raise MismatchError(f"{both} are one parameter of one layer: choose with names=")
            layer.rows[place.leaf] = row
        for layer in layers.values():
            result += [(layer.rows, made) for made in self._choose(layer)]
        unmatched = [pattern for pattern in self._kinds if pattern not in self._matched]
        if unmatched:
            raise MismatchError(f"kinds= names no layer: {', '.join(map(repr, unmatched[:5]))}", missing=unmatched)
        if self._problems:
            raise _error(self._frameworks, self._problems)
        return result

    def _said(self, layer: str, *names: str) -> list[str]:
        """The kinds that the caller allows a layer, the first first."""
        found: list[str] = []
        for pattern, kinds in self._kinds.items():
            if any(name == pattern or fnmatchcase(name, pattern) for name in (layer, *names)):
                self._matched.add(pattern)
                found += kinds
        return found

    def _choose(self, layer: _Layer) -> Outcome:
        shapes = {key: tuple(self._table.shapes[row]) for key, row in layer.rows.items()}
        name = layer.place.layer
        group = Group(name, layer.place.path, shapes)
        said = self._said(name, *(self._table.names[row] for row in layer.rows.values()))
        found: dict[str, list[Outcome | None]] = {}
        for kind in all_kinds().values():
            made = outcomes(kind, group, self._frameworks)
            if made:
                found[kind.name] = made
        if any(all_kinds()[kind].deeper(self._frameworks[0]) for kind in found):  # so `a/cell` is the cell of an LSTM
            found = {k: made for k, made in found.items() if all_kinds()[k].deeper(self._frameworks[0])}
        distinct = _distinct(found.values(), shapes)
        if len(distinct) == 1 and distinct[0] is not None and not said:
            return distinct[0]
        for wanted in said:
            kind, multiplier = all_kinds()[wanted.partition("*")[0]], int(wanted.partition("*")[2] or 1)
            mine = outcomes(kind, group, self._frameworks, multiplier)
            if len(mine) == 1 and mine[0] is not None:
                return mine[0]
        if len(distinct) == 1 and distinct[0] is not None and name not in self._kinds:
            return distinct[0]  # what was said is for other layers that the glob matches
        fitting = self._fitting(group)
        if len(fitting) == 1 and name not in self._kinds:
            return fitting[0]
        self._problems.append((name, _described(shapes), self._why(found, said if name in self._kinds else [])))
        return ()

    def _fitting(self, group: Group) -> list[Outcome]:
        """What can be made of a layer that what is filled has a place for, if that is known."""
        if self._fits is None:
            return []
        found = []
        for kind in all_kinds().values():
            channels = max((shape[0] for shape in group.shapes.values() if shape), default=1)
            depthwise = kind.name.startswith("Depthwise")
            most = min(channels, _MOST_OF_A_CHANNEL) if depthwise else 1
            for multiplier in (m for m in range(1, most + 1) if channels % m == 0):
                found.append(outcomes(kind, group, self._frameworks, multiplier))
        possible = [made for made in _distinct(found, group.shapes) if made is not None]
        return [p for p in possible if all(self._fits(m.name, _shape(m, group.shapes)) for m in p)]

    def _why(self, found: Mapping[str, Sequence[Outcome | None]], said: Sequence[str]) -> str:
        """What is the matter with a layer."""
        if said:
            return f"not a {' or '.join(said)}, by its tensors"
        if not found:
            return "no rule"
        if all(made == [None] for made in found.values()):
            return f"{' or '.join(found)}: no rule for {self._frameworks[1]}"
        if len(found) == 1:
            return f"{next(iter(found))}, but which of its parameters is which is not certain"
        return " or ".join(found)


def _distinct(found: Iterable[Sequence[Outcome | None]], shapes: Mapping[Key, tuple[int, ...]]) -> list[Outcome | None]:
    """One of all that come to the same."""
    result = {_effect(made, shapes): made for made in (m for several in found for m in several)}
    return list(result.values())


def _effect(outcome: Outcome | None, shapes: Mapping[Key, tuple[int, ...]]) -> Hashable:
    """What is equal for outcomes that differ in no byte."""
    if outcome is None:
        return None
    parts = []
    for made in outcome:
        shape = shapes[made.sources[0]]
        found = turned(made, shape, _c_order(shape, 1)) if made.how == "turn" else None
        order = found and tuple((n, stride if n > 1 else 0) for n, stride in zip(*found, strict=True))
        parts.append((made.name, made.how, made.sources, made.gates, made.row, order))
    return tuple(parts)


def _shape(made: Made, shapes: Mapping[Key, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of what is made."""
    shape = shapes[made.sources[0]]
    if made.how == "turn":
        found = turned(made, shape, _c_order(shape, 1))
        return shape if found is None else found[0]
    return {"stack": (2, *shape), "row": shape[1:]}.get(made.how, shape)


def _described(shapes: Mapping[Key, tuple[int, ...]]) -> str:
    return ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())


def _error(frameworks: tuple[str, str], problems: Sequence[tuple[str, str, str]]) -> ConventionsError:
    lines = [f"{layer or 'the model itself'} ({tensors}): {why}" for layer, tensors, why in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"and {len(problems) - _SHOWN} more, which .problems of this error has")
    return ConventionsError(
        f"{'->'.join(frameworks)} has no certain rule for {len(problems)} of the layers: {'; '.join(lines)}. Say what "
        'they are with kinds={"layer or glob": "Conv2d"}; "keep" takes tensors as they are, "skip" leaves them out',
        problems=problems,
    )


# --- the new table ------------------------------------------------------------------------------------------------
def _rebuilt(source: Source, plan: Sequence[tuple[Mapping[Key, int], Made]], *, verify: bool) -> Source:
    """The source with another table."""
    entries: dict[str, TensorEntry] = {}
    for rows, made in plan:
        if made.name in entries:
            raise MismatchError(f"two tensors would be called {made.name!r}: choose with names=", tensor=made.name)
        try:
            entries[made.name] = _entry(source, [rows[key] for key in made.sources], made, verify=verify)
        except UnsupportedFeatureError as error:
            raise error.locate(path=source.paths()[0], tensor=source.table.names[rows[made.sources[0]]]) from None
    layout = replace(
        source.layout, tensors=TensorTable.from_entries(entries), structure=None, order=None, whole=None, objects={},
        extra={},
    )  # fmt: skip
    return replace(source, layout=layout)


def _entry(source: Source, rows: Sequence[int], made: Made, *, verify: bool) -> TensorEntry:
    first = source.table.entry(rows[0])
    if made.how == "keep":
        return first
    if first.dtype == STRING or first.dtype.packed:
        raise UnsupportedFeatureError(f"elements of {first.dtype} are not rearranged")
    if made.how == "turn":
        return _turn(_reordered(first, made), made)
    if made.how == "zeros":
        return TensorEntry(first.dtype, first.shape, (Piece(Fill(first.nbytes)),))
    arrays = read_arrays(source, np.array(rows, np.uint32), {}, verify=verify)
    if made.how == "sum":
        total = arrays[0].astype(np.float64) + arrays[1].astype(np.float64)
        return _inline(first, total.astype(first.dtype.numpy))
    if made.how == "stack":
        return _inline(first, np.stack([_in_order(array, made.gates) for array in arrays]))
    return _inline(first, _in_order(arrays[0][made.row], made.gates))


def _inline(like: TensorEntry, array: Array) -> TensorEntry:
    return TensorEntry(like.dtype, array.shape, (Piece(Inline(np.ascontiguousarray(array).tobytes())),))


def _in_order(array: Array, gates: Sequence[int]) -> Array:
    """A vector with its gates where they go."""
    if not gates:
        return array
    parts = array.reshape(len(gates), -1)
    return np.concatenate([parts[gates.index(place)] for place in range(len(gates))])


def _reordered(entry: TensorEntry, made: Made) -> TensorEntry:
    """The tensor with its gates where they go, put together from boxes when it is read."""
    if not made.gates:
        return entry
    (piece, *others) = entry.pieces
    if others or entry.strides is not None or any(isinstance(s, VARIABLE_STEPS) for s in piece.steps[1:]):
        raise _stored_otherwise()
    if piece.steps and isinstance(piece.steps[0], VARIABLE_STEPS) and not isinstance(piece.steps[0], Deflate):
        raise _stored_otherwise()
    axis = next(k for k, token in enumerate(made.before) if "g" in token)
    outer, count = prod(entry.shape[:axis]), len(made.gates)
    run = prod(entry.shape[axis:]) // count
    if outer * count > _MOST_BOXES:
        raise _stored_otherwise()
    boxes = tuple(((k, place, 0), (1, 1, run)) for k in range(outer) for place in made.gates)
    step = Tiles(entry.dtype.name, (outer, count, run), boxes)
    return replace(entry, pieces=(replace(piece, steps=(*piece.steps, step)),))


def _turn(entry: TensorEntry, made: Made) -> TensorEntry:
    """The tensor with its axes in another order: the same bytes, read with other strides."""
    if made.before == made.after:
        return entry
    have = entry.strides or _c_order(entry.shape, entry.dtype.numpy.itemsize)
    found = turned(made, entry.shape, have)
    if found is None:
        raise _stored_otherwise()
    shape, strides = found
    plain = _c_order(shape, entry.dtype.numpy.itemsize)
    if not entry.nbytes or all(n == 1 or a == b for n, a, b in zip(shape, strides, plain, strict=True)):
        return replace(entry, shape=shape, strides=None)
    if stored_axes(shape, strides) is None:
        raise _stored_otherwise()
    return replace(entry, shape=shape, strides=strides)


def _c_order(shape: Sequence[int], item: int) -> tuple[int, ...]:
    """The strides of a tensor in C order, in bytes."""
    strides = []
    for n in reversed(shape):
        strides.append(item)
        item *= n
    return tuple(reversed(strides))


def _stored_otherwise() -> UnsupportedFeatureError:
    return UnsupportedFeatureError(
        "the tensor is stored in pieces, or in an order, that is not rearranged as it is read: convert the file to "
        "safetensors first, without conventions="
    )
