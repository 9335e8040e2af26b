"""The stores: places that hold files. A new store is one module here and one line in ``SCHEMES``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from weightlift._urls import scheme_of
from weightlift.errors import RoutingError

if TYPE_CHECKING:
    from weightlift.protocols import Store

__all__ = ["SCHEMES", "at_url"]

SCHEMES = {
    "http": "_http",
    "https": "_http",
    "memory": "_memory",
    "localstorage": "_localstorage",
    "indexeddb": "_indexeddb",
}
"""Which module serves a URL scheme; it is imported when the first such URL comes, and has ``at_url(url, options)``."""


def at_url(url: str, options: Mapping[str, Any]) -> tuple[Store, str]:
    """The store of a URL that is no local file, and the name in it of the file that the URL means.

    Raises:
        RoutingError: No store serves the scheme.
        TypeError: The store has no such option.
    """
    scheme = scheme_of(url)
    module = SCHEMES.get(scheme or "")
    if module is None:
        known = ", ".join(f"{s}://" for s in ("file", *SCHEMES))
        raise RoutingError(f"no store for the URL; schemes known: {known}", url=url)
    found: tuple[Store, str] = import_module(f"{__name__}.{module}").at_url(url, options)
    return found
