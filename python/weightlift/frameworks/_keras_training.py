"""Losses, metrics and optimizers of Keras as TensorFlow.js has them; the optimizer's state: _keras_state.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from weightlift.frameworks._keras_graph import Problem, is_own
from weightlift.frameworks._keras_state import is_legacy

__all__ = ["LOSSES", "METRICS", "Outputs", "named", "optimizer_of", "training_config"]

Report = Callable[[str, Any, str], None]

LOSSES = {
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
METRICS = {
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
    "gradient_accumulation_steps", "decay",
)  # fmt: skip
"""Options of optimizers that TensorFlow.js has not."""


def _sgd(c: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if not c.get("momentum"):
        return "SGD", {"learning_rate": c["learning_rate"]}
    nesterov = bool(c.get("nesterov"))
    return "Momentum", {"learning_rate": c["learning_rate"], "momentum": c["momentum"], "use_nesterov": nesterov}


def _rmsprop(c: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    options = {k: c[k] for k in ("learning_rate", "momentum", "epsilon", "centered")}
    if is_legacy(c) and not c["momentum"]:  # Keras adds epsilon to the root: equal where nothing else is in it
        options["epsilon"] = c["epsilon"] ** 2
    if c["centered"]:  # TensorFlow.js takes the root of rms - (mg ** 2 + epsilon), Keras of rms - mg ** 2 + epsilon
        options["epsilon"] = -options["epsilon"]
    return "RMSProp", {**options, "decay": c["rho"]}


def _options(name: str, *keys: str) -> Callable[[Mapping[str, Any]], tuple[str, dict[str, Any]]]:
    return lambda c: (name, {k: c[k] for k in keys})


_OPTIMIZERS: dict[str, Callable[[Mapping[str, Any]], tuple[str, dict[str, Any]]]] = {
    "SGD": _sgd,
    "Adam": _options("Adam", "learning_rate", "beta_1", "beta_2", "epsilon"),
    "RMSprop": _rmsprop,
    "Adagrad": _options("Adagrad", "learning_rate", "initial_accumulator_value"),
}
"""How Keras' options are written.

Adadelta is missing: TensorFlow.js divides by the mean of the squared gradients from before the step, Keras by that
which has this step's gradient in it. AdaMax is missing: TensorFlow.js cannot take its state.
"""


class Outputs(NamedTuple):
    """The names of a model's outputs, in their order: Keras' and TensorFlow.js'."""

    keras: list[str]
    tfjs: list[str]


def optimizer_of(compiled: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The class and the options of the optimizer in ``get_compile_config()``; tf_keras' ``.h5`` say ``Custom>Adam``."""
    entry = compiled.get("optimizer")
    if not isinstance(entry, Mapping):
        return str(entry), {}
    name, config = str(entry.get("class_name")), entry.get("config")
    if "module" in entry and not is_own(entry):
        return f"{entry.get('registered_name') or name} (a class of your own)", {}
    options = dict(config) if isinstance(config, Mapping) else {}
    if "lr" in options:
        options.setdefault("learning_rate", options["lr"])
    return name.removeprefix("Custom>").removeprefix("Keras>"), options


def training_config(compiled: Mapping[str, Any], outputs: Outputs, problems: list[Problem]) -> dict[str, Any]:
    """TensorFlow.js' ``trainingConfig`` of ``model.get_compile_config()``; what it lacks is added to ``problems``."""

    def report(what: str, name: Any, why: str) -> None:
        problems.append(Problem("training", what, f"{name}: {why}", "leave include_optimizer out"))

    for key in ("loss_weights", "weighted_metrics"):
        if compiled.get(key):
            report("compile", key, "TensorFlow.js cannot load them")
    written: dict[str, Any] = {
        "loss": _losses(compiled.get("loss"), outputs, report),
        "metrics": _metrics(compiled.get("metrics"), outputs, report),
    }
    name, config = optimizer_of(compiled)
    if name not in _OPTIMIZERS:
        report("optimizer", name, f"TensorFlow.js has {', '.join(_OPTIMIZERS)}")
        return written
    for key in _ABSENT:
        if config.get(key):
            report("optimizer", f"{key}={config[key]}", "TensorFlow.js has no such option")
    if name == "Adagrad" and config.get("epsilon", 1e-7) != 1e-7:
        report("optimizer", f"epsilon={config['epsilon']}", "TensorFlow.js has 1e-07")
    if not isinstance(config.get("learning_rate"), (int, float)):
        report("optimizer", "learning_rate", "TensorFlow.js has one number, no schedule")
        return written
    try:
        kind, options = _OPTIMIZERS[name](config)
    except (KeyError, TypeError) as error:
        report("optimizer", name, f"its options are damaged ({error})")
        return written
    written["optimizer_config"] = {"class_name": kind, "config": options}
    return written


# --- losses and metrics -----------------------------------------------------------------------------
def _losses(value: Any, outputs: Outputs, report: Report) -> Any:
    """One loss for all outputs, or a list of one for each; TensorFlow.js would change the keys of a dict."""
    if isinstance(value, Mapping) and "class_name" not in value:
        absent = [key for key in outputs.keras if value.get(key) is None]
        if absent:
            report("loss", ", ".join(absent), "TensorFlow.js wants a loss of each output")
        value = [value.get(key) for key in outputs.keras]
    if isinstance(value, (list, tuple)):
        losses = [named(v, LOSSES, "loss", report) for v in value]
        return losses[0] if len(losses) == 1 else losses
    return named(value, LOSSES, "loss", report)


def _metrics(value: Any, outputs: Outputs, report: Report) -> Any:
    """A list for all outputs, or a dict of one for each."""
    if not value:
        return []
    if isinstance(value, Mapping) and "class_name" not in value:
        each = [_listed(value.get(key)) for key in outputs.keras]
    elif isinstance(value, (list, tuple)) and len(value) == len(outputs.keras) > 1:
        each = [_listed(v) for v in value]
    else:
        flat = _listed(value)
        each = [_listed(flat[0]) if len(flat) == 1 else flat] * len(outputs.keras)
    found = [[named(v, METRICS, "metric", report) for v in metrics if v is not None] for metrics in each]
    if all(metrics == found[0] for metrics in found):
        return found[0]
    if any(len(metrics) > 1 for metrics in found):
        report("metrics", "several", "TensorFlow.js takes one metric for each output, or the same for all")
    if any("_" in name for name, metrics in zip(outputs.tfjs, found, strict=True) if metrics):
        report("metrics", "of single outputs", "TensorFlow.js changes names of outputs that have a _ in them")
    return {name: metrics[0] for name, metrics in zip(outputs.tfjs, found, strict=True) if metrics}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


_PLAIN = (("from_logits", False), ("label_smoothing", 0.0), ("threshold", 0.5), ("thresholds", None),
          ("ignore_class", None), ("top_k", None), ("class_id", None))  # fmt: skip


def named(value: Any, known: Mapping[str, Sequence[str]], what: str, report: Report) -> Any:
    """TensorFlow.js' name of a loss or metric, which Keras writes as a name, a function or an object."""
    name: Any = value
    config: Any = {}
    if isinstance(value, Mapping):
        name, config = value.get("class_name"), value.get("config") or {}
        if name == "function":
            name, config = config, {}
    if isinstance(config, Mapping):
        for key, plain in _PLAIN:
            if config.get(key, plain) not in (plain, None):
                report(what, f"{name} with {key}={config[key]}", "TensorFlow.js has no such option")
        if str(config.get("reduction")).lower() in ("sum", "none") and config.get("reduction") is not None:
            report(what, f"{name} with reduction={config['reduction']}", "TensorFlow.js takes the mean of the batch")
        if name in ("MeanMetricWrapper", "LossFunctionWrapper"):  # Keras 2: a function by its name
            name = config.get("fn")
            if isinstance(name, Mapping):
                name = name.get("config")
            if config.get("name") in ("accuracy", "acc") and str(name).endswith("accuracy"):
                name = "accuracy"  # chosen by the shapes: TensorFlow.js chooses likewise
    for ours, others in known.items():
        if name == ours or name in others:
            return ours
    shown = re.sub(r"\s+", " ", str(name))[:80]
    report(what, shown, f"TensorFlow.js has {', '.join(known)}")
    return None
