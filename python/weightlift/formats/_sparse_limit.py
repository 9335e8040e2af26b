"""How large the sparse arrays of a file may be when they are made whole: a few bytes could say terabytes."""

from __future__ import annotations

from collections.abc import Mapping

from weightlift.errors import UnsafeContentError

__all__ = ["too_large"]

_MAX_RATIO = 1032
"""So many times the file's bytes: as much as deflate could make of them."""

_ALWAYS = 64 << 20
"""Bytes that are allowed whatever the file's size."""


def too_large(whole: Mapping[str, int], size: int) -> dict[str, UnsafeContentError]:
    """The arrays that go beyond the limit, each with the reason.

    Args:
        whole: Bytes of each array, zeros and all.
        size: Bytes of the file.
    """
    refused = {}
    total, limit = 0, max(_MAX_RATIO * size, _ALWAYS)
    for name, nbytes in whole.items():
        if total + nbytes <= limit:
            total += nbytes
            continue
        refused[name] = UnsafeContentError(
            f"a sparse array of {nbytes} bytes, in a file of {size}: at most {limit} bytes are made of all of them; "
            f"load its parts: names={f'{name}/*'!r}",
            tensor=name,
        )
    return refused
