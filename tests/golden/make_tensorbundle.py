"""Makes the files in ``tensorbundle/``: ``python -m tests.golden.make_tensorbundle``."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import ml_dtypes
import numpy as np
from tests.golden.make_torch import described
from tests.unit.tensorbundle_support import Tensor, bundle, strings, write

import weightlift as wl
from weightlift.formats._tensorbundle_proto import field
from weightlift.formats._tensorbundle_slices import slice_key

FOLDER = Path(__file__).parent / "tensorbundle"


def ours(folder: Path) -> dict[str, bytes]:
    """What we write; it has no clock in it."""
    state = {
        "hidden": {"kernel": np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3), "bias": np.arange(3, dtype="f4")},
        "more": [np.zeros((0, 3), "i8"), np.array(True)],
        "names": np.array(["é", b"\0\xff"], object),
    }
    wl.save(state, folder / "ours", format="tensorbundle", metadata={"note": "é"}, durable=False)
    return {path.name: path.read_bytes() for path in folder.glob("ours.*")}


def others() -> dict[str, bytes]:
    """What other writers may write: big-endian, slices, strings, two data files, no objects."""
    whole = np.arange(6, dtype=">i2").reshape(2, 3)
    tensors = {
        b"scope/p": Tensor(5, [2, 3], slices=[[(0, None), (0, 2)], [(0, None), (2, 1)]]),
        slice_key(b"scope/p", [(0, -1), (0, 2)]): Tensor(5, [2, 2], whole[:, :2].tobytes(), shard=1),
        slice_key(b"scope/p", [(0, -1), (2, 1)]): Tensor(5, [2, 1], whole[:, 2:].tobytes()),
        b"scope/s": strings([2], [b"ab", b""]),
        b"global_step": Tensor(9, [], np.array(7, ">i8").tobytes()),
    }
    header = field(1, 2) + field(2, 1) + field(3, field(1, 1))
    return bundle(tensors, header=header, shards=2, prefix="others")


def main() -> None:
    """Write them all."""
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        files = {**ours(Path(folder)), **others()}
    write(FOLDER, files)
    loaded = {name: described_strings(wl.load(FOLDER / name)) for name in ("ours", "others")}
    (FOLDER / "expected.json").write_text(json.dumps(loaded, indent=1) + "\n", encoding="utf-8")


def described_strings(value: object) -> object:
    """``described``, which takes the strings of an array one by one."""
    if isinstance(value, dict):
        return {"dict": [[key, described_strings(item)] for key, item in value.items()]}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return {"strings": [item.hex() for item in value.ravel()], "shape": list(value.shape)}
    return described(value)


if __name__ == "__main__":
    main()
