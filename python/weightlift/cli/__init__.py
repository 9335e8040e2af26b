"""The command ``weightlift``; see ``docs/cli.md``.

click and rich are optional dependencies and cost time to import, so this module imports neither:
``main`` does, when it is called and needs them.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process and exit with its code."""
    if sys.argv[1:] in (["-h"], ["--help"]):
        from weightlift.cli._help import help_text

        print(help_text(), end="")
        return
    missing = [name for name in ("click", "rich") if find_spec(name) is None]
    if missing:
        needed = " and ".join(missing)
        print(f"Error: the command line needs {needed}: pip install 'weightlift[cli]'", file=sys.stderr)
        raise SystemExit(3)
    try:
        from weightlift.cli._app import app

        app(prog_name="weightlift")
    except KeyboardInterrupt:  # outside of any command: while modules are still being imported
        raise SystemExit(130) from None
