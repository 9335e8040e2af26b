"""Quantisation in a save: what is lost, measured; the smallest type that is good enough; what is quantised already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import weightlift as wl
from weightlift.errors import FormatError, UnsupportedFeatureError

Array = npt.NDArray[Any]

RNG = np.random.default_rng(11)
TENSORS: dict[str, Array] = {
    "normal": RNG.normal(size=(300, 700)).astype("f4"),
    "levels": RNG.integers(0, 256, 5000).astype("f4"),
    "halves": RNG.normal(size=999).astype("f2").astype("f4"),
    "outlier": np.append(RNG.normal(size=1000) * 1e-3, 100.0).astype("f4"),
    "large": np.array([1e5, -2e5, 7.0], "f4"),
    "huge": np.array([3e38, -3e38, 1.0], "f4"),
    "tiny": np.array([1e-42, 0, -3e-42], "f4"),
    "zeros": np.zeros(10, "f4"),
    "constant": np.full(7, 0.1, "f4"),
    "scalar": np.array(2.5, "f4"),
    "nothing": np.zeros((0, 3), "f4"),
    "not finite": np.array([np.nan, np.inf, -np.inf, 1.5], "f4"),
    "ids": np.arange(5, dtype="i4"),
}


def lost(before: Array, after: Array) -> tuple[float, float, int]:
    """Largest absolute error, the same relative to the largest value, and what became infinite, by NumPy in float64."""
    finite = np.isfinite(before)
    x, y = before[finite].astype("f8"), after[finite].astype("f8")
    worst = float(np.abs(x - y).max(initial=0))
    largest = float(np.abs(x).max(initial=0))
    return worst, worst / largest if largest else 0.0, int(np.isinf(y).sum())


def check(result: wl.SaveResult, tensors: dict[str, Array], loaded: dict[str, Array]) -> None:
    """The report is true of what was saved."""
    for report in result.quantization:
        worst, relative, overflow = lost(tensors[report.name], loaded[report.name])
        assert report.max_abs == pytest.approx(worst, rel=1e-6, abs=1e-45), report
        assert report.max_rel == pytest.approx(relative, rel=1e-6, abs=1e-45)
        assert report.overflow == overflow
        assert report.nbytes == tensors[report.name].nbytes


@pytest.mark.parametrize("tolerance", [0, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2])
def test_auto_takes_the_smallest_type_that_is_good_enough(tmp_path: Path, tolerance: float) -> None:
    result = wl.save(TENSORS, tmp_path / "model.json", quantize=f"auto:{tolerance}", durable=False)
    loaded = wl.load(tmp_path)
    check(result, TENSORS, loaded)
    assert [r.name for r in result.quantization] == [n for n, t in TENSORS.items() if t.dtype == np.float32 and t.size]
    for report in result.quantization:
        assert report.max_rel <= tolerance
        tensor = TENSORS[report.name]
        for smaller in ("uint8", "uint16", "float16"):
            if smaller == report.dtype:
                break
            if smaller != "float16" and not np.isfinite(tensor).all():
                continue
            stored, scale, low = wl.quantize(tensor, smaller)
            values = stored.astype("f4") if scale is None else wl.dequantize(stored, scale, low)
            assert lost(tensor, values)[1] > tolerance, (report, smaller)


def test_auto_knows_each_type(tmp_path: Path) -> None:
    result = wl.save(TENSORS, tmp_path / "model.json", quantize="auto:1e-6")
    chosen = {r.name: r.dtype for r in result.quantization}
    assert chosen["levels"] == "uint8" and chosen["halves"] == "float16" and chosen["normal"] == "float32"
    assert chosen["not finite"] == "float16"
    assert {r.name: r.stored_nbytes for r in result.quantization}["levels"] == 5000
    assert wl.load(tmp_path)["ids"].tolist() == [0, 1, 2, 3, 4]


def test_auto_in_a_map(tmp_path: Path) -> None:
    tensors = dict.fromkeys(("a/kernel", "b/kernel", "a/bias"), TENSORS["normal"])
    result = wl.save(tensors, tmp_path / "model.json", quantize={"auto:1e-2": "*/kernel", "float16": True})
    assert {r.name: r.dtype for r in result.quantization} == {"a/kernel": "uint8", "b/kernel": "uint8"}
    assert wl.load_model(tmp_path).specs[2].quantization == {"dtype": "float16", "original_dtype": "float32"}


@pytest.mark.parametrize("kind", ["auto:", "auto:x", "auto:-1", "auto:nan", "auto:inf"])
def test_tolerances_that_are_none(tmp_path: Path, kind: str) -> None:
    with pytest.raises(FormatError, match="must be a number of at least 0"):
        wl.save({"w": np.ones(3, "f4")}, tmp_path / "model.json", quantize=kind)


@pytest.mark.parametrize("quantize", ["uint8", "uint16", "float16", {"uint8": "n*", "float16": True}])
def test_a_report_on_request(tmp_path: Path, quantize: Any) -> None:
    tensors = {n: t for n, t in TENSORS.items() if np.isfinite(t).all()}
    silent = wl.save(tensors, tmp_path / "silent" / "model.json", quantize=quantize)
    assert silent.quantization == ()
    result = wl.save(tensors, tmp_path / "model.json", quantize=quantize, quantization_report=True)
    loaded = wl.load(tmp_path)
    check(result, tensors, loaded)
    assert {r.name for r in result.quantization} == {n for n, t in tensors.items() if t.dtype == "f4" and t.size}
    assert (tmp_path / "silent" / "weights.bin").read_bytes() == (tmp_path / "weights.bin").read_bytes()


def test_overflow_to_infinity_is_counted(tmp_path: Path) -> None:
    tensors = {"w": np.array([65504, 65520, -1e30, np.inf, 1], "f4")}
    result = wl.save(tensors, tmp_path / "model.json", quantize="float16", quantization_report=True)
    (report,) = result.quantization
    assert report.overflow == 2 and report.max_abs == np.inf


def test_values_of_files_and_other_dtypes_are_measured_too(tmp_path: Path) -> None:
    tensors = {"b": RNG.normal(size=(400, 300)), "n": np.asfortranarray(RNG.normal(size=(30, 50)))}
    wl.save(tensors, tmp_path / "w.npz")
    from_file = wl.convert(tmp_path / "w.npz", tmp_path / "a" / "model.json", dtype="float32", quantize="auto:1e-3")
    direct = wl.save(tensors, tmp_path / "b" / "model.json", dtype="float32", quantize="auto:1e-3")
    assert from_file.quantization == direct.quantization and len(direct.quantization) == 2
    check(from_file, {n: t.astype("f4") for n, t in tensors.items()}, wl.load(tmp_path / "a"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=32), min_size=1, max_size=40),
    st.sampled_from(["0", "1e-4", "1e-2", "0.3"]),
)
def test_auto_keeps_its_promise(tmp_path_factory: pytest.TempPathFactory, values: list[float], tolerance: str) -> None:
    folder = tmp_path_factory.mktemp("auto")
    tensors = {"w": np.array(values, "f4")}
    result = wl.save(tensors, folder / "model.json", quantize=f"auto:{tolerance}", durable=False)
    loaded = wl.load(folder)
    assert lost(tensors["w"], loaded["w"])[1] <= float(tolerance) and result.quantization[0].overflow == 0
    kept = ~np.isfinite(tensors["w"])
    assert np.array_equal(loaded["w"][kept], tensors["w"][kept], equal_nan=True)


# ---- what is quantised already -----------------------------------------------------------------------------
def integers(folder: Path, stored: str) -> bytes:
    """A model whose int32 weight is quantised, which TensorFlow.js reads but nobody writes by default."""
    data = RNG.integers(0, 255, 64).astype(stored).tobytes()
    quantization = wl.Quantization(stored, -31.5, 0.5, "int32")
    model = wl.ModelArtifacts(weight_specs=[wl.WeightSpec("i", (64,), "int32", quantization=quantization)])
    (folder / "model.json").write_text(json.dumps(model.to_json()))
    (folder / "weights.bin").write_bytes(data)
    return data


@pytest.mark.parametrize("again", [None, "auto:1e-3", "same"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float16"])
def test_saving_again_keeps_the_bytes(tmp_path: Path, kind: str, again: str | None) -> None:
    tensors = {"w": TENSORS["normal"], "v": TENSORS["outlier"], "ids": TENSORS["ids"]}
    wl.save(tensors, tmp_path / "a" / "model.json", quantize=kind, shard_size=100_000)
    stored = b"".join(sorted_shards(tmp_path / "a"))
    model = wl.load_model(tmp_path / "a")
    quantize = kind if again == "same" else again
    wl.save_model(model, tmp_path / "b", quantize=quantize)
    wl.convert(tmp_path / "a", tmp_path / "c" / "model.json", quantize=quantize)
    for copy in ("b", "c"):
        assert (tmp_path / copy / "weights.bin").read_bytes() == stored
        assert wl.load_model(tmp_path / copy).specs == model.specs


def test_arrays_have_no_stored_bytes_any_more(tmp_path: Path) -> None:
    wl.save({"w": TENSORS["normal"]}, tmp_path / "a" / "model.json", quantize="uint8")
    wl.save_model(wl.load_model(tmp_path / "a", lazy=False), tmp_path / "b")
    assert wl.load_model(tmp_path / "b").specs == (wl.WeightSpec("w", TENSORS["normal"].shape),)


def sorted_shards(folder: Path) -> list[bytes]:
    files = sorted(folder.glob("group1-*"), key=lambda p: int(p.name.partition("shard")[2].partition("of")[0]))
    return [p.read_bytes() for p in files]


@pytest.mark.parametrize("stored", ["uint8", "uint16"])
def test_quantised_integers_keep_their_bytes_too(tmp_path: Path, stored: str) -> None:
    data = integers(tmp_path, stored)
    wl.save_model(wl.load_model(tmp_path), tmp_path / "again", quantize="uint8")
    assert (tmp_path / "again" / "weights.bin").read_bytes() == data
    assert wl.load_model(tmp_path / "again").specs == wl.load_model(tmp_path).specs


def test_another_type_is_taken_when_it_is_named(tmp_path: Path) -> None:
    wl.save({"w": TENSORS["normal"]}, tmp_path / "a" / "model.json", quantize="uint16")
    result = wl.convert(tmp_path / "a", tmp_path / "b" / "model.json", quantize="uint8", quantization_report=True)
    assert [r.dtype for r in result.quantization] == ["uint8"]
    check(result, wl.load(tmp_path / "a"), wl.load(tmp_path / "b"))


def test_what_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFeatureError, match="float16 has them") as caught:
        wl.save({"w": TENSORS["not finite"]}, tmp_path / "model.json", quantize="uint8")
    assert caught.value.tensor == "w"


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_ranges_found_while_writing_are_those_found_before(tmp_path: Path, kind: str) -> None:
    """With a report they are found before; the files are the same, whatever the arrays' order and the shards' size."""
    rng = np.random.default_rng(5)
    tensors: dict[str, Array] = {n: t for n, t in TENSORS.items() if n != "not finite"}
    tensors["several pieces"] = rng.normal(size=(1300, 700)).astype("f4")
    tensors["transposed"] = tensors["several pieces"].T
    tensors["every other"] = tensors["several pieces"][::2]
    tensors["swapped"] = tensors["normal"].astype(">f4")
    tensors["tied"] = tensors["normal"]
    for report in (False, True):
        out = tmp_path / str(report) / "model.json"
        wl.save(tensors, out, quantize=kind, quantization_report=report, shard_size=300_001, durable=False)
    late, early = files_of(tmp_path / "False"), files_of(tmp_path / "True")
    assert len(late) > 4 and late == early
    loaded = wl.load(tmp_path / "False" / "model.json")
    for name, tensor in tensors.items():
        spread = float(np.ptp(tensor.astype("f8"))) if tensor.size else 0.0
        assert np.allclose(loaded[name], tensor, rtol=0, atol=spread / (255 if kind == "uint8" else 65535) + 1e-45)


def test_a_tensor_without_a_finite_range_leaves_the_old_model(tmp_path: Path) -> None:
    bad = np.arange(600_000, dtype="f4")
    bad[-1] = np.inf
    wl.save({"w": np.ones(3, "f4")}, tmp_path / "model.json", quantize="uint8", shard_size=1 << 20)
    before = files_of(tmp_path)
    message = r"the values run from 0(\.0)? to inf: NaN and infinities cannot be quantised to uint8"
    for report in (False, True):
        with pytest.raises(UnsupportedFeatureError, match=message) as error:
            wl.save({"ok": np.ones(9, "f4"), "bad": bad}, tmp_path / "model.json", quantize="uint8",
                    quantization_report=report, shard_size=1 << 20)  # fmt: skip
        assert error.value.tensor == "bad"
        assert files_of(tmp_path) == before
