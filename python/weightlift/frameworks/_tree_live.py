"""Containers: parameters of Flax and Haiku, states of optax, dicts of arrays, of models and optimizers, of numbers.

JAX arrays do not change, nor do Python's numbers and text, so a load gives a new container with new ones, arrays with
the old one's type and sharding. NumPy arrays, torch tensors and live objects are filled where they are. Names are as a
save gives them: the path, joined by dots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._dtypes import from_numpy
from weightlift.errors import UnsupportedFeatureError
from weightlift.protocols import LiveTensors, LiveTree, Slot

__all__ = ["Tree"]

Array = npt.NDArray[Any]
_MAX_DEPTH = 100
_PLAIN = (bool, int, float, complex, str, bytes, set, type(None), np.generic)


class Tree:
    """:class:`~weightlift.protocols.HoldsParts` of a container."""

    def __init__(self, tree: Any, find: Callable[[Any], LiveTensors | LiveTree | None]) -> None:
        """Look through it.

        Args:
            tree: Dicts and other mappings, lists, tuples and named tuples, of arrays, live objects and plain values.
            find: What is live of an object; None for arrays.
        """
        self._tree = tree
        self._leaves: dict[str, Any] = {}
        self._models: dict[str, LiveTensors] = {}
        self._parts: dict[str, LiveTree] = {}
        for path, leaf in _walk(tree, ()):
            name = ".".join(path)
            if name in self._leaves:
                raise UnsupportedFeatureError(f"two paths in into= give the tensor name {name!r}; rename a key")
            self._leaves[name] = leaf
            live = None if isinstance(leaf, (np.ndarray, *_PLAIN)) else find(leaf)
            if isinstance(live, LiveTree):
                self._parts[name] = live
            elif live is not None:
                self._models[name] = live

    def tree(self) -> Any:
        """Itself: a save takes containers as they are."""
        return self._tree

    def slots(self) -> Mapping[str, Slot]:
        """The arrays and values by path, and those of live objects below the path to each."""
        slots: dict[str, Slot] = {}
        for name, leaf in self._leaves.items():
            if name in self._models:
                slots.update({f"{name}.{inner}": slot for inner, slot in self._models[name].slots().items()})
            elif name not in self._parts:
                slots[name] = _slot(name, leaf)
        return slots

    def parts(self) -> Mapping[str, LiveTree]:
        """The live objects in it that take a tree."""
        return self._parts

    def take(self, arrays: Mapping[str, Array], *, assign: bool) -> Any:
        """The container, or with ``assign`` or what does not change in it a new one of the same kind."""
        live = {**self._models, **self._parts}
        tensors = [leaf for name, leaf in self._leaves.items() if _kind(leaf) == "torch" and name not in live]
        if tensors and not assign:
            from weightlift.frameworks._torch_live import touch

            touch(tensors)
        made = {n: _taken(self._leaves[n], array, assign=assign) for n, array in arrays.items() if n in self._leaves}
        for name, model in self._models.items():
            inner = {n.removeprefix(f"{name}."): a for n, a in arrays.items() if n.startswith(f"{name}.")}
            made[name] = model.take(inner, assign=assign)
        if all(made[name] is self._leaves[name] for name in made):
            return self._tree
        return _rebuilt(self._tree, (), made)


def _walk(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if len(path) > _MAX_DEPTH:
        raise UnsupportedFeatureError(f"into= nests containers deeper than {_MAX_DEPTH}, or holds itself")
    if isinstance(tree, Mapping) and not _is_state(tree):
        for key, item in tree.items():
            yield from _walk(item, (*path, str(key)))
    elif isinstance(tree, (list, tuple)):
        for number, item in enumerate(tree):
            yield from _walk(item, (*path, str(number)))
    else:
        yield path, tree


def _rebuilt(tree: Any, path: tuple[str, ...], made: Mapping[str, Any]) -> Any:
    """A container like ``tree``, with the leaves that were made in place of the old ones."""
    if isinstance(tree, Mapping) and not _is_state(tree):
        items = {key: _rebuilt(item, (*path, str(key)), made) for key, item in tree.items()}
        return items if type(tree) is dict else type(tree)(items)  # type: ignore[call-arg]
    if isinstance(tree, (list, tuple)):
        parts = [_rebuilt(item, (*path, str(number)), made) for number, item in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return made.get(".".join(path), tree)


def _is_state(tree: Any) -> bool:
    """Whether a mapping is one of NNX's, which holds variables: it is rebuilt by its adapter."""
    return type(tree).__module__ == "flax.nnx.statelib"


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
    if isinstance(leaf, _PLAIN):
        return Slot((), None, optional=leaf is None, plain=True)
    if _kind(leaf) == "torch" and hasattr(leaf, "data_ptr"):
        from weightlift.frameworks._torch_live import slot_of

        return slot_of(name, leaf)
    if _kind(leaf) == "jax" and hasattr(leaf, "sharding"):
        if not isinstance(leaf.dtype, np.dtype):
            raise UnsupportedFeatureError(
                f"into= holds an array of {leaf.dtype}, which has no bytes of its own: give jax.random.key_data(key), "
                "and make a key of what is loaded by jax.random.wrap_key_data",
                tensor=name,
            )
        return Slot(tuple(leaf.shape), from_numpy(np.dtype(leaf.dtype)).name)
    raise UnsupportedFeatureError(
        f"into= holds a {type(leaf).__module__}.{type(leaf).__qualname__}: containers are filled that hold NumPy, JAX "
        "or torch arrays, live models, numbers and text only",
        tensor=name,
    )


def _taken(leaf: Any, array: Array, *, assign: bool) -> Any:
    """What takes a leaf's place; the leaf itself where it was filled."""
    if isinstance(leaf, _PLAIN):
        return array.item() if isinstance(array, np.ndarray) else array
    if isinstance(leaf, np.ndarray):
        if assign:
            return array
        leaf[...] = array
        return leaf
    if _kind(leaf) == "jax":
        import jax

        if array.dtype != leaf.dtype:
            raise UnsupportedFeatureError(f"the file has {leaf.dtype} packed, several elements a byte: not unpacked")
        return jax.device_put(array, leaf.sharding, may_alias=True)
    from weightlift.frameworks._torch_live import fill_tensor

    return fill_tensor(leaf, array, assign=assign)
