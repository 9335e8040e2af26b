"""What every vocabulary of ours has in common: a closed list of names, and plain containers and scalars.

A name is in the list or it is refused. What it stands for is a few lines here, or in the vocabulary, that note what it
was given; nothing is called or imported.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

from weightlift.errors import FormatError, UnsafeContentError
from weightlift.formats._pickle import Refused, is_key

__all__ = ["CONTAINERS", "FACTORIES", "ClosedVocabulary", "Named", "Ordered"]

BUILTINS = ("builtins", "__builtin__")
_NEW = ("OrderedDict", "Counter", "defaultdict", "set", "Size")
"""What a pickle may make a new one of: those of protocols above 2 do."""


@dataclass(frozen=True, slots=True)
class Named:
    """A name that stands for itself: a type, a function, a layout."""

    module: str
    name: str

    def __str__(self) -> str:
        """As Python writes it."""
        return f"{self.module}.{self.name}"


class Ordered(dict[Any, Any]):
    """An OrderedDict, whose attributes (``_metadata`` of a state dict: versions of modules) are not kept."""


class ClosedVocabulary:
    """The part of a :class:`~weightlift.formats._pickle.Vocabulary` that deals with names.

    Args:
        calls: Names that a pickle may call, and what that makes.
        tags: Names that it may only name.
        advice: What to do where it names others.
        skip_unsafe: Those stand for something that is left out, instead of for an error.
    """

    def __init__(
        self,
        calls: Mapping[tuple[str, str], Callable[..., Any]],
        tags: Container[tuple[str, str]],
        advice: str,
        *,
        skip_unsafe: bool,
    ) -> None:
        self.skip_unsafe = skip_unsafe
        self._calls, self._tags, self._advice = calls, tags, advice

    def find(self, module: str, name: str) -> object:
        """The node of a name."""
        if (module, name) in self._calls or (module, name) in self._tags:
            return Named(module, name)
        if self.skip_unsafe:
            return Refused(f"{module[:200]}.{name[:200]}")
        raise UnsafeContentError(
            f"the pickle names {module[:200]}.{name[:200]}, which is code or a class of its own, and is never run or "
            f"made; {self._advice}, or load the rest by skip_unsafe=True"
        )

    def call(self, callee: object, args: tuple[Any, ...]) -> object:
        """What a function of the list would have made."""
        if not isinstance(callee, Named):
            raise UnsafeContentError(f"the pickle calls a {type(callee).__name__.lower()}")
        make = self._calls.get((callee.module, callee.name))
        if make is None:
            raise UnsafeContentError(f"the pickle calls {callee}, which is there to be named only")
        refused = next((arg for arg in args if isinstance(arg, Refused)), None)
        if refused is not None and make is not _default_dict:  # whose factory is of no use without its dict
            return refused
        try:
            return make(*args)
        except TypeError:
            raise FormatError(f"the pickle gives {callee} {len(args)} arguments that it does not have") from None

    def new(self, kind: object, args: tuple[Any, ...]) -> object:
        """An empty container."""
        if isinstance(kind, Named) and (kind.module, kind.name) in self._calls and kind.name in _NEW:
            return self.call(kind, args)
        raise UnsafeContentError(f"the pickle makes a new {kind if isinstance(kind, Named) else type(kind).__name__}")


# --- containers and scalars -------------------------------------------------------------------------
def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    return _filled(Ordered(), pairs)


def _counter(counts: Any = ()) -> dict[Any, Any]:
    return _filled({}, counts)


def _default_dict(factory: Any = None) -> dict[Any, Any]:
    known = factory is None or isinstance(factory, Refused)
    if not known and not (isinstance(factory, Named) and (factory.module, factory.name) in (FACTORIES | {*CONTAINERS})):
        raise UnsafeContentError(f"a defaultdict makes its values by {factory}")
    return {}


def _filled(target: dict[Any, Any], pairs: Any) -> dict[Any, Any]:
    """A dict out of what OrderedDict or Counter was given: pairs, or a dict."""
    if type(pairs) not in (list, tuple, dict):
        raise FormatError(f"a dict is made of a {type(pairs).__name__}")
    for pair in pairs.items() if type(pairs) is dict else pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2 or not is_key(pair[0]):
            raise FormatError("a dict is made of something else than pairs of a scalar and a value")
        target[pair[0]] = pair[1]
    return target


def _set(items: Any = ()) -> set[Any]:
    if type(items) not in (list, tuple, set) or not all(map(is_key, items)):
        raise FormatError("a set is made of something else than scalars")
    return set(items)


def _complex(real: Any, imag: Any = 0.0) -> complex:
    if type(real) not in (int, float) or type(imag) not in (int, float):
        raise FormatError("a complex number is made of something else than numbers")
    return complex(real, imag)


def _bytes(value: Any = b"", encoding: Any = None) -> bytes:
    """Bytes, a bytearray, or the text by which protocol 2 writes them."""
    if type(value) is str and encoding in ("latin1", "latin-1"):
        try:
            return value.encode("latin-1")
        except UnicodeEncodeError:
            raise FormatError("bytes in the pickle are written with other characters than bytes") from None
    if type(value) is not bytes or encoding is not None:
        raise FormatError(f"bytes are made of a {type(value).__name__} in the encoding {str(encoding)[:40]!r}")
    return value


CONTAINERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered,
    ("collections", "Counter"): _counter,
    ("collections", "defaultdict"): _default_dict,
    ("_codecs", "encode"): _bytes,
    **{(module, "set"): _set for module in BUILTINS},
    **{(module, "complex"): _complex for module in BUILTINS},
    **{(module, "bytearray"): _bytes for module in BUILTINS},
    **{(module, "bytes"): _bytes for module in BUILTINS},
}
"""Containers and plain values, which every vocabulary of ours has."""

FACTORIES = frozenset(
    (module, name)
    for module in BUILTINS
    for name in ("list", "dict", "int", "long", "float", "bool", "str", "unicode", "tuple")
)
"""What makes the values of a defaultdict, beside containers; Python 3 calls ``int`` and ``str`` as 2 did in protocol 2.

Every vocabulary has them as names that are only named."""
