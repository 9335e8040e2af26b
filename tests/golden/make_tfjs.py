"""Makes tests/golden/tfjs: small files of each kind, written byte by byte from the rules, without Weightlift.

    python tests/golden/make_tfjs.py [FOLDER]

``converter/`` is as TensorFlow's Python converter writes: spaced ASCII JSON, two groups, shards that cut weights,
every quantisation. ``manifest/`` is a bare weights manifest with strings. ``tfjs/`` is as tfjs-node writes.
The values are in tests/golden/test_tfjs_golden.py.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "tfjs"


def entry(name: str, shape: list[int], dtype: str, **rest: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "dtype": dtype, **rest}


def affine(dtype: str, minimum: float, scale: float) -> dict[str, Any]:
    return {"dtype": dtype, "min": minimum, "scale": scale, "original_dtype": "float32"}


def strings(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(v)) + v for v in values)


def write(folder: Path, name: str, document: Any, shards: dict[str, bytes], **style: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(document, **style), encoding="utf-8")
    for shard, data in shards.items():
        (folder / shard).write_bytes(data)


def converter(folder: Path) -> None:
    first = (
        struct.pack("<6f", 1, -2, 0.5, 0.25, -0.0, 3e38)
        + bytes([1, 0, 1])
        + bytes([20, 0, 255])  # uint8: [0, -0.1, 1.2]
        + struct.pack("<3H", 0, 1, 65535)  # uint16
        + struct.pack("<7H", 0x3C00, 0x7C00, 0x7C01, 0x8000, 0x0001, 0x03FF, 0x8001)  # float16
        + bytes(range(6))  # uint8 for int32
    )
    second = struct.pack("<2i4f", -7, 2**31 - 1, 1, 3, 2, 4)
    manifest = [
        {
            "paths": ["group1-shard1of2.bin", "group1-shard2of2.bin"],
            "weights": [
                entry("dense/kernel", [3, 2], "float32"),
                entry("mask", [3], "bool"),
                entry("q8", [3], "float32", quantization=affine("uint8", -0.10196078817049663, 0.0050980394085248315)),
                entry("q16", [1, 3], "float32", quantization=affine("uint16", -1.0, 0.5)),
                entry("h", [7], "float32", quantization={"dtype": "float16", "original_dtype": "float32"}),
                entry("rounded", [6], "int32", quantization=affine("uint8", -2.5, 1.0)),
            ],
        },
        {"paths": ["group2-shard1of1.bin"], "weights": [entry("ids", [2], "int32"), entry("c", [2], "complex64")]},
    ]
    document = {
        "format": "graph-model",
        "generatedBy": "2.15.0",
        "convertedBy": "TensorFlow.js Converter v4.22.0",
        "signature": {"inputs": {}},
        "modelTopology": {"node": [], "library": {}, "versions": {"producer": 1087}},
        "weightsManifest": manifest,
    }
    cut = 41  # in the middle of a float16
    shards = {"group1-shard1of2.bin": first[:cut], "group1-shard2of2.bin": first[cut:], "group2-shard1of1.bin": second}
    write(folder, "model.json", document, shards)


def bare_manifest(folder: Path) -> None:
    data = strings(b"", b"abc", "日本".encode(), b"\x00\xff") + struct.pack("<f", 2.5) + strings(b"x" * 300)
    weights = [
        entry("words", [2, 2], "string"),
        entry("scalar", [], "float32"),
        entry("none", [0, 4], "string"),
        entry("long", [], "string"),
    ]
    document = [{"paths": ["./words.bin"], "weights": weights}]
    write(folder, "weights_manifest.json", document, {"words.bin": data}, indent=1)


def tfjs_node(folder: Path) -> None:
    document = {
        "modelTopology": {"class_name": "Sequential", "config": {"name": "größe", "layers": []}},
        "weightsManifest": [
            {
                "paths": ["weights.bin"],
                "weights": [
                    entry("d/kernel", [2, 1], "float32", group="model"),
                    entry("iter", [], "int32", group="optimizer"),
                ],
            }
        ],
        "format": "layers-model",
        "generatedBy": "TensorFlow.js tfjs-layers v4.22.0",
        "convertedBy": None,
        "trainingConfig": {"loss": "mean_squared_error", "metrics": {}},
        "userDefinedMetadata": {"epoch": 3},
    }
    data = {"weights.bin": struct.pack("<2fi", 0.5, -0.5, 12)}
    write(folder, "model.json", document, data, ensure_ascii=False, separators=(",", ":"))


def main(folder: Path = HERE) -> None:
    converter(folder / "converter")
    bare_manifest(folder / "manifest")
    tfjs_node(folder / "tfjs")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
