"""Which handler stores or fetches the model at a URL.

As in TensorFlow.js, a router is a function that looks at a URL and gives a handler, or None when the URL is not
its business; exactly one must answer. Installed packages add their own through entry points of the group
``weightlift.handlers``: the entry point's name is the URL scheme, its value a function ``register(router)``,
which is imported only when a URL of that scheme finds no handler.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from weightlift._urls import Url, as_text, scheme_of
from weightlift.errors import RoutingError
from weightlift.protocols import SupportsLoad, SupportsSave

__all__ = ["ENTRY_POINTS", "ROUTER", "LoadRouter", "Router", "SaveRouter"]

Options = Mapping[str, Any]
"""What the caller asked for beside the URL, by the names of ``save_model`` and ``load_model``; only what was given."""

SaveRouter = Callable[[str, Options], SupportsSave | None]
"""Gives the handler that saves to a URL with these options, or None."""

LoadRouter = Callable[[str, Options], SupportsLoad | None]
"""Gives the handler that loads from a URL with these options, or None."""

ENTRY_POINTS = "weightlift.handlers"

_H = TypeVar("_H")


class _Registry(Generic[_H]):
    """Routers to handlers of one kind, in order of registration, with the schemes that each is known for."""

    def __init__(self) -> None:
        self._routers: list[tuple[Callable[[str, Options], _H | None], tuple[str, ...]]] = []

    def add(self, router: Callable[[str, Options], _H | None], schemes: Iterable[str]) -> None:
        if all(router is not known for known, _ in self._routers):
            self._routers.append((router, tuple(schemes)))

    def remove(self, router: Callable[[str, Options], _H | None]) -> None:
        kept = [r for r in self._routers if r[0] is not router]
        if len(kept) == len(self._routers):
            raise RoutingError("this router is not registered")
        self._routers = kept

    def ask(self, url: str, options: Options) -> list[_H]:
        return [handler for router, _ in self._routers if (handler := router(url, options)) is not None]

    def schemes(self) -> list[str]:
        return sorted({s for _, schemes in self._routers for s in schemes})


class Router:
    """Save and load routers; :data:`ROUTER` is the one that the public functions use.

    Example:
        >>> router = Router(entry_points=None)
        >>> _ = router.register_load(lambda url, options: None, schemes=["mem"])
        >>> router.load_handler("mme://model")
        Traceback (most recent call last):
        ...
        weightlift.errors.RoutingError: no load handler for the URL; schemes known: mem; did you mean mem://? ...
    """

    def __init__(self, *, entry_points: str | None = ENTRY_POINTS) -> None:
        """``entry_points``: the group that installed packages register in; None: nobody but the caller does."""
        self._save: _Registry[SupportsSave] = _Registry()
        self._load: _Registry[SupportsLoad] = _Registry()
        self._group = entry_points
        self._discovered: set[str] = set()

    def register_save(self, router: SaveRouter, *, schemes: Iterable[str] = ()) -> SaveRouter:
        """Add a save router (once; again changes nothing) and return it; ``schemes`` are named in errors."""
        self._save.add(router, schemes)
        return router

    def register_load(self, router: LoadRouter, *, schemes: Iterable[str] = ()) -> LoadRouter:
        """Add a load router (once; again changes nothing) and return it; ``schemes`` are named in errors."""
        self._load.add(router, schemes)
        return router

    def unregister_save(self, router: SaveRouter) -> None:
        """Forget a save router; RoutingError if it is not there."""
        self._save.remove(router)

    def unregister_load(self, router: LoadRouter) -> None:
        """Forget a load router; RoutingError if it is not there."""
        self._load.remove(router)

    def get_save_handlers(self, url: Url, options: Options | None = None) -> list[SupportsSave]:
        """Every handler that the save routers give for ``url`` with ``options``."""
        return self._find(self._save, as_text(url), options or {})

    def get_load_handlers(self, url: Url, options: Options | None = None) -> list[SupportsLoad]:
        """Every handler that the load routers give for ``url`` with ``options``."""
        return self._find(self._load, as_text(url), options or {})

    def save_handler(self, url: Url, options: Options | None = None) -> SupportsSave:
        """The one handler that saves to ``url``; RoutingError when there is none, or more than one."""
        return _only(self.get_save_handlers(url, options), "save", as_text(url), self._save.schemes())

    def load_handler(self, url: Url, options: Options | None = None) -> SupportsLoad:
        """The one handler that loads from ``url``; RoutingError when there is none, or more than one."""
        return _only(self.get_load_handlers(url, options), "load", as_text(url), self._load.schemes())

    def _find(self, registry: _Registry[_H], url: str, options: Options) -> list[_H]:
        return registry.ask(url, options) or (registry.ask(url, options) if self._discover(scheme_of(url)) else [])

    def _discover(self, scheme: str | None) -> bool:
        """Let installed packages that serve ``scheme`` register; whether there was any that had not yet."""
        if self._group is None or scheme is None or scheme in self._discovered:
            return False
        self._discovered.add(scheme)
        from importlib.metadata import entry_points  # costs 40 ms, and most URLs have their handler

        found = entry_points(group=self._group, name=scheme)
        for point in found:
            try:
                point.load()(self)
            except Exception as error:
                raise RoutingError(f"the handler of {scheme}:// in {point.value!r} cannot be used: {error}") from error
        return bool(found)


def _only(handlers: Sequence[_H], verb: str, url: str, schemes: Sequence[str]) -> _H:
    if len(handlers) > 1:
        kinds = ", ".join(type(h).__name__ for h in handlers)
        raise RoutingError(f"more than one ({len(handlers)}) {verb} handlers for the URL: {kinds}", url=url)
    if not handlers:
        scheme = scheme_of(url)
        near = difflib.get_close_matches(scheme, schemes, 1) if scheme else []
        hint = f"; did you mean {near[0]}://?" if near else ""
        raise RoutingError(
            f"no {verb} handler for the URL; schemes known: {', '.join(schemes) or 'none'}{hint}", url=url
        )
    if not callable(getattr(handlers[0], verb, None)):
        raise RoutingError(f"the handler for the URL, a {type(handlers[0]).__name__}, cannot {verb}", url=url)
    return handlers[0]


ROUTER = Router()
"""The router of the process."""
