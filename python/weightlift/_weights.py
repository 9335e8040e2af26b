"""Lazily opened weights: names, types and shapes at once, bytes when they are touched."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._dtypes import DType, array_shape
from weightlift._layout import KINDS, Extent
from weightlift._load import Memory, convert_all, read_arrays
from weightlift._plan import arrays_over
from weightlift._ranges import read_ranges
from weightlift._source import Names, Row, Source, choose_rows
from weightlift._sparse import split_parts
from weightlift._steps import Sparse
from weightlift.errors import StorageError

__all__ = ["TensorView", "Weights"]

Array = npt.NDArray[Any]
BULK_AFTER = 8
"""After this many single views of a mapped file, all views are made in one go."""


class Weights(Mapping[str, "TensorView"]):
    """The tensors of a file or a set of files, by name, read when touched.

    Attributes:
        format: Name of the format.
        metadata: The user's own metadata.
        structure: How ``load`` would nest the tensors; None for a flat dict.
        files: Paths, the one that was opened first.
        memory: ``"map"`` (views of the mapped file) or ``"arena"`` (copies, verified).

    Example:
        >>> import numpy as np, weightlift as wl
        >>> _ = wl.save({"w": np.arange(6, dtype="f4").reshape(3, 2)}, "w.safetensors")
        >>> with wl.open("w.safetensors") as weights:
        ...     weights["w"][1:].tolist()
        [[2.0, 3.0], [4.0, 5.0]]
    """

    def __init__(
        self,
        source: Source,
        *,
        memory: Memory = "map",
        verify: bool = True,
        convert: Callable[[Array], Any] | None = None,
    ) -> None:
        """Use :func:`weightlift.open`."""
        self._convert = convert
        self._source: Source | None = source
        self.memory = memory
        self._verify = verify
        self._single = 0
        self._views: list[Array] | None = None
        self._maps: dict[int, _core.MappedFile] = {}
        self.format = source.layout.format
        self.metadata = source.layout.metadata
        self.structure = source.layout.structure

    # --- the mapping ---
    def __getitem__(self, name: str) -> TensorView:
        """The view of one tensor; KeyError with near names."""
        return TensorView(self, self.source.table.index(name))

    def __iter__(self) -> Iterator[str]:
        """Names in file order."""
        return iter(self.source.table.names)

    def __len__(self) -> int:
        """How many tensors."""
        return len(self.source.table)

    def values(self) -> ValuesView[TensorView]:
        """The views, in file order."""
        return _Values(self)

    def items(self) -> ItemsView[str, TensorView]:
        """(name, view), in file order."""
        return _Items(self)

    def __contains__(self, name: object) -> bool:
        """Whether there is such a tensor."""
        return name in self.source.table

    # --- the files ---
    @property
    def source(self) -> Source:
        """The open files; StorageError once closed."""
        if self._source is None:
            raise StorageError("these weights are closed")
        return self._source

    @property
    def url(self) -> str:
        """What was opened."""
        return self.source.url

    @property
    def files(self) -> tuple[str, ...]:
        """Paths, the one that was opened first."""
        return self.source.paths()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, stored."""
        table = self.source.table
        return int(table.nbytes.sum()) + sum(e.nbytes for ps in table.pieces.values() for p in ps for e in p.extents)

    def arrays(self, names: Names = None) -> dict[str, Any]:
        """The chosen tensors as arrays (or tensors of ``framework=``), all at once: the fast way to touch many."""
        table = self.source.table
        rows = choose_rows(table, names)
        if self.memory == "map" and names is None:
            arrays = self._all_views()
        else:
            arrays = read_arrays(self.source, rows, {}, memory=self.memory, verify=self._verify)
        chosen = [table.names[r] for r in rows.tolist()]
        made = arrays if self._convert is None else convert_all(self._convert, chosen, arrays)
        return dict(zip(chosen, made, strict=True))

    def convert(self, name: str, array: Any) -> Any:
        """What ``view[...]`` gives for an array: itself, or a tensor of ``framework=``."""
        return array if self._convert is None else convert_all(self._convert, [name], [np.asarray(array)])[0]

    def close(self) -> None:
        """Forget the files; arrays that were taken stay valid."""
        self._source = None
        self._views = None
        self._maps.clear()

    def __enter__(self) -> Weights:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """Where it is from and how much it holds."""
        if self._source is None:
            return "<Weights: closed>"
        return f"<Weights {self.url}: {len(self)} tensors, {self.nbytes} bytes, {self.format}>"

    # --- reading ---
    def _all_views(self) -> list[Array]:
        if self._views is None:
            rows = np.arange(len(self), dtype=np.uint32)
            self._views = read_arrays(self.source, rows, {}, memory="map", verify=self._verify)
        return self._views

    def read(self, row: int) -> Array:
        """The whole tensor of a row."""
        if self.memory == "map":
            if self._views is not None:
                return self._views[row]
            table = self.source.table
            if row not in table.pieces:
                self._single += 1
                if self._single > BULK_AFTER:
                    return self._all_views()[row]
                one = np.array([row], np.uint32)
                base = self._map(int(table.source[row]))
                return arrays_over(base, table, one, table.offset[one], {}, writeable=False)[0]
        memory = "arena" if self.memory == "map" else self.memory
        return read_arrays(self.source, np.array([row], np.uint32), {}, memory=memory, verify=self._verify)[0]

    def _map(self, number: int) -> _core.MappedFile:
        mapping = self._maps.get(number)
        if mapping is None:
            mapping = self._maps[number] = self.source.readers()[number].map()
        return mapping

    def read_span(self, row: int, begin: int, end: int) -> Array:
        """Rows ``begin:end`` along the first axis of a plain C-order tensor, and only their bytes."""
        table = self.source.table
        shape = array_shape(table.dtype(row), table.shapes[row])
        numpy = table.dtype(row).numpy
        count = int(np.prod(shape[1:], dtype=np.int64)) * numpy.itemsize
        at, nbytes = int(table.offset[row]) + begin * count, (end - begin) * count
        reader = self.source.reader(int(table.source[row]), at, nbytes)  # refuses a file of another size
        result = np.empty((end - begin, *shape[1:]), numpy)
        read_ranges(reader, [(at, nbytes)], result)
        return result


class _Values(ValuesView["TensorView"]):
    """Views made one after another, without looking names up."""

    _mapping: Weights

    def __iter__(self) -> Iterator[TensorView]:
        weights = self._mapping
        return (TensorView(weights, row) for row in range(len(weights)))


class _Items(ItemsView[str, "TensorView"]):
    """Likewise, with their names."""

    _mapping: Weights

    def __iter__(self) -> Iterator[tuple[str, TensorView]]:
        weights = self._mapping
        return ((name, TensorView(weights, row)) for row, name in enumerate(weights.source.table.names))


class TensorView:
    """One tensor, not read yet. ``view[...]`` reads it; ``view[2:5]`` reads only those rows.

    Attributes:
        name: Its name.
        dtype: Its element type (``str(view.dtype)`` is the name).
        shape: In elements.
    """

    __slots__ = ("_row", "_weights")

    def __init__(self, weights: Weights, row: int) -> None:
        """Use :func:`weightlift.open`."""
        self._weights = weights
        self._row = row

    @property
    def row(self) -> Row:
        """Where it is: the open files and its number in their table."""
        return Row(self._weights.source, self._row)

    @property
    def name(self) -> str:
        """Its name."""
        return self._weights.source.table.names[self._row]

    @property
    def dtype(self) -> DType:
        """Its element type."""
        return self._weights.source.table.dtype(self._row)

    @property
    def shape(self) -> tuple[int, ...]:
        """In elements."""
        return self._weights.source.table.shapes[self._row]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._weights.source.table.entry(self._row).nbytes

    @property
    def extents(self) -> tuple[Extent, ...]:
        """Where its stored bytes are."""
        return tuple(e for p in self._weights.source.table.entry(self._row).pieces for e in p.extents)

    @property
    def stored_nbytes(self) -> int:
        """Bytes in the file."""
        return sum(e.nbytes for e in self.extents)

    @property
    def stored(self) -> str:
        """How it is stored: the dtype's name, or the steps that undo its encoding."""
        entry = self._weights.source.table.entry(self._row)
        steps = entry.pieces[0].steps if entry.pieces else ()
        if not steps:
            return entry.dtype.name
        first = steps[0]
        return str(getattr(first, "stored", getattr(first, "source", type(first).__name__.lower())))

    def parts(self) -> dict[str, Array]:
        """What is stored of a sparse array: ``data``, ``indices`` and for csr ``indptr``; of any other nothing, ``{}``.

        The tensor itself comes whole, with its zeros. Checksums are not compared here.
        """
        entry = self._weights.source.table.entry(self._row)
        sparse = next((step for piece in entry.pieces for step in piece.steps if isinstance(step, Sparse)), None)
        if sparse is None:
            return {}
        ranges = [(extent.offset, extent.nbytes) for extent in entry.pieces[0].extents]
        stored = np.empty(sum(nbytes for _, nbytes in ranges), np.uint8)
        (reader,) = self._weights.source.readers(np.array([self._row], np.uint32))
        read_ranges(reader, ranges, stored)
        return split_parts(sparse, stored)

    @property
    def file(self) -> str:
        """The file its first byte is in."""
        extents, source = self.extents, self._weights.source
        return source.store.path(source.layout.sources[extents[0].source]) if extents else source.paths()[0]

    @property
    def offset(self) -> int | None:
        """Its first stored byte in that file; None when nothing is stored."""
        return self.extents[0].offset if self.extents else None

    @property
    def checksum(self) -> str | None:
        """``"crc32c:89abcdef"``, or None."""
        table = self._weights.source.table
        kind = KINDS[table.check_kind[self._row]]
        return None if kind == "none" else f"{kind}:{table.check_value[self._row]:08x}"

    def __len__(self) -> int:
        """Length of the first axis."""
        if not self.shape:
            raise TypeError("a 0-d tensor has no length")
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        """The elements ``key`` picks; slices and integers of the first axis read only their rows.

        A NumPy array, or what ``framework=`` of :func:`weightlift.open` says.
        """
        return self._weights.convert(self.name, self._read(key))

    def _read(self, key: Any) -> Array:
        weights, row = self._weights, self._row
        if key is Ellipsis:
            views = weights._views
            return views[row] if views is not None else weights.read(row)
        table = weights.source.table
        mapped = weights.memory == "map" and row not in table.pieces
        if mapped or row in table.pieces or row in table.strides or not self.shape:
            result: Array = weights.read(row)[key]
            return result
        return self._rows(key)

    def _rows(self, key: Any) -> Array:
        """Only the span of rows that the first index touches."""
        first, rest = (key[0], key[1:]) if isinstance(key, tuple) and key else (key, ())
        length = array_shape(self.dtype, self.shape)[0]
        if isinstance(first, slice):
            picked = range(*first.indices(length))
            begin, last = sorted((picked[0], picked[-1])) if picked else (0, -1)
            span = self._weights.read_span(self._row, begin, last + 1)
            if picked and picked.step != 1:
                span = span[picked[0] - begin :: picked.step].copy()
            inner: Any = (slice(None), *rest)
            result: Array = span[inner]
            return result
        if isinstance(first, (int, np.integer)) and not isinstance(first, (bool, np.bool_)):
            index = int(first) + (length if first < 0 else 0)
            if not 0 <= index < length:
                raise IndexError(f"row {first} of {length} of tensor {self.name!r}")
            found: Array = self._weights.read_span(self._row, index, index + 1)[0]
            return found[rest] if rest else found
        if isinstance(first, (list, np.ndarray)) and not rest:
            index_array = np.arange(length)[first]
            if index_array.ndim == 1:
                return self._gather(index_array)
        whole: Array = self._weights.read(self._row)[key]
        return whole

    def _gather(self, index: Array) -> Array:
        """Rows by number, each run of neighbours in one read."""
        shape = array_shape(self.dtype, self.shape)
        result = np.empty((len(index), *shape[1:]), self.dtype.numpy)
        order = np.argsort(index, kind="stable")
        breaks = np.flatnonzero(np.diff(index[order]) > 1) + 1
        for run in np.split(order, breaks) if len(order) else ():
            begin, end = int(index[run[0]]), int(index[run[-1]]) + 1
            result[run] = self._weights.read_span(self._row, begin, end)[index[run] - begin]
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """All of it."""
        array = self._read(...)
        if dtype is not None and array.dtype != dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def __repr__(self) -> str:
        """Name, type and shape."""
        return f"<TensorView {self.name!r}: {self.dtype} {list(self.shape)}>"
