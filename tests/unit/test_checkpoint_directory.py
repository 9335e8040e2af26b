"""A directory of steps: its lock, what crashes leave in it, what takes the place of what."""

from __future__ import annotations

import os
import select
import shutil
import signal
from pathlib import Path

import pytest
from tests.unit.checkpoint_support import restored, save_all

import weightlift as wl
from weightlift.checkpoint import Checkpointer
from weightlift.checkpoint._directory import StepDirectory
from weightlift.checkpoint._folders import LocalFolder


def test_two_jobs_do_not_share_a_directory(tmp_path: Path) -> None:
    with Checkpointer(tmp_path / "s") as checkpointer:
        checkpointer.save(1, {"a": 1}, blocking=True)
        with pytest.raises(wl.StorageError, match=f"process {os.getpid()} on "):
            Checkpointer(tmp_path / "s").save(2, {})
        assert restored(tmp_path / "s") == {"a": 1}  # readers need no lock
        assert StepDirectory(tmp_path / "s").locked_by() is not None
    assert StepDirectory(tmp_path / "s").locked_by() is None
    save_all(tmp_path / "s", {2: {}})


def test_one_that_nobody_closed_is_in_nobodys_way(tmp_path: Path) -> None:
    Checkpointer(tmp_path / "s").save(1, {}, blocking=True)
    save_all(tmp_path / "s", {2: {}})


def test_a_forked_worker_does_not_keep_the_lock(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path / "s")
    checkpointer.save(1, {}, blocking=True)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # as a worker of a data loader, which outlives its job
        try:
            checkpointer.save(2, {})
        except wl.StorageError as error:
            os.write(write, b"refused" if "another checkpointer" in str(error) else b"?")
        signal.pause()  # until the test ends
        os._exit(0)
    try:
        assert select.select([read], [], [], 30)[0]
        assert os.read(read, 100) == b"refused"
        checkpointer.close()
        save_all(tmp_path / "s", {2: {}})
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


def test_a_step_that_cannot_take_anothers_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.startswith(".writing"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    with Checkpointer(tmp_path / "s") as checkpointer:
        checkpointer.save(1, {"a": 1}, blocking=True)
        monkeypatch.setattr(Path, "rename", refuse)
        with pytest.raises(wl.StorageError, match="cannot commit the step"):
            checkpointer.save(1, {"a": 2}, overwrite=True).result()
        assert checkpointer.restore() == {"a": 1}


def test_litter(tmp_path: Path) -> None:
    save_all(tmp_path / "s", {1: {"a": 1}})
    root = tmp_path / "s"
    for name in (".writing-00000002-0123abcd", ".deleting-00000003-0123abcd"):
        (root / name).mkdir()
        (root / name / "data").write_bytes(b"x")
    shutil.copytree(root / "step-00000001", root / ".replaced-00000001-0123abcd")
    (root / "step-00000004.txt").mkdir()
    (root / ".writing-mine").mkdir()
    checkpointer = Checkpointer(root)
    assert checkpointer.steps() == [1]
    with checkpointer:
        assert checkpointer.gc() == []  # it cleared away when it took the lock
    assert sorted(p.name for p in root.iterdir()) == [".lock", ".writing-mine", "step-00000001", "step-00000004.txt"]


def test_a_step_whose_replacement_was_cut_short_comes_back(tmp_path: Path) -> None:
    save_all(tmp_path / "s", {1: {"a": 1}})
    root = tmp_path / "s"
    (root / "step-00000001").rename(root / ".replaced-00000001-0123abcd")
    with Checkpointer(root) as checkpointer:
        assert checkpointer.steps() == [1]  # readers find it where it is
        assert checkpointer.restore() == {"a": 1}
        checkpointer.gc()
        assert (root / "step-00000001").is_dir()
        assert checkpointer.steps() == [1]
        assert checkpointer.restore() == {"a": 1}


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(wl.StorageError, match="cannot make the directory"):
        Checkpointer(tmp_path / "file" / "s").save(1, {})


def test_sizes_pass_over_what_another_process_removes_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")  # listed, and not there when it is looked at
    assert LocalFolder(tmp_path).sizes() == {"a": 3}
    assert LocalFolder(tmp_path / "none").sizes() == {}
