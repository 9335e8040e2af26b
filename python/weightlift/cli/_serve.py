"""``weightlift serve``: a directory of models over HTTP, with a web page."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click
from click.exceptions import Exit

from weightlift.cli import _text
from weightlift.cli._errors import ExitCode
from weightlift.cli._terminal import paint

_NEEDED = {"starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}


@click.command("serve")
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@click.option("--token", envvar="WEIGHTLIFT_TOKEN", help="Bearer token that writes need. Better: set WEIGHTLIFT_TOKEN.")
@click.option("--private", is_flag=True, help="Reads need the token too.")
@click.option("--read-only", is_flag=True, help="No uploads, no changes; nothing is written into DIR.")
@click.option("--cors", metavar="ORIGIN", multiple=True, help="Pages of this origin may use the server; '*': may read.")
@click.option("--allow-host", "hosts", metavar="NAME", multiple=True, help="A further name of this server; '*': any.")
@click.option("--insecure", is_flag=True, help="Listen to other machines though there is no token.")
@click.option("--max-upload", type=_text.SIZE, default="16GiB", show_default=True, help="Largest upload.")
@click.option("--max-uploads", type=click.IntRange(1), default=8, show_default=True, help="Uploads at one time.")
@click.option("--quota", type=_text.SIZE, help="Most bytes that DIR may hold. Default: what the disk has.")
@click.option(
    "--rate", type=click.FloatRange(0), default=200, show_default=True, help="Requests a second a client; 0: any."
)
@click.option(
    "--timeout", type=click.FloatRange(1), default=30, show_default=True, help="Seconds of silence that end an upload."
)
@click.option("--no-checksums", is_flag=True, help="Store model.json as it was sent; add no checksums to it.")
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False), help="PEM certificate: serve HTTPS.")
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False), help="PEM key of the certificate.")
def command(directory: Path, host: str, port: int, **options: object) -> None:
    """Serve the models and weight files in DIR, take uploads from TensorFlow.js and Weightlift, show a web page.

    Only this machine is let in, unless --host says otherwise, which needs a token.
    """
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise click.ClickException(f"the server needs {', '.join(missing)}: pip install 'weightlift[server]'")
    _serve(directory, host, port, **options)  # type: ignore[arg-type]


def _serve(
    directory: Path,
    host: str,
    port: int,
    *,
    token: str | None,
    private: bool,
    read_only: bool,
    cors: tuple[str, ...],
    hosts: tuple[str, ...],
    insecure: bool,
    max_upload: int,
    max_uploads: int,
    quota: int | None,
    rate: float,
    timeout: float,
    no_checksums: bool,
    tls_cert: str | None,
    tls_key: str | None,
) -> None:
    from weightlift.server._run import serve
    from weightlift.server._settings import Settings, SettingsError

    def announce(url: str) -> None:
        rights = "read-only" if read_only else "writes need the token" if token else "anybody here may write"
        click.echo(f"Serving {_text.printable(str(directory))} at {paint(url, bold=True)} ({rights}; Ctrl-C stops)")

    try:
        settings = Settings(
            root=directory,
            token=token,
            private=private,
            read_only=read_only,
            cors=cors,
            hosts=(*hosts, host),
            max_upload=max_upload,
            max_uploads=max_uploads,
            quota=quota,
            rate=rate,
            idle_timeout=timeout,
            checksums=not no_checksums,
        )
        serve(
            settings,
            host=host,
            port=port,
            insecure=insecure,
            certificate=tls_cert,
            key=tls_key,
            announce=announce,
        )
    except SettingsError as error:
        click.echo(paint(f"Error: {error}", "red", stderr=True), err=True)
        raise Exit(ExitCode.USAGE) from None
    click.echo("Stopped.")
