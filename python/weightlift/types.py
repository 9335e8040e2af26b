"""Public dataclasses: what functions take and give, beside arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

__all__ = [
    "DiffReport",
    "ModelArtifacts",
    "ModelArtifactsInfo",
    "SaveResult",
    "TensorDiff",
    "TensorReport",
    "VerifyReport",
]


def _json_bytes(value: object) -> int:
    """UTF-8 length of the compact JSON text, as JavaScript's JSON.stringify would make it."""
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass"))


@dataclass
class ModelArtifacts:
    """A model between any two places, as TensorFlow.js's ``ModelArtifacts``.

    Attributes:
        model_topology: The architecture: a Keras config or a GraphDef, as JSON.
        weights: Arrays by name, in order; lazy views are fine.
        weight_specs: ``weightsManifest`` entries (name, shape, dtype, quantization), in the weights' order.
        format: ``"layers-model"`` or ``"graph-model"``.
        generated_by: Who made the model.
        converted_by: Who converted it.
        training_config: Loss, metrics and optimizer.
        signature: SignatureDef of a graph model.
        user_defined_metadata: The user's own JSON object.
        model_initializer: GraphDef that initialises tables.
        initializer_signature: Its signature.
        extra: What else the model's document holds, by its own keys.

    Example:
        >>> import numpy as np
        >>> a = ModelArtifacts(model_topology={"class_name": "Sequential"}, weights={"w": np.zeros((2, 3), "f4")})
        >>> a.info().weight_data_bytes
        24
    """

    model_topology: Mapping[str, Any] | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)
    weight_specs: Sequence[Mapping[str, Any]] | None = None
    format: str | None = None
    generated_by: str | None = None
    converted_by: str | None = None
    training_config: Mapping[str, Any] | None = None
    signature: Mapping[str, Any] | None = None
    user_defined_metadata: Mapping[str, Any] | None = None
    model_initializer: Mapping[str, Any] | None = None
    initializer_signature: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def info(self) -> ModelArtifactsInfo:
        """Sizes and date, as TensorFlow.js reports them after a save."""
        return ModelArtifactsInfo(
            date_saved=datetime.now(timezone.utc),
            model_topology_bytes=0 if self.model_topology is None else _json_bytes(self.model_topology),
            weight_specs_bytes=0 if self.weight_specs is None else _json_bytes(list(self.weight_specs)),
            weight_data_bytes=sum(int(w.nbytes) for w in self.weights.values()),
        )


@dataclass(frozen=True)
class ModelArtifactsInfo:
    """TensorFlow.js's ``ModelArtifactsInfo``: when a model was saved and how large its parts are, in bytes."""

    date_saved: datetime
    model_topology_type: str = "JSON"
    model_topology_bytes: int = 0
    weight_specs_bytes: int = 0
    weight_data_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """TensorFlow.js's key names, order and date form."""
        return {
            "dateSaved": self.date_saved.strftime("%Y-%m-%dT%H:%M:%S.") + f"{self.date_saved.microsecond // 1000:03}Z",
            "modelTopologyType": self.model_topology_type,
            "modelTopologyBytes": self.model_topology_bytes,
            "weightSpecsBytes": self.weight_specs_bytes,
            "weightDataBytes": self.weight_data_bytes,
        }


@dataclass(frozen=True)
class SaveResult:
    """What a save did.

    Attributes:
        url: Where it went.
        format: The format written.
        files: Paths or URLs written, the one to load first.
        nbytes: Bytes written, headers and all.
        tensors: How many tensors.
        crc32c: Checksum of each tensor's stored bytes, by name (empty with ``checksums=False``).
        shared: Groups of names that were one memory: ``stored_once`` says whether the format kept them so.
        stored_once: See ``shared``.
        model_artifacts_info: For models, as TensorFlow.js.
        responses: HTTP responses, where there were any.
    """

    url: str
    format: str
    files: tuple[str, ...]
    nbytes: int
    tensors: int
    crc32c: Mapping[str, int] = field(default_factory=dict)
    shared: tuple[tuple[str, ...], ...] = ()
    stored_once: bool = False
    model_artifacts_info: ModelArtifactsInfo | None = None
    responses: tuple[Any, ...] = ()


@dataclass(frozen=True)
class TensorReport:
    """One tensor's state in a :class:`VerifyReport`: ``"ok"``, ``"corrupt"`` or ``"unchecked"``."""

    name: str
    status: str
    nbytes: int
    file: str
    offset: int
    detail: str = ""


@dataclass(frozen=True)
class VerifyReport:
    """What ``verify`` found.

    Attributes:
        url: What was verified.
        format: Its format.
        tensors: One report a tensor.
        problems: What is wrong with the file as a whole.
        nbytes: Payload bytes read.
    """

    url: str
    format: str
    tensors: tuple[TensorReport, ...]
    problems: tuple[str, ...] = ()
    nbytes: int = 0

    @property
    def ok(self) -> bool:
        """Nothing is wrong (tensors without a checksum are not wrong)."""
        return not self.problems and all(t.status != "corrupt" for t in self.tensors)

    @property
    def corrupt(self) -> tuple[str, ...]:
        """Names of the tensors that do not match their checksum."""
        return tuple(t.name for t in self.tensors if t.status == "corrupt")

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Names of the tensors that carry no checksum."""
        return tuple(t.name for t in self.tensors if t.status == "unchecked")

    def __bool__(self) -> bool:
        """Same as ``ok``."""
        return self.ok


@dataclass(frozen=True)
class TensorDiff:
    """One difference: ``kind`` is ``"missing"``, ``"extra"``, ``"dtype"``, ``"shape"`` or ``"values"``.

    ``max_abs`` and ``max_rel`` are the largest absolute and relative differences of the values, ``count`` how
    many elements differ (NaN equals NaN).
    """

    name: str
    kind: str
    a: str = ""
    b: str = ""
    max_abs: float | None = None
    max_rel: float | None = None
    count: int | None = None


@dataclass(frozen=True)
class DiffReport:
    """What ``diff`` found; ``equal`` counts the tensors that are the same in both."""

    a: str
    b: str
    differences: tuple[TensorDiff, ...]
    equal: int = 0

    @property
    def same(self) -> bool:
        """No difference at all."""
        return not self.differences

    def __bool__(self) -> bool:
        """Same as ``same``."""
        return self.same
