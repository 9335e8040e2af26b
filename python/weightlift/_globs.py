"""Names of tensors and layers, chosen by name or glob (``"encoder.*"``)."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

__all__ = ["matches"]


def matches(name: str, wanted: str | Iterable[str]) -> bool:
    """Whether a name is, or fits, what is wanted: a name or glob, or any of several."""
    return any(name == one or fnmatchcase(name, one) for one in ([wanted] if isinstance(wanted, str) else wanted))
