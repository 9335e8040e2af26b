"""Relative names of files, as manifests give them: plain paths inside the store, the same in every store."""

from __future__ import annotations

from weightlift.errors import UnsafeContentError

__all__ = ["check_relative"]


def check_relative(relative: str) -> str:
    """``relative`` itself if it is a plain relative path, else UnsafeContentError."""
    parts = relative.split("/")
    if not relative or relative.startswith("/") or "\0" in relative or "\\" in relative or ".." in parts:
        raise UnsafeContentError(f"file name {relative!r} is refused: it must be a plain path inside the directory")
    return relative
