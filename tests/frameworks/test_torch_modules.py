"""Architecture and parameters together: only what is registered is built."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlift as wl
from weightlift import _modules

torch = pytest.importorskip("torch", reason="torch is not installed")
Linear = torch.nn.Linear


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_modules, "_MODULES", {})
    yield


def arguments(net: Any) -> dict[str, Any]:
    return {"in_features": net.in_features, "out_features": net.out_features, "bias": net.bias is not None}


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "npz"])
@pytest.mark.parametrize("factory", [Linear, "torch.nn.modules.linear:Linear"])
def test_a_module_comes_back_whole(suffix: str, factory: Any) -> None:
    wl.register_module("linear", factory, arguments=arguments)
    net = Linear(4, 3, bias=False)
    wl.save_module(net, f"net.{suffix}")
    again = wl.load_module(f"net.{suffix}")
    assert type(again) is Linear and again.bias is None and torch.equal(again.weight, net.weight)


def test_what_is_not_registered_is_refused() -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="register_module"):
        wl.save_module(Linear(2, 2), "net.safetensors")
    for name in ("os:system", "torch.nn.modules.linear:Linear", "other", 3):
        wl.save({"weight": np.zeros((2, 2))}, "net.safetensors", metadata={_modules.KEY: document(name, {})})
        with pytest.raises(wl.UnsupportedFeatureError, match="not registered"):
            wl.load_module("net.safetensors")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"name": "linear"}', '{"name": "linear", "arguments": 3}', "[" * 99999]
)
def test_malformed_metadata(text: str) -> None:
    wl.register_module("linear", Linear, arguments=arguments)
    wl.save({"weight": np.zeros((2, 2))}, "net.pt", metadata={_modules.KEY: text})
    with pytest.raises(wl.FormatError, match="malformed"):
        wl.load_module("net.pt")


def test_arguments_that_do_not_fit() -> None:
    wl.register_module("linear", Linear, arguments=arguments)
    wl.save({"weight": np.zeros((2, 2))}, "net.pt", metadata={_modules.KEY: document("linear", {"width": 3})})
    with pytest.raises(wl.FormatError, match="refuses the arguments"):
        wl.load_module("net.pt")
    sizes = {"in_features": 2, "out_features": 3, "bias": False}
    wl.save({"weight": np.zeros((2, 2))}, "net.pt", metadata={_modules.KEY: document("linear", sizes)})
    with pytest.raises(wl.MismatchError):
        wl.load_module("net.pt")
    wl.register_module("linear", Linear, arguments=lambda net: {"weight": net.weight})
    with pytest.raises(wl.UnsupportedFeatureError, match="not JSON"):
        wl.save_module(Linear(2, 2), "net.pt")


def document(name: Any, given: dict[str, Any]) -> str:
    return json.dumps({"name": name, "arguments": given})
