"""The fuzzers' target of a checkpoint's manifest: its digest is made right, so that what lies behind it is reached.

An input is a manifest, or, as few changes of a text leave it JSON, edits of one: threes of bytes, of a node of the
document, of how it changes, and into what. The rest of the step is right.

Property: nothing but WeightliftError comes out of ``Manifest.from_json``; what it takes is written and read again as it
was; and the step restores to what was saved, or with a WeightliftError.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import weightlift as wl
from weightlift.checkpoint._manifest import MANIFEST, Manifest, _digest

STATE: dict[str, Any] = {"w": np.arange(6, dtype="f4").reshape(2, 3), "b": np.array([1, -1], "i8"), "n": 3}


def checkpoint_manifest(data: bytes, folder: Path) -> bool:
    """The input is a manifest, whatever its digest, or edits of the right one; returns whether its step restores."""
    checkpointer = wl.checkpoint.Checkpointer(folder / "steps")
    if checkpointer.latest() is None:
        _save(folder / "steps")
    data = with_digest(data if data[:1] == b"{" else edited(manifest_seeds()[0], data))
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


_VALUES: list[Any] = [
    None, True, 0, 1, -1, 0.5, 1 << 32, (1 << 62) - 1, 1 << 62, "", "x", "w", "float32", "float33", "../x.safetensors",
    "x.safetensors", [], [[]], {}, {"x": 1}, [1], [1, 2, 3, 4, 5, 6, 7, 8],
]  # fmt: skip


def edited(manifest: bytes, edits: bytes) -> bytes:
    """The manifest after edits: a value, another node, one more or less, twice, or left out."""
    document = json.loads(manifest)
    for at in range(0, min(len(edits), 60) - 2, 3):
        which, how, what = edits[at : at + 3]
        nodes = list(_nodes(document))
        if not 0 < len(nodes) < 500:
            break
        place, key = nodes[which % len(nodes)]
        old = place[key]
        if how % 8 < 4:
            place[key] = copy.deepcopy(_VALUES[what % len(_VALUES)])
        elif how % 8 == 4:
            container, other = nodes[what % len(nodes)]
            place[key] = copy.deepcopy(container[other])
        elif how % 8 == 5 and type(old) is int:
            place[key] = old + what - 128
        elif how % 8 == 6 and isinstance(old, list):
            place[key] = old + copy.deepcopy(old)
        else:
            del place[key]
    return json.dumps(document).encode()


def _nodes(node: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of all below a node."""
    for key, item in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(item, (dict, list)):
            yield from _nodes(item)


@cache
def manifest_seeds() -> tuple[bytes, ...]:
    """That of the step, one with metadata, one of an empty step; edits that change nothing."""
    with TemporaryDirectory() as folder:
        _save(Path(folder) / "a")
        _save(Path(folder) / "b", metadata={"run": {"id": [1, None, "x"]}})
        _save(Path(folder) / "c", {})
        _save(Path(folder) / "d", {"w": np.zeros(300)}, compress="zstd")
        manifests = [(Path(folder) / name / "step-00000001" / MANIFEST).read_bytes() for name in "abcd"]
    return *manifests, b"", b"\x05\x05\x80"


def _save(folder: Path, state: dict[str, Any] = STATE, **options: Any) -> None:
    with wl.checkpoint.Checkpointer(folder, **options) as checkpointer:
        checkpointer.save(1, state, metrics={"loss": 0.5, "worst": float("inf")}, blocking=True)
