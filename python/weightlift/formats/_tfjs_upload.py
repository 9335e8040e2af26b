"""The document of a TensorFlow.js model as ``tf.io.http`` uploads it.

It is that of the files on the disk with its keys in another order, and with numbers as JavaScript's ``JSON.stringify``
writes them, so that our upload is the same bytes as TensorFlow.js's. docs/formats/tfjs.md has the whole request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from weightlift._artifacts import WRITERS
from weightlift._packing import Checksums, Packing
from weightlift.formats import _tfjs_pack
from weightlift.formats._tfjs import TfjsFormat

__all__ = ["TfjsUpload", "as_javascript"]

UPLOAD_KEYS = WRITERS["tfjs"]
"""Keys of an uploaded document in TensorFlow.js's order, which is not that of its files on the disk."""

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?')


class TfjsUpload(TfjsFormat):
    """The format of one upload.

    Attributes:
        weight_specs: As the document lists the weights; known once that is written.
    """

    def __init__(self) -> None:
        """For one upload."""
        self.weight_specs: Sequence[Mapping[str, Any]] = ()

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """As ``Format.manifest``: the JSON document."""
        self.weight_specs = _tfjs_pack.weight_specs(packing)
        return as_javascript(_tfjs_pack.manifest(packing, checksums, names, UPLOAD_KEYS))


def as_javascript(text: bytes) -> bytes:
    """JSON with its numbers as JavaScript's ``JSON.stringify`` writes them.

    Example:
        >>> as_javascript(b'{"epsilon":1e-07,"rate":1.0,"name":"1e-07"}')
        b'{"epsilon":1e-7,"rate":1,"name":"1e-07"}'
    """
    return _TOKEN.sub(_number, text)


def _number(token: re.Match[bytes]) -> bytes:
    """A number that JSON in Python and in JavaScript write differently; strings and integers stay."""
    text = token[0]
    if text[:1] == b'"' or (b"." not in text and b"e" not in text):
        return text
    value = float(text)
    if value == 0:
        return b"0"
    if not 1e-6 <= abs(value) < 1e21:
        return re.sub(rb"(e[+-])0+(?=\d)", rb"\1", text)
    plain = f"{Decimal(text.decode()):f}".encode()
    return plain.rstrip(b"0").rstrip(b".") if b"." in plain else plain
