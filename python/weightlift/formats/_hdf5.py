"""HDF5 files, and Keras' files of weights: ``.h5``, ``.weights.h5``, ``.weights.json`` with its shards, ``.keras``.

A dataset is a tensor, called by its path. h5py finds the datasets (``_hdf5_file``, ``_hdf5_walk``); where the elements
of a contiguous one lie is then known, and they are read like those of any other format, without h5py. Chunked datasets
are tiles to be decoded (``_unchunk``). Keras' older files list their weights in an order of their own, which is kept;
a ``.keras`` file is a zip archive with such a file in it (``_hdf5_keras``). Configurations are metadata, never run.

Specification: docs/formats/hdf5.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weightlift._json import impostor
from weightlift._layout import Layout, TensorTable
from weightlift._packing import Checksums, Packing, PackOptions, TensorSpecs
from weightlift.errors import FormatError, WeightliftError
from weightlift.formats._hdf5_file import Hdf5File, read_hdf5
from weightlift.formats._hdf5_keras import is_keras_index, is_keras_zip, read_index, read_zip
from weightlift.formats._hdf5_walk import Found, attributes, keras_order, layer_names, walk
from weightlift.formats._hdf5_write import pack_hdf5, refuse_types
from weightlift.formats._npy import check_options
from weightlift.protocols import Files, Reader

__all__ = ["HDF5", "Hdf5"]

_MAGIC = b"\x89HDF\r\n\x1a\n"
_HEAD = 4096


class Hdf5:
    """The hdf5 format; see the module."""

    name = "hdf5"
    suffixes: Sequence[str] = (".weights.json", ".weights.h5", ".keras", ".hdf5", ".hdf", ".h5")
    metadata_in_file = False

    def sniff(self, head: bytes, size: int) -> bool:
        """By the signature, which a user block of 512, 1024 ... bytes may precede; or one of Keras' two containers."""
        places = [0, 512, 1024, 2048]
        return any(head[at:].startswith(_MAGIC) for at in places) or is_keras_zip(head) or is_keras_index(head)

    def read(self, files: Files, name: str) -> Layout:
        """One tensor for each dataset.

        A dataset of strange elements, and a link that leads elsewhere, become errors in ``objects``, which are raised
        when that name is asked for: the others can be loaded by name.
        """
        reader = files.open(name)
        try:
            head = reader.read_at(0, min(_HEAD, reader.size))
            if is_keras_index(head):
                layout = read_index(files, reader, _read_file)
                return layout.validate([files.open(shard).size for shard in layout.sources])
            if is_keras_zip(head) or name.lower().endswith(".keras"):
                layout = read_zip(reader, name, read_part)
            else:
                layout = _read_file(files, name)
        except WeightliftError as error:
            raise error.locate(path=reader.name) from None
        return layout.validate([reader.size])

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> dict[int, str]:
        """Tensors are stored as they are, in the types that HDF5 and Keras have."""
        refuse_types(specs, quantize)
        return {}

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """One contiguous dataset a tensor."""
        check_options("hdf5", options, compressions=())
        return pack_hdf5(specs, name, options)

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """Nothing in the file depends on checksums: they go to the sidecar."""
        return {}

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """There is none."""
        raise FormatError("hdf5 has no manifest")


def _read_file(files: Files, name: str) -> Layout:
    """A file that is HDF5 from its first byte, or its user block, on."""
    reader = files.open(name)
    found = impostor(reader.read_at(0, min(_HEAD, reader.size)))
    if found is not None:
        raise FormatError(f"the HDF5 file cannot be read: it is {found}", offset=0)
    return read_part(reader, name, 0, reader.size)


def read_part(reader: Reader, name: str, begin: int, size: int) -> Layout:
    """The layout of the HDF5 file that lies in ``size`` bytes of file ``name`` from ``begin`` on; not validated."""

    def look(file: Hdf5File) -> tuple[Found, list[str], dict[str, Any], dict[str, Any]]:
        found = walk(file)
        order, lists = keras_order(file, found)
        extra = {"layer_names": layer_names(file, found), "weight_names": lists, "links": found.links}
        return found, order, extra, attributes(file, file.root)

    found, order, extra, metadata = read_hdf5(reader, begin, size, look)
    for error in found.objects.values():
        error.locate(path=reader.name)
    table = TensorTable.from_entries({path: found.tensors[path] for path in order})
    return Layout("hdf5", table, (name,), objects=found.objects, metadata=metadata, extra=extra, shared=found.shared)


HDF5 = Hdf5()
"""The format, as it stands in ``FORMATS``."""
