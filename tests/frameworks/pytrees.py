"""Run where JAX and Flax are installed: parameters saved, and loaded into; JSON. Argument: a directory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict, freeze

import weightlift as wl


class State(NamedTuple):
    """As optax's states are."""

    count: Any
    mu: Any


class MLP(nn.Module):
    """The chapter's model."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Two layers."""
        return nn.Dense(10)(nn.relu(nn.Dense(256)(x)))


def same(a: Any, b: Any) -> bool:
    """Whether two trees are of one kind and hold the same bits."""
    x, y = jax.tree.flatten(a), jax.tree.flatten(b)
    return x[1] == y[1] and all(p.dtype == q.dtype and np.array_equal(p, q) for p, q in zip(x[0], y[0], strict=True))


def main(folder: Path) -> dict[str, Any]:
    """What came out of each case."""
    net, x = MLP(), jnp.linspace(0, 1, 40).reshape(2, 20)
    params, other = net.init(jax.random.key(0), x), net.init(jax.random.key(1), x)
    answer: dict[str, Any] = {}
    for suffix in ("safetensors", "npz", "pt"):
        path = folder / f"mlp.{suffix}"
        wl.save(params, path)
        clone = wl.load(path, into=other)
        outputs = net.apply(params, x), net.apply(clone, x), net.apply(other, x)
        answer[suffix] = [same(clone, params), np.array_equal(*outputs[:2]), np.array_equal(*outputs[1:])]
    frozen = wl.load(folder / "mlp.npz", into=freeze(other))
    answer["frozen"] = [isinstance(frozen, FrozenDict), same(frozen.unfreeze(), params)]
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), other)
    answer["half"] = same(
        wl.load(folder / "mlp.pt", into=half), jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    )
    state = (State(jnp.int32(3), params), None)
    wl.save({"state": state[0]}, folder / "state.safetensors")
    zero = {"state": jax.tree.map(jnp.zeros_like, state[0])}
    back = wl.load(folder / "state.safetensors", into=zero)
    answer["named"] = [type(back["state"]).__name__, same(back["state"], state[0])]
    part = wl.load(folder / "mlp.npz", into=other, names="*.Dense_0.*")
    answer["part"] = [
        same(part["params"]["Dense_0"], params["params"]["Dense_0"]),
        same(part["params"]["Dense_1"], other["params"]["Dense_1"]),
    ]
    return answer


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
