"""``.h5`` files that hold whole models, of Keras 2 and of Keras 3's legacy form, read without Keras or TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weightlift.errors import FormatError, MismatchError, NotFoundError, WeightliftError
from weightlift.frameworks._hdf5 import child, open_hdf5, read_array
from weightlift.frameworks._keras import artifacts_of, with_training
from weightlift.frameworks._keras_state import Stored
from weightlift.frameworks._keras_topology import Holder, rewrite
from weightlift.frameworks._keras_weights import gather, trained, weight_names
from weightlift.types import ModelArtifacts

__all__ = ["read_h5"]


def read_h5(path: Path, *, include_optimizer: bool = False) -> ModelArtifacts:
    """A ``.h5`` file of a whole model as artifacts that TensorFlow.js loads, with the optimizer if it is asked for.

    Raises:
        NotFoundError: There is no such file.
        FormatError: It is damaged, or holds weights without their model.
        UnsafeContentError: It refers to other files.
        UnsupportedFeatureError: TensorFlow.js cannot have the model; lists all reasons.
    """
    if not path.is_file():
        raise NotFoundError("no such file", path=str(path))
    try:
        with open_hdf5(str(path)) as root:
            compiled = _compiled(root) if include_optimizer else None
            rewritten = rewrite(_config(root), compiled)
            version = _text(root.attrs.get("keras_version", "2"))
            weights_group = child(root, "model_weights")
            if weights_group is None:
                raise FormatError("the file has no group model_weights")
            arrays = _by_layer(weights_group, rewritten.holders)
            weights, names = gather(rewritten.holders, lambda holder: arrays.get(holder.trail, []))
            artifacts = artifacts_of(rewritten, weights, generated_by=f"keras {version}")
            return with_training(artifacts, rewritten, names, compiled, _stored(root)) if compiled else artifacts
    except WeightliftError as error:
        error.locate(path=str(path))
        raise


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _config(root: Any) -> dict[str, Any]:
    config = _json(root, "model_config")
    if config is None:
        raise FormatError(
            "the file holds weights without their model (no model_config): save the whole model with model.save"
        )
    return config


def _json(root: Any, name: str) -> dict[str, Any] | None:
    text = root.attrs.get(name)
    if text is None:
        return None
    try:
        config = json.loads(_text(text))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise FormatError(f"{name} is not a JSON object")
    return config


def _compiled(root: Any) -> dict[str, Any]:
    """As ``model.get_compile_config()``; {} of a model that is not compiled."""
    config = _json(root, "training_config")
    return {} if config is None else {**config, "optimizer": config.get("optimizer_config")}


def _stored(root: Any) -> Stored:
    """The optimizer's variables; a model that was never trained may have none."""
    group = child(root, "optimizer_weights")
    found = [] if group is None else [(name, child(group, name)) for name in _names(group)]
    missing = [name for name, dataset in found if dataset is None]
    if missing:
        raise FormatError(f"the optimizer's weight {missing[0]!r} is not in the file")
    return Stored([read_array(dataset) for _, dataset in found])


def _names(group: Any) -> list[str]:
    """The names of a layer's weights, which Keras cuts into several attributes where they are many."""
    value = group.attrs.get("weight_names")
    if value is not None:
        return [_text(name) for name in value]
    names: list[str] = []
    part = 0
    while (value := group.attrs.get(f"weight_names{part}")) is not None:
        names += [_text(name) for name in value]
        part += 1
    return names


def _by_layer(root: Any, holders: Sequence[Holder]) -> dict[tuple[str, ...], list[Any]]:
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
        group = child(root, top)
        stored = [] if group is None else _names(group)
        if len(stored) != len(slots):
            raise MismatchError(f"layer {top} has {len(stored)} weights in the file, expected {len(slots)}")
        for (_, trail, i), name in zip(slots, stored, strict=True):
            dataset = child(group, name)
            if dataset is None:
                raise FormatError(f"layer {top}: its weight {name!r} is not in the file")
            found[trail][i] = read_array(dataset)
    return found
