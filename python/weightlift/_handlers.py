"""Handlers: where models are saved to and loaded from.

A handler has ``save(artifacts)``, or ``load()``, or both, as TensorFlow.js's ``tf.io.IOHandler``. A
:class:`StoreHandler` joins a store (where) and a format (how); the handlers of ``file://`` URLs and of plain paths are
those of directories. They behave as tfjs-node's ``file://``, where that works: a model goes to a directory as
``model.json`` and ``weights.bin``, and comes from such a directory or from the JSON file in it. Beyond it, parent
directories are made, the save is atomic, and ``modelInitializer`` is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from weightlift._artifacts import DOCUMENT_KEYS, plain
from weightlift._job import SaveOptions, Target
from weightlift._load import read_arrays
from weightlift._ops import Progress
from weightlift._router import ROUTER, Options, Router
from weightlift._save import save_leaves
from weightlift._source import Names, Source, choose_rows, in_directory, open_in
from weightlift._tree import flatten
from weightlift._urls import KERAS_SUFFIXES, is_file, local_path
from weightlift._weights import Weights
from weightlift.errors import (
    ChecksumError,
    MismatchError,
    NotFoundError,
    StorageError,
    UnsupportedFeatureError,
    WeightliftError,
)
from weightlift.formats import FORMATS, by_name, by_suffix
from weightlift.protocols import Format, HoldsModels, Store, SupportsLoad, SupportsSave
from weightlift.stores._local import LocalStore
from weightlift.types import ModelArtifacts, SaveResult

__all__ = [
    "KerasFile",
    "LoadOptions",
    "StoreHandler",
    "from_memory",
    "register_files",
    "select_weights",
    "with_save_handler",
]

MODEL_JSON = "model.json"

_Options = TypeVar("_Options")


@dataclass(frozen=True)
class LoadOptions:
    """What the caller of ``load_model`` asked for; see there."""

    weight_names: Names = None
    strict: bool = True
    lazy: bool = True
    verify: bool = True
    on_progress: Callable[[float], object] | None = None
    progress: Progress | None = None


# --- files in a store -----------------------------------------------------------------------------
class StoreHandler:
    """A model in the files of a store, in one format.

    Args:
        store: Where.
        format: How.
        name: Of the file that is asked for: ``model.json``.
        save_options: How it is written.
        load_options: How it is read.
    """

    def __init__(
        self,
        store: Store,
        format: Format | None,
        name: str = MODEL_JSON,
        *,
        save_options: SaveOptions | None = None,
        load_options: LoadOptions | None = None,
    ) -> None:
        """See the class; without a format, loading finds it out."""
        self.store = store
        self.format = format
        self.name = name
        self._save_options = save_options or SaveOptions()
        self._load_options = load_options or LoadOptions()

    def __repr__(self) -> str:
        """The file and its format."""
        return f"<StoreHandler {self.store.url}/{self.name}>"

    def save(self, artifacts: ModelArtifacts) -> SaveResult:
        """Write a model; the new one appears whole, or the old one stays.

        Raises:
            UnsupportedFeatureError: The format has no room for something; says what.
            StorageError: The storage failed.
        """
        return replace(self.write(artifacts), model_artifacts_info=self._info(artifacts))

    def write(self, artifacts: ModelArtifacts) -> SaveResult:
        """As ``save``, without a look at what was written: it may have gone where nothing can be read back."""
        fmt = self._format_of(artifacts)
        extra = _document(artifacts)
        if fmt.name != "tfjs":
            kept = fmt.model_keys if isinstance(fmt, HoldsModels) else ("weightSpecs", "userDefinedMetadata")
            lost = [k for k in extra if k not in kept]
            if lost:
                raise UnsupportedFeatureError(
                    f"{fmt.name} holds weights and metadata, but not {', '.join(lost)}: save the model as "
                    "model.json, or its weights alone"
                )
        names, leaves, structure = flatten(dict(artifacts.weights))
        metadata = {} if fmt.name == "tfjs" else dict(artifacts.user_defined_metadata or {})
        options = replace(self._save_options, extra=extra, metadata=metadata)
        target = Target(self.store, self.name, fmt, self.store.path(self.name))
        return save_leaves(names, leaves, structure, target, options)

    def _format_of(self, artifacts: ModelArtifacts) -> Format:
        """The format to write: a file of weights gets what makes a model of them beside it, if there is that."""
        whole = [fmt for fmt, _ in _models_beside(self.name) if fmt.name == artifacts.format]
        return whole[0] if whole else self.format or by_name("tfjs")

    def _info(self, artifacts: ModelArtifacts) -> Any:
        """Sizes as TensorFlow.js reports them: of the weights as they were stored."""
        source = open_in(self.store, self.name, format=self._format_of(artifacts).name)
        specs = source.layout.extra.get("weightSpecs")
        stored = replace(artifacts, weights={}, weight_specs=specs).info()
        return replace(stored, weight_data_bytes=sum(r.size for r in source.readers()))

    def load(self) -> ModelArtifacts:
        """Open a model; its weights are views that are read, and verified, when they are touched.

        Raises:
            NotFoundError: There is none.
            FormatError: It is damaged or malformed.
            MismatchError: It has not all of the weights that were asked for.
        """
        options = self._load_options
        fmt = self.format.name if self.format else None
        for whole, file in _models_beside(self.name) if fmt is None else ():
            fmt = whole.name if self.store.exists(file) else fmt
        source = open_in(self.store, self.name, format=fmt)
        layout = source.layout
        if options.verify and layout.damaged:
            raise ChecksumError(f"{layout.damaged}; verify=False loads it as it is", path=source.paths()[0])
        weights = Weights(source, memory="arena", verify=options.verify)
        artifacts = _artifacts(source, weights)
        if options.weight_names is not None:
            artifacts = select_weights(artifacts, options.weight_names, strict=options.strict)
        if options.on_progress is not None or options.progress is not None or not options.lazy:
            artifacts = replace(artifacts, weights=_read(source, artifacts.weights, options))
        return artifacts


def _read(source: Source, names: Iterable[str], options: LoadOptions) -> dict[str, Any]:
    """The weights as arrays, in one pass."""
    chosen = list(names)
    rows = choose_rows(source.table, chosen)
    fraction, report = options.on_progress, options.progress

    def progress(done: int, total: int) -> None:
        if fraction is not None:
            fraction(done / total if total else 1.0)
        if report is not None:
            report(done, total)

    arrays = read_arrays(source, rows, {}, verify=options.verify, progress=progress)
    by_row = {source.table.names[r]: a for r, a in zip(rows.tolist(), arrays, strict=True)}
    return {n: by_row[n] for n in chosen}


def _models_beside(name: str) -> list[tuple[Format, str]]:
    """Formats of models in which file ``name`` is one of weights, each with the other file."""
    found = [(fmt, fmt.model_beside(name)) for fmt in FORMATS if isinstance(fmt, HoldsModels)]
    return [(fmt, file) for fmt, file in found if file is not None]


def _artifacts(source: Source, weights: Weights) -> ModelArtifacts:
    layout, table = source.layout, source.table
    known = {f: layout.extra.get(key) for f, key in DOCUMENT_KEYS.items()}
    if known["user_defined_metadata"] is None and layout.metadata:
        known["user_defined_metadata"] = layout.metadata
    specs = layout.extra.get("weightSpecs")
    if specs is None:
        specs = [{"name": n, "shape": list(table.shapes[i]), "dtype": str(table.dtype(i))} for i, n in enumerate(table)]
    models = layout.format == "tfjs" or isinstance(source.format, HoldsModels)
    own = {*DOCUMENT_KEYS.values(), "weightSpecs"} if models else set(layout.extra)
    rest = {k: v for k, v in layout.extra.items() if k not in own}
    return ModelArtifacts(weights=weights, weight_specs=specs, extra=rest, **known)


def _document(artifacts: ModelArtifacts) -> dict[str, Any]:
    """What a layout's ``extra`` holds of a model."""
    extra = {key: plain(getattr(artifacts, f)) for f, key in DOCUMENT_KEYS.items() if getattr(artifacts, f) is not None}
    if artifacts.model_topology is not None and artifacts.generated_by is not None:
        extra.setdefault("convertedBy", None)  # as TensorFlow.js has it for a model that nobody converted
    if artifacts.weight_specs is not None:
        extra["weightSpecs"] = [plain(spec) for spec in artifacts.weight_specs]
    return {**artifacts.extra, **extra}


def select_weights(artifacts: ModelArtifacts, names: Names, *, strict: bool) -> ModelArtifacts:
    """Only the weights that a glob, or a list of names and globs, picks; MismatchError if strict and one picks none."""
    wanted = [names] if isinstance(names, str) else list(names or ())
    picked = {w: [w] if w in artifacts.weights else [n for n in artifacts.weights if fnmatchcase(n, w)] for w in wanted}
    missing = [w for w, found in picked.items() if not found]
    if missing and strict:
        known = ", ".join(list(artifacts.weights)[:5]) + (" ..." if len(artifacts.weights) > 5 else "")
        raise MismatchError(
            f"no weight is called or matches {', '.join(map(repr, missing[:10]))}; "
            f"the model has {len(artifacts.weights)}: {known}",
            missing=missing,
        )
    chosen = {n for found in picked.values() for n in found}
    specs = artifacts.weight_specs
    return replace(
        artifacts,
        weights={n: artifacts.weights[n] for n in artifacts.weights if n in chosen},
        weight_specs=None if specs is None else [s for s in specs if s["name"] in chosen],
    )


@dataclass(frozen=True)
class KerasLoadOptions(LoadOptions):
    """Of a file of Keras; ``include_optimizer``: with the training configuration and the optimizer's state."""

    include_optimizer: bool = False


# --- Keras' files ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class KerasFile:
    """A model in a file of Keras, as artifacts that TensorFlow.js loads; Keras is not needed."""

    path: Path
    options: KerasLoadOptions | SaveOptions

    def save(self, artifacts: ModelArtifacts) -> SaveResult:
        """Write a layers model as a ``.keras`` file that Keras 3 loads.

        Raises:
            UnsupportedFeatureError: Keras cannot have it, or h5py is not installed; nothing was written.
        """
        from weightlift.frameworks._keras_write import keras_parts

        options = self.options
        assert isinstance(options, SaveOptions)
        if self.path.suffix.lower() != ".keras":
            raise UnsupportedFeatureError("models are written as .keras, not as .h5", path=str(self.path))
        if options.quantize or options.shard_size or options.metadata:
            raise UnsupportedFeatureError("a .keras file holds no quantised weights and no shards", path=str(self.path))
        parts = keras_parts(artifacts)
        ends = list(accumulate(part.nbytes for part in parts))
        store = LocalStore(self.path.parent, self.path.name)
        writer = store.create(self.path.name, ends[-1], durable=options.durable)
        try:
            for part, end in zip(parts, ends, strict=True):
                writer.write_at(end - part.nbytes, part)
            writer.commit()
        except BaseException:
            writer.abort()
            raise
        info = artifacts.info()
        result = SaveResult(str(self.path), "keras", (str(self.path),), ends[-1], len(artifacts.weights))
        return replace(result, model_artifacts_info=info)

    def load(self) -> ModelArtifacts:
        """Open the model; its weights are views that are read when they are touched.

        Raises:
            UnsupportedFeatureError: TensorFlow.js cannot have it, or h5py is not installed.
            FormatError: It is damaged.
        """
        options = self.options
        assert isinstance(options, KerasLoadOptions)
        if not self.path.is_file():
            raise NotFoundError("no such file", path=str(self.path))
        source = open_in(LocalStore(self.path.parent, self.path.name), self.path.name, format="hdf5")
        try:
            if options.verify:
                source.refuse_damaged()
                source.check_whole()
            artifacts = self._artifacts(source, options)
        except WeightliftError as error:
            error.locate(path=str(self.path))
            raise
        if options.weight_names is not None:
            artifacts = select_weights(artifacts, options.weight_names, strict=options.strict)
        if options.lazy and options.on_progress is None and options.progress is None:
            return artifacts
        arrays = {name: np.asarray(weight) for name, weight in artifacts.weights.items()}
        total = sum(array.nbytes for array in arrays.values())
        if options.on_progress is not None:
            options.on_progress(1.0)
        if options.progress is not None:
            options.progress(total, total)
        return replace(artifacts, weights=arrays)

    def _artifacts(self, source: Source, options: KerasLoadOptions) -> ModelArtifacts:
        from weightlift.frameworks._hdf5 import StoredWeights  # for those who have such files
        from weightlift.frameworks._keras_file import read_keras
        from weightlift.frameworks._keras_h5 import read_h5

        extra = source.layout.extra
        stored = StoredWeights(
            Weights(source, memory="arena", verify=options.verify),
            {name: error for name, error in source.layout.objects.items() if isinstance(error, Exception)},
            extra.get("links", ()),
            extra.get("layer_names", {}),
            extra.get("weight_names", {}),
            source.layout.metadata,
        )
        read = read_keras if self.path.suffix.lower() == ".keras" else read_h5
        return read(stored, include_optimizer=options.include_optimizer)


# --- file:// --------------------------------------------------------------------------------------
def register_files(router: Router) -> None:
    """Let a router serve plain paths and ``file://`` URLs."""
    router.register_save(_save_file, schemes=["file"])
    router.register_load(_load_file, schemes=["file"])


def _save_file(url: str, options: Options) -> SupportsSave | None:
    """A directory gets ``model.json``; a path that ends like a file of a known format is that file."""
    if not is_file(url):
        return None
    chosen = _options(SaveOptions, options, url)
    path = local_path(url)
    if path.suffix.lower() in KERAS_SUFFIXES and not path.is_dir() and not url.endswith("/"):
        return KerasFile(path, chosen)
    fmt = None if path.is_dir() or url.endswith("/") else by_suffix(path.name)
    if fmt is not None:
        return StoreHandler(LocalStore(path.parent, path.name), fmt, path.name, save_options=chosen)
    if path.exists() and not path.is_dir():
        raise StorageError(
            "exists as a file; a model goes to a directory, or to a path that ends in .json", path=str(path)
        )
    return StoreHandler(LocalStore(path, MODEL_JSON), by_name("tfjs"), save_options=chosen)


def _load_file(url: str, options: Options) -> SupportsLoad | None:
    if not is_file(url):
        return None
    path = local_path(url)
    if path.suffix.lower() in KERAS_SUFFIXES and not path.is_dir():
        return KerasFile(path, _options(KerasLoadOptions, options, url))
    if path.is_dir():
        path = in_directory(path)
    return StoreHandler(
        LocalStore(path.parent, path.name), None, path.name, load_options=_options(LoadOptions, options, url)
    )


def _options(kind: type[_Options], options: Options, url: str) -> _Options:
    """The options as a dataclass; TypeError for one that files do not have."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"files have no option {', '.join(unknown)} (for {url})")
    return kind(**options)


# --- memory ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _FromMemory:
    """Loads what it was given."""

    artifacts: ModelArtifacts

    def load(self) -> ModelArtifacts:
        return self.artifacts


@dataclass(frozen=True)
class _WithSaveHandler:
    """Saves by calling a function."""

    save: Callable[[ModelArtifacts], Any]


def from_memory(artifacts: ModelArtifacts) -> SupportsLoad:
    """A handler that loads ``artifacts`` themselves, as ``tf.io.fromMemory``.

    Example:
        >>> import weightlift as wl
        >>> wl.load_model(wl.from_memory(wl.ModelArtifacts(format="layers-model"))).format
        'layers-model'
    """
    return _FromMemory(artifacts)


def with_save_handler(function: Callable[[ModelArtifacts], Any]) -> SupportsSave:
    """A handler whose ``save`` is ``function``, synchronous or not, as ``tf.io.withSaveHandler``.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> handler = wl.with_save_handler(lambda artifacts: sorted(artifacts.weights))
        >>> wl.save_model(wl.ModelArtifacts(weights={"w": np.zeros(2)}), handler)
        ['w']
    """
    return _WithSaveHandler(function)


register_files(ROUTER)
