"""The command group: its options, its commands, and how every command ends.

A command prints its result and returns; one with a negative result raises ``Exit(ExitCode.NEGATIVE)``.
Whatever else comes out of it becomes one line on standard error and an exit code, here and nowhere else.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click
from click.exceptions import Abort, Exit

from weightlift.cli._errors import ExitCode, report

__all__ = ["app"]

_COMMANDS = {
    "inspect": "List the tensors of weight files.",
    "convert": "Write weights in another format, dtype or sharding.",
    "verify": "Check weight files against their checksums.",
    "diff": "Compare two weight files, tensor by tensor.",
    "cat": "Show one tensor: statistics, histogram, values.",
    "demo": "Show on this machine that it works, and how fast.",
}
"""Each lives in a module of its name, imported when it is called."""


class _Group(click.Group):
    """Commands imported on demand; errors and interrupts become exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"weightlift.cli._{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except (Exit, click.ClickException):
            raise
        except (KeyboardInterrupt, Abort):
            click.echo("interrupted", err=True)
            raise Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            _forget_stdout()
            raise Exit(ExitCode.BROKEN_PIPE) from None
        except Exception as error:
            report(error)
            raise Exit(ExitCode.ERROR) from None


def _forget_stdout() -> None:
    """Nobody reads any more: let the interpreter's last flush go nowhere instead of failing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version() -> str:
    try:
        return version("weightlift")
    except PackageNotFoundError:
        return "(not installed)"


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 all is well; 1 a negative result (corrupt, different); 2 wrong usage; "
    "3 an error in a file or its storage; 130 interrupted.",
)
@click.version_option(_version(), message="weightlift %(version)s")
def app() -> None:
    """Save and load model weights: any format, at the speed of the hardware, verified."""
