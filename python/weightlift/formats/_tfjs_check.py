"""Whether TensorFlow.js decodes the weights that a manifest and its files hold; what is wrong with them, all of it.

The reader of the format (``_tfjs``) stops at the first thing that is wrong. This looks on, and knows beside what breaks
the format what TensorFlow.js itself does not decode, or decodes to something else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from math import inf, prod
from pathlib import PurePosixPath
from typing import Any

from weightlift._artifacts import Quantization, WeightSpec
from weightlift.errors import FormatError, NotFoundError, StorageError, UnsafeContentError, WeightliftError
from weightlift.formats._tfjs_manifest import parse_weights, shard_path
from weightlift.formats._tfjs_shards import Shards, looks
from weightlift.protocols import Files, Reader
from weightlift.types import TfjsProblem

__all__ = ["check_manifest", "check_specs", "nbytes_as"]

DECODED = ("float32", "int32", "bool", "string", "complex64")
QUANTIZED = {"uint8": ("float32", "int32"), "uint16": ("float32", "int32"), "float16": ("float32",)}
_AGAIN = "save the model again, with weightlift.convert(old, new) for example"
_NUMBERED = re.compile(r"(.*?)(\d+)of(\d+)(.*)")
_LISTED = 5


def check_manifest(manifest: Any, files: Files, base: PurePosixPath) -> tuple[list[TfjsProblem], list[WeightSpec]]:
    """Every problem of a ``weightsManifest`` and its files, and the entries that could be made out.

    Args:
        manifest: The JSON value.
        files: Where the weight files are opened.
        base: The document's folder.
    """
    check = _Check(files, base)
    if not isinstance(manifest, list):
        check.add("manifest", "weightsManifest", "it is not a list of groups", _AGAIN)
        manifest = []
    for number, group in enumerate(manifest, 1):
        check.group(number, group, last=number == len(manifest))
    check.twice()
    check.misread()
    return check.problems, check.specs


class _Check:
    """What has been seen of a manifest."""

    def __init__(self, files: Files, base: PurePosixPath) -> None:
        self.problems: list[TfjsProblem] = []
        self.specs: list[WeightSpec] = []
        self._files = files
        self._base = base
        self._paths: list[str] = []
        self._sizes: list[int | None] = []
        self._begins: list[tuple[str, int, int]] | None = []
        """Name, first byte and bytes of each weight in all files together; None when it is not known any more."""

    def add(self, code: str, where: str, what: str, fix: str, severity: str = "error") -> None:
        self.problems.append(TfjsProblem(severity, code, where, what, fix))

    def group(self, number: int, group: Any, *, last: bool) -> None:
        """A group: its entries, its files, and whether they belong together."""
        where = f"group {number}"
        paths = group.get("paths") if isinstance(group, Mapping) else None
        entries = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(paths, list) or not isinstance(entries, list):
            self._begins = None
            return self.add("manifest", where, "it has no lists of 'paths' and 'weights'", _AGAIN)
        found, problems = check_specs(entries)
        self.problems += problems
        self.specs += found
        readers = self._open(paths, number)
        self._order(paths, where)
        nbytes = self._expected(entries, found, paths, readers, number)
        sizes = [None if r is None else r.size for r in readers]
        self._lengths(where, paths, sizes, nbytes, last=last)
        self._place(found, nbytes)
        self._sizes += sizes
        return None

    def _open(self, paths: list[Any], number: int) -> list[Reader | None]:
        """The readers of files; None for one that there is not."""
        readers: list[Reader | None] = []
        with suppress(WeightliftError):  # said below, of each file
            self._files.prepare([str(self._base / shard_path(p, number)) for p in paths])
        for path in paths:
            reader = None
            try:
                name = str(self._base / shard_path(path, number))
                self._paths.append(name)
                reader = self._files.open(name)
                if (found := looks(reader)) is not None:
                    self.add(
                        "shard-content", f"file {path!r}", f"it is {found}", "fetch or copy the file again, as binary"
                    )
            except NotFoundError:
                what = "there is no such file: TensorFlow.js loads the server's error page as weights, or fails"
                self.add("shard-missing", f"file {path!r}", what, "copy every file that the manifest names")
            except UnsafeContentError as error:
                fix = "name files in the document's own folder"
                self.add("shard-path", f"file {path!r}", error.message, fix, "warning")
            except (FormatError, StorageError) as error:
                self.add("shard-unreadable", f"file {path!r}", error.message, "make it readable")
            readers.append(reader)
        return readers

    def _order(self, paths: Sequence[Any], where: str) -> None:
        """Files with numbers in their names come in the order of these."""
        matches = [_NUMBERED.fullmatch(str(p)) for p in paths]
        if len({m and (m[1], m[3], m[4]) for m in matches}) != 1 or matches[0] is None:
            return
        numbers = [int(m[2]) for m in matches if m is not None]
        if numbers != sorted(numbers):
            what = f"its files are listed in the order {_few(numbers)}: weights are read from the wrong places"
            self.add("shard-order", where, what, "sort them by their numbers, not as text")
        if lacking := sorted(set(range(1, int(matches[0][3]) + 1)) - set(numbers)):
            what = f"of {matches[0][3]} files, number {_few(lacking)} is not listed"
            self.add("shard-not-listed", where, what, "list every file, in order")

    def _expected(
        self,
        entries: list[Any],
        found: Sequence[WeightSpec],
        paths: Sequence[Any],
        readers: Sequence[Reader | None],
        number: int,
    ) -> list[int] | None:
        """Bytes of each weight; those of strings are looked up in the files. None where they cannot be known."""
        sizes = [spec.nbytes for spec in found]
        if len(found) != len(entries):
            return None
        if None not in sizes:
            return [n for n in sizes if n is not None]
        if None in readers:
            return None
        try:
            weights = parse_weights(entries, number, {})
            names = [str(self._base / shard_path(p, number)) for p in paths]
            return Shards(self._files, names, number, 0, weights).measure(weights)
        except WeightliftError as error:
            self.add("shard-length", f"group {number}", error.message, _AGAIN)
            return None

    def _lengths(
        self, where: str, paths: Sequence[Any], sizes: list[int | None], nbytes: list[int] | None, *, last: bool
    ) -> None:
        if nbytes is None or None in sizes:
            return None
        held, wanted = [n for n in sizes if n is not None], sum(nbytes)
        if sum(held) == wanted:
            return None
        what = f"its {len(nbytes)} weights take {wanted:,} bytes, its {len(held)} files hold {sum(held):,}"
        usual = Counter(held[:-1]).most_common(1)
        odd = [f"{p!r} has {n:,}" for p, n in zip(paths, held[:-1], strict=False) if n != usual[0][0]] if usual else []
        if odd:
            what += f"; most files have {usual[0][0]:,}, but {', '.join(odd[:_LISTED])}"
        if last and sum(held) > wanted:
            what += "; TensorFlow.js ignores what is too much at the end"
            return self.add("shard-length", where, what, "see whether it is the right file", "warning")
        return self.add("shard-length", where, what, "copy the files again, whole")

    def _place(self, found: Sequence[WeightSpec], nbytes: list[int] | None) -> None:
        if self._begins is None or nbytes is None:
            self._begins = None
            return
        at = self._begins[-1][1] + self._begins[-1][2] if self._begins else 0
        begins = list(accumulate(nbytes, initial=at))[:-1]
        self._begins += [(spec.name, b, n) for spec, b, n in zip(found, begins, nbytes, strict=True)]

    def twice(self) -> None:
        """Names and files that are there more than once."""
        for name, count in Counter(spec.name for spec in self.specs).items():
            if count > 1:
                what = f"{count} weights have this name: the last one is taken for all"
                self.add("weight-twice", f"weight {name!r}", what, "rename them")
        for path, count in Counter(self._paths).items():
            if count > 1:
                what = f"it is listed {count} times"
                self.add("shard-twice", f"file {path!r}", what, "list every file once")

    def misread(self) -> None:
        """The list of files that TensorFlow.js takes for evenly cut, though the last one is larger.

        It looks for byte b in file number b / size, which there is not, and gives zeros.
        """
        if None in self._sizes or len(self._sizes) < 2:
            return
        sizes = [n for n in self._sizes if n is not None]
        if len(set(sizes[:-1])) != 1 or sizes[-1] <= sizes[0]:
            return
        beyond = len(sizes) * sizes[0]
        lost = [name for name, begin, n in self._begins or () if n and begin >= beyond]
        what = f"all files but the last have {sizes[0]:,} bytes, and that has {sizes[-1]:,}: TensorFlow.js reads zeros "
        what += (
            f"for {len(lost)} weights: {', '.join(map(repr, lost[:_LISTED]))}" if lost else f"from byte {beyond:,} on"
        )
        severity = "error" if lost or self._begins is None else "warning"
        self.add("shard-misread", "weightsManifest", what, f"cut the files anew: {_AGAIN}", severity)


def check_specs(entries: Sequence[Any]) -> tuple[list[WeightSpec], list[TfjsProblem]]:
    """The entries of a manifest, and what is wrong with them; one without a name or a shape is left out."""
    specs: list[WeightSpec] = []
    problems: list[TfjsProblem] = []
    for number, raw in enumerate(entries, 1):
        raw = dict(raw) if isinstance(raw, Mapping) else {}
        name, shape = raw.get("name"), raw.get("shape")
        where = f"weight {name!r}" if isinstance(name, str) else f"weight number {number}"
        sized = isinstance(shape, (list, tuple)) and all(type(n) is int and n >= 0 for n in shape)
        if not isinstance(name, str) or not name or not sized:
            what = "it has no name" if sized else f"its shape is {str(shape)[:80]}"
            problems.append(TfjsProblem("error", "weight-entry", where, what, _AGAIN))
            continue
        problems += [TfjsProblem("error", code, where, what, fix) for code, what, fix in _entry(raw)]
        quantization = raw.get("quantization")
        known = isinstance(quantization, Mapping) and isinstance(quantization.get("dtype"), str)
        specs.append(
            WeightSpec(
                name,
                tuple(shape or ()),
                str(raw.get("dtype")),
                raw.get("group"),
                Quantization.from_json(quantization) if known and quantization is not None else None,
            )
        )
    return specs, problems


def _entry(raw: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Code, text and remedy of what TensorFlow.js does not decode."""
    dtype, quantization = raw.get("dtype"), raw.get("quantization")
    if "quantization" in raw and quantization is None:
        yield "quantization-null", "quantization is null: 'Cannot read properties of null'", "leave the key out"
    elif quantization is not None:
        yield from _quantization(quantization, dtype)
        return
    if dtype not in DECODED:
        what = f"dtype {dtype!r} is not decoded; there are {', '.join(DECODED)}"
        fix = "store it as int32" if "int" in str(dtype) else "store it as float32, quantised if it is to be small"
        yield "dtype", what, f"{fix}: weightlift.convert does"


def _quantization(quantization: Any, dtype: Any) -> Iterator[tuple[str, str, str]]:
    stored = quantization.get("dtype") if isinstance(quantization, Mapping) else None
    if stored not in QUANTIZED:
        what = f"quantization of dtype {str(stored)!r} is unknown; there are {', '.join(QUANTIZED)}"
        yield "quantization", what, "quantise with one of these"
        return
    if dtype not in QUANTIZED[stored]:
        what = f"quantised to {stored}, which goes with {' and '.join(QUANTIZED[stored])}, not with {dtype!r}"
        yield "quantization", what, "leave weights of other types as they are"
    for key in ("scale", "min") if stored != "float16" else ():
        value = quantization.get(key)
        if type(value) not in (int, float) or not -inf < value < inf:
            yield "quantization", f"quantised to {stored}, but {key!r} is {value!r}, not a finite number", _AGAIN


def nbytes_as(spec: WeightSpec, kind: str) -> int:
    """Bytes of a weight if it were quantised; as it is where it is not float32, or is quantised already."""
    if spec.dtype != "float32" or spec.quantization is not None:
        return spec.nbytes or 0
    return prod(spec.shape) * (1 if kind == "uint8" else 2)


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:_LISTED])) + (", ..." if len(numbers) > _LISTED else "")
