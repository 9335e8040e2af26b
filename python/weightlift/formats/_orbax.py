"""Orbax checkpoints (JAX, Flax): recognised, and refused with a way out.

A directory of JSON about the tree, and of a database (OCDBT) in whose B-trees compressed chunks of Zarr arrays lie.
The files that tell it are known by content, so that a directory, or any of them, gets an answer that helps.

Specification: docs/formats/orbax.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from weightlift._layout import Layout
from weightlift._packing import Checksums, Packing, PackOptions, TensorSpecs
from weightlift.errors import UnsupportedFeatureError
from weightlift.protocols import Files

__all__ = ["ORBAX", "Orbax"]

_MANIFEST = b"\x0c\xdb\x3a\x2a"
_JSON = re.compile(rb'\s*\{\s*"(tree_metadata|item_handlers)"\s*:')


class Orbax:
    """The orbax format; see the module."""

    name = "orbax"
    suffixes: Sequence[str] = ("_checkpoint_metadata", "manifest.ocdbt")

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

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> dict[int, str]:
        """It is not written."""
        raise _not_written()

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """It is not written."""
        raise _not_written()

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """It is not written."""
        raise _not_written()

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """It is not written."""
        raise _not_written()


def _not_written() -> UnsupportedFeatureError:
    return UnsupportedFeatureError("Orbax checkpoints are not written; save as .safetensors or .msgpack")


ORBAX = Orbax()
"""The format, as it stands in ``FORMATS``."""
