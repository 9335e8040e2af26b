"""Files: readers, writers, and how their errors arrive in Python."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from weightlift import _core, errors

MIB = 1 << 20
READ_MODES = ["auto", "buffered", "direct"]
WRITE_MODES = ["auto", "buffered", "direct"]


def random_bytes(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def save(path: Path | str, data: bytes, **options) -> None:
    writer = _core.FileWriter(str(path), len(data), **options)
    writer.write_at(0, data)
    writer.commit()


# ---- readers -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", READ_MODES)
def test_reads_exactly(tmp_path: Path, mode: str) -> None:
    data = random_bytes(3 * MIB + 17)
    path = tmp_path / "f"
    path.write_bytes(data)
    reader = _core.FileReader(str(path), mode)
    assert reader.size == len(data)
    assert reader.name == str(path)
    rng = random.Random(1)
    for _ in range(50):
        offset = rng.randrange(len(data))
        nbytes = rng.randrange(len(data) - offset + 1)
        assert reader.read_at(offset, nbytes) == data[offset : offset + nbytes]
    out = np.zeros(MIB, np.uint8)
    reader.read_into(513, out)
    assert out.tobytes() == data[513 : 513 + MIB]
    half = np.zeros(7, ml_dtypes.bfloat16)
    reader.read_into(3, half)
    assert half.tobytes() == data[3:17]
    buffer = _core.Buffer(100)
    reader.read_into(len(data) - 100, buffer)
    assert bytes(buffer) == data[-100:]


def test_identity(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    info = path.stat()
    assert _core.FileReader(str(path)).identity == (info.st_dev, info.st_ino, 5, info.st_mtime_ns)
    assert not _core.FileReader(str(path)).on_network


def test_paths_of_every_kind(tmp_path: Path) -> None:
    for name in [tmp_path / "ä", os.fsencode(tmp_path / "b"), os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")]:
        save_as = _core.FileWriter(name, 3)
        save_as.write_at(0, b"abc")
        save_as.commit()
        reader = _core.FileReader(name)
        assert reader.read_at(0, 3) == b"abc"
        assert os.fsencode(reader.name) == os.fsencode(name)
    with pytest.raises(errors.NotFoundError) as caught:
        _core.FileReader(os.fsdecode(b"/nowhere/\xff"))
    assert os.fsencode(caught.value.path) == b"/nowhere/\xff"
    for bad in ["a\0b", 5, None]:
        with pytest.raises((ValueError, TypeError)):
            _core.FileReader(bad)


def test_an_unknown_mode(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(ValueError, match="mode"):
        _core.FileReader(str(tmp_path / "f"), "mmap")
    with pytest.raises(ValueError, match="mode"):
        _core.FileWriter(str(tmp_path / "g"), 1, "mmap")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_missing_file(tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    with pytest.raises(errors.NotFoundError, match="No such file") as caught:
        _core.FileReader(path)
    assert isinstance(caught.value, FileNotFoundError)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.path == caught.value.filename == path


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(errors.FormatError, match="a directory") as caught:
        _core.FileReader(str(tmp_path))
    assert caught.value.path == str(tmp_path)


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    begin = time.monotonic()
    with pytest.raises(errors.FormatError, match="FIFO"):
        _core.FileReader(str(path))
    with pytest.raises(errors.StorageError, match="FIFO"):
        _core.FileWriter(str(path), 1)
    assert time.monotonic() - begin < 5


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(errors.AccessError) as caught:
        _core.FileReader(str(path))
    assert isinstance(caught.value, PermissionError)
    assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize("mode", READ_MODES)
def test_beyond_the_end(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 1000)
    reader = _core.FileReader(str(path), mode)
    # A size that could not be allocated: refused before it is tried.
    for offset, nbytes in [(0, 1001), (1000, 1), (1001, 0), (0, 1 << 60), ((1 << 64) - 1, 1 << 63)]:
        with pytest.raises(errors.TruncatedError) as caught:
            reader.read_at(offset, nbytes)
        assert caught.value.path == str(path)
        assert caught.value.offset == offset
    assert caught.value.end == (1 << 64) - 1
    with pytest.raises(errors.TruncatedError, match="bytes 990-1001"):
        reader.read_into(990, np.zeros(11, np.uint8))
    assert reader.read_at(1000, 0) == b""


@pytest.mark.parametrize("mode", READ_MODES)
def test_cut_short_while_it_is_open(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(random_bytes(2 * MIB))
    reader = _core.FileReader(str(path), mode)
    os.truncate(path, MIB)
    with pytest.raises(errors.TruncatedError, match=f"ends at byte {MIB}"):
        reader.read_at(0, 2 * MIB)
    with pytest.raises(errors.ChangedError):
        reader.check_unchanged()
    with pytest.raises(errors.ChangedError):
        reader.map()


def test_a_change_is_noticed_and_a_replacement_is_not_one(tmp_path: Path) -> None:
    path = tmp_path / "f"
    save(path, b"first")
    reader = _core.FileReader(str(path))
    save(path, b"other")
    reader.check_unchanged()
    assert reader.read_at(0, 5) == b"first"
    reader = _core.FileReader(str(path))
    os.utime(path, ns=(1, 1))
    with pytest.raises(errors.ChangedError, match="changed") as caught:
        reader.check_unchanged()
    assert caught.value.path == str(path)


def test_destinations_that_cannot_be_filled(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 100)
    reader = _core.FileReader(str(tmp_path / "f"))
    frozen = np.zeros(4, np.uint8)
    frozen.flags.writeable = False
    for out in [frozen, np.zeros((4, 4), np.uint8)[:, ::2], b"bytes", 5]:
        with pytest.raises((BufferError, ValueError, TypeError)):
            reader.read_into(0, out)


def test_memory_reader() -> None:
    data = bytearray(b"0123456789")
    reader = _core.MemoryReader(data, "a name")
    assert (reader.size, reader.name) == (10, "a name")
    assert reader.read_at(3, 4) == b"3456"
    with pytest.raises(BufferError):
        data.append(1)  # it is held
    with pytest.raises(errors.TruncatedError) as caught:
        reader.read_at(8, 3)
    assert caught.value.path == "a name"
    del reader
    data.append(1)


def test_residency(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(random_bytes(4 * MIB))
    reader = _core.FileReader(str(path))
    assert reader.residency() == 1.0
    assert reader.residency(MIB, 10) == 1.0
    with pytest.raises(errors.TruncatedError):
        reader.residency(5 * MIB)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    if reader.residency() == 1.0:
        pytest.skip("a file system in memory")
    assert reader.residency() == 0.0
    assert reader.read_at(0, 4 * MIB) == path.read_bytes()


def test_the_gil_is_free_while_reading(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(random_bytes(64 * MIB))
    reader = _core.FileReader(str(path), "buffered")
    out = np.empty(64 * MIB, np.uint8)
    counter = 0
    stop = threading.Event()

    def count() -> None:
        nonlocal counter
        while not stop.is_set():
            counter += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        before = counter
        reader.read_into(0, out)
        assert counter > before
    finally:
        stop.set()
        thread.join()


# ---- writers -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", WRITE_MODES)
@pytest.mark.parametrize("durable", [True, False])
def test_writes_exactly(tmp_path: Path, mode: str, durable: bool) -> None:
    path = tmp_path / "f"
    data = random_bytes(3 * MIB + 5)
    buffer = _core.Buffer(len(data))
    view = np.frombuffer(buffer, np.uint8)
    view[:] = np.frombuffer(data, np.uint8)
    writer = _core.FileWriter(str(path), len(data), mode, durable)
    assert writer.name == str(path)
    cuts = [0, 5, 4096, 1 << 20, (1 << 20) + 4097, 2 << 20, len(data)]
    for begin, end in pairwise(cuts):
        writer.write_at(begin, view[begin:end])
    assert not path.exists()
    writer.sync()
    writer.commit()
    assert path.read_bytes() == data


def test_data_of_every_kind(tmp_path: Path) -> None:
    writer = _core.FileWriter(str(tmp_path / "f"), 12)
    writer.write_at(0, b"ab")
    writer.write_at(2, bytearray(b"cd"))
    writer.write_at(4, np.ones(2, ml_dtypes.bfloat16))
    writer.write_at(8, memoryview(b"efgh"))
    with pytest.raises((BufferError, ValueError)):
        writer.write_at(0, np.zeros((2, 2), np.uint8)[:, ::2])
    with pytest.raises(TypeError):
        writer.write_at(0, "text")
    writer.commit()
    assert (tmp_path / "f").read_bytes() == b"abcd\x80?\x80?efgh"


def test_misuse_of_a_writer_is_a_value_error(tmp_path: Path) -> None:
    writer = _core.FileWriter(str(tmp_path / "f"), 10)
    with pytest.raises(ValueError, match="of a file of 10") as caught:
        writer.write_at(8, b"abc")
    assert str(tmp_path / "f") in str(caught.value)
    writer.commit()
    with pytest.raises(ValueError, match="closed"):
        writer.commit()
    writer.abort()
    assert (tmp_path / "f").read_bytes() == bytes(10)


def test_an_abandoned_writer_leaves_nothing(tmp_path: Path) -> None:
    old = tmp_path / "f"
    old.write_bytes(b"old")
    writer = _core.FileWriter(str(old), MIB)
    writer.write_at(0, random_bytes(MIB))
    del writer
    aborted = _core.FileWriter(str(old), MIB)
    aborted.abort()
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert old.read_bytes() == b"old"


def test_umask_mode_and_links(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save(tmp_path / "new", b"x")
        assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o640
        (tmp_path / "new").chmod(0o604)
        (tmp_path / "link").symlink_to("new")
        save(tmp_path / "link", b"y")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o604
        assert (tmp_path / "new").read_bytes() == b"y"
    finally:
        os.umask(before)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFoundError, match="directory") as caught:
        _core.FileWriter(str(tmp_path / "no" / "f"), 1)
    assert str(tmp_path / "no") in caught.value.message
    assert caught.value.path == str(tmp_path / "no" / "f")


def test_a_directory_as_target(tmp_path: Path) -> None:
    with pytest.raises(errors.StorageError) as caught:
        _core.FileWriter(str(tmp_path), 1)
    assert caught.value.errno == errno.EISDIR


def test_a_size_nobody_has_room_for(tmp_path: Path) -> None:
    with pytest.raises(errors.StorageError) as caught:
        _core.FileWriter(str(tmp_path / "f"), 1 << 60)
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs privileges")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("mode", WRITE_MODES)
def test_a_full_disk_keeps_the_old_file(small_disk: Path, mode: str) -> None:
    path = small_disk / "f"
    save(path, b"old" * 1000)
    with pytest.raises(errors.StorageError) as caught:
        save(path, random_bytes(4 * MIB), mode=mode)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.path == str(path)
    assert path.read_bytes() == b"old" * 1000
    assert [p.name for p in small_disk.iterdir()] == ["f"]
    save(path, random_bytes(MIB), mode=mode)
    assert path.read_bytes() == random_bytes(MIB)


def test_a_read_only_file_system(small_disk: Path) -> None:
    save(small_disk / "f", b"old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for name in ["f", "new"]:
        with pytest.raises(errors.AccessError) as caught:
            _core.FileWriter(str(small_disk / name), 3)
        assert caught.value.errno == errno.EROFS
    assert (small_disk / "f").read_bytes() == b"old"


WRITER_TO_KILL = """
import sys
import numpy as np
from weightlift import _core
path, mode = sys.argv[1:]
size = 4 << 20
buffer = _core.Buffer(size)
view = np.frombuffer(buffer, np.uint8)
print("ready", flush=True)
for generation in range(1, 1000):
    view[:] = generation % 256
    writer = _core.FileWriter(path, size, mode, durable=False)
    for at in range(0, size, 1 << 20):
        writer.write_at(at, view[at : at + (1 << 20)])
    writer.commit()
"""


@pytest.mark.parametrize("mode", ["buffered", "direct"])
def test_killed_at_any_point_leaves_a_whole_file_and_no_litter(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "f"
    size = 4 * MIB
    rng = random.Random(mode)
    save(path, bytes(size))
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER_TO_KILL, str(path), mode],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, 0.05))
            child.send_signal(signal.SIGKILL)
            child.wait()
        found = path.read_bytes()
        assert len(found) == size
        assert found == found[:1] * size  # one generation, whole
    save(path, b"last")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_litter_of_a_dead_writer_is_collected_and_of_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "f"
    (tmp_path / ".f.abcdef.wltmp").write_bytes(b"dead")
    (tmp_path / ".other.abcdef.wltmp").write_bytes(b"not ours")
    with (tmp_path / ".f.livelv.wltmp").open("wb") as live:
        fcntl.flock(live, fcntl.LOCK_EX)
        save(path, b"new")
        assert sorted(p.name for p in tmp_path.iterdir()) == [".f.livelv.wltmp", ".other.abcdef.wltmp", "f"]


def test_threads_that_save_one_target(tmp_path: Path) -> None:
    path = tmp_path / "f"

    def work(mark: int) -> None:
        for _ in range(20):
            save(path, bytes([mark]) * (100_000 + mark), durable=False)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(1, 5)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            found = path.read_bytes()
            assert found == found[:1] * (100_000 + found[0])
    for thread in threads:
        thread.join()
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


# ---- several at once ---------------------------------------------------------------------------------
def writers_of(folder: Path, names: list[str], **options) -> list[_core.FileWriter]:
    writers = [_core.FileWriter(str(folder / name), 3, **options) for name in names]
    for writer in writers:
        writer.write_at(0, b"new")
    return writers


@pytest.mark.parametrize("durable", [True, False])
def test_several_are_committed_together(tmp_path: Path, durable: bool) -> None:
    names = [f"{i}" for i in range(40)]
    (tmp_path / "7").write_bytes(b"old")
    writers = writers_of(tmp_path, names, durable=durable)
    assert [p.name for p in tmp_path.iterdir()] == ["7"]
    _core.commit_all(writers)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    assert all((tmp_path / name).read_bytes() == b"new" for name in names)


def test_a_closed_one_among_several_publishes_none(tmp_path: Path) -> None:
    writers = writers_of(tmp_path, ["a", "b", "c"])
    writers[1].abort()
    with pytest.raises(ValueError, match="the file is closed"):
        _core.commit_all(writers)
    assert not list(tmp_path.iterdir())
