"""Architecture and parameters together, for live objects that are code: by names that the user registers.

A file says which registered name it is of, and the arguments to call with, as JSON in its metadata. It never says what
to import or to run: a name that this process has not registered is refused. That is the restriction, and why there is
one: a file that could name a class of its choice, as a pickle does, could run code of its choice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from weightlift._api import save
from weightlift._live import IntoOptions, load_into
from weightlift._ops import Progress
from weightlift._source import open_source
from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.types import SaveResult

__all__ = ["load_module", "register_module", "save_module"]

Path = str | os.PathLike[str]
KEY = "weightlift.module"
"""The metadata that holds ``{"name": ..., "arguments": {...}}``."""


@dataclass(frozen=True)
class _Module:
    factory: str | Callable[..., Any]
    arguments: Callable[[Any], Mapping[str, Any]] | None

    def makes(self, obj: Any) -> bool:
        """Whether an object is of the class that is registered."""
        kind = type(obj)
        return self.factory is kind or self.factory == f"{kind.__module__}:{kind.__qualname__}"


_MODULES: dict[str, _Module] = {}


def register_module(
    name: str, factory: str | Callable[..., Any], *, arguments: Callable[[Any], Mapping[str, Any]] | None = None
) -> None:
    """Let :func:`load_module` build live objects from files that say ``name``.

    Args:
        name: What files call it; yours to choose, and to keep.
        factory: A class or function, or its import path ``"package.module:Class"``, imported when it is first needed.
            It is called with the keyword arguments that a file holds, so it must be safe to call with any.
        arguments: The keyword arguments for an object: numbers, text, None, lists and dicts of these. None: it takes
            none.

    Example:
        >>> import collections, weightlift as wl
        >>> wl.register_module("counter", "collections:Counter", arguments=dict)
    """
    _MODULES[name] = _Module(factory, arguments)


def save_module(obj: Any, url: Path, *, metadata: Mapping[str, Any] | None = None, **options: Any) -> SaveResult:
    """Save a live object of a registered class: its parameters, and what it takes to build it again.

    Args:
        obj: What :func:`save` takes, of a class that :func:`register_module` knows.
        url: As :func:`save`; the format must keep metadata: safetensors, torch, npz.
        metadata: As :func:`save`.
        options: As :func:`save`.

    Raises:
        UnsupportedFeatureError: The class is not registered, or its arguments are not JSON.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> class Scale:
        ...     def __init__(self, size):
        ...         self.factor = np.ones(size)
        ...     def state_dict(self):
        ...         return {"factor": self.factor}
        ...     def load_state_dict(self, state):
        ...         self.factor = state["factor"]
        >>> wl.register_module("scale", Scale, arguments=lambda scale: {"size": len(scale.factor)})
        >>> _ = wl.save_module(Scale(3), "scale.safetensors")
        >>> wl.load_module("scale.safetensors").factor.tolist()
        [1.0, 1.0, 1.0]
    """
    name = next((n for n, module in _MODULES.items() if module.makes(obj)), None)
    if name is None:
        kind = f"{type(obj).__module__}:{type(obj).__qualname__}"
        raise UnsupportedFeatureError(f"{kind} is not registered; call weightlift.register_module(name, {kind!r})")
    arguments = _MODULES[name].arguments
    given = {} if arguments is None else dict(arguments(obj))
    try:
        text = json.dumps({"name": name, "arguments": given}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UnsupportedFeatureError(f"the arguments of {name!r} are not JSON: {error}") from error
    return save(obj, url, metadata={**(metadata or {}), KEY: text}, **options)


def load_module(
    url: Path,
    *,
    verify: bool = True,
    progress: Progress | None = None,
    format: str | None = None,
    **store_options: Any,
) -> Any:
    """Build what :func:`save_module` saved, and load its parameters.

    Only what this process has registered is called; a file names it and gives its arguments, and nothing else.

    Args:
        url: As :func:`load`.
        verify: As :func:`load`.
        progress: As :func:`load`.
        format: As :func:`load`.
        store_options: As :func:`load`.

    Raises:
        FormatError: The file does not say what it is of, or the registered factory refuses its arguments.
        UnsupportedFeatureError: Its name is not registered.
        MismatchError: What was built has other tensors.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> _ = wl.save(np.ones(3), "plain.safetensors")
        >>> try:
        ...     wl.load_module("plain.safetensors")
        ... except wl.FormatError as error:
        ...     print(error.message)
        the file does not say what to build; it was not saved by save_module
    """
    source = open_source(url, format=format, store_options=store_options)
    obj = _build(source.layout.metadata.get(KEY), source.paths()[0])
    return load_into(source, obj, IntoOptions(verify=verify, progress=progress))


def _build(text: Any, path: str) -> Any:
    if text is None:
        raise FormatError("the file does not say what to build; it was not saved by save_module", path=path)
    try:
        document = json.loads(text)
        name, arguments = document["name"], dict(document["arguments"])
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise FormatError(f"malformed metadata {KEY}: {str(text)[:80]!r}", path=path) from error
    module = _MODULES.get(name) if isinstance(name, str) else None
    if module is None:
        raise UnsupportedFeatureError(
            f"the file is of {str(name)[:80]!r}, which is not registered; if you know what that is, call "
            "weightlift.register_module with its class",
            path=path,
        )
    factory = module.factory
    if isinstance(factory, str):
        place, _, attribute = factory.partition(":")
        found: Any = import_module(place)
        for part in attribute.split("."):
            found = getattr(found, part)
        factory = found
    try:
        return factory(**arguments)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{name!r} refuses the arguments in the file: {error}", path=path) from error
