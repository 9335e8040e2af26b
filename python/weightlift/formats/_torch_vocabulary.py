"""What the names in a torch pickle mean: storages, views of them, and plain containers, all inert.

The list is closed: the functions by which ``torch.save`` says how tensors lie in storages, types, and the few
containers and scalars that state dicts and checkpoints hold, NumPy's among them (``_numpy_vocabulary``). None of these
functions is called or even imported; each name stands for a few lines that note what it was given. It is about the
list of ``torch.load(weights_only=True)``, without a door for names of the user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError
from weightlift.formats._numpy_rows import plain_value
from weightlift.formats._numpy_vocabulary import NUMPY_CALLS, NUMPY_TAGS, NumpyArray, set_numpy
from weightlift.formats._vocabulary import CONTAINERS, FACTORIES, ClosedVocabulary, Named, Ordered

__all__ = ["Record", "Storage", "StoredTensor", "TorchVocabulary", "Unreadable"]

_LIMIT = 1 << 63
_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "QInt8Storage": "qint8", "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32", "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
}  # fmt: skip
_DTYPES = (
    "float32", "float", "float64", "double", "float16", "half", "bfloat16", "complex32", "chalf", "complex64", "cfloat",
    "complex128", "cdouble", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "short", "int32", "int", "int64",
    "long", "bool", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
    "float4_e2m1fn_x2", "qint8", "quint8", "qint32", "quint4x2", "quint2x4", "bits8", "bits16", "bits1x8", "bits2x4",
    "bits4x2", *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
)  # fmt: skip
_SCHEMES = (
    "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric",
    "per_channel_affine_float_qparams",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of bytes outside of the pickle.

    Attributes:
        dtype: torch's name of its element type; None: bytes.
        key: Its name in the archive.
        numel: Elements of ``dtype``.
        view: (first element, elements) of a storage that is part of another (files of torch before 0.4).
    """

    dtype: str | None
    key: str
    numel: int
    view: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A view of a storage; offset and strides in elements.

    Attributes:
        storage: What holds the elements.
        dtype: torch's name of their type.
        offset: The first.
        size: The shape.
        stride: Steps.
        conj: The elements are the conjugates of what is stored.
        neg: Likewise, their negatives.
        scheme: Of a quantised tensor: what is said of scale and zero point.
    """

    storage: Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    conj: bool = False
    neg: bool = False
    scheme: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Unreadable:
    """A tensor that is no array of stored elements: what it is, and its parts that are."""

    what: str
    parts: Mapping[str, StoredTensor] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Record:
    """An object of a TorchScript archive: its attributes."""

    fields: dict[str, Any] = field(default_factory=dict)


class TorchVocabulary(ClosedVocabulary):
    """A :class:`~weightlift.formats._pickle.Vocabulary`.

    Args:
        script: The archive is one of TorchScript: classes of the module ``__torch__`` are records.
        skip_unsafe: Names out of the list stand for something that is left out, instead of for an error, and arrays of
            NumPy are read: torch itself refuses files that hold one.
    """

    def __init__(self, *, script: bool = False, skip_unsafe: bool = False) -> None:
        super().__init__(_CALLS, _TAGS, "save a state_dict, that is, a dict of tensors", skip_unsafe=skip_unsafe)
        self.script = script
        self.storages: dict[str, Storage] = {}

    def find(self, module: str, name: str) -> object:
        """The node of a name."""
        if self.script and (module == "__torch__" or module.startswith("__torch__.")):
            return Named("__torch__", name)
        if (module, name) in _ARRAYS and not self.skip_unsafe:
            raise UnsafeContentError(
                f"the pickle names {module}.{name}, which makes an array of NumPy; torch.load(weights_only=True) "
                "refuses the file, too; save tensors, or take arrays as well by skip_unsafe=True"
            )
        return super().find(module, name)

    def new(self, kind: object, args: tuple[Any, ...]) -> object:
        """An empty container or record."""
        if isinstance(kind, Named) and kind.module == "__torch__" and self.script and not args:
            return Record()
        return super().new(kind, args)

    def build(self, target: object, state: object) -> None:
        """Attributes of a state dict are left alone; those of a record, or of an array of NumPy, are its content."""
        if (type(target) is Ordered and type(state) is dict) or set_numpy(target, state):
            return
        if type(target) is Record and type(state) is dict and all(type(key) is str for key in state):
            target.fields.update(state)
            return
        raise UnsafeContentError(
            f"the pickle sets attributes of a {type(target).__name__.strip('_').lower()} from a {type(state).__name__}"
        )

    def persistent(self, key: object) -> object:
        """The storage that a tuple describes."""
        if type(key) is not tuple or not key or key[0] != "storage":
            kind = key[0] if type(key) is tuple and key and type(key[0]) is str else type(key).__name__
            raise UnsafeContentError(f"the pickle asks for a {kind[:80]!r} outside of it; only storages are there")
        if len(key) not in (5, 6):
            raise FormatError(f"the pickle describes a storage by {len(key)} values instead of 5 or 6")
        _, kind, name, _location, numel, *rest = key
        if not isinstance(kind, Named) or (kind.module, kind.name) not in _TAGS or "Storage" not in kind.name:
            raise FormatError(f"the pickle describes a storage of the unknown class {str(kind)[:80]!r}")
        if type(name) is not str or not name:
            raise FormatError("the pickle describes a storage without a name")
        view = rest[0] if rest else None
        if view is not None:
            if type(view) is not tuple or len(view) != 3:
                raise FormatError("the pickle describes a view of a storage by something else than 3 values")
            view = (_count(view[1], "view offset"), _count(view[2], "view size"))
        storage = Storage(_STORAGES.get(kind.name), name, _count(numel, "storage size"), view)
        self.storages.setdefault(name, storage)  # it may be described in several types, but not of several sizes
        return storage


# --- values out of arguments ------------------------------------------------------------------------
def _count(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value < _LIMIT:
        raise FormatError(f"the {what} is {str(value)[:40]}; it must be a number from 0 to 2**63 - 1")
    return value


def _counts(values: object, what: str) -> tuple[int, ...]:
    if type(values) not in (tuple, list):
        raise FormatError(f"the {what} is a {type(values).__name__}, not a tuple")
    found: tuple[Any, ...] = tuple(values)  # type: ignore[arg-type]
    if {*map(type, found)} == {int} and min(found) >= 0 and max(found) < _LIMIT:
        return found
    return tuple(_count(value, what) for value in found)


def _tensor(value: object, what: str) -> StoredTensor:
    if not isinstance(value, StoredTensor):
        raise FormatError(f"{what} is a {type(value).__name__.lower()}, not a tensor")
    return value


def _view(
    storage: object, offset: object, size: object, stride: object, dtype: str | None = None, metadata: object = None
) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise FormatError(f"a tensor lies in a {type(storage).__name__.lower()}, not in a storage")
    sizes, strides = _counts(size, "size of a tensor"), _counts(stride, "stride of a tensor")
    if len(sizes) != len(strides):
        raise FormatError(f"a tensor has {len(sizes)} sizes and {len(strides)} strides")
    flags = metadata if type(metadata) is dict else {}
    if unknown := [key for key in flags if key not in ("conj", "neg")]:
        raise FormatError(f"a tensor has the unknown property {str(unknown[0])[:80]!r}")
    first = _count(offset, "storage offset")
    kind = dtype or storage.dtype or "uint8"
    return StoredTensor(storage, kind, first, sizes, strides, flags.get("conj") is True, flags.get("neg") is True)


def _dtype_name(dtype: object) -> str:
    if not isinstance(dtype, Named) or dtype.module != "torch" or dtype.name not in _DTYPES:
        raise FormatError(f"the type of a tensor is {str(dtype)[:80]!r}")
    return _ALIASES.get(dtype.name, dtype.name)


_ALIASES = {
    "float": "float32", "double": "float64", "half": "float16", "chalf": "complex32", "cfloat": "complex64",
    "cdouble": "complex128", "short": "int16", "int": "int32", "long": "int64",
}  # fmt: skip


# --- the functions of the list, as what they note -----------------------------------------------------
def _rebuild_v2(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, metadata: Any = None
) -> StoredTensor:
    return _view(storage, offset, size, stride, metadata=metadata)


def _rebuild_v1(storage: Any, offset: Any, size: Any, stride: Any) -> Any:
    return _view(storage, offset, size, stride)


def _rebuild_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, metadata: Any = None
) -> Any:
    return _view(storage, offset, size, stride, _dtype_name(dtype), metadata)


def _rebuild_parameter(data: Any, _grad: Any, _hooks: Any, _state: Any = None) -> Any:
    return data if isinstance(data, Unreadable) else _tensor(data, "the data of a parameter")


def _rebuild_from_type(function: Any, kind: Any, args: Any, _state: Any) -> Any:
    known = isinstance(kind, Named) and (kind.module, kind.name) in (
        ("torch", "Tensor"),
        ("torch.nn.parameter", "Parameter"),
    )
    inner = _CALLS.get((function.module, function.name)) if isinstance(function, Named) else None
    if not known or type(args) is not tuple or inner is None or not function.name.startswith("_rebuild"):
        raise UnsafeContentError(f"the pickle makes a tensor of the type {kind} by {function}")
    if inner is _rebuild_from_type:
        raise FormatError("the pickle makes a tensor of a tensor")
    return inner(*args)


def _rebuild_sparse(layout: Any, data: Any) -> Any:
    names = {
        "torch.sparse_coo": ("indices", "values"),
        "torch.sparse_csr": ("crow_indices", "col_indices", "values"),
        "torch.sparse_csc": ("ccol_indices", "row_indices", "values"),
        "torch.sparse_bsr": ("crow_indices", "col_indices", "values"),
        "torch.sparse_bsc": ("ccol_indices", "row_indices", "values"),
    }.get(layout if type(layout) is str else "")
    if names is None or type(data) is not tuple or len(data) <= len(names):
        raise FormatError("the pickle holds a malformed sparse tensor")
    shape = _counts(data[len(names)], "size of a sparse tensor")
    parts = {name: _tensor(part, f"the part {name!r}") for name, part in zip(names, data, strict=False)}
    return Unreadable(f"a sparse tensor ({layout}) of shape {list(shape)}", parts)


def _rebuild_quantized(
    storage: Any, offset: Any, size: Any, stride: Any, scheme: Any, _grad: Any, _hooks: Any
) -> StoredTensor:
    if type(scheme) is not tuple or len(scheme) < 3 or not isinstance(scheme[0], Named):
        raise FormatError("a quantised tensor does not say how it is quantised")
    found = _view(storage, offset, size, stride)
    return StoredTensor(
        found.storage, found.dtype, found.offset, found.size, found.stride, scheme=(scheme[0].name, *scheme[1:])
    )


def _rebuild_meta(dtype: Any, size: Any, _stride: Any, _grad: Any) -> Any:
    shape = list(_counts(size, "size of a tensor"))
    return Unreadable(f"a meta tensor ({_dtype_name(dtype)} of shape {shape}), which has no data")


def _get_layout(name: Any) -> str:
    if type(name) is not str:
        raise FormatError("a layout is not named by text")
    return name


def _list(items: Any) -> list[Any]:
    """A list of TorchScript, whose elements have one type."""
    if type(items) is not list:
        raise FormatError(f"a list is made of a {type(items).__name__.lower()}")
    return items


def _tagged(value: Any, tag: Any) -> Any:
    """A container of TorchScript, and its type as text."""
    if type(value) not in (list, dict, tuple) or type(tag) is not str:
        raise FormatError("a container of TorchScript is none, or has no type")
    return value


def _size(items: Any = ()) -> tuple[int, ...]:
    return _counts(items, "torch.Size")


def _device(kind: Any, index: Any = None) -> str:
    if type(kind) is not str or type(index) not in (int, type(None)):
        raise FormatError("a device is not named by text and a number")
    return kind if index is None else f"{kind}:{index}"


def _numpy_scalar(kind: Any, data: Any = b"") -> Any:
    """Python's own value of it: what counts and rates mean does not depend on who counted."""
    made = NUMPY_CALLS["numpy.core.multiarray", "scalar"](kind, data)
    if not isinstance(made, NumpyArray):
        return made
    try:
        return plain_value(made)
    except UnsupportedFeatureError as error:
        return Unreadable(error.message)


_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_v1,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_v3,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._utils", "_rebuild_sparse_tensor"): _rebuild_sparse,
    ("torch._utils", "_rebuild_qtensor"): _rebuild_quantized,
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _rebuild_meta,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch.serialization", "_get_layout"): _get_layout,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("torch.jit._pickle", "restore_type_tag"): _tagged,
    **{("torch.jit._pickle", f"build_{kind}list"): _list for kind in ("tensor", "int", "double", "bool")},
    **NUMPY_CALLS,
    **{(f"numpy.{core}.multiarray", "scalar"): _numpy_scalar for core in ("core", "_core")},
    **CONTAINERS,
}
"""Names that a pickle may call."""

_ARRAYS = frozenset(names for names in NUMPY_CALLS if names[1] in ("_reconstruct", "_frombuffer"))
"""Of these, those that make arrays."""

_TAGS = frozenset(
    {
        *((module, name) for module in ("torch", "torch.cuda") for name in _STORAGES),
        *(("torch", name) for name in (*_DTYPES, *_SCHEMES, "Tensor")),
        ("torch.storage", "UntypedStorage"),
        ("torch.nn.parameter", "Parameter"),
        *NUMPY_TAGS,
        *FACTORIES,
    }
)
"""Names that it may only name."""
