"""MXNet's symbol and parameters as one model: read, written, and refused where they do not agree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tests.unit.http_server import Answer, Exchange, serve
from tests.unit.mxnet_support import (
    dense,
    dense_and_norm,
    dense_and_norm_values,
    graph,
    listed,
    named,
    node,
    numpy_graph,
)

import weightlift as wl
from weightlift._mxnet_graph import check_symbol, symbol_text
from weightlift.cli._app import app

STATES = ["bn_moving_mean", "bn_moving_var"]
VALUES = dense_and_norm_values()
FILES = ["net-0000.params", "net-0000.params.crc32c", "net-symbol.json"]


def model(**changes: Any) -> wl.ModelArtifacts:
    return replace(wl.ModelArtifacts(dense_and_norm(), VALUES, format="mxnet-symbol"), **changes)


def theirs(folder: Path, document: Any = None, records: dict[str, bytes] | None = None, epoch: str = "0000") -> Path:
    """Files as MXNet writes them; the symbol's."""
    document = dense_and_norm() if document is None else document
    if records is None:
        records = {f"{'aux' if n in STATES else 'arg'}:{n}": dense(v, 2) for n, v in VALUES.items()}
    (folder / f"net-{epoch}.params").write_bytes(named(records))
    path = folder / "net-symbol.json"
    path.write_text(json.dumps(document))
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def files_of(folder: Path) -> Answer:
    """How a server of these files answers."""

    def answer(exchange: Exchange) -> None:
        path = folder / exchange.path.lstrip("/")
        if path.is_file():
            exchange.reply_range(path.read_bytes())
        else:
            exchange.reply(404)

    return answer


def same(weights: Any) -> bool:
    return list(weights) == list(VALUES) and all(np.array_equal(weights[name], VALUES[name]) for name in VALUES)


# --- reading --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["net-symbol.json", "net-0000.params"])
@pytest.mark.parametrize("place", ["path", "file", "http"])
def test_either_file_is_the_model(name: str, place: str, tmp_path: Path) -> None:
    theirs(tmp_path)
    if place == "http":
        with serve(files_of(tmp_path)) as server:
            found = wl.load_model(f"{server.url}/{name}", lazy=False)
            assert len(server.seen) <= 4, "the two files, the sidecar that is not there, and which of the two it is"
    else:
        found = wl.load_model((tmp_path / name).as_uri() if place == "file" else tmp_path / name)
    assert same(found.weights)
    assert (found.format, found.generated_by) == ("mxnet-symbol", "MXNet 1.9.1")
    assert found.model_topology == dense_and_norm()
    assert found.extra == {"auxiliaryStates": STATES}


def test_another_epoch_goes_by_its_own_name(tmp_path: Path) -> None:
    path = theirs(tmp_path, epoch="0012")
    assert same(wl.load_model(tmp_path / "net-0012.params").weights)
    with pytest.raises(wl.NotFoundError, match=r"net-0000\.params.*another epoch"):
        wl.load_model(path)


def test_parameters_alone_stay_parameters(tmp_path: Path) -> None:
    theirs(tmp_path).unlink()
    found = wl.load_model(tmp_path / "net-0000.params")
    assert found.model_topology is None
    assert "arg:fc_weight" in found.weights
    theirs(tmp_path)
    assert "arg:fc_weight" in wl.load(tmp_path / "net-0000.params"), "load gives tensors as they are called there"


def test_tensors_go_by_the_symbol_too(tmp_path: Path) -> None:
    path = theirs(tmp_path)
    assert same(wl.load(path))
    with wl.open(path) as weights:
        assert weights.format == "mxnet-symbol"
        assert weights["fc_weight"][1:].tolist() == VALUES["fc_weight"][1:].tolist()
    wl.convert(path, tmp_path / "net.safetensors")
    assert wl.load(tmp_path / "net.safetensors").keys() == VALUES.keys()
    done = CliRunner().invoke(app, ["inspect", "--json", str(path)], catch_exceptions=False)
    assert json.loads(done.stdout)["format"] == "mxnet-symbol"


def test_chosen_weights(tmp_path: Path) -> None:
    found = wl.load_model(theirs(tmp_path), weight_names="fc_*", lazy=False)
    assert list(found.weights) == ["fc_weight", "fc_bias"]


def test_names_without_prefixes(tmp_path: Path) -> None:
    """As ``save_parameters`` has them: which are states, the operations tell."""
    found = wl.load_model(theirs(tmp_path, records={n: dense(v, 2) for n, v in VALUES.items()}))
    assert same(found.weights)
    assert found.extra == {"auxiliaryStates": STATES}


def test_the_prefix_says_what_is_a_state(tmp_path: Path) -> None:
    records = {"aux:a:b": dense(np.ones(2, "f4")), "arg:c": dense(np.ones(2, "f4"))}
    found = wl.load_model(theirs(tmp_path, numpy_graph(["a:b", "c"]), records))
    assert found.extra == {"auxiliaryStates": ["a:b"]}
    wl.save_model(found, tmp_path / "again-symbol.json")
    assert list(wl.load(tmp_path / "again-0000.params")) == ["aux:a:b", "arg:c"]


def test_old_symbols(tmp_path: Path) -> None:
    """Before 1.0 attributes were ``attr``, before 0.9 ``param``, and outputs pairs without a version."""
    weight = node("null", "w", attr={"__shape__": "[3, 0L]", "__lr_mult__": "1"}, backward_source_id=-1)
    take = node("FullyConnected", "fc", [(0, 0), (1, 0)], param={"num_hidden": "3"}, control_deps=[0])
    old = graph([node("null", "data"), weight, take], heads=[[2, 0]], attrs={}, node_row_ptr=[0, 1, 2, 3])
    found = wl.load_model(theirs(tmp_path, old, {"arg:w": dense(np.ones((3, 4), "f4"), 1)}))
    assert found.generated_by is None
    assert wl.save_model(found, tmp_path / "new-symbol.json").tensors == 1


# --- agreement ------------------------------------------------------------------------------------
def test_what_is_missing_and_what_is_too_much(tmp_path: Path) -> None:
    records = {f"arg:{n}": dense(v, 2) for n, v in VALUES.items() if n not in ("fc_bias", "bn_moving_var")}
    path = theirs(tmp_path, records={**records, "arg:more": dense(np.ones(1, "f4"), 2)})
    for look in (wl.load_model, wl.open):
        with pytest.raises(wl.MismatchError, match=r"net-0000\.params") as caught:
            look(path)
        assert caught.value.missing == ["fc_bias", "bn_moving_var"]
        assert caught.value.unexpected == ["more"]
    assert not wl.verify(path).ok


def test_gluons_parameters_are_asked_for(tmp_path: Path) -> None:
    path = theirs(tmp_path, numpy_graph(["a", "b"], __lr_mult__="1.0"), {"arg:a": dense(np.ones(1, "f4"))})
    with pytest.raises(wl.MismatchError) as caught:
        wl.load_model(path)
    assert caught.value.missing == ["b"], "data, which has no such attribute, is an input"


def test_shapes_are_compared_where_they_are_known(tmp_path: Path) -> None:
    known = {"a": "(3, -1)", "b": "(2,)", "c": "(1, 2)", "d": "()", "e": "None", "f": "(7,)"}
    variables = [node("null", name, attrs={"__shape__": shape}) for name, shape in known.items()]
    document = graph([*variables, node("Custom", "x", [(i, 0, 0) for i in range(6)])])
    records = {f"arg:{name}": dense(np.ones((3, 4), "f4")) for name in "abcde"}
    with pytest.raises(wl.MismatchError) as caught:
        wl.load_model(theirs(tmp_path, document, records))
    assert caught.value.wrong_shape == [("b", (2,), (3, 4)), ("c", (1, 2), (3, 4))]
    assert not caught.value.missing, "f may be an input"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (named({"arg:a": dense(VALUES["fc_bias"]), "aux:a": dense(VALUES["fc_bias"])}), "two arrays"),
        (listed([dense(VALUES["fc_bias"])]), "no names"),
    ],
)
def test_parameters_that_cannot_be_told_apart(data: bytes, message: str, tmp_path: Path) -> None:
    path = theirs(tmp_path, numpy_graph(["a"]), {})
    (tmp_path / "net-0000.params").write_bytes(data)
    with pytest.raises(wl.FormatError, match=message):
        wl.load_model(path)


def test_a_symbol_under_another_name(tmp_path: Path) -> None:
    theirs(tmp_path).rename(tmp_path / "resnet.json")
    with pytest.raises(wl.FormatError, match=r"PREFIX-symbol\.json"):
        wl.load_model(tmp_path / "resnet.json")


# --- writing --------------------------------------------------------------------------------------
def test_both_files_are_written(tmp_path: Path) -> None:
    result = wl.save_model(model(), tmp_path / "net-symbol.json", metadata={"note": "é"})
    assert [Path(path).name for path in result.files] == ["net-symbol.json", "net-0000.params"]
    assert (result.format, result.tensors) == ("mxnet-symbol", 6)
    assert result.nbytes == sum((tmp_path / name).stat().st_size for name in ("net-symbol.json", "net-0000.params"))
    assert names_in(tmp_path) == FILES
    assert list(wl.load(tmp_path / "net-0000.params"))[3:] == ["arg:bn_beta", *(f"aux:{name}" for name in STATES)]
    found = wl.load_model(tmp_path / "net-symbol.json")
    assert same(found.weights)
    assert found.user_defined_metadata == {"note": "é"}
    report = wl.verify(tmp_path / "net-symbol.json")
    assert report.ok and not report.unchecked


def test_the_epoch_is_in_the_name(tmp_path: Path) -> None:
    result = wl.save_model(model(), tmp_path / "net-12345.params", checksums=False)
    assert [Path(path).name for path in result.files] == ["net-12345.params", "net-symbol.json"]
    assert names_in(tmp_path) == ["net-12345.params", "net-symbol.json"]
    assert same(wl.load_model(tmp_path / "net-12345.params").weights)


def test_damage_is_found(tmp_path: Path) -> None:
    wl.save_model(model(), tmp_path / "net-symbol.json")
    path = tmp_path / "net-0000.params"
    data = bytearray(path.read_bytes())
    data[data.index(VALUES["fc_weight"].tobytes()) + 4] ^= 1
    path.write_bytes(data)
    with pytest.raises(wl.ChecksumError, match="fc_weight"):
        wl.load_model(tmp_path / "net-symbol.json", lazy=False)
    assert wl.verify(tmp_path / "net-symbol.json").corrupt == ("fc_weight",)


@pytest.mark.parametrize("np_shape", [0, 1])
def test_the_version_follows_the_shapes(np_shape: int, tmp_path: Path) -> None:
    """MXNet reads version 3 with NumPy's shapes, version 2 without."""
    document = numpy_graph(["w"])
    document["attrs"]["is_np_shape"][1] = np_shape
    wl.save_model(wl.ModelArtifacts(document, {"w": np.ones(2, "f4")}), tmp_path / "net-symbol.json")
    with wl.open(tmp_path / "net-0000.params") as weights:
        assert weights.source.layout.extra["versions"] == [3 if np_shape else 2]


def test_the_text_is_as_mxnet_spaces_it() -> None:
    many = [node("null", f"v{i}", attrs={"a": '\t"é'} if i else {"a": "1", "b": "2"}) for i in range(11)]
    text = symbol_text(graph([*many, node("Custom", "x", [(0, 0, 0), (1, 0, 0)])])).decode()
    assert '"attrs": {"a": "\\t\\"é"}, \n' in text
    assert '"attrs": {\n        "a": "1", \n        "b": "2"\n      }, \n' in text
    assert '"inputs": [[0, 0, 0], [1, 0, 0]]\n' in text
    assert '"arg_nodes": [\n    0, \n    1, \n' in text


def test_over_an_older_one_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "net-symbol.json"
    wl.save_model(model(), path)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    more = {**VALUES, "fc_bias": np.array(1.0, "f4")}  # version 2 has no scalars
    with pytest.raises(wl.UnsupportedFeatureError, match="fc_bias"):
        wl.save_model(model(weights=more), path)
    with pytest.raises(wl.MismatchError):
        wl.save_model(model(weights={"w": np.ones(2)}), path)
    assert {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)} == before
    wl.save_model(wl.ModelArtifacts(numpy_graph(["w"]), {"w": np.ones(2, "f4")}), path)
    assert names_in(tmp_path) == FILES
    assert list(wl.load_model(path, lazy=False).weights) == ["w"]


def test_through_a_model_json_and_back(tmp_path: Path) -> None:
    """Other places keep such a model too, though TensorFlow.js cannot run it."""
    first = wl.load_model(theirs(tmp_path))
    wl.save_model(first, tmp_path / "folder")
    again = wl.load_model(tmp_path / "folder")
    assert (again.format, again.extra) == ("mxnet-symbol", first.extra)
    wl.save_model(again, tmp_path / "again-symbol.json")
    assert same(wl.load_model(tmp_path / "again-symbol.json").weights)


CANNOT: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another architecture": ({"model_topology": {"class_name": "Sequential"}}, {}, "no list of nodes"),
    "another format": ({"format": "layers-model"}, {}, "model.json"),
    "no architecture": ({"model_topology": None}, {}, "model.json"),
    "a training configuration": ({"training_config": {"loss": "hinge"}}, {}, "trainingConfig"),
    "another maker": ({"generated_by": "me"}, {}, "'MXNet 1.9.1'"),
    "a converter": ({"converted_by": "me"}, {}, "converted_by"),
    "states that are none": ({"extra": {"auxiliaryStates": ["w"]}}, {}, "no weights"),
    "states that are no names": ({"extra": {"auxiliaryStates": 1}}, {}, "list of names"),
    "something else": ({"extra": {"more": 1}}, {}, "more"),
    "quantisation": ({}, {"quantize": "uint8"}, "quantisation"),
    "shards": ({}, {"shard_size": 100}, "shard_size"),
    "a control character": ({"model_topology": numpy_graph(list(VALUES), a="\1")}, {}, "does not take"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_it_has_no_place_for(case: str, tmp_path: Path) -> None:
    changes, options, message = CANNOT[case]
    with pytest.raises((wl.FormatError, wl.MismatchError), match=message):
        wl.save_model(model(**changes), tmp_path / "net-symbol.json", **options)
    assert not names_in(tmp_path)


def test_tensors_alone_are_no_symbol(tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match=r"\.params"):
        wl.save(VALUES, tmp_path / "net-symbol.json")


def test_what_a_graph_says() -> None:
    found = check_symbol(dense_and_norm())
    assert found.inputs(VALUES) == ["data"]
    assert found.auxiliary == set(STATES)
    assert found.parameters == set(VALUES)
