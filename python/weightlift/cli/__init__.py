"""The command ``weightlift``; see ``docs/cli.md``.

click and rich are optional dependencies and cost time to import, so this module imports neither:
``main`` does, when it is called.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process and exit with its code."""
    missing = [name for name in ("click", "rich") if find_spec(name) is None]
    if missing:
        print(f"weightlift: the command line needs {' and '.join(missing)}: pip install 'weightlift[cli]'", file=sys.stderr)
        raise SystemExit(3)
    try:
        from weightlift.cli._app import app

        app(prog_name="weightlift")
    except KeyboardInterrupt:  # outside of any command: while Python is still importing
        raise SystemExit(130) from None
