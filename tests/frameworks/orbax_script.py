"""Run where Orbax and tensorstore are installed: checkpoints that it writes, and what we read of them; JSON.

Argument: an empty directory.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"  # before JAX is imported

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import weightlift as wl

WAYS = {
    "ocdbt": {"use_ocdbt": True},
    "folders": {"use_ocdbt": False},
    "ocdbt3": {"use_ocdbt": True, "use_zarr3": True},
    "folders3": {"use_ocdbt": False, "use_zarr3": True},
}


def make_tree() -> dict[str, Any]:
    """Leaves of all kinds; one is on two devices, and large enough to be read in parts."""
    mesh = Mesh(np.array(jax.devices()), ("x",))
    values = np.random.default_rng(1).standard_normal((1200, 1000), np.float32)
    return {
        "sharded": jax.device_put(values, NamedSharding(mesh, PartitionSpec("x", None))),
        "columns": jax.device_put(values[:6, :8], NamedSharding(mesh, PartitionSpec(None, "x"))),
        "nested": [jnp.ones(3, jnp.bfloat16), None, {"x/y": np.arange(4), "~": jnp.zeros((5, 5))}],
        "scalars": [jnp.float32(3), np.array(5), np.array(2.5)],
        "float8": jnp.arange(4).astype(jnp.float8_e4m3fn),
        "int4": jnp.arange(-3, 3).astype(jnp.int4),
        "others": [np.array([True, False]), np.array([1 + 2j], np.complex64), np.ones(3, np.float16)],
        "empty": {"dict": {}, "list": []},
    }


def same(a: Any, b: Any) -> bool:
    """Whether two trees have the same containers and bits."""
    x, y = jax.tree.flatten(a), jax.tree.flatten(b)
    return x[1] == y[1] and all(
        p.dtype == q.dtype and p.shape == q.shape and np.asarray(p).tobytes() == np.asarray(q).tobytes()
        for p, q in zip(x[0], y[0], strict=True)
    )


def refused(make: Callable[[], Any]) -> list[str]:
    """The class and text of the error."""
    try:
        found = make()
    except wl.WeightliftError as error:
        return [type(error).__name__, str(error)]
    return ["", repr(found)]


def reading(path: Path, tree: dict[str, Any]) -> list[bool]:
    """What ``load`` and ``open`` make of a checkpoint."""
    some = wl.load(path, names=["columns", "nested.2.*"])
    with wl.open(path) as weights:
        view, rows = weights["sharded"], np.asarray(tree["sharded"])
        return [
            same(wl.load(path), tree),
            set(some) == {"columns", "nested.2.x/y", "nested.2.~"} and same(some["columns"], tree["columns"]),
            (view.shape, str(view.dtype), str(weights["int4"].dtype)) == ((1200, 1000), "float32", "int4"),
            np.array_equal(view[599:602], rows[599:602]) and np.array_equal(view[[3, 1100], 5:7], rows[[3, 1100], 5:7]),
            weights["scalars.0"][...].tolist() == 3.0,
        ]


def converting(folder: Path, path: Path) -> bool:
    """Whether a checkpoint becomes a file with the same in it; int4 is left out, for which files have another form."""
    names = [name for name in wl.open(path) if name != "int4"]
    wl.convert(path, folder / "x.safetensors", names=names)
    return same(wl.load(folder / "x.safetensors"), wl.load(path, names=names))


def steps(folder: Path, tree: dict[str, Any]) -> list[Any]:
    """Directories of a manager: with one tree, and with two."""
    with ocp.CheckpointManager(folder / "manager") as manager:
        args = ocp.args.Composite(state=ocp.args.StandardSave(tree), note=ocp.args.JsonSave({"a": 1}))
        manager.save(1, args=args)
        pair = ocp.args.Composite(a=ocp.args.StandardSave(tree), b=ocp.args.StandardSave(tree))
        manager.save(2, args=pair)
    return [
        same(wl.load(folder / "manager" / "1"), tree),
        same(wl.load(folder / "manager" / "2" / "b"), tree),
        refused(lambda: wl.load(folder / "manager" / "2")),
    ]


def damage(folder: Path) -> dict[str, Any]:
    """Checkpoints of directories, each with something wrong."""

    def broken(name: str, change: Callable[[Path], Any], source: str = "folders") -> list[str]:
        copy = folder / f"broken-{name}"
        shutil.copytree(folder / source, copy)
        change(copy)
        return refused(lambda: wl.load(copy))

    def edit(file: str, old: str, new: str) -> Callable[[Path], Any]:
        def change(copy: Path) -> None:
            text = (copy / file).read_text()
            assert old in text
            (copy / file).write_text(text.replace(old, new))

        return change

    def link(copy: Path) -> None:
        (copy / "columns" / "0.0").unlink()
        (copy / "columns" / "0.0").symlink_to(folder / "folders" / "columns" / "0.0")

    def many(copy: Path) -> None:
        edit("columns/.zarray", '"shape":[6,8]', '"shape":[4000000000,4000000]')(copy)
        edit("_METADATA", '"store_array_data_equal_to_fill_value": true', '"custom_metadata2": 0')(copy)

    def old(copy: Path) -> None:  # as older versions write, in which zeros are not stored
        (copy / "nested.2.~" / "0.0").unlink()
        edit("_METADATA", '"store_array_data_equal_to_fill_value": true', '"custom_metadata2": 0')(copy)

    answer = {
        "no chunk": broken("chunk", lambda copy: (copy / "columns" / "0.1").unlink()),
        "no array": broken("array", lambda copy: shutil.rmtree(copy / "columns")),
        "cut chunk": broken("cut", lambda copy: (copy / "columns" / "0.0").write_bytes(b"\x28\xb5\x2f\xfd")),
        "link": broken("link", link),
        "grid": broken("grid", edit("columns/.zarray", '"shape":[6,8]', '"shape":[4000000000,4000000]')),
        "huge": broken("huge", many),
        "name": broken("name", edit("_METADATA", '{"key": "columns",', '{"key": "../folders/columns",')),
        "no database": broken("database", lambda copy: (copy / "manifest.ocdbt").unlink(), "ocdbt"),
        "no nodes": broken("nodes", lambda copy: [p.unlink() for p in (copy / "d").iterdir()], "ocdbt"),
    }
    shutil.copytree(folder / "folders", folder / "old")
    old(folder / "old")
    answer["old"] = bool((wl.load(folder / "old", names="nested.2.~")["nested.2.~"] == 0).all())
    return answer


def main(folder: Path) -> dict[str, Any]:
    """What came out of each case."""
    logging.disable(logging.CRITICAL)
    tree = make_tree()
    answer: dict[str, Any] = {}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "standard", tree)
    answer["standard"] = reading(folder / "standard", tree)
    for name, options in WAYS.items():
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
            checkpointer.save(folder / name, tree)
        answer[name] = reading(folder / name, tree)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(folder / "text", {"w": np.ones(2), "text": "hello", "step": 7, "rate": 0.5})
    answer["text"] = repr({key: np.asarray(value).tolist() for key, value in wl.load(folder / "text").items()})
    answer["convert"] = converting(folder, folder / "standard")
    answer["verify"] = repr(wl.verify(folder / "ocdbt"))
    answer["steps"] = steps(folder, tree)
    answer["damage"] = damage(folder)
    return answer


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
