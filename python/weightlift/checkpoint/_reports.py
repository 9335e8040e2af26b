"""What each process says of its part of a step, and what the parts are together.

Reports are files of the step's directory while it is being written; rank 0 reads them, and removes them before it
commits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weightlift import _json
from weightlift.checkpoint._manifest import MAX_BYTES, StoredFile, StoredTensor, encoded_of, with_encoded
from weightlift.checkpoint._parts import Keeper, Part, State, pieces_of
from weightlift.checkpoint._state import RANK
from weightlift.checkpoint._unchanged import checksums_of
from weightlift.checkpoint._write import Written
from weightlift.errors import FormatError, MismatchError
from weightlift.formats._boxes import check_filled
from weightlift.formats._safetensors_encoded import encoded_json

__all__ = ["Report", "check_agreement", "merged_structure", "others_sums"]

_SMALL = 64 << 10
"""Bytes of arrays that are compared between processes: generators of random numbers, counters, norms."""


@dataclass(frozen=True)
class Report:
    """What a process has stored.

    Attributes:
        rank: Which process.
        written: Its shards.
        structure: Of its state.
        tensors: The names in its state.
        others: CRC-32C of what another one stores, and is to be the same here.
    """

    rank: int
    written: Written
    structure: Any
    tensors: Sequence[str]
    others: Mapping[str, int]

    def to_json(self) -> bytes:
        """The file's bytes."""
        w = self.written
        document = {
            "rank": self.rank, "structure": self.structure, "tensors": list(self.tensors), "others": dict(self.others),
            "files": [[name, file.nbytes, file.since, w.sums[name]] for name, file in w.files.items()],
            "stored": [[name, t.dtype, t.shape, t.file, t.offset, t.nbytes, t.crc32c, t.crc32]
                       for name, t in w.tensors.items()],
            "parts": [[name, part.tensor, part.shape, part.begin] for name, part in w.parts.items()],
            "encoded": encoded_json(encoded_of(w.tensors)), "nbytes": w.nbytes,
        }  # fmt: skip
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Report:
        """The report; FormatError for anything else."""
        raw = _json.loads(data, what="the report", max_bytes=MAX_BYTES)
        try:
            tensors = {name: StoredTensor(dtype, tuple(shape), *rest) for name, dtype, shape, *rest in raw["stored"]}
            written = Written(
                {name: StoredFile(nbytes, since) for name, nbytes, since, _ in raw["files"]},
                {name: text for name, _, _, text in raw["files"]},
                tensors | with_encoded(tensors, raw["encoded"]),
                {name: Part(tensor, tuple(shape), tuple(begin)) for name, tensor, shape, begin in raw["parts"]},
                raw["nbytes"],
            )
            return cls(raw["rank"], written, raw["structure"], raw["tensors"], raw["others"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"malformed report: {type(error).__name__} {error}") from None


def others_sums(state: State, mine: Sequence[int]) -> dict[str, int]:
    """CRC-32C of what other processes store: small arrays that all have, and what is presumed to be as it is here."""
    stored = set(mine)
    rows = [
        row
        for row, (keeper, array) in enumerate(zip(state.keepers, state.arrays, strict=True))
        if row not in stored and (keeper is Keeper.ANOTHER or array.nbytes <= _SMALL)
    ]
    taken = state.take(rows)
    return dict(zip(taken.names, checksums_of(taken).crc32c.tolist(), strict=True)) if rows else {}


def check_agreement(reports: Sequence[Report]) -> None:
    """MismatchError unless all processes have the same tensors, and the same values where they all have one."""
    first = reports[0]
    stored = {name: tensor for report in reports for name, tensor in report.written.tensors.items()}
    for report in reports[1:]:
        differing = set(first.tensors) ^ set(report.tensors)
        differing = {name for name in differing if RANK not in name.split(".")}
        if differing:
            name = min(differing)
            who = first.rank if name in set(first.tensors) else report.rank
            raise MismatchError(f"only rank {who} of {first.rank} and {report.rank} has it; {_HINT}", tensor=name)
    for report in reports:
        for name, value in report.others.items():
            if name in stored and stored[name].values.crc32c != value:
                raise MismatchError(
                    f"rank {report.rank} has other values than the process that stores it; {_HINT}", tensor=name
                )
    _check_complete(reports, stored)


def _check_complete(reports: Sequence[Report], stored: Mapping[str, StoredTensor]) -> None:
    """All tensors are stored, and the pieces of each fill it."""
    pieces = pieces_of(item for report in reports for item in report.written.parts.items())
    for name, of in pieces.items():
        try:
            check_filled(of.shape, [(begin, stored[piece].values.shape) for piece, begin in of.begins.items()], "box")
        except FormatError as error:
            text = f"the boxes that the processes have do not fill it: {error.message}"
            raise MismatchError(text, tensor=name) from None
    for report in reports:
        missing = next((name for name in report.tensors if name not in stored and name not in pieces), None)
        if missing is not None:
            raise MismatchError("no process has any of it that is to be stored", tensor=missing)


def merged_structure(reports: Sequence[Report]) -> Any:
    """The structure of the whole: what all have, and what each has of its own; MismatchError where they differ."""
    whole = reports[0].structure
    for report in reports[1:]:
        whole = _merged(whole, report.structure, (), report.rank)
    return whole


_HINT = "give what is each process's own as weightlift.checkpoint.PerRank(value)"


def _merged(a: Any, b: Any, path: tuple[str, ...], rank: int) -> Any:
    if a == b and not _holds_ranks(path):
        return a
    if isinstance(a, dict) and isinstance(b, dict) and list(a) == list(b) and len(a) == 1:
        ((kind, left),) = a.items()
        right = b[kind]
        if kind == "dict" and _holds_ranks(path):
            return {kind: [*left, *(item for item in right if item[0] not in {key for key, _ in left})]}
        if kind == "dict" and [key for key, _ in left] == [key for key, _ in right]:
            pairs = zip(left, right, strict=True)
            return {kind: [[key, _merged(x, y, (*path, str(key)), rank)] for (key, x), (_, y) in pairs]}
        if kind in ("list", "tuple") and len(left) == len(right):
            both = enumerate(zip(left, right, strict=True))
            return {kind: [_merged(x, y, (*path, str(number)), rank) for number, (x, y) in both]}
    raise MismatchError(f"ranks 0 and {rank} have different values at {'.'.join(path) or 'the top'}; {_HINT}")


def _holds_ranks(path: tuple[str, ...]) -> bool:
    """Whether the node at this path is what each process has of its own, by rank."""
    return bool(path) and path[-1] == RANK
