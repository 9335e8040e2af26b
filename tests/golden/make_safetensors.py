"""Makes tests/golden/safetensors: files of the reference library, and ours, with what each holds in expected.json.

Run it from the repository's root, after a deliberate change of what we write:

    python -m tests.golden.make_safetensors
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from weightlift._packing import PackOptions
from weightlift.formats._safetensors import SAFETENSORS
from weightlift.testing import MemoryFiles, read_tensors, write_tensors

FOLDER = Path(__file__).parent / "safetensors"
Array = np.ndarray[Any, Any]

ARRAYS: dict[str, Array] = {
    "f32": np.array([[1.5, -2.25, 3e-39], [np.inf, -np.inf, np.nan]], "f4"),
    "i64": np.array([-(1 << 63), -1, 0, (1 << 63) - 1]),
    "flag": np.array(True),
    "none": np.zeros((2, 0, 3), "c8"),
    'layer/0.é"\n': np.array([1 + 2j], "c8"),
    "bf16": np.array([1.5, -0.0], ml_dtypes.bfloat16),
    "f8": np.array([1.5, -448], ml_dtypes.float8_e4m3fn),
}
STRUCTURE = {
    "dict": [
        ["weights", {"list": ["f32", "i64", "flag", "none"]}],
        [0, {"tuple": ['layer/0.é"\n']}],
        ["b", "bf16"],
        ["f", "f8"],
    ]
}
METADATA = {"format": "pt", "é": "\u2028"}

# Orders, spaces, escapes and fields that the library does not write, but reads.
BY_HAND = (
    b'\n{ "b" : {"data_offsets": [2, 6], "shape": [1], "dtype": "F32", "extra": {"x": [1.5e3, null]}} ,\t'
    b'"\\u0061\\ud83d\\ude00":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"__metadata__":{"k":"\\n"}}\r\n '
)


def ours() -> dict[str, bytes]:
    """What we write today."""
    whole = PackOptions(metadata=METADATA, structure=STRUCTURE)
    plain = PackOptions(checksums=False)
    shards = PackOptions(metadata=METADATA, structure=STRUCTURE, shard_size=32)
    return {
        **write_tensors(SAFETENSORS, ARRAYS, "weightlift.safetensors", whole).files,
        **write_tensors(SAFETENSORS, ARRAYS, "weightlift_plain.safetensors", plain).files,
        **write_tensors(SAFETENSORS, ARRAYS, "weightlift_shards.safetensors", shards).files,
    }


def described(contents: dict[str, bytes], name: str) -> dict[str, Any]:
    """What a file holds, as JSON: metadata, structure, and types, shapes and bytes."""
    files = MemoryFiles(contents)
    layout = SAFETENSORS.read(files, name)
    tensors = read_tensors(layout, files)
    return {
        "metadata": layout.metadata,
        "structure": layout.structure,
        "tensors": {
            key: {"dtype": str(a.dtype), "shape": list(a.shape), "hex": a.tobytes().hex()}
            for key, a in sorted(tensors.items())
        },
    }


def main() -> None:
    """Write the folder anew."""
    import safetensors.numpy

    numpy_arrays = {key: array for key, array in ARRAYS.items() if key not in ("bf16", "f8")}
    contents = {
        **ours(),
        "library.safetensors": safetensors.numpy.save(numpy_arrays, METADATA),
        "by_hand.safetensors": len(BY_HAND).to_bytes(8, "little") + BY_HAND + b"hi\0\0\x80\x3f",
    }
    FOLDER.mkdir(exist_ok=True)
    for name, content in contents.items():
        (FOLDER / name).write_bytes(content)
    expected = {name: described(contents, name) for name in contents}
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
