"""A source as another framework would have saved it: which rule makes what of each of its layers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from weightlift._convention_names import Place, inner_name, join, split_all
from weightlift._globs import matches
from weightlift._layer_kinds import Kind, Leaf, all_kinds, parse_conventions
from weightlift._layer_match import Group, Key, Made, in_cell, outcomes, turned
from weightlift._layout import TensorTable
from weightlift._load import refuse_objects
from weightlift._rearranged import c_order, rearranged
from weightlift._source import Names, Source, choose_rows
from weightlift.errors import ConventionsError, MismatchError, UnsupportedFeatureError

__all__ = ["with_conventions"]

Outcome = tuple[Made, ...]
Fits = Callable[[str, tuple[int, ...]], bool]

KEEP, SKIP = "keep", "skip"
_HAS_SEPARABLE = ("keras", "tensorflow", "tfjs")
_SHOWN = 20
_MOST_OF_A_CHANNEL = 256
"""Outputs that a depthwise convolution makes of a channel, or heads, as far as they are tried."""


@dataclass
class _Layer:
    """A layer of the source: its rows by what they are called in it; ``parts``: the layers that it was joined of."""

    place: Place
    rows: dict[Key, int]
    parts: list[_Layer] = field(default_factory=list)


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
    return rearranged(source, plan, verify=verify)


def _check_kinds(kinds: Mapping[str, Sequence[str]]) -> None:
    known = {*all_kinds(), KEEP, SKIP}
    for kind in (k for wanted in kinds.values() for k in wanted):
        name, _, multiplier = kind.partition("*")
        counted = name in all_kinds() and all_kinds()[name].counted
        if name not in known or (multiplier and not (multiplier.isdecimal() and counted)):
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
        self._also: dict[str, str] = {}

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
        for layer in self._whole(layers):
            result += [(layer.rows, made) for made in self._choose(layer)]
        unmatched = [pattern for pattern in self._kinds if pattern not in self._matched]
        if unmatched:
            raise MismatchError(f"kinds= names no layer: {', '.join(map(repr, unmatched[:5]))}", missing=unmatched)
        if self._problems:
            raise _error(self._frameworks, self._problems)
        return result

    def _whole(self, layers: dict[tuple[str, ...], _Layer]) -> list[_Layer]:
        """The layers, where several are what one kind has in it as that one."""
        for kind in all_kinds().values():
            inner = self._inner(kind)
            for path in [p for p in layers if inner and p and inner_name(self._frameworks[0], p[-1]) in inner]:
                whole = self._joined(kind, path[:-1], layers) if path in layers else None
                if whole is None:
                    continue
                if not self._certain(kind, whole):
                    self._also |= {p.place.layer: f"{kind.name} of {whole.place.layer!r}" for p in whole.parts}
                    continue
                parts = {part.place.path for part in whole.parts}
                first = next(p for p in layers if p in parts)
                there = [(path[:-1], whole) if p == first else (p, layer) for p, layer in layers.items()]
                layers = dict(item for item in there if item[0] not in parts or item[1] is whole)
        return list(layers.values())

    def _inner(self, kind: Kind) -> dict[str, str]:
        """The layers that a kind has in it: how the table has them, by whichever of their names."""
        return {inner_name(self._frameworks[0], part): part for part in kind.inner(self._frameworks[0])}

    def _joined(self, kind: Kind, path: tuple[str, ...], layers: Mapping[tuple[str, ...], _Layer]) -> _Layer | None:
        """What lies at and under a path as one layer of a kind, if it can be that."""
        inner, column = self._inner(kind), kind.columns[self._frameworks[0]]
        known = {p: inner.get(inner_name(self._frameworks[0], p[-1])) for p in layers if p and p[:-1] == path}
        parts = [layers[p] for p, within in known.items() if within]
        names = [name for leaf in column if isinstance(leaf, Leaf) for name in leaf.names]
        rows: dict[Key, int] = {}
        if path in layers and any("." not in name for name in names if name):
            parts.append(layers[path])
            rows.update(layers[path].rows)
        for part in parts:
            if part.place.path == path:
                continue
            within = known[part.place.path]
            mine = [name for name in names if name.rpartition(".")[0] == within]
            for key, row in part.rows.items():
                numbered = isinstance(key, int) and key < len(mine)
                rows[mine[int(key)] if numbered else f"{within}.{key}"] = row
        place = parts[0].place
        above = place.layer if place.path == path else place.layer[: -len(place.path[-1]) - 1]
        whole = _Layer(Place(above, path, ""), rows, parts)
        return whole if outcomes(kind, self._group(whole), self._frameworks) else None

    def _certain(self, kind: Kind, layer: _Layer) -> bool:
        """Whether layers are one of a kind: two convolutions in a row are such by what is said or filled only."""
        if not kind.name.startswith("Separable") or self._frameworks[0] in _HAS_SEPARABLE:
            return True
        said = self._said(layer.place.layer)
        return any(each.partition("*")[0] == kind.name for each in said) or bool(
            self._fitting(self._group(layer), kind)
        )

    def _group(self, layer: _Layer) -> Group:
        shapes = {key: tuple(self._table.shapes[row]) for key, row in layer.rows.items()}
        return Group(layer.place.layer, layer.place.path, shapes)

    def _said(self, layer: str, *names: str) -> list[str]:
        """The kinds that the caller allows a layer, the first first."""
        found: list[str] = []
        for pattern, kinds in self._kinds.items():
            plain = KEEP in kinds or SKIP in kinds
            if any(matches(name, pattern) for name in (layer, *names)) or (
                plain and layer.startswith((f"{pattern}.", f"{pattern}/"))
            ):
                self._matched.add(pattern)
                found += kinds
        return found

    def _choose(self, layer: _Layer) -> Outcome:
        group = self._group(layer)
        name, shapes = group.layer, group.shapes
        said = self._said(name, *(self._table.names[row] for row in layer.rows.values()))
        found: dict[str, list[Outcome | None]] = {}
        for kind in all_kinds().values():
            made = outcomes(kind, group, self._frameworks)
            if made:
                found[kind.name] = made
        deeper = {k: made for k, made in found.items() if in_cell(all_kinds()[k], self._frameworks[0], group.path)}
        found = deeper or found  # so `a/cell` is the cell of an LSTM
        distinct = _distinct(found.values(), shapes)
        fitting = self._fitting(group) if any(all_kinds()[kind].counted for kind in found) and not said else []
        if len(fitting) == 1:
            return fitting[0]
        if len(distinct) == 1 and distinct[0] is not None and not said:
            return distinct[0]
        for wanted in said:
            kind, count = all_kinds()[wanted.partition("*")[0]], int(wanted.partition("*")[2] or 0)
            mine = outcomes(kind, group, self._frameworks, count)
            if len(mine) == 1 and mine[0] is not None:
                return mine[0]
        if len(distinct) == 1 and distinct[0] is not None and name not in self._kinds:
            return distinct[0]  # what was said is for other layers that the glob matches
        fitting = self._fitting(group)
        if len(fitting) == 1 and name not in self._kinds:
            return fitting[0]
        why = self._why(found, said if name in self._kinds else [])
        also = f", or a {self._also[name]}" if name in self._also else ""
        self._problems.append((name, self._described(layer), why + also))
        return ()

    def _described(self, layer: _Layer) -> str:
        """Its tensors, as the source calls them."""
        layer_name, shown = layer.place.layer, []
        for key, row in layer.rows.items():
            name = self._table.names[row]
            if layer_name and name.startswith(layer_name) and isinstance(key, str):
                key = name[len(layer_name) + 1 :]
            shown.append(f"{key} {list(self._table.shapes[row])}")
        return ", ".join(shown)

    def _fitting(self, group: Group, *kinds: Kind) -> list[Outcome]:
        """What can be made of a layer that what is filled has a place for, if that is known."""
        if self._fits is None:
            return []
        found = []
        for kind in kinds or all_kinds().values():
            channels = max((shape[0] for shape in group.shapes.values() if shape), default=1)
            most = min(channels, _MOST_OF_A_CHANNEL) if kind.counted else 1
            for count in (m for m in range(1, most + 1) if channels % m == 0):
                found.append(outcomes(kind, group, self._frameworks, count))
        possible = [made for made in _distinct(found, group.shapes) if made is not None]
        return [p for p in possible if all(self._fits(m.name, m.shape) for m in p)]

    def _why(self, found: Mapping[str, Sequence[Outcome | None]], said: Sequence[str]) -> str:
        """What is the matter with a layer."""
        if said:
            return f"not a {' or '.join(said)}, by its tensors"
        if not found:
            return "no rule"
        if all(made == [None] for made in found.values()):
            return f"{' or '.join(found)}: no rule for {self._frameworks[1]}"
        if len(found) == 1 and all_kinds()[next(iter(found))].counted == "n":
            return f'{next(iter(found))}, of how many heads? Say it as in "MultiheadAttention*8"'
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
        found = turned(made, shape, c_order(shape, 1)) if made.how in ("turn", "part") else None
        if found is None:
            order = None
        else:
            order = tuple((n, stride if n > 1 else 0) for n, stride in zip(*found[:2], strict=True)), found[2]
        parts.append((made.name, made.how, made.sources, made.gates, made.given, made.cells, made.shape, order))
    return tuple(parts)


def _error(frameworks: tuple[str, str], problems: Sequence[tuple[str, str, str]]) -> ConventionsError:
    lines = [f"{layer or 'the model itself'} ({tensors}): {why}" for layer, tensors, why in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"and {len(problems) - _SHOWN} more, which .problems of this error has")
    return ConventionsError(
        f"{'->'.join(frameworks)} has no certain rule for {len(problems)} of the layers: {'; '.join(lines)}. Say what "
        'they are with kinds={"layer or glob": "Conv2d"}; "keep" takes tensors as they are, "skip" leaves them out',
        problems=problems,
    )
