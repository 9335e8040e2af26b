"""A small server of models: ``weightlift serve DIR``; see ``docs/server.md``.

A program on top of the library: it takes uploads, serves files and describes models, and leaves every question
about formats to the library. Starlette and uvicorn are optional dependencies (``weightlift[server]``); only the
command and the modules of this package import them.
"""

from weightlift.server._app import create_app
from weightlift.server._run import serve
from weightlift.server._settings import Settings

__all__ = ["Settings", "create_app", "serve"]
