"""The models of a server: listed by the JSON API of ``weightlift serve`` (docs/server.md), removed by DELETE."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urljoin

from weightlift._handlers import MODEL_JSON
from weightlift._json import loads
from weightlift._urls import redacted, split_url
from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.types import ModelArtifactsInfo

__all__ = ["HttpModels", "document_url"]

MAX_LIST = 64 << 20


def document_url(url: str) -> str:
    """Where the ``model.json`` of a model is, given the URL that it was uploaded to, or its own."""
    parts = split_url(url)
    if parts.path.endswith(".json"):
        return url
    return parts._replace(path=f"{parts.path.rstrip('/')}/{MODEL_JSON}").geturl()


class HttpModels:
    """The manager of ``http://`` and ``https://`` URLs; options are those of ``wl.http``."""

    def list(self, url: str | None, options: Mapping[str, Any]) -> dict[str, ModelArtifactsInfo]:
        """The models of the server at a URL; none without one. Sizes are of weights only, 0 for what is broken."""
        if url is None:
            return {}
        address = urljoin(url, "/api/models")
        answer = _client(url, options).request("GET", address, limit=MAX_LIST)
        try:
            value = loads(answer.body, what="the list of models", max_bytes=MAX_LIST)
            return {urljoin(url, m["url"]): _info(m) for m in value["models"]}
        except (FormatError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise UnsupportedFeatureError(
                "the server does not list its models as `weightlift serve` does", url=redacted(address)
            ) from error

    def remove(self, url: str, options: Mapping[str, Any]) -> None:
        """Ask the server to remove a model."""
        _client(url, options).request("DELETE", self.place(url, options))

    def place(self, url: str, options: Mapping[str, Any]) -> str:
        """The URL of the model itself."""
        parts = split_url(url)
        path = parts.path.removesuffix(f"/{MODEL_JSON}").rstrip("/")
        return parts._replace(path=path, fragment="").geturl()


def _client(url: str, options: Mapping[str, Any]) -> Any:
    from weightlift.stores._http import HttpOptions

    return HttpOptions.of(options, url).client(url)


def _info(model: Mapping[str, Any]) -> ModelArtifactsInfo:
    saved = datetime.fromisoformat(model["modified"].replace("Z", "+00:00")).astimezone(timezone.utc)
    weights = sum(f["bytes"] for f in model.get("files", ()) if f["name"] != MODEL_JSON)
    return ModelArtifactsInfo(saved, weight_data_bytes=weights)
