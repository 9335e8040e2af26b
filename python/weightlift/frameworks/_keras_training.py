"""Losses, metrics and optimizers of Keras as TensorFlow.js has them, with the optimizer's state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from weightlift.frameworks._keras_graph import Problem

__all__ = ["optimizer_state", "training_config"]

_LOSSES = {
    "mean_squared_error": ("mse", "MeanSquaredError"),
    "mean_absolute_error": ("mae", "MeanAbsoluteError"),
    "mean_absolute_percentage_error": ("mape", "MeanAbsolutePercentageError"),
    "mean_squared_logarithmic_error": ("msle", "MeanSquaredLogarithmicError"),
    "squared_hinge": ("SquaredHinge",),
    "hinge": ("Hinge",),
    "categorical_hinge": ("CategoricalHinge",),
    "logcosh": ("log_cosh", "LogCosh"),
    "categorical_crossentropy": ("CategoricalCrossentropy",),
    "sparse_categorical_crossentropy": ("SparseCategoricalCrossentropy",),
    "binary_crossentropy": ("BinaryCrossentropy",),
    "kullback_leibler_divergence": ("kl_divergence", "kld", "KLDivergence"),
    "poisson": ("Poisson",),
}
_METRICS = {
    "accuracy": ("acc",),
    "mse": ("mean_squared_error", "MeanSquaredError"),
    "mae": ("mean_absolute_error", "MeanAbsoluteError"),
    "binary_accuracy": ("BinaryAccuracy",),
    "categorical_accuracy": ("CategoricalAccuracy",),
    "precision": ("Precision",),
}
"""TensorFlow.js' name: Keras' other names of the same."""

_ABSENT = (
    "weight_decay", "clipnorm", "global_clipnorm", "clipvalue", "use_ema", "loss_scale_factor", "amsgrad",
    "gradient_accumulation_steps",
)  # fmt: skip
"""Options of optimizers that TensorFlow.js has not."""


def _sgd(c: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if not c.get("momentum"):
        return "SGD", {"learning_rate": c["learning_rate"]}
    nesterov = bool(c.get("nesterov"))
    return "Momentum", {"learning_rate": c["learning_rate"], "momentum": c["momentum"], "use_nesterov": nesterov}


def _rmsprop(c: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    options = {k: c[k] for k in ("learning_rate", "momentum", "epsilon", "centered")}
    return "RMSProp", {**options, "decay": c["rho"]}


def _options(name: str, *keys: str) -> Callable[[Mapping[str, Any]], tuple[str, dict[str, Any]]]:
    return lambda c: (name, {k: c[k] for k in keys})


_OPTIMIZERS: dict[
    str, tuple[Callable[[Mapping[str, Any]], tuple[str, dict[str, Any]]], tuple[tuple[str, str], ...]]
] = {
    "SGD": (_sgd, (("momentums", "momentum"),)),
    "Adam": (
        _options("Adam", "learning_rate", "beta_1", "beta_2", "epsilon"),
        (("_momentums", "m"), ("_velocities", "v")),
    ),
    "RMSprop": (_rmsprop, (("_velocities", "rms"), ("_momentums", "momentum"))),
    "Adagrad": (
        _options("Adagrad", "learning_rate", "initial_accumulator_value"),
        (("_accumulators", "accumulator"),),
    ),
}
"""How Keras' options are written; and where its state is kept, by TensorFlow.js' names, in TensorFlow.js' order.

Adadelta is missing, for TensorFlow.js computes another one.
"""


def training_config(compiled: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """TensorFlow.js' ``trainingConfig`` of ``model.get_compile_config()``; what it lacks is added to ``problems``."""

    def report(what: str, name: Any, why: str) -> None:
        problems.append(Problem("training", what, f"{name}: {why}", "save without include_optimizer"))

    for key in ("loss_weights", "weighted_metrics"):
        if compiled.get(key):
            report("compile", key, "TensorFlow.js cannot load them")
    optimizer = compiled.get("optimizer")
    written: dict[str, Any] = {"loss": _each(compiled.get("loss"), lambda v: _named(v, _LOSSES, "loss", report))}
    metrics = compiled.get("metrics")
    written["metrics"] = _each(metrics, lambda v: _named(v, _METRICS, "metric", report)) if metrics else []
    name = optimizer.get("class_name") if isinstance(optimizer, Mapping) else optimizer
    config = optimizer.get("config", {}) if isinstance(optimizer, Mapping) else {}
    if name not in _OPTIMIZERS:
        report("optimizer", name, f"TensorFlow.js has {', '.join(_OPTIMIZERS)}")
        return written
    for key in _ABSENT:
        if config.get(key):
            report("optimizer", f"{key}={config[key]}", "TensorFlow.js has no such option")
    if config.get("centered"):
        report("optimizer", "centered=True", "the next step in TensorFlow.js is not Keras' own")
    if not isinstance(config.get("learning_rate"), (int, float)):
        report("optimizer", "learning_rate", "TensorFlow.js has one number, no schedule")
        return written
    kind, options = _OPTIMIZERS[name][0](config)
    written["optimizer_config"] = {"class_name": kind, "config": options}
    return written


def _each(value: Any, one: Callable[[Any], Any]) -> Any:
    """A value for all outputs, or for each of a list or a dict."""
    if isinstance(value, Mapping) and "class_name" not in value:
        return {key: _each(item, one) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_each(item, one) for item in value]
        return items[0] if len(items) == 1 and isinstance(items[0], list) else items
    return one(value)


def _named(value: Any, known: Mapping[str, Sequence[str]], what: str, report: Callable[[str, Any, str], None]) -> Any:
    name: Any = value
    config: Any = {}
    if isinstance(value, Mapping):
        name, config = value.get("class_name"), value.get("config") or {}
        if name == "function":
            name, config = config, {}
    if isinstance(config, Mapping):
        for key, plain in (("from_logits", False), ("label_smoothing", 0.0), ("threshold", 0.5), ("thresholds", None)):
            if config.get(key, plain) not in (plain, None):
                report(what, f"{name} with {key}={config[key]}", "TensorFlow.js has no such option")
    for ours, others in known.items():
        if name == ours or name in others:
            return ours
    report(what, name, f"TensorFlow.js has {', '.join(known)}")
    return None


def optimizer_state(optimizer: Any, variables: Sequence[Any], names: Mapping[int, str]) -> dict[str, Any]:
    """The optimizer's weights by TensorFlow.js' names, in its order.

    Args:
        optimizer: Keras' live one; its class is known here.
        variables: The trained variables, in TensorFlow.js' order.
        names: TensorFlow.js' names of variables, by ``id``.
    """
    weights: dict[str, Any] = {"iter": np.asarray(int(optimizer.iterations.numpy()), np.int32)}
    places = {id(v): i for i, v in enumerate(getattr(optimizer, "_trainable_variables", ()) or ())}
    kind = type(optimizer).__name__
    built = bool(places)
    for attribute, suffix in _OPTIMIZERS[kind][1]:
        slots = getattr(optimizer, attribute, None) or getattr(optimizer, f"_{attribute}", None) or []
        absent = kind == "RMSprop" and suffix == "momentum" and not slots
        for variable in variables if built else ():
            place = places.get(id(variable), len(slots))
            if absent:  # without momentum Keras keeps none; TensorFlow.js keeps zeros
                value = np.zeros(tuple(variable.shape), np.float32)
            elif place < len(slots) and slots[place] is not None:
                value = np.asarray(slots[place].numpy(), np.float32)
            else:
                continue
            if kind == "SGD":  # Keras has the learning rate in it, and the other sign
                value = value / -np.float32(optimizer.learning_rate.numpy())
            weights[f"{names[id(variable)]}/{suffix}"] = value
    return weights
