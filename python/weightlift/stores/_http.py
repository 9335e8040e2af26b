"""Files behind ``http://`` and ``https://`` URLs: read by ranges, written by one streamed request each.

Protocol. A file is opened by one request for its first bytes, whose answer gives size and identity; from then on
only exactly the ranges asked for, of that very file, are accepted (``weightlift/http.h`` has the rules). A file
beside it, as a manifest names it, has the manifest's final URL (after redirects) with the last part of its path
replaced, and the manifest's own query, so that a token in the query goes along; unless the redirect led to
another host, which gets no query. A file is written by one PUT (or another method), front to back. HTTP has no
rename: whether a reader sees the old file or the new one while a PUT is under way is up to the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, unquote, urlunsplit

from weightlift._urls import encoded, redacted, split_url
from weightlift.errors import AccessError, NotFoundError, RoutingError, UnsupportedFeatureError
from weightlift.stores._http_file import RemoteFile
from weightlift.stores._paths import check_relative

if TYPE_CHECKING:
    from weightlift import _http

__all__ = ["HttpOptions", "HttpStore", "at_url"]

Auth = tuple[str, str] | str | None
HEAD = 64 << 10
"""Bytes that the request which opens a file asks for: most headers are in them."""

HeadersLike = Mapping[str, str] | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class HttpOptions:
    """How requests are made.

    Attributes:
        headers: Sent with each request, and with none that a redirect leads to another host, if they look secret.
        auth: (user, password), or a bearer token.
        netrc: Look the host up in ``~/.netrc``.
        ca_file: Certificates to trust instead of the system's (PEM).
        client_cert: PEM file of a client certificate with its key, or (certificate, key).
        tls_verify: False: take any certificate. For tests only.
        proxy: URL; None: ``http_proxy`` etc. of the environment; ``""``: none.
        connect_timeout: Seconds.
        timeout: Seconds without a byte after which an attempt is given up.
        total_timeout: Seconds for one operation with all its attempts; 0: no limit.
        attempts: In a row without progress, for each part.
        backoff: Seconds before the second attempt; doubles, with jitter.
        max_redirects: Followed at most.
        connections: At once; 0: as many as pay.
        part_bytes: Of one range request; 0: as pays.
        http_version: ``"auto"``, ``"1.1"`` or ``"2"``.
        method: Of uploads: ``"PUT"``; of model uploads ``"POST"``.
        cache: Keep what was read: True (in the user's cache directory), or a directory.
        cache_bytes: Largest size of the cache.
    """

    headers: HeadersLike = ()
    auth: Auth = None
    netrc: bool = False
    ca_file: str | PathLike[str] | None = None
    client_cert: str | PathLike[str] | tuple[str | PathLike[str], str | PathLike[str]] | None = None
    tls_verify: bool = True
    proxy: str | None = None
    connect_timeout: float = 30.0
    timeout: float = 20.0
    total_timeout: float = 0.0
    attempts: int = 6
    backoff: float = 0.2
    max_redirects: int = 10
    connections: int = 0
    part_bytes: int = 0
    http_version: Literal["auto", "1.1", "2"] = "auto"
    method: str | None = None
    cache: bool | str | PathLike[str] = False
    cache_bytes: int = 32 << 30

    @classmethod
    def of(cls, given: Mapping[str, Any], url: str) -> HttpOptions:
        """From keyword arguments; TypeError for one that there is not."""
        known = {f.name for f in fields(cls)}
        unknown = [name for name in given if name not in known]
        if unknown:
            raise TypeError(f"http URLs have no option {', '.join(unknown)} (for {redacted(url)})")
        return cls(**given)

    def client(self, home: str) -> _http.Client:
        """A client with these options, whose secrets go to the host of ``home`` only."""
        from weightlift import _http  # loads libcurl, which local files do not need

        user, password, bearer = None, None, None
        if isinstance(self.auth, str):
            bearer = self.auth
        elif self.auth is not None:
            user, password = self.auth
        cert = self.client_cert if isinstance(self.client_cert, tuple) else (self.client_cert, None)
        headers = self.headers.items() if isinstance(self.headers, Mapping) else self.headers
        return _http.Client(
            _http.Options(
                headers=[(str(k), str(v)) for k, v in headers],
                user=user,
                password=password,
                bearer=bearer,
                netrc=self.netrc,
                ca_file=_text(self.ca_file),
                client_cert=_text(cert[0]),
                client_key=_text(cert[1]),
                tls_verify=self.tls_verify,
                proxy=self.proxy,
                connect_timeout=self.connect_timeout,
                stall_timeout=self.timeout,
                total_timeout=self.total_timeout,
                attempts=self.attempts,
                backoff=self.backoff,
                max_redirects=self.max_redirects,
                connections=self.connections,
                part_bytes=self.part_bytes,
                http_version=self.http_version,
                home=home,
            )
        )


def _text(path: Any) -> str | None:
    return None if path is None else str(path)


def at_url(url: str, options: Mapping[str, Any]) -> tuple[HttpStore, str]:
    """The store beside a URL, and the URL's own file in it ("" if it ends with a slash)."""
    store = HttpStore(url, HttpOptions.of(options, url))
    return store, store.name


class HttpStore:
    """The files beside the file at a URL.

    Args:
        url: Of the file that is asked for.
        options: How requests are made.
        resolve: The URL of a file beside it, given its relative name; default: see the module.
    """

    def __init__(self, url: str, options: HttpOptions, resolve: Callable[[str], str] | None = None) -> None:
        """Asks nothing of the server yet; RoutingError for what is not a URL."""
        parts = split_url(encoded(url))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RoutingError("not an http:// or https:// URL with a host", url=redacted(url))
        self.url = urlunsplit(parts._replace(fragment=""))
        self.name = unquote(parts.path.rpartition("/")[2])
        self.options = options
        self.client = options.client(self.url)
        self._resolve = resolve
        self._base = parts._replace(fragment="")
        self._cache: Any = None
        if options.cache:
            from weightlift.stores._cache import Cache

            self._cache = Cache.at(options.cache, options.cache_bytes)

    @property
    def keeps_sidecars(self) -> bool:
        """Whether another file can be written beside the one asked for: a query often signs one URL only."""
        return not self._base.query

    def path(self, relative: str) -> str:
        """The URL of a file, for messages: without secrets."""
        return redacted(self.address(relative))

    def address(self, relative: str) -> str:
        """The URL of a file; UnsafeContentError for a name that escapes."""
        if relative == self.name and self.name:
            return self.url
        check_relative(relative)
        if self._resolve is not None:
            return encoded(self._resolve(relative))
        folder = self._base.path.rpartition("/")[0]
        return urlunsplit(self._base._replace(path=f"{folder}/{quote(relative)}"))

    def open(self, relative: str) -> Any:
        """A reader of a file: :class:`RemoteFile`, or one that the cache keeps.

        Raises:
            NotFoundError: Status 404 or 410.
            AccessError: Status 401 or 403.
            TransportError: Anything else that is not the file.
        """
        return self._open(relative, HEAD)

    def open_for(self, relative: str, ranges: Sequence[tuple[int, int]]) -> Any:
        """As ``open``; the first request brings no more than the part of its usual bytes that is in the ranges."""
        return self._open(relative, max((min(at + n, HEAD) for at, n in ranges if at < HEAD), default=1))

    def _open(self, relative: str, head: int) -> Any:
        address = self.address(relative)
        if self._cache is not None:
            file = self._cache.open(address, self.client)
        else:
            file = RemoteFile(self.client.open(address, head=head), self.client, address, head)
        if relative == self.name:
            self._moved_to(file.final_url)
        return file

    def _moved_to(self, final_url: str) -> None:
        """Files beside the one asked for are looked for where redirects led."""
        final = split_url(final_url)
        same_host = (final.scheme, final.netloc) == (self._base.scheme, self._base.netloc.rpartition("@")[2])
        query = self._base.query if same_host else ""
        self._base = self._base._replace(
            scheme=final.scheme, netloc=self._base.netloc if same_host else final.netloc, path=final.path, query=query
        )

    def create(self, relative: str, nbytes: int, *, durable: bool = True) -> _http.Upload:
        """A writer that sends a file as one request's body; nothing is sent before the first byte is written."""
        return self.client.upload(
            self.address(relative),
            method=self.options.method or "PUT",
            headers=[("Content-Type", "application/octet-stream")],
            size=nbytes,
        )

    def exists(self, relative: str) -> bool:
        """By a HEAD request."""
        try:
            self.client.request("HEAD", self.address(relative))
        except (NotFoundError, AccessError):
            return False
        return True

    def list(self) -> Iterable[str]:
        """UnsupportedFeatureError: HTTP has no listing."""
        raise UnsupportedFeatureError("an HTTP server does not list its files", url=redacted(self.url))

    def delete(self, relative: str) -> None:
        """By a DELETE request; NotFoundError."""
        self.client.request("DELETE", self.address(relative))
