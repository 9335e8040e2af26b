"""Orbax checkpoints are recognised, by each of their files and as a directory, and refused with a way out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import weightlift as wl

FILES = {
    "_CHECKPOINT_METADATA": json.dumps({"item_handlers": "x", "metrics": {}}).encode(),
    "_METADATA": json.dumps({"tree_metadata": {}, "use_ocdbt": True}, indent=1).encode(),
    "manifest.ocdbt": bytes.fromhex("0cdb3a2a7300000000000000000128b5"),
}


@pytest.mark.parametrize("name", FILES)
def test_each_file_tells_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    for target in (tmp_path, tmp_path / name):
        with pytest.raises(wl.UnsupportedFeatureError, match=r"Orbax checkpoint.*orbax\.checkpoint") as caught:
            wl.load(target)
        assert caught.value.path == str(tmp_path / name)


def test_it_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="not written"):
        wl.save({"w": np.zeros(1)}, tmp_path / "x", format="orbax")
    assert not list(tmp_path.iterdir())
