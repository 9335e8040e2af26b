"""Run where JAX, Flax, Haiku and optax are installed: live trees saved, and loaded into; JSON.

Argument: an empty directory.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiling takes nearly all of the time
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"  # before JAX is imported

import flax
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import weightlift as wl

X = jnp.linspace(-1, 1, 8).reshape(2, 4)
PARAMS = {"a": {"w": jnp.ones((2, 3)), "b": jnp.arange(3.0)}, "c": jnp.ones(2)}
OPTIMIZERS: dict[str, optax.GradientTransformation] = {
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(0.1, 10))),
    "injected": optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    "masked": optax.masked(optax.adam(0.1), {"a": {"w": True, "b": False}, "c": False}),
    "several": optax.multi_transform(
        {"x": optax.adam(0.1), "y": optax.sgd(0.1, momentum=0.9)}, {"a": {"w": "x", "b": "y"}, "c": "y"}
    ),
    "accumulated": optax.MultiSteps(optax.adam(0.1), 4).gradient_transformation(),
}


@flax.struct.dataclass
class Both:
    """A dataclass of a user: its class is not one of Flax."""

    params: Any
    state: Any
    rate: float = flax.struct.field(pytree_node=False, default=0.1)


class Net(nnx.Module):
    """Layers, a list of them, one of them twice, statistics, and streams of random numbers."""

    def __init__(self, seed: int, width: int = 3) -> None:
        rngs = nnx.Rngs(seed)
        self.first = nnx.Linear(4, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs, param_dtype=jnp.bfloat16)])
        self.again = self.first

    def __call__(self, x: Any) -> Any:
        return self.layers[0](self.norm(self.first(x), use_running_average=True))


def same(a: Any, b: Any) -> bool:
    """Whether two trees are of one kind and hold the same bits, in leaves of the same types."""
    x, y = jax.tree.flatten(a), jax.tree.flatten(b)
    return x[1] == y[1] and all(
        type(p) is type(q) and np.asarray(p).dtype == np.asarray(q).dtype and np.array_equal(p, q)
        for p, q in zip(x[0], y[0], strict=True)
    )


def refused(make: Callable[[], Any]) -> list[Any]:
    """The class of the error, the tensor that it names, and its text."""
    try:
        found = make()
    except wl.WeightliftError as error:
        return [type(error).__name__, error.tensor, str(error)]
    return ["", None, repr(found)]


def optimizers(folder: Path) -> dict[str, bool]:
    """States after a step, into fresh ones."""
    answer = {}
    for name, optimizer in OPTIMIZERS.items():
        _, state = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
        wl.save(state, folder / f"{name}.safetensors")
        back = wl.load(folder / f"{name}.safetensors", into=optimizer.init(PARAMS))
        answer[name] = same(back, state) and not same(state, optimizer.init(PARAMS))
    return answer


def training(folder: Path) -> list[Any]:
    """A TrainState after a step, its step a number and then an array; and a dataclass of a user."""
    net = nn.Dense(3)
    init = [net.init(jax.random.key(seed), X)["params"] for seed in (0, 1)]
    states = [TrainState.create(apply_fn=net.apply, params=p, tx=OPTIMIZERS["chain"]) for p in init]
    trained = states[0].apply_gradients(grads=init[0])
    answer: list[Any] = []
    for step in (trained.step, jnp.int32(trained.step)):
        wl.save(trained.replace(step=step), folder / "train.safetensors")
        back = wl.load(folder / "train.safetensors", into=states[1])
        answer.append([type(back) is TrainState, same(back, trained), back.tx is states[1].tx])
    part = wl.load(folder / "train.safetensors", into=states[1], names="params.*")
    answer.append([same(part.params, trained.params), same(part.opt_state, states[1].opt_state), part.step])
    model = Net(0)
    both = Both(nnx.state(model, nnx.Param), [trained], 0.5)
    wl.save({"here": both}, folder / "both.npz")
    zero = {"here": Both(nnx.state(Net(1), nnx.Param), [states[1]], 0.25)}
    found = wl.load(folder / "both.npz", into=zero)["here"]
    answer.append([same(found.params, both.params), same(found.state[0].params, trained.params), found.rate])
    return answer


def modules(folder: Path) -> dict[str, Any]:
    """NNX: a module, its optimizer, a state by itself, some layers in another."""
    net, other = Net(0), Net(1)
    optimizer = nnx.Optimizer(net, optax.adam(0.1), wrt=nnx.Param)
    optimizer.update(net, nnx.state(net, nnx.Param))
    differs = not np.array_equal(net(X), other(X))
    path = folder / "net.safetensors"
    wl.save(net, path)
    answer: dict[str, Any] = {"names": sorted(wl.open(path))}
    answer["module"] = [wl.load(path, into=other) is other, np.array_equal(net(X), other(X)), differs]
    answer["tied"] = other.again is other.first and other.again.kernel is other.first.kernel
    state = nnx.state(Net(2), (nnx.Param, nnx.BatchStat))
    filled = wl.load(path, into=state)
    answer["state"] = [type(filled) is type(state), same(filled, nnx.state(net, (nnx.Param, nnx.BatchStat)))]
    wl.save(filled, folder / "state.npz")
    answer["saved"] = sorted(wl.open(folder / "state.npz")) == answer["names"]
    wl.save(optimizer, folder / "optimizer.npz")
    fresh = nnx.Optimizer(other, optax.adam(0.1), wrt=nnx.Param)
    wl.load(folder / "optimizer.npz", into=fresh)
    answer["optimizer"] = same(nnx.state(fresh), nnx.state(optimizer))
    third = Net(3)
    wl.load(path, into=third, names="layers.0.*")
    answer["part"] = same(nnx.state(third.layers[0]), nnx.state(net.layers[0]))
    answer["refused"] = refused(lambda: wl.load(path, into=Net(1, width=5)))
    answer["linen"] = refused(lambda: wl.save(nn.Dense(3), folder / "x.npz"))
    return answer


def haiku(folder: Path) -> list[bool]:
    """Names with slashes and tildes; the first layer under another name."""
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([5, 3])(x)))
    params, other = net.init(jax.random.key(0), X), net.init(jax.random.key(1), X)
    answer = []
    for suffix in ("safetensors", "npz", "msgpack", "pt"):
        wl.save(params, folder / f"haiku.{suffix}")
        clone = wl.load(folder / f"haiku.{suffix}", into=other)
        answer.append(same(clone, params) and np.array_equal(net.apply(clone, X), net.apply(params, X)))
    rename = {"mlp/~/linear_0.": "head."}
    head = {"head": jax.tree.map(jnp.zeros_like, params["mlp/~/linear_0"])}
    part = wl.load(folder / "haiku.npz", into=head, names="mlp/~/linear_0.*", rename=rename)
    return [*answer, same(part["head"], params["mlp/~/linear_0"])]


def arrays(folder: Path) -> dict[str, Any]:
    """Arrays on two devices, keys, and types of four bits."""
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("x",)), PartitionSpec("x"))
    tree = {"w": jax.device_put(jnp.arange(8.0), sharding)}
    wl.save(tree, folder / "sharded.safetensors")
    back = wl.load(folder / "sharded.safetensors", into=jax.tree.map(jnp.zeros_like, tree))
    answer: dict[str, Any] = {"sharded": [same(back, tree), back["w"].sharding == sharding]}
    key = jax.random.key(7)
    answer["save key"] = refused(lambda: wl.save({"rng": key}, folder / "key.npz"))
    wl.save({"rng": jax.random.key_data(key)}, folder / "key.npz")
    answer["load key"] = refused(lambda: wl.load(folder / "key.npz", into={"rng": key}))
    data = wl.load(folder / "key.npz", into={"rng": jax.random.key_data(jax.random.key(0))})["rng"]
    answer["key"] = bool(jax.random.normal(jax.random.wrap_key_data(data)) == jax.random.normal(key))
    four = {name: {"w": jnp.arange(4).astype(name)} for name in ("int4", "uint4", "float4_e2m1fn")}
    for name, leaf in four.items():
        for suffix in ("safetensors", "npz", "pt", "msgpack", "gguf", "onnx"):
            answer[f"{name}.{suffix}"] = refused(lambda leaf=leaf, suffix=suffix: wl.save(leaf, folder / f"4.{suffix}"))
    np.testing.assert_equal(list(folder.glob("4.*")), [])
    return answer


def orbax(folder: Path) -> bool:
    """An Orbax checkpoint into a live tree, int4 included."""
    import orbax.checkpoint

    tree = {**PARAMS, "q": jnp.arange(-3, 3).astype(jnp.int4)}
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "orbax", tree)
    return same(wl.load(folder / "orbax", into=jax.tree.map(jnp.zeros_like, tree)), tree)


def main(folder: Path) -> dict[str, Any]:
    """What came out of each case."""
    cases = (optimizers, training, modules, haiku, arrays, orbax)
    return {case.__name__: case(folder) for case in cases}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
