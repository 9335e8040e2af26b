"""The models that benches use: random data, never zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> npt.NDArray[Any]:
    """Values like weights, fast: random mantissas and signs around 2**-6."""
    count = int(np.prod(shape, dtype=np.int64))
    bits = rng.integers(0, 1 << 32, count, dtype=np.uint32)
    bits = (bits & np.uint32(0x807FFFFF)) | np.uint32(121 << 23)
    return bits.view(np.float32).reshape(shape).astype(dtype, copy=False)


def llama(nbytes: int, dtype: Any = np.float32) -> dict[str, npt.NDArray[Any]]:
    """81 tensors: one embedding, 60 matrices, 20 vectors, together about ``nbytes`` of float32."""
    rng = np.random.default_rng(0)
    hidden = max(64, int((nbytes / 4 / 66) ** 0.5) // 64 * 64)
    tensors = {"model.embed_tokens.weight": random_array(rng, (hidden * 6, hidden), dtype)}
    kinds = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
    for i in range(60):
        tensors[f"model.layers.{i // 3}.{kinds[i % 3]}.weight"] = random_array(rng, (hidden, hidden), dtype)
    for i in range(20):
        tensors[f"model.layers.{i}.input_layernorm.weight"] = random_array(rng, (hidden,), dtype)
    return tensors


def many(count: int, nbytes: int = 4096) -> dict[str, npt.NDArray[Any]]:
    """``count`` float32 tensors of ``nbytes`` each, named like adapters."""
    rng = np.random.default_rng(1)
    block = random_array(rng, (count, nbytes // 4))
    return {f"base_model.layers.{i // 8}.lora.{i % 8}.weight": block[i].reshape(-1, 64) for i in range(count)}


def mixed(nbytes: int) -> dict[str, npt.NDArray[Any]]:
    """Several dtypes, sizes that are no multiples of anything."""
    import ml_dtypes

    rng = np.random.default_rng(2)
    dtypes = [np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.float64, np.int32, np.uint8]
    tensors: dict[str, npt.NDArray[Any]] = {}
    left, i = nbytes, 0
    while left > 0:
        dtype = np.dtype(dtypes[i % len(dtypes)])
        rows, columns = int(rng.integers(1, 2000)), int(rng.integers(1, 1999))
        values = random_array(rng, (rows, columns))
        tensors[f"block.{i}.{dtype}"] = (values * 1000).astype(dtype) if dtype.kind in "iu" else values.astype(dtype)
        left -= tensors[f"block.{i}.{dtype}"].nbytes
        i += 1
    return tensors
