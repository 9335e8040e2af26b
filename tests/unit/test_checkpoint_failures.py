"""Places that may not be written to, and clocks that jump."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.unit.checkpoint_support import save_all

import weightlift as wl
from weightlift.checkpoint import Checkpointer


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that another user can get to: those of pytest only their owner can."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root may write anywhere; so as another user, meanwhile."""
    before = os.geteuid()
    try:
        os.seteuid(65534 if before == 0 else before)
    except OSError:
        pytest.skip("root may write into any directory, and may not become another user here")
    try:
        yield
    finally:
        os.seteuid(before)


def test_readers_need_no_right_to_write(place: Path) -> None:
    save_all(place / "s", {1: {"a": np.arange(3)}, 2: {"a": np.arange(4)}})
    (place / "s").chmod(0o555)
    with as_nobody():
        reader = Checkpointer(place / "s")
        assert reader.steps() == [1, 2] and reader.verify(1).ok
        assert np.array_equal(reader.restore()["a"], np.arange(4))
        for write in (lambda: reader.save(3, {}), lambda: reader.delete(1), reader.gc):
            with pytest.raises(wl.StorageError, match="Permission denied") as refused:
                write()
            assert refused.value.errno == errno.EACCES and refused.value.path == str(place / "s")
    assert sorted(path.name for path in (place / "s").iterdir()) == [".lock", "step-00000001", "step-00000002"]


def test_a_right_that_is_taken_away(place: Path) -> None:
    place.chmod(0o777)
    with as_nobody(), Checkpointer(place / "s", keep_last=1) as checkpointer:
        checkpointer.save(1, {"a": 1}, blocking=True)
        (place / "s").chmod(0o555)
        with pytest.raises(wl.StorageError, match="cannot make the directory of a step: Permission denied"):
            checkpointer.save(2, {"a": 2}, blocking=True)
        assert checkpointer.steps() == [1] and checkpointer.restore() == {"a": 1}
        (place / "s").chmod(0o755)
        checkpointer.save(2, {"a": 2}, blocking=True)
        assert checkpointer.steps() == [2] and checkpointer.restore() == {"a": 2}
    with as_nobody():
        assert [path.name for path in (place / "s").glob(".*")] == [".lock"]


def test_clocks_that_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [1.7e9, 1.7e9 + 9e4, 5.0, -7.5, 2.5e11]  # a day ahead; 1970, as without a battery; before; far ahead
    losses = [0.5, 0.1, 0.4, 0.3, 0.2]
    with Checkpointer(tmp_path / "s", keep_last=2, keep_best=("loss", 1)) as checkpointer:
        for step, loss in enumerate(losses):
            monkeypatch.setattr(time, "time", lambda now=times[step]: now)
            checkpointer.save(step, {"step": step}, metrics={"loss": loss}, blocking=True)
            assert checkpointer.latest() == step and checkpointer.restore() == {"step": step}
            assert checkpointer.manifest().created == times[step]
            path = tmp_path / "s" / f"step-{step:08d}"
            os.utime(path, (times[-1 - step] % 2**31, times[-1 - step] % 2**31))  # what a file system says is no better
        assert checkpointer.steps() == [1, 3, 4] and checkpointer.best() == 1
    monkeypatch.undo()
    pytest.importorskip("click")
    pytest.importorskip("rich")
    from click.testing import CliRunner

    from weightlift.cli._app import app

    listed = CliRunner().invoke(app, ["ckpt", "ls", str(tmp_path / "s")])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.output.splitlines()[1:]] == ["1", "3", "4"]
