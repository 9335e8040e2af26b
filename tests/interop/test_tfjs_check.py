"""What ``check_tfjs`` says of a model, against what the real TensorFlow.js does with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.interop.tensorflow_js import tensorflow_js_or_skip
from tests.interop.test_tfjs_node import Node, node
from tests.unit.tfjs_check_cases import GRAPH, GRAPH_INPUT, INPUT, LAYERS, SHARDED, apply, graph_model, layers_model

import weightlift as wl

tensorflow_js_or_skip()

__all__ = ["node"]  # the fixture

ENDLESS = ("two layers of one name", "flat nodes")
"""It never ends loading these."""

CASES = {
    "layers": (LAYERS, layers_model, {}, INPUT),
    "sharded": (SHARDED, layers_model, {"shard_size": 64}, INPUT),
    "graph": (GRAPH, graph_model, {}, GRAPH_INPUT),
}


NAMES = [(kind, name) for kind, case in CASES.items() for name in case[0] if name not in ENDLESS]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_it_does_what_we_say(node: Node, tmp_path: Path, kind: str, name: str) -> None:
    """A model without an error loads and computes the same; one with an error fails, or computes something else."""
    cases, make, options, inputs = CASES[kind]
    make(tmp_path, **options)
    loader = wl.check_tfjs(tmp_path).loader.removeprefix("tf.")
    before = predict(node, tmp_path, loader, inputs)
    assert "error" not in before, before
    apply(tmp_path, cases[name][1])
    after = predict(node, tmp_path, loader, inputs)
    report = wl.check_tfjs(tmp_path)
    assert report.loads == (after == before), (after, report.problems)


def predict(node: Node, folder: Path, loader: str, inputs: Any) -> dict[str, Any]:
    return node(do="predict", model=str(folder / "model.json"), inputs=[inputs], loader=loader)
