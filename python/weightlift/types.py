"""Public dataclasses: what functions take and give, beside arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import import_module
from typing import Any

from weightlift._artifacts import (
    CONVERTER_GRAPH,
    DOCUMENT_KEYS,
    WRITERS,
    Quantization,
    TrainingConfig,
    WeightSpec,
    Writer,
    json_bytes,
    plain,
)

__all__ = [
    "DiffReport",
    "LoadReport",
    "ModelArtifacts",
    "ModelArtifactsInfo",
    "Quantization",
    "SaveResult",
    "TensorDiff",
    "TensorQuantization",
    "TensorReport",
    "TfjsProblem",
    "TfjsReport",
    "TrainingConfig",
    "VerifyReport",
    "WeightSpec",
]


@dataclass
class ModelArtifacts:
    """A model between any two places, as TensorFlow.js's ``ModelArtifacts``.

    Attributes:
        model_topology: The architecture: a Keras config, a GraphDef or a symbol of MXNet's, as JSON.
        weights: Arrays by name, in order; lazy views are fine.
        weight_specs: ``weightsManifest`` entries (name, shape, dtype, quantization), in the weights' order.
        format: ``"layers-model"``, ``"graph-model"`` or ``"mxnet-symbol"``.
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

    @property
    def specs(self) -> tuple[WeightSpec, ...]:
        """``weight_specs``, typed; made of the weights where there are none."""
        if self.weight_specs is not None:
            return tuple(s if isinstance(s, WeightSpec) else WeightSpec.from_json(s) for s in self.weight_specs)
        kinds = {name: "string" if w.dtype == object else str(w.dtype) for name, w in self.weights.items()}
        return tuple(WeightSpec(name, tuple(w.shape), kinds[name]) for name, w in self.weights.items())

    def to_json(self, *, writer: Writer = "tfjs", paths: Sequence[str] = ("weights.bin",)) -> dict[str, Any]:
        """The content of ``model.json``, but for the weights' bytes.

        Args:
            writer: Whose key order: TensorFlow.js's own (``"tfjs"``: HTTP, downloads), tfjs-node's or the converter's.
            paths: Weight files that the manifest is to name.

        Example:
            >>> list(ModelArtifacts(format="layers-model").to_json(writer="tfjs-node"))
            ['modelTopology', 'weightsManifest', 'format']
        """
        manifest = [{"paths": list(paths), "weights": [s.to_json() for s in self.specs]}]
        given = {key: plain(getattr(self, f)) for f, key in DOCUMENT_KEYS.items() if getattr(self, f) is not None}
        given |= {"modelTopology": self.model_topology, "weightsManifest": manifest}
        if self.model_topology is not None and self.generated_by is not None:
            given.setdefault("convertedBy", None)  # as TensorFlow.js has it for a model that nobody converted
        graph = writer == "converter" and self.format == "graph-model"
        order = CONVERTER_GRAPH if graph else WRITERS[writer]
        return {key: given[key] for key in order if key in given} | dict(self.extra)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], weights: Mapping[str, Any] | None = None) -> ModelArtifacts:
        """The artifacts that the content of a ``model.json`` describes, with ``weights`` if there are any.

        Example:
            >>> ModelArtifacts.from_json({"modelTopology": None, "format": "graph-model"}).format
            'graph-model'
        """
        manifest = document.get("weightsManifest")
        known = {*DOCUMENT_KEYS.values(), "weightsManifest"}
        return cls(
            weights=dict(weights or {}),
            weight_specs=None if manifest is None else [s for group in manifest for s in group.get("weights", ())],
            extra={k: v for k, v in document.items() if k not in known},
            **{f: document.get(key) for f, key in DOCUMENT_KEYS.items()},
        )

    def to_keras(self, custom_objects: Mapping[str, Any] | None = None, *, compile: bool = True) -> Any:
        """A live Keras 3 model with these weights, of any TensorFlow.js layers model.

        Keras and a backend must be installed. Code in the model is never run.

        Args:
            custom_objects: Classes of layers that are not Keras' own, by name.
            compile: Where there is a training configuration, compile the model and restore the optimizer's state, or
                raise what is wrong with them; False: never.

        Raises:
            UnsupportedFeatureError: It is no layers model, or Keras has not all of its layers; lists them.
            MismatchError: Weights are missing, or have other shapes.
        """
        # By name: the contract knows no framework, only where the one that is asked for is found.
        return import_module("weightlift.frameworks._keras_back").build(self, custom_objects, compiled=compile)

    def to_gluon(self, inputs: Sequence[str] | None = None) -> Any:
        """A live ``SymbolBlock`` of MXNet's Gluon with these weights, of a model with a symbol of MXNet's.

        MXNet must be installed; a symbol with NumPy's shapes needs ``mxnet.npx.set_np()``. Parameters are on the CPU:
        ``block.reset_ctx`` moves them.

        Args:
            inputs: The variables that the block is called with, in this order; default: those without weights, in the
                order of the symbol.

        Raises:
            UnsupportedFeatureError: The model is none of MXNet's.
            MismatchError: Weights are missing, are none of the symbol's variables, or have other shapes.
        """
        return import_module("weightlift.frameworks._mxnet_live").build(self, inputs)

    def info(self) -> ModelArtifactsInfo:
        """Sizes and date, as TensorFlow.js reports them after a save."""
        return ModelArtifactsInfo(
            date_saved=datetime.now(timezone.utc),
            model_topology_bytes=0 if self.model_topology is None else json_bytes(self.model_topology),
            weight_specs_bytes=0 if self.weight_specs is None else json_bytes(list(self.weight_specs)),
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

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> ModelArtifactsInfo:
        """What ``to_json`` gave, or TensorFlow.js's ``JSON.stringify``; sizes that are not there are 0.

        Example:
            >>> ModelArtifactsInfo.from_json({"dateSaved": "2026-11-22T01:17:23.429Z"}).date_saved.microsecond
            429000
        """
        saved = datetime.fromisoformat(raw["dateSaved"].replace("Z", "+00:00"))
        sizes = [raw.get(key) or 0 for key in ("modelTopologyBytes", "weightSpecsBytes", "weightDataBytes")]
        return cls(saved, raw.get("modelTopologyType", "JSON"), *sizes)


@dataclass(frozen=True)
class TensorQuantization:
    """What quantisation did to a tensor.

    Attributes:
        name: Of the tensor.
        dtype: Stored type: ``"uint8"``, ``"uint16"``, ``"float16"``, or ``"float32"`` where it was left as it is.
        max_abs: Largest absolute difference between a value and what it reads back as.
        max_rel: ``max_abs`` relative to the largest absolute value of the tensor: the error that ``"auto:..."`` bounds.
        overflow: How many finite values became infinite (float16: those beyond 65,504).
        nbytes: As float32.
        stored_nbytes: As stored.
    """

    name: str
    dtype: str
    max_abs: float
    max_rel: float
    overflow: int
    nbytes: int
    stored_nbytes: int


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
        quantization: What quantisation did to each tensor: for ``"auto:..."``, and where a report was asked for.
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
    quantization: tuple[TensorQuantization, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """TensorFlow.js's ``SaveResult``; of responses their status and URL."""
        info, answers = self.model_artifacts_info, self.responses
        result: dict[str, Any] = {} if info is None else {"modelArtifactsInfo": info.to_json()}
        if answers:
            result["responses"] = [{"status": r.status, "url": r.url} for r in answers]
        return result


@dataclass(frozen=True)
class TfjsProblem:
    """Something in a model that TensorFlow.js does not take, or takes for something else.

    Attributes:
        severity: ``"error"``: the model does not load, or is another one than was meant; ``"warning"``: it may be, or a
            part of the ecosystem does not take it; ``"note"``: good to know.
        code: The kind of problem, for programs: ``"shard-missing"``.
        where: A file, a weight, a layer, a node, or the document.
        what: What is wrong.
        fix: What to do.
    """

    severity: str
    code: str
    where: str
    what: str
    fix: str = ""


@dataclass(frozen=True)
class TfjsReport:
    """What :func:`weightlift.check_tfjs` found.

    Attributes:
        url: Of the model.
        kind: ``"layers-model"``, ``"graph-model"`` or ``"weights"`` (a manifest without an architecture); by the
            architecture, whatever the document says of itself.
        loader: TensorFlow.js's function for it.
        problems: All of them, errors first.
        tensors: How many weights.
        dtypes: By stored type: (how many weights, bytes); strings count as 0 bytes.
        savings: Bytes of all weights if those that are float32 now were quantised, by type.
        parts: How many of each layer class, or operation, there are.
    """

    url: str
    kind: str
    loader: str
    problems: tuple[TfjsProblem, ...] = ()
    tensors: int = 0
    dtypes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    savings: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, int] = field(default_factory=dict)

    @property
    def loads(self) -> bool:
        """Whether TensorFlow.js loads the model, as it is meant: there is no error."""
        return all(p.severity != "error" for p in self.problems)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights as they are stored."""
        return sum(nbytes for _, nbytes in self.dtypes.values())

    def __bool__(self) -> bool:
        """Same as ``loads``."""
        return self.loads


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


@dataclass(frozen=True)
class LoadReport:
    """What ``load(..., into=..., strict=False)`` did.

    Attributes:
        value: The object that was loaded into, or what takes its place (trees of JAX arrays).
        loaded: Names that got their values.
        missing: Names in the object for which the file has no tensor; they keep what they had.
        unexpected: Names in the file (renamed) for which the object has no tensor.
        wrong_shape: (name, shape in the object, shape in the file); they keep what they had.
    """

    value: Any = field(repr=False)
    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()

    @property
    def fits(self) -> bool:
        """Nothing was missing, unexpected or of another shape."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def __bool__(self) -> bool:
        """Same as ``fits``."""
        return self.fits
