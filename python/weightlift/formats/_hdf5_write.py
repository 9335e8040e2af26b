"""HDF5 files for writing: h5py makes the structures in memory, with room for the tensors; the engine fills the room.

Every tensor is one contiguous dataset at the path that is its name. Types that HDF5 lacks are stored as Keras does it:
opaque, with the type's name in the attribute ``dtype``. Into files that end in ``.h5`` or ``.hdf5``, whose names have a
layer in front (``dense/kernel:0``), go the lists from which Keras' older loader finds its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weightlift._dtypes import DType
from weightlift._packing import PackedFile, Packing, PackOptions, Placements, TensorSpecs
from weightlift.errors import UnsupportedFeatureError
from weightlift.formats._hdf5_positioned import Positioned
from weightlift.formats._storable import refuse, unstorable

__all__ = ["pack_hdf5", "refuse_types"]

_PAGE = 4096
_ALIGNED_FROM = 1 << 16
"""Arrays from this size on begin on a page, for direct reads and writes."""

_STRUCTURE = 1 << 10
"""Bytes of structure that a tensor takes, roughly: all of it is to lie together, for remote readers."""

_MOST_TOGETHER = 1 << 24
_MOST_ATTRIBUTE = 64512
"""Bytes of a list in one attribute, as Keras cuts them."""

_OPTIMIZER, _MODEL = "optimizer_weights", "model_weights"
_KERAS = {"keras_version": "3.0.0", "backend": "tensorflow"}
"""What the older loader wants to know: no weight is to be turned around for it."""


def refuse_types(specs: TensorSpecs, quantize: object) -> None:
    """UnsupportedFeatureError for what HDF5 and Keras have no type for, with every tensor's name."""
    if quantize:
        raise UnsupportedFeatureError("HDF5 files have no such quantisation; use format='tfjs', or dtype='float16'")
    refuse("hdf5", unstorable(specs, lambda dtype: dtype.core and not dtype.packed), ", or use .npz")


def pack_hdf5(specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
    """Where everything goes, in one file."""
    low = name.lower()
    if low.endswith((".keras", ".weights.json")):
        what = "a whole model (use save_model)" if low.endswith(".keras") else "sharded weights"
        raise UnsupportedFeatureError(f"weights alone are written as .weights.h5 or .h5, not as {what}", path=name)
    _check_names(specs.names)
    skeleton = _Skeleton()
    legacy = low.endswith((".h5", ".hdf5")) and not low.endswith(".weights.h5") and _have_layers(specs.names)
    offsets = _build(skeleton, specs, options.metadata, legacy=legacy)
    order = np.argsort(offsets, kind="stable").astype(np.uint32)
    nbytes = specs.nbytes[order]
    placements = Placements.whole(order, np.zeros(len(order), np.uint32), offsets[order], nbytes.copy())
    taken = [(int(at), int(at) + int(n)) for at, n in zip(placements.offset, nbytes, strict=True) if n]
    size = max([skeleton.size, *(end for _, end in taken)])
    file = PackedFile(name, size, tuple(skeleton.outside(taken)))
    return Packing([file], placements, sidecar=True, structure=options.structure, listed=True)


def _check_names(names: Sequence[str]) -> None:
    """A name is a path of groups that ends in a dataset, and must come back as it is."""
    groups: set[str] = set()
    for name in names:
        parts = name.split("/")
        if any(part in ("", ".") for part in parts) or "\0" in name:
            raise UnsupportedFeatureError(
                f"hdf5 cannot hold a tensor called {name!r}: names are paths, without empty parts, '.' or NUL; rename"
            )
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UnsupportedFeatureError(f"hdf5 cannot hold a tensor called {name!r}: it is not Unicode") from None
        groups.update("/".join(parts[:i]) for i in range(1, len(parts)))
    both = next((name for name in names if name in groups), None)
    if both is not None:
        raise UnsupportedFeatureError(
            f"hdf5 cannot hold a tensor called {both!r} and others below that path; use rename="
        )


def _have_layers(names: Sequence[str]) -> bool:
    """Whether each weight is of a layer, as Keras' older files have it."""
    return bool(names) and all("/" in name.removeprefix(f"{_MODEL}/") for name in names)


# --- the structures ---------------------------------------------------------------------------------
def _build(
    skeleton: _Skeleton, specs: TensorSpecs, metadata: Mapping[str, Any], *, legacy: bool
) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Write the structures; returns where the bytes of each tensor go."""
    try:
        import h5py
    except ImportError as error:
        raise UnsupportedFeatureError("HDF5 files need h5py: pip install weightlift[keras]") from error
    offsets = np.zeros(len(specs), np.uint64)
    together = min(_MOST_TOGETHER, max(2048, _STRUCTURE * len(specs)))
    with h5py.File(
        skeleton, "w", meta_block_size=together, alignment_threshold=_ALIGNED_FROM, alignment_interval=_PAGE
    ) as file:
        paths = h5py.h5p.create(h5py.h5p.LINK_CREATE)
        paths.set_create_intermediate_group(True)
        paths.set_char_encoding(h5py.h5t.CSET_UTF8)
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_layout(h5py.h5d.CONTIGUOUS)
        plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        plan.set_obj_track_times(False)  # equal content gives equal files
        for i, (name, dtype, shape) in enumerate(zip(specs.names, specs.dtypes, specs.shapes, strict=True)):
            kind, opaque = _stored_type(h5py, dtype)
            space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
            dataset = h5py.h5d.create(file.id, name.encode(), kind, space, plan, lcpl=paths)
            if opaque:
                h5py.Dataset(dataset).attrs["dtype"] = dtype.name
            offsets[i] = dataset.get_offset() or 0
        for group in _owners(specs.names):  # Keras 2 takes a group without this one for damage
            file.require_group(f"{group}/vars")
        if legacy:
            _list_weights(file, specs.names)
        _write_metadata(file, metadata)
    return offsets


def _owners(names: Sequence[str]) -> list[str]:
    """The groups above variables of Keras (``PATH/vars/N``), the root among them."""
    found: dict[str, None] = {}
    for name in names:
        path, _, number = name.rpartition("/")
        if not number.isdigit() or path.rpartition("/")[2] != "vars":
            continue
        while path:
            path = path.rpartition("/")[0]
            found[path] = None
    return list(found)


def _stored_type(h5py: Any, dtype: DType) -> tuple[Any, bool]:
    """The HDF5 type, and whether it is opaque."""
    if dtype.numpy.isbuiltin == 1:
        return h5py.h5t.py_create(dtype.numpy, logical=True), False
    return h5py.h5t.create(h5py.h5t.OPAQUE, dtype.bits // 8), True


def _write_metadata(file: Any, metadata: Mapping[str, Any]) -> None:
    """Plain values as attributes of the root; the sidecar has all of them, whatever they are."""
    for key, value in metadata.items():
        listed = key.startswith(("layer_names", "weight_names"))
        if not key or "\0" in key or listed or not isinstance(value, (str, int, float, bool)):
            continue
        if isinstance(value, str) and "\0" in value:
            continue
        if type(value) is int and not -(1 << 63) <= value < 1 << 63:
            continue
        file.attrs[key] = value


def _list_weights(file: Any, names: Sequence[str]) -> None:
    """The lists of Keras' older files: layers in their order, and the weights of each."""
    bases: dict[str, dict[str, list[str]]] = {}
    optimizer: list[str] = []
    for name in names:
        if name.startswith(f"{_OPTIMIZER}/"):
            optimizer.append(name.partition("/")[2])
            continue
        base = _MODEL if name.startswith(f"{_MODEL}/") else ""
        layer, _, weight = name.removeprefix(f"{base}/").partition("/")
        bases.setdefault(base, {}).setdefault(layer, []).append(weight)
    for base, layers in bases.items():
        group = file[base] if base else file
        _list(group, "layer_names", list(layers))
        for layer, weights in layers.items():
            _list(group[layer], "weight_names", weights)
        for key, value in _KERAS.items():
            group.attrs[key] = value
    if optimizer:
        _list(file[_OPTIMIZER], "weight_names", optimizer)


def _list(group: Any, name: str, values: Sequence[str]) -> None:
    """A list of names, in as many attributes as it takes."""
    encoded = [value.encode() for value in values]
    parts: list[list[bytes]] = [[]]
    longest = 0
    for value in encoded:
        longest = max(longest, len(value))
        if parts[-1] and longest * (len(parts[-1]) + 1) > _MOST_ATTRIBUTE:
            parts.append([])
            longest = len(value)
        parts[-1].append(value)
    for number, part in enumerate(parts):
        group.attrs[name if len(parts) == 1 else f"{name}{number}"] = np.array(part, "S")


class _Skeleton(Positioned):
    """A file in memory that keeps what is written and leaves out what is not: the tensors' bytes."""

    def __init__(self) -> None:
        super().__init__(0)
        self._pages: dict[int, bytearray] = {}

    def writable(self) -> bool:
        return True

    def truncate(self, size: int | None = None) -> int:
        self.size = self._at if size is None else size
        return self.size

    def readinto(self, out: Any) -> int:
        view, at = memoryview(out), self._at
        for begin in range(at - at % _PAGE, at + len(view), _PAGE):
            page = self._pages.get(begin // _PAGE, bytes(_PAGE))
            first, last = max(at, begin), min(at + len(view), begin + _PAGE)
            view[first - at : last - at] = page[first - begin : last - begin]
        self._at += len(view)
        return len(view)

    def write(self, data: Any) -> int:
        view, at = memoryview(data), self._at
        for begin in range(at - at % _PAGE, at + len(view), _PAGE):
            page = self._pages.setdefault(begin // _PAGE, bytearray(_PAGE))
            first, last = max(at, begin), min(at + len(view), begin + _PAGE)
            page[first - begin : last - begin] = view[first - at : last - at]
        self._at += len(view)
        self.size = max(self.size, self._at)
        return len(view)

    def outside(self, taken: Sequence[tuple[int, int]]) -> list[tuple[int, bytes]]:
        """What was written, as literals, but for the ranges in ``taken``, which are sorted."""
        literals: list[tuple[int, bytes]] = []
        ranges = iter([*taken, (1 << 63, 1 << 63)])
        begin, end = next(ranges)
        for number in sorted(self._pages):
            page, at, stop = self._pages[number], number * _PAGE, min((number + 1) * _PAGE, self.size)
            while at < stop:
                while end <= at:
                    begin, end = next(ranges)
                if begin <= at:
                    at = min(stop, end)
                    continue
                upto = min(stop, begin)
                offset = at - number * _PAGE
                literals.append((at, bytes(page[offset : offset + upto - at])))
                at = upto
        return literals
