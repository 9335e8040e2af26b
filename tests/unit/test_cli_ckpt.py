"""``weightlift ckpt``: what each command prints and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import weightlift as wl
from weightlift.checkpoint import Checkpointer

click = pytest.importorskip("click")
pytest.importorskip("rich")

from click.testing import CliRunner, Result  # noqa: E402

from weightlift.cli._app import app  # noqa: E402

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in a directory with three steps in ``run``."""
    monkeypatch.chdir(tmp_path)
    state = {"model": {"w": np.arange(6, dtype=np.float32)}, "optimizer": {"m": np.zeros(3)}, "step": 0}
    with Checkpointer("run", keep_last=None, metadata={"job": "test"}) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, {**state, "step": step}, metrics={"loss": 1 / step}, blocking=True)
            state["model"]["w"][0] += 10 * (step == 2)
    return lambda *args: CliRunner().invoke(app, ["ckpt", *map(str, args)])


def damage(step: int) -> None:
    (path,) = Path(f"run/step-{step:08d}").glob("data-*")
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(data)


def test_ls(run: Run) -> None:
    Path("run/.writing-00000009-0123abcd").mkdir()
    result = run("ls", "run")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].split() == ["step", "age", "size", "unique", "tensors", "ranks", "metrics", "state"]
    assert lines[1].split()[0] == "1" and lines[1].split()[-3:] == ["loss", "1", "committed"]
    assert len(lines) == 5 and lines[4].endswith(".writing-00000009-0123abcd  litter")
    rows = [json.loads(line) for line in run("ls", "run", "--json").output.splitlines()]
    assert [row.get("step") for row in rows] == [1, 2, 3, None]
    shared = next(Path("run/step-00000001").glob("data-*")).stat()
    assert shared.st_nlink == 2
    assert rows[0]["nbytes"] - rows[0]["unique_nbytes"] == shared.st_size
    assert rows[2]["nbytes"] == rows[2]["unique_nbytes"]
    assert run("ls", "nowhere").exit_code == 3


def test_ls_says_what_is_damaged(run: Run) -> None:
    Path("run/step-00000002/manifest.json").write_text("{}")
    next(Path("run/step-00000003").glob("data-*")).unlink()
    lines = run("ls", "run").output.splitlines()
    assert "damaged: not a checkpoint's manifest" in lines[2]
    assert "is gone" in lines[3]


def test_show(run: Run) -> None:
    output = run("show", "run").output
    assert output.startswith("step 3: 2 tensors, ")
    assert [line.split()[:2] for line in output.splitlines()[2:]] == [
        ["model.w", "float32"], ["optimizer.m", "float64"],
    ]  # fmt: skip
    found = json.loads(run("show", "run", "2", "--json").output)
    assert (found["step"], found["metadata"], found["metrics"]) == (2, {"job": "test"}, {"loss": 0.5})
    assert {t["since"] for t in found["tensors"]} == {1}
    assert run("show", "run", "7").exit_code == 3
    assert run("show", "run", "x").exit_code == 2


def test_verify(run: Run) -> None:
    result = run("verify", "run", "--all")
    assert result.exit_code == 0 and result.output.count(": ok (safetensors; 2 ok;") == 3
    damage(3)
    assert run("verify", "run", "step-00000002").exit_code == 0
    result = run("verify", "run", "--json")
    assert result.exit_code == 1
    assert [t["status"] for t in json.loads(result.output)["tensors"]].count("corrupt") == 1


def test_diff(run: Run) -> None:
    assert run("diff", "run", "1", "2").output == "same: 2 tensors equal\n"
    result = run("diff", "run", "1")
    assert result.exit_code == 1 and "model.w" in result.output and "1 values; 1 equal" in result.output


def test_gc(run: Run) -> None:
    assert run("gc", "run").output == "nothing to remove\n"
    Path("run/.deleting-00000009-0123abcd").mkdir()
    names = ["remove .deleting-00000009-0123abcd", "remove step 1"]
    assert run("gc", "run", "--dry-run", "--keep-last", 2).output.splitlines() == [f"would {name}" for name in names]
    assert Checkpointer("run").steps() == [1, 2, 3] and Path("run/.deleting-00000009-0123abcd").exists()
    output = run("gc", "run", "--keep-last", 2).output
    assert "removed step 1" in output
    assert Checkpointer("run").steps() == [2, 3] and not Path("run/.deleting-00000009-0123abcd").exists()
    assert run("gc", "nowhere").exit_code == 3 and not Path("nowhere").exists()
    with Checkpointer("run") as checkpointer:
        checkpointer.save(9, {}, blocking=True)
        result = run("gc", "run")
        assert result.exit_code == 3 and "another checkpointer is writing here" in result.output


def test_export(run: Run) -> None:
    result = run("export", "run", "model.npz", "--prefix", "model", "--step", "2")
    assert result.exit_code == 0 and result.output.startswith("model.npz: 1 tensor, ")
    with np.load("model.npz") as found:
        assert list(found) == ["w"] and found["w"].tolist() == [0, 1, 2, 3, 4, 5]
    assert run("export", "run", "model.npz").exit_code == 2
    run("export", "run", "model.npz", "--force", "--names", "opt*")
    assert list(wl.load("model.npz")) == ["optimizer.m"]
    run("export", "run", "all.safetensors")
    state = wl.load("all.safetensors")
    assert state["step"] == 3 and state["model"]["w"][0] == 10
