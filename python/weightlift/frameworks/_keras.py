"""Live Keras models, of Keras 3 on any backend and of tf_keras, as model artifacts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from weightlift.errors import UnsupportedFeatureError
from weightlift.frameworks._keras_graph import Problem
from weightlift.frameworks._keras_topology import Holder, Rewritten, refuse, rewrite
from weightlift.frameworks._keras_weights import gather
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
    rewritten = rewrite(document)
    weights, _ = gather(rewritten.holders, lambda holder: _weights(model, holder), trainable_only=trainable_only)
    return artifacts_of(rewritten, weights, generated_by=f"keras {document.get('keras_version') or _version(model)}")


def _version(model: Any) -> str:
    import sys

    package = next(b.__module__.split(".")[0] for b in type(model).__mro__ if b.__module__.split(".")[0] in _MODULES)
    return str(getattr(sys.modules.get(package), "__version__", "3"))


def _weights(model: Any, holder: Holder) -> list[Any]:
    """A layer's weights as NumPy arrays, in Keras' order."""
    layer = model
    for name in holder.trail:
        layer = next(found for found in layer.layers if found.name == name)
    return [_array(weight) for weight in layer.weights]


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
