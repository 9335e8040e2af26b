"""Power cuts: what a checkpointer does to files is recorded, and every state that a cut may leave is tried.

A cut keeps what was synced before it. Of the rest it may keep anything: each write, each change of a size, each name
that was made, changed or removed, on its own (``_Disk``). In each such state all steps that can be seen must be whole,
and the newest must be one whose save had begun, and none older than the last whose save had ended.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from tests.e2e.io_support import run_recorded

import weightlift as wl

JOB = """
import ctypes, sys
import numpy as np, weightlift as wl
mark = ctypes.CDLL(None).io_mark
checkpointer = wl.checkpoint.Checkpointer(sys.argv[1], keep_last=2)
fixed = np.full(3000, 7.0)
for step in (1, 2, 3, 3, 4):
    state = {"fixed": fixed, "changing": np.full(2000, step, np.float32), "step": step}
    if step == 4:
        state["large"] = np.full(1 << 18, step, np.float64)
    mark(b"begun %d" % step)
    checkpointer.save(step, state, overwrite=True, blocking=True)
    mark(b"ended %d" % step)
"""


@dataclass
class _Op:
    """One line of the log: what is done to which inode, or to the names in which directory."""

    kind: str
    inode: int = 0
    name: str = ""
    target: int = 0
    old: tuple[int, str] = (0, "")
    offset: int = 0
    data: bytes = b""
    size: int = 0

    @property
    def lasts_by(self) -> int:
        """The inode whose sync makes it last."""
        return self.inode


@dataclass
class _Log:
    root: int
    ops: list[_Op] = field(default_factory=list)


def read_log(folder: Path, log: Path, data: bytes) -> _Log:
    """The log, with a number of its own for each file: the file system uses inodes again."""
    numbers: dict[str, int] = {str(folder.stat().st_ino): 0}
    result, at = _Log(0), 0

    def number(inode: str) -> int:
        return numbers.setdefault(inode, len(numbers) + 1000)

    fresh = 1
    for line in log.read_text().splitlines():
        kind, *words = line.split(" ")
        if kind == "new":
            numbers[words[0]] = fresh
            fresh += 1
        elif kind == "link":
            result.ops.append(_Op("link", number(words[0]), words[1], number(words[2])))
        elif kind == "rename":
            place, old = number(words[2]), (number(words[0]), words[1])
            result.ops.append(_Op("rename", place, words[3], number(words[4]), old))
        elif kind == "unlink":
            result.ops.append(_Op("unlink", number(words[0]), words[1]))
        elif kind == "write":
            length = int(words[2])
            piece = data[at : at + length]
            result.ops.append(_Op("write", number(words[0]), offset=int(words[1]), data=piece))
            at += length
        elif kind == "size":
            result.ops.append(_Op("size", number(words[0]), size=int(words[1])))
        elif kind == "sync":
            result.ops.append(_Op("sync", number(words[0])))
        else:
            result.ops.append(_Op("mark", name=" ".join(words)))
    return result


class _Disk:
    """What lies on the disk when the given operations have got there."""

    def __init__(self, ops: Sequence[_Op]) -> None:
        self.names: dict[int, dict[str, int]] = {0: {}}
        self.files: dict[int, bytearray] = {}
        for op in ops:
            if op.kind in ("write", "size"):
                content = self.files.setdefault(op.inode, bytearray())
                end = op.size if op.kind == "size" else op.offset + len(op.data)
                content.extend(bytes(max(0, end - len(content))))
                if op.kind == "write":
                    content[op.offset : end] = op.data
            elif op.kind == "link":
                self.names.setdefault(op.inode, {})[op.name] = op.target
            elif op.kind == "rename":
                before = self.names.setdefault(op.old[0], {})
                if before.get(op.old[1]) == op.target:
                    del before[op.old[1]]
                self.names.setdefault(op.inode, {})[op.name] = op.target
            elif op.kind == "unlink":
                self.names.setdefault(op.inode, {}).pop(op.name, None)

    def put(self, folder: Path, directories: set[int], inode: int = 0) -> None:
        """Make it so."""
        folder.mkdir()
        for name, target in self.names.get(inode, {}).items():
            if target in directories:
                self.put(folder / name, directories, target)
            else:
                (folder / name).write_bytes(self.files.get(target, b""))


def states(ops: Sequence[_Op], cut: int) -> Iterator[list[int]]:
    """The operations that a cut before number ``cut`` may leave, by number; some of the ways there are."""
    synced: dict[int, int] = {}
    for i in range(cut):
        if ops[i].kind == "sync":
            synced[ops[i].inode] = i
    does = [i for i in range(cut) if ops[i].kind in ("write", "size", "link", "rename", "unlink")]
    lasting = [i for i in does if i < synced.get(ops[i].lasts_by, -1)]
    open_ = [i for i in does if i >= synced.get(ops[i].lasts_by, -1)]
    names = [i for i in open_ if ops[i].kind in ("link", "rename", "unlink")]
    data = [i for i in open_ if ops[i].kind in ("write", "size")]
    rng = random.Random(cut)
    chosen = [[], open_, names, data, [i for i in open_ if ops[i].kind != "write"]]
    chosen += [[i for i in open_ if rng.random() < 0.5] for _ in range(3)]
    chosen += [[i for i in open_ if i != left] for left in open_[-3:]]
    for some in chosen:
        yield sorted({*lasting, *some})


def violations(log: _Log, folder: Path, ops: Sequence[_Op]) -> Iterator[str]:
    """What is wrong in some state that a cut may leave."""
    directories = {0, *(op.inode for op in log.ops if op.kind in ("link", "rename", "unlink"))}
    directories -= {op.inode for op in log.ops if op.kind == "write"}
    seen: set[tuple[object, ...]] = set()
    begun, ended = {0}, 0
    for cut in range(len(ops) + 1):
        if cut and ops[cut - 1].kind == "mark":
            what, step = ops[cut - 1].name.split()
            begun |= {int(step)} if what == "begun" else set()
            ended = int(step) if what == "ended" else ended
        for kept in states(ops, cut):
            key = (max(begun), ended, *kept)
            if key in seen:
                continue
            seen.add(key)
            shutil.rmtree(folder, ignore_errors=True)
            _Disk([ops[i] for i in kept]).put(folder, directories)
            problem = wrong_in(folder, begun, ended)
            if problem:
                yield f"cut before operation {cut}: {problem}"


def wrong_in(folder: Path, begun: set[int], ended: int) -> str | None:
    """What is wrong with the checkpoints in a folder."""
    reader = wl.checkpoint.Checkpointer(folder)
    steps = reader.steps()
    newest = steps[-1] if steps else 0
    if newest < ended:
        return f"step {ended} was saved, {newest} is the newest"
    for step in steps:
        report = reader.verify(step)
        if step not in begun or not report.ok:
            return f"step {step} is damaged: {report.problems or report.corrupt}"
        state = reader.restore(step)
        if state["step"] != step or (state["changing"] != step).any() or (state["fixed"] != 7).any():
            return f"step {step} holds other values"
    return None


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> _Log:
    place = tmp_path_factory.mktemp("power")
    folder = place / "steps"
    folder.mkdir()
    run_recorded(JOB, folder, place)
    return read_log(folder, place / "log", (place / "data").read_bytes())


def test_the_record_is_what_happened(recorded: _Log, tmp_path: Path) -> None:
    kinds = [op.kind for op in recorded.ops]
    assert {"write", "size", "link", "rename", "unlink", "sync", "mark"} <= set(kinds)
    directories = {0, *(op.inode for op in recorded.ops if op.kind in ("link", "rename", "unlink"))}
    _Disk(recorded.ops).put(tmp_path / "s", directories)
    assert wrong_in(tmp_path / "s", {1, 2, 3, 4}, 4) is None
    assert wl.checkpoint.Checkpointer(tmp_path / "s").steps() == [3, 4]
    assert np.array_equal(wl.checkpoint.Checkpointer(tmp_path / "s").restore()["large"], np.full(1 << 18, 4.0))


@pytest.mark.timeout(900)
def test_no_cut_damages_a_step(recorded: _Log, tmp_path: Path) -> None:
    assert list(violations(recorded, tmp_path / "s", recorded.ops)) == []


def without(ops: Sequence[_Op], chosen: Callable[[_Op], bool]) -> list[_Op]:
    return [op for op in ops if not (op.kind == "sync" and chosen(op))]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("missing", ["shards", "index", "manifest", "directory of the step", "directory above"])
def test_a_sync_that_is_missing_is_noticed(recorded: _Log, tmp_path: Path, missing: str) -> None:
    named = {op.target: op.name for op in recorded.ops if op.kind == "link"}
    above = {op.inode for op in recorded.ops if op.kind == "rename" and op.name.startswith("step-")}
    steps = {op.target for op in recorded.ops if op.kind == "rename" and op.name.startswith("step-")}
    of: dict[str, Callable[[_Op], bool]] = {
        "shards": lambda op: named.get(op.inode, "").startswith("data-"),
        "index": lambda op: named.get(op.inode, "") == "model.safetensors.index.json",
        "manifest": lambda op: named.get(op.inode, "") == "manifest.json",
        "directory of the step": lambda op: op.inode in steps,
        "directory above": lambda op: op.inode in above,
    }
    ops = without(recorded.ops, of[missing])
    assert len(ops) < len(recorded.ops)
    assert next(violations(recorded, tmp_path / "s", ops), None) is not None
