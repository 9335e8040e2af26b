"""What MXNet's files call a block's parameters, beside what ``save_parameters`` does. Pure.

``export`` and ``collect_params().save`` write each parameter's own name (``dense0_weight``), the first with ``arg:`` or
``aux:`` before it. Where no name was given, that has counters in it, which go on from one network to the next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["own_names"]

_KIND = re.compile(r"(arg|aux):")
_COUNTED = re.compile(r"([A-Za-z]\w*?)(\d+)_")


def own_names(names: Sequence[str], structural: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The structural names of parameters, by the names that a file has for them; only what is certain.

    Args:
        names: Of all tensors in the file.
        structural: Each parameter's own name, by the one that ``save_parameters`` writes.
        prefix: Of the block, which ``strip_prefix=`` may have left out.
    """
    bare = {name: _KIND.sub("", name, count=1) for name in names}
    if len(set(bare.values())) < len(names):
        return {}
    if set(bare.values()) <= set(structural):
        return bare
    first: dict[str, str] = {}  # of several names of one parameter
    for own, given in structural.items():
        first.setdefault(given, own)
    stripped = {given.removeprefix(prefix): own for given, own in first.items()}
    for spelled in (first, stripped):
        if set(bare.values()) == set(spelled):
            return {name: spelled[given] for name, given in bare.items()}
    theirs = _recounted(list(bare.values()))
    for spelled in (first, stripped):
        ours = _recounted(list(spelled))
        by_place = {ours[given]: own for given, own in spelled.items()}
        if len(by_place) == len(spelled) and set(theirs.values()) == set(by_place):
            return {name: by_place[theirs[given]] for name, given in bare.items()}
    return {}


def _recounted(names: Sequence[str]) -> dict[str, str]:
    """Names with their counters from 0 on: the second dense layer of a network is ``dense1`` in any."""
    split = {name: _parts(name) for name in names}
    counters: dict[tuple[object, ...], set[int]] = {}
    for parts, _ in split.values():
        for k, (kind, number) in enumerate(parts):
            counters.setdefault((*map(str, parts[:k]), kind), set()).add(number)
    places = {(*above, n): place for above, seen in counters.items() for place, n in enumerate(sorted(seen))}
    result = {}
    for name, (parts, last) in split.items():
        above = [(*map(str, parts[:k]), kind, number) for k, (kind, number) in enumerate(parts)]
        result[name] = "".join(f"{path[-2]}{places[path]}_" for path in above) + last
    return result


def _parts(name: str) -> tuple[list[tuple[str, int]], str]:
    """``net0_dense1_weight`` as its counted parts and the rest."""
    parts, at = [], 0
    while match := _COUNTED.match(name, at):
        parts.append((match[1], int(match[2])))
        at = match.end()
    return parts, name[at:]
