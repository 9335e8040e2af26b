"""What TensorFlow.js makes of the options of layers: those that it refuses, ignores or computes otherwise.

Facts, one row each; ``_tfjs_topology`` applies them. Options are spelled as in a ``model.json``, in snake case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from weightlift._tfjs_registry import ACTIVATIONS

__all__ = ["BROKEN_LAYERS", "RULES", "UNKNOWN_LAYERS", "Rule", "activation_problem", "snake"]


class Rule(NamedTuple):
    """An option of some layers.

    Attributes:
        layers: Class names.
        option: Its key.
        good: Whether a value (None: it is not there) means the same to TensorFlow.js.
        severity: As of a problem.
        what: What TensorFlow.js does.
        fix: What to do.
    """

    layers: tuple[str, ...]
    option: str
    good: Callable[[Any], bool]
    severity: str
    what: str
    fix: str


def _none(value: Any) -> bool:
    return value is None


def _off(value: Any) -> bool:
    return not value


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value is None or value in values


CONVOLUTIONS = (
    "Conv1D",
    "Conv2D",
    "Conv3D",
    "Conv2DTranspose",
    "Conv3DTranspose",
    "DepthwiseConv2D",
    "SeparableConv2D",
)
TRANSPOSED = ("Conv2DTranspose", "Conv3DTranspose")
GLOBAL_POOLING = ("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D")
_AS_GRAPH = "convert the model to a graph model instead"

RULES = (
    Rule(CONVOLUTIONS, "groups", _one_of(1), "error", "it is ignored: the kernel's shape does not match", _AS_GRAPH),
    Rule(
        ("Conv1D",), "padding", _one_of("valid", "same"), "error",
        "the model fails when it runs: causal padding is not implemented", "pad in a layer of its own, with 'valid'",
    ),
    Rule(TRANSPOSED, "output_padding", _none, "error", "it is ignored: the output has another size", _AS_GRAPH),
    *(
        Rule(
            ("SeparableConv2D",), option, _none, "error", "it is refused",
            "remove it: depthwise_... and pointwise_... are the ones that count",
        )
        for option in ("kernel_initializer", "kernel_regularizer", "kernel_constraint")
    ),
    Rule(
        ("BatchNormalization",), "axis", lambda v: v not in (1, [1]), "note",
        "with more than 2 dimensions, an axis that is not the last gives wrong results on the CPU backend",
        "put the channels last",
    ),
    Rule(("BatchNormalization",), "renorm", _off, "error", "it is ignored: results differ", _AS_GRAPH),
    Rule(("LayerNormalization",), "rms_scaling", _off, "error", "it is ignored: a weight 'beta' is missed", _AS_GRAPH),
    Rule(("LeakyReLU",), "negative_slope", _none, "error", "it is ignored: the slope becomes 0.3", "call it 'alpha'"),
    *(
        Rule(("ReLU",), option, _off, "error", "it is ignored: results differ", "use LeakyReLU, or ThresholdedReLU")
        for option in ("negative_slope", "threshold")
    ),
    Rule(("ELU",), "alpha", _one_of(1), "error", "it is refused: only 1 is supported", _AS_GRAPH),
    Rule(
        ("GRU", "GRUCell"), "reset_after", _off, "error", "it is refused: GRUCell does not support it",
        f"train with reset_after=False, or {_AS_GRAPH}",
    ),
    Rule(
        ("Bidirectional",), "backward_layer", _none, "note",
        "it is ignored: the backward layer is made as the forward one is", "none is needed if the two are alike",
    ),
    Rule(("Bidirectional",), "weights", _none, "error", "it is refused", "remove it"),
    Rule(
        ("UpSampling2D",), "interpolation", _one_of("nearest"), "warning", "results differ from Keras' by up to 0.8",
        "use 'nearest'",
    ),
    Rule(GLOBAL_POOLING, "keepdims", _off, "error", "it is ignored: the output has fewer dimensions", "add a Reshape"),
    Rule(
        ("InputLayer",), "dtype", lambda v: isinstance(v, dict) or v in (None, "float32", "int32", "bool", "complex64"),
        "error", "nothing can be fed: there is no such type", "use float32, int32 or bool",
    ),
)  # fmt: skip
"""Options whose other values TensorFlow.js refuses, ignores or gets wrong."""

BROKEN_LAYERS: Mapping[str, str] = {
    "CategoryEncoding": "it loads, but the model fails when it runs, as the layer changes its input's shape",
    "CenterCrop": "it loads, but the model fails when it runs, as the layer changes its input's shape",
    "Resizing": "it loads, but the model fails when it runs: 'x must be rank 3 or 4, but got rank 1'",
}
"""Registered layers that do not work inside a model."""

UNKNOWN_LAYERS: Mapping[str, str] = {
    "Subtract": "write Subtract(a, b) as Add(a, Rescaling(-1)(b))",
    "Identity": "remove it, or use Activation('linear'); the name means the initializer there",
    "Lambda": "replace it by layers, or convert the model to a graph model",
    "SpatialDropout2D": "remove it: it only acts in training",
    "SpatialDropout3D": "remove it: it only acts in training",
    "ActivityRegularization": "remove it: it only acts in training",
    "Normalization": "use BatchNormalization with its mean and variance, or Rescaling",
    "NotEqual": "remove the node: it computes a mask, which TensorFlow.js computes itself",
}
"""What to do about some layers that TensorFlow.js has not."""

_BOUNDARY = ((r"(.)([A-Z][a-z0-9]+)", r"\1_\2"), (r"([a-z])([A-Z])", r"\1_\2"))


def snake(name: str) -> str:
    """``batchInputShape`` as ``batch_input_shape``: TensorFlow.js takes either.

    Example:
        >>> snake("hardSigmoid"), snake("relu6")
        ('hard_sigmoid', 'relu6')
    """
    for pattern, replacement in _BOUNDARY:
        name = re.sub(pattern, replacement, name)
    return name.lower()


_INSTEAD = {"silu": "'swish' is the same", "leaky_relu": "use a LeakyReLU layer", "gelu_new": "'gelu' is close to it"}


def activation_problem(value: Any) -> tuple[str, str] | None:
    """What is wrong with an activation, and what to do; None if nothing is."""
    if value is None or (isinstance(value, str) and snake(value) in ACTIVATIONS):
        return None
    if isinstance(value, str):
        return f"unknown activation {value!r}", _INSTEAD.get(
            snake(value), "use one of " + ", ".join(sorted(ACTIVATIONS))
        )
    if isinstance(value, dict) and value.get("class_name") == "function":
        return f"the activation is an object: {value}", f"write its name alone: {value.get('config')!r}"
    return f"the activation is not a name: {str(value)[:80]}", "write a name, or use an Activation layer"
