"""The real TensorFlow.js on Node.js: what we write it decodes to the same bytes, what it writes we read.

TensorFlow.js is installed by setup_node.sh, outside the checkout.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from tests.interop.tensorflow_js import NODE_ENVIRONMENT, tensorflow_js_or_skip

import weightlift as wl

SCRIPT = Path(__file__).parent / "tfjs_node.js"

tensorflow_js_or_skip()

Array = npt.NDArray[Any]


Node = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """What tfjs_node.js answers to a request; it runs once for all tests."""
    with subprocess.Popen(
        ["node", str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=NODE_ENVIRONMENT
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def ask(**request: Any) -> dict[str, Any]:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            assert line, f"Node.js ended with status {process.wait()}"
            answer: dict[str, Any] = json.loads(line)
            return answer

        yield ask
        process.stdin.close()


def as_tensorflow_js_sees(array: Array) -> dict[str, Any]:
    """dtype, shape and data of an array, in the form of tfjs_node.js; wider where TensorFlow.js is."""
    if array.dtype == object:
        strings = [base64.b64encode(s).decode() for s in array.ravel()]
        return {"dtype": "string", "shape": list(array.shape), "strings": strings}
    dtype = array.dtype.name
    if dtype not in ("float32", "int32", "bool", "complex64"):
        dtype = "int32" if dtype.startswith(("int", "uint")) else "float32"
    data = np.ascontiguousarray(array.astype(dtype)).tobytes()
    return {"dtype": dtype, "shape": list(array.shape), "sha256": hashlib.sha256(data).hexdigest()}


def seen(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What TensorFlow.js decoded, by name."""
    assert "error" not in answer, answer["error"]
    return {w.pop("name"): w for w in answer["weights"]}


def objects(*strings: bytes) -> Array:
    array = np.empty(len(strings), object)
    array[:] = strings
    return array


def random_tensors() -> dict[str, Array]:
    rng = np.random.default_rng(7)
    return {
        "float32": np.append(rng.normal(size=99), [np.inf, -np.inf, -0.0, 1e-45]).astype("f4"),
        "bool": rng.random(7) < 0.5,
        "int32": rng.integers(-(2**31), 2**31, (3, 5), dtype="i4"),
        "complex64": (rng.normal(size=(2, 2)) + 1j * rng.normal(size=(2, 2))).astype("c8"),
        "strings": objects(b"", b"abc", "日本".encode(), b"\0\xff", b"x" * 1000),
        "float16": np.append(rng.normal(size=99), [np.inf, -0.0, 6e-8, 65504]).astype("f2"),
        "bfloat16": rng.normal(size=33).astype(ml_dtypes.bfloat16),
        "float8": rng.normal(size=9).astype(ml_dtypes.float8_e4m3fn),
        "int8": np.arange(-128, 128, dtype="i1"),
        "uint8": np.arange(256, dtype="u1").reshape(4, 64),
        "int16": np.array([-(2**15), 2**15 - 1], "i2"),
        "uint16": np.array([0, 2**16 - 1], "u2"),
        "scalar": np.array(2.5, "f4"),
        "empty": np.zeros((0, 3), "f4"),
        "no strings": np.empty((0,), object),
        "rank 6": rng.normal(size=(1, 2, 3, 1, 2, 2)).astype("f4"),
    }


@pytest.mark.parametrize("how", ["decode", "loadWeights"])
@pytest.mark.parametrize("shard_size", [None, 16, 100, 4096, 1 << 20])
def test_it_decodes_every_dtype_that_we_write(node: Node, tmp_path: Path, how: str, shard_size: int | None) -> None:
    tensors = random_tensors()
    if how == "loadWeights":  # tf.io.loadWeights loses its place after strings
        tensors = {n: a for n, a in tensors.items() if a.dtype != object}
    wl.save(tensors, tmp_path / "model.json", shard_size=shard_size, durable=False)
    found = seen(node(do=how, model=str(tmp_path / "model.json")))
    assert found == {name: as_tensorflow_js_sees(array) for name, array in tensors.items()}


def test_it_decodes_all_of_float16(node: Node, tmp_path: Path) -> None:
    half = np.arange(0x10000, dtype=np.uint16).view(np.float16)
    tensors = {"half": half[~np.isnan(half)]}
    wl.save(tensors, tmp_path / "model.json")
    assert seen(node(do="decode", model=str(tmp_path / "model.json"))) == {
        "half": as_tensorflow_js_sees(tensors["half"])
    }


@pytest.mark.parametrize(
    "quantize", ["uint8", "uint16", "float16", {"uint8": "*1", "uint16": ["*2", "*3"], "float16": True}]
)
@pytest.mark.parametrize("shard_size", [None, 64, 1001])
def test_it_decodes_quantized_weights_as_we_do(
    node: Node, tmp_path: Path, quantize: Any, shard_size: int | None
) -> None:
    rng = np.random.default_rng(3)
    tensors: dict[str, Array] = {f"w{i}": rng.normal(i, 10.0**i, 501 + i).astype("f4") for i in range(5)}
    tensors |= {
        "constant": np.full(9, 0.1, "f4"),
        "positive": rng.random(77, "f4") + 1,
        "ids": np.arange(5, dtype="i4"),
    }
    wl.save(tensors, tmp_path / "model.json", quantize=quantize, shard_size=shard_size)
    loaded = wl.load(tmp_path)
    found = seen(node(do="decode", model=str(tmp_path / "model.json")))
    assert found == {name: as_tensorflow_js_sees(array) for name, array in loaded.items()}
    assert np.array_equal(loaded["ids"], tensors["ids"])
    levels = 65535 if quantize == "uint16" else 255
    for name in ("w0", "w4", "positive"):
        assert np.abs(loaded[name] - tensors[name]).max() <= np.ptp(tensors[name]) / levels


def test_it_rounds_int32_as_we_do(node: Node, tmp_path: Path) -> None:
    weights = [
        {"name": "i", "shape": [256], "dtype": "int32", "quantization": {"dtype": "uint8", "scale": 0.5, "min": -31.5}}
    ]
    document = {"modelTopology": None, "weightsManifest": [{"paths": ["w.bin"], "weights": weights}]}
    (tmp_path / "model.json").write_text(json.dumps(document))
    (tmp_path / "w.bin").write_bytes(bytes(range(256)))
    found = seen(node(do="decode", model=str(tmp_path / "model.json")))
    assert found["i"] == as_tensorflow_js_sees(wl.load(tmp_path)["i"])


@pytest.mark.parametrize("seed", range(8))
def test_no_shard_list_of_ours_meets_its_zeros_bug(node: Node, tmp_path: Path, seed: int) -> None:
    """A last shard larger than equal others reads as zeros in TensorFlow.js; odd sizes make many kinds of list."""
    rng = np.random.default_rng(seed)
    kinds = ["bool", "f4", "c8", "f2", "i4"]
    tensors = {}
    for i in range(int(rng.integers(2, 10))):
        kind = np.dtype(str(rng.choice(kinds)))
        tensors[str(i)] = (rng.integers(1, 100, int(rng.integers(0, 40))) % (2 if kind.kind == "b" else 100)).astype(
            kind
        )
    wl.save(tensors, tmp_path / "model.json", shard_size=int(rng.integers(16, 70)))
    found = seen(node(do="decode", model=str(tmp_path / "model.json")))
    assert found == {name: as_tensorflow_js_sees(array) for name, array in tensors.items()}


def test_nothing_at_all(node: Node, tmp_path: Path) -> None:
    wl.save({}, tmp_path / "model.json")
    assert seen(node(do="decode", model=str(tmp_path / "model.json"))) == {}


def test_we_read_what_it_encodes(node: Node, tmp_path: Path) -> None:
    strings = [b"", b"ab", "é".encode(), b"\x00\xfe"]
    tensors = [
        ["a", "float32", [3], [1.5, -2.25, 1e-45]],
        ["s", "string", [2, 2], [base64.b64encode(s).decode() for s in strings]],
        ["b", "bool", [3], [True, False, True]],
        ["c", "complex64", [2], [[1, 2], [3, 4]]],
        ["i", "int32", [], [-7]],
        ["e", "float32", [0, 2], []],
    ]
    expected = seen(node(do="encode", tensors=tensors, to=str(tmp_path)))
    loaded = wl.load(tmp_path)
    assert {name: as_tensorflow_js_sees(array) for name, array in loaded.items()} == expected
    assert loaded["s"].tolist() == [strings[:2], strings[2:]]


# ---- models ------------------------------------------------------------------------------------------------
def random_inputs(model: Path) -> list[list[Any]]:
    """Values for each input of a layers model."""
    rng = np.random.default_rng(5)
    topology = json.loads(model.read_text())["modelTopology"]
    inputs = []
    for layer in topology["config"]["layers"]:
        if layer["class_name"] == "InputLayer":
            shape = [2 if d is None else d for d in layer["config"]["batch_input_shape"]]
            whole = layer["config"]["dtype"] == "int32" or len(shape) == 2
            values = rng.integers(0, 10, shape) if whole else rng.normal(size=shape)
            inputs.append([shape, values.ravel().tolist()])
    return inputs


@pytest.mark.parametrize("name", ["layers_node", "layers_adam"])
@pytest.mark.parametrize("shard_size", [None, 1000])
def test_a_model_that_we_save_again_predicts_the_same(
    node: Node, tmp_path: Path, tfjs_fixtures: Path, name: str, shard_size: int | None
) -> None:
    source = tfjs_fixtures / name / "model.json"
    wl.save_model(wl.load_model(source), tmp_path / "m", shard_size=shard_size)
    inputs = random_inputs(source)
    before = node(do="predict", model=str(source), inputs=inputs)
    after = node(do="predict", model=str(tmp_path / "m" / "model.json"), inputs=inputs)
    assert "error" not in before and before == after
    assert any(abs(v) > 1e-6 for v in before["outputs"][0]["values"])


def test_a_published_graph_model_predicts_the_same_after_saving(
    node: Node, tmp_path: Path, tfjs_fixtures: Path
) -> None:
    source = tfjs_fixtures / "real" / "selfie.json"
    wl.save_model(wl.load_model(source), tmp_path / "m", shard_size=100_000)
    values = np.random.default_rng(2).random((1, 256, 256, 3), "f4").ravel().round(3).tolist()
    inputs = [[[1, 256, 256, 3], values]]
    before = node(do="predict", model=str(source), inputs=inputs)
    after = node(do="predict", model=str(tmp_path / "m" / "model.json"), inputs=inputs)
    assert "error" not in before and before == after


def test_it_keeps_what_we_put_beside_the_weights(node: Node, tmp_path: Path, tfjs_fixtures: Path) -> None:
    artifacts = wl.load_model(tfjs_fixtures / "layers_adam")
    wl.save_model(artifacts, tmp_path, metadata={"note": "größe"})
    answer = node(do="decode", model=str(tmp_path / "model.json"))["artifacts"]
    assert answer["userDefinedMetadata"] == {"note": "größe"}
    assert answer["trainingConfig"] == artifacts.training_config
    assert answer["format"] == "layers-model"
    assert answer["weightSpecs"] == list(artifacts.weight_specs or ())
