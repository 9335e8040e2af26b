"""Loading whole tensors: choose rows, choose memory, read in one pass.

Memory is a policy, not code in formats: one arena for the whole load (the default: fewest page faults), one
buffer a tensor (so that keeping one tensor does not keep all), a pool's arena, a mapping, or the caller's own
arrays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._dtypes import STRING, DType, array_shape, from_name, from_numpy
from weightlift._layout import U32, U64
from weightlift._ops import NONE, BufferPool, Progress
from weightlift._plan import arrays_over, decoded_sizes, place, plain_rows, read_rows
from weightlift._source import Names, Source, choose_rows
from weightlift._tree import unflatten
from weightlift.errors import FormatError, MismatchError, UnsupportedFeatureError
from weightlift.protocols import SupportsMap

__all__ = ["Rename", "fill_arrays", "load_source", "new_name", "read_arrays", "target_dtypes"]

Array = npt.NDArray[Any]
Rename = Mapping[str, str] | Callable[[str], str] | Sequence[tuple[str, str]] | None
Memory = str | BufferPool
DTypes = Any
"""None, a dtype (for floating-point tensors), or ``{glob: dtype}`` (for any; ``""``: all other floating-point ones)."""


def load_source(
    source: Source,
    *,
    names: Names = None,
    rename: Rename = None,
    dtype: DTypes = None,
    out: Any = None,
    memory: Memory = "arena",
    verify: bool = True,
    progress: Progress | None = None,
    convert: Callable[[Array], Any] | None = None,
) -> Any:
    """What was saved, or a dict of the chosen tensors; ``convert`` makes a framework's tensor of each array."""
    layout = source.layout
    if verify:
        source.refuse_damaged()
    refuse_objects(source, names)
    if verify and names is None:
        source.check_whole()
    rows = choose_rows(source.table, names)
    dtypes = target_dtypes(source, rows, dtype)
    if out is not None:
        arrays = _into_caller(source, rows, out, rename, verify, progress)
    else:
        arrays = read_arrays(source, rows, dtypes, memory=memory, verify=verify, progress=progress)
    stored = source.table.names
    chosen = stored if len(rows) == len(stored) else [stored[r] for r in rows.tolist()]
    made: Sequence[Any] = arrays if convert is None else convert_all(convert, chosen, arrays)
    tensors = dict(zip(chosen, made, strict=True))
    if layout.order is not None:
        listed = [stored[r] for r in layout.order.tolist()]
        tensors = {n: tensors[n] for n in listed if n in tensors}
    if names is None and rename is None:
        return unflatten(layout.structure, tensors)
    return rename_keys(tensors, rename)


def convert_all(convert: Callable[[Array], Any], names: Sequence[str], arrays: Sequence[Array]) -> list[Any]:
    """A framework's tensors of arrays; errors name the tensor."""
    made = []
    for name, array in zip(names, arrays, strict=True):
        try:
            made.append(convert(array))
        except UnsupportedFeatureError as error:
            raise error.locate(tensor=name) from None
    return made


def refuse_objects(source: Source, names: Names) -> None:
    """What is not a tensor is refused by name: with the whole file, or when it is asked for."""
    asked = {names} if isinstance(names, str) else set(names or ())
    for name, value in source.layout.objects.items():
        if names is not None and name not in asked:
            continue
        if isinstance(value, FormatError):
            raise value
        raise FormatError(f"{name!r} is not a tensor but {value!r}; choose tensors with names=", path=source.paths()[0])


def rename_keys(tensors: Mapping[str, Any], rename: Rename) -> dict[str, Any]:
    """New names: a dict of prefixes or whole names, a function, or (regex, replacement) pairs."""
    if rename is None:
        return dict(tensors)
    result: dict[str, Any] = {}
    for name, value in tensors.items():
        new = new_name(name, rename)
        if new in result:
            raise MismatchError(f"rename gives two tensors the name {new!r}", tensor=name)
        result[new] = value
    return result


def new_name(name: str, rename: Rename) -> str:
    """The name that a tensor gets."""
    if rename is None:
        return name
    if callable(rename):
        return str(rename(name))
    if isinstance(rename, Mapping):
        if name in rename:
            return str(rename[name])
        for old, new in sorted(rename.items(), key=lambda item: -len(item[0])):
            if old.endswith((".", "/")) and name.startswith(old):
                return str(new) + name[len(old) :]
        return name
    for pattern, replacement in rename:
        name = re.sub(pattern, replacement, name)
    return name


def target_dtypes(source: Source, rows: U32, dtype: DTypes) -> dict[int, DType]:
    """The rows that are to be converted, and to what."""
    if dtype is None:
        return {}
    table = source.table
    result: dict[int, DType] = {}
    choose = dtype_chooser(dtype)
    for row in rows.tolist():
        have = table.dtype(row)
        want = choose(table.names[row], have)
        if want is not None and want != have:
            result[row] = want
    return result


def dtype_chooser(dtype: DTypes) -> Callable[[str, DType], DType | None]:
    """(name, dtype it has) -> dtype wanted or None, from a ``dtype=`` argument."""
    from fnmatch import fnmatchcase

    if isinstance(dtype, Mapping):
        patterns = [(pattern, as_dtype(d)) for pattern, d in dtype.items() if pattern]
        rest = dtype_chooser(dtype[""]) if "" in dtype else lambda _name, _have: None
        return lambda name, have: next((d for p, d in patterns if fnmatchcase(name, p)), None) or rest(name, have)
    want = as_dtype(dtype)
    return lambda _name, have: want if is_float(have) else None


def as_dtype(dtype: Any) -> DType:
    """A DType from a name, a NumPy dtype or type, or another framework's dtype by its last word."""
    if isinstance(dtype, DType):
        return dtype
    if isinstance(dtype, str):
        return from_name(dtype)
    text = str(dtype)
    return from_name(text.rpartition(".")[2]) if text.startswith(("torch.", "jax.")) else from_numpy(np.dtype(dtype))


def is_float(dtype: DType) -> bool:
    """Whether a dtype holds real floating-point numbers."""
    return dtype.core and dtype.name.startswith(("float", "bfloat"))


def read_arrays(
    source: Source,
    rows: U32,
    dtypes: Mapping[int, DType],
    *,
    memory: Memory = "arena",
    verify: bool = True,
    progress: Progress | None = None,
) -> list[Array]:
    """One array a row, in the order of ``rows``."""
    table = source.table
    plain = plain_rows(table, rows, dtypes)
    if memory == "map":
        return _mapped(source, rows, dtypes, plain, verify, progress)
    sizes = decoded_sizes(table, rows, dtypes)
    readers = source.readers(rows)
    if memory == "tensor":
        buffers: list[Any] = [_core.Buffer(int(n)) for n in sizes]
        index, dest = np.arange(len(rows), dtype=np.uint32), np.zeros(len(rows), np.uint64)
    elif memory == "arena" or isinstance(memory, BufferPool):
        placed = place(table, rows, sizes, plain)
        buffers = [_core.Buffer(placed.nbytes, memory if isinstance(memory, BufferPool) else None)]
        index, dest = np.zeros(len(rows), np.uint32), placed.offset
    else:
        raise ValueError(f'memory must be "arena", "tensor", "map" or a BufferPool, not {memory!r}')
    strings = read_rows(source.layout, readers, rows, buffers, index, dest, dtypes, verify=verify, progress=progress)
    return _wrap(source, rows, dtypes, buffers, index, dest, strings)


def _wrap(
    source: Source,
    rows: U32,
    dtypes: Mapping[int, DType],
    buffers: list[Any],
    index: U32,
    dest: U64,
    strings: Mapping[int, Array],
) -> list[Array]:
    """Arrays over the filled buffers; strings have no place in them."""
    table = source.table
    if len(buffers) == 1 and STRING not in table.dtypes:
        return arrays_over(buffers[0], table, rows, dest, dtypes, writeable=True)
    texts = [k for k, r in enumerate(rows.tolist()) if table.dtype(r) == STRING] if STRING in table.dtypes else []
    fixed = np.delete(np.arange(len(rows)), texts) if texts else np.arange(len(rows))
    if len(buffers) == 1:
        made = arrays_over(buffers[0], table, rows[fixed], dest[fixed], dtypes, writeable=True)
    else:
        made = [
            arrays_over(buffers[index[k]], table, rows[k : k + 1], dest[k : k + 1], dtypes, writeable=True)[0]
            for k in fixed.tolist()
        ]
    if not texts:
        return made
    result: list[Any] = [None] * len(rows)
    for k, array in zip(fixed.tolist(), made, strict=True):
        result[k] = array
    for k in texts:
        result[k] = strings[int(rows[k])]
    return result


def _mapped(
    source: Source,
    rows: U32,
    dtypes: Mapping[int, DType],
    plain: npt.NDArray[np.bool_],
    verify: bool,
    progress: Progress | None,
) -> list[Array]:
    """Read-only views of the mapped files; what is not plain is read into memory."""
    table, readers = source.table, source.readers()
    result: list[Any] = [None] * len(rows)
    for number in np.unique(table.source[rows[plain]]).tolist():
        chosen = np.flatnonzero(plain & (table.source[rows] == number))
        reader = readers[number]
        if not isinstance(reader, SupportsMap):
            raise UnsupportedFeatureError('memory="map" needs local files; leave it out', path=reader.name)
        mapping = reader.map()
        views = arrays_over(mapping, table, rows[chosen], table.offset[rows[chosen]], {}, writeable=False)
        for k, view in zip(chosen.tolist(), views, strict=True):
            result[k] = view
    rest = np.flatnonzero(~plain)
    if len(rest):
        for k, array in zip(
            rest.tolist(), read_arrays(source, rows[rest], dtypes, verify=verify, progress=progress), strict=True
        ):
            result[k] = array
    return result


def _into_caller(
    source: Source,
    rows: U32,
    out: Any,
    rename: Rename,
    verify: bool,
    progress: Progress | None,
) -> list[Array]:
    """Fill the caller's arrays; what does not fit is reported all at once, before anything is read."""
    table = source.table
    names = [new_name(table.names[r], rename) for r in rows.tolist()]
    targets = _targets(out, names)
    missing = [n for n in names if n not in targets]
    unexpected = [n for n in targets if n not in set(names)]
    wrong = []
    for name, row in zip(names, rows.tolist(), strict=True):
        wanted = array_shape(table.dtype(row), table.shapes[row])
        if name in targets and tuple(targets[name].shape) != wanted:
            wrong.append((name, tuple(targets[name].shape), wanted))
    if missing or unexpected or wrong:
        raise MismatchError(
            f"out= does not fit: {len(missing)} tensors have no array {missing[:5]}, "
            f"{len(unexpected)} arrays have no tensor {unexpected[:5]}, {len(wrong)} shapes differ {wrong[:5]}",
            missing=missing,
            unexpected=unexpected,
            wrong_shape=wrong,
        )
    fill_arrays(source, rows, [targets[n] for n in names], verify=verify, progress=progress, names=names)
    return [targets[n] for n in names]


def fill_arrays(
    source: Source,
    rows: U32,
    arrays: Sequence[Array],
    *,
    verify: bool = True,
    progress: Progress | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Read rows into arrays of their shapes, converted to the arrays' types; ``names`` for messages."""
    table = source.table
    buffers: list[Any] = []
    later: list[tuple[Array, Array]] = []
    dtypes: dict[int, DType] = {}
    for k, (array, row) in enumerate(zip(arrays, rows.tolist(), strict=True)):
        if not array.flags.writeable:
            name = table.names[row] if names is None else names[k]
            raise MismatchError("the array in out= is read-only", tensor=name)
        have = table.dtype(row)
        want = have if have.packed or (not have.core and array.dtype == have.numpy) else from_numpy(array.dtype)
        if want != have:
            dtypes[row] = want
        order: Literal["F", "C"] = "F" if row in table.strides else "C"
        axes = table.axes(row)
        direct = array.flags.f_contiguous and axes == array.shape if order == "F" else array.flags.c_contiguous
        if not direct or not array.dtype.isnative:
            memory = np.empty(axes if order == "F" else array.shape, want.numpy, order=order)
            later.append((array, memory.reshape(array.shape)))
            array = memory
        buffers.append(array.reshape(-1, order=order))
    index = np.arange(len(rows), dtype=np.uint32)
    read_rows(
        source.layout, source.readers(rows), rows, buffers, index, np.zeros(len(rows), np.uint64), dtypes,
        verify=verify, progress=progress,
    )  # fmt: skip
    for array, memory in later:
        array[...] = memory


def _targets(out: Any, names: list[str]) -> dict[str, Array]:
    """``out=`` as arrays by name: a dict, or one array for a file of one tensor."""
    if isinstance(out, Mapping):
        return {str(k): np.asarray(v) for k, v in out.items()}
    if isinstance(out, np.ndarray):
        if len(names) != 1:
            raise MismatchError(
                f"out= is one array, and {len(names)} tensors are to be loaded; give a dict", missing=names
            )
        return {names[0]: out}
    if isinstance(out, Iterable):
        return {str(i): np.asarray(v) for i, v in enumerate(out)}
    raise TypeError(f"out= must be an array or a dict of arrays, not {type(out).__name__}")


def check_only(source: Source, rows: U32, progress: Progress | None = None) -> None:
    """Read rows and compare their checksums, keeping nothing."""
    none = np.full(len(rows), NONE, np.uint32)
    read_rows(
        source.layout,
        source.readers(rows),
        rows,
        [],
        none,
        np.zeros(len(rows), np.uint64),
        {},
        verify=True,
        progress=progress,
    )
