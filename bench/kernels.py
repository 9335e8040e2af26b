"""Claim 6, the kernels: conversions and checksums on one core, against NumPy, ml_dtypes, zlib and tensorflowjs.

The working set is 64 MiB of float32 (from memory) and, for checksums, 1 MiB (in cache). Results are compared, bit for
bit, outside the timing.
"""

from __future__ import annotations

import importlib.util
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from harness import Case, Skip, arguments, claim, finish, measure, ratio, table
from models import random_array

PAIRS = [
    ("f32 -> f16", "numpy f32 -> f16", 6.0),
    ("f32 -> bf16", "ml_dtypes f32 -> bf16", 6.0),
    ("f32 -> u8 affine", "tensorflowjs f32 -> u8", 2.5),
    ("u8 -> f32 affine", "tensorflowjs u8 -> f32", 4.0),
]
CASES = [
    Case("f32 -> f16", "ours_cast", "1 core", "us", group="f32 -> f16", args={"to": "float16"}),
    Case("numpy f32 -> f16", "numpy_f16", "1 core", group="f32 -> f16"),
    Case("f32 -> bf16", "ours_cast", "1 core", "us", group="f32 -> bf16", args={"to": "bfloat16"}),
    Case("ml_dtypes f32 -> bf16", "ml_bf16", "1 core", group="f32 -> bf16"),
    Case("f32 -> u8 affine", "ours_quantize", "1 core, exact", "us", group="f32 -> u8", args={"to": "uint8"}),
    Case("tensorflowjs f32 -> u8", "tfjs_quantize", "1 core", group="f32 -> u8"),
    Case("numpy f32 -> u8", "numpy_quantize", "1 core", group="f32 -> u8"),
    Case("u8 -> f32 affine", "ours_dequantize", "1 core, exact", "us", group="u8 -> f32"),
    Case("tensorflowjs u8 -> f32", "tfjs_dequantize", "1 core", group="u8 -> f32"),
    Case("numpy u8 -> f32", "numpy_dequantize", "1 core", group="u8 -> f32"),
    Case("crc32c hot", "ours_crc", "1 core", "us", group="checksum, 1 MiB hot", args={"which": "crc32c"}),
    Case("crc32 (zip) hot", "ours_crc", "1 core", "us", group="checksum, 1 MiB hot", args={"which": "crc32"}),
    Case("zlib.crc32 hot", "zlib_crc", "1 core", group="checksum, 1 MiB hot"),
]


def values(params: dict[str, Any]) -> Any:
    return random_array(np.random.default_rng(3), (params["size"] // 4,))


def ours_cast(params: dict[str, Any]) -> Any:
    from weightlift import _core
    from weightlift._dtypes import DTYPES

    x, out = values(params), np.empty(params["size"] // 4, DTYPES[params["to"]].numpy)
    steps = [("cast", "float32", params["to"], False)]
    run = lambda: _core.run_pipeline(steps, x, out, 1)  # noqa: E731
    run()
    assert np.array_equal(out.view(np.uint16), x.astype(out.dtype).view(np.uint16))
    return run


def numpy_f16(params: dict[str, Any]) -> Any:
    x, out = values(params), np.empty(params["size"] // 4, np.float16)
    return lambda: np.copyto(out, x, casting="same_kind")


def ml_bf16(params: dict[str, Any]) -> Any:
    import ml_dtypes

    x, out = values(params), np.empty(params["size"] // 4, ml_dtypes.bfloat16)
    return lambda: np.copyto(out, x, casting="unsafe")


def ours_quantize(params: dict[str, Any]) -> Any:
    """Range and encoding, as a save does them."""
    from weightlift import _core

    x, out = values(params), np.empty(params["size"] // 4, np.uint8)

    def run() -> tuple[float, float]:
        scale, low, high = _core.choose_affine(*_core.min_max(x, 1), 255)
        _core.run_pipeline([("affine_encode", "uint8", scale, low, high)], x, out, 1)
        return scale, low

    scale, low = run()
    want = np.round((x[: 1 << 20].clip(low, 255 * scale + low).astype(np.float64) - low) / scale).astype(np.uint8)
    assert np.array_equal(out[: 1 << 20], want)
    return run


def numpy_quantize(params: dict[str, Any]) -> Any:
    x = values(params)

    def run() -> Any:
        low, high = x.min(), x.max()
        return np.round((x - low) / ((high - low) / 255)).astype(np.uint8)

    return run


def tensorflowjs_quantization() -> Any:
    """tensorflowjs' arithmetic alone: the package itself imports TensorFlow, JAX and more."""
    spec = importlib.util.find_spec("tensorflowjs")
    if spec is None or spec.submodule_search_locations is None:
        raise Skip("tensorflowjs is not installed")
    path = Path(spec.submodule_search_locations[0]) / "quantization.py"
    module_spec = importlib.util.spec_from_file_location("tensorflowjs_quantization", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def tfjs_quantize(params: dict[str, Any]) -> Any:
    quantization = tensorflowjs_quantization()

    x = values(params)
    return lambda: quantization.quantize_weights(x, np.uint8)


def ours_dequantize(params: dict[str, Any]) -> Any:
    from weightlift import _core

    q = np.random.default_rng(4).integers(0, 256, params["size"] // 4, np.uint8)
    out = np.empty(len(q), np.float32)
    run = lambda: _core.run_pipeline([("affine_decode", "uint8", "float32", 0.0123, -1.5)], q, out, 1)  # noqa: E731
    run()
    assert np.array_equal(out[: 1 << 20], (q[: 1 << 20].astype(np.float64) * 0.0123 - 1.5).astype(np.float32))
    return run


def numpy_dequantize(params: dict[str, Any]) -> Any:
    q = np.random.default_rng(4).integers(0, 256, params["size"] // 4, np.uint8)
    return lambda: q * np.float32(0.0123) + np.float32(-1.5)


def tfjs_dequantize(params: dict[str, Any]) -> Any:
    quantization = tensorflowjs_quantization()

    q = np.random.default_rng(4).integers(0, 256, params["size"] // 4, np.uint8)
    return lambda: quantization.dequantize_weights(q, {"scale": 0.0123, "min": -1.5})


HOT = 1 << 20


def ours_crc(params: dict[str, Any]) -> Any:
    from weightlift import _core

    x, checksum = np.random.default_rng(5).integers(0, 256, HOT, np.uint8), getattr(_core, params["which"])
    assert _core.crc32(x) == zlib.crc32(x)
    count = params["size"] // HOT

    def run() -> None:
        for _ in range(count):
            checksum(x)

    return run


def zlib_crc(params: dict[str, Any]) -> Any:
    x, count = np.random.default_rng(5).integers(0, 256, HOT, np.uint8), params["size"] // HOT

    def run() -> None:
        for _ in range(count):
            zlib.crc32(x)

    return run


def main() -> None:
    args = arguments(__doc__ or "", 64 << 20, 8 << 20)
    from weightlift import _core

    rows = measure("kernels", CASES, {"size": args.size}, args.rounds, warmup=args.warmup)
    records = table(f"kernels on {args.size >> 20} MiB of float32, instruction set {_core.isa()}", rows, args.size)
    rates = {r.case.name: args.size / r.median / 1e9 for r in rows if not r.skipped}
    for ours, theirs, target in PAIRS:
        records.append(claim(f"{ours}, GB/s of float32", rates.get(ours), target))
        records.append(claim(f"{ours}, x {theirs.split()[0]}", ratio(rows, ours, theirs), 1.0))
    records.append(claim("crc32c hot, GB/s", rates.get("crc32c hot"), 20.0))
    finish(args, "kernels", records)


if __name__ == "__main__":
    main()
