"""``weightlift cp``: a model from one place to another."""

from __future__ import annotations

import weightlift as wl
from weightlift.cli._models import transfer_command

command = transfer_command(
    "cp", ("copying", "copied"), wl.copy_model, "Copy a model, between schemes too; quantised weights keep their bytes."
)
