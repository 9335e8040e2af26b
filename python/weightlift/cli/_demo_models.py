"""The weights that the demo works with: small ones that compute something, and many that weigh something."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

__all__ = ["Arrays", "checkpoint", "forward", "mlp"]

Arrays = dict[str, npt.NDArray[Any]]

_SEED = 20


def mlp() -> Arrays:
    """The deep-learning book's multilayer perceptron: Linear(20, 256), ReLU, Linear(256, 10)."""
    rng = np.random.default_rng(_SEED)

    def linear(inputs: int, outputs: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        bound = 1 / np.sqrt(inputs)
        weight = rng.uniform(-bound, bound, (outputs, inputs)).astype(np.float32)
        return weight, rng.uniform(-bound, bound, outputs).astype(np.float32)

    tensors: Arrays = {}
    tensors["hidden.weight"], tensors["hidden.bias"] = linear(20, 256)
    tensors["output.weight"], tensors["output.bias"] = linear(256, 10)
    return tensors


def forward(tensors: Arrays, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What the perceptron makes of a batch: (n, 20) to (n, 10)."""
    hidden = np.maximum(x @ tensors["hidden.weight"].T + tensors["hidden.bias"], 0)
    result: npt.NDArray[Any] = hidden @ tensors["output.weight"].T + tensors["output.bias"]
    return result


def checkpoint(nbytes: int) -> Arrays:
    """A decoder-only language model of about ``nbytes``: attention in bfloat16, the rest in float32; random."""
    width = next(w for w in (2048, 1024, 512, 256, 128) if w == 128 or nbytes >= 200 * w * w)
    rng = np.random.default_rng(_SEED)
    tensors: Arrays = {}

    def add(name: str, *shape: int, bfloat16: bool = False) -> None:
        values = rng.standard_normal(shape, np.float32)
        values *= np.float32(0.02)
        tensors[name] = values.astype(ml_dtypes.bfloat16) if bfloat16 else values

    add("model.embed_tokens.weight", 8 * width, width, bfloat16=True)
    layer, total = 0, 0
    while total < nbytes:
        prefix = f"model.layers.{layer}."
        add(prefix + "input_layernorm.weight", width)
        for name, outputs in (("q", width), ("k", width // 4), ("v", width // 4), ("o", width)):
            add(f"{prefix}self_attn.{name}_proj.weight", outputs, width, bfloat16=True)
        add(prefix + "post_attention_layernorm.weight", width)
        add(prefix + "mlp.gate_proj.weight", 2 * width, width)
        add(prefix + "mlp.up_proj.weight", 2 * width, width)
        add(prefix + "mlp.down_proj.weight", width, 2 * width)
        layer, total = layer + 1, sum(array.nbytes for array in tensors.values())
    add("model.norm.weight", width)
    return tensors
