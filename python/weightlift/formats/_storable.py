"""Refusing tensors of types that a format lacks: all of them in one error, before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from weightlift._dtypes import DTYPES, DType
from weightlift._packing import TensorSpecs
from weightlift.errors import UnsupportedFeatureError

__all__ = ["refuse", "unstorable"]

_LISTED = 20


def unstorable(specs: TensorSpecs, holds: Callable[[DType], bool], *, strings: bool = False) -> Iterator[str]:
    """What is to be said of each tensor whose type a format does not have.

    Args:
        specs: The tensors.
        holds: Whether the format has a type.
        strings: Whether it has strings.
    """
    for row, (name, dtype) in enumerate(zip(specs.names, specs.dtypes, strict=True)):
        if row in specs.strings:
            if not strings:
                yield f"{name!r} (strings)"
        elif not dtype.core and dtype.name in DTYPES:
            yield f"{name!r} ({dtype}, of which arrays of ml_dtypes hold one a byte, and files two)"
        elif not holds(dtype):
            yield f"{name!r} ({dtype})"


def refuse(holder: str, tensors: Iterable[str], hint: str = "") -> None:
    """UnsupportedFeatureError that lists ``tensors``, if there are any.

    Args:
        holder: The format, as a message begins with it.
        tensors: See :func:`unstorable`.
        hint: What else can be done about it.
    """
    refused = list(tensors)
    if refused:
        more = f" and {len(refused) - _LISTED} more" if len(refused) > _LISTED else ""
        raise UnsupportedFeatureError(
            f"{holder} cannot hold {', '.join(refused[:_LISTED])}{more}; convert them by dtype={{name: type}}{hint}"
        )
