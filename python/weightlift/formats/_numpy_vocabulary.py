"""What the names in a pickle of NumPy mean: arrays, element types and plain containers, all inert.

The list is closed: how NumPy says what an array is (``_reconstruct``, ``dtype``, ``scalar``, ``_frombuffer``), the
wrappers by which TensorFlow and JAX pickle theirs, the types of ml_dtypes, and plain containers. None of it is called
or imported: each name stands for a few lines here that note what it was given.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from weightlift._dtypes import DTYPES
from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError
from weightlift.formats._pickle import Blob
from weightlift.formats._vocabulary import CONTAINERS, FACTORIES, ClosedVocabulary, Named, Ordered

__all__ = ["NUMPY_CALLS", "NUMPY_TAGS", "NumpyArray", "NumpyType", "NumpyVocabulary", "set_numpy"]

_LIMIT = 1 << 63
_MAX_AXES = 64
_MAX_ITEM = (1 << 31) - 1
_MAX_FIELDS = 1000
_MAX_NESTING = 8
_CODE = re.compile(r"[?]|[biufcSUV][0-9]{1,10}|b1|[mM]8|O[48]?")
_UNIT = re.compile(r"as|fs|ps|ns|us|ms|s|m|h|D|W|M|Y|generic")
_ORDERS = ("<", ">", "|", "=")


@dataclass(slots=True, eq=False)
class NumpyType:
    """An element type in the making.

    Attributes:
        code: Its letter and size, as ``"f4"``, or a name of ml_dtypes.
        native: The type; None before its state is known.
    """

    code: str
    native: np.dtype[Any] | None = None

    @property
    def objects(self) -> bool:
        """Whether its elements are Python objects."""
        return self.code.startswith("O")

    def resolved(self) -> np.dtype[Any]:
        """The type."""
        if self.native is None:
            self.native = _plain_type(self.code, "<")
        return self.native

    def __str__(self) -> str:
        """As NumPy writes it."""
        return "object" if self.objects else str(self.resolved())


@dataclass(slots=True, eq=False)
class NumpyArray:
    """An array in the making.

    Attributes:
        shape: In elements.
        dtype: Element type; None before the array has a state.
        fortran: Stored with the first axis fastest.
        data: Its elements: where they are, or bytes (text, in pickles of Python 2).
        items: Its elements, in C order, if they are Python objects.
    """

    shape: tuple[int, ...] = ()
    dtype: NumpyType | None = None
    fortran: bool = False
    data: Blob | bytes | str = b""
    items: list[Any] | None = None


class NumpyVocabulary(ClosedVocabulary):
    """A :class:`~weightlift.formats._pickle.Vocabulary`.

    Args:
        skip_unsafe: Names out of the list stand for something that is left out, instead of for an error.
    """

    def __init__(self, *, skip_unsafe: bool = False) -> None:
        super().__init__(_CALLS, _TAGS, "save arrays and plain containers", skip_unsafe=skip_unsafe)

    def call(self, callee: object, args: tuple[Any, ...]) -> object:
        """What a function of the list would have made."""
        if isinstance(callee, Named) and (callee.module, callee.name) in CONTAINERS:
            args = tuple(arg.data if isinstance(arg, Blob) and arg.data is not None else arg for arg in args)
        return super().call(callee, args)

    def build(self, target: object, state: object) -> None:
        """The state of an array or of a type."""
        if not set_numpy(target, state) and not (type(target) is Ordered and type(state) is dict):
            raise UnsafeContentError(
                f"the pickle sets attributes of a {type(target).__name__.strip('_').lower()} "
                f"from a {type(state).__name__.lower()}"
            )

    def persistent(self, key: object) -> object:
        """There is nothing outside of these pickles."""
        raise UnsafeContentError("the pickle asks for something outside of it, where nothing is")


def set_numpy(target: object, state: object) -> bool:
    """Give an array or a type its state; False for what is neither."""
    if type(state) is not tuple:
        return False
    if type(target) is NumpyArray:
        _set_array(target, state)
    elif type(target) is NumpyType:
        _set_type(target, state)
    else:
        return False
    return True


# --- values out of arguments ------------------------------------------------------------------------
def _bytes(value: Any, what: str) -> bytes | str:
    if isinstance(value, Blob):
        value = value.data
    if type(value) not in (bytes, str):
        raise FormatError(f"{what} is a {type(value).__name__.lower()}, or longer than is read")
    found: bytes | str = value
    return found


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of an array, as it stands."""
    sizes = (value,) if type(value) is int else value
    if type(sizes) is not tuple or len(sizes) > _MAX_AXES:
        raise FormatError(f"the shape of an array is {str(value)[:80]}")
    if any(type(n) is not int or not 0 <= n < _LIMIT for n in sizes):
        raise FormatError(f"the shape of an array is {str(value)[:80]}; sizes are from 0 to 2**63 - 1")
    if prod(n for n in sizes if n) >= _LIMIT:
        raise FormatError(f"an array of shape {str(value)[:80]} has more than 2**63 elements")
    return sizes


def _set_array(array: NumpyArray, state: tuple[Any, ...]) -> None:
    """``(1, shape, dtype, is_fortran, data)``."""
    if array.dtype is not None:
        raise FormatError("the pickle sets an array twice")
    if len(state) == 5 and state[0] == 1:
        state = state[1:]
    if len(state) != 4:
        raise FormatError(f"an array is set by {len(state)} values; 5 are known")
    shape, dtype, fortran, data = state
    if type(dtype) is not NumpyType:
        raise FormatError(f"the type of an array is a {type(dtype).__name__.lower()}")
    array.shape = _shape(shape)
    if dtype.objects:
        if type(data) is not list or len(data) != prod(array.shape):
            raise FormatError(f"an array of objects of shape {list(array.shape)} does not have a list of so many")
        array.items = data
    elif isinstance(data, (Blob, bytes, str)):
        array.data, array.fortran = data, bool(fortran)
    else:
        raise FormatError(f"the elements of an array are a {type(data).__name__.lower()}")
    array.dtype = dtype


# --- element types ------------------------------------------------------------------------------------
def _plain_type(code: str, order: str) -> np.dtype[Any]:
    """The type of a code such as ``f4``, or of a name of ml_dtypes."""
    if code in DTYPES:
        return DTYPES[code].numpy
    if not _CODE.fullmatch(code) or code.startswith("O"):
        raise UnsupportedFeatureError(f"unknown element type {code[:40]!r} in the pickle")
    try:
        found = np.dtype(order + code if order in "<>" else code)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnsupportedFeatureError(f"NumPy here has no element type {code[:40]!r}: {error}") from None
    if found.itemsize > _MAX_ITEM:
        raise FormatError(f"elements of {found.itemsize} bytes; at most {_MAX_ITEM} are read")
    return found


def _set_type(kind: NumpyType, state: tuple[Any, ...]) -> None:
    """``(3, order, subdtype, names, fields, itemsize, alignment, flags)``, and metadata in version 4."""
    if len(state) not in (8, 9) or state[0] not in (3, 4) or state[1] not in _ORDERS:
        raise FormatError(f"the state of an element type is {str(state)[:120]}")
    _, order, sub, names, fields, itemsize = state[:6]
    if kind.objects:
        return
    if names is not None:
        kind.native = _struct(names, fields, itemsize)
    elif sub is not None:
        kind.native = _sub_array(sub)
    elif kind.code in ("M8", "m8"):
        kind.native = np.dtype(f"{order if order in '<>' else '<'}{kind.code}{_unit(state)}")
    else:
        kind.native = _plain_type(kind.code, order)


def _unit(state: tuple[Any, ...]) -> str:
    """The unit of dates, in brackets: ``[ns]``."""
    meta = state[8] if len(state) == 9 else None
    parts = meta[1] if type(meta) is tuple and len(meta) == 2 else None
    if type(parts) is not tuple or len(parts) < 2:
        return ""
    unit = _bytes(parts[0], "the unit of dates")
    name = unit.decode("latin-1") if isinstance(unit, bytes) else unit
    if not _UNIT.fullmatch(name) or type(parts[1]) is not int or not 0 < parts[1] < 1 << 31:
        raise FormatError(f"the unit of dates is {str(parts)[:80]}")
    return "" if name == "generic" else f"[{parts[1] if parts[1] > 1 else ''}{name}]"


def _inner(kind: Any) -> np.dtype[Any]:
    if type(kind) is not NumpyType or kind.objects:
        raise UnsupportedFeatureError("an element type has Python objects inside of it")
    found = kind.resolved()
    if _depth(found) > _MAX_NESTING:
        raise FormatError(f"element types nested deeper than {_MAX_NESTING}")
    return found


def _depth(dtype: np.dtype[Any]) -> int:
    if dtype.subdtype is not None:
        return 1 + _depth(dtype.subdtype[0])
    return 1 + max((_depth(dtype[name]) for name in dtype.names), default=0) if dtype.names else 0


def _sub_array(sub: Any) -> np.dtype[Any]:
    if type(sub) is not tuple or len(sub) != 2:
        raise FormatError("a sub-array type is not (type, shape)")
    base, shape = _inner(sub[0]), _shape(sub[1])
    if prod(n for n in shape if n) * max(base.itemsize, 1) > _MAX_ITEM:
        raise FormatError(f"a sub-array of shape {shape} exceeds {_MAX_ITEM} bytes")
    return np.dtype((base, shape))


def _struct(names: Any, fields: Any, itemsize: Any) -> np.dtype[Any]:
    if type(names) is not tuple or type(fields) is not dict or len(names) > _MAX_FIELDS:
        raise FormatError("the fields of an element type are malformed")
    if type(itemsize) is not int or not 0 < itemsize <= _MAX_ITEM:
        raise FormatError(f"an element of {str(itemsize)[:40]} bytes")
    formats, offsets = [], []
    for name in names:
        field = fields.get(name) if type(name) is str else None
        if type(field) is not tuple or len(field) < 2 or type(field[1]) is not int or not 0 <= field[1] <= itemsize:
            raise FormatError(f"the field {str(name)[:80]!r} of an element type is malformed")
        formats.append(_inner(field[0]))
        offsets.append(field[1])
    try:
        return np.dtype({"names": list(names), "formats": formats, "offsets": offsets, "itemsize": itemsize})
    except (TypeError, ValueError) as error:
        raise FormatError(f"malformed fields of an element type: {error}") from None


# --- the functions of the list, as what they note -----------------------------------------------------
def _reconstruct(kind: Any, _shape: Any = (), _code: Any = b"b") -> NumpyArray:
    if not isinstance(kind, Named) or (kind.module, kind.name) != ("numpy", "ndarray"):
        raise UnsafeContentError(f"the pickle makes an array of the class {str(kind)[:200]}")
    return NumpyArray()


def _dtype(code: Any, _align: Any = False, _copy: Any = True) -> NumpyType:
    if isinstance(code, Named) and code.module == "ml_dtypes":
        return NumpyType(code.name)
    if type(code) is not str:
        raise FormatError(f"an element type is made of a {type(code).__name__.lower()}")
    return NumpyType(code)


def _scalar(kind: Any, data: Any = b"") -> Any:
    if type(kind) is not NumpyType:
        raise FormatError(f"the type of a scalar is a {type(kind).__name__.lower()}")
    if not kind.objects and not isinstance(data, (Blob, bytes, str)):
        raise FormatError(f"the bytes of a scalar are a {type(data).__name__.lower()}")
    return data if kind.objects else NumpyArray((), kind, data=data)


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any = "C", axes: Any = None) -> NumpyArray:
    if axes is not None or order not in ("C", "F"):
        raise UnsupportedFeatureError(f"an array in the order {str(order)[:40]!r}")
    array = NumpyArray()
    _set_array(array, (shape, kind, order == "F", data))
    return array


def _tensorflow(value: Any, *_: Any) -> Any:
    """An EagerTensor is the array that it was made of."""
    return value


def _jax(function: Any, args: Any, state: Any, _aval: Any = None) -> NumpyArray:
    known = isinstance(function, Named) and _CALLS.get((function.module, function.name)) is _reconstruct
    if not known or type(args) is not tuple or type(state) is not tuple:
        raise UnsafeContentError(f"the pickle makes an array by {str(function)[:200]}")
    array = _reconstruct(*args)
    _set_array(array, state)
    return array


NUMPY_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}
"""Names that a pickle with NumPy's arrays in it may call, whoever wrote it."""

_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    **NUMPY_CALLS,
    ("tensorflow.python.framework.ops", "convert_to_tensor"): _tensorflow,
    ("jax._src.array", "_reconstruct_array"): _jax,
    **CONTAINERS,
}
"""Names that a pickle may call."""

NUMPY_TAGS = frozenset({("numpy", "ndarray"), *(("ml_dtypes", name) for name in DTYPES)})
"""Likewise, names that it may only name."""

_TAGS = frozenset(
    {
        *NUMPY_TAGS,
        *FACTORIES,
    }
)
"""Names that it may only name."""
