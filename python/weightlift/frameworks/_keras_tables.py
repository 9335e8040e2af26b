"""What TensorFlow.js 4.22 knows of Keras layers, as tables: the options it reads, under what names, what it lacks.

Each row was compared with the real TensorFlow.js; ``docs/keras.md`` says the same in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "ACTIVATIONS",
    "ACTIVATION_CHAINS",
    "CONSTRAINTS",
    "DROPPED",
    "IGNORED",
    "INITIALIZERS",
    "INSTEAD",
    "LAYERS",
    "MASK_USERS",
    "OPERATIONS",
    "PASSES_MASKS",
    "Refusal",
    "Rule",
]


@dataclass(frozen=True)
class Refusal:
    """An option that TensorFlow.js takes only at some values."""

    key: str
    allowed: tuple[Any, ...]
    why: str
    instead: str


@dataclass(frozen=True)
class Rule:
    """How one layer class is written.

    Attributes:
        keep: Options that TensorFlow.js reads too.
        weights: Its weights in order; ``"bias?use_bias"`` is there if that option is true.
        rename: Options under another name.
        refuse: Options at whose other values TensorFlow.js fails, or computes something else.
        splits: Whether an activation that TensorFlow.js lacks may become a layer of its own behind this one.
    """

    keep: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    refuse: tuple[Refusal, ...] = ()
    splits: bool = False


def _of(*parts: str) -> tuple[str, ...]:
    """Initializer, regularizer and constraint of each part."""
    return tuple(f"{p}_{kind}" for p in parts for kind in ("initializer", "regularizer", "constraint"))


_GRAPH = "convert it with TensorFlow to a graph model"
_GROUPS = Refusal("groups", (1, None), "TensorFlow.js has no grouped convolution", "use groups=1, or a DepthwiseConv")
_CAUSAL = Refusal("padding", ("same", "valid", None), "TensorFlow.js has no causal padding", "pad, and use 'valid'")
_NO_DILATION = Refusal(
    "dilation_rate",
    (1, None, (1,), (1, 1), (1, 1, 1)),
    "TensorFlow.js ignores it here and computes something else",
    "use dilation_rate=1",
)
_OUTPUT_PADDING = Refusal(
    "output_padding", (None,), "TensorFlow.js ignores it and gives another size", "leave it out, and crop or pad"
)
_LAST = Refusal("data_format", ("channels_last", None), "TensorFlow.js has it for channels_last", "permute the input")

_CONV = ("filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "activation", "use_bias")
_DENSE = ("units", "activation", "use_bias", *_of("kernel", "bias"))
_KERNEL = ("kernel", "bias?use_bias")
_POOL = ("pool_size", "strides", "padding", "data_format")
_CELL = (
    "units", "activation", "recurrent_activation", "use_bias", "unit_forget_bias", "dropout", "recurrent_dropout",
    "implementation", *_of("kernel", "recurrent", "bias"),
)  # fmt: skip
_RNN = ("return_sequences", "return_state", "go_backwards", "stateful", "unroll")
_RECURRENT = ("kernel", "recurrent_kernel", "bias?use_bias")
_RESET = Refusal(
    "reset_after",
    (False,),
    "TensorFlow.js has only reset_after=False, and Keras' default is True",
    f"train with GRU(reset_after=False), or use LSTM, or {_GRAPH}",
)

_CONVOLUTION = Rule((*_CONV, *_of("kernel", "bias")), _KERNEL, refuse=(_GROUPS, _CAUSAL), splits=True)
_TRANSPOSED = Rule(
    (*_CONV, *_of("kernel", "bias")), _KERNEL, refuse=(_GROUPS, _NO_DILATION, _OUTPUT_PADDING), splits=True
)
_POOLING = Rule(_POOL)

LAYERS: dict[str, Rule] = {
    "Activation": Rule(("activation",), splits=True),
    "Add": Rule(),
    "AlphaDropout": Rule(("rate", "noise_shape")),
    "Average": Rule(),
    "AveragePooling1D": _POOLING,
    "AveragePooling2D": _POOLING,
    "AveragePooling3D": _POOLING,
    "BatchNormalization": Rule(
        (
            "axis",
            "momentum",
            "epsilon",
            "center",
            "scale",
            "moving_mean_initializer",
            "moving_variance_initializer",
            *_of("gamma", "beta"),
        ),
        ("gamma?scale", "beta?center", "moving_mean", "moving_variance"),
        refuse=(Refusal("renorm", (False, None), "TensorFlow.js has no batch renormalisation", "use renorm=False"),),
    ),
    "Bidirectional": Rule(("merge_mode",)),
    "Concatenate": Rule(("axis",)),
    "Conv1D": _CONVOLUTION,
    "Conv2D": _CONVOLUTION,
    "Conv2DTranspose": _TRANSPOSED,
    "Conv3D": _CONVOLUTION,
    "Conv3DTranspose": _TRANSPOSED,
    "ConvLSTM2D": Rule(
        (*_CELL, *_RNN, "filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate"), _RECURRENT
    ),
    "Cropping2D": Rule(("cropping", "data_format")),
    "Dense": Rule(_DENSE, _KERNEL, splits=True),
    "DepthwiseConv2D": Rule(
        (*_CONV, "depth_multiplier", *_of("depthwise", "bias")),
        ("depthwise_kernel", "bias?use_bias"),
        refuse=(_GROUPS,),
        splits=True,
    ),
    "Dot": Rule(("axes", "normalize")),
    "Dropout": Rule(("rate", "noise_shape")),
    "ELU": Rule(
        ("alpha",),
        refuse=(Refusal("alpha", (1, 1.0, None), "TensorFlow.js has only alpha=1", "use ELU(alpha=1)"),),
    ),
    "Embedding": Rule(("input_dim", "output_dim", "mask_zero", "input_length", *_of("embeddings")), ("embeddings",)),
    "Flatten": Rule(("data_format",)),
    "GRU": Rule((*_CELL, *_RNN, "reset_after"), _RECURRENT, refuse=(_RESET,)),
    "GRUCell": Rule((*_CELL, "reset_after"), _RECURRENT, refuse=(_RESET,)),
    "GaussianDropout": Rule(("rate",)),
    "GaussianNoise": Rule(("stddev",)),
    "GlobalAveragePooling1D": Rule(refuse=(_LAST,)),
    "GlobalAveragePooling2D": Rule(("data_format",)),
    "GlobalMaxPooling1D": Rule(refuse=(_LAST,)),
    "GlobalMaxPooling2D": Rule(("data_format",)),
    "InputLayer": Rule(("batch_shape", "batch_input_shape", "sparse")),
    "LSTM": Rule((*_CELL, *_RNN), _RECURRENT),
    "LSTMCell": Rule(_CELL, _RECURRENT),
    "LayerNormalization": Rule(
        ("axis", "epsilon", "center", "scale", *_of("gamma", "beta")),
        ("gamma?scale", "beta?center"),
        refuse=(
            Refusal("rms_scaling", (False, None), "TensorFlow.js has no RMS normalisation", "use rms_scaling=False"),
        ),
    ),
    "LeakyReLU": Rule(("alpha",), rename={"negative_slope": "alpha"}),
    "Masking": Rule(("mask_value",)),
    "MaxPooling1D": _POOLING,
    "MaxPooling2D": _POOLING,
    "MaxPooling3D": _POOLING,
    "Maximum": Rule(),
    "Minimum": Rule(),
    "Multiply": Rule(),
    "PReLU": Rule((*_of("alpha"), "shared_axes"), ("alpha",)),
    "Permute": Rule(("dims",)),
    "RNN": Rule(_RNN),
    "ReLU": Rule(("max_value",)),
    "RepeatVector": Rule(("n",)),
    "Rescaling": Rule(("scale", "offset")),
    "Reshape": Rule(("target_shape",)),
    "SeparableConv2D": Rule(
        (*_CONV, "depth_multiplier", *_of("depthwise", "pointwise", "bias")),
        ("depthwise_kernel", "pointwise_kernel", "bias?use_bias"),
        refuse=(_CAUSAL, _GROUPS),
        splits=True,
    ),
    "SimpleRNN": Rule((*_CELL, *_RNN), _RECURRENT),
    "SimpleRNNCell": Rule(_CELL, _RECURRENT),
    "Softmax": Rule(("axis",)),
    "SpatialDropout1D": Rule(("rate",)),
    "StackedRNNCells": Rule(),
    "ThresholdedReLU": Rule(("theta",)),
    "TimeDistributed": Rule(),
    "UpSampling2D": Rule(
        ("size", "data_format", "interpolation"),
        refuse=(
            Refusal(
                "interpolation",
                ("nearest", None),
                "TensorFlow.js computes other numbers (up to 0.76 apart)",
                "use interpolation='nearest', or Conv2DTranspose",
            ),
        ),
    ),
    "ZeroPadding2D": Rule(("padding", "data_format")),
}
"""The layers of TensorFlow.js that compute what Keras computes."""

IGNORED = frozenset(
    (
        "name", "trainable", "dtype", "batch_input_shape",
        "activity_regularizer", "seed", "synchronized", "renorm_clipping",
        "renorm_momentum", "use_cudnn", "autocast", "batch_shape", "ragged", "optional", "quantization_mode",
        "lora_alpha", "layer", "backward_layer", "cell", "cells", "layers", "axis", "data_format", "time_major",
        "negative_slope", "threshold", "keepdims", "reset_after", "zero_output_for_mask", "value_range", "rms_scaling",
        "unit_forget_bias", "implementation", "input_length", "force_generator", "l1", "l2", "batch_size",
        "kernel_initializer", "kernel_regularizer", "kernel_constraint",
    )
)  # fmt: skip
"""Options that are read elsewhere, or mean nothing for what a model computes. Those of a kernel are of Keras 2, which
writes them for separable convolutions, too; these have two other kernels."""

DROPPED = frozenset(
    (
        "ActivityRegularization", "Identity", "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter",
        "RandomContrast", "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue",
        "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation", "RandomSaturation",
        "RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom", "SpatialDropout2D", "SpatialDropout3D",
    )
)  # fmt: skip
"""Layers that do nothing at inference and that TensorFlow.js lacks: they are left out."""

OPERATIONS = {"Add": "Add", "Subtract": "Subtract", "Multiply": "Multiply", "Maximum": "Maximum", "Minimum": "Minimum"}
"""Operations on Keras tensors, and the layers that compute the same from two tensors of one rank."""

ACTIVATIONS = {
    **dict.fromkeys(
        (
            "elu", "gelu", "linear", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "softmax", "softplus",
            "softsign", "tanh",
        )
    ),
    "silu": "swish", "swish": "swish", "celu": "elu",
}  # fmt: skip
"""Keras' activations that TensorFlow.js has, by its name where that differs."""

ACTIVATION_CHAINS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "leaky_relu": (("LeakyReLU", {"alpha": 0.2}),),
    "hard_sigmoid": (
        ("Rescaling", {"scale": 1.0, "offset": 3.0}),
        ("ReLU", {"max_value": 6.0}),
        ("Rescaling", {"scale": 1 / 6, "offset": 0.0}),
    ),
    "hard_tanh": (
        ("Rescaling", {"scale": 1.0, "offset": 1.0}),
        ("ReLU", {"max_value": 2.0}),
        ("Rescaling", {"scale": 1.0, "offset": -1.0}),
    ),
    "log_sigmoid": (
        ("Rescaling", {"scale": -1.0, "offset": 0.0}),
        ("Activation", {"activation": "softplus"}),
        ("Rescaling", {"scale": -1.0, "offset": 0.0}),
    ),
}
"""Activations that TensorFlow.js lacks, or computes otherwise, and the layers that compute them."""

HARD_SIGMOID: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Rescaling", {"scale": 0.2, "offset": 0.5}),
    ("ReLU", {"max_value": 1.0, "negative_slope": 0.0, "threshold": 0.0}),
)
"""TensorFlow.js' hard_sigmoid. Keras 3 has no name for it, but takes a Sequential of layers as an activation."""

INITIALIZERS = {
    **{
        name: name
        for name in (
            "Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Identity", "Ones", "Orthogonal",
            "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "Zeros",
        )
    },
    "LecunNormal": "LeCunNormal", "LecunUniform": "LeCunUniform",
    "LeCunNormal": "LeCunNormal", "LeCunUniform": "LeCunUniform", "OrthogonalInitializer": "Orthogonal",
    "IdentityInitializer": "Identity",
}  # fmt: skip
"""Keras' initializers, by TensorFlow.js' names; every other becomes Zeros, for the weights are loaded over them."""

CONSTRAINTS = frozenset(("MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"))

PASSES_MASKS = frozenset(
    (
        "Activation", "Add", "AlphaDropout", "Average", "BatchNormalization", "Bidirectional", "Concatenate", "Dense",
        "Dropout", "GRU", "GaussianDropout", "GaussianNoise", "LSTM", "LayerNormalization", "Masking", "Maximum",
        "Minimum", "Multiply", "PReLU", "RNN", "ReLU", "SimpleRNN", "SpatialDropout1D", "TimeDistributed",
    )
)  # fmt: skip
"""Layers of TensorFlow.js that take an input with a mask; all others throw."""

MASK_USERS = frozenset(
    ("Bidirectional", "ConvLSTM2D", "GRU", "GlobalAveragePooling1D", "LSTM", "RNN", "SimpleRNN", "Softmax",
     "TimeDistributed")
)  # fmt: skip
"""Layers of Keras whose output depends on the mask."""

_RNN_STEP = "use LSTM, or GRU(reset_after=False)"
INSTEAD = {
    "Attention": f"{_GRAPH}", "AdditiveAttention": _GRAPH, "MultiHeadAttention": _GRAPH,
    "GroupedQueryAttention": _GRAPH, "EinsumDense": "use Dense, with Reshape and Permute",
    "Conv1DTranspose": "use Reshape and Conv2DTranspose", "ConvLSTM1D": "use Reshape and ConvLSTM2D",
    "Cropping1D": "use Reshape and Cropping2D", "ZeroPadding1D": "use Reshape and ZeroPadding2D",
    "UpSampling1D": "use Reshape and UpSampling2D", "DepthwiseConv1D": "use Reshape and DepthwiseConv2D",
    "SeparableConv1D": "use Reshape and SeparableConv2D", "GlobalAveragePooling3D": "use AveragePooling3D and Flatten",
    "GlobalMaxPooling3D": "use MaxPooling3D and Flatten", "Lambda": "use layers; its code is never run or stored",
    "Normalization": "normalise in the caller, or use Rescaling or BatchNormalization",
    "GroupNormalization": "use LayerNormalization or BatchNormalization",
    "RMSNormalization": "use LayerNormalization", "UnitNormalization": "use LayerNormalization",
    "Resizing": "resize in the caller", "CenterCrop": "use Cropping2D", "CategoryEncoding": "encode in the caller",
    "TextVectorization": "vectorise in the caller", "RandomCrop": "use Cropping2D",
}  # fmt: skip
"""What to do instead of a layer that TensorFlow.js lacks, or that fails in it."""
