"""The variables that a layer of TensorFlow.js makes: their names, shapes and order, from the layer's configuration.

Names are what ``loadWeights`` looks for in a file. ``tests/interop/test_tfjs_registry.py`` builds each kind of layer in
TensorFlow.js and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from weightlift._tfjs_registry import MODELS

__all__ = ["Variable", "layer_variables", "layers_of", "parts_of"]


class Variable(NamedTuple):
    """A variable that a layer makes.

    Attributes:
        name: As ``loadWeights`` looks for it: ``<layer>/<suffix>``, without the names of models around it.
        shape: In elements; None in place of a size that follows from the layer's input, and where even the rank does.
        trainable: Not a statistic, in a layer that is not frozen.
    """

    name: str
    shape: tuple[int | None, ...] | None
    trainable: bool


Rows = Iterator[tuple[str, "tuple[int | None, ...] | None"]]
Config = Mapping[str, Any]
STATISTICS = ("moving_mean", "moving_variance")


def layer_variables(class_name: str, config: Config, name: str) -> list[Variable]:
    """The variables of a layer, in its own order; those of layers without any, and of unknown ones, are none.

    Args:
        class_name: As in the topology.
        config: Its ``config``. Options of a wrong type give shapes that are not known.
        name: Of the layer.

    Example:
        >>> [v.name for v in layer_variables("Dense", {"units": 4, "use_bias": False}, "logits")]
        ['logits/kernel']
    """
    trainable = config.get("trainable") is not False
    if class_name in MODELS:
        return _of_layers(config)
    if class_name == "Bidirectional":
        return _of_bidirectional(config, name)
    if class_name == "TimeDistributed":
        return [v._replace(name=f"{name}/{v.name.split('/', 1)[1]}") for v in _of_inner(config.get("layer"), "inner")]
    if class_name == "RNN":
        return list(_of_cell(config.get("cell"), name))
    made = _MAKERS.get(class_name)
    rows = made(config) if made is not None else ()
    return [Variable(f"{name}/{suffix}", shape, trainable and suffix not in STATISTICS) for suffix, shape in rows]


def layers_of(config: Any) -> list[Any]:
    """The entries of a model's ``config``: its ``layers``, or itself where it is a list as of old."""
    layers = config.get("layers") if isinstance(config, Mapping) else config
    return layers if isinstance(layers, list) else []


def parts_of(entry: Any) -> tuple[str, Config, str | None]:
    """Class, config and the name in it of a layer's entry, whatever is missing of them."""
    if not isinstance(entry, Mapping):
        return "", {}, None
    config = entry.get("config")
    config = config if isinstance(config, Mapping) else {"layers": config} if isinstance(config, list) else {}
    name = config.get("name")
    return str(entry.get("class_name", "")), config, name if isinstance(name, str) else None


def _of_layers(config: Config) -> list[Variable]:
    found = [v for entry in layers_of(config) for v in _of_inner(entry, "")]
    return [v for v in found if v.trainable] + [v for v in found if not v.trainable]


def _of_inner(entry: Any, default: str) -> list[Variable]:
    class_name, config, name = parts_of(entry)
    return layer_variables(class_name, config, name if name and not default else default or class_name.lower())


def _of_bidirectional(config: Config, name: str) -> list[Variable]:
    class_name, inner, inner_name = parts_of(config.get("layer"))
    made = layer_variables(class_name, inner, "inner")
    suffixes = [(v, v.name.partition("/")[2]) for v in made]
    return [
        v._replace(name=f"{name}/{way}_{inner_name}/{suffix}")
        for way in ("forward", "backward")
        for v, suffix in suffixes
    ]


def _of_cell(entry: Any, prefix: str) -> Iterator[Variable]:
    class_name, config, _ = parts_of(entry)
    cells = config.get("cells")
    if class_name == "StackedRNNCells" and isinstance(cells, list):
        for i, cell in enumerate(cells):
            yield from _of_cell(cell, f"{prefix}/RNNCell_{i}")
        return
    yield from layer_variables(class_name.removesuffix("Cell"), config, prefix)


# --- one function a kind of layer: suffixes and shapes --------------------------------------------
def _size(config: Config, key: str) -> int | None:
    value = config.get(key)
    return value if type(value) is int else None


def _sizes(config: Config, key: str, rank: int) -> tuple[int | None, ...]:
    value = config.get(key)
    if type(value) is int:
        return (value,) * rank
    if isinstance(value, (list, tuple)) and len(value) == rank and all(type(v) is int for v in value):
        return tuple(value)
    return (None,) * rank


def _bias(config: Config, size: int | None) -> Rows:
    if config.get("use_bias") is not False:
        yield "bias", (size,)


def _dense(config: Config) -> Rows:
    units = _size(config, "units")
    yield "kernel", (None, units)
    yield from _bias(config, units)


def _conv(rank: int) -> Callable[[Config], Rows]:
    def made(config: Config) -> Rows:
        filters = _size(config, "filters")
        yield "kernel", (*_sizes(config, "kernel_size", rank), None, filters)
        yield from _bias(config, filters)

    return made


def _conv_transpose(rank: int) -> Callable[[Config], Rows]:
    def made(config: Config) -> Rows:
        filters = _size(config, "filters")
        yield "kernel", (*_sizes(config, "kernel_size", rank), filters, None)
        yield from _bias(config, filters)

    return made


def _depthwise(config: Config) -> Rows:
    yield (
        "depthwise_kernel",
        (*_sizes(config, "kernel_size", 2), None, _size({"depth_multiplier": 1, **config}, "depth_multiplier")),
    )
    yield from _bias(config, None)


def _separable(config: Config) -> Rows:
    filters, window = _size(config, "filters"), _sizes(config, "kernel_size", 2)
    yield "depthwise_kernel", (*window, None, _size({"depth_multiplier": 1, **config}, "depth_multiplier"))
    yield "pointwise_kernel", (1, 1, None, filters)
    yield from _bias(config, filters)


def _recurrent(gates: int) -> Callable[[Config], Rows]:
    def made(config: Config) -> Rows:
        units = _size(config, "units")
        wide = None if units is None else units * gates
        yield "kernel", (None, wide)
        yield "recurrent_kernel", (units, wide)
        yield from _bias(config, wide)

    return made


def _conv_lstm(config: Config) -> Rows:
    filters, window = _size(config, "filters"), _sizes(config, "kernel_size", 2)
    wide = None if filters is None else filters * 4
    yield "kernel", (*window, None, wide)
    yield "recurrent_kernel", (*window, filters, wide)
    yield from _bias(config, wide)


def _scaled(config: Config, shape: tuple[int | None, ...] | None) -> Rows:
    for suffix, option in (("gamma", "scale"), ("beta", "center")):
        if config.get(option) is not False:
            yield suffix, shape


def _batch_normalization(config: Config) -> Rows:
    yield from _scaled(config, (None,))
    for suffix in STATISTICS:
        yield suffix, (None,)


def _layer_normalization(config: Config) -> Rows:
    axis = config.get("axis", -1)
    yield from _scaled(config, (None,) * len(axis) if isinstance(axis, Sequence) else (None,))


def _embedding(config: Config) -> Rows:
    yield "embeddings", (_size(config, "input_dim"), _size(config, "output_dim"))


def _prelu(config: Config) -> Rows:
    yield "alpha", None


_MAKERS: Mapping[str, Callable[[Config], Rows]] = {
    "Dense": _dense,
    "Conv1D": _conv(1),
    "Conv2D": _conv(2),
    "Conv3D": _conv(3),
    "Conv2DTranspose": _conv_transpose(2),
    "Conv3DTranspose": _conv_transpose(3),
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _separable,
    "SimpleRNN": _recurrent(1),
    "GRU": _recurrent(3),
    "LSTM": _recurrent(4),
    "ConvLSTM2D": _conv_lstm,
    "BatchNormalization": _batch_normalization,
    "LayerNormalization": _layer_normalization,
    "Embedding": _embedding,
    "PReLU": _prelu,
}
"""What each class of layers makes; every other registered class makes nothing."""
