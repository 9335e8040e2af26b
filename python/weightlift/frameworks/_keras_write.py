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

__all__ = ["keras_parts"]

_VERSION = "3.15.1"
"""The Keras whose form is written; all of Keras 3 reads it."""
_WHEN = (1980, 1, 1, 0, 0, 0)


def keras_parts(artifacts: Any) -> list[memoryview]:
    """A layers model as the content of a ``.keras`` file, in parts: the weights' is the one copy that is made.

    Raises:
        UnsupportedFeatureError: Keras cannot have it, or h5py is not installed.
        MismatchError: Its weights are not those of its layers.
    """
    rebuilt = rebuild(artifacts)
    saved = datetime.now(timezone.utc).strftime("%Y-%m-%d@%H:%M:%S")
    document = rebuilt.document
    if rebuilt.compiled is not None:
        document = {**document, "compile_config": rebuilt.compiled}
    members: dict[str, Any] = {
        METADATA: json.dumps({"keras_version": _VERSION, "date_saved": saved}).encode(),
        CONFIG: json.dumps(document).encode(),
        WEIGHTS: _weights(rebuilt.document, rebuilt.weights, rebuilt.layers, rebuilt.optimizer),
    }
    parts = _Parts()
    with zipfile.ZipFile(parts, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, _WHEN), data)
    return parts.written


class _Parts(io.RawIOBase):
    """A file that keeps what is written, as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[memoryview] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.written.append(memoryview(data).cast("B"))
        return self.written[-1].nbytes


def _weights(
    document: Mapping[str, Any],
    weights: Mapping[tuple[str, ...], Sequence[Any]],
    layers: Mapping[tuple[str, ...], tuple[str, Mapping[str, Any]]],
    optimizer: Sequence[Any],
) -> memoryview:
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
    return buffer.getbuffer()
