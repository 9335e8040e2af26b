"""Whole models: architecture, weights and metadata, from anywhere to anywhere, by URL or by handler."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from weightlift import _browser_handlers, _http_handlers  # noqa: F401 (importing them registers their handlers)
from weightlift._awaiting import settle
from weightlift._handlers import select_weights
from weightlift._ops import Progress
from weightlift._router import ROUTER, LoadRouter, SaveRouter
from weightlift._source import Names
from weightlift._urls import Url
from weightlift.errors import RoutingError, UnsupportedFeatureError
from weightlift.protocols import SupportsLoad, SupportsSave
from weightlift.types import ModelArtifacts, SaveResult

__all__ = [
    "get_load_handlers",
    "get_save_handlers",
    "load_model",
    "register_exporter",
    "register_load_router",
    "register_save_router",
    "save_model",
    "unregister_load_router",
    "unregister_save_router",
]


# --- saving ---------------------------------------------------------------------------------------
def save_model(
    model: Any,
    url_or_handler: Url | SupportsSave,
    *,
    trainable_only: bool = False,
    include_optimizer: bool = False,
    quantize: Mapping[str, Any] | str | None = None,
    quantization_report: bool = False,
    shard_size: int | None = None,
    checksums: bool = True,
    durable: bool = True,
    progress: Progress | None = None,
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Save a model to a directory as ``model.json`` and ``weights.bin``, to a server, or to a handler.

    Args:
        model: :class:`ModelArtifacts` (saved whole), or a live model that an exporter knows.
        url_or_handler: A path, a URL that a save router serves, or any object with ``save(artifacts)``. A path without
            a known suffix is a directory, made if it is not there. ``PREFIX-symbol.json`` or ``PREFIX-0007.params``:
            both files of a network of MXNet's.
        trainable_only: Live models: leave out weights that are not trained.
        include_optimizer: Live models: keep the optimizer's state and the training configuration.
        quantize: ``"uint8"``, ``"uint16"``, ``"float16"``, ``"auto:1e-3"`` or ``{type: True, glob or list of globs}``,
            as :func:`save`. Weights that come quantised and are not mentioned keep their stored bytes.
        quantization_report: Measure what quantisation loses, as :func:`save`.
        shard_size: Cut weights into files of this many bytes, ``group1-shard1of9.bin`` ...; default one file.
        checksums: Store a CRC-32C of every weight; TensorFlow.js ignores them.
        durable: Return only when the data would survive a power cut.
        progress: Called with (bytes done, bytes total).
        metadata: Added to the model's ``user_defined_metadata``.
        options: What the scheme's own handler understands; for ``http(s)://`` those of :func:`weightlift.http`.

    Returns:
        What the handler's ``save`` returned: a :class:`SaveResult` for URLs.

    Raises:
        RoutingError: No handler for the URL, or several.
        UnsupportedFeatureError: Not a model, or something in it cannot be stored; says what, and what to do.
        StorageError: The old model is untouched.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> model = wl.ModelArtifacts({"class_name": "Sequential"}, {"w": np.zeros((2, 3), "f4")})
        >>> result = wl.save_model(model, "my-model")
        >>> [f.rpartition("/")[2] for f in result.files]
        ['model.json', 'weights.bin']
    """
    result = begin_save(
        model,
        url_or_handler,
        trainable_only=trainable_only,
        include_optimizer=include_optimizer,
        metadata=metadata,
        quantize=quantize,
        quantization_report=quantization_report,
        shard_size=shard_size,
        checksums=checksums,
        durable=durable,
        progress=progress,
        **options,
    )
    return settle(result)


SAVE_DEFAULTS = {
    "quantize": None,
    "quantization_report": False,
    "shard_size": None,
    "checksums": True,
    "durable": True,
    "progress": None,
}
"""Options that handlers hear of when they differ from these."""


def begin_save(
    model: Any,
    url_or_handler: Url | SupportsSave,
    *,
    trainable_only: bool = False,
    include_optimizer: bool = False,
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """What the handler's ``save`` returns: a result, or an awaitable one."""
    artifacts = _as_artifacts(model, trainable_only=trainable_only, include_optimizer=include_optimizer)
    if metadata:
        merged = {**(artifacts.user_defined_metadata or {}), **metadata}
        artifacts = replace(artifacts, user_defined_metadata=merged)
    given = {k: v for k, v in options.items() if v is not SAVE_DEFAULTS.get(k)}
    if isinstance(url_or_handler, (str, os.PathLike)):
        return ROUTER.save_handler(url_or_handler, given).save(artifacts)
    return _checked(url_or_handler, "save", given).save(artifacts)


def _checked(handler: Any, verb: str, options: Mapping[str, Any]) -> Any:
    """A handler that the caller made: it must have the verb, and cannot be given our options."""
    if not callable(getattr(handler, verb, None)):
        raise RoutingError(f"a {type(handler).__name__} is neither a URL nor a handler with a {verb} method")
    if options:
        raise UnsupportedFeatureError(
            f"{', '.join(options)}: a {type(handler).__name__} decides this itself: tell the handler, or use a URL"
        )
    return handler


# --- loading --------------------------------------------------------------------------------------
def load_model(
    url_or_handler: Url | SupportsLoad,
    *,
    strict: bool = True,
    weight_names: Names = None,
    on_progress: Callable[[float], object] | None = None,
    progress: Progress | None = None,
    lazy: bool = True,
    verify: bool = True,
    **options: Any,
) -> ModelArtifacts:
    """Load a model: its architecture and metadata at once, its weights when they are touched.

    Args:
        url_or_handler: A directory or ``model.json``, a URL that a load router serves, or any object with ``load()``.
            Of a network of MXNet's ``PREFIX-symbol.json``, or ``PREFIX-0007.params`` beside it.
        strict: Each of ``weight_names`` must be there.
        weight_names: A glob, or a list of names and globs: only these weights.
        on_progress: Called with the fraction that is done; the weights are then read before the call returns.
        progress: Likewise, called with (bytes done, bytes total).
        lazy: False: read the weights before the call returns.
        verify: Compare checksums, where the files have them.
        options: What the scheme's own handler understands; for ``http(s)://`` those of :func:`weightlift.http`; for
            ``.keras`` and ``.h5`` files ``include_optimizer=True``: with the training configuration and the optimizer's
            state, or UnsupportedFeatureError with every reason why TensorFlow.js cannot take them.

    Returns:
        The artifacts; ``weights`` are views, ``weights["w"][...]`` is the array.

    Raises:
        RoutingError: No handler for the URL, or several.
        NotFoundError: There is no model.
        FormatError: It is damaged or malformed; ChecksumError if a checksum says so.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> _ = wl.save_model(wl.ModelArtifacts(weights={"w": np.arange(3, dtype="f4")}), "my-model")
        >>> wl.load_model("my-model/model.json").weights["w"][...].tolist()
        [0.0, 1.0, 2.0]
    """
    options |= {"on_progress": on_progress, "progress": progress, "lazy": lazy, "verify": verify}
    artifacts = settle(begin_load(url_or_handler, weight_names=weight_names, strict=strict, **options))
    return finish_load(artifacts, url_or_handler, weight_names, strict=strict)


LOAD_DEFAULTS = {
    "weight_names": None, "strict": True, "on_progress": None, "progress": None, "lazy": True, "verify": True,
}  # fmt: skip
"""Options that handlers hear of when they differ from these."""


def begin_load(url_or_handler: Url | SupportsLoad, **options: Any) -> Any:
    """What the handler's ``load`` returns: artifacts, or an awaitable of them."""
    given = {k: v for k, v in options.items() if k not in LOAD_DEFAULTS or v is not LOAD_DEFAULTS[k]}
    if isinstance(url_or_handler, (str, os.PathLike)):
        return ROUTER.load_handler(url_or_handler, given).load()
    own = {k: v for k, v in given.items() if k not in ("weight_names", "strict")}
    return _checked(url_or_handler, "load", own).load()


def finish_load(
    artifacts: ModelArtifacts, url_or_handler: Url | SupportsLoad, weight_names: Names, *, strict: bool
) -> ModelArtifacts:
    """The weights that were asked for, where the handler was not told."""
    if weight_names is None or isinstance(url_or_handler, (str, os.PathLike)):
        return artifacts
    return select_weights(artifacts, weight_names, strict=strict)


# --- files of whole models ---------------------------------------------------------------------------
def convert_model(
    source: Url,
    target: Url,
    refused: Mapping[str, Any],
    *,
    verify: bool = True,
    include_optimizer: bool = False,
    **options: Any,
) -> SaveResult:
    """Load a model and save it with ``options``; ``refused`` are those that only conversions of tensors have.

    Raises:
        UnsupportedFeatureError: There are such options, or the target cannot hold the model.
    """
    if refused:
        raise UnsupportedFeatureError(
            f"{', '.join(refused)}: a whole model is converted here, and goes whole: convert it to model.json first"
        )
    also: dict[str, Any] = {"include_optimizer": True} if include_optimizer else {}
    result: SaveResult = save_model(load_model(source, verify=verify, **also), target, **options)
    return result


# --- live models ----------------------------------------------------------------------------------
class Exporter(Protocol):
    """Makes artifacts of a live model."""

    def __call__(self, model: Any, *, trainable_only: bool, include_optimizer: bool) -> ModelArtifacts:
        """The artifacts."""


def _is_keras_model(model: Any) -> bool:
    """Whether an object is a model of Keras 3 or tf_keras, told by the names of its classes: nothing is imported."""
    packages = ("keras", "tf_keras")
    return any(b.__name__ == "Model" and b.__module__.split(".")[0] in packages for b in type(model).__mro__)


def _export_keras(model: Any, *, trainable_only: bool, include_optimizer: bool) -> ModelArtifacts:
    from weightlift.frameworks._keras import export  # its tables are for those who have such a model

    return export(model, trainable_only=trainable_only, include_optimizer=include_optimizer)


def _is_gluon_block(model: Any) -> bool:
    """Likewise, a block of MXNet's Gluon."""
    return any(b.__name__ == "Block" and b.__module__.startswith("mxnet.gluon") for b in type(model).__mro__)


def _export_gluon(model: Any, *, trainable_only: bool, include_optimizer: bool) -> ModelArtifacts:
    from tempfile import TemporaryDirectory

    from weightlift.frameworks._mxnet_live import export

    if trainable_only or include_optimizer:
        raise UnsupportedFeatureError(
            "trainable_only and include_optimizer: a symbol needs all of its parameters, and MXNet keeps the state of "
            "a Trainer as pickled classes; leave them out"
        )
    with TemporaryDirectory(prefix="weightlift-") as folder:
        return load_model(export(model, Path(folder)), lazy=False)


_exporters: list[tuple[Callable[[Any], bool], Exporter]] = [
    (_is_keras_model, _export_keras),
    (_is_gluon_block, _export_gluon),
]


def register_exporter(predicate: Callable[[Any], bool], exporter: Exporter) -> None:
    """Teach :func:`save_model` a kind of live model; later registrations are asked first.

    Args:
        predicate: Whether a model is of this kind; cheap, and must not import the framework.
        exporter: ``exporter(model, trainable_only=..., include_optimizer=...)`` gives :class:`ModelArtifacts`.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> class Scale:
        ...     factor = 2.0
        >>> wl.register_exporter(
        ...     lambda model: isinstance(model, Scale),
        ...     lambda model, **options: wl.ModelArtifacts(weights={"factor": np.float32(model.factor)}),
        ... )
        >>> wl.save_model(Scale(), "scale").tensors
        1
    """
    _exporters.insert(0, (predicate, exporter))


def _as_artifacts(model: Any, *, trainable_only: bool, include_optimizer: bool) -> ModelArtifacts:
    if isinstance(model, ModelArtifacts):
        if trainable_only:
            raise UnsupportedFeatureError("trainable_only: artifacts do not say which of their weights are trained")
        return model
    for predicate, exporter in _exporters:
        if predicate(model):
            return exporter(model, trainable_only=trainable_only, include_optimizer=include_optimizer)
    hint = (
        "save plain arrays with weightlift.save"
        if isinstance(model, (Mapping, list, tuple)) or hasattr(model, "__array__")
        else "give ModelArtifacts, or teach it with weightlift.register_exporter"
    )
    raise UnsupportedFeatureError(
        f"a {type(model).__module__}.{type(model).__qualname__} is no model known here; {hint}"
    )


# --- routing --------------------------------------------------------------------------------------
def register_save_router(router: SaveRouter, *, schemes: Iterable[str] = ()) -> SaveRouter:
    """Add a function that gives the save handler of a URL, or None: ``router(url, options)``.

    Args:
        router: Asked for every URL; ``options`` holds what :func:`save_model` was given beside it.
        schemes: URL schemes that it serves, for error messages.

    Returns:
        ``router``, so that this can be used as a decorator.

    Example:
        >>> import weightlift as wl
        >>> saved = {}
        >>> def router(url, options):
        ...     if url.startswith("dict://"):
        ...         return wl.with_save_handler(lambda artifacts: saved.update({url: artifacts}))
        >>> _ = wl.register_save_router(router, schemes=["dict"])
        >>> wl.save_model(wl.ModelArtifacts(), "dict://a")
        >>> list(saved)
        ['dict://a']
        >>> wl.unregister_save_router(router)
    """
    return ROUTER.register_save(router, schemes=schemes)


def register_load_router(router: LoadRouter, *, schemes: Iterable[str] = ()) -> LoadRouter:
    """Add a function that gives the load handler of a URL, or None: ``router(url, options)``.

    Args:
        router: Asked for every URL; ``options`` holds what :func:`load_model` was given beside it.
        schemes: URL schemes that it serves, for error messages.

    Returns:
        ``router``, so that this can be used as a decorator.

    Example:
        >>> import weightlift as wl
        >>> def router(url, options):
        ...     return wl.from_memory(wl.ModelArtifacts(format=url)) if url.startswith("name://") else None
        >>> _ = wl.register_load_router(router, schemes=["name"])
        >>> wl.load_model("name://a").format
        'name://a'
        >>> wl.unregister_load_router(router)
    """
    return ROUTER.register_load(router, schemes=schemes)


def unregister_save_router(router: SaveRouter) -> None:
    """Forget a save router; RoutingError if it is not registered.

    Example:
        >>> import weightlift as wl
        >>> router = wl.register_save_router(lambda url, options: None)
        >>> wl.unregister_save_router(router)
    """
    ROUTER.unregister_save(router)


def unregister_load_router(router: LoadRouter) -> None:
    """Forget a load router; RoutingError if it is not registered.

    Example:
        >>> import weightlift as wl
        >>> router = wl.register_load_router(lambda url, options: None)
        >>> wl.unregister_load_router(router)
    """
    ROUTER.unregister_load(router)


def get_save_handlers(url: Url) -> list[SupportsSave]:
    """Every handler that can save a model to a URL: one, where all is well.

    Example:
        >>> import weightlift as wl
        >>> wl.get_save_handlers("my-model")
        [<StoreHandler my-model/model.json>]
    """
    return ROUTER.get_save_handlers(url)


def get_load_handlers(url: Url) -> list[SupportsLoad]:
    """Every handler that can load the model at a URL: one, where all is well.

    Example:
        >>> import weightlift as wl
        >>> wl.get_load_handlers("unknown://model")
        []
    """
    return ROUTER.get_load_handlers(url)
