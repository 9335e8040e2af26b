"""The document of a TensorFlow.js model as ``tf.io.http`` uploads it.

It is that of the files on the disk with its keys in another order, and with numbers as JavaScript's ``JSON.stringify``
writes them, so that our upload is the same bytes as TensorFlow.js's. docs/formats/tfjs.md has the whole request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weightlift._artifacts import WRITERS
from weightlift._json import as_javascript
from weightlift._packing import Checksums, Packing
from weightlift.formats import _tfjs_pack
from weightlift.formats._tfjs import TfjsFormat

__all__ = ["TfjsUpload", "as_javascript"]

UPLOAD_KEYS = WRITERS["tfjs"]
"""Keys of an uploaded document in TensorFlow.js's order, which is not that of its files on the disk."""


class TfjsUpload(TfjsFormat):
    """The format of one upload, or download.

    Args:
        weights: What the document calls the weights file, whatever the store calls it.
        always: Name it in the document of a model whose weights have no bytes, too, as TensorFlow.js does: it is sent.

    Attributes:
        weight_specs: As the document lists the weights; known once that is written.
    """

    def __init__(self, *, weights: str, always: bool = False) -> None:
        """For one upload."""
        self.weight_specs: Sequence[Mapping[str, Any]] = ()
        self._weights = weights
        self._always = always

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """As ``Format.manifest``: the JSON document."""
        self.weight_specs = _tfjs_pack.weight_specs(packing)
        names = dict.fromkeys((f.name for f in packing.files), self._weights)
        without_bytes = [self._weights] if self._always else []
        document = _tfjs_pack.manifest(packing, checksums, names, UPLOAD_KEYS, without_bytes=without_bytes)
        return as_javascript(document)
