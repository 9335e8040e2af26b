"""Objects in buckets: ``s3://`` (S3, and what speaks its language), ``gs://`` (Google Cloud), ``az://`` (Azure).

Protocol. obstore lists, writes, copies and deletes, and knows where credentials come from. What is read in bulk goes
through the HTTP client, as any URL does, in parallel and straight into the memory of the tensors: obstore signs the
URL. An object appears whole, by one request, or by several of which the last one makes it appear; it is never changed.
A set of objects has no such moment: its manifest is written last.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from typing import Any

from weightlift import _core
from weightlift._urls import split_url
from weightlift.errors import (
    AccessError,
    ChangedError,
    NotFoundError,
    RoutingError,
    StorageError,
    TransportError,
    TruncatedError,
    UnsupportedFeatureError,
)
from weightlift.stores._http import HEAD, HttpOptions
from weightlift.stores._http_file import RemoteFile
from weightlift.stores._paths import check_relative

__all__ = ["Bucket", "ObjectInfo", "ObjectStore", "at_url"]

OPTIONS = ("config", "client_options", "retry_config", "credential_provider")
"""What obstore is made with; all other options are those of ``http://`` URLs, for what is read."""

_SIGNED_FOR = timedelta(hours=12)
_PART_BYTES = 16 << 20
_DENIED = re.compile(r"status code: 40[13]\b")
_PARTS_AT_ONCE = 4


@dataclass(frozen=True)
class ObjectInfo:
    """An object of a listing: its name, below what was listed, and its size in bytes."""

    name: str
    nbytes: int


class Bucket:
    """A bucket (container) and how it is asked.

    Args:
        url: Of anything in it.
        options: ``OPTIONS``, and those of ``http://`` URLs.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        """Asks nothing yet; UnsupportedFeatureError where obstore is not installed."""
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            raise UnsupportedFeatureError(
                "object stores need the library obstore: pip install 'weightlift[object]'", url=url
            ) from None
        parts = split_url(url)
        if not parts.netloc:
            raise RoutingError("the URL names no bucket", url=url)
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._obstore: Any = obstore
        with self._errors(self.url):
            self.store: Any = from_url(self.url, **{key: options[key] for key in OPTIONS if key in options})
        self.http = HttpOptions.of({key: value for key, value in options.items() if key not in OPTIONS}, url)

    def address(self, key: str) -> str:
        """The URL of an object, as people write it."""
        return f"{self.url}/{key}"

    def signed(self, key: str) -> str | None:
        """A URL by which an object can be read, which is secret; None where there is nothing to sign with."""
        try:
            url: str = self._obstore.sign(self.store, "GET", key, _SIGNED_FOR)
        except (self._obstore.exceptions.BaseError, TypeError, ValueError):
            return None
        return url

    def get(self, key: str, begin: int, nbytes: int, e_tag: str | None = None) -> Any:
        """A range of an object, which must be that of this tag."""
        options: dict[str, Any] = {"range": (begin, begin + nbytes)}
        if e_tag:
            options["if_match"] = e_tag
        with self._errors(self.address(key)):
            return self._obstore.get(self.store, key, options=options).bytes()

    def read(self, key: str, most: int) -> bytes:
        """A small object, whole; StorageError for one of more than ``most`` bytes."""
        with self._errors(self.address(key)):
            found = self._obstore.get(self.store, key)
            if found.meta["size"] > most:
                raise StorageError(
                    f"an object of {found.meta['size']} bytes; at most {most} are read", url=self.address(key)
                )
            return bytes(found.bytes())

    def head(self, key: str) -> Any:
        """What the store says of an object: size, tag; NotFoundError."""
        with self._errors(self.address(key)):
            return self._obstore.head(self.store, key)

    def put(self, key: str, data: bytes, *, new: bool = False) -> bool:
        """Write a small object; ``new``: only if there is none of that name, False if there is."""
        with self._errors(self.address(key)):
            mode = "create" if new else "overwrite"
            try:
                self._obstore.put(self.store, key, data, mode=mode, use_multipart=False)
            except self._obstore.exceptions.AlreadyExistsError:
                return False
        return True

    def writer(self, key: str) -> Any:
        """Takes the bytes of an object in order."""
        with self._errors(self.address(key)):
            return self._obstore.open_writer(self.store, key, buffer_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the bucket; no byte comes here."""
        with self._errors(self.address(source)):
            self._obstore.copy(self.store, source, target)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; such as are not there are passed over."""
        if keys:
            with self._errors(self.url), contextlib.suppress(FileNotFoundError):
                self._obstore.delete(self.store, list(keys))

    def listed(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects below a prefix (which ends with a slash, or is ""), with what comes after it as their names."""
        with self._errors(self.address(prefix)):
            for chunk in self._obstore.list(self.store, prefix):
                for found in chunk:
                    yield ObjectInfo(found["path"][len(prefix) :], found["size"])

    def beside(self, prefix: str) -> tuple[list[str], list[ObjectInfo]]:
        """What is right below a prefix: folders, and objects."""
        with self._errors(self.address(prefix)):
            found = self._obstore.list_with_delimiter(self.store, prefix)
        folders = [path[len(prefix) :].rstrip("/") for path in found["common_prefixes"]]
        return folders, [ObjectInfo(o["path"][len(prefix) :], o["size"]) for o in found["objects"]]

    @contextlib.contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """Errors of obstore as ours, with the object."""
        with self._errors(self.address(key)):
            yield

    @contextlib.contextmanager
    def _errors(self, url: str) -> Iterator[None]:
        kinds = self._obstore.exceptions
        try:
            yield
        except StorageError:
            raise
        except FileNotFoundError as error:
            raise NotFoundError("there is no such object, or bucket", url=url) from error
        except (kinds.PermissionDeniedError, kinds.UnauthenticatedError) as error:
            raise AccessError(_said(error), url=url) from error
        except kinds.PreconditionError as error:
            raise ChangedError("the object is no longer the one that was opened", url=url) from error
        except (kinds.BaseError, OSError, ValueError) as error:
            said = _said(error)
            kind = AccessError if _DENIED.search(said) else TransportError  # a writer's errors have no kind
            raise kind(said, url=url) from error


def _said(error: BaseException) -> str:
    """The first line of what obstore says; what follows it is how it is built."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def at_url(url: str, options: Mapping[str, Any]) -> tuple[ObjectStore, str]:
    """The store of the folder of an object, and its name in it ("" if the URL ends with a slash)."""
    parts = url.split("/", 3)
    folder, _, name = (parts[3] if len(parts) > 3 else "").rpartition("/")
    return ObjectStore(Bucket(url, options), check_relative(folder) if folder else ""), name


class ObjectStore:
    """The objects whose names begin with a folder's.

    Args:
        bucket: Where.
        folder: Without a slash at its end; "" for the whole bucket.
    """

    keeps_sidecars = True
    """Another object can be written beside one."""

    files_at_once = 4

    def __init__(self, bucket: Bucket, folder: str = "") -> None:
        """Asks nothing yet."""
        self.bucket = bucket
        self._prefix = f"{folder}/" if folder else ""

    @property
    def url(self) -> str:
        """Of the folder."""
        return self.bucket.address(self._prefix).rstrip("/")

    def key(self, relative: str) -> str:
        """The name of an object in the bucket; UnsafeContentError for one that escapes the folder."""
        return self._prefix + check_relative(relative)

    def path(self, relative: str) -> str:
        """The URL of an object."""
        return self.bucket.address(self.key(relative))

    def open(self, relative: str) -> Any:
        """A reader of the object that is there now.

        Raises:
            NotFoundError: There is none.
            AccessError: It may not be read.
            TransportError: Anything else.
        """
        return self._open(relative, HEAD)

    def open_for(self, relative: str, ranges: Sequence[tuple[int, int]]) -> Any:
        """As ``open``; the first request brings no more than the part of its usual bytes that is in the ranges."""
        return self._open(relative, max((min(at + n, HEAD) for at, n in ranges if at < HEAD), default=1))

    def _open(self, relative: str, head: int) -> Any:
        key = self.key(relative)
        signed = self.bucket.signed(key)
        if signed is None:
            return _reader(self.bucket, key)
        client = self.bucket.http.client(signed)
        try:
            file = RemoteFile(client.open(signed, head=head), client, signed, head)
        except StorageError as error:
            raise error.locate(url=self.path(relative)) from None
        file.name = self.path(relative)
        return file

    def create(self, relative: str, nbytes: int, *, durable: bool = True) -> _Writer:
        """A writer of ``nbytes`` bytes, front to back; the object appears by ``commit``, and is durable then."""
        return _Writer(self.bucket, self.key(relative), nbytes)

    def exists(self, relative: str) -> bool:
        """Whether the object is there."""
        try:
            self.bucket.head(self.key(relative))
        except NotFoundError:
            return False
        return True

    def list(self) -> Iterable[str]:
        """The names of all objects in the folder, sorted."""
        return sorted(found.name for found in self.bucket.listed(self._prefix))

    def delete(self, relative: str) -> None:
        """Delete an object; NotFoundError."""
        key = self.key(relative)
        self.bucket.head(key)
        self.bucket.delete([key])


class _Reader(_core.FunctionReader):
    """An object that is read by obstore: what cannot be signed, as nobody has said who asks."""

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Exactly ``nbytes`` bytes, or TruncatedError."""
        if offset + nbytes > self.size:
            raise TruncatedError(
                f"the object has {self.size} bytes; wanted were bytes {offset}-{offset + nbytes}", url=self.name
            )
        return super().read_at(offset, nbytes)


def _reader(bucket: Bucket, key: str) -> _Reader:
    info = bucket.head(key)

    def fill(offset: int, view: memoryview) -> None:
        if len(view):
            view[:] = memoryview(bucket.get(key, offset, len(view), info["e_tag"]))

    return _Reader(fill, info["size"], bucket.address(key))


class _InOrder:
    """Bytes that come about in order, given on in order; the few that are early are kept."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self.bucket, self.key = bucket, key
        self.end = 0
        self.sink: Any = None
        self._early: dict[int, bytes] = {}
        self._lock = Lock()

    def write(self, offset: int, data: memoryview) -> None:
        with self._lock:
            if not len(data):
                return
            self._early[offset] = bytes(data)
            while self.end in self._early:
                ready = self._early.pop(self.end)
                if self.sink is None:
                    self.sink = self.bucket.writer(self.key)
                with self.bucket.errors(self.key):
                    self.sink.write(ready)
                self.end += len(ready)


class _Writer(_core.FunctionWriter):
    """An object that is being written; see ``ObjectStore.create``."""

    def __init__(self, bucket: Bucket, key: str, nbytes: int) -> None:
        state = _InOrder(bucket, key)
        super().__init__(state.write, bucket.address(key), sequential=True)
        self._state: _InOrder | None = state
        self._nbytes = nbytes

    def truncate(self, size: int) -> None:
        """Make ``size``, no more than it was created with, the final size."""
        self._nbytes = size

    def commit(self) -> None:
        """Let the object appear; once."""
        state, self._state = self._state, None
        if state is None:
            raise StorageError("the object was committed or aborted before", url=self.name)
        if state.end != self._nbytes:
            raise StorageError(f"{state.end} of {self._nbytes} bytes were written", url=self.name)
        if state.sink is None:
            state.bucket.put(state.key, b"")
            return
        with state.bucket.errors(state.key):
            state.sink.close()

    def abort(self) -> None:
        """Forget it: without its end no object appears."""
        self._state = None
