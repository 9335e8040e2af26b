"""From the object in a torch pickle to rows of a table and the structure around them.

Names are paths joined by dots, as everywhere in this library. The object may share parts of itself and hold itself, so
the walk counts its steps. Two paths that give one name are told apart by ``#2``, ``#3`` ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Mapping
from typing import Any

from weightlift._layout import TensorEntry
from weightlift._packing import TensorSpecs
from weightlift._tree import SINGLE, encode_value, unflatten
from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError
from weightlift.formats._numpy_rows import nested
from weightlift.formats._numpy_vocabulary import NumpyArray, NumpyType
from weightlift.formats._pickle import Refused
from weightlift.formats._torch_vocabulary import Record, Storage, StoredTensor, Unreadable
from weightlift.formats._vocabulary import Named

__all__ = ["TableWalk", "Walk", "names_in", "renamed", "settle_names"]

_MAX_DEPTH = 100
_MAX_NAMES = 256 << 20  # characters of all names: a long key may stand above many tensors
_KEYS = (str, int, float, bool, type(None))
_SKIPPED = object()


class Walk:
    """The tensors in an object, by name, in the order they are found.

    Attributes:
        tensors: Rows to be.
        objects: What is a tensor but no array, by name: an error that says so.
        skipped: What was left out because it is code, by name; see ``skip_unsafe``.
        structure: The object around them, see ``_tree``; None for a flat dict.

    Other vocabularies than torch's derive from it: ``array`` is their node of an array, ``leaves`` are what
    ``_tensor`` takes.
    """

    array: type = StoredTensor
    leaves: tuple[type, ...] = (StoredTensor, Storage, Unreadable, NumpyArray)

    def __init__(self, root: Any, *, budget: int, under: tuple[str, ...] = ()) -> None:
        """Walk over ``root``, whose path is ``under``; FormatError after more than ``budget`` steps."""
        self.tensors: dict[str, Any] = {}
        self.objects: dict[str, UnsupportedFeatureError] = {}
        self.skipped: dict[str, str] = {}
        self._left = budget
        self._room = _MAX_NAMES
        self._namer = _Namer()
        self.structure = None
        if isinstance(root, Record):
            self._records(root, (), frozenset())
        elif not under and _is_flat(root, self.array):
            self._flat(root)
        else:
            self.structure = self._node(root, under)
        if self.structure is _SKIPPED:
            raise UnsafeContentError(
                f"the pickle is {next(iter(self.skipped.values()))}, which is never made, and no more"
            )

    def keep(self, names: Container[str]) -> None:
        """Forget the tensors that are called otherwise."""
        self.tensors = {name: tensor for name, tensor in self.tensors.items() if name in names}

    def _node(self, value: Any, path: tuple[str, ...]) -> Any:
        self._step(path)
        if isinstance(value, NumpyArray) and value.items is not None:
            value = nested(value)
        if isinstance(value, self.leaves):
            return self._tensor(value, path)
        if isinstance(value, Refused):
            self.skipped[".".join(path) or SINGLE] = value.name
            return _SKIPPED
        if isinstance(value, (dict, set)):
            value = self._made(value, path)
        if isinstance(value, dict):
            for key in value:
                if type(key) not in _KEYS or key != key:
                    raise UnsupportedFeatureError(
                        f"a dict in the pickle at {'.'.join(path) or 'the top'} has the key {str(key)[:80]!r}, a "
                        f"{type(key).__name__}; text, numbers and None are read"
                    )
            nodes = [[key, self._node(item, (*path, str(key)))] for key, item in value.items()]
            return {"dict": [pair for pair in nodes if pair[1] is not _SKIPPED]}
        if type(value) in (list, tuple):
            parts = [self._node(item, (*path, str(i))) for i, item in enumerate(value)]
            return {type(value).__name__: [encode_value(None) if part is _SKIPPED else part for part in parts]}
        if isinstance(value, (Named, NumpyType)):
            return encode_value(str(value))
        node = encode_value(value)
        if node is None:
            raise FormatError(f"the pickle holds a {type(value).__name__.lower()} at {'.'.join(path) or 'the top'}")
        return node

    def _made(self, value: Any, path: tuple[str, ...]) -> Any:
        """A dict or a set without the keys and members that are code."""
        refused = [key for key in value if isinstance(key, Refused)]
        if not refused:
            return value
        self.skipped[".".join((*path, "*"))] = ", ".join(sorted({key.name for key in refused}))
        if isinstance(value, set):
            return value.difference(refused)
        return {key: item for key, item in value.items() if not isinstance(key, Refused)}

    def _flat(self, root: dict[str, Any]) -> None:
        """A dict of tensors, whose keys are their names."""
        self.tensors.update(root)

    def _tensor(self, value: Any, path: tuple[str, ...]) -> Any:
        name = self._name(path)
        if isinstance(value, Unreadable):
            hint = f"; its parts are {', '.join(f'{name}.{part}' for part in value.parts)}" if value.parts else ""
            self.objects[name] = UnsupportedFeatureError(
                f"it is {value.what}; choose tensors with names={hint}", tensor=name
            )
            for part, tensor in value.parts.items():
                self.tensors[self._name((*path, part))] = tensor
            return encode_value(None)
        self.tensors[name] = whole(value) if isinstance(value, Storage) else value
        return name

    def _records(self, value: Any, path: tuple[str, ...], above: frozenset[int]) -> None:
        """The tensors among a TorchScript module's attributes, and in what they hold; other values are left out."""
        self._step(path)
        if isinstance(value, self.leaves):
            self._tensor(value, path)
        if isinstance(value, Refused):
            self.skipped[".".join(path) or SINGLE] = value.name
        if id(value) in above:
            return
        items: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, (Record, dict)):
            items = (value.fields if isinstance(value, Record) else value).items()
        elif isinstance(value, (list, tuple)):
            items = enumerate(value)
        for key, item in items:
            self._records(item, (*path, str(key)), above | {id(value)})

    def _step(self, path: tuple[str, ...]) -> None:
        self._left -= 1
        if self._left < 0:
            raise FormatError("the pickle repeats its parts without end")
        if len(path) > _MAX_DEPTH:
            raise FormatError(f"the pickle nests containers deeper than {_MAX_DEPTH}, or holds one that holds itself")

    def _name(self, path: tuple[str, ...]) -> str:
        found = self._namer.name(path)
        self._room -= len(found)
        if self._room < 0:
            raise FormatError(f"the names of the tensors have more than {_MAX_NAMES} characters")
        return found


class TableWalk(Walk, ABC):
    """A walk whose ``tensors`` are rows of a table at once; of what cannot be one, ``objects`` says why."""

    def _tensor(self, value: Any, path: tuple[str, ...]) -> Any:
        name = self._name(path)
        try:
            self.tensors[name] = self._entry(value)
        except UnsupportedFeatureError as error:
            error.locate(tensor=name)
            self.objects[name] = error
            return encode_value(None)
        except FormatError as error:
            raise error.locate(tensor=name) from None
        return name

    def _flat(self, root: dict[str, Any]) -> None:
        for name, array in root.items():
            self._tensor(array, (name,))

    @abstractmethod
    def _entry(self, value: Any) -> TensorEntry:
        """The row of a node; UnsupportedFeatureError where it cannot be one."""


class _Namer:
    """Names for paths, no two the same."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}

    def name(self, path: Iterable[str]) -> str:
        """The path's name, with a number if it is taken."""
        name = ".".join(path) or SINGLE
        number, found = self._numbers.get(name, 1), name
        while found in self._taken:
            number += 1
            found = f"{name}#{number}"
        self._numbers[name] = number
        self._taken.add(found)
        return found


def settle_names(specs: TensorSpecs, structure: Any) -> Any:
    """Give tensors the names that reading their structure back will give them; the structure in those names.

    Args:
        specs: The tensors; renamed.
        structure: As the caller saved them; None: a dict.

    Raises:
        FormatError: It is not of these tensors.
    """
    if structure is None:
        structure = {"dict": [[name, name] for name in specs.names]}
    unflatten(structure, dict.fromkeys(specs.names))
    new = dict(zip(*names_in(structure), strict=True))
    specs.names = [new[name] for name in specs.names]
    return renamed(structure, new)


def names_in(structure: Any) -> tuple[list[str], list[str]]:
    """The tensors of a structure in its order, and the names that reading it back would give them."""
    order: list[str] = []
    names: list[str] = []
    namer = _Namer()

    def visit(node: Any, path: tuple[str, ...]) -> None:
        if isinstance(node, str):
            order.append(node)
            names.append(namer.name(path))
        elif isinstance(node, dict):
            ((kind, items),) = node.items()
            if kind == "dict":
                for key, item in items:
                    visit(item, (*path, str(key)))
            elif kind in ("list", "tuple"):
                for i, item in enumerate(items):
                    visit(item, (*path, str(i)))

    visit(structure, ())
    return order, names


def renamed(node: Any, names: Mapping[str, str]) -> Any:
    """A structure in other names."""
    if isinstance(node, str):
        return names[node]
    if not isinstance(node, dict):
        return node
    ((kind, items),) = node.items()
    if kind == "dict":
        return {kind: [[key, renamed(item, names)] for key, item in items]}
    return {kind: [renamed(item, names) for item in items]} if kind in ("list", "tuple") else node


def whole(storage: Storage) -> StoredTensor:
    """A storage that was saved by itself, as the tensor of all its elements."""
    return StoredTensor(storage, storage.dtype or "uint8", 0, (storage.numel,), (1,))


def _is_flat(root: object, array: type) -> bool:
    return (
        isinstance(root, dict)
        and all(type(key) is str and key for key in root)
        and all(isinstance(value, array) for value in root.values())
    )
