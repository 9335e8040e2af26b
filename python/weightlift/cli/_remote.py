"""Options for URLs, the same for every command that reads or writes files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from weightlift._urls import scheme_of

__all__ = ["Remote", "remote_options"]

TOKEN_VARIABLE = "WEIGHTLIFT_TOKEN"


class _Header(click.ParamType[tuple[str, str]]):
    """``NAME: VALUE``."""

    name = "header"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        header, colon, text = str(value).partition(":")
        if not colon or not header.strip():
            self.fail(f"{value!r} is not NAME: VALUE", param, ctx)
        return header.strip(), text.strip()


class Remote:
    """What was said about URLs on the command line."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """``options`` as the library takes them."""
        self._options = options

    def of(self, *urls: str) -> dict[str, Any]:
        """The options, where one of ``urls`` is behind HTTP."""
        return dict(self._options) if any(scheme_of(url) in ("http", "https") for url in urls) else {}


def remote_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options, and their values as the argument ``remote``."""

    @click.option(
        "--header", "headers", type=_Header(), metavar="'NAME: VALUE'", multiple=True, help="URLs: send this."
    )
    @click.option("--token", envvar=TOKEN_VARIABLE, metavar="TOKEN", help=f"URLs: bearer token; or {TOKEN_VARIABLE}.")
    @click.option("--user", metavar="NAME:PASSWORD", help="URLs: basic authentication.")
    @click.option("--netrc", is_flag=True, help="URLs: take credentials from ~/.netrc.")
    @click.option("--ca-file", metavar="FILE", help="URLs: certificates to trust (PEM).")
    @click.option("--no-tls-verify", is_flag=True, help="URLs: trust any certificate. For tests only.")
    @click.option("--cache", is_flag=True, help="URLs: keep what is read in the user's cache directory.")
    @functools.wraps(function)
    def command(
        *args: Any,
        headers: Sequence[tuple[str, str]],
        token: str | None,
        user: str | None,
        netrc: bool,
        ca_file: str | None,
        no_tls_verify: bool,
        cache: bool,
        **given: Any,
    ) -> Any:
        auth: Any = token
        if user is not None:
            name, _, password = user.partition(":")
            auth = (name, password)
        options = {
            "headers": list(headers),
            "auth": auth,
            "netrc": netrc,
            "ca_file": ca_file,
            "tls_verify": not no_tls_verify,
            "cache": cache,
        }
        return function(*args, remote=Remote(options), **given)

    return command
