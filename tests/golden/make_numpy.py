"""Makes tests/golden/numpy: small files of NumPy, and ours, with what each holds in expected.json.

Run it with NumPy 2 from the repository's root, after a deliberate change of what we write:

    python -m tests.golden.make_numpy
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from weightlift._packing import PackOptions
from weightlift.formats._npz import NPZ
from weightlift.testing import write_tensors

FOLDER = Path(__file__).parent / "numpy"
Array = np.ndarray[Any, Any]

ARRAYS: dict[str, Array] = {
    "f32": np.array([[1.5, -2.25, 3e-39], [np.inf, -np.inf, np.nan]], "f4"),
    "i64": np.array([-(1 << 63), -1, 0, (1 << 63) - 1]),
    "flag": np.array(True),
    "none": np.zeros((2, 0, 3), "c8"),
    "layer/0.é": np.array([1 + 2j], "c16"),
}
STRUCTURED = np.array([(1.5, [2, -3], b"abc")], [("a", "<f4"), ("b", ">i2", (2,)), ("c", "S4")])


def saved(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def zipped(save: Any) -> bytes:
    stream = io.BytesIO()
    save(stream, **ARRAYS)
    return stream.getvalue()


def described(array: Array) -> dict[str, Any]:
    """An array as JSON: type, shape, and bytes in native order, C order."""
    native = array if array.dtype.names else array.astype(array.dtype.newbyteorder("="))
    return {"dtype": str(native.dtype), "shape": list(array.shape), "hex": native.tobytes().hex()}


def python_2() -> bytes:
    """As NumPy 1.6 on Python 2 wrote it: long integers, 16-byte alignment."""
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }"
    text += b" " * (-(10 + len(text) + 1) % 16) + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + ARRAYS["f32"].tobytes()


def with_sizes_after_data() -> bytes:
    """A zip made in a stream that cannot seek: data descriptors, sizes of 0 in the local headers."""
    parts: list[bytes] = []

    class Stream(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            parts.append(bytes(data))
            return len(data)

    with zipfile.ZipFile(Stream(), "w") as archive:  # type: ignore[call-overload]
        for name, array in ARRAYS.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                member.write(saved(array))
    return b"".join(parts)


def files() -> dict[str, tuple[bytes, Mapping[str, Array]]]:
    """Content and arrays of every golden file."""
    f32 = ARRAYS["f32"]
    ours = {
        c: write_tensors(NPZ, ARRAYS, "x.npz", PackOptions(compression=c)).files["x.npz"] for c in (None, "deflate")
    }
    return {
        "c_order.npy": (saved(f32), {"tensor": f32}),
        "fortran_big_endian.npy": (saved(np.asfortranarray(f32.astype(">f4"))), {"tensor": f32}),
        "scalar.npy": (saved(ARRAYS["flag"]), {"tensor": ARRAYS["flag"]}),
        "structured.npy": (saved(STRUCTURED), {"tensor": STRUCTURED}),
        "python_2.npy": (python_2(), {"tensor": f32}),
        "savez.npz": (zipped(np.savez), ARRAYS),
        "savez_compressed.npz": (zipped(np.savez_compressed), ARRAYS),
        "sizes_after_data.npz": (with_sizes_after_data(), ARRAYS),
        "weightlift.npz": (ours[None], ARRAYS),
        "weightlift_deflated.npz": (ours["deflate"], ARRAYS),
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    made = files()
    for name, (data, _) in made.items():
        (FOLDER / name).write_bytes(data)
    expected = {name: {key: described(a) for key, a in arrays.items()} for name, (_, arrays) in made.items()}
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
