"""The stores: places that hold files. A new store is one module here and one line in ``SCHEMES``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from weightlift._urls import scheme_of
from weightlift.errors import RoutingError

if TYPE_CHECKING:
    from weightlift.protocols import Store

__all__ = ["SCHEMES", "at_url", "shares"]

SCHEMES = {
    "http": "_http",
    "https": "_http",
    "memory": "_memory",
    "localstorage": "_localstorage",
    "indexeddb": "_indexeddb",
    "s3": "_object",
    "gs": "_object",
    "az": "_object",
}
"""Which module serves a URL scheme; it is imported when the first such URL comes, and has ``at_url(url, options)``."""


def at_url(url: str, options: Mapping[str, Any]) -> tuple[Store, str]:
    """The store of a URL that is no local file, and the name in it of the file that the URL means.

    Raises:
        RoutingError: No store serves the scheme.
        TypeError: The store has no such option.
    """
    module = _module(url)
    if module is None:
        known = ", ".join(f"{s}://" for s in ("file", *SCHEMES))
        raise RoutingError(f"no store for the URL; schemes known: {known}", url=url)
    found: tuple[Store, str] = module.at_url(url, options)
    return found


def shares(urls: Sequence[str], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each of several URLs gets of options that are meant for whichever has them.

    Stores say in ``OPTIONS`` which they have; what no other has is HTTP's, or the last URL's, whose store refuses it.
    """
    known = [getattr(_module(url), "OPTIONS", None) for url in urls]
    taken = {name for names in known if names is not None for name in names}
    result = []
    for names in known:
        result.append({k: v for k, v in options.items() if (k in names if names is not None else k not in taken)})
    unused = {k: v for k, v in options.items() if not any(k in share for share in result)}
    if unused and result:
        result[-1] |= unused
    return result


def _module(url: str) -> Any:
    module = SCHEMES.get(scheme_of(url) or "")
    return None if module is None else import_module(f"{__name__}.{module}")
