"""``python -m weightlift`` is the command ``weightlift``."""

from weightlift.cli import main

main()
