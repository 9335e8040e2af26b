"""One Keras layer as the layers of TensorFlow.js that compute the same, or the reasons why there are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from weightlift.errors import FormatError
from weightlift.frameworks._keras_graph import MODELS, Problem, is_own
from weightlift.frameworks._keras_tables import (
    ACTIVATION_CHAINS,
    ACTIVATIONS,
    CONSTRAINTS,
    DROPPED,
    HARD_SIGMOID,
    IGNORED,
    INITIALIZERS,
    INSTEAD,
    LAYERS,
    Rule,
)

__all__ = ["Piece", "Report", "rewrite_layer"]

Report = Callable[[str, str], None]
"""Takes (why, what to do instead)."""

Shape = list["int | None"] | None
"""Of a layer's input, batch first, where it is known."""

_GRAPH = "convert it with TensorFlow to a graph model"


@dataclass
class Piece:
    """A layer of TensorFlow.js; of one Keras layer's pieces, ``holds`` marks the one with its weights and name."""

    class_name: str
    config: dict[str, Any]
    holds: bool = False


def rewrite_layer(
    entry: Mapping[str, Any], name: str, shape: Shape, problems: list[Problem], *, path: str | None = None
) -> list[Piece]:
    """The pieces, in the order of the data; none for a layer that does nothing.

    Args:
        entry: ``{"class_name", "config", "module", "registered_name"}``.
        name: The layer's.
        shape: Of its input, if that is known.
        problems: Where what cannot be is added.
        path: What the layer is called in reports; default its name.
    """
    class_name, config = str(entry.get("class_name")).removeprefix("Keras>"), entry.get("config")
    if not isinstance(config, dict):
        raise FormatError(f"layer {name} has no config")

    def report(why: str, instead: str) -> None:
        problems.append(Problem(path or name, class_name, why, instead))

    if not is_own(entry):
        report("a class of your own, which TensorFlow.js does not know", f"use layers of Keras, or {_GRAPH}")
        return []
    _check_dtype(config, report)
    if class_name in DROPPED:
        return []
    if class_name in MODELS:
        report("a model inside a wrapper layer", "call the model outside of the wrapper")
        return []
    rule = LAYERS.get(class_name)
    if rule is None:
        report("TensorFlow.js has no such layer", INSTEAD.get(class_name, f"use other layers, or {_GRAPH}"))
        return []
    written = _options(class_name, config, rule, report)
    special = _SPECIAL.get(class_name)
    if special is not None:
        return special(config, written, shape, report)
    chain = [Piece(class_name, written, holds=True)]
    if "activation" in written:
        activation, behind = _activation(config.get("activation"), rule.splits, report)
        written["activation"] = activation
        if class_name == "Activation" and behind and activation == "linear":
            behind[0].holds = True
            return behind
        chain += behind
    return chain


def _check_dtype(config: Mapping[str, Any], report: Report) -> None:
    policy = config.get("dtype")
    quantised = isinstance(policy, Mapping) and "Quantized" in str(policy.get("class_name"))
    if quantised or config.get("quantization_config") is not None:
        report("its weights are quantised by Keras", "save it before model.quantize(), with quantize= of save_model")


# --- options --------------------------------------------------------------------------------------
def _options(class_name: str, config: Mapping[str, Any], rule: Rule, report: Report) -> dict[str, Any]:
    """The options that TensorFlow.js reads, by its names; reports those whose meaning it lacks."""
    if config.get("lora_rank"):
        report("it has LoRA weights beside its kernel", "merge them first: save and load the weights")
    for refusal in rule.refuse:
        value = config.get(refusal.key)
        plain = tuple(value) if isinstance(value, list) else value
        if refusal.key == "output_padding" and _pads_nothing(config):
            continue
        if plain not in refusal.allowed and not (refusal.key == "reset_after" and refusal.key not in config):
            report(f"{refusal.key}={value!r}: {refusal.why}", refusal.instead)
    written: dict[str, Any] = {"name": config.get("name"), "trainable": config.get("trainable", True) is not False}
    refused = {refusal.key for refusal in rule.refuse}
    for key, value in config.items():
        target = rule.rename.get(key, key)
        if target in rule.keep:
            written[target] = _value(key, value)
        elif key not in IGNORED and key not in refused and value:
            if key in ("lora_rank", "quantization_config"):
                continue
            report(f"{key}={value!r}: TensorFlow.js has no such option", f"leave {key} out, or {_GRAPH}")
    written["dtype"] = "float32"
    if config.get("zero_output_for_mask"):
        written["zero_output_for_mask"] = True  # means something only where a mask comes: see _keras_masks
    return written


def _pads_nothing(config: Mapping[str, Any]) -> bool:
    """Whether ``output_padding`` gives the size that there is without it: then the layer computes the same."""
    sizes = (config.get(key) for key in ("kernel_size", "strides", "output_padding"))
    lists = [[v] * 3 if isinstance(v, int) else list(v) if isinstance(v, (list, tuple)) else [] for v in sizes]
    if not all(lists):
        return False
    same = config.get("padding") == "same"
    return all(k % 2 + p == s if same else k + p == max(k, s) for k, s, p in zip(*lists, strict=False))


def _value(key: str, value: Any) -> Any:
    if key.endswith("_initializer"):
        return initializer(value)
    if key.endswith("_regularizer"):
        return regularizer(value)
    if key.endswith("_constraint"):
        return constraint(value)
    return value


def _class_of(value: Any) -> tuple[str | None, dict[str, Any]]:
    """(class name, config) of a serialised object, or of its name."""
    if isinstance(value, str):
        return "".join(part[:1].upper() + part[1:] for part in value.split("_")), {}
    if isinstance(value, Mapping) and isinstance(value.get("class_name"), str):
        config = value.get("config")
        return value["class_name"], dict(config) if isinstance(config, Mapping) else {}
    return None, {}


def initializer(value: Any) -> Any:
    """An initializer that TensorFlow.js knows; loading replaces its values anyway."""
    name, config = _class_of(value)
    if name is None or name not in INITIALIZERS or config.get("distribution") == "untruncated_normal":
        return {"class_name": "Zeros", "config": {}}
    plain = {k: v for k, v in config.items() if k not in ("input_axes", "output_axes", "dtype")}
    return {
        "class_name": INITIALIZERS[name],
        "config": {k: v if isinstance(v, (int, float, str)) else None for k, v in plain.items()},
    }


def regularizer(value: Any) -> Any:
    """L1 and L2 in TensorFlow.js' one form; none of any other kind, for they only matter in training."""
    name, config = _class_of(value)
    if name is None or name.upper() not in ("L1", "L2", "L1L2"):
        return None
    return {"class_name": "L1L2", "config": {k: float(config.get(k) or 0.0) for k in ("l1", "l2")}}


def constraint(value: Any) -> Any:
    """A constraint that TensorFlow.js knows, or none: they only matter in training."""
    name, config = _class_of(value)
    return {"class_name": name, "config": config} if name in CONSTRAINTS else None


# --- activations ----------------------------------------------------------------------------------
def _activation(value: Any, splits: bool, report: Report) -> tuple[str, list[Piece]]:
    """The activation's name, and the layers to add behind where there is none of that name."""
    if isinstance(value, Mapping):
        inner = value.get("config")
        if isinstance(inner, str) and ((is_own(value) and not value.get("registered_name")) or inner in ACTIVATIONS):
            value = inner
        elif _is_hard_sigmoid(value):
            return "hard_sigmoid", []
        elif isinstance(inner, Mapping):
            return _activation_layer(value, splits, report)
    if value is None:
        return "linear", []
    if value in ACTIVATIONS if isinstance(value, str) else False:
        return ACTIVATIONS[value] or value, []
    if splits and isinstance(value, str) and value in ACTIVATION_CHAINS:
        return "linear", [Piece(c, {"trainable": True, "dtype": "float32", **o}) for c, o in ACTIVATION_CHAINS[value]]
    shown = value if isinstance(value, str) else "a function of your own"
    why = "computes it otherwise" if value == "hard_sigmoid" else "has no such activation"
    report(f"activation {shown}: TensorFlow.js {why}", f"use one of {', '.join(sorted(ACTIVATIONS))}")
    return "linear", []


def _is_hard_sigmoid(value: Mapping[str, Any]) -> bool:
    """Whether an activation is what ``to_keras`` makes of TensorFlow.js' hard_sigmoid."""
    if value.get("class_name") != "Sequential" or not is_own(value):
        return False
    config = value.get("config")
    layers = config.get("layers") if isinstance(config, Mapping) else None
    found = [_class_of(layer) for layer in layers if isinstance(layer, Mapping)] if isinstance(layers, list) else []
    found = [layer for layer in found if layer[0] != "InputLayer"]
    return [kind for kind, _ in found] == [kind for kind, _ in HARD_SIGMOID] and all(
        options.items() <= config.items() for (_, config), (_, options) in zip(found, HARD_SIGMOID, strict=True)
    )


def _activation_layer(value: Mapping[str, Any], splits: bool, report: Report) -> tuple[str, list[Piece]]:
    """A layer given as an activation becomes a layer behind."""
    found: list[Problem] = []
    pieces = rewrite_layer(value, "activation", None, found)
    for problem in found:
        report(f"activation {problem.class_name}: {problem.why}", problem.instead)
    if len(pieces) == 1 and pieces[0].class_name == "Activation":
        return pieces[0].config["activation"], []
    if any(p.holds and LAYERS[p.class_name].weights for p in pieces) or (pieces and not splits):
        report(f"activation {value.get('class_name')}: a layer as activation", "call the layer on its own")
        return "linear", []
    for piece in pieces:
        piece.holds = False
        piece.config["name"] = None
    return "linear", pieces


# --- layers with rules of their own ---------------------------------------------------------------
Special = Callable[[Mapping[str, Any], dict[str, Any], "Shape", Report], list[Piece]]


def _input(config: Mapping[str, Any], written: dict[str, Any], shape: Shape, report: Report) -> list[Piece]:
    shape = config.get("batch_shape", config.get("batch_input_shape"))
    if not isinstance(shape, list):
        report("its shape is not known", "give Input(shape=...), or build the model")
    if config.get("sparse") or config.get("ragged"):
        report("a sparse or ragged input", "use dense inputs")
    if config.get("optional"):
        report("an optional input", "make it an input that is always given")
    dtype = config.get("dtype", "float32")
    if isinstance(dtype, Mapping):
        dtype = (dtype.get("config") or {}).get("name", "float32")
    as_stored = "bool" if dtype == "bool" else "float32" if "float" in str(dtype) else "int32"
    if dtype not in ("bool", None) and not any(kind in str(dtype) for kind in ("float", "int")):
        report(f"inputs of {dtype}", "encode them to numbers in the caller")
    return [
        Piece(
            "InputLayer",
            {"name": config.get("name"), "batch_input_shape": shape, "dtype": as_stored, "sparse": False},
            holds=True,
        )
    ]


def _batch_norm(config: Mapping[str, Any], written: dict[str, Any], shape: Shape, report: Report) -> list[Piece]:
    """TensorFlow.js normalises axes but the last wrongly: move the axis there and back."""
    axis = config.get("axis", -1)
    if isinstance(axis, list) and len(axis) == 1:
        axis = axis[0]
    if not isinstance(axis, int):
        report(f"axis={axis!r}: TensorFlow.js normalises one axis", "use one axis")
        return []
    return _on_last_axis("BatchNormalization", written, axis, shape, report)


def _on_last_axis(class_name: str, written: dict[str, Any], axis: int, shape: Shape, report: Report) -> list[Piece]:
    """A layer that TensorFlow.js has for the last axis only, between two Permutes where it is another."""
    written["axis"] = -1
    main = Piece(class_name, written, holds=True)
    rank = len(shape) if shape else None
    if axis == -1 or (rank is not None and axis == rank - 1):
        return [main]
    if rank is None or not -rank < axis < rank or axis % rank == 0:
        report(f"axis={axis}: not known to be the last, and TensorFlow.js does only that right", "use axis=-1")
        return []
    axis %= rank
    forth = [d for d in range(1, rank) if d != axis] + [axis]
    back = [forth.index(d) + 1 for d in range(1, rank)]
    options: dict[str, Any] = {"trainable": True, "dtype": "float32"}
    return [Piece("Permute", {**options, "dims": forth}), main, Piece("Permute", {**options, "dims": back})]


def _relu(config: Mapping[str, Any], written: dict[str, Any], shape: Shape, report: Report) -> list[Piece]:
    """TensorFlow.js reads ``max_value`` only; its two relatives have the other options, one each."""
    top, slope, threshold = (config.get(k) or 0.0 for k in ("max_value", "negative_slope", "threshold"))
    base = {k: written[k] for k in ("name", "trainable", "dtype")}
    if not slope and not threshold:
        return [Piece("ReLU", written, holds=True)]
    if slope and not threshold and config.get("max_value") is None:
        return [Piece("LeakyReLU", {**base, "alpha": slope}, holds=True)]
    if threshold and not slope and config.get("max_value") is None:
        return [Piece("ThresholdedReLU", {**base, "theta": threshold}, holds=True)]
    report(
        f"max_value={top}, negative_slope={slope} and threshold={threshold}: TensorFlow.js has each alone",
        "use one of them",
    )
    return []


def _softmax(config: Mapping[str, Any], written: dict[str, Any], shape: Shape, report: Report) -> list[Piece]:
    axis = config.get("axis", -1)
    if isinstance(axis, list) and len(axis) == 1:
        axis = axis[0]
    if not isinstance(axis, int):
        report(f"axis={axis}: TensorFlow.js has one axis", "use one axis")
        return []
    return _on_last_axis("Softmax", written, axis, shape, report)


def _pool_to_vector(class_name: str) -> Special:
    def rewrite(config: Mapping[str, Any], written: dict[str, Any], shape: Shape, report: Report) -> list[Piece]:
        """TensorFlow.js ignores ``keepdims``: a Reshape behind brings the axes back."""
        chain = [Piece(class_name, written, holds=True)]
        if config.get("keepdims"):
            ones = [1] * (1 if class_name.endswith("1D") else 2)
            first = config.get("data_format") == "channels_first"
            channels = -1 if not shape else shape[1 if first else -1] or -1
            target = [channels, *ones] if first else [*ones, channels]
            chain.append(Piece("Reshape", {"trainable": True, "dtype": "float32", "target_shape": target}))
        return chain

    return rewrite


def _rescaling(config: Mapping[str, Any], written: dict[str, Any], shape: Shape, report: Report) -> list[Piece]:
    for key in ("scale", "offset"):
        if not isinstance(config.get(key, 0.0), (int, float)):
            report(f"{key} is not one number", "use one number, or a BatchNormalization with frozen statistics")
    return [Piece("Rescaling", written, holds=True)]


def _bidirectional(config: Mapping[str, Any], written: dict[str, Any], shape: Shape, report: Report) -> list[Piece]:
    forward, backward = config.get("layer"), config.get("backward_layer")
    if not isinstance(forward, Mapping) or not isinstance(forward.get("config"), Mapping):
        raise FormatError("a Bidirectional layer has no layer in it")
    if backward is not None and _mirrored(forward) != _mirrored(backward):
        report("its backward_layer differs from its layer", "use layers with the same options")
    pieces = _inner(forward, shape, report, prefix="forward_")
    return [Piece("Bidirectional", {**written, "layer": pieces}, holds=True)] if pieces else []


def _mirrored(layer: Any) -> Any:
    """What the two layers of a Bidirectional must have in common."""
    config = layer.get("config") if isinstance(layer, Mapping) else None
    if not isinstance(config, Mapping):
        return None
    other = {k: v for k, v in config.items() if k not in ("name", "go_backwards", "seed") and "initializer" not in k}
    return layer.get("class_name"), other


def _inner(layer: Any, shape: Shape, report: Report, *, prefix: str = "") -> dict[str, Any] | None:
    """The entry of a wrapped layer or cell: one layer, or there is none."""
    if not isinstance(layer, Mapping) or not isinstance(layer.get("config"), Mapping):
        raise FormatError("a wrapper layer has no layer in it")
    found: list[Problem] = []
    name = str(layer["config"].get("name", "layer"))
    pieces = rewrite_layer(layer, name, shape, found)
    for problem in found:
        report(f"its {problem.class_name}: {problem.why}", problem.instead)
    if found:
        return None
    if len(pieces) != 1:
        report(f"its {layer.get('class_name')} would have to become {len(pieces)} layers", "call that layer outside")
        return None
    pieces[0].config["name"] = name.removeprefix(prefix)
    return {"class_name": pieces[0].class_name, "config": pieces[0].config}


def _distributed(config: Mapping[str, Any], written: dict[str, Any], shape: Shape, report: Report) -> list[Piece]:
    inner = _inner(config.get("layer"), shape and [shape[0], *shape[2:]], report)
    return [Piece("TimeDistributed", {**written, "layer": inner}, holds=True)] if inner else []


def _rnn(config: Mapping[str, Any], written: dict[str, Any], shape: Shape, report: Report) -> list[Piece]:
    cell = _inner(config.get("cell"), None, report)
    return [Piece("RNN", {**written, "cell": cell}, holds=True)] if cell else []


def _stacked(config: Mapping[str, Any], written: dict[str, Any], shape: Shape, report: Report) -> list[Piece]:
    cells = [_inner(cell, None, report) for cell in config.get("cells") or []]
    return [Piece("StackedRNNCells", {**written, "cells": cells}, holds=True)] if all(cells) else []


def _recurrent(class_name: str) -> Special:
    def rewrite(config: Mapping[str, Any], written: dict[str, Any], shape: Shape, report: Report) -> list[Piece]:
        for key in ("activation", "recurrent_activation"):
            if key in config:
                written[key], _ = _activation(config[key], False, report)
        return [Piece(class_name, written, holds=True)]

    return rewrite


_SPECIAL: dict[str, Special] = {
    "BatchNormalization": _batch_norm,
    "Bidirectional": _bidirectional,
    "InputLayer": _input,
    "RNN": _rnn,
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Softmax": _softmax,
    "StackedRNNCells": _stacked,
    "TimeDistributed": _distributed,
    **{
        f"Global{kind}Pooling{n}D": _pool_to_vector(f"Global{kind}Pooling{n}D")
        for kind in ("Average", "Max")
        for n in (1, 2)
    },
    **{
        name: _recurrent(name)
        for name in ("SimpleRNN", "LSTM", "GRU", "SimpleRNNCell", "LSTMCell", "GRUCell", "ConvLSTM2D")
    },
}
