"""From what the caller names to an open, validated layout: store, format, sidecar.

A target is a path or URL of a file, of a sharded set's index, or of a local directory that holds one.
The format is the one asked for, else the content's (leading bytes), else the suffix's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from weightlift import _sidecar
from weightlift._dtypes import DType, byte_size
from weightlift._json import impostor
from weightlift._layout import U32, Layout, ReadOptions, TensorEntry, TensorTable
from weightlift._ops import NONE
from weightlift._plan import OpenFiles, read_rows
from weightlift._urls import Url, any_remote, as_text, is_file, local_path
from weightlift.errors import ChecksumError, FormatError, MismatchError, NotFoundError, WeightliftError
from weightlift.formats import FORMATS, by_name, by_suffix
from weightlift.protocols import Format, KeepsSidecar, ReadsSome, Store, SupportsMap, TakesReadOptions
from weightlift.stores import at_url, shares
from weightlift.stores._local import LocalStore

__all__ = [
    "Names",
    "Row",
    "Source",
    "choose_rows",
    "find",
    "first_of_directory",
    "in_directory",
    "open_in",
    "open_source",
    "refuse_options",
]

Names = str | Iterable[str] | None
DIRECTORY_FILES = (
    "model.json",
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "checkpoint",
    "variables/variables.index",
    ".metadata",
    "_CHECKPOINT_METADATA",
    "_METADATA",
    "manifest.ocdbt",
)
"""What a directory stands for: the first of these that it holds."""

HEAD = 4096
_PREFIX_ENDINGS = (".params", ".ckpt")
"""Endings of other formats that prefixes of TensorFlow's checkpoints have, too: as in the book, as of old."""

_CHUNKS = re.compile(r"__\d+_\d+\.distcp")
"""Files of a checkpoint of torch.distributed.checkpoint, which .metadata describes."""

_BUNDLE_DATA = re.compile(r"(.+)\.data-\d{5,}-of-\d{5,}", re.DOTALL)


@dataclass
class Source:
    """An open set of files and what is in them."""

    url: str
    store: Store
    name: str
    files: OpenFiles
    format: Format
    layout: Layout
    _local: Sequence[Any] | None = field(default=None, init=False, repr=False)

    @property
    def table(self) -> TensorTable:
        """The tensors."""
        return self.layout.tensors

    def readers(self, rows: U32 | None = None) -> Sequence[Any]:
        """One reader a source of the layout; remote files that none of ``rows`` lies in stay unopened."""
        if self.files.remote:
            needed = None if rows is None else self._ranges_of(rows)
            return self.files.readers(self.layout.sources, self.layout.expected, needed)
        if self._local is None:  # the same for all rows, and asked for as often as there are rows
            self._local = self.files.readers(self.layout.sources, self.layout.expected)
        return self._local

    def reader(self, number: int, offset: int, nbytes: int) -> Any:
        """The reader of one source, of which one range will be read."""
        return self.files.readers(self.layout.sources, self.layout.expected, {number: [(offset, nbytes)]})[number]

    def _ranges_of(self, rows: U32) -> dict[int, list[tuple[int, int]]]:
        """Where rows lie: (offset, nbytes) by source number."""
        table = self.table
        result: dict[int, list[tuple[int, int]]] = {}
        columns = (table.source[rows], table.offset[rows], table.nbytes[rows])
        for row, number, offset, nbytes in zip(rows.tolist(), *(c.tolist() for c in columns), strict=True):
            if row not in table.pieces:
                result.setdefault(number, []).append((offset, nbytes))
                continue
            for extent in (e for piece in table.pieces[row] for e in piece.extents):
                result.setdefault(extent.source, []).append((extent.offset, extent.nbytes))
        return result

    @property
    def damage(self) -> str | None:
        """What is wrong with the tensor table, if it does not match its checksum."""
        damaged = self.layout.damaged
        return None if damaged is None else f"the tensor table does not match its checksum: {damaged}"

    def refuse_damaged(self) -> None:
        """ChecksumError, if there is damage."""
        if self.damage is not None:
            raise ChecksumError(self.damage, path=self.paths()[0])

    def check_whole(self) -> None:
        """Compare the checksums of runs that hold many tensors (ChecksumError), if the file is local."""
        whole = self.layout.whole
        if whole is None or self.files.remote:
            return
        rows = np.arange(len(whole), dtype=np.uint32)
        nowhere, layout = np.full(len(rows), NONE, np.uint32), Layout(self.layout.format, whole, self.layout.sources)
        read_rows(layout, self.readers(), rows, [], nowhere, np.zeros(len(rows), np.uint64), {}, verify=True)

    @property
    def mappable(self) -> bool:
        """Whether the files are local, so that mapping them is safe and fast."""
        if self.files.remote:
            return False
        return all(isinstance(reader, SupportsMap) and not reader.on_network for reader in self.readers())

    def paths(self) -> tuple[str, ...]:
        """The files, the one that was asked for first."""
        return tuple(dict.fromkeys(self.store.path(n) for n in (self.name, *self.layout.sources)))


@dataclass(frozen=True, slots=True)
class Row:
    """A tensor of an open file, not read: number ``number`` of ``source``'s table."""

    source: Source
    number: int

    @property
    def entry(self) -> TensorEntry:
        """What the table says of it."""
        return self.source.table.entry(self.number)

    @property
    def dtype(self) -> DType:
        """Its element type."""
        return self.source.table.dtype(self.number)

    @property
    def shape(self) -> tuple[int, ...]:
        """In elements."""
        return self.source.table.shapes[self.number]

    @property
    def axes(self) -> tuple[int, ...]:
        """Its shape as it is stored, where that is not C order."""
        return self.source.table.axes(self.number)

    @property
    def nbytes(self) -> int:
        """Bytes once decoded; 0 for strings."""
        return byte_size(self.dtype, self.shape)


def open_source(
    url: str | os.PathLike[str],
    *,
    format: str | None = None,
    mode: str = "auto",
    store_options: Mapping[str, Any] | None = None,
    names: Names = None,
    options: ReadOptions | None = None,
) -> Source:
    """Open and parse what a path or URL means; errors name the file.

    With ``names``, what is far away may be read no further than these tensors need: the table then has no others, and
    there may be no structure and no metadata.
    """
    store, name = find(url, mode=mode, store_options=store_options)
    return open_in(store, name, format=format, url=str(url), names=names, options=options)


def open_in(
    store: Store,
    name: str,
    *,
    format: str | None = None,
    url: str | None = None,
    names: Names = None,
    options: ReadOptions | None = None,
) -> Source:
    """Open and parse file ``name`` of a store; ``names`` as for :func:`open_source`."""
    files = OpenFiles(store)
    try:
        name = _present(files, name)
        reader = files.open(name)
        chosen = by_name(format) if format is not None else _sniff(reader, name)
        plain = options is None or options == ReadOptions()
        layout = None if names is None or not files.remote or not plain else _read_some(chosen, files, name, names)
        if layout is None:
            layout = _read(chosen, files, name, options)
            if isinstance(chosen, KeepsSidecar):
                _sidecar.attach(layout, files, name, metadata=not chosen.metadata_in_file)
    except WeightliftError as error:
        raise error.locate(path=store.path(name)) from None
    return Source(store.path(name) if url is None else url, store, name, files, chosen, layout)


def _read_some(format: Format, files: OpenFiles, name: str, names: Names) -> Layout | None:
    """No more than the tensors that are asked for; None where the whole file must be read.

    Their checksums are those that the file itself has. A sidecar, which speaks of the whole file and can be compared
    with nothing less, is needed only where it says what type a tensor is.
    """
    if not isinstance(format, ReadsSome):
        return None
    layout = format.read_some(files, name, lambda known: matching(known, names))
    if layout is None or _sidecar.may_rename(layout.tensors) or matching(layout.tensors.names, names) is None:
        return None
    return layout


def _read(format: Format, files: OpenFiles, name: str, options: ReadOptions | None) -> Layout:
    if options is not None and isinstance(format, TakesReadOptions):
        return format.read_with(files, name, options)
    return format.read(files, name)


def find(
    url: str | os.PathLike[str], *, mode: str = "auto", store_options: Mapping[str, Any] | None = None
) -> tuple[Store, str]:
    """The store that holds what a path or URL means, and the file's name in it."""
    if not is_file(url):
        store, name = at_url(as_text(url), store_options or {})
        return store, name or first_of_directory(store)
    refuse_options(url, store_options)
    path = local_path(url)
    if path.is_dir():
        path = in_directory(path)
    elif not path.exists() and (index := path.with_name(f"{path.name}.index.json")).is_file():
        path = index  # saved under this name with shard_size=
    else:
        path = path.with_name(_index_of_data(path.name, lambda name: path.with_name(name).is_file()))
    return LocalStore(path.parent, path.name, mode=mode), path.name


def _index_of_data(name: str, exists: Callable[[str], bool]) -> str:
    """The index of the checkpoint that has the data file ``name``, if there is one; else ``name``."""
    if _CHUNKS.fullmatch(name) and exists(".metadata"):
        return ".metadata"
    data = _BUNDLE_DATA.fullmatch(name)
    return f"{data[1]}.index" if data is not None and exists(f"{data[1]}.index") else name


def _present(files: OpenFiles, name: str) -> str:
    """``name``, or the index of the TensorFlow checkpoint of which it is the prefix; NotFoundError for neither."""
    try:
        files.open(name)
    except NotFoundError as error:
        other = by_suffix(name) is not None and not name.lower().endswith(_PREFIX_ENDINGS)
        if other or "?" in name:
            raise  # at once: no second request for what can be no prefix
        try:
            files.open(f"{name}.index")
        except WeightliftError:
            raise error from None
        return f"{name}.index"
    return name


def first_of_directory(store: Store) -> str:
    """The file that a URL with a slash at its end stands for."""
    for name in DIRECTORY_FILES:
        if store.exists(name):
            return name
    raise NotFoundError(f"there is no {', '.join(DIRECTORY_FILES)}; name the file", url=store.url)


def refuse_options(url: str | os.PathLike[str], store_options: Mapping[str, Any] | None) -> None:
    """TypeError for options that local files do not have."""
    if store_options:
        raise TypeError(f"local files have no option {', '.join(store_options)} (for {os.fspath(url)})")


def options_for(urls: Sequence[Url], store_options: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What each of several paths and URLs gets of options that are meant for those that are not local.

    Raises:
        TypeError: There are options, and all are local.
    """
    if not any_remote(urls):
        refuse_options(urls[-1], store_options)
    remote = iter(shares([as_text(url) for url in urls if not is_file(url)], store_options))
    return [{} if is_file(url) else next(remote) for url in urls]


def in_directory(path: Path) -> Path:
    """The file that a directory stands for; NotFoundError says what it holds instead."""
    for name in DIRECTORY_FILES:
        if (path / name).is_file():
            return path / name
    found = sorted(p for p in path.iterdir() if p.is_file() and by_suffix(p.name))
    found = [p for p in found if p.suffix.lower() != ".bin"] or found  # which may belong to anything
    if len(found) == 1:
        return found[0]
    hint = f"; it holds {', '.join(p.name for p in found[:5])}: name one of them" if found else ""
    raise NotFoundError(f"the directory holds no {', '.join(DIRECTORY_FILES)}{hint}", path=str(path))


def _sniff(reader: Any, name: str) -> Format:
    head = reader.read_at(0, min(HEAD, reader.size))
    for candidate in FORMATS:
        if candidate.sniff(head, reader.size):
            return candidate
    found = impostor(head)
    if found is not None:
        raise FormatError(f"not a weights file: it is {found}")
    suffixed = by_suffix(name)
    if suffixed is not None:
        return suffixed
    known = ", ".join(f.name for f in FORMATS)
    raise FormatError(f"unknown format: the file begins with {head[:16]!r}; name it with format= (known are {known})")


def matching(known: Sequence[str], names: Names) -> set[str] | None:
    """Those of ``known`` that a glob, or a list of names and globs, picks; None if one of these picks nothing."""
    wanted = [names] if isinstance(names, str) else list(names or ())
    have = set(known)
    chosen = have.intersection(wanted)
    for glob in set(wanted) - chosen:
        found = {name for name in known if fnmatchcase(name, glob)}
        if not found:
            return None
        chosen |= found
    return chosen


def choose_rows(table: TensorTable, names: Names) -> U32:
    """Rows that a glob, or a list of names and globs, picks, in file order; MismatchError lists the missing."""
    if names is None:
        return np.arange(len(table), dtype=np.uint32)
    wanted = [names] if isinstance(names, str) else list(names)
    exact = {w for w in wanted if w in table}
    globs = [w for w in wanted if w not in exact]
    missing = [g for g in globs if not any(fnmatchcase(n, g) for n in table.names)]
    if missing:
        raise MismatchError(
            f"no tensor is called or matches {', '.join(map(repr, missing[:10]))}; the file has "
            f"{len(table)}: {', '.join(table.names[:5])}{' ...' if len(table) > 5 else ''}",
            missing=missing,
        )
    rows = {table.index(w) for w in exact}
    if globs:
        rows |= {i for i, n in enumerate(table.names) if any(fnmatchcase(n, g) for g in globs)}
    return np.array(sorted(rows), np.uint32)
