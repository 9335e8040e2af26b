"""A model as one multipart request, as TensorFlow.js's ``tf.io.http(url)`` uploads it.

Protocol (docs/formats/tfjs.md): ``multipart/form-data`` with a part ``model.json`` (file name ``model.json``,
application/json), whose manifest calls the weights ``./model.weights.bin``, then a part ``model.weights.bin`` (that
file name, application/octet-stream). The caller's own fields go before them, where servers that decide by them
look. The weights are sent as they are produced; no body is built in memory.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from weightlift._urls import encoded, redacted
from weightlift.errors import NotFoundError, UnsupportedFeatureError
from weightlift.stores._http import HttpOptions

if TYPE_CHECKING:
    from weightlift import _http

__all__ = ["FormStore"]

JSON_FIELD = "model.json"
WEIGHTS_FIELD = "model.weights.bin"


class FormStore:
    """Where one model is written: its document first, then its weights, in one request.

    Args:
        url: Where it is sent.
        options: How.
        form: Further fields.

    Attributes:
        weight_bytes: How many bytes of weights were.
        upload: The request.
    """

    keeps_sidecars = False

    def __init__(
        self,
        url: str,
        options: HttpOptions,
        form: Mapping[str, str] | None = None,
    ) -> None:
        """Asks nothing of the server yet."""
        self.url = encoded(url)
        self.weight_bytes = 0
        self.upload: _http.Upload | None = None
        self._options = options
        self._client = options.client(self.url)
        self._form = dict(form or {})
        self._document = b""
        self._boundary = f"----weightlift{secrets.token_hex(16)}"

    def path(self, relative: str) -> str:
        """The URL: all files go there."""
        return redacted(self.url)

    def stored_name(self, planned: str) -> str:
        """What the document calls a data file."""
        return f"./{WEIGHTS_FIELD}"

    def begin(self, document: bytes) -> None:
        """Take the model's document, which goes first."""
        self._document = document

    def finish(self) -> None:
        """Send the document of a model that has no weights, whose file nobody created."""
        if self.upload is None:
            self.create(WEIGHTS_FIELD, 0).commit()

    def create(self, relative: str, nbytes: int, *, durable: bool = True) -> _http.Upload:
        """The writer of the weights; its commit waits for the server's answer."""
        if self.upload is not None:
            raise UnsupportedFeatureError("an upload has one file of weights: leave shard_size out", url=self.path(""))
        self.weight_bytes = nbytes
        head = b"".join(self._part(name, value.encode()) for name, value in self._form.items())
        head += self._part(JSON_FIELD, self._document, file=JSON_FIELD, kind="application/json")
        head += self._part(WEIGHTS_FIELD, b"", file=WEIGHTS_FIELD, kind="application/octet-stream")[:-2]
        self.upload = self._client.upload(
            self.url,
            method=self._options.method or "POST",
            headers=[("Content-Type", f"multipart/form-data; boundary={self._boundary}")],
            size=nbytes,
            prefix=head,
            suffix=f"\r\n--{self._boundary}--\r\n".encode(),
        )
        return self.upload

    def _part(self, field: str, body: bytes, *, file: str | None = None, kind: str | None = None) -> bytes:
        lines = [f"--{self._boundary}", f'Content-Disposition: form-data; name="{_quoted(field)}"']
        if file is not None:
            lines[-1] += f'; filename="{_quoted(file)}"'
        if kind is not None:
            lines.append(f"Content-Type: {kind}")
        return "\r\n".join([*lines, "", ""]).encode() + body + b"\r\n"

    def open(self, relative: str) -> Any:
        """NotFoundError: what is sent is not kept here."""
        raise NotFoundError("an upload cannot be read back", url=self.path(relative))

    def exists(self, relative: str) -> bool:
        """Nothing is there before."""
        return False

    def list(self) -> Iterable[str]:
        """Nothing."""
        return ()

    def delete(self, relative: str) -> None:
        """NotFoundError."""
        raise NotFoundError("an upload cannot be deleted", url=self.path(relative))


def _quoted(text: str) -> str:
    """As browsers write names in multipart headers (HTML, "Multipart form data")."""
    return text.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
