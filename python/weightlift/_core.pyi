"""The compiled core (cpp/bindings). Private: use it through ``_dtypes``, ``_plan`` and ``stores``."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# --- dtypes -------------------------------------------------------------------------------------
def dtype_table() -> list[tuple[str, int, int]]:
    """(name, bits, byte-order word) of every element type, in code order."""

# --- build and machine --------------------------------------------------------------------------
def isa() -> str:
    """The instruction set the kernels use: "portable", "sse42", "avx2", "avx512" or "neon".

    ValueError, here and from every kernel, when WEIGHTLIFT_FORCE_ISA names one that is not available.
    """

def available_isas() -> list[str]: ...
def set_isa(name: str) -> None:
    """For tests; WEIGHTLIFT_FORCE_ISA does the same at start. ValueError: not available here."""

def pool_threads() -> int: ...

# --- kernels (contiguous arrays; the GIL is released) ---------------------------------------------
def crc32c(data: Any, crc: int = 0) -> int:
    """CRC-32C of the bytes of a contiguous array or any buffer."""

def crc32(data: Any, crc: int = 0) -> int: ...
def crc32c_combine(a: int, b: int, b_length: int) -> int: ...
def crc32_combine(a: int, b: int, b_length: int) -> int: ...

Step = tuple[Any, ...]
"""One of
("byteswap", word, item)
("cast", from_name, to_name, saturate)
("affine_decode", "uint8"|"uint16", "float32"|"int32", scale, min)
("affine_encode", "uint8"|"uint16", scale, min, max)
"""

def run_pipeline(steps: Sequence[Step], src: Array, dst: Array, threads: int = 0) -> None:
    """Convert every element of C-contiguous ``src`` into C-contiguous ``dst`` (bytes are reinterpreted).

    ValueError: unknown steps, steps or sizes that do not fit together, ``src`` and ``dst`` that overlap.
    """

def can_cast(source: str, target: str) -> bool: ...
def min_max(values: Array, threads: int = 0) -> tuple[float, float]:
    """Of a contiguous float32 array; (nan, nan) if any is NaN; ValueError when empty."""

def choose_affine(minimum: float, maximum: float, levels: int) -> tuple[float, float, float]:
    """(scale, min, max) as TensorFlow.js's converter computes them."""

# --- memory ---------------------------------------------------------------------------------------
class BufferPool:
    """Keeps released load memory, up to ``max_bytes``, for the next load."""

    def __init__(self, max_bytes: int) -> None: ...
    @property
    def held_bytes(self) -> int: ...
    def clear(self) -> None: ...

class Buffer:
    """Owned, page-aligned, writable memory on huge pages (supports the buffer protocol)."""

    def __init__(self, nbytes: int, pool: BufferPool | None = None) -> None: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class MappedFile:
    """A whole file mapped read-only (supports the buffer protocol)."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def make_arrays(
    base: Buffer | MappedFile | Array,
    offsets: npt.NDArray[np.uint64],
    dtypes: Sequence[np.dtype[Any]],
    dtype_index: npt.NDArray[np.uint32],
    shapes: Sequence[tuple[int, ...]],
    fortran: Sequence[int] | None = None,
    writeable: bool = True,
) -> list[Array]:
    """One array a tensor, a view of ``base`` (kept alive) at a byte offset.

    ``dtypes[dtype_index[i]]`` is the type of array i; ``fortran`` lists the indices stored in Fortran
    order. The arrays are writeable if asked for and the base is. ValueError: a view would reach outside the
    base, or its dtype holds Python objects or has elements of no bytes.
    """

def shared_memory(arrays: Sequence[Array]) -> list[list[int]]:
    """Groups of positions whose arrays are the same memory, seen the same way (shape, strides, type)."""

def describe_arrays(
    arrays: list[Array],
) -> tuple[list[np.dtype[Any]], npt.NDArray[np.uint32], npt.NDArray[np.uint64], list[tuple[int, ...]]]:
    """Distinct dtypes (by identity), and of each array the number of its dtype, its bytes and its shape."""

# --- files ----------------------------------------------------------------------------------------
class Reader:
    @property
    def size(self) -> int: ...
    @property
    def name(self) -> str: ...
    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Exactly these bytes, or TruncatedError, before memory for them is asked for."""

    def read_into(self, offset: int, out: Array | Buffer | bytearray | memoryview) -> None:
        """Fill any writable, C-contiguous buffer."""

    def check_unchanged(self) -> None:
        """ChangedError when the file was modified since it was opened; one replaced by rename was not."""

class FileReader(Reader):
    def __init__(self, path: str | bytes | os.PathLike[str], mode: str = "auto") -> None:
        """``mode``: "auto", "buffered" or "direct"."""

    @property
    def identity(self) -> tuple[int, int, int, int]:
        """(device, inode, size, mtime in ns)."""

    @property
    def on_network(self) -> bool: ...
    def residency(self, offset: int = 0, nbytes: int | None = None) -> float:
        """The fraction of the range that is in the page cache; -1 when the system cannot tell."""

    def map(self) -> MappedFile: ...

class MemoryReader(Reader):
    def __init__(self, data: Any, name: str) -> None: ...

class FunctionReader(Reader):
    """Lets ``function(offset, view)`` fill the view with the bytes from ``offset`` on, on any thread, several at once.

    The view ends with the call.
    """

    def __init__(self, function: Callable[[int, memoryview], object], size: int, name: str) -> None: ...

class Writer:
    @property
    def name(self) -> str: ...
    @property
    def direct_alignment(self) -> int: ...
    def write_at(self, offset: int, data: Any) -> None: ...
    def sync(self) -> None: ...
    def commit(self) -> None: ...
    def abort(self) -> None: ...

def null_writer(name: str) -> Writer:
    """Takes bytes and forgets them, for a pass that only hashes."""

class FileWriter(Writer):
    def __init__(
        self, path: str | bytes | os.PathLike[str], size: int, mode: str = "auto", durable: bool = True
    ) -> None: ...
    def truncate(self, size: int) -> None:
        """Make ``size``, no more than it was created with, the final size."""

class FunctionWriter(Writer):
    """Hands what is written to ``function(offset, view)``, on any thread, several at once.

    The view ends with the call. Derive from it to commit and to abort; keep no reference from the function to the
    writer, or neither is ever freed. ``sequential``: the bytes come in ascending order, but for those of other threads.
    """

    def __init__(self, function: Callable[[int, memoryview], object], name: str, sequential: bool = False) -> None: ...

def commit_all(writers: Sequence[FileWriter]) -> None:
    """Commit several: their syncs run at the same time, none is published before all are durable, and each
    directory is synced once."""

def rename_over(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Rename in one step; the blocks of what ``target`` was are freed on a thread of its own."""

def remove_file(path: str | os.PathLike[str]) -> None:
    """Remove a file's name; its blocks are freed on a thread of its own."""

# --- plans ----------------------------------------------------------------------------------------
def execute_read(
    readers: Sequence[Reader],
    buffers: Sequence[Any],
    source: npt.NDArray[np.uint32],
    tensor: npt.NDArray[np.uint32],
    offset: npt.NDArray[np.uint64],
    nbytes: npt.NDArray[np.uint64],
    buffer: npt.NDArray[np.uint32],
    dest: npt.NDArray[np.uint64],
    pipeline: npt.NDArray[np.uint32],
    pipelines: Sequence[Sequence[Step]],
    check_kind: npt.NDArray[np.uint8] | None = None,
    check_initial: npt.NDArray[np.uint32] | None = None,
    check_expected: npt.NDArray[np.uint32] | None = None,
    check_verify: npt.NDArray[np.uint8] | None = None,
    names: Sequence[str] | None = None,
    threads: int = 0,
    progress: Callable[[int, int], object] | None = None,
    task_bytes: int = 0,
) -> npt.NDArray[np.uint32]:
    """Run a read plan; columns as ``ReadOp`` in plan.h (0xFFFFFFFF is none).

    ``buffers``: Buffer, writable arrays (their memory must be one contiguous block), or anything with a
    writable buffer. ``check_*``: one row a tensor, ``check_kind`` 0 none, 1 CRC-32C, 2 CRC-32.
    ``names`` names tensors in errors. Releases the GIL; ``progress(done, total)`` and signal handlers run
    about every 50 ms and may raise to cancel. ``task_bytes``: how finely work is cut, 0 for the default.
    Returns the computed checksums.
    """

def coalesce(
    offset: npt.NDArray[np.uint64], nbytes: npt.NDArray[np.uint64], task_bytes: int, max_gap: int
) -> list[tuple[int, int, int, int]]:
    """(first op, last op, begin, end) of each task, ends exclusive, for ops of one source sorted by offset."""

def execute_write(
    writers: Sequence[Writer],
    readers: Sequence[Reader],
    sources: Sequence[Any],
    file: npt.NDArray[np.uint32],
    source: npt.NDArray[np.uint32],
    offset: npt.NDArray[np.uint64],
    nbytes: npt.NDArray[np.uint64],
    start: npt.NDArray[np.uint64],
    pipeline: npt.NDArray[np.uint32],
    tensor: npt.NDArray[np.uint32],
    pipelines: Sequence[Sequence[Step]],
    tensors: int,
    crc32c: bool = True,
    crc32: bool = False,
    source_kind: npt.NDArray[np.uint8] | None = None,
    source_initial: npt.NDArray[np.uint32] | None = None,
    source_expected: npt.NDArray[np.uint32] | None = None,
    source_verify: npt.NDArray[np.uint8] | None = None,
    names: Sequence[str] | None = None,
    threads: int = 0,
    progress: Callable[[int, int], object] | None = None,
    task_bytes: int = 0,
    late_ranges: npt.NDArray[np.uint32] | None = None,
    chosen: npt.NDArray[np.float64] | None = None,
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Run a write plan; columns as ``WriteOp`` in plan.h (0xFFFFFFFF is none).

    An op writes bytes [``start``, ``start + nbytes``) of what its source becomes: elements in C order, through
    the pipeline. ``sources``: an array of any strides, anything with a contiguous buffer, or
    ``(reader index, offset, nbytes, check index or -1)``; ``source_*``: one row a check index, which covers
    all extents that name it. Signals, ``progress``, ``names`` and ``task_bytes`` as for ``execute_read``.
    ``late_ranges``: rows (pipeline, source) of pipelines whose affine encoding is chosen by the range of their
    float32 array; (scale, min, max) of each is put into ``chosen``.
    Returns (CRC-32C, CRC-32) of each tensor's stored bytes, zeros for those not asked for.
    """

# --- layouts --------------------------------------------------------------------------------------
def validate_extents(
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    bits: npt.NDArray[np.uint32],
    plain: npt.NDArray[np.bool_],
    source: npt.NDArray[np.uint32],
    offset: npt.NDArray[np.uint64],
    nbytes: npt.NDArray[np.uint64],
    piece_tensor: npt.NDArray[np.uint32],
    piece_source: npt.NDArray[np.uint32],
    piece_offset: npt.NDArray[np.uint64],
    piece_nbytes: npt.NDArray[np.uint64],
    source_sizes: npt.NDArray[np.uint64],
    source_names: Sequence[str],
    allow_overlap: bool,
    strided: npt.NDArray[np.uint32],
) -> None:
    """Check a whole table in one pass; FormatError names tensor, file and byte range.

    One row a tensor: ``bits`` an element; rows with ``plain`` false have their extents in the ``piece_*``
    columns instead. Checked: names unique and not empty; dimensions not negative and their product times
    bits without overflow, whole bytes, and for plain rows equal to ``nbytes`` (rows in ``strided`` may be
    smaller than what they span: only that nbytes > 0 or the shape is empty); every extent inside its
    source; no two extents overlap (zero-size ones aside) unless ``allow_overlap``.
    """

def parse_safetensors(
    header: bytes, data_size: int, path: str
) -> tuple[
    list[str],
    list[str],
    npt.NDArray[np.uint32],
    list[tuple[int, ...]],
    npt.NDArray[np.uint64],
    npt.NDArray[np.uint64],
    dict[str, str],
    int,
    npt.NDArray[np.uint32],
]:
    """The strict safetensors header parser.

    Returns names, the distinct dtype names (safetensors spelling), dtype_index, shapes, begin and end
    offsets (relative to the data section), ``__metadata__``, the CRC-32C digest of the table (see
    docs/formats/safetensors.md) and the rows in the order in which the header lists them. Tensors come in data
    order. FormatError for anything else.
    """

def write_safetensors_header(
    names: Sequence[str],
    types: Sequence[str],
    type_index: npt.NDArray[np.uint32],
    shapes: Sequence[tuple[int, ...]],
    begin: npt.NDArray[np.uint64],
    end: npt.NDArray[np.uint64],
    metadata: bytes,
    data_size: int,
    alignment: int,
) -> tuple[bytes, int]:
    """The beginning of a safetensors file (length, header, padding) and the digest of its table.

    Tensor i has the spelling ``types[type_index[i]]`` and the bytes ``begin[i]`` to ``end[i]`` of the data;
    ``metadata`` is the JSON of ``__metadata__``, or empty. The header is read back, as strictly as by
    :func:`parse_safetensors`. UnsupportedFeatureError for a name that is not Unicode.
    """

def safetensors_types() -> list[tuple[str, str]]:
    """(spelling in a safetensors header, name in the dtype table) of every type both know."""
