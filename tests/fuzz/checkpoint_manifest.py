"""The fuzzers' target of a checkpoint's manifest: its digest is made right, so that what lies behind it is reached.

Beside the manifest the step is right. Property: nothing but WeightliftError comes out of ``Manifest.from_json``; what
it takes is written and read again as it was; and the step restores to what was saved, or with a WeightliftError.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import weightlift as wl
from weightlift.checkpoint._manifest import MANIFEST, Manifest, _digest

STATE: dict[str, Any] = {"w": np.arange(6, dtype="f4").reshape(2, 3), "b": np.array([1, -1], "i8"), "n": 3}


def checkpoint_manifest(data: bytes, folder: Path) -> bool:
    """The input is a manifest, whatever its digest; returns whether its step restores."""
    checkpointer = wl.checkpoint.Checkpointer(folder / "steps")
    if checkpointer.latest() is None:
        _save(folder / "steps")
    data = with_digest(data)
    (folder / "steps" / "step-00000001" / MANIFEST).write_bytes(data)
    try:
        manifest = Manifest.from_json(data)
    except wl.WeightliftError:
        assert not checkpointer.verify(1).ok
        return False
    written = manifest.to_json()
    assert Manifest.from_json(written).to_json() == written
    repr(manifest)
    assert manifest.nbytes >= 0
    try:
        state = checkpointer.restore()
    except wl.WeightliftError:
        return False
    assert state["n"] == STATE["n"] and all(np.array_equal(state[name], STATE[name]) for name in ("w", "b"))
    return True


def with_digest(data: bytes) -> bytes:
    """The document with the digest that it should have; bytes that are none as they are."""
    try:
        document = json.loads(data)
        document.pop("digest", None)
        document["digest"] = _digest(document)
        return json.dumps(document).encode()
    except (AttributeError, TypeError, ValueError, RecursionError):
        return data


@cache
def manifest_seeds() -> tuple[bytes, ...]:
    """That of the step, as it is written and with metrics and metadata; one of a step without tensors."""
    with TemporaryDirectory() as folder:
        _save(Path(folder) / "a")
        _save(Path(folder) / "b", metadata={"run": {"id": [1, None, "x"]}})
        _save(Path(folder) / "c", {})
        return tuple((Path(folder) / name / "step-00000001" / MANIFEST).read_bytes() for name in "abc")


def _save(folder: Path, state: dict[str, Any] = STATE, **options: Any) -> None:
    with wl.checkpoint.Checkpointer(folder, **options) as checkpointer:
        checkpointer.save(1, state, metrics={"loss": 0.5, "worst": float("inf")}, blocking=True)
