"""Names and order of each layer's weights, as TensorFlow.js has them; by position they are Keras' own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from weightlift.errors import MismatchError
from weightlift.frameworks._keras_tables import LAYERS
from weightlift.frameworks._keras_topology import Holder

__all__ = ["FindWeights", "gather", "numpy_type", "weight_names"]

FindWeights = Callable[[Holder], Sequence[Any]]
"""Gives a layer's weights in Keras' order."""


def weight_names(class_name: str, config: Mapping[str, Any], prefix: str) -> list[str]:
    """The weights of a layer of TensorFlow.js, in Keras' order.

    Example:
        >>> weight_names("Dense", {"use_bias": False}, "dense_1")
        ['dense_1/kernel']
    """
    return [name for name, _, _ in _named(class_name, config, prefix)]


def _named(class_name: str, config: Mapping[str, Any], prefix: str) -> list[tuple[str, str, Any]]:
    """Names of weights, each with the class and options of the layer or cell that it is of."""
    if class_name == "Bidirectional":
        inner, name = config["layer"], config["layer"]["config"]["name"]
        both = (f"{prefix}/{way}_{name}" for way in ("forward", "backward"))
        return [n for p in both for n in _named(inner["class_name"], inner["config"], p)]
    if class_name == "TimeDistributed":
        return _named(config["layer"]["class_name"], config["layer"]["config"], prefix)
    if class_name == "RNN":
        return _named(config["cell"]["class_name"], config["cell"]["config"], prefix)
    if class_name == "StackedRNNCells":
        cells = enumerate(config["cells"])
        return [n for i, c in cells for n in _named(c["class_name"], c["config"], f"{prefix}/RNNCell_{i}")]
    rule = LAYERS.get(class_name)
    parts = [w.partition("?") for w in (rule.weights if rule else ())]
    present = [suffix for suffix, _, flag in parts if not flag or config.get(flag, True)]
    return [(f"{prefix}/{suffix}", class_name, config) for suffix in present]


def trained(holder: Holder, index: int, names: Sequence[str]) -> bool:
    """Whether a weight is trained: the layer is, and the weight is no moving statistic."""
    return bool(holder.config.get("trainable", True)) and "/moving_" not in names[index]


def gather(
    holders: Sequence[Holder], find: FindWeights, *, trainable_only: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """All weights by TensorFlow.js' names, trained ones first as it saves them; and the names of those.

    Raises:
        MismatchError: A layer has other weights than its class should; says which layer, and how many.
    """
    trainable: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for holder in holders:
        named = _named(holder.class_name, holder.config, holder.name)
        names = [name for name, _, _ in named]
        if not names:
            continue
        arrays = find(holder)
        path = "/".join(holder.trail)
        if len(arrays) != len(names):
            raise MismatchError(
                f"layer {path} ({holder.class_name}) has {len(arrays)} weights, expected {len(names)}: "
                f"{', '.join(n.rpartition('/')[2] for n in names)}"
            )
        for i, ((name, kind, options), array) in enumerate(zip(named, arrays, strict=True)):
            _check_shape(name, array.shape, expected_shape(kind, options, name.rpartition("/")[2]))
            _drop_broken_constraint(name.rpartition("/")[2], options, array)
            if name in trainable or name in others:
                raise MismatchError(f"two weights would be called {name!r} in TensorFlow.js; rename layer {path}")
            (trainable if trained(holder, i, names) else others)[name] = as_float32(array, name)
    return (trainable if trainable_only else {**trainable, **others}), list(trainable)


_GATES = {"LSTM": 4, "LSTMCell": 4, "ConvLSTM2D": 4, "GRU": 3, "GRUCell": 3, "SimpleRNN": 1, "SimpleRNNCell": 1}


def expected_shape(class_name: str, config: Mapping[str, Any], suffix: str) -> tuple[int | None, ...] | None:
    """What a layer's options say of the shape of a weight; None where they say nothing, as of the input's size.

    Example:
        >>> expected_shape("Dense", {"units": 3}, "kernel")
        (None, 3)
    """
    if class_name == "Embedding":
        return config.get("input_dim"), config.get("output_dim")
    if suffix in ("gamma", "beta", "moving_mean", "moving_variance", "alpha"):
        return None
    size = config.get("units", config.get("filters"))
    last = size * _GATES.get(class_name, 1) if isinstance(size, int) else None
    if suffix == "bias":
        return None if class_name == "DepthwiseConv2D" else (last,)
    window = config.get("kernel_size", [])
    window = (window,) if isinstance(window, int) else tuple(window)
    if suffix == "recurrent_kernel":
        return (*window, size, last)
    if suffix == "depthwise_kernel":
        return (*window, None, config.get("depth_multiplier"))
    if suffix == "pointwise_kernel":
        return (1, 1, None, size)
    return (*window, size, None) if class_name.endswith("Transpose") else (*window, None, last)


def _check_shape(name: str, shape: Sequence[int], expected: Sequence[int | None] | None) -> None:
    if expected is None:
        return
    if len(shape) != len(expected):
        raise MismatchError(f"the weight has shape {list(shape)}, expected {len(expected)} dimensions", tensor=name)
    if any(e is not None and s != e for s, e in zip(shape, expected, strict=True)):
        wanted = ", ".join("*" if e is None else str(e) for e in expected)
        raise MismatchError(f"the weight has shape {list(shape)}, expected [{wanted}]", tensor=name)


def _drop_broken_constraint(suffix: str, options: Any, array: Any) -> None:
    """TensorFlow.js applies constraints when it loads: one that the weight does not meet would change it."""
    key = f"{'recurrent' if suffix == 'recurrent_kernel' else suffix.removesuffix('_kernel')}_constraint"
    given = options.get(key)
    if given is None:
        return
    value = np.asarray(array, np.float32)
    if not np.allclose(value, _constrained(given["class_name"], given["config"], value), rtol=1e-6, atol=0):
        options[key] = None


def _constrained(name: str, config: Mapping[str, Any], value: Any) -> Any:
    """A weight as a constraint makes it."""
    if name == "NonNeg":
        return np.maximum(value, 0)
    axes = config.get("axis", 0)
    axis = tuple(axes) if isinstance(axes, list) else axes
    norm = np.sqrt(np.sum(np.square(value), axis=axis, keepdims=True))
    if name == "UnitNorm":
        return value / (1e-7 + norm)
    if name == "MaxNorm":
        return value * (np.clip(norm, 0, config.get("max_value", 2)) / (1e-7 + norm))
    low, high, rate = config.get("min_value", 0.0), config.get("max_value", 1.0), config.get("rate", 1.0)
    return value * ((rate * np.clip(norm, low, high) + (1 - rate) * norm) / (1e-7 + norm))


def numpy_type(array: Any) -> np.dtype[Any]:
    """The element type of an array or of a lazy view of one."""
    kind: np.dtype[Any] = np.dtype(getattr(array.dtype, "numpy", array.dtype))
    return kind


def as_float32(array: Any, name: str) -> Any:
    """The weight as TensorFlow.js computes with it; lazy views that are float32 already stay lazy."""
    kind = numpy_type(array)
    if kind == np.float32:
        return array
    if kind.kind not in "fiub" and kind.name != "bfloat16":
        raise MismatchError(f"the weight is of {kind}, expected numbers", tensor=name)
    return np.asarray(array).astype(np.float32)
