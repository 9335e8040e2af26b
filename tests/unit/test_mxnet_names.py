"""What MXNet's exports call a block's parameters, led back to the names of the block."""

from __future__ import annotations

import pytest

from weightlift.frameworks._mxnet_names import own_names

NET = {"0.weight": "net3_dense7_weight", "0.bias": "net3_dense7_bias", "1.gamma": "net3_batchnorm2_gamma",
       "2.weight": "net3_dense10_weight"}  # fmt: skip
FOUND = dict(zip(["dense7_weight", "dense7_bias", "batchnorm2_gamma", "dense10_weight"], NET, strict=True))


@pytest.mark.parametrize(("written", "by"), [
    ("{kind}:net3_{name}", {}), ("net3_{name}", {}), ("{name}", {}),
    ("{kind}:net0_{name}", {"dense7": "dense0", "dense10": "dense1", "batchnorm2": "batchnorm0"}),
    ("{name}", {"dense7": "dense9", "dense10": "dense11", "batchnorm2": "batchnorm4"}),
])  # fmt: skip
def test_exports(written: str, by: dict[str, str]) -> None:
    names = {}
    for given, own in FOUND.items():
        for old, new in by.items():
            given = given.replace(f"{old}_", f"{new}_")
        names[written.format(kind="aux" if "batch" in given else "arg", name=given)] = own
    assert own_names(list(names), NET, "net3_") == names


def test_structural_names_with_a_kind() -> None:
    assert own_names(["arg:0.weight", "aux:1.gamma"], NET, "net3_") == {
        "arg:0.weight": "0.weight",
        "aux:1.gamma": "1.gamma",
    }


@pytest.mark.parametrize("names", [
    ["dense0_weight"],  # part of a network: whose dense0 it is, nothing tells
    ["dense7_weight", "dense7_bias", "batchnorm2_gamma", "dense10_weight", "dense11_weight"],
    ["dense7_weight", "dense7_bias", "batchnorm2_gamma", "dense10_gamma"],
    ["arg:dense7_weight", "dense7_weight"],
    [],
])  # fmt: skip
def test_what_is_not_certain(names: list[str]) -> None:
    assert own_names(names, NET, "net3_") == {}


def test_one_parameter_of_two_names() -> None:
    tied = {"0.weight": "dense0_weight", "1.weight": "dense0_weight"}
    assert own_names(["arg:dense5_weight"], tied, "") == {"arg:dense5_weight": "0.weight"}
