"""The exception tree.

Every error says what went wrong, where (file or URL, tensor, byte range) and, where it can, what to do
next. The parts of the place are attributes, filled in as the error travels up: code that knows the tensor's
name adds it to an error raised by code that only knew the offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "AccessError",
    "ChangedError",
    "ChecksumError",
    "ConventionsError",
    "FormatError",
    "MismatchError",
    "NotFoundError",
    "QuotaError",
    "RoutingError",
    "StorageError",
    "TransportError",
    "TruncatedError",
    "UnsafeContentError",
    "UnsupportedFeatureError",
    "WeightliftError",
]


class WeightliftError(Exception):
    """Base of all errors of this library.

    Attributes:
        message: What went wrong, without the place.
        path: The file, where it is one.
        url: The URL, where it is not a plain file; what is given as ``path`` and is a URL lands here.
        tensor: The tensor's name.
        offset: First byte concerned, in the file.
        end: The byte after the last one concerned.
    """

    def __init__(
        self,
        message: str = "",
        *,
        path: str | None = None,
        url: str | None = None,
        tensor: str | None = None,
        offset: int | None = None,
        end: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = None if _is_url(path) else path
        self.url = path if url is None and _is_url(path) else url
        self.tensor = tensor
        self.offset = offset
        self.end = end

    def locate(self, **place: Any) -> WeightliftError:
        """Fill in the parts of the place that are not known yet; returns the error itself."""
        if _is_url(place.get("path")):
            place["url"] = place.pop("path")
        for key, value in place.items():
            if getattr(self, key, None) is None:
                setattr(self, key, value)
        return self

    def __str__(self) -> str:
        """The message, then the place in brackets."""
        place = []
        if self.path is not None or self.url is not None:
            place.append(f"file {self.path}" if self.path is not None else f"url {self.url}")
        if self.tensor is not None:
            place.append(f"tensor {self.tensor!r}")
        if self.offset is not None:
            place.append(f"bytes {self.offset}-{self.end}" if self.end is not None else f"byte {self.offset}")
        return f"{self.message} [{', '.join(place)}]" if place else self.message


def _is_url(path: str | None) -> bool:
    return path is not None and "://" in path


class StorageError(WeightliftError, OSError):
    """The storage failed; ``errno`` is kept where the system gave one."""

    def __init__(self, message: str = "", *, errno: int | None = None, **place: Any) -> None:
        super().__init__(message, **place)
        self.errno = errno
        self.filename = self.path


class NotFoundError(StorageError, FileNotFoundError):
    """No such file, directory or model."""


class AccessError(StorageError, PermissionError):
    """Permission refused."""


class TruncatedError(StorageError):
    """The file ends before the bytes that were asked for."""


class ChangedError(StorageError):
    """The file is not the one that was opened: it changed while it was read."""


class TransportError(StorageError):
    """A request failed for good. ``status`` and ``attempts`` say how."""

    def __init__(
        self, message: str = "", *, status: int | None = None, attempts: int | None = None, **place: Any
    ) -> None:
        super().__init__(message, **place)
        self.status = status
        self.attempts = attempts


class QuotaError(StorageError):
    """The store's size limit would be exceeded."""


class FormatError(WeightliftError, ValueError):
    """The bytes break the rules of their format."""


class ChecksumError(FormatError):
    """The bytes do not match their checksum."""


class UnsupportedFeatureError(FormatError, NotImplementedError):
    """A feature of the format, or a value, that is known and cannot be handled."""


class UnsafeContentError(FormatError):
    """Content that is refused because it could run code or reach outside."""


class MismatchError(WeightliftError, ValueError):
    """The weights do not fit what they are loaded into.

    Attributes:
        missing: Names wanted and not in the file.
        unexpected: Names in the file and not wanted.
        wrong_shape: (name, shape wanted, shape found).
    """

    def __init__(
        self,
        message: str = "",
        *,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        wrong_shape: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]] = (),
        **place: Any,
    ) -> None:
        super().__init__(message, **place)
        self.missing = list(missing)
        self.unexpected = list(unexpected)
        self.wrong_shape = list(wrong_shape)


class ConventionsError(MismatchError):
    """Layers for which there is no rule, or more than one.

    Attributes:
        problems: (layer, its tensors and their shapes, what is the matter) of each.
    """

    def __init__(self, message: str = "", *, problems: Sequence[tuple[str, str, str]] = (), **place: Any) -> None:
        super().__init__(message, **place)
        self.problems = list(problems)


class RoutingError(WeightliftError, LookupError):
    """No handler for a URL, or more than one."""
