"""Hostile and damaged symbols of MXNet: each is an error that names the file, soon, before parameters are opened."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tests.unit.mxnet_support import graph, node

import weightlift as wl

DATA = node("null", "data")
TAKE = node("Flatten", "flat", [(0, 0, 0)])


def changed(**changes: Any) -> Any:
    return graph([DATA, {**TAKE, **changes}])


def text(document: Any) -> bytes:
    return json.dumps(document).encode()


def chain(levels: int) -> bytes:
    """A graph in a node in a graph in a node ..."""
    begin, end = b'{"nodes": [{"op": "f", "name": "n", "inputs": [], "subgraphs": [', b"]}]}"
    return begin * levels + text(graph([DATA])) + end * levels


ARG = '"arg_nodes": [0]'
HOSTILE = {
    "nothing": b"",
    "no JSON": b"{'nodes'}",
    "a page": b"<!DOCTYPE html><html>404</html>",
    "two documents": text(graph([DATA])) * 2,
    "not UTF-8": text(graph([DATA])).replace(b"data", b"d\xff\xfe\xfa"),
    "a key twice": text(graph([DATA])).replace(b'"heads"', b'"nodes": [], "heads"'),
    "NaN": text(graph([DATA], attrs={"v": ["int", float("nan")]})),
    "infinity": text(graph([DATA], attrs={"v": ["int", float("inf")]})),
    "1e999": text(graph([DATA])).replace(b"10901", b"1e999"),
    "a number of 5,000 digits": text(graph([DATA])).replace(b"10901", b"1" * 5000),
    "nested 100,000 deep": b'{"nodes": ' + b"[" * 100_000,
    "nested 1,000 deep, and closed": b'{"nodes": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    "graphs in graphs in graphs": chain(200),
    "a list": b"[1]",
    "a number": b"1",
    "null": b"null",
    "a model of Keras": text({"class_name": "Sequential", "config": []}),
    "no nodes": text(graph([DATA], nodes=[])),
    "nodes that are an object": text(graph([DATA], nodes={"0": DATA})),
    "a node that is a number": text(graph([DATA], nodes=[DATA, 1], arg_nodes=[0])),
    "two million nodes": b'{"nodes": [' + b"0," * (2 << 20) + b'0], "arg_nodes": [], "heads": [[0,0]]}',
    "no operation": text(graph([DATA], nodes=[{"name": "data", "inputs": []}])),
    "an operation that is a number": text(changed(op=7)),
    "a name that is a list": text(changed(name=["flat"])),
    "no inputs": text(graph([DATA, {"op": "x", "name": "y"}])),
    "inputs that are a number": text(changed(inputs=1)),
    "an input of one number": text(changed(inputs=[[0]])),
    "an input that is a text": text(changed(inputs=["0"])),
    "an input of fractions": text(changed(inputs=[[0.0, 0, 0]])),
    "an input of truth": text(changed(inputs=[[False, 0, 0]])),
    "input -1": text(changed(inputs=[[-1, 0, 0]])),
    "an input of the node itself": text(changed(inputs=[[1, 0, 0]])),
    "a cycle": text(graph([DATA, node("x", "a", [(2, 0, 0)]), node("x", "b", [(1, 0, 0)])])),
    "an input far behind the end": text(changed(inputs=[[1 << 31, 0, 0]])),
    "output 2**70": text(changed(inputs=[[0, 1 << 70, 0]])),
    "a variable with inputs": text(graph([DATA, node("null", "b", [(0, 0, 0)])])),
    "a variable without a name": text(graph([node("null", "")])),
    "a name twice": text(graph([DATA, DATA])),
    "attributes that are a list": text(changed(attrs=["a"])),
    "an attribute that is a number": text(changed(attrs={"num_hidden": 8})),
    "a shape that is none": text(graph([node("null", "w", attrs={"__shape__": "(1, x)"})])),
    "a shape of 5,000 digits": text(graph([node("null", "w", attrs={"__shape__": f"({'9' * 5000},)"})])),
    "a shape of 100,000 spaces": text(graph([node("null", "w", attrs={"__shape__": f"({' ' * 100_000}x"})])),
    "control_deps behind": text(changed(control_deps=[1])),
    "a backward source that is a text": text(changed(backward_source_id="1")),
    "subgraphs that are a number": text(changed(subgraphs=3)),
    "a subgraph that is none": text(changed(subgraphs=[{}])),
    "a key that nobody knows": text(changed(python="import os")),
    "a key of the whole that nobody knows": text(graph([DATA], more=1)),
    "no arg_nodes": text(graph([DATA])).replace(ARG.encode(), b'"node_row_ptr": [0]'),
    "arg_nodes of another number": text(graph([DATA], arg_nodes=[1])),
    "arg_nodes of truth": text(graph([DATA], arg_nodes=[False])),
    "arg_nodes that are an object": text(graph([DATA], arg_nodes={})),
    "no heads": text(graph([DATA], heads=[])),
    "heads that are a number": text(graph([DATA], heads=1)),
    "a head behind the end": text(graph([DATA], heads=[[1, 0, 0]])),
    "rows that are texts": text(graph([DATA], node_row_ptr=["0"])),
    "attributes of the whole that are a list": text(graph([DATA], attrs=[1])),
    "an attribute of the whole without a type": text(graph([DATA], attrs={"mxnet_version": 10901})),
    "an attribute of the whole that is an object": text(graph([DATA], attrs={"a": ["int", {"b": 1}]})),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_symbol(case: str, tmp_path: Path) -> None:
    path = tmp_path / "x-symbol.json"
    path.write_bytes(HOSTILE[case])
    begin = time.monotonic()
    for look in (wl.load_model, lambda p: wl.open(p, format="mxnet-symbol")):
        with pytest.raises(wl.FormatError, match=r"x-symbol\.json"):
            look(path)
    assert not wl.verify(path).ok
    assert time.monotonic() - begin < 30, "refusing takes milliseconds; what the file says would take for ever"
    assert [p.name for p in tmp_path.iterdir()] == ["x-symbol.json"]


@pytest.mark.parametrize("good", [graph([DATA, TAKE]), changed(subgraphs=[graph([DATA])]), changed(control_deps=[0])])
def test_what_they_differ_from_is_right(good: Any, tmp_path: Path) -> None:
    (tmp_path / "x-symbol.json").write_bytes(text(good))
    wl.save({}, tmp_path / "x-0000.params", checksums=False)
    assert wl.load_model(tmp_path / "x-symbol.json").weights == {}


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "x-symbol.json"
    with path.open("wb") as file:
        file.write(b'{"nodes": [')
        file.truncate(65 << 20)
    with pytest.raises(wl.FormatError, match="at most"):
        wl.load_model(path)


def test_a_symbol_without_its_parameters(tmp_path: Path) -> None:
    (tmp_path / "x-symbol.json").write_bytes(text(graph([DATA])))
    with pytest.raises(wl.NotFoundError, match=r"x-0000\.params"):
        wl.load_model(tmp_path / "x-symbol.json")
