"""A save that is killed, or runs out of room, leaves the previous model whole and no litter."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import weightlift as wl

CASES = {
    "safetensors": ("m.safetensors", {}),
    "sharded": ("m.safetensors", {"shard_size": 300_000}),
    "npz": ("m.npz", {}),
    "tfjs": ("model.json", {}),
    "tfjs sharded": ("model.json", {"shard_size": 300_000}),
}
WRITER = """
import sys, numpy as np, weightlift as wl
path, kwargs, version = sys.argv[1], eval(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
for step in range(version, version + 1000):
    wl.save({f"w{i}": np.full(50_000, step, np.float32) for i in range(6)}, path, **kwargs)
"""


def entry(path: Path, kind: str) -> Path:
    return path.with_name("m.safetensors.index.json") if kind == "sharded" else path


@pytest.mark.parametrize("kind", CASES)
def test_killed_at_random_instants(kind: str, tmp_path: Path) -> None:
    name, options = CASES[kind]
    path = tmp_path / name
    wl.save({f"w{i}": np.full(50_000, 0, np.float32) for i in range(6)}, path, **options)
    rng, last = random.Random(kind), 0
    for attempt in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), repr(options), str(last + 1)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        loaded = wl.load(entry(path, kind))
        values = {float(v) for a in loaded.values() for v in (a.min(), a.max())}
        assert len(values) == 1, f"attempt {attempt}: a mixture of saves: {values}"
        last = int(values.pop())
    wl.save({"w0": np.zeros(50_000, np.float32)}, path, **options)
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")], "the next save collects litter"


NETWORK = """
import sys, numpy as np, weightlift as wl
from tests.unit.mxnet_support import dense_and_norm, dense_and_norm_values
path, version = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
for step in range(version, version + 1000):
    symbol = dense_and_norm()
    symbol["attrs"] = {"mxnet_version": ["int", 10000 + step]}
    values = {name: np.full_like(value, step) for name, value in dense_and_norm_values().items()}
    wl.save_model(wl.ModelArtifacts(symbol, values, format="mxnet-symbol"), path)
"""


def test_killed_between_the_symbol_and_its_parameters(tmp_path: Path) -> None:
    """The parameters get their name first: what is found is of one save, or they are one ahead of the symbol."""
    path, last = tmp_path / "net-symbol.json", 0
    rng = random.Random(7)
    for attempt in range(6):
        process = subprocess.Popen([sys.executable, "-c", NETWORK, str(path), str(last or 1)], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        while not path.exists():
            assert process.poll() is None
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = wl.load_model(path)
        values = {float(v) for array in found.weights.values() for v in np.asarray(array).reshape(-1)}
        assert len(values) == 1, f"attempt {attempt}: a mixture of saves: {values}"
        last = int(values.pop())
        symbol = found.model_topology["attrs"]["mxnet_version"][1] - 10000
        assert last - 1 <= symbol <= last, f"attempt {attempt}: parameters of save {last}, symbol of {symbol}"
        assert wl.verify(path).ok


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of 4 MiB; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small tmpfs here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("kind", CASES)
def test_full_disk(kind: str, small_disk: Path) -> None:
    name, options = CASES[kind]
    path = small_disk / name
    wl.save({"w": np.ones(250_000, np.float32)}, path, **options)
    before = {p.name: p.read_bytes() for p in small_disk.iterdir()}
    with pytest.raises(wl.StorageError) as error:
        wl.save({f"w{i}": np.zeros(500_000, np.float32) for i in range(3)}, path, **options)
    assert error.value.errno is not None and str(small_disk) in str(error.value)
    assert {p.name: p.read_bytes() for p in small_disk.iterdir()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only directories")
def test_read_only_directory(tmp_path: Path) -> None:
    place = tmp_path / "ro"
    place.mkdir()
    wl.save({"w": np.ones(3)}, place / "x.safetensors")
    place.chmod(0o555)
    try:
        with pytest.raises(wl.AccessError):
            wl.save({"w": np.zeros(3)}, place / "x.safetensors")
    finally:
        place.chmod(0o755)
    assert wl.load(place / "x.safetensors")["w"].sum() == 3


def test_read_only_mount(small_disk: Path) -> None:
    wl.save({"w": np.ones(3)}, small_disk / "x.safetensors")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(wl.StorageError, match=r"[Rr]ead-only"):
        wl.save({"w": np.zeros(3)}, small_disk / "x.safetensors")
    assert wl.load(small_disk / "x.safetensors")["w"].sum() == 3


def test_interrupt_leaves_nothing(tmp_path: Path) -> None:
    script = """
import sys, numpy as np, weightlift as wl
tensors = {f"w{i}": np.ones((4096, 4096), np.float32) for i in range(8)}
print("ready", flush=True)
while True:
    wl.save(tensors, sys.argv[1])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "x.safetensors")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in err
    assert {p.name for p in tmp_path.iterdir()} <= {"x.safetensors"}
