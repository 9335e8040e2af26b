"""The weights in Keras' files, as the format ``hdf5`` lays them out: views by path, read when they are touched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError

__all__ = ["StoredWeights"]


@dataclass(frozen=True)
class StoredWeights:
    """What a file holds.

    Attributes:
        views: Arrays, or lazy views of them, by their path.
        refused: What is no array, and the error that says why.
        links: Paths that are soft links: Keras writes none, and none is followed for a model.
        layer_names: The layers' own names, by their group, where the file says them.
        weight_names: Paths of the weights of a group, in their order, where the file lists them.
        metadata: Its attributes, and its configuration as text.
    """

    views: Mapping[str, Any]
    refused: Mapping[str, Exception]
    links: Collection[str]
    layer_names: Mapping[str, str]
    weight_names: Mapping[str, Sequence[str]]
    metadata: Mapping[str, Any]
    _children: dict[str, list[str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Note which groups there are, and what is in them."""
        known = {""}
        for path in (*self.views, *self.refused, *self.links, *self.layer_names, *self.weight_names):
            while path not in known:
                known.add(path)
                parent, _, name = path.rpartition("/")
                self._children.setdefault(parent, []).append(name)
                path = parent

    def children(self, group: str) -> Sequence[str]:
        """Names of what is in a group; none if there is no such group."""
        return self._children.get(group, ())

    def has(self, path: str) -> bool:
        """Whether there is such a group or dataset."""
        parent, _, name = path.rpartition("/")
        return name in self.children(parent)

    def array(self, path: str) -> Any:
        """The view of a weight.

        Raises:
            FormatError: There is none.
            UnsafeContentError: A link is there, or its data lies in other files.
            UnsupportedFeatureError: Its elements are no numbers.
        """
        if path in self.refused:
            raise self.refused[path]
        if path in self.links:
            raise UnsafeContentError("it is a SoftLink: links that lead elsewhere are not followed", tensor=path)
        view = self.views.get(path)
        if view is None:
            raise FormatError("it is not in the file", tensor=path)
        kind = np.dtype(getattr(view.dtype, "numpy", view.dtype))
        if kind.kind not in "fiub" and kind.name != "bfloat16":
            raise UnsupportedFeatureError(f"elements of {kind} are no numbers", tensor=path)
        return view

    def variables(self, group: str) -> list[Any]:
        """The views ``0``, ``1`` ... of a group, in that order.

        Raises:
            FormatError: It holds something else, or one is missing.
        """
        names = self.children(group)
        if sorted(names) != sorted(map(str, range(len(names)))):
            raise FormatError(f"{group}: expected variables 0 to {len(names) - 1}, found {', '.join(names)[:200]}")
        return [self.array(f"{group}/{i}") for i in range(len(names))]
