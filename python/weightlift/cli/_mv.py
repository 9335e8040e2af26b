"""``weightlift mv``: a model to another place, verified there before it goes here."""

from __future__ import annotations

import weightlift as wl
from weightlift.cli._models import transfer_command

command = transfer_command(
    "mv",
    ("moving", "moved"),
    wl.move_model,
    "Move a model: copy it, read the copy back and compare it, then remove SRC.",
)
