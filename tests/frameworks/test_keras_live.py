"""Live models of tf_keras, and of Keras 3 on TensorFlow and JAX, run in TensorFlow.js; and the files of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.frameworks.environments import run_script
from tests.interop.keras_support import compare, run_in_node
from tests.interop.tensorflow_js import tensorflow_js_or_skip

import weightlift as wl

tensorflow_js_or_skip()
pytest.importorskip("h5py", reason="h5py is not installed")

SCRIPT = Path(__file__).with_name("keras_live.py")
MODELS = ["sequential", "branches", "picture", "recurrent", "shared", "arithmetic", "pools"]
OPTIMIZERS = ["adam", "momentum", "rmsprop", "plain", "centered", "sgd", "adagrad"]
LEGACY = ["legacy_adam", "legacy_momentum", "legacy_rmsprop", "legacy_plain", "legacy_centered", "legacy_adagrad"]
KERAS_3 = ["adam", "momentum", "centered"]
TRAINED = [f"tf_keras/{name}" for name in OPTIMIZERS + LEGACY] + [f"keras/{name}" for name in KERAS_3]
PLAIN = [f"{package}/{name}" for package in ("tf_keras", "keras") for name in MODELS]


class Live:
    """What TensorFlow computes of each model, and what TensorFlow.js computes of its export."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.wanted: dict[str, Any] = run_script("tensorflow", SCRIPT, root, "tensorflow", "tf_keras", "keras")
        names = list(self.wanted)
        self.answers = dict(zip(names, run_in_node([root / name for name in names]), strict=True))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return Live(tmp_path_factory.mktemp("live"))


def arrays(outputs: list[Any]) -> list[np.ndarray]:
    return [np.asarray(values, "f4").reshape(shape) for shape, values in outputs]


@pytest.mark.parametrize("name", PLAIN + TRAINED)
def test_tensorflow_js_computes_what_keras_computes(live: Live, name: str) -> None:
    compare(arrays(live.wanted[name]["outputs"]), live.answers[name])


@pytest.mark.parametrize("name", TRAINED)
def test_the_next_step_is_the_same(live: Live, name: str) -> None:
    assert "error" not in live.answers[name], live.answers[name]["error"]
    (got,), (wanted,) = arrays([live.answers[name]["after"]]), arrays([live.wanted[name]["after"]])
    (before,) = arrays(live.wanted[name]["outputs"])
    assert np.abs(wanted - before).max() > 1e-3
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("file", ["m.keras", "m.h5"])
def test_files_hold_what_the_live_model_held(live: Live, name: str, file: str) -> None:
    """The same training configuration and state, without Keras."""
    read = wl.load_model(live.root / name / file, include_optimizer=True)
    exported = wl.load_model(live.root / name)
    assert read.training_config == exported.training_config
    if "legacy" in name and file == "m.keras":  # tf_keras does not save their state in this form: they begin anew
        assert len(read.weights) == 7 and int(read.weights["iter"]) == 0
        return
    assert list(read.weights) == list(exported.weights)
    for key, value in exported.weights.items():
        np.testing.assert_array_equal(read.weights[key], value, err_msg=key)


def test_keras_on_jax(tmp_path: Path) -> None:
    """Live models and the files that it writes."""
    wanted = run_script("jax", SCRIPT, tmp_path, "jax", "keras")
    assert list(wanted) == ["keras/sequential", "keras/adam"]
    answers = dict(zip(wanted, run_in_node([tmp_path / name for name in wanted]), strict=True))
    for name, expected in wanted.items():
        compare(arrays(expected["outputs"]), answers[name])
        if "after" in expected:
            (got,), (after,) = arrays([answers[name]["after"]]), arrays([expected["after"]])
            np.testing.assert_allclose(got, after, rtol=1e-4, atol=2e-5, err_msg=name)
            read = wl.load_model(tmp_path / name / "m.keras", include_optimizer=True)
            assert list(read.weights) == list(wl.load_model(tmp_path / name).weights)
