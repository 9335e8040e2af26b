"""``.keras`` files, written without Keras."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from weightlift.errors import UnsupportedFeatureError
from weightlift.frameworks._keras_back import rebuild
from weightlift.frameworks._keras_file import CONFIG, METADATA, WEIGHTS, group_paths, variable_counts
from weightlift.frameworks._keras_graph import read_model

__all__ = ["keras_bytes"]

_VERSION = "3.15.1"
"""The Keras whose form is written; all of Keras 3 reads it."""
_WHEN = (1980, 1, 1, 0, 0, 0)


def keras_bytes(artifacts: Any) -> bytes:
    """A layers model as the content of a ``.keras`` file.

    Raises:
        UnsupportedFeatureError: Keras cannot have it, or h5py is not installed.
        MismatchError: Its weights are not those of its layers.
    """
    rebuilt = rebuild(artifacts)
    saved = datetime.now(timezone.utc).strftime("%Y-%m-%d@%H:%M:%S")
    document = rebuilt.document
    if rebuilt.compiled is not None:
        document = {**document, "compile_config": rebuilt.compiled}
    members = {
        METADATA: json.dumps({"keras_version": _VERSION, "date_saved": saved}).encode(),
        CONFIG: json.dumps(document).encode(),
        WEIGHTS: _weights(rebuilt.document, rebuilt.weights, rebuilt.layers, rebuilt.optimizer),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, _WHEN), data)
    return buffer.getvalue()


def _weights(
    document: Mapping[str, Any],
    weights: Mapping[tuple[str, ...], Sequence[Any]],
    layers: Mapping[tuple[str, ...], tuple[str, Mapping[str, Any]]],
    optimizer: Sequence[Any],
) -> bytes:
    try:
        import h5py
    except ImportError as error:
        raise UnsupportedFeatureError("Keras' files need h5py: pip install weightlift[keras]") from error
    paths = group_paths(read_model(document))
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for trail, path in paths.items():
            file.require_group(f"{path}/vars").attrs["name"] = trail[-1]
        for trail, arrays in weights.items():
            left = list(arrays)
            for below, count in variable_counts(*layers[trail]):
                group = file.require_group(f"{paths[trail]}/{below}vars")
                for i in range(count):
                    group[str(i)] = left.pop(0)
        for i, array in enumerate(optimizer):
            file.require_group("optimizer/vars")[str(i)] = array
    return buffer.getvalue()
