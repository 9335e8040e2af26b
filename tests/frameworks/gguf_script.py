"""Run where gguf-py is installed: reads what Weightlift wrote, and makes files for it. Prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf  # type: ignore[import-not-found]
import numpy as np


def read(path: Path) -> dict[str, list[object]]:
    """Every tensor of a file: type, bytes, and float32 values."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.quants.dequantize(np.array(tensor.data), tensor.tensor_type)
        raw = np.array(tensor.data).view(np.uint8).tobytes()
        found[tensor.name] = [tensor.tensor_type.name, raw.hex(), np.float32(values).tobytes().hex()]
    return found


def q8_0(values: np.ndarray) -> str:
    """The blocks that gguf-py makes."""
    return gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0).tobytes().hex()


def blocks(folder: Path) -> dict[str, str]:
    """A file of random blocks of every type, scales and all, and the bits of the values that gguf-py computes."""
    random = np.random.default_rng(7)
    writer = gguf.GGUFWriter(folder / "random.gguf", "none")
    truth = {}
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4"):
        kind = gguf.GGMLQuantizationType[name]
        _, nbytes = gguf.GGML_QUANT_SIZES[kind]
        data = random.integers(0, 256, (3, 300 * nbytes), np.uint8)
        writer.add_tensor(name, data, raw_dtype=kind)
        truth[name] = gguf.quants.dequantize(data, kind).tobytes().hex()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return truth


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    values = np.load(folder / "values.npy")
    reader = gguf.GGUFReader(folder / "ours.gguf")
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    with np.errstate(all="ignore"):
        answer = {"read": read(folder / "ours.gguf"), "fields": fields, "q8_0": q8_0(values), "blocks": blocks(folder)}
    print(json.dumps(answer))
