"""What works on a file too large for memory: peak resident bytes of a process that handles one huge deflated member."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import weightlift as wl

MIB = 1 << 20
MEMBER = 300 * MIB
LIMIT = 96 * MIB
"""Above what the process has when it begins."""

MEASURED = """
import os, sys
from pathlib import Path
import numpy as np
import weightlift as wl

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) << 10

os.chdir(sys.argv[1])
before = resident("VmRSS:")
{work}
print(resident("VmHWM:") - before)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``big.npz`` (one deflated member), ``big.safetensors`` with the same values, ``fortran.npz`` ..."""
    folder = tmp_path_factory.mktemp("big")
    values = np.zeros((MEMBER >> 14, 1 << 12), np.float32)  # which deflates fast, and is no zip bomb
    values[:, 7] = np.arange(len(values)) / 8
    wl.save({"w": values}, folder / "big.npz", compression="deflate")
    wl.save({"w": values}, folder / "big.safetensors")
    np.savez_compressed(folder / "fortran.npz", w=values.T.astype(">f4"))
    half = values[: len(values) // 2]
    np.save(folder / "fortran.npy", half.T)
    wl.save({"conv.weight": half.reshape(-1, 4096, 2, 2)}, folder / "conv.safetensors", durable=False)
    np.save(folder / "tall.npy", half.reshape(-1, 64, order="F"))
    return folder


WORK = {
    "convert": 'wl.convert("big.npz", "{out}.safetensors")',
    "convert and cast": 'wl.convert("big.npz", "{out}.safetensors", dtype="bfloat16")',
    "convert and deflate": 'wl.convert("big.npz", "{out}.npz", compression="deflate")',
    "convert from Fortran order": 'wl.convert("fortran.npy", "{out}.safetensors", durable=False)',
    "convert from Fortran order, and inflate": 'wl.convert("fortran.npz", "{out}.safetensors", durable=False)',
    "convert from Fortran order, few columns": 'wl.convert("tall.npy", "{out}.safetensors", durable=False)',
    "convert between conventions": (
        'wl.convert("conv.safetensors", "{out}.safetensors", conventions="torch->keras", durable=False)'
    ),
    "convert and quantise": 'wl.convert("big.npz", "{out}/model.json", quantize="uint8")',
    "verify": 'assert wl.verify("big.npz").ok',
    "diff": 'assert wl.diff("big.npz", "big.safetensors").same',
    "diff of Fortran order": 'assert wl.diff("fortran.npz", "fortran.npz").same',
    "load into the caller's array": (
        'out = np.empty(({rows}, 4096), np.float16); before += out.nbytes; wl.load("big.npz", out=out)'
    ),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())
def test_a_huge_member_is_never_held(work: str, files: Path, tmp_path: Path) -> None:
    code = MEASURED.format(work=work.format(out=tmp_path / "out", rows=MEMBER >> 14))
    done = subprocess.run([sys.executable, "-c", code, files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < LIMIT


def test_what_was_streamed_is_right(files: Path, tmp_path: Path) -> None:
    """Of the same file: equal values, in every way that the memory tests went."""
    wl.convert(files / "big.npz", tmp_path / "out.safetensors")
    report = wl.diff(files / "big.safetensors", tmp_path / "out.safetensors")
    assert report.same
    wl.convert(files / "big.npz", tmp_path / "half.safetensors", dtype="bfloat16")
    want = wl.load(files / "big.safetensors", dtype="bfloat16")["w"]
    assert np.array_equal(wl.load(tmp_path / "half.safetensors")["w"].view(np.uint16), want.view(np.uint16))


def test_a_kernel_that_was_turned_is_right(files: Path, tmp_path: Path) -> None:
    wl.convert(files / "conv.safetensors", tmp_path / "out.safetensors", conventions="torch->keras", durable=False)
    want = wl.load(files / "conv.safetensors", memory="map")["conv.weight"]
    found = wl.open(tmp_path / "out.safetensors")["conv/kernel"]
    for place in np.ndindex(2, 2):
        assert np.array_equal(found[place], want[(..., *place)].T)
