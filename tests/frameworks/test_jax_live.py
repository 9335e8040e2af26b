"""Live trees of JAX, Flax, Haiku and optax, in their environment: what is saved comes back in them bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.frameworks.environments import run_script


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_script("jax", Path(__file__).with_name("jax_live.py"), tmp_path_factory.mktemp("live"))


def test_states_of_optax(answer: Any) -> None:
    assert answer["optimizers"] == dict.fromkeys(["chain", "injected", "masked", "several", "accumulated"], True)


def test_dataclasses_of_training(answer: Any) -> None:
    number, array, part, nested = answer["training"]
    assert number == [True, True, True] and array == [True, True, True]
    assert part == [True, True, 0]
    assert nested == [True, True, 0.25]


def test_modules_of_nnx(answer: Any) -> None:
    found = answer["modules"]
    layers = ["again.bias", "again.kernel", "layers.0.bias", "layers.0.kernel"]
    assert found["names"] == [*layers, "norm.bias", "norm.mean", "norm.scale", "norm.var"]
    assert found["module"] == [True, True, True] and found["tied"] is True
    assert found["state"] == [True, True] and found["saved"] is True
    assert found["optimizer"] is True and found["part"] is True
    kind, _, text = found["refused"]
    assert kind == "MismatchError" and "again.kernel is [4, 5], in the file [4, 3]" in text
    assert found["linen"][0] == "UnsupportedFeatureError" and "its init returns" in found["linen"][2]


def test_parameters_of_haiku(answer: Any) -> None:
    assert answer["haiku"] == [True] * 5


def test_devices_and_keys(answer: Any) -> None:
    found = answer["arrays"]
    assert found["sharded"] == [True, True] and found["key"] is True
    for case, advice in (("save key", "save jax.random.key_data"), ("load key", "wrap_key_data")):
        assert found[case][:2] == ["UnsupportedFeatureError", "rng"] and advice in found[case][2]


@pytest.mark.parametrize("kind", ["int4", "uint4", "float4_e2m1fn"])
@pytest.mark.parametrize("suffix", ["safetensors", "npz", "pt", "msgpack", "gguf", "onnx"])
def test_a_byte_an_element_is_not_taken_for_packed(answer: Any, kind: str, suffix: str) -> None:
    error, _, text = answer["arrays"][f"{kind}.{suffix}"]
    assert error == "UnsupportedFeatureError" and kind in text


def test_checkpoint_of_orbax_into_a_tree(answer: Any) -> None:
    assert answer["orbax"] is True
