"""One layer of TensorFlow.js as Keras 3 writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weightlift.frameworks._keras_graph import Problem
from weightlift.frameworks._keras_tables import ACTIVATIONS, CONSTRAINTS, HARD_SIGMOID, LAYERS

__all__ = ["back_entry"]

_NOT_IN_KERAS = frozenset(("implementation", "input_length", "batch_input_shape", "interpolation_method"))
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ConvLSTM2D": {"recurrent_activation": "hard_sigmoid"},
    "GRU": {"recurrent_activation": "hard_sigmoid"},
    "GRUCell": {"recurrent_activation": "hard_sigmoid"},
    "LSTM": {"recurrent_activation": "hard_sigmoid"},
    "LSTMCell": {"recurrent_activation": "hard_sigmoid"},
    "LeakyReLU": {"alpha": 0.3},
    "ThresholdedReLU": {"theta": 1.0},
}
"""What TensorFlow.js takes where an option is not written, and Keras 3 does not."""

_INITIALIZERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Constant": ("Constant", ("value",)),
    "GlorotNormal": ("GlorotNormal", ("seed",)),
    "GlorotUniform": ("GlorotUniform", ("seed",)),
    "HeNormal": ("HeNormal", ("seed",)),
    "HeUniform": ("HeUniform", ("seed",)),
    "Identity": ("Identity", ("gain",)),
    "LeCunNormal": ("LecunNormal", ("seed",)),
    "LeCunUniform": ("LecunUniform", ("seed",)),
    "Ones": ("Ones", ()),
    "Orthogonal": ("Orthogonal", ("gain", "seed")),
    "RandomNormal": ("RandomNormal", ("mean", "stddev", "seed")),
    "RandomUniform": ("RandomUniform", ("minval", "maxval", "seed")),
    "TruncatedNormal": ("TruncatedNormal", ("mean", "stddev", "seed")),
    "VarianceScaling": ("VarianceScaling", ("scale", "mode", "distribution", "seed")),
    "Zeros": ("Zeros", ()),
}
"""TensorFlow.js' initializers: Keras' name, and the options that it takes."""


def back_entry(
    class_name: str,
    config: Mapping[str, Any],
    trail: tuple[str, ...],
    problems: list[Problem],
    custom: Sequence[str],
) -> dict[str, Any]:
    """``{"module", "class_name", "config", "registered_name"}`` of a layer.

    Args:
        class_name: TensorFlow.js' name.
        config: TensorFlow.js' options.
        trail: What it is called in Keras.
        problems: Where what cannot be is added.
        custom: Classes that the caller brings; they go as they are.
    """
    if class_name in custom:
        return {"module": None, "class_name": class_name, "config": dict(config), "registered_name": class_name}
    if class_name not in LAYERS:
        why = "no layer of Keras that is known here"
        problems.append(Problem("/".join(trail), class_name, why, "give its class in custom_objects"))
        return {"class_name": class_name, "config": {}}

    def inner(entry: Any) -> dict[str, Any]:
        below = entry.get("config") if isinstance(entry, Mapping) else None
        if not isinstance(below, Mapping):
            problems.append(Problem("/".join(trail), class_name, "nothing is in it", "mend the topology"))
            return {}
        made = back_entry(str(entry.get("class_name")), below, trail, problems, custom)
        name = str(below.get("name", "layer")).replace("/", "_")
        made["config"]["name"] = name.removeprefix("forward_") or name
        return made

    given = {**_DEFAULTS.get(class_name, {}), **{k: v for k, v in config.items() if v is not None}}
    written: dict[str, Any] = {"trainable": given.get("trainable", True) is not False, "dtype": "float32"}
    for key in LAYERS[class_name].keep:
        if key in given and key not in _NOT_IN_KERAS:
            written |= _option(key, given[key], trail, class_name, problems)
    for key in ("layer", "cell"):
        if key in given:
            written[key] = inner(given[key])
    if class_name == "Bidirectional" and isinstance(written.get("layer"), dict) and written["layer"]:
        written["backward_layer"] = _backward(written["layer"])
    if class_name == "StackedRNNCells" and "cells" in given:
        written["cells"] = [inner(cell) for cell in given["cells"]]
    name = _special(class_name, given, written)
    return {"module": "keras.layers", "class_name": name, "config": written, "registered_name": None}


def _backward(forward: Mapping[str, Any]) -> dict[str, Any]:
    """The other layer of a Bidirectional, as Keras writes it; without it Keras would copy the first.

    Keras (3.15) copies layers while it loads a file, and knows the copied ones by their addresses: when one is freed
    and another lies at the same address, the other is taken for it. So both layers are written: a copy less.
    """
    config = forward["config"]
    name = f"backward_{config['name'].removeprefix('backward_')}"
    return {**forward, "config": {**config, "name": name, "go_backwards": not config.get("go_backwards", False)}}


def _special(class_name: str, given: Mapping[str, Any], written: dict[str, Any]) -> str:
    """Options under other names; returns Keras' class."""
    if class_name == "InputLayer":
        shape = given.get("batch_input_shape", given.get("batch_shape"))
        dtype = given.get("dtype")
        written |= {"batch_shape": shape, "sparse": False, "dtype": dtype if isinstance(dtype, str) else "float32"}
        del written["trainable"]
    elif class_name == "LeakyReLU":
        written["negative_slope"] = written.pop("alpha")
    elif class_name == "ThresholdedReLU":
        written["threshold"] = written.pop("theta")
        return "ReLU"
    elif class_name in ("GRU", "GRUCell"):
        written["reset_after"] = False
    elif class_name in ("BatchNormalization", "Softmax"):
        axis = written.get("axis")
        written["axis"] = axis[0] if isinstance(axis, list) and len(axis) == 1 else -1 if axis is None else axis
    return class_name


def _option(key: str, value: Any, trail: tuple[str, ...], class_name: str, problems: list[Problem]) -> dict[str, Any]:
    if key.endswith("_initializer"):
        made = _initializer(value)
        return {} if made is None else {key: made}
    if key.endswith("_regularizer"):
        config = value.get("config", {}) if isinstance(value, Mapping) else {}
        weights = {k: float(config.get(k) or 0.0) for k in ("l1", "l2")}
        return {key: _object("keras.regularizers", "L1L2", weights) if any(weights.values()) else None}
    if key.endswith("_constraint"):
        name = value.get("class_name") if isinstance(value, Mapping) else None
        known = name in CONSTRAINTS
        return {key: _object("keras.constraints", str(name), dict(value.get("config") or {})) if known else None}
    if key in ("activation", "recurrent_activation"):
        return {key: _activation(value, trail, class_name, problems)}
    return {key: value}


def _object(module: str, class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"module": module, "class_name": class_name, "config": config, "registered_name": None}


def _initializer(value: Any) -> dict[str, Any] | None:
    """Keras' form, or None: its default then, for the weights are set anyway."""
    name = value.get("class_name") if isinstance(value, Mapping) else None
    known = _INITIALIZERS.get(str(name))
    if known is None:
        return None
    config = value.get("config") or {}
    options = {k: config[k] for k in known[1] if config.get(k) is not None}
    if options.get("distribution") == "normal":
        options["distribution"] = "truncated_normal"
    return _object("keras.initializers", known[0], options)


def _activation(value: Any, trail: tuple[str, ...], class_name: str, problems: list[Problem]) -> Any:
    if isinstance(value, Mapping):
        value = value.get("class_name") if isinstance(value.get("config"), Mapping) else value.get("config")
    name = str(value)
    name = {"logSoftmax": "log_softmax", "hardSigmoid": "hard_sigmoid", "swish": "silu"}.get(name, name)
    if name == "hard_sigmoid":
        layers = [
            _object("keras.layers", kind, {"name": kind.lower(), "trainable": True, "dtype": "float32", **options})
            for kind, options in HARD_SIGMOID
        ]
        return _object("keras", "Sequential", {"name": "tfjs_hard_sigmoid", "trainable": True, "layers": layers})
    if name not in ACTIVATIONS:
        why = f"activation {name} is none of Keras 3"
        problems.append(Problem("/".join(trail), class_name, why, "change the activation"))
    return name
