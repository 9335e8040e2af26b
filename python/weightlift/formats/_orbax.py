"""Orbax checkpoints (JAX, Flax): recognised, and refused with a way out.

A directory of JSON about the tree, and of a database (OCDBT) in whose B-trees compressed chunks of Zarr arrays lie.
The files that tell it are known by content, so that a directory, or any of them, gets an answer that helps.

Specification: docs/formats/orbax.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from weightlift._layout import Layout
from weightlift.errors import UnsupportedFeatureError
from weightlift.formats._read_only import ReadOnly
from weightlift.protocols import Files

__all__ = ["ORBAX", "Orbax"]

_MANIFEST = b"\x0c\xdb\x3a\x2a"
_JSON = re.compile(rb'\s*\{\s*"(tree_metadata|item_handlers)"\s*:')


class Orbax(ReadOnly):
    """The orbax format; see the module."""

    name = "orbax"
    suffixes: Sequence[str] = ("_checkpoint_metadata", "manifest.ocdbt")
    instead = "Orbax checkpoints are not written; save as .safetensors or .msgpack"

    def sniff(self, head: bytes, size: int) -> bool:
        """The manifest of a database, or JSON that begins as Orbax's."""
        return head.startswith(_MANIFEST) or _JSON.match(head) is not None

    def read(self, files: Files, name: str) -> Layout:
        """UnsupportedFeatureError, with what to do."""
        raise UnsupportedFeatureError(
            "an Orbax checkpoint, whose arrays are compressed in a database (OCDBT), is not read; restore it by "
            "orbax.checkpoint and save the tree that this gives by weightlift.save(tree, 'model.safetensors')",
            path=files.open(name).name,
        )


ORBAX = Orbax()
"""The format, as it stands in ``FORMATS``."""
