"""Flax's own objects: NNX modules, optimizers and states, and the dataclasses in which linen's training is kept.

The parameters of linen and Haiku are dicts, and the states of optax tuples: those are containers (``_tree_live``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from weightlift.errors import UnsupportedFeatureError
from weightlift.frameworks._adapters import expand, live_object
from weightlift.frameworks._tree_live import Tree
from weightlift.protocols import LiveTensors, LiveTree, Slot

__all__ = ["Fields", "Variables", "adapt"]


def adapt(obj: Any) -> LiveTensors | None:
    """What an object of Flax, or a dataclass that it made, has of tensors; None for dicts, variables and others."""
    if getattr(type(obj), "_flax_dataclass", False):
        return Fields(obj)
    if any(kind.__module__ == "flax.linen.module" for kind in type(obj).__mro__):
        raise UnsupportedFeatureError(
            f"{type(obj).__name__} is a module of flax.linen, which has no parameters: give the dict of them that its "
            "init returns"
        )
    from flax import nnx

    if isinstance(obj, nnx.State):
        return Variables(obj, None)
    if isinstance(obj, getattr(nnx, "Pytree", nnx.Module)):  # older versions have modules only
        return Variables(nnx.state(obj, nnx.Not(nnx.RngState)), obj)
    return None


class Variables:
    """:class:`~weightlift.protocols.LiveTensors` of NNX variables, by the paths of their state."""

    def __init__(self, state: Any, owner: Any) -> None:
        """``owner``: the module or optimizer that is updated in its place; None: a load gives a new state."""
        from flax import nnx

        self._state, self._owner = state, owner
        self._flat = {".".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
        self._values = Tree({name: _value(leaf) for name, (_, leaf) in self._flat.items()}, live_object)

    def tree(self) -> Any:
        """Nested dicts of the values."""
        from flax import nnx

        return nnx.to_pure_dict(self._state)

    def slots(self) -> Mapping[str, Slot]:
        """The values by path."""
        return self._values.slots()

    def take(self, arrays: Mapping[str, Any], *, assign: bool) -> Any:
        """The owner with new values in its variables, or a new state."""
        from flax import nnx

        made = self._values.take(arrays, assign=assign)
        leaves = [(path, _replaced(leaf, made[name])) for name, (path, leaf) in self._flat.items()]
        state = nnx.from_flat_state(leaves)
        if self._owner is None:
            return state
        nnx.update(self._owner, state)
        return self._owner


def _value(leaf: Any) -> Any:
    """The array in a variable; pure states have arrays themselves."""
    return leaf.get_value() if hasattr(leaf, "get_value") else leaf


def _replaced(leaf: Any, value: Any) -> Any:
    return leaf.replace(value) if hasattr(leaf, "get_value") else value


class Fields:
    """:class:`~weightlift.protocols.HoldsParts` of a ``flax.struct`` dataclass, such as ``TrainState``.

    Fields that are no part of its pytree (functions, an optimizer) stay what they are.
    """

    def __init__(self, obj: Any) -> None:
        """``obj``: an instance."""
        self._obj = obj
        fields = [field.name for field in dataclasses.fields(obj) if field.metadata.get("pytree_node", True)]
        self._fields = {name: getattr(obj, name) for name in fields}
        self._tree = Tree(self._fields, live_object)

    def tree(self) -> Any:
        """A dict of its fields."""
        return expand(self._fields)[0]

    def slots(self) -> Mapping[str, Slot]:
        """The tensors and numbers in its fields, by path."""
        return self._tree.slots()

    def parts(self) -> Mapping[str, LiveTree]:
        """The live objects in it that take a tree."""
        return self._tree.parts()

    def take(self, arrays: Mapping[str, Any], *, assign: bool) -> Any:
        """A new instance: these dataclasses do not change."""
        return self._obj.replace(**self._tree.take(arrays, assign=assign))
