"""Objects with ``state_dict`` and ``load_state_dict``, of whatever framework: they give a tree, and take one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weightlift.errors import MismatchError, UnsupportedFeatureError

__all__ = ["StateHolder", "is_state_holder", "names_of"]


def is_state_holder(obj: Any) -> bool:
    """Whether an object (not a class) has the two methods."""
    kind = type(obj)
    return callable(getattr(kind, "state_dict", None)) and callable(getattr(kind, "load_state_dict", None))


class StateHolder:
    """A :class:`~weightlift.protocols.LiveTree` of such an object.

    The names that it has now are those that it must be given; what does not fit beyond that, only the object knows.
    """

    def __init__(self, obj: Any) -> None:
        """``obj``: see the module."""
        self._obj = obj

    @property
    def framework(self) -> str:
        """That of the first tensor in the state it has now."""
        return "torch" if "torch" in {_package(leaf) for leaf in _leaves(self._obj.state_dict())} else "numpy"

    def tree(self) -> Any:
        """Its state."""
        return self._obj.state_dict()

    def take_tree(self, tree: Any, *, strict: bool, assign: bool) -> tuple[Sequence[str], Sequence[str]]:
        """Give it the state, once the names are right."""
        if assign:
            raise UnsupportedFeatureError(f"assign=True: a {type(self._obj).__name__} takes its state as it likes")
        missing, unexpected = compare_names(self._obj.state_dict(), tree)
        if strict and (missing or unexpected):
            raise mismatch(missing, unexpected)
        try:
            self._obj.load_state_dict(tree)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise MismatchError(
                f"{type(self._obj).__name__}.load_state_dict refuses what was loaded: {error}"
            ) from error
        return missing, unexpected


def compare_names(wanted: Any, found: Any) -> tuple[list[str], list[str]]:
    """The keys of ``wanted`` that ``found`` lacks, and those that it has beside."""
    if not isinstance(found, Mapping) or not isinstance(wanted, Mapping):
        return [], []
    return [str(k) for k in wanted if k not in found], [str(k) for k in found if k not in wanted]


def mismatch(missing: Sequence[str], unexpected: Sequence[str]) -> MismatchError:
    """The error for names that do not fit."""
    return MismatchError(
        f"what was loaded does not fit: {len(missing)} missing {list(missing[:5])}, "
        f"{len(unexpected)} unexpected {list(unexpected[:5])}",
        missing=missing,
        unexpected=unexpected,
    )


def names_of(tree: Any, path: str = "") -> list[str]:
    """The names that the tensors of a tree are saved under: its paths, joined by dots; plain values have none."""
    if isinstance(tree, Mapping):
        return [n for k, v in tree.items() for n in names_of(v, f"{path}.{k}" if path else str(k))]
    if isinstance(tree, (list, tuple)):
        return [n for k, v in enumerate(tree) for n in names_of(v, f"{path}.{k}" if path else str(k))]
    return [path] if hasattr(tree, "shape") else []


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    return [x for item in tree for x in _leaves(item)] if isinstance(tree, (list, tuple)) else [tree]


def _package(leaf: Any) -> str:
    return type(leaf).__module__.partition(".")[0]
