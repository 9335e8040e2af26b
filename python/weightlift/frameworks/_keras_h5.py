"""``.h5`` files that hold whole models, of Keras 2 and of Keras 3's legacy form, read without Keras or TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from weightlift.errors import FormatError, MismatchError
from weightlift.frameworks._hdf5 import StoredWeights
from weightlift.frameworks._keras import artifacts_of, with_training
from weightlift.frameworks._keras_state import Stored
from weightlift.frameworks._keras_topology import Holder, rewrite
from weightlift.frameworks._keras_weights import gather, trained, weight_names
from weightlift.types import ModelArtifacts

__all__ = ["read_h5"]


_GROUP = "model_weights"


def read_h5(stored: StoredWeights, *, include_optimizer: bool = False) -> ModelArtifacts:
    """A ``.h5`` file of a whole model as artifacts that TensorFlow.js loads, with the optimizer if it is asked for.

    Weights that it has as float32 stay the views they are.

    Raises:
        FormatError: It is damaged, or holds weights without their model.
        UnsafeContentError: It refers to other files.
        UnsupportedFeatureError: TensorFlow.js cannot have the model; lists all reasons.
    """
    compiled = _compiled(stored) if include_optimizer else None
    rewritten = rewrite(_config(stored), compiled)
    version = stored.metadata.get("keras_version", "2")
    if not stored.has(_GROUP):
        raise FormatError("the file has no group model_weights")
    arrays = _by_layer(stored, rewritten.holders)
    weights, names = gather(rewritten.holders, lambda holder: arrays.get(holder.trail, []))
    artifacts = artifacts_of(rewritten, weights, generated_by=f"keras {version}")
    if not compiled:
        return artifacts
    kept = Stored([stored.array(path) for path in stored.weight_names.get("optimizer_weights", ())])
    return with_training(artifacts, rewritten, names, compiled, kept)


def _config(stored: StoredWeights) -> dict[str, Any]:
    config = _json(stored, "model_config")
    if config is None:
        raise FormatError(
            "the file holds weights without their model (no model_config): save the whole model with model.save"
        )
    return config


def _json(stored: StoredWeights, name: str) -> dict[str, Any] | None:
    text = stored.metadata.get(name)
    if text is None:
        return None
    try:
        config = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"{name} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise FormatError(f"{name} is not a JSON object")
    return config


def _compiled(stored: StoredWeights) -> dict[str, Any]:
    """As ``model.get_compile_config()``; {} of a model that is not compiled."""
    config = _json(stored, "training_config")
    return {} if config is None else {**config, "optimizer": config.get("optimizer_config")}


def _by_layer(stored: StoredWeights, holders: Sequence[Holder]) -> dict[tuple[str, ...], list[Any]]:
    """Each layer's arrays. Those of an inner model lie together: all trained ones, then the others."""
    found: dict[tuple[str, ...], list[Any]] = {}
    for top in dict.fromkeys(holder.trail[0] for holder in holders):
        inside = [holder for holder in holders if holder.trail[0] == top]
        slots: list[tuple[bool, tuple[str, ...], int]] = []
        for holder in inside:
            names = weight_names(holder.class_name, holder.config, holder.name)
            found[holder.trail] = [None] * len(names)
            slots += [(not trained(holder, i, names), holder.trail, i) for i in range(len(names))]
        slots.sort(key=lambda slot: slot[0])  # stable: the layers' order is kept among each kind
        listed = stored.weight_names.get(f"{_GROUP}/{top}", ())
        if len(listed) != len(slots):
            raise MismatchError(f"layer {top} has {len(listed)} weights in the file, expected {len(slots)}")
        for (_, trail, i), path in zip(slots, listed, strict=True):
            found[trail][i] = stored.array(path)
    return found
