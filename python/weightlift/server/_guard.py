"""Who may do what: the checks before any request reaches the rest, and the headers that every answer carries.

In this order: the Host header (a page elsewhere whose name is made to point here, "DNS rebinding", is refused), the
client's rate, CORS preflights, writes on behalf of other sites' pages (CSRF), the token, and read-only servers.

CORS is one step of that order; Starlette's ``CORSMiddleware`` would stand before all of it, so that preflights cost
nothing of a client's rate and are answered under any Host, or behind it, so that pages could not read a refusal.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weightlift.server._body import Body
from weightlift.server._bucket import Buckets
from weightlift.server._errors import error_response
from weightlift.server._settings import Settings

__all__ = ["Guard"]

_READS = ("GET", "HEAD", "OPTIONS")
_WRITES = ("POST", "PUT", "DELETE", "PATCH")
_CHECKS = re.compile(r"/api/.*verify\Z")
"""Requests that change nothing, though they are POST: they take time."""

_FAILED_TOKEN_COST = 50.0
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/@\s]+)(?::\d+)?\Z")

_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
_EXPOSED = "ETag, Content-Range, Accept-Ranges, Content-Length, Last-Modified, Location, Retry-After"
_ALLOWED_HEADERS = (
    "Authorization, Content-Type, Range, If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, If-Range"
)


class Guard:
    """An ASGI application around another.

    Args:
        app: Answers what is let through.
        settings: Of the server.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """See the class."""
        self._app = app
        self._settings = settings
        self._buckets = Buckets(settings.rate)
        own = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}
        self._hosts = own | {h.lower() for h in settings.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, and answer or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = Body(headers, receive, send)
        receive, guarded = body.receive, self._with_headers(headers, body.send)
        refusal = self._check(scope, headers)
        if refusal is None:
            await self._app(scope, receive, guarded)
        else:
            await refusal(scope, receive, guarded)

    # --- the checks ---
    def _check(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a request that goes no further."""
        client = (scope.get("client") or ("",))[0]
        wait = self._buckets.take(client)
        if wait:
            return error_response(429, "too many requests", {"Retry-After": str(int(wait) + 1)})
        if not self._host_allowed(headers.get("host", "")):
            return error_response(
                421, f"this server is not called {headers.get('host', '')[:100]!r}; --allow-host gives it further names"
            )
        method = scope["method"]
        if method == "OPTIONS":
            return self._preflight(headers)
        if method not in (*_READS, *_WRITES):
            return error_response(405, f"{method} is not offered")
        right = self._token_right(headers)
        if right is False:
            self._buckets.charge(client, _FAILED_TOKEN_COST)
            return error_response(401, "the token is wrong", {"WWW-Authenticate": "Bearer"})
        if method in _WRITES and not right and not self._same_site(headers):
            return error_response(403, "a page of another site may not write here without a token")
        writes = method in _WRITES and not _CHECKS.match(scope["path"])
        if writes and self._settings.read_only:
            return error_response(403, "this server is read-only")
        needed = self._settings.token is not None and (writes or self._settings.private)
        if needed and not right and not self._is_page(scope["path"]):
            return error_response(401, "this needs the server's token", {"WWW-Authenticate": "Bearer"})
        return None

    def _host_allowed(self, host: str) -> bool:
        """Addresses cannot be made to point elsewhere; names can, so only the server's own are accepted."""
        found = _HOST.match(host.lower())
        if found is None:
            return False
        name = found.group(1)
        try:
            ipaddress.ip_address(name.strip("[]"))
            return True
        except ValueError:
            return "*" in self._hosts or name in self._hosts or name.endswith(".localhost")

    def _token_right(self, headers: Headers) -> bool | None:
        """None: none was sent, or none is asked for."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if self._settings.token is None or scheme.lower() != "bearer":
            return None
        return hmac.compare_digest(token.strip().encode(), self._settings.token.encode())

    def _same_site(self, headers: Headers) -> bool:
        """Whether a write comes from no page at all, from our own, or from an origin that CORS names."""
        origin, fetch_site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is None or fetch_site == "same-origin":
            return fetch_site in (None, "none", "same-origin")
        return origin.partition("://")[2] == headers.get("host", "") or origin in self._settings.cors

    @staticmethod
    def _is_page(path: str) -> bool:
        """The page itself holds nothing secret; it asks for the token."""
        return path == "/" or path.startswith("/page/")

    # --- CORS ---
    def _origin_allowed(self, headers: Headers) -> str | None:
        origin = headers.get("origin")
        if origin is not None and (origin in self._settings.cors or "*" in self._settings.cors):
            return origin if origin in self._settings.cors else "*"
        return None

    def _preflight(self, headers: Headers) -> Response:
        if "access-control-request-method" not in headers:
            return Response(None, 204, {"Allow": ", ".join((*_READS, *_WRITES[:-1]))})
        if self._origin_allowed(headers) is None:
            return error_response(403, "this server does not let pages of that origin use it (--cors)")
        return Response(
            None,
            204,
            {
                "Access-Control-Allow-Methods": ", ".join((*_READS, *_WRITES[:-1])),
                "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
                "Access-Control-Max-Age": "600",
            },
        )

    def _with_headers(self, headers: Headers, send: Send) -> Send:
        """``send``, with the headers that every answer carries."""
        allowed = self._origin_allowed(headers)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in _SECURITY.items():
                    answer.setdefault(name, value)
                if self._settings.cors:
                    answer.add_vary_header("Origin")
                    answer["Cross-Origin-Resource-Policy"] = "cross-origin"
                else:
                    answer["Cross-Origin-Resource-Policy"] = "same-origin"
                if allowed is not None:
                    answer["Access-Control-Allow-Origin"] = allowed
                    answer["Access-Control-Expose-Headers"] = _EXPOSED
            await send(message)

        return guarded
