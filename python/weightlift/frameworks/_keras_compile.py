"""TensorFlow.js' training configuration and the state of its optimizer as Keras 3 has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.frameworks._keras_state import stored_state
from weightlift.frameworks._keras_training import LOSSES, METRICS, named

__all__ = ["Compiled", "compile_config", "optimizer_variables"]

Compiled = dict[str, Any]
"""As ``model.get_compile_config()`` of Keras 3 gives it."""

_WITHOUT = "to_keras(compile=False) makes the model without them"
_KERAS = {"logcosh": "log_cosh", "kullback_leibler_divergence": "kl_divergence"}
"""Keras 3's names of losses, where they differ."""


def _sgd(c: Mapping[str, Any]) -> dict[str, Any]:
    nesterov = bool(c.get("usenesterov", c.get("nesterov", False)))
    return {"momentum": float(c.get("momentum") or 0.0), "nesterov": nesterov}


def _adam(c: Mapping[str, Any]) -> dict[str, Any]:
    return {"beta_1": c.get("beta1", 0.9), "beta_2": c.get("beta2", 0.999), "epsilon": _epsilon(c)}


def _rmsprop(c: Mapping[str, Any]) -> dict[str, Any]:
    centered = bool(c.get("centered"))
    epsilon = _epsilon(c)  # below the root, TensorFlow.js takes it from a centered one, and Keras adds it
    options = {"rho": c.get("decay", c.get("rho", 0.9)), "momentum": c.get("momentum") or 0.0}
    return {**options, "epsilon": -epsilon if centered else epsilon, "centered": centered}


def _adagrad(c: Mapping[str, Any]) -> dict[str, Any]:
    return {"initial_accumulator_value": c.get("initialaccumulatorvalue", 0.1), "epsilon": 1e-7}


def _epsilon(c: Mapping[str, Any]) -> float:
    value = c.get("epsilon")
    return 1e-7 if value is None else float(value)


_OPTIMIZERS: dict[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "SGD": ("SGD", _sgd),
    "Momentum": ("SGD", _sgd),
    "Adam": ("Adam", _adam),
    "RMSProp": ("RMSprop", _rmsprop),
    "Adagrad": ("Adagrad", _adagrad),
}


def compile_config(training: Mapping[str, Any], outputs: Sequence[str], keys: Sequence[str] | None) -> Compiled:
    """Keras' form of a ``trainingConfig``.

    Args:
        training: As TensorFlow.js writes it.
        outputs: TensorFlow.js' names of the outputs.
        keys: What Keras calls them, where its model gives a dict.

    Raises:
        UnsupportedFeatureError: Keras has not all of it; lists all reasons.
    """
    problems: list[str] = []

    def report(what: str, name: Any, why: str) -> None:
        problems.append(f"{what} {name}: {why.replace('TensorFlow.js', 'what is known here')}")

    losses = _each(training.get("loss"), outputs)
    names = [named(v, LOSSES, "loss", report) for v in losses]
    each = [[named(m, METRICS, "metric", report) for m in _list(v)] for v in _metrics(training.get("metrics"), outputs)]
    for key in ("loss_weights", "weighted_metrics"):
        if training.get(key):
            problems.append(f"{key}: TensorFlow.js has none")
    optimizer = _optimizer(training.get("optimizer_config"), problems)
    if problems:
        listed = "\n".join(f"- {p}" for p in problems)
        raise UnsupportedFeatureError(
            f"Keras cannot have the training configuration of this model; {_WITHOUT}:\n{listed}"
        )
    return {
        "optimizer": optimizer,
        "loss": _joined([_KERAS.get(name, name) for name in names], keys),
        "metrics": _joined(each, keys) if any(each) else None,
    }


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _each(value: Any, outputs: Sequence[str]) -> list[Any]:
    """A loss for each output."""
    if isinstance(value, Mapping) and "class_name" not in value:
        return [value.get(name) for name in outputs]
    if isinstance(value, (list, tuple)):
        if len(value) != len(outputs):
            raise FormatError(f"the training configuration has {len(value)} losses, the model {len(outputs)} outputs")
        return list(value)
    return [value] * len(outputs)


def _metrics(value: Any, outputs: Sequence[str]) -> list[Any]:
    """The metrics of each output; a list is for all of them."""
    if isinstance(value, Mapping) and "class_name" not in value:
        return [value.get(name) for name in outputs]
    if isinstance(value, (list, tuple)) and len(value) == len(outputs) and all(isinstance(v, list) for v in value):
        return list(value)
    return [value] * len(outputs)


def _joined(each: list[Any], keys: Sequence[str] | None) -> Any:
    if keys is not None:
        return dict(zip(keys, each, strict=True))
    return each[0] if len(each) == 1 else each


def _optimizer(entry: Any, problems: list[str]) -> Any:
    name = str(entry.get("class_name")) if isinstance(entry, Mapping) else str(entry)
    known = _OPTIMIZERS.get("RMSProp" if name == "RMSprop" else name)
    config = entry.get("config") if isinstance(entry, Mapping) else None
    if known is None or not isinstance(config, Mapping):
        why = " TensorFlow.js' takes other steps" if name in ("Adadelta", "Adamax") else " Keras' is not known here"
        problems.append(f"optimizer {name}:{why}")
        return None
    options = {key.replace("_", "").lower(): value for key, value in config.items()}
    rate = options.get("learningrate")
    if not isinstance(rate, (int, float)) or isinstance(rate, bool):
        problems.append(f"optimizer {name}: its learning rate is {str(rate)[:40]}, expected a number")
        return None
    made = {"learning_rate": float(rate), **known[1](options)}
    return {"module": "keras.optimizers", "class_name": known[0], "config": made, "registered_name": None}


def optimizer_variables(
    artifacts: Any, compiled: Compiled, variables: Mapping[str, tuple[int, ...]], order: Sequence[str]
) -> list[Any]:
    """The optimizer's variables as Keras 3 lists them.

    Args:
        artifacts: Of the layers model.
        compiled: See :func:`compile_config`.
        variables: Shapes of the trained weights by TensorFlow.js' names, in Keras' order.
        order: The same names in TensorFlow.js' order.

    Raises:
        MismatchError: The state is not that of these weights.
    """
    own = {spec["name"]: artifacts.weights[spec["name"]] for spec in _optimizer_specs(artifacts)}
    optimizer = compiled["optimizer"]
    return stored_state(optimizer["class_name"], optimizer["config"], own, variables, order)


def _optimizer_specs(artifacts: Any) -> list[Mapping[str, Any]]:
    specs = artifacts.weight_specs or ()
    return [spec for spec in specs if spec.get("group") == "optimizer" and spec["name"] in artifacts.weights]
