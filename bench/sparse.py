"""Files of any size and format that take no room: all headers are real, the tensors are holes in the file.

Checksums are left out, since nobody computed them; loading a tensor gives zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from weightlift._checksum import crc32c
from weightlift._dtypes import byte_size, from_name
from weightlift._packing import Checksums, PackOptions, TensorSpecs
from weightlift.formats import by_name

__all__ = ["write_sparse"]


def write_sparse(
    folder: Path, format: str, name: str, shapes: Mapping[str, tuple[int, ...]], dtype: str = "float32"
) -> list[Path]:
    """Write file ``name`` (and its data files) with tensors of these shapes in elements; returns the paths.

    An npz member needs the CRC-32 of its bytes in the directory; here it is 0, so that only lazy opening, and
    loading with ``verify=False``, work.
    """
    fmt, kind = by_name(format), from_name(dtype)
    nbytes = np.array([byte_size(kind, shape) for shape in shapes.values()], np.uint64)
    specs = TensorSpecs(list(shapes), [kind] * len(shapes), list(shapes.values()), nbytes)
    fmt.encode(specs, None)
    packing = fmt.pack(specs, name, PackOptions(checksums=False))
    zeros = np.full(len(shapes), crc32c(b""), np.uint32)
    checksums = Checksums(zeros, zeros)
    patches = fmt.seal(packing, checksums)
    paths = []
    for number, file in enumerate(packing.files):
        with (folder / file.name).open("wb") as out:
            out.truncate(file.nbytes)
            for offset, data in (*file.literals, *patches.get(number, ())):
                out.seek(offset)
                out.write(data)
        paths.append(folder / file.name)
    if packing.manifest is not None:
        path = folder / packing.manifest.name
        path.write_bytes(fmt.manifest(packing, checksums, {file.name: file.name for file in packing.files}))
        paths.append(path)
    return paths
