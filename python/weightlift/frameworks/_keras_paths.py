"""Names of Keras 3's variables in its own files: ``PATH/vars/N``, by the way that leads to their owner.

Attributes come in alphabetical order, what is in lists and dicts is called by its class. The ways are walked with
Keras' own function, so that files of Keras fit models here, and the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["stored_names"]


def stored_names(model: Any) -> dict[int, str]:
    """The name of each variable of a layer or model, by its identity."""
    return {id(value): name for name, value in _walk(model, "", set())}


def _walk(saveable: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """(name, what is stored) of whatever has variables, each once."""
    from keras.src.saving.keras_saveable import KerasSaveable
    from keras.src.saving.saving_lib import _walk_saveable

    if id(saveable) in seen:
        return
    seen.add(id(saveable))
    if hasattr(saveable, "save_own_variables"):
        store: dict[str, Any] = {}
        saveable.save_own_variables(store)
        yield from ((f"{path}/vars/{key}".lstrip("/"), value) for key, value in store.items())
    for name, child in _walk_saveable(saveable):
        below = f"{path}/{name}".lstrip("/")
        if isinstance(child, KerasSaveable):
            yield from _walk(child, below, seen)
        elif isinstance(child, (list, dict, tuple)):
            yield from _contained(child, below, seen, set())


def _contained(container: Any, path: str, seen: set[int], visited: set[int]) -> Iterator[tuple[str, Any]]:
    """The same for what a list or dict holds."""
    from keras.src.saving.keras_saveable import KerasSaveable
    from keras.src.utils.naming import to_snake_case

    if id(container) in visited:
        return
    visited.add(id(container))
    counts: dict[str, int] = {}
    for child in container.values() if isinstance(container, dict) else container:
        saveable = isinstance(child, KerasSaveable)
        if not saveable and not isinstance(child, (list, dict, tuple)):
            continue
        name = to_snake_case(type(child).__name__) if saveable else "container"
        count = counts.get(name, 0)
        counts[name] = count + 1
        below = f"{path}/{name}" + (f"_{count}" if count else "")
        yield from _walk(child, below, seen) if saveable else _contained(child, below, seen, visited)
