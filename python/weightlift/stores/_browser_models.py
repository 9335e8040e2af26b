"""What a browser's store keeps of a model, and the ``model.json`` that is the same model.

TensorFlow.js keeps the parts of a model apart: topology, weight specs, weight data, and the rest. This module takes a
``model.json`` apart and puts it together again, so that stores look like directories with two files: ``model.json`` and
``weights.bin``. Nothing here knows where the parts are kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from weightlift._json import as_javascript, loads
from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError
from weightlift.stores._paths import check_relative
from weightlift.types import ModelArtifactsInfo

__all__ = ["DOCUMENT", "METADATA_KEYS", "WEIGHTS", "Parts", "info_of", "listed", "model_path", "stringify"]

DOCUMENT = "model.json"
WEIGHTS = "weights.bin"

METADATA_KEYS = (
    "format", "generatedBy", "convertedBy", "signature", "userDefinedMetadata", "modelInitializer",
    "initializerSignature", "trainingConfig",
)  # fmt: skip
"""TensorFlow.js's order of what goes beside topology and weights; keys that it does not know follow."""

MAX_JSON = 256 << 20
MAX_DEPTH = 200

_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)


def stringify(value: Any) -> str:
    """JSON as JavaScript's ``JSON.stringify`` writes it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return as_javascript(text.encode()).decode()


def parsed(text: str | bytes, what: str) -> Any:
    """The value of a JSON text; FormatError says what it is that is broken."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return loads(data, what=what, max_bytes=MAX_JSON, max_depth=MAX_DEPTH)


def model_path(url: str) -> str:
    """The path that a URL gives a model: what is after ``scheme://``, without slashes at its end.

    Raises:
        UnsafeContentError: Empty, or one that would lead out of a directory.
    """
    path = url.partition("://")[2].rstrip("/")
    if "://" in path:
        raise UnsafeContentError(f"the path {path!r} holds '://', after which TensorFlow.js drops the rest", url=url)
    return check_relative(path)


@dataclass(frozen=True)
class Parts:
    """A model without the bytes of its weights.

    Attributes:
        topology: ``modelTopology``.
        specs: Entries of the weights manifest, of all groups.
        rest: All other keys, TensorFlow.js's first.
    """

    topology: Any
    specs: Sequence[Any]
    rest: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, document: bytes, scheme: str) -> Parts:
        """Of a ``model.json`` that is being saved."""
        try:
            value = parsed(document, DOCUMENT)
        except FormatError as error:
            raise UnsupportedFeatureError(
                f"{scheme}:// URLs hold models of TensorFlow.js, and this is none ({error.message}): leave format= out"
            ) from None
        if not isinstance(value, dict) or "weightsManifest" not in value:
            raise UnsupportedFeatureError(f"{scheme}:// URLs hold models of TensorFlow.js: leave format= out")
        specs = [entry for group in value["weightsManifest"] for entry in group["weights"]]
        keys = [k for k in METADATA_KEYS if k in value]
        keys += [k for k in value if k not in ("modelTopology", "weightsManifest", *keys)]
        return cls(value.get("modelTopology"), specs, {k: value[k] for k in keys})

    def document(self, data_bytes: int) -> bytes:
        """The ``model.json`` of a model with so many bytes of weights."""
        manifest = [{"paths": [WEIGHTS] if data_bytes else [], "weights": list(self.specs)}]
        value = {"modelTopology": self.topology, "weightsManifest": manifest, **self.rest}
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")

    def info(self, data_bytes: int) -> ModelArtifactsInfo:
        """Sizes as TensorFlow.js counts them, and now as the date."""
        sizes = [0 if v is None else len(stringify(v).encode()) for v in (self.topology, list(self.specs))]
        return ModelArtifactsInfo(datetime.now(timezone.utc), "JSON", sizes[0], sizes[1], data_bytes)


def listed(text: str) -> ModelArtifactsInfo:
    """The info that a list shows of a stored one: of a damaged one the date is 1970 and all sizes are 0."""
    try:
        return info_of(parsed(text, "info"), "info")
    except FormatError:
        return ModelArtifactsInfo(datetime.fromtimestamp(0, timezone.utc))


def info_of(raw: Any, what: str) -> ModelArtifactsInfo:
    """The info that a store holds, typed; FormatError for anything else."""
    names = ("modelTopologyBytes", "weightSpecsBytes", "weightDataBytes")
    date = raw.get("dateSaved") if isinstance(raw, dict) else None
    if not isinstance(date, str) or not _DATE.fullmatch(date):
        raise FormatError(f"{what} is not what TensorFlow.js notes of a model: dateSaved is {date!r}, no ISO 8601 date")
    for name in names:
        if type(raw.get(name, 0)) is not int or raw.get(name, 0) < 0:
            raise FormatError(f"{what} is not what TensorFlow.js notes of a model: {name} is {raw[name]!r}")
    try:
        return ModelArtifactsInfo.from_json(raw)
    except ValueError as error:
        raise FormatError(f"{what}: dateSaved is {date!r}, no date") from error
