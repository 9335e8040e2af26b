"""What a ``model.json`` is made of, as dataclasses: keys and their orders, weight entries, training configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any, Literal

__all__ = [
    "CONVERTER_GRAPH",
    "DOCUMENT_KEYS",
    "WRITERS",
    "JsonMapping",
    "Quantization",
    "TrainingConfig",
    "WeightSpec",
    "Writer",
    "json_bytes",
    "plain",
]

DOCUMENT_KEYS = {
    "model_topology": "modelTopology",
    "format": "format",
    "generated_by": "generatedBy",
    "converted_by": "convertedBy",
    "training_config": "trainingConfig",
    "signature": "signature",
    "user_defined_metadata": "userDefinedMetadata",
    "model_initializer": "modelInitializer",
    "initializer_signature": "initializerSignature",
}
"""Fields of ModelArtifacts, and their keys in a ``model.json``."""

Writer = Literal["tfjs", "tfjs-node", "converter"]

WRITERS: Mapping[Writer, tuple[str, ...]] = {
    "tfjs": (
        "modelTopology", "format", "generatedBy", "convertedBy", "weightsManifest", "signature", "userDefinedMetadata",
        "modelInitializer", "initializerSignature", "trainingConfig",
    ),
    "tfjs-node": (
        "modelTopology", "weightsManifest", "format", "generatedBy", "convertedBy", "trainingConfig", "signature",
        "userDefinedMetadata", "modelInitializer", "initializerSignature",
    ),
    "converter": (
        "format", "generatedBy", "convertedBy", "signature", "userDefinedMetadata", "modelTopology", "weightsManifest",
        "trainingConfig", "modelInitializer", "initializerSignature",
    ),
}  # fmt: skip
"""Orders of a document's keys: of TensorFlow.js over HTTP and for downloads, of tfjs-node's files (it forgets the last
two), of the Python converter for layers models."""

CONVERTER_GRAPH = (
    "format", "generatedBy", "convertedBy", "signature", "modelTopology", "userDefinedMetadata", "modelInitializer",
    "initializerSignature", "weightsManifest",
)  # fmt: skip
"""The order of the Python converter for graph models."""


def plain(value: Any) -> Any:
    """A value with the dataclasses in it as JSON has them; the same value where there are none."""
    if isinstance(value, JsonMapping):
        return value.to_json()
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def json_bytes(value: object) -> int:
    """UTF-8 length of the compact JSON text, as JavaScript's JSON.stringify would make it."""
    value = plain(value)
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return len(text) + sum(_javascript_excess(f) for f in _floats(value))


def _floats(value: object) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from _floats(member)
    elif isinstance(value, (list, tuple)):
        for member in value:
            yield from _floats(member)


def _javascript_excess(value: float) -> int:
    """How many characters more JavaScript needs for a number than Python: 1.0 is 1 there, 1e-07 is 1e-7."""
    if not isfinite(value):
        return len("null") - len(json.dumps(value))
    text = repr(value)
    digits, _, exponent = text.partition("e")
    if not exponent:
        return (-3 if text == "-0.0" else -2) if text.endswith(".0") else 0
    power, digits = int(exponent), digits.lstrip("-")
    if power < -6 or power >= 21:
        return len(f"{power:+d}") - len(exponent)
    fraction = len(digits.partition(".")[2])
    length = len("0.") - power + fraction if power < 0 else power + 1
    return length - len(text.lstrip("-"))


class JsonMapping(Mapping[str, Any]):
    """A dataclass that is also the mapping which its JSON is, so that it goes wherever that goes."""

    def to_json(self) -> dict[str, Any]:
        """The JSON object, in TensorFlow.js's key names and order."""
        raise TypeError(f"{type(self).__name__} has no JSON")

    def __getitem__(self, key: str) -> Any:
        """A value of the JSON object."""
        return self.to_json()[key]

    def __iter__(self) -> Iterator[str]:
        """Keys of the JSON object, in order."""
        return iter(self.to_json())

    def __len__(self) -> int:
        """How many keys."""
        return len(self.to_json())


@dataclass(frozen=True, eq=False)
class Quantization(JsonMapping):
    """How a weight is quantised: ``quantization`` of a manifest entry.

    Attributes:
        dtype: Stored type: ``"uint8"``, ``"uint16"`` or ``"float16"``.
        min: Added to ``stored * scale``; None for float16.
        scale: See ``min``.
        original_dtype: What the converter notes; TensorFlow.js ignores it.
    """

    dtype: str
    min: float | None = None
    scale: float | None = None
    original_dtype: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The converter's key order; what is None is left out."""
        return {k: v for k, v in vars(self).items() if v is not None}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Quantization:
        """The object of a manifest entry."""
        return cls(raw["dtype"], raw.get("min"), raw.get("scale"), raw.get("original_dtype"))


_ITEM_BYTES = {"float32": 4, "int32": 4, "bool": 1, "complex64": 8, "uint8": 1, "uint16": 2, "float16": 2}


@dataclass(frozen=True, eq=False)
class WeightSpec(JsonMapping):
    """An entry of ``weightsManifest``, as TensorFlow.js's ``WeightsManifestEntry``: a weight without its bytes.

    Attributes:
        name: Unique in its model.
        shape: In elements.
        dtype: As TensorFlow.js decodes it: float32, int32, bool, string or complex64.
        group: ``"optimizer"`` for an optimizer's state, else None or ``"model"``.
        quantization: How it is stored, if not as ``dtype``.

    Example:
        >>> WeightSpec("dense/kernel", (3, 2)).to_json()
        {'name': 'dense/kernel', 'shape': [3, 2], 'dtype': 'float32'}
        >>> WeightSpec("w", (9,), quantization=Quantization("uint8", 0.0, 0.5)).nbytes
        9
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    group: str | None = None
    quantization: Quantization | None = None

    @property
    def nbytes(self) -> int | None:
        """Stored bytes; None for strings, whose sizes are in the data."""
        stored = self.dtype if self.quantization is None else self.quantization.dtype
        item = _ITEM_BYTES.get(stored)
        return None if item is None else prod(self.shape) * item

    def to_json(self) -> dict[str, Any]:
        """Key order: name, shape, dtype, group, quantization; the last two only where there is something."""
        entry: dict[str, Any] = {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}
        if self.group is not None:
            entry["group"] = self.group
        if self.quantization is not None:
            entry["quantization"] = self.quantization.to_json()
        return entry

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> WeightSpec:
        """The entry of a manifest."""
        quantization = raw.get("quantization")
        return cls(
            raw["name"],
            tuple(raw["shape"]),
            raw["dtype"],
            raw.get("group"),
            None if quantization is None else Quantization.from_json(quantization),
        )


@dataclass(frozen=True, eq=False)
class TrainingConfig(JsonMapping):
    """How a layers model is trained: ``trainingConfig`` of a ``model.json``.

    Attributes:
        optimizer_config: ``{"class_name": "Adam", "config": {"learning_rate": ...}}``; every option must be there.
        loss: A name, a list of names, or names by output.
        metrics: A list of names, or names by output.
        sample_weight_mode: TensorFlow.js does not load a model where it, or one of the next two, is not None.
        loss_weights: See there.
        weighted_metrics: See there.

    Example:
        >>> TrainingConfig({"class_name": "SGD", "config": {"learning_rate": 0.1}}, "hinge").to_json()["loss"]
        'hinge'
    """

    optimizer_config: Mapping[str, Any]
    loss: Any = None
    metrics: Any = None
    sample_weight_mode: Any = None
    loss_weights: Any = None
    weighted_metrics: Any = None

    def to_json(self) -> dict[str, Any]:
        """TensorFlow.js's key order: loss, metrics, optimizer_config; of the rest only what is not None."""
        first = {"loss": self.loss, "metrics": self.metrics or {}, "optimizer_config": dict(self.optimizer_config)}
        rest = ("sample_weight_mode", "loss_weights", "weighted_metrics")
        return first | {key: getattr(self, key) for key in rest if getattr(self, key) is not None}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> TrainingConfig:
        """The object of a ``model.json``; keys that TensorFlow.js does not know are left out."""
        known = ("loss", "metrics", "sample_weight_mode", "loss_weights", "weighted_metrics")
        return cls(raw.get("optimizer_config") or {}, **{key: raw.get(key) for key in known})
