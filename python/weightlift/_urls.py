"""URLs and paths: which scheme, and which local path.

What has no ``scheme://`` is a local path. ``file://`` URLs are absolute (``file:///m``, ``file://localhost/m``) or, as
tfjs-node has them, relative (``file://./m``, ``file://m``); percent escapes are decoded, and on Windows both
``file:///C:/m`` and ``file://C:/m`` mean drive C. ``?`` and ``#`` are ordinary characters of a file name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit, urlunsplit

from weightlift.errors import RoutingError, StorageError

__all__ = [
    "Url",
    "any_remote",
    "as_text",
    "encoded",
    "file_url_path",
    "is_file",
    "local_path",
    "redacted",
    "scheme_of",
    "split_url",
]

Url = str | os.PathLike[str]
"""A URL, or a path."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_UNSAFE = re.compile(r"""%(?![0-9A-Fa-f]{2})|[ "<>\\^`{|}\x80-\U0010ffff]""")
_DRIVE = re.compile(r"/?([A-Za-z]):(?=[/\\]|\Z)")


def as_text(url: Url) -> str:
    """The URL or path as text; TypeError for anything else."""
    text = os.fspath(url)
    if not isinstance(text, str):
        raise TypeError(f"a URL or path must be str or a path object, not {type(url).__name__}")
    return text


def scheme_of(url: Url) -> str | None:
    """The scheme in lower case, or None for a plain path.

    Example:
        >>> scheme_of("HTTPS://host/model.json"), scheme_of("C:\\\\models\\\\a.npz"), scheme_of("a.npz")
        ('https', None, None)
    """
    match = _SCHEME.match(as_text(url))
    return match[1].lower() if match else None


def is_file(url: Url) -> bool:
    """Whether it means a local file or directory."""
    return scheme_of(url) in (None, "file")


def any_remote(urls: Iterable[Url]) -> bool:
    """Whether one of them is not a local file or directory, so that options for URLs apply."""
    return not all(is_file(url) for url in urls)


def local_path(url: Url) -> Path:
    """The local path that a path or ``file://`` URL means; RoutingError for other schemes.

    Example:
        >>> local_path("file:///models/my%20model").as_posix()
        '/models/my model'
    """
    text = as_text(url)
    scheme = scheme_of(text)
    if scheme not in (None, "file"):
        raise RoutingError(f"{scheme}:// is not a local path or file:// URL", url=text)
    path = text if scheme is None else file_url_path(text, windows=os.name == "nt")
    if not path or "\0" in path:
        raise StorageError("the path is empty" if not path else "the path holds a NUL", path=path)
    return Path(path)


def file_url_path(url: str, *, windows: bool) -> str:
    """The path part of a ``file://`` URL, decoded, for Windows or for other systems."""
    path = os.fsdecode(unquote_to_bytes(url[len("file://") :]))
    if path.lower().startswith("localhost/"):
        path = path[len("localhost") :]
    return _DRIVE.sub(r"\1:", path, count=1) if windows and _DRIVE.match(path) else path


def split_url(url: str) -> SplitResult:
    """The parts of a URL; RoutingError for what is none."""
    try:
        return urlsplit(url)
    except ValueError as error:
        raise RoutingError(f"not a URL: {error}", url=url) from None


def encoded(url: str) -> str:
    """A URL that may stand in a request: what must be escaped in path and query is, as UTF-8; escapes stay as they are.

    So do requests and browsers; curl refuses such a URL. Control characters stay, and are refused where it is used.

    Example:
        >>> encoded("https://host/my model/100%25.npz?of=é")
        'https://host/my%20model/100%25.npz?of=%C3%A9'
    """
    parts = split_url(url)
    path, query = (_UNSAFE.sub(lambda found: quote(found[0]), part) for part in (parts.path, parts.query))
    return urlunsplit(parts._replace(path=path, query=query))


def redacted(url: str) -> str:
    """A URL for people: without user, password and query, which may be secret.

    Example:
        >>> redacted("https://me:secret@host/m.npz?token=1")
        'https://host/m.npz?...'
    """
    parts = split_url(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "..." if parts.query else "", ""))


KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
"""Files that hold a whole model in Keras' own forms."""


def is_keras_file(url: Url) -> bool:
    """Whether a path ends as a file of a whole Keras model does."""
    return is_file(url) and local_path(url).suffix.lower() in KERAS_SUFFIXES
