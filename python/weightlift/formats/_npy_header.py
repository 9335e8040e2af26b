r"""The header of the npy format, both ways.

``\x93NUMPY`` · u8 major · u8 minor · header length (u16 in version 1, u32 in 2 and 3) · header text (latin-1;
UTF-8 in version 3) · data. The text is the literal of a dict with exactly the keys ``descr``,
``fortran_order`` and ``shape``, padded so that the data begins at a multiple of 64 (16 before NumPy 1.14; no
padding is legal). Specification: numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from weightlift._checksum import crc32
from weightlift._dtypes import DTYPES, DType, array_shape, from_numpy
from weightlift._steps import Byteswap, Step
from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError
from weightlift.formats._npy_literal import parse_literal

__all__ = [
    "HEAD_BYTES", "MAGIC", "MAX_HEADER", "Header", "build_header", "build_object_header", "header_length",
    "object_shape", "parse_header",
]  # fmt: skip

MAGIC = b"\x93NUMPY"
HEAD_BYTES = 12
"""So many bytes are enough for ``header_length``."""
MAX_HEADER = 1 << 20
MAX_NDIM = 64
_MAX_ITEM = 2**31 - 1  # NumPy's own limit on an element's size
_MAX_BYTES = 2**63 - 1
_KEYS = {"descr", "fortran_order", "shape"}
_REGISTERED = 2  # dtype.isbuiltin of types that other packages register
_GROWTH_DIGITS = 21  # NumPy leaves room to rewrite the growing axis as any 64-bit number

_TYPE = re.compile(
    r"[<>=|]?(?:\?|b1|[iu][1248]|f(?:2|4|8|10|12|16)|c(?:8|16|20|24|32)|[SUV][0-9]{1,10}"
    r"|[Mm]8(?:\[[0-9]{0,9}(?:generic|as|fs|ps|ns|us|ms|s|m|h|D|W|M|Y)\])?)"
)
_OBJECT = re.compile(r"[<>=|]?O[48]?")
# Spellings that are no NumPy types: ml_dtypes writes float8_e5m2 so, MXNet 2 bfloat16.
_FOREIGN = {"<f1": "float8_e5m2", "<b2": "bfloat16"}
_MXNET_BFLOAT16 = [("bfloat16", "<u2")]


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header.

    Attributes:
        nbytes: Of the header, magic included: where the data begins.
        dtype: Element type of the array, in native byte order where the core knows the type.
        shape: In elements.
        fortran: Stored with the first axis fastest (only where that differs from C order).
        swap: What makes the stored elements native, if they are not.
        data_nbytes: Of the array.
        crc32: Of the header's own bytes.
    """

    nbytes: int
    dtype: DType
    shape: tuple[int, ...]
    fortran: bool
    swap: Byteswap | None
    data_nbytes: int
    crc32: int

    @property
    def strides(self) -> tuple[int, ...] | None:
        """Bytes a step along each axis where the stored order is not C order, else None."""
        if not self.fortran:
            return None
        item = self.dtype.bits // 8
        return tuple(item * prod(self.shape[:axis]) for axis in range(len(self.shape)))

    @property
    def steps(self) -> tuple[Step, ...]:
        """What makes stored elements native."""
        return (self.swap,) if self.swap else ()


def header_length(head: bytes) -> int:
    """Bytes of the whole header, from the file's first ``HEAD_BYTES`` (or fewer, if there are no more)."""
    if head[:6] != MAGIC:
        raise FormatError(f"not npy: begins with {head[:6]!r}, expected {MAGIC!r}")
    if len(head) < 10 or (head[6] != 1 and len(head) < 12):
        raise FormatError(f"npy header cut off after {len(head)} bytes")
    major, minor = head[6], head[7]
    if major not in (1, 2, 3) or minor != 0:
        raise UnsupportedFeatureError(f"npy version {major}.{minor}; 1.0, 2.0 and 3.0 are known")
    start = 10 if major == 1 else 12
    length = start + int.from_bytes(head[8:start], "little")
    if length > MAX_HEADER:
        raise FormatError(f"npy header of {length} bytes; at most {MAX_HEADER} are read")
    return length


def object_shape(header: bytes) -> tuple[int, ...] | None:
    """The shape of an array of Python objects, whose data is a pickle; None for an array of anything else."""
    start = 10 if header[6] == 1 else 12
    if b"O" not in header[start:]:
        return None
    fields = parse_literal(header[start:].decode("latin-1"))
    shape = fields.get("shape") if isinstance(fields, dict) and fields.keys() == _KEYS else None
    if not isinstance(shape, tuple) or not isinstance(fields["descr"], str) or not _OBJECT.fullmatch(fields["descr"]):
        return None
    return shape


def parse_header(header: bytes) -> Header:
    """The header in ``header``, which is exactly as long as ``header_length`` says.

    FormatError; UnsupportedFeatureError for a type that is not known; UnsafeContentError for objects.
    """
    return _parse_small(header) if len(header) <= 512 else _parse(header)


def _parse(header: bytes) -> Header:
    start = 10 if header[6] == 1 else 12
    try:
        text = header[start:].decode("utf-8" if header[6] == 3 else "latin-1")
    except UnicodeDecodeError as error:
        raise FormatError(f"npy header is not UTF-8: {error}") from None
    return _interpret(parse_literal(text), header)


# The members of an archive share few headers.
_parse_small = lru_cache(maxsize=4096)(_parse)


def _interpret(fields: Any, header: bytes) -> Header:
    """The header from its three fields, everything checked."""
    if not isinstance(fields, dict) or fields.keys() != _KEYS:
        found = sorted(fields)[:8] if isinstance(fields, dict) else type(fields).__name__
        raise FormatError(f"npy header must be a dict of {sorted(_KEYS)}, found {found}")
    shape, fortran = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or not all(type(dim) is int for dim in shape):
        raise FormatError(f"npy shape is not a tuple of integers: {str(shape)[:80]}")
    if not isinstance(fortran, bool):
        raise FormatError(f"npy fortran_order is not True or False: {str(fortran)[:80]}")
    if len(shape) > MAX_NDIM:
        raise FormatError(f"npy array of {len(shape)} dimensions; at most {MAX_NDIM} are allowed")
    if any(dim < 0 for dim in shape):
        raise FormatError(f"negative dimension in npy shape {shape}")
    dtype, swap = _element_type(fields["descr"])
    item = dtype.bits // 8
    # NumPy bounds the product of the dimensions that are not 0, even for an empty array.
    if prod(dim for dim in shape if dim) * item > _MAX_BYTES:
        raise FormatError(f"npy array of shape {shape} and {item} bytes an element exceeds 64 bits")
    data_nbytes = prod(shape) * item
    both_orders = data_nbytes == 0 or sum(dim != 1 for dim in shape) < 2
    return Header(len(header), dtype, shape, fortran and not both_orders, swap, data_nbytes, crc32(header))


def _element_type(descr: Any) -> tuple[DType, Byteswap | None]:
    """The element type, and the swap that makes stored elements native."""
    if descr == _MXNET_BFLOAT16:
        return DTYPES["bfloat16"], None
    if isinstance(descr, tuple):
        raise FormatError(f"npy descr is a sub-array type: {str(descr)[:80]}")
    stored = _numpy_type(descr)
    if stored.itemsize == 0:
        raise UnsupportedFeatureError(f"npy elements of no bytes: {str(descr)[:80]}")
    dtype = from_numpy(stored)
    if dtype.core and not stored.isnative:
        return dtype, Byteswap(dtype.word, dtype.bits // 8)
    return dtype, None


def _numpy_type(descr: Any) -> np.dtype[Any]:
    """The NumPy type of a descr: a type string, a list of fields, or (type, shape)."""
    if isinstance(descr, str):
        return _simple_type(descr)
    if isinstance(descr, list):
        return _struct_type(descr)
    if isinstance(descr, tuple) and len(descr) == 2:
        return _subarray_type(_numpy_type(descr[0]), descr[1])
    raise FormatError(f"npy descr is neither a type nor a list of fields: {str(descr)[:80]}")


def _simple_type(descr: str) -> np.dtype[Any]:
    if _OBJECT.fullmatch(descr):
        raise UnsafeContentError(
            "npy holds Python objects, stored as a pickle, which is read as format='npy-pickle' only (the default, "
            "where no format is given)"
        )
    if descr in _FOREIGN:
        return DTYPES[_FOREIGN[descr]].numpy
    if not _TYPE.fullmatch(descr):
        raise UnsupportedFeatureError(f"unknown npy element type {descr[:80]!r}")
    try:
        return np.dtype(descr)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnsupportedFeatureError(f"NumPy here has no element type {descr[:80]!r}: {error}") from None


def _subarray_type(base: np.dtype[Any], shape: Any) -> np.dtype[Any]:
    dims = (shape,) if type(shape) is int else shape
    if not isinstance(dims, tuple) or len(dims) > MAX_NDIM or not all(type(d) is int and d >= 0 for d in dims):
        raise FormatError(f"malformed sub-array shape in npy descr: {str(shape)[:80]}")
    if prod(d for d in dims if d) * max(base.itemsize, 1) > _MAX_ITEM:
        raise FormatError(f"npy field of shape {dims} exceeds {_MAX_ITEM} bytes")
    try:
        return np.dtype((base, dims))
    except (TypeError, ValueError, OverflowError) as error:
        raise UnsupportedFeatureError(f"NumPy here has no sub-array of {dims} of {base}: {error}") from None


def _struct_type(fields: list[Any]) -> np.dtype[Any]:
    """A structured type; unnamed void fields are the padding between the others."""
    names: list[str] = []
    titles: list[str | None] = []
    formats: list[np.dtype[Any]] = []
    offsets: list[int] = []
    at = 0
    for field in fields:
        if not isinstance(field, tuple) or len(field) not in (2, 3):
            raise FormatError(f"npy field is not (name, type) or (name, type, shape): {str(field)[:80]}")
        title, name = field[0] if isinstance(field[0], tuple) and len(field[0]) == 2 else (None, field[0])
        if not isinstance(name, str) or not isinstance(title, (str, type(None))):
            raise FormatError(f"npy field name is not a string: {str(field[0])[:80]}")
        dtype = _numpy_type(field[1])
        if len(field) == 3:
            dtype = _subarray_type(dtype, field[2])
        padding = name == "" and dtype.type is np.void and dtype.names is None and dtype.subdtype is None
        if not padding:
            names.append(name)
            titles.append(title)
            formats.append(dtype)
            offsets.append(at)
        at += dtype.itemsize
        if at > _MAX_ITEM:
            raise FormatError(f"npy element of more than {_MAX_ITEM} bytes")
    try:
        return np.dtype({"names": names, "formats": formats, "titles": titles, "offsets": offsets, "itemsize": at})
    except (TypeError, ValueError) as error:
        raise FormatError(f"malformed fields in npy descr: {error}") from None


@lru_cache(maxsize=4096)
def build_header(dtype: DType, shape: tuple[int, ...]) -> bytes:
    """The header of a C-order array, byte for byte as ``np.save`` of NumPy 2 writes it.

    Types that NumPy does not know (ml_dtypes) become raw bytes (``<V2``), packed ones ``|u1`` with the shape
    of their bytes.
    """
    if dtype.bits == 0:
        raise UnsupportedFeatureError(f"npy elements of no bytes are not read back: {dtype}")
    shape = tuple(int(dim) for dim in array_shape(dtype, shape))
    text = f"{{'descr': {_descr(dtype)!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    if shape:
        text += " " * (_GROWTH_DIGITS - len(str(shape[0])))
    try:
        body, version = text.encode("latin-1"), 1
    except UnicodeEncodeError:
        body, version = text.encode("utf-8"), 3
    if version == 1 and len(_wrap(body, 1)) > 10 + 0xFFFF:
        version = 2
    header = _wrap(body, version)
    if len(header) > MAX_HEADER:
        raise UnsupportedFeatureError(f"npy header of {len(header)} bytes; at most {MAX_HEADER} are read back")
    return header


def build_object_header(shape: tuple[int, ...]) -> bytes:
    """The header of an array of Python objects, as ``np.save`` writes it."""
    text = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape!r}, }}"
    if shape:
        text += " " * (_GROWTH_DIGITS - len(str(shape[0])))
    return _wrap(text.encode("latin-1"), 1)


def _descr(dtype: DType) -> Any:
    if dtype.packed:
        return "|u1"
    if dtype.core and dtype.numpy.isbuiltin == _REGISTERED:
        # ml_dtypes calls float8_e5m2 "<f1", which NumPy writes and then cannot read; all others are "<V...".
        return f"<V{dtype.numpy.itemsize}"
    if _has_registered(dtype.numpy):
        raise UnsupportedFeatureError(f"npy would forget that it is {dtype}; convert it to a type of NumPy's own")
    if dtype.numpy.names is None:
        return dtype.numpy.str
    try:
        return dtype.numpy.descr
    except ValueError as error:
        raise UnsupportedFeatureError(f"npy cannot hold dtype {dtype}: {error}") from None


def _has_registered(dtype: np.dtype[Any]) -> bool:
    """Whether a type or one of its fields comes from another package, whose types npy keeps as raw bytes."""
    if dtype.names is not None:
        return any(_has_registered(dtype[name]) for name in dtype.names)
    return dtype.base.isbuiltin == _REGISTERED


def _wrap(body: bytes, version: int) -> bytes:
    """Magic, version and length around the text, padded as NumPy does: by 1 to 64 bytes."""
    start = 10 if version == 1 else 12
    text = body + b" " * (64 - (start + len(body) + 1) % 64) + b"\n"
    return MAGIC + bytes([version, 0]) + len(text).to_bytes(4, "little")[: start - 8] + text
