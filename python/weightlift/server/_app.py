"""The application: routes over a library, behind the guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from weightlift.server._errors import HTTPException, error_response
from weightlift.server._guard import Guard
from weightlift.server._library import Library
from weightlift.server._routes import Routes
from weightlift.server._settings import Settings

__all__ = ["create_app"]


def create_app(settings: Settings) -> ASGIApp:
    """An ASGI application that serves ``settings.root``; any ASGI server can run it.

    Raises:
        SettingsError: The directory is not there, cannot be written to, or is being served already.
    """
    library = Library(settings.root, read_only=settings.read_only, quota=settings.quota)
    library.start()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            library.stop()

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return error_response(error.status_code, error.detail, dict(error.headers or {}))

    app = Starlette(
        routes=Routes(library, settings).table(), lifespan=lifespan, exception_handlers={HTTPException: refuse}
    )
    app.router.redirect_slashes = False
    return Guard(app, settings)
