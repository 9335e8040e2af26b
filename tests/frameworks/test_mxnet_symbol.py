"""The real MXNet and we read each other's networks, graph and parameters, and compute the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.frameworks.environments import run_script


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("symbol")
    return run_script("mxnet", Path(__file__).with_name("mxnet_symbol_check.py"), folder)


@pytest.mark.parametrize("kind", ["nd", "np"])
def test_gluon(kind: str, answer: Any) -> None:
    found = dict(answer[kind])
    assert "net.hybridize()" in found.pop("early")
    assert (found.pop("weights"), found.pop("auxiliary")) == (10, 2)
    assert set(found) == {"names", "values", "same bytes", "imported", "to_gluon"}
    assert all(found.values()), found


def test_a_graph_in_a_node_and_two_inputs(answer: Any) -> None:
    found = answer["loop"]
    assert found["graphs"] == 1
    assert found["imported"] and found["to_gluon"]
    assert found["inputs"].startswith("MismatchError") and "data0, data1" in found["inputs"]


def test_a_checkpoint_of_module(answer: Any) -> None:
    assert answer["module"] == dict.fromkeys(("symbol", "arg", "aux", "outputs", "to_gluon"), True)


def test_what_has_no_graph(answer: Any) -> None:
    plain, trainable, keras = answer["refused"]
    assert plain.startswith("UnsupportedFeatureError") and "HybridBlock" in plain
    assert trainable.startswith("UnsupportedFeatureError") and "trainable_only" in trainable
    assert keras.startswith("UnsupportedFeatureError") and "layers-model" in keras


def test_numpy_shapes_need_their_mode(answer: Any) -> None:
    assert answer["mode"].startswith("UnsupportedFeatureError") and "set_np" in answer["mode"]
