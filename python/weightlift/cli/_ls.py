"""``weightlift ls``: the models that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

import weightlift as wl
from weightlift.cli import _text
from weightlift.cli._errors import ExitCode
from weightlift.cli._models import database_option, transfer_options
from weightlift.cli._options import each, echo_json, json_option
from weightlift.cli._remote import Remote, remote_options
from weightlift.cli._table import Column, Table


@click.command("ls")
@click.argument("urls", metavar="[URL]...", nargs=-1)
@database_option
@remote_options
@json_option
def command(urls: Sequence[str], database: str | None, as_json: bool, remote: Remote) -> None:
    """List models: in and below a directory, of a server, or at a URL such as indexeddb:// or localstorage://folder.

    Without a URL: those of localstorage:// and indexeddb://.
    """
    found: dict[str, wl.ModelArtifactsInfo] = {}

    def work(url: str) -> ExitCode:
        found.update(wl.list_models(url, **transfer_options(url, remote, database)))
        return ExitCode.OK

    try:
        each(urls or ("localstorage://", "indexeddb://"), work)
    finally:
        _show(found, as_json=as_json)


def _show(found: Mapping[str, wl.ModelArtifactsInfo], *, as_json: bool) -> None:
    if as_json:
        for url, info in found.items():
            document: dict[str, Any] = {"url": url, **info.to_json()}
            echo_json(document)
        return
    right = [Column(title, right=True) for title in ("weights", "topology", "saved")]
    table = Table((Column("model", fold=True), *right))
    for url, info in found.items():
        table.add(
            _text.printable(url),
            _text.size(info.weight_data_bytes),
            _text.size(info.model_topology_bytes),
            f"{info.date_saved:%Y-%m-%d %H:%M}Z",
        )
    table.show()
