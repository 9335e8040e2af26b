"""What formats have in common that are read, not written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weightlift._packing import Checksums, Packing, PackOptions, TensorSpecs
from weightlift.errors import UnsupportedFeatureError

__all__ = ["ReadOnly"]


class ReadOnly:
    """The writing half of a Format, which refuses.

    Attributes:
        instead: What to do instead, for the error.
    """

    instead: str

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> dict[int, str]:
        """It is not written."""
        raise UnsupportedFeatureError(self.instead)

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """It is not written."""
        raise UnsupportedFeatureError(self.instead)

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """It is not written."""
        raise UnsupportedFeatureError(self.instead)

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """It is not written."""
        raise UnsupportedFeatureError(self.instead)
