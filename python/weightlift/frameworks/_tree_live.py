"""Containers of arrays: parameters of Flax and Haiku, states of optax, dicts of NumPy arrays or torch tensors.

JAX arrays do not change, so a load gives a new container with new arrays, each with the old one's type and sharding.
NumPy arrays and torch tensors are filled where they are. Names are as a save gives them: the path, joined by dots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._dtypes import from_numpy
from weightlift.errors import UnsupportedFeatureError
from weightlift.protocols import Slot

__all__ = ["Tree"]

Array = npt.NDArray[Any]
_MAX_DEPTH = 100


class Tree:
    """:class:`~weightlift.protocols.LiveTensors` of a container."""

    def __init__(self, tree: Any) -> None:
        """``tree``: dicts and other mappings, lists, tuples and named tuples, of arrays and None."""
        self._tree = tree
        self._leaves: dict[str, Any] = {}
        for path, leaf in _walk(tree, ()):
            name = ".".join(path)
            if name in self._leaves:
                raise UnsupportedFeatureError(f"two paths in into= give the tensor name {name!r}; rename a key")
            self._leaves[name] = leaf

    def tree(self) -> Any:
        """Itself: a save takes containers as they are."""
        return self._tree

    def slots(self) -> Mapping[str, Slot]:
        """The arrays by path."""
        return {name: _slot(name, leaf) for name, leaf in self._leaves.items()}

    def take(self, arrays: Mapping[str, Array], *, assign: bool) -> Any:
        """The container, or with ``assign`` or JAX arrays in it a new one of the same kind."""
        tensors = [leaf for leaf in self._leaves.values() if _kind(leaf) == "torch"]
        if tensors and not assign:
            from weightlift.frameworks._torch_live import touch

            touch(tensors)
        made = {name: _taken(self._leaves[name], array, assign=assign) for name, array in arrays.items()}
        if all(made[name] is self._leaves[name] for name in made):
            return self._tree
        return _rebuilt(self._tree, (), made)


def _walk(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if len(path) > _MAX_DEPTH:
        raise UnsupportedFeatureError(f"into= nests containers deeper than {_MAX_DEPTH}, or holds itself")
    if isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from _walk(item, (*path, str(key)))
    elif isinstance(tree, (list, tuple)):
        for number, item in enumerate(tree):
            yield from _walk(item, (*path, str(number)))
    elif tree is not None:
        yield path, tree


def _rebuilt(tree: Any, path: tuple[str, ...], made: Mapping[str, Any]) -> Any:
    """A container like ``tree``, with the leaves that were made in place of the old ones."""
    if isinstance(tree, Mapping):
        items = {key: _rebuilt(item, (*path, str(key)), made) for key, item in tree.items()}
        return items if type(tree) is dict else type(tree)(items)  # type: ignore[call-arg]
    if isinstance(tree, (list, tuple)):
        parts = [_rebuilt(item, (*path, str(number)), made) for number, item in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree if tree is None else made.get(".".join(path), tree)


def _kind(leaf: Any) -> str:
    """The package that an array is of; ``"jax"`` for those of jaxlib."""
    package = type(leaf).__module__.partition(".")[0]
    return "jax" if package == "jaxlib" else package


def _slot(name: str, leaf: Any) -> Slot:
    if isinstance(leaf, np.ndarray):
        fits = leaf.flags.c_contiguous and leaf.flags.writeable and leaf.dtype.isnative
        if not leaf.flags.writeable:
            raise UnsupportedFeatureError("the array in into= is read-only", tensor=name)
        dtype = from_numpy(leaf.dtype)
        return Slot(leaf.shape, dtype.name, leaf if fits and dtype.core else None)
    if _kind(leaf) == "torch" and hasattr(leaf, "data_ptr"):
        from weightlift.frameworks._torch_live import slot_of

        return slot_of(name, leaf)
    if _kind(leaf) == "jax" and hasattr(leaf, "sharding"):
        return Slot(tuple(leaf.shape), from_numpy(np.dtype(leaf.dtype)).name)
    raise UnsupportedFeatureError(
        f"into= holds a {type(leaf).__module__}.{type(leaf).__qualname__}: containers are filled that hold NumPy, JAX "
        "or torch arrays only",
        tensor=name,
    )


def _taken(leaf: Any, array: Array, *, assign: bool) -> Any:
    """What takes a leaf's place; the leaf itself where it was filled."""
    if isinstance(leaf, np.ndarray):
        if assign:
            return array
        leaf[...] = array
        return leaf
    if _kind(leaf) == "jax":
        import jax

        return jax.device_put(array, leaf.sharding, may_alias=True)
    from weightlift.frameworks._torch_live import fill_tensor

    return fill_tensor(leaf, array, assign=assign)
