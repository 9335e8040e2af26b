"""The compiled HTTP client (cpp/bindings/http). Private: use it through ``stores``. Loads libcurl.

Everywhere: NotFoundError for 404 and 410, AccessError for 401 and 403, TransportError (``.url .status .attempts``)
for what else went wrong on the wire, ValueError for URLs and headers that cannot be sent. Signal handlers run
about every 50 ms while a call waits, and may raise. URLs in names and errors have no user-info and no query.
"""

import os
from collections.abc import Sequence
from typing import Any, Literal

from weightlift import _core

Headers = Sequence[tuple[str, str]]
_Path = str | bytes | os.PathLike[str]

class Options:
    """How to connect; frozen.

    Args:
        headers: Sent with every request; secret ones (authorization, cookie, x-api-key, x-…token… and the like) only
            to the scheme, host and port of the URL asked for, as are user, password, bearer token and client
            certificate.
        user: For basic authentication; goes before the user-info of a URL.
        password: Its password.
        bearer: A token.
        netrc: Look in ``$NETRC`` or ``~/.netrc`` for hosts without other credentials.
        ca_file: Certificates to trust, PEM, instead of the system's.
        client_cert: PEM; with its key, if ``client_key`` is not given.
        client_key: PEM.
        tls_verify: False trusts any certificate.
        proxy: None takes ``http_proxy`` etc. from the environment; "" is none.
        connect_timeout: Seconds.
        stall_timeout: Seconds without a byte either way; 0 waits for ever.
        total_timeout: Seconds for one call with all its attempts; 0 is no limit.
        attempts: In a row without 64 KiB of progress, for each part; four times as many in all.
        backoff: Seconds before the second attempt; doubles, with full jitter, up to 20 s. Retry-After is obeyed.
        max_redirects: Followed for one request.
        connections: Ranges read at once, 1 to 16; 0 finds out how many pay.
        part_bytes: Bytes of one range in a plan; 0 finds out.
        http_version: "auto" is 1.1; "2" negotiates HTTP/2 over TLS.
        home: A URL to whose scheme, host and port alone secrets go; "": to those of each URL that is asked for.
        method: Of ``open`` and ``get``.
        body: Sent by ``open`` and ``get``.
    """

    def __init__(
        self,
        *,
        headers: Headers = ...,
        user: str | None = None,
        password: str | None = None,
        bearer: str | None = None,
        netrc: bool = False,
        ca_file: _Path | None = None,
        client_cert: _Path | None = None,
        client_key: _Path | None = None,
        tls_verify: bool = True,
        proxy: str | None = None,
        connect_timeout: float = 30,
        stall_timeout: float = 20,
        total_timeout: float = 0,
        attempts: int = 6,
        backoff: float = 0.2,
        max_redirects: int = 10,
        connections: int = 0,
        part_bytes: int = 0,
        http_version: Literal["auto", "1.1", "2"] = "auto",
        home: str = "",
        method: str = "GET",
        body: Any | None = None,
    ) -> None: ...
    @property
    def netrc(self) -> bool: ...
    @property
    def tls_verify(self) -> bool: ...
    @property
    def connect_timeout(self) -> float: ...
    @property
    def stall_timeout(self) -> float: ...
    @property
    def total_timeout(self) -> float: ...
    @property
    def attempts(self) -> int: ...
    @property
    def backoff(self) -> float: ...
    @property
    def max_redirects(self) -> int: ...
    @property
    def connections(self) -> int: ...
    @property
    def part_bytes(self) -> int: ...
    @property
    def method(self) -> str: ...

class Response:
    """An answer. ``url`` is where it came from, after redirects."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> list[tuple[str, str]]: ...
    @property
    def body(self) -> bytes: ...
    @property
    def url(self) -> str: ...

class Reader(_core.Reader):
    """A remote file, pinned at ``Client.open``; ChangedError when it is another one later."""

    @property
    def final_url(self) -> str:
        """After redirects, with its query: for reaching it, not for showing."""

    @property
    def etag(self) -> str:
        """As sent; "" if there is none."""

    @property
    def last_modified(self) -> str: ...
    @property
    def content_type(self) -> str: ...
    @property
    def ranged(self) -> bool:
        """False: the server has no ranges; the body comes once, in order, and is kept."""

    @property
    def identity(self) -> str:
        """The same text as long as URL, ETag (else Last-Modified) and size are the same."""

class Upload(_core.Writer):
    """The body of one request; ``write_at`` in ascending order without gaps, from any number of threads."""

    def again(self) -> bool:
        """After a failure: True when the body can be written once more from its first byte, and the wait is over.

        False when that would not help. The failure is raised once more when it was the last attempt.
        """

    @property
    def response(self) -> Response:
        """The answer, after ``commit``."""

class Client:
    """Keeps connections for use again; thread-safe. A process made by fork starts with none."""

    def __init__(self, options: Options = ...) -> None: ...
    def open(self, url: str, *, head: int = 65536) -> Reader:
        """Open a URL by one request for its first ``head`` bytes, which are kept."""

    def get(self, url: str, *, limit: int, headers: Headers = ...) -> Response:
        """A whole small body; FormatError when it is longer than ``limit`` bytes."""

    def request(
        self, method: str, url: str, *, body: Any | None = None, headers: Headers = ..., limit: int = ...
    ) -> Response:
        """Any request with a body in memory, or none. A status that is not 2xx is an error."""

    def upload(
        self,
        url: str,
        *,
        method: str = "PUT",
        headers: Headers = ...,
        size: int,
        prefix: bytes = b"",
        suffix: bytes = b"",
    ) -> Upload:
        """Start an upload of ``prefix``, ``size`` bytes by ``write_at``, and ``suffix``. Nothing is sent yet."""

    @property
    def requests(self) -> int: ...
    @property
    def bytes_received(self) -> int:
        """Of bodies."""

    @property
    def bytes_sent(self) -> int: ...
    @property
    def retries(self) -> int: ...
