"""Live Keras models, of Keras 3 on any backend and of tf_keras, as model artifacts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from weightlift.errors import UnsupportedFeatureError
from weightlift.frameworks._keras_graph import Problem
from weightlift.frameworks._keras_order import in_order
from weightlift.frameworks._keras_state import Stored, optimizer_state
from weightlift.frameworks._keras_topology import Holder, Rewritten, refuse, rewrite
from weightlift.frameworks._keras_training import optimizer_of
from weightlift.frameworks._keras_weights import gather, weight_names
from weightlift.types import ModelArtifacts

__all__ = ["FORMAT", "artifacts_of", "export", "metadata_of", "with_training"]

FORMAT = "layers-model"
_MODULES = ("keras", "tf_keras")


def export(model: Any, *, trainable_only: bool, include_optimizer: bool) -> ModelArtifacts:
    """A live model as artifacts that TensorFlow.js loads.

    Raises:
        UnsupportedFeatureError: TensorFlow.js cannot have it; lists all reasons.
    """
    kind = type(model).__name__
    if kind not in ("Sequential", "Functional", "Model"):
        why = "a subclassed model is code, and has no topology"
        refuse([Problem(str(getattr(model, "name", kind)), kind, why, "build it as a Functional model")])
    try:
        document = json.loads(model.to_json())
    except (TypeError, NotImplementedError, ValueError) as error:
        raise UnsupportedFeatureError(
            f"this {kind} model cannot be written as JSON ({error}); build it of Keras' own layers"
        ) from error
    compiled = None
    if include_optimizer:
        compiled = model.get_compile_config() if getattr(model, "optimizer", None) is not None else {}
    rewritten = rewrite(document, compiled)
    find = lambda holder: [_array(v) for v in _variables(model, holder)]  # noqa: E731
    weights, names = gather(rewritten.holders, find, trainable_only=trainable_only)
    version = document.get("keras_version") or _version(model)
    artifacts = artifacts_of(rewritten, weights, generated_by=f"keras {version}")
    if not compiled:
        return artifacts
    return with_training(artifacts, rewritten, names, compiled, _stored(model, rewritten, names))


def _stored(model: Any, rewritten: Rewritten, names: list[str]) -> Stored:
    """The optimizer's variables. Keras 3 says which variables of the model they are of."""
    variables: dict[str, Any] = {}
    for holder in rewritten.holders:
        own = weight_names(holder.class_name, holder.config, holder.name)
        variables.update(zip(own, _variables(model, holder), strict=True) if own else ())
    known = {id(variables[name]): i for i, name in enumerate(names)}
    of = getattr(model.optimizer, "_trainable_variables", None)
    listed = model.optimizer.variables
    arrays = [_array(v) for v in (listed if isinstance(listed, (list, tuple)) else listed())]
    return Stored(arrays, None if not of else [known.get(id(v), -1) for v in of])


def with_training(
    artifacts: ModelArtifacts, rewritten: Rewritten, names: list[str], compiled: Mapping[str, Any], stored: Stored
) -> ModelArtifacts:
    """The artifacts with the training configuration, and the optimizer's weights in a group of their own.

    Args:
        artifacts: With all weights of the model.
        rewritten: The topology.
        names: The trained weights, in Keras' order.
        compiled: As ``model.get_compile_config()``.
        stored: The optimizer's variables.

    Raises:
        MismatchError: The optimizer's state is not that of these weights.
    """
    shapes = {name: tuple(artifacts.weights[name].shape) for name in names}
    order = in_order(rewritten.topology, rewritten.holders, names)
    state = optimizer_state(*optimizer_of(compiled), stored, shapes, order)
    specs = [{"name": n, "shape": list(w.shape), "dtype": str(w.dtype)} for n, w in artifacts.weights.items()]
    specs += [
        {"name": n, "shape": list(w.shape), "dtype": str(w.dtype), "group": "optimizer"} for n, w in state.items()
    ]
    weights = {**artifacts.weights, **state}
    return replace(artifacts, weights=weights, weight_specs=specs, training_config=rewritten.training)


def _version(model: Any) -> str:
    import sys

    package = next(b.__module__.split(".")[0] for b in type(model).__mro__ if b.__module__.split(".")[0] in _MODULES)
    return str(getattr(sys.modules.get(package), "__version__", "3"))


def _variables(model: Any, holder: Holder) -> list[Any]:
    """A layer's weights, in Keras' order."""
    layer = model
    for name in holder.trail:
        layer = next(found for found in layer.layers if found.name == name)
    return list(layer.weights)


def _array(weight: Any) -> Any:
    value = weight.numpy()
    return value if isinstance(value, np.ndarray) else np.asarray(value)


def artifacts_of(rewritten: Rewritten, weights: dict[str, Any], *, generated_by: str) -> ModelArtifacts:
    """A rewritten topology and its weights as artifacts."""
    return ModelArtifacts(
        model_topology={**rewritten.topology, "keras_version": generated_by.removeprefix("keras "), "backend": "keras"},
        weights=weights,
        format=FORMAT,
        generated_by=generated_by,
        user_defined_metadata=metadata_of(rewritten) or None,
    )


def metadata_of(rewritten: Rewritten) -> dict[str, Any]:
    """What a reader cannot see in the topology: Keras' names, and the keys of dicts; nothing if all is as it was."""
    known = {
        "layerNames": rewritten.names,
        "inputNames": rewritten.input_names,
        "outputNames": rewritten.output_names,
    }
    kept = {key: value for key, value in known.items() if value}
    return {"keras": kept} if kept else {}
