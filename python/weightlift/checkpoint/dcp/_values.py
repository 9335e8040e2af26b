"""What a state of torch.distributed.checkpoint holds beside tensors: plain values, containers, generators; no pickles.

It is kept in the structure of the step (see ``_tree``), as a Checkpointer keeps what is no tensor. Arrays of NumPy in
it are marked, so that they do not come back as tensors.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlanner, WriteItem

from weightlift._tree import SINGLE, flatten, replaced, unflatten
from weightlift.checkpoint._state import decode, encode, register_encoder
from weightlift.errors import UnsupportedFeatureError

__all__ = ["bytes_of", "to_node", "value_of"]

_ARRAY = "numpy.ndarray"


def value_of(planner: SavePlanner, item: WriteItem) -> Any:
    """What is to be stored for an item that is no tensor.

    A planner gives what ``torch.save`` made of it. That of DCP itself also tells the object, which saves a pickle for
    each number; what other planners make is taken apart by torch, with nothing but tensors and plain values allowed.
    """
    if (
        isinstance(planner, DefaultSavePlanner)
        and type(planner).transform_object is DefaultSavePlanner.transform_object
    ):
        return planner.lookup_object(item.index)
    data = planner.resolve_data(item)
    assert isinstance(data, io.BytesIO)
    data.seek(0)
    try:
        return torch.load(data, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UnsupportedFeatureError(
            f"its planner gives bytes that are not torch's of plain values: {error}", tensor=item.index.fqn
        ) from None


def to_node(value: Any, name: str) -> tuple[Any, dict[str, Any]]:
    """The node of a value, and the tensors in it, under names below ``name``.

    Raises:
        UnsupportedFeatureError: It is neither a plain value, nor has an encoder, nor consists of such.
    """
    try:
        names, leaves, structure = flatten(_marked(encode(value)), values=True)
    except UnsupportedFeatureError as error:
        raise error.locate(tensor=name) from None
    for leaf in leaves:
        if not isinstance(leaf, (torch.Tensor, np.ndarray)):
            raise UnsupportedFeatureError(
                f"a {type(leaf).__module__}.{type(leaf).__qualname__} is neither a tensor nor a plain value; "
                "weightlift.checkpoint.register_encoder teaches checkpoints a type",
                tensor=name,
            )
    if structure is None:
        structure = {"dict": [[key, key] for key in names]}
    inner = {old: name if old == SINGLE else f"{name}.{old}" for old in names}
    return replaced(structure, inner), {inner[old]: leaf for old, leaf in zip(names, leaves, strict=True)}


def bytes_of(node: Any, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """What ``torch.save`` makes of the value of a node: as planners take it."""
    made = io.BytesIO()
    torch.save(decode(unflatten(node, tensors)), made)
    return made.getvalue()


def _marked(value: Any) -> Any:
    """``value`` with its arrays of NumPy marked as such."""
    if isinstance(value, np.ndarray):
        return {"$encoded": _ARRAY, "state": value}
    if isinstance(value, Mapping):
        return {key: _marked(item) for key, item in value.items()}
    return type(value)(map(_marked, value)) if type(value) in (list, tuple) else value


register_encoder(np.ndarray, _ARRAY, lambda array: array, np.asarray)
