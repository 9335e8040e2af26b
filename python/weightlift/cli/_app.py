"""The command group, and how every command ends.

A command prints its result and returns; one with a negative result raises ``Exit(ExitCode.NEGATIVE)``.
Whatever else comes out of it becomes one line on standard error and an exit code, here and nowhere else.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click
from click.exceptions import Abort, Exit

import weightlift as wl
from weightlift.cli._errors import ExitCode, did_you_mean, report
from weightlift.cli._help import COMMANDS, SUMMARY, help_text

__all__ = ["app"]


class _Group(click.Group):
    """Commands imported on demand; errors and interrupts become exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"weightlift.cli._{cmd_name.replace('-', '_')}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(f"{error.message} {did_you_mean(args[0], COMMANDS)}".rstrip(), ctx) from None

    def get_help(self, ctx: click.Context) -> str:
        return help_text().rstrip("\n")

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


@click.group(
    cls=_Group,
    help=SUMMARY,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(wl.__version__, message="weightlift %(version)s")
def app() -> None:
    """Only options here; the commands do the work."""
