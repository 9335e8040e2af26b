"""Live Keras models, of Keras 3 on any backend and of tf_keras, as model artifacts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from weightlift.errors import UnsupportedFeatureError
from weightlift.frameworks._keras_graph import Problem
from weightlift.frameworks._keras_topology import Holder, Rewritten, refuse, rewrite
from weightlift.frameworks._keras_training import optimizer_state, training_config
from weightlift.frameworks._keras_weights import gather, weight_names
from weightlift.types import ModelArtifacts

__all__ = ["FORMAT", "artifacts_of", "export", "metadata_of"]

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
    problems: list[Problem] = []
    training = _training(model, problems) if include_optimizer else None
    rewritten = rewrite(document, problems)
    find = lambda holder: [_array(v) for v in _variables(model, holder)]  # noqa: E731
    weights, names = gather(rewritten.holders, find, trainable_only=trainable_only)
    version = document.get("keras_version") or _version(model)
    artifacts = artifacts_of(rewritten, weights, generated_by=f"keras {version}", training_config=training)
    if training is None:
        return artifacts
    return _with_state(artifacts, optimizer_state(model.optimizer, *_trained(model, rewritten, names)))


def _training(model: Any, problems: list[Problem]) -> dict[str, Any]:
    compiled = model.get_compile_config() if getattr(model, "optimizer", None) is not None else None
    if not compiled:
        why = "the model is not compiled: it has no optimizer"
        problems.append(Problem("training", "optimizer", why, "save without include_optimizer"))
        return {}
    return training_config(compiled, problems)


def _trained(model: Any, rewritten: Rewritten, names: list[str]) -> tuple[list[Any], dict[int, str]]:
    """The trained variables in TensorFlow.js' order, and its names of them by ``id``."""
    variables: dict[str, Any] = {}
    for holder in rewritten.holders:
        own = weight_names(holder.class_name, holder.config, holder.name)
        variables.update(zip(own, _variables(model, holder), strict=True) if own else ())
    return [variables[name] for name in names], {id(variables[name]): name for name in names}


def _with_state(artifacts: ModelArtifacts, state: dict[str, Any]) -> ModelArtifacts:
    """The optimizer's weights behind the model's, in a group of their own."""
    specs = [{"name": n, "shape": list(w.shape), "dtype": str(w.dtype)} for n, w in artifacts.weights.items()]
    specs += [
        {"name": n, "shape": list(w.shape), "dtype": str(w.dtype), "group": "optimizer"} for n, w in state.items()
    ]
    return replace(artifacts, weights={**artifacts.weights, **state}, weight_specs=specs)


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


def artifacts_of(
    rewritten: Rewritten, weights: dict[str, Any], *, generated_by: str, training_config: Any = None
) -> ModelArtifacts:
    """A rewritten topology and its weights as artifacts."""
    return ModelArtifacts(
        model_topology={**rewritten.topology, "keras_version": generated_by.removeprefix("keras "), "backend": "keras"},
        weights=weights,
        format=FORMAT,
        generated_by=generated_by,
        training_config=training_config,
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
