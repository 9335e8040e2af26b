"""Keras 3 on PyTorch, and the real TensorFlow.js that runs what was exported of its models."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.interop.tensorflow_js import NODE_ENVIRONMENT

__all__ = ["compare", "keras_or_skip", "predict", "run_in_node", "write_inputs"]

SCRIPT = Path(__file__).with_name("keras_node.js")
TOLERANCE = 1e-5


def keras_or_skip() -> Any:
    """Keras on the PyTorch backend; skips the module where either is not installed."""
    pytest.importorskip("torch", reason="torch is not installed")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    return pytest.importorskip("keras", reason="Keras is not installed")


def predict(model: Any, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A model's outputs, flattened as Keras flattens them."""
    import keras

    structure = getattr(model, "_inputs_struct", None)
    if isinstance(structure, dict):
        given: Any = dict(zip(sorted(structure), inputs, strict=True))
    else:
        given = list(inputs) if len(inputs) > 1 else inputs[0]
    outputs = keras.tree.flatten(model(given, training=False))
    return [np.asarray(keras.ops.convert_to_numpy(o), np.float32) for o in outputs]


def write_inputs(folder: Path, inputs: Sequence[np.ndarray]) -> None:
    listed = [[list(i.shape), str(i.dtype), i.ravel().tolist()] for i in inputs]
    (folder / "inputs.json").write_text(json.dumps(listed))


def run_in_node(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """What one process of TensorFlow.js says of each folder."""
    command = ["node", str(SCRIPT), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=NODE_ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def compare(wanted: Sequence[np.ndarray], answer: dict[str, Any]) -> None:
    """Equal shapes, and values within the tolerance."""
    assert "error" not in answer, answer["error"]
    outputs = [np.asarray(values, np.float32).reshape(shape) for shape, values in answer["outputs"]]
    assert [o.shape for o in outputs] == [w.shape for w in wanted]
    for got, want in zip(outputs, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)
