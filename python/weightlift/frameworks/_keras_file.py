"""``.keras`` files, read without Keras: a zip of ``config.json``, ``metadata.json`` and ``model.weights.h5``.

Nothing in the configuration is run: it is data that is rewritten. The weights lie in groups that are named after the
classes of the layers, counted in their order; newer files say the layer's own name, too.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weightlift.errors import FormatError, NotFoundError, UnsafeContentError, WeightliftError
from weightlift.frameworks._hdf5 import child, datasets, open_hdf5, read_array
from weightlift.frameworks._keras import artifacts_of, with_training
from weightlift.frameworks._keras_graph import Graph, read_model
from weightlift.frameworks._keras_state import Stored
from weightlift.frameworks._keras_topology import Holder, rewrite
from weightlift.frameworks._keras_weights import gather, weight_names
from weightlift.types import ModelArtifacts

__all__ = ["CONFIG", "METADATA", "WEIGHTS", "group_paths", "read_keras", "variable_counts"]

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_MAX_JSON = 1 << 28
_MAX_RATIO = 200
"""Weights that inflate to more than this many times their stored size are no weights."""
_SMALL = 1 << 26
_LISTS = ("layers", "_layer_checkpoint_dependencies")
"""The group of a model's layers; the second in files of Keras 2."""


def read_keras(path: Path, *, include_optimizer: bool = False) -> ModelArtifacts:
    """A ``.keras`` file as artifacts that TensorFlow.js loads, with the optimizer and its state if they are asked for.

    Raises:
        NotFoundError: There is no such file.
        FormatError: It is damaged, or no ``.keras`` file.
        UnsafeContentError: It reaches out of itself, or inflates beyond reason.
        UnsupportedFeatureError: TensorFlow.js cannot have the model; lists all reasons.
    """
    try:
        with _opened(path) as (archive, members):
            document = _json(archive, members[CONFIG])
            metadata = _json(archive, members[METADATA]) if METADATA in members else {}
            compiled = (document.get("compile_config") or {}) if include_optimizer else None
            rewritten = rewrite(document, compiled)
            groups = group_paths(read_model(document))
            with _weights_file(archive, members[WEIGHTS]) as source, open_hdf5(source) as root:
                weights, names = gather(rewritten.holders, lambda holder: _find(root, groups, holder))
                kept = child(root, "optimizer/vars") if compiled else None
                stored = Stored([] if kept is None else [read_array(item) for item in datasets(kept)])
            artifacts = artifacts_of(rewritten, weights, generated_by=f"keras {metadata.get('keras_version', 3)}")
            return with_training(artifacts, rewritten, names, compiled, stored) if compiled else artifacts
    except WeightliftError as error:
        error.locate(path=str(path))
        raise


# --- the archive ----------------------------------------------------------------------------------
@contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise NotFoundError("no such file", errno=error.errno) from error
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise FormatError(f"no .keras file: {error}") from error
    with archive:
        members: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            if info.filename in members:
                raise FormatError(f"the archive has two members {info.filename!r}")
            members[info.filename] = info
        missing = [name for name in (CONFIG, WEIGHTS) if name not in members]
        if missing:
            raise FormatError(f"no .keras file: {' and '.join(missing)} missing; it has {', '.join(members)[:200]}")
        for name in (CONFIG, WEIGHTS):
            info = members[name]
            if info.flag_bits & 1:
                raise FormatError(f"{name} is encrypted")
            if info.file_size > _SMALL and info.file_size > _MAX_RATIO * max(1, info.compress_size):
                raise UnsafeContentError(f"{name} inflates from {info.compress_size} to {info.file_size} bytes")
        yield archive, members


def _json(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> dict[str, Any]:
    if info.file_size > _MAX_JSON:
        raise FormatError(f"{info.filename} has {info.file_size} bytes, expected at most {_MAX_JSON}")
    try:
        value = json.loads(archive.read(info))
    except (ValueError, RecursionError, zipfile.BadZipFile, NotImplementedError, OSError, EOFError) as error:
        raise FormatError(f"{info.filename} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{info.filename} is not a JSON object")
    return value


@contextmanager
def _weights_file(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[Any]:
    """The weights as a file that can be sought in: in place, or inflated into memory."""
    import io

    try:
        if info.compress_type == zipfile.ZIP_STORED:
            with archive.open(info) as file:
                while file.read(1 << 20):  # checks the CRC-32, which reading here and there does not
                    pass
                file.seek(0)
                yield file
        else:
            yield io.BytesIO(archive.read(info))
    except WeightliftError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise FormatError(f"{info.filename} cannot be read: {error}") from error


# --- where the weights of a layer are -------------------------------------------------------------
def group_paths(graph: Graph, prefix: str = "") -> dict[tuple[str, ...], str]:
    """The HDF5 group of every layer, by its trail: classes in snake case, counted in the layers' order."""
    found: dict[tuple[str, ...], str] = {}
    counts: dict[str, int] = {}
    for layer in graph.layers:
        if layer.operation or layer.trail is None:
            continue
        name = _snake(layer.class_name)
        count = counts.get(name, 0)
        counts[name] = count + 1
        path = f"{prefix}layers/{name}" + (f"_{count}" if count else "")
        found[layer.trail] = path
        if layer.model is not None:
            found |= group_paths(layer.model, f"{path}/")
    return found


def _snake(name: str) -> str:
    """A class's name as Keras writes it in paths: ``Conv2D`` is ``conv2d``, ``LeakyReLU`` is ``leaky_re_lu``."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def variable_counts(class_name: str, config: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The groups below a layer's own that hold its variables, in their order, and how many; "" is its own."""
    if class_name == "Bidirectional":
        inner = variable_counts(config["layer"]["class_name"], config["layer"]["config"])
        return [(f"{way}_layer/{path}", n) for way in ("forward", "backward") for path, n in inner]
    if class_name == "TimeDistributed":
        return [(f"layer/{p}", n) for p, n in variable_counts(config["layer"]["class_name"], config["layer"]["config"])]
    if class_name == "RNN":
        return [(f"cell/{p}", n) for p, n in variable_counts(config["cell"]["class_name"], config["cell"]["config"])]
    if class_name == "StackedRNNCells":
        counts: dict[str, int] = {}
        paths = []
        for cell in config["cells"]:
            name = _snake(cell["class_name"])
            count = counts.get(name, 0)
            counts[name] = count + 1
            own = f"cells/{name}" + (f"_{count}" if count else "")
            paths += [(f"{own}/{p}", n) for p, n in variable_counts(cell["class_name"], cell["config"])]
        return paths
    below = "cell/" if class_name in ("LSTM", "GRU", "SimpleRNN", "ConvLSTM2D") else ""
    return [(below, len(weight_names(class_name, config, "")))]


def _find(root: Any, groups: Mapping[tuple[str, ...], str], holder: Holder) -> list[Any]:
    path = groups.get(holder.trail)
    group = None if path is None else _layer_group(root, holder.trail, groups)
    if group is None:
        return []
    arrays: list[Any] = []
    for below, _ in variable_counts(holder.class_name, holder.config):
        variables = child(group, f"{below}vars")
        if variables is not None:
            arrays += [read_array(item) for item in datasets(variables)]
    return arrays


def _layer_group(root: Any, trail: tuple[str, ...], groups: Mapping[tuple[str, ...], str]) -> Any:
    """The group of a layer: the one that says its name, else the one where the count puts it."""
    group = root
    for depth in range(1, len(trail) + 1):
        layers = next((g for g in (child(group, name) for name in _LISTS) if g is not None), None)
        if layers is None:
            return None
        name = trail[depth - 1]
        counted = child(layers, groups[trail[:depth]].rpartition("/")[2])
        if counted is None or _said(counted) not in (None, name):
            others = (child(layers, key) for key in layers)
            counted = next((g for g in others if g is not None and _said(g) == name), None)
        if counted is None:
            return None
        group = counted
    return group


def _said(group: Any) -> str | None:
    """The layer's own name, where the file has it."""
    variables = child(group, "vars")
    name = None if variables is None else variables.attrs.get("name")
    return name if isinstance(name, str) else None
