"""Orbax checkpoints are recognised, by each of their files and as a directory; their tree is parsed within bounds.

What needs tensorstore is tested beside JAX, in tests/frameworks/test_orbax_checkpoints.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import weightlift as wl
from weightlift._plan import OpenFiles
from weightlift._stored_arrays import StoredArrays
from weightlift.formats._orbax_tree import parse_strings, parse_tree
from weightlift.stores._memory import MemoryStore

ARRAY = {"key_metadata": [{"key": "w", "key_type": 2}], "value_metadata": {"value_type": "jax.Array"}}
FILES = {
    "_CHECKPOINT_METADATA": json.dumps({"item_handlers": "x", "metrics": {}}).encode(),
    "_METADATA": json.dumps({"tree_metadata": {"w": ARRAY}, "use_ocdbt": False}, indent=1).encode(),
    "manifest.ocdbt": bytes.fromhex("0cdb3a2a7300000000000000000128b5"),
}


@pytest.mark.parametrize("name", FILES)
def test_each_file_tells_it(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    (tmp_path / name).write_bytes(FILES[name])
    for target in (tmp_path, tmp_path / name):
        with pytest.raises(wl.UnsupportedFeatureError, match=r"Orbax checkpoint.*orbax\.checkpoint") as caught:
            wl.load(target)
        assert caught.value.path == str(tmp_path / name)


def test_without_tensorstore_it_is_said_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    (tmp_path / "_METADATA").write_bytes(metadata(leaf("a"), use_ocdbt=False))
    with pytest.raises(
        wl.UnsupportedFeatureError, match=r"an Orbax checkpoint: .*weightlift\[orbax\].*orbax\.checkpoint"
    ):
        wl.load(tmp_path)


def test_without_arrays_nothing_else_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    leaves = leaf("a", 0, kind="None"), leaf("a", 1, kind="string"), leaf("b", kind="Dict")
    (tmp_path / "_METADATA").write_bytes(metadata(*leaves, use_ocdbt=False))
    (tmp_path / "_strings.json").write_text('{"a.1": "text"}')
    assert wl.load(tmp_path) == {"a": [None, "text"], "b": {}}


def test_it_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="not written"):
        wl.save({"w": np.zeros(1)}, tmp_path / "x", format="orbax")
    assert not list(tmp_path.iterdir())


def leaf(*keys: str | int, kind: object = "np.ndarray") -> dict[str, object]:
    path = [{"key": str(key), "key_type": 1 if isinstance(key, int) else 2} for key in keys]
    return {"key_metadata": path, "value_metadata": {"value_type": kind}}


def metadata(*leaves: object, **settings: object) -> bytes:
    return json.dumps({"tree_metadata": {str(i): one for i, one in enumerate(leaves)}, **settings}).encode()


def test_the_tree_and_its_settings() -> None:
    leaves = leaf("a", 0, "w"), leaf("a", 1, kind="None"), leaf("s", kind="string"), leaf("t", kind="NamedTuple")
    tree = parse_tree(metadata(*leaves, use_ocdbt=False, use_zarr3=True, custom_metadata={"epoch": 3}))
    assert tree.paths == {"a.0.w": ("a", 0, "w"), "a.1": ("a", 1), "s": ("s",), "t": ("t",)}
    assert (tree.arrays, tree.strings) == (("a.0.w",), ("s",))
    assert tree.empty == {"a.1": {"value": None}, "t": {"value": None}}
    assert (tree.database, tree.driver, tree.complete, tree.metadata) == (False, "zarr3", False, {"epoch": 3})
    old = parse_tree(metadata(leaf("w")))
    assert (old.database, old.driver, old.complete, old.metadata) == (None, "zarr", False, {})
    assert parse_strings(b'{"s": "x", "t": "y"}', ("s",)) == {"s": {"value": "x"}}


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"[]", "no tree_metadata"),
        (b'{"tree_metadata": []}', "no tree_metadata"),
        (b'{"tree_metadata": {"a": 1}}', "not one of a leaf"),
        (b'{"tree_metadata": {}, "tree_metadata": {}}', "twice"),
        (metadata({"key_metadata": [{"key": "a"}], "value_metadata": {}}), "not one of a leaf"),
        (metadata(leaf("a", kind=3)), "the type '3'"),
        (metadata(leaf("a", kind="jax.PRNGKey")), r"jax\.PRNGKey.*orbax\.checkpoint"),
        (metadata(leaf()), "in no container"),
        (metadata(leaf("a.b"), leaf("a", "b")), "two leaves"),
        (metadata({**leaf("a"), "key_metadata": [{"key": "-1", "key_type": 1}]}), "the key '-1' of type 1"),
        (metadata({**leaf("a"), "key_metadata": [{"key": ["a"], "key_type": 2}]}), "of type 2"),
        (metadata({**leaf("a"), "key_metadata": [{"key": "a", "key_type": [9]}]}), r"of type \[9\]"),
        (metadata(leaf("a"), use_ocdbt="yes"), "use_ocdbt"),
    ],
)
def test_malformed_metadata(data: bytes, error: str) -> None:
    with pytest.raises(wl.FormatError, match=error):
        parse_tree(data)


@pytest.mark.parametrize("data", [b"{}", b"[]", b'{"s": 3}'])
def test_text_that_is_not_there(data: bytes) -> None:
    with pytest.raises(wl.FormatError, match=r"_strings\.json"):
        parse_strings(data, ("s",))


def test_what_is_refused_before_any_array_is_opened(tmp_path: Path) -> None:
    (tmp_path / "_METADATA").write_bytes(metadata(leaf("../a"), use_ocdbt=False))
    with pytest.raises(wl.UnsafeContentError, match="leads out") as caught:
        wl.load(tmp_path)
    assert caught.value.tensor == "../a" and caught.value.path == str(tmp_path / "_METADATA")
    (tmp_path / "_METADATA").write_bytes(metadata(leaf("a")))
    with pytest.raises(wl.UnsupportedFeatureError, match=r"in a local directory only.*copy"):
        OpenFiles(MemoryStore("folder", {})).open_arrays(StoredArrays("_METADATA", ["a"], "zarr", True, True))
    step = json.dumps({"item_handlers": {f"i{n}": "x" for n in range(1001)}})
    (tmp_path / "_METADATA").unlink()
    (tmp_path / "_CHECKPOINT_METADATA").write_text(step)
    with pytest.raises(wl.UnsafeContentError, match="1001 items"):
        wl.load(tmp_path)
    (tmp_path / "_CHECKPOINT_METADATA").write_text(json.dumps({"item_handlers": {"../x": "x"}}))
    with pytest.raises(wl.UnsafeContentError, match="plain path"):
        wl.load(tmp_path)
