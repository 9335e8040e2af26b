"""Every checkpoint that TensorFlow 2.4 and 2.21 wrote, and every malformed one beside them."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from tests.conftest import shared_fixtures

import weightlift as wl

FOLDER = shared_fixtures("frameworks")
KINDS = ("tf-bundle", "tf-savedmodel", "tf-v1-checkpoint")
MANIFEST: dict[str, dict[str, Any]] = {
    f["id"]: f
    for f in json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))["fixtures"]
    if f["format"] in KINDS
}
GOOD = [n for n, f in MANIFEST.items() if not f["must_be_rejected"] and f["format"] != "tf-v1-checkpoint"]
BAD = [n for n, f in MANIFEST.items() if f["must_be_rejected"]]
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.mark.parametrize("name", GOOD)
def test_every_tensor_is_what_tensorflow_read(name: str) -> None:
    found = wl.load(FOLDER / name, format="tensorbundle-keys")
    described = json.loads((FOLDER / MANIFEST[name]["truth_json"]).read_text(encoding="utf-8"))["tensors"]
    truth = np.load(FOLDER / MANIFEST[name]["truth_npz"])
    assert set(found) == set(described)
    for key, facts in described.items():
        assert list(found[key].shape) == facts["shape"]
        if facts["dtype"] == "string":
            assert found[key].ravel().tolist() == [base64.b64decode(text) for text in facts["strings_b64"]]
        else:
            assert found[key].dtype.name == {"uint4": "uint8"}.get(facts["dtype"], facts["dtype"])
            assert found[key].tobytes() == truth[key].tobytes()
    assert wl.verify(FOLDER / name, format="tensorbundle-keys").ok


@pytest.mark.parametrize("name", GOOD)
def test_names_are_readable(name: str) -> None:
    keys = wl.load(FOLDER / name, format="tensorbundle-keys")
    found = wl.load(FOLDER / name)
    objects = "_CHECKPOINTABLE_OBJECT_GRAPH" in keys
    assert len(found) == len(keys) - objects
    assert not any(VALUE in key for key in found)
    for key, array in keys.items():
        plain = key.removesuffix(VALUE)
        if plain in found:
            same = found[plain].tolist() == array.tolist()  # NaN is not itself
            assert same or found[plain].tobytes() == array.tobytes()


@pytest.mark.parametrize("name", BAD)
def test_malformed_ones_are_refused(name: str) -> None:
    with pytest.raises(wl.FormatError) as raised:
        wl.load(FOLDER / name)
    assert "tf_" in str(raised.value), "it names the file"


def test_the_first_format_is_refused_with_a_hint() -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match=r"V1.*tf\.compat\.v1\.train\.Saver"):
        wl.load(FOLDER / "tf-2.21" / "tf1" / "v1.ckpt")
