"""The command line, in this process: what each command prints and how it ends."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.unit.tfjs_check_cases import LAYERS, apply, layers_model

import weightlift as wl

click = pytest.importorskip("click")
pytest.importorskip("rich")

from click.testing import CliRunner, Result  # noqa: E402

from weightlift.cli import main  # noqa: E402
from weightlift.cli._app import app  # noqa: E402
from weightlift.cli._errors import ExitCode, report  # noqa: E402
from weightlift.cli._help import COMMANDS, help_text  # noqa: E402

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in a fresh directory."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *args: runner.invoke(app, [str(a) for a in args])


def model() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "layers.0.weight": rng.standard_normal((8, 16), np.float32),
        "layers.0.bias": np.zeros(8, np.float32),
        "layers.1.weight": rng.standard_normal((4, 8), np.float32).astype(ml_dtypes.bfloat16),
        "step": np.array(7, np.int64),
    }


@pytest.fixture
def saved(run: Run) -> str:
    wl.save(model(), "model.safetensors")
    return "model.safetensors"


def flip(path: str, at: int) -> None:
    data = bytearray(Path(path).read_bytes())
    data[at] ^= 1
    Path(path).write_bytes(data)


def damaged(name: str) -> str:
    """A copy with one bit of a tensor flipped."""
    wl.save(model(), "damaged.safetensors")
    with wl.open("damaged.safetensors") as weights:
        at = weights[name].offset
    assert at is not None
    flip("damaged.safetensors", at)
    return "damaged.safetensors"


# ---- inspect -------------------------------------------------------------------------------------------------
def test_inspect_lists_tensors_and_totals(run: Run, saved: str) -> None:
    result = run("inspect", saved)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "model.safetensors: safetensors, 4 tensors, 616 B, all with checksums"
    (row,) = (line.split() for line in lines if line.startswith("layers.1.weight"))
    assert row[1:4] == ["bfloat16", "[4,8]", "64"]
    (total,) = (line.split() for line in lines if line.startswith("total"))
    assert total[1:] == ["4", "169", "616", "B"]
    assert "\x1b" not in result.output


def test_inspect_json_is_one_document_a_path(run: Run, saved: str) -> None:
    wl.save(np.arange(3), "three.npy")
    result = run("inspect", "--json", saved, "three.npy")
    first, second = map(json.loads, result.stdout.splitlines())
    with wl.open(saved) as weights:
        for tensor, view in zip(first["tensors"], weights.values(), strict=True):
            assert tensor == {
                "name": view.name, "dtype": str(view.dtype), "shape": list(view.shape), "nbytes": view.nbytes,
                "file": view.file, "offset": view.offset, "stored": view.stored,
                "stored_nbytes": view.stored_nbytes, "checksum": view.checksum,
            }  # fmt: skip
        assert first["files"] == list(weights.files)
    assert (second["format"], second["nbytes"], second["tensors"][0]["dtype"]) == ("npy", 24, "int64")


def test_inspect_selects_sorts_and_limits(run: Run, saved: str) -> None:
    def names(*options: str) -> list[str]:
        return [t["name"] for t in json.loads(run("inspect", saved, "--json", *options).stdout)["tensors"]]

    assert names("--names", "*.weight", "--names", "step", "--sort", "name") == [
        "layers.0.weight", "layers.1.weight", "step",
    ]  # fmt: skip
    assert names("--sort", "size") == ["layers.0.weight", "layers.1.weight", "layers.0.bias", "step"]
    result = run("inspect", saved, "--limit", "1", "--sort", "size")
    assert "layers.0.weight" in result.output and "layers.0.bias" not in result.output
    assert "... 3 more rows; --limit 0 shows all" in result.output


def test_inspect_tree_has_subtotals(run: Run, saved: str) -> None:
    lines = [line.split() for line in run("inspect", saved, "--tree").output.splitlines()]
    assert ["layers.", "3", "mixed", "608", "B"] in lines
    assert ["0.", "2", "float32", "544", "B"] in lines
    assert ["1.weight", "bfloat16", "[4,8]", "64", "B"] in lines
    shallow = run("inspect", saved, "--tree", "--depth", "1").output
    assert "layers." in shallow and "weight" not in shallow


def test_inspect_tree_survives_hostile_names(run: Run) -> None:
    deep = ".".join("a" * 5_000)
    wl.save({deep: np.zeros(1), "a": np.zeros(1), "..": np.zeros(1), "a\x1b[31mred": np.zeros(1)}, "x.safetensors")
    result = run("inspect", "x.safetensors", "--tree")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output and r"a\x1b[31mred" in result.output


def test_inspect_shows_shards_and_quantisation(run: Run) -> None:
    weights = {"a": np.linspace(-1, 1, 4096, dtype=np.float32), "b": np.zeros((3, 5), np.int32)}
    wl.save(weights, "dir/model.json", quantize="uint8", shard_size=1024)
    result = run("inspect", "dir")
    assert result.exit_code == 0, result.output
    (row,) = (line.split() for line in result.output.splitlines() if line.startswith("a "))
    assert row[:7] == ["a", "float32", "[4096]", "16.0", "KiB", "uint8", "4.00"]
    assert "group1-shard1of" in result.output


def test_one_bad_path_does_not_stop_the_others(run: Run, saved: str) -> None:
    Path("page.safetensors").write_text("<!doctype html><html></html>")
    result = run("inspect", "page.safetensors", "nothing.npz", saved)
    assert result.exit_code == ExitCode.ERROR
    assert "layers.0.weight" in result.stdout
    errors = result.stderr.splitlines()
    assert len(errors) == 2 and all(line.startswith("Error: ") for line in errors)
    assert "page.safetensors" in errors[0] and "nothing.npz" in errors[1]


# ---- convert -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("target", ["out.npz", "out.safetensors", "web/model.json"])
def test_convert_keeps_every_bit(run: Run, target: str) -> None:
    tensors = {name: array for name, array in model().items() if name != "step"}
    wl.save(tensors, "model.safetensors")
    result = run("convert", "model.safetensors", target)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    loaded = wl.load(target)
    for name, array in tensors.items():
        assert loaded[name].dtype == array.dtype and loaded[name].tobytes() == array.tobytes()


def test_convert_options_reach_the_file(run: Run, saved: str) -> None:
    deflated = ("--to", "npz", "--names", "*.weight", "--compression", "deflate")
    assert run("convert", saved, "a.bin", *deflated).exit_code == 0
    assert list(np.load("a.bin", allow_pickle=False)) == ["layers.0.weight", "layers.1.weight"]
    assert run("convert", saved, "h.safetensors", "--dtype", "float16", "--no-checksums", "--no-sync").exit_code == 0
    with wl.open("h.safetensors") as weights:
        assert [str(v.dtype) for v in weights.values()].count("float16") == 3
        assert all(v.checksum is None for v in weights.values())
    ids = {"ids": np.arange(5), "x": np.ones(2), "y": np.ones(2, np.float32)}
    wl.save(ids, "ids.npz")
    assert "dtype={'ids': 'int32', 'x': 'float32'}" in run("convert", "ids.npz", "i/model.json").output
    narrow = ("--dtype", "int32=id*", "--dtype", "float32", "--dtype", "float16=y")
    assert run("convert", "ids.npz", "i/model.json", *narrow).exit_code == 0
    loaded = wl.load("i")
    assert {n: str(a.dtype) for n, a in loaded.items()} == {"ids": "int32", "x": "float32", "y": "float16"}
    assert all(np.array_equal(a, ids[n]) for n, a in loaded.items())
    quantize = ("--quantize", "uint8=*.weight", "--quantize", "float16=*.bias", "--dtype", "float32")
    assert run("convert", saved, "q/model.json", "--names", "layers*", *quantize).exit_code == 0
    with wl.open("q/model.json") as weights:
        assert [v.stored for v in weights.values()] == ["uint8", "float16", "uint8"]
    result = run("convert", saved, "s/model.safetensors", "--shard-size", "300")
    assert result.exit_code == 0 and "files" in result.output
    assert len(list(Path("s").glob("*.safetensors"))) > 1


def test_convert_reports_what_quantisation_loses(run: Run) -> None:
    large = np.append(np.linspace(-1, 1, 999), 70000).astype("f4")
    wl.save({"w": np.linspace(0, 1, 1000).astype("f4"), "large": large}, "w.safetensors")
    lines = run("convert", "w.safetensors", "auto/model.json", "--quantize", "auto:1e-3").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["tensor", "stored"], ["w", "uint16"], ["large", "uint8"]]
    assert lines[4] == "2 tensors: 7.81 KiB as float32, 2.93 KiB as stored"
    assert len(run("convert", "w.safetensors", "a/model.json", "--quantize", "float16").stdout.splitlines()) == 1
    lines = run("convert", "w.safetensors", "b/model.json", "--quantize", "float16", "--report").stdout.splitlines()
    assert lines[3].split() == ["large", "float16", "1.95", "KiB", "inf", "inf", "1"]


def test_convert_between_conventions(run: Run) -> None:
    wl.save({"a.weight": np.ones((3, 2), "f4"), "b.weight": np.ones((5, 2), "f4"), "b.bias": np.ones(5, "f4")}, "a.pt")
    result = run("convert", "a.pt", "a.npz", "--conventions", "torch->keras")
    assert result.exit_code == ExitCode.ERROR and not Path("a.npz").exists()
    assert [re.split(r"\s{2,}", line) for line in result.stdout.splitlines()] == [
        ["layer", "tensors", "what it can be"],
        ["a", "weight [3, 2]", "Linear or Embedding"],
    ]
    assert "no certain rule for 1 layer; say what each is with --kind" in result.stderr
    result = run("convert", "a.pt", "a.npz", "--conventions", "torch->keras", "--kind", "a=Embedding")
    assert result.exit_code == 0
    assert {n: a.shape for n, a in wl.load("a.npz").items()} == {
        "a/embeddings": (3, 2), "b/kernel": (2, 5), "b/bias": (5,)
    }  # fmt: skip
    assert run("convert", "a.pt", "b.npz", "--kind", "a=Linear").exit_code == ExitCode.USAGE
    assert run("convert", "a.pt", "b.npz", "--conventions", "torch->keras", "--kind", "a").exit_code == ExitCode.USAGE


def test_convert_replaces_only_when_told(run: Run, saved: str) -> None:
    Path("taken.npz").write_bytes(b"mine")
    result = run("convert", saved, "taken.npz")
    assert result.exit_code == ExitCode.USAGE and "--force" in result.stderr
    assert Path("taken.npz").read_bytes() == b"mine"
    result = run("convert", saved, Path("taken.npz").absolute().as_uri())
    assert result.exit_code == ExitCode.USAGE and "--force" in result.stderr
    assert run("convert", saved, "taken.npz", "--force").exit_code == 0
    assert wl.verify("taken.npz").ok
    Path("full").mkdir()
    Path("full/file").touch()
    assert run("convert", saved, "full").exit_code == ExitCode.USAGE
    run("convert", saved, "s.safetensors", "--shard-size", "300", "--force")
    assert run("convert", saved, "s.safetensors").exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    "options",
    [
        ("--quantize", "int3"),
        ("--quantize", "auto:much"),
        ("--quantize", "uint8", "--quantize", "uint8=a*"),
        ("--shard-size", "big"),
        ("--wrong",),
    ],
)
def test_wrong_usage_exits_2(run: Run, saved: str, options: tuple[str, ...]) -> None:
    result = run("convert", saved, "out/model.json", *options)
    assert result.exit_code == ExitCode.USAGE
    assert not Path("out").exists()


def test_convert_refuses_a_damaged_source(run: Run) -> None:
    path = damaged("layers.0.weight")
    result = run("convert", path, "out.npz")
    assert result.exit_code == ExitCode.ERROR
    assert "layers.0.weight" in result.stderr and path in result.stderr and "bytes" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not Path("out.npz").exists()
    assert run("convert", path, "out.npz", "--no-verify").exit_code == 0


# ---- check-tfjs ----------------------------------------------------------------------------------------------
def test_check_tfjs_tells_whether_it_loads(run: Run) -> None:
    layers_model(Path("good"), quantize={"uint8": "lstm/*"})
    result = run("check-tfjs", "good")
    assert result.exit_code == 0
    assert "good: loads with tf.loadLayersModel\n" in result.stdout and "uint8 144 B (3)" in result.stdout
    assert "layers: InputLayer 1, Conv1D 1, BatchNormalization 1, LSTM 1, Dense 1" in result.stdout
    layers_model(Path("bad"))
    apply(Path("bad"), LAYERS["another name"][1])
    result = run("check-tfjs", "good", "bad/model.json")
    assert result.exit_code == ExitCode.NEGATIVE
    assert "bad/model.json: does NOT load with tf.loadLayersModel (2 errors)" in result.stdout
    assert "weight 'out/offset': the model has no variable of this name" in result.stdout
    assert run("check-tfjs", "nothing").exit_code == ExitCode.ERROR


def test_check_tfjs_strict_and_json(run: Run) -> None:
    layers_model(Path("m"))
    apply(Path("m"), LAYERS["byte order mark"][1])
    assert run("check-tfjs", "m").exit_code == 0
    assert run("check-tfjs", "--strict", "m").exit_code == ExitCode.NEGATIVE
    document = json.loads(run("check-tfjs", "--json", "m").stdout)
    assert document["loads"] and document["dtypes"] == {"float32": {"tensors": 11, "nbytes": 840}}
    assert [(p["severity"], p["code"]) for p in document["problems"]] == [("warning", "byte-order-mark")]


# ---- verify --------------------------------------------------------------------------------------------------
def test_verify_tells_good_from_bad(run: Run, saved: str) -> None:
    result = run("verify", saved)
    assert result.exit_code == ExitCode.OK and "model.safetensors: ok (safetensors; 4 ok;" in result.output
    result = run("verify", saved, damaged("layers.0.weight"))
    assert result.exit_code == ExitCode.NEGATIVE
    assert "damaged.safetensors: CORRUPT (safetensors; 3 ok, 1 corrupt;" in result.output
    (row,) = (line for line in result.output.splitlines() if line.startswith("layers.0.weight"))
    assert "corrupt" in row and "crc32c" in row


def test_verify_strict_wants_checksums(run: Run) -> None:
    wl.save(model(), "bare.safetensors", checksums=False)
    result = run("verify", "bare.safetensors")
    assert result.exit_code == ExitCode.OK and "no checksums to check against" in result.output
    assert run("verify", "--strict", "bare.safetensors").exit_code == ExitCode.NEGATIVE


def test_verify_json(run: Run) -> None:
    result = run("verify", "--json", damaged("step"))
    document = json.loads(result.stdout)
    assert result.exit_code == ExitCode.NEGATIVE and document["ok"] is False
    assert [t["name"] for t in document["tensors"] if t["status"] == "corrupt"] == ["step"]


def test_verify_of_what_is_no_weights_file(run: Run) -> None:
    Path("page.safetensors").write_text("<!doctype html><html></html>")
    result = run("verify", "page.safetensors")
    assert result.exit_code == ExitCode.NEGATIVE
    assert result.output.startswith("page.safetensors: BROKEN: ") and "HTML" in result.output


def test_the_format_can_be_said(run: Run, saved: str) -> None:
    for command in (("inspect",), ("verify",), ("cat", "step")):
        path = (*command[:1], saved, *command[1:])
        assert run(*path, "--format", "safetensors").exit_code == 0
        assert run(*path, "--format", "npz").exit_code in (ExitCode.ERROR, ExitCode.NEGATIVE)
    assert run("convert", saved, "a.npz", "--from", "npz").exit_code == ExitCode.ERROR


def test_verify_of_nothing_is_an_error(run: Run) -> None:
    assert run("verify", "nothing.safetensors").exit_code == ExitCode.ERROR


# ---- diff ----------------------------------------------------------------------------------------------------
def test_diff_of_the_same_tensors_in_two_formats(run: Run, saved: str) -> None:
    wl.save(model(), "model.npz")
    result = run("diff", saved, "model.npz")
    assert (result.exit_code, result.output) == (0, "same: 4 tensors equal\n")


def test_diff_shows_every_kind(run: Run, saved: str) -> None:
    other = model()
    other["layers.0.weight"][2, 3] += 0.5
    other["layers.0.bias"] = np.zeros(9, np.float32)
    other["layers.1.weight"] = other["layers.1.weight"].astype(np.float32)
    del other["step"]
    other["new"] = np.zeros(1)
    wl.save(other, "other.npz")
    result = run("diff", saved, "other.npz")
    assert result.exit_code == ExitCode.NEGATIVE
    rows = {tuple(line.split()[:2]) for line in result.output.splitlines()[1:-1]}
    assert rows == {
        ("layers.0.weight", "values"), ("layers.0.bias", "shape"), ("layers.1.weight", "dtype"),
        ("step", "missing"), ("new", "extra"),
    }  # fmt: skip
    assert result.output.splitlines()[-1] == "different: 1 missing, 1 extra, 1 dtype, 1 shape, 1 values; 0 equal"
    document = json.loads(run("diff", "--json", saved, "other.npz").stdout)
    (values,) = (d for d in document["differences"] if d["kind"] == "values")
    assert values["count"] == 1 and values["max_abs"] == pytest.approx(0.5, rel=1e-6)


def test_diff_json_is_json_whatever_the_values(run: Run) -> None:
    wl.save({"x": np.array([np.nan, 1.0])}, "a.npz")
    wl.save({"x": np.array([1.0, np.inf])}, "b.npz")
    result = run("diff", "a.npz", "b.npz", "--json")
    (values,) = json.loads(result.stdout, parse_constant=pytest.fail)["differences"]
    assert (values["count"], values["max_abs"]) == (2, "inf")


def test_diff_tolerates_what_it_is_told(run: Run, saved: str) -> None:
    other = model()
    other["layers.0.weight"] += np.float32(1e-4)
    wl.save(other, "other.npz")
    assert run("diff", saved, "other.npz").exit_code == ExitCode.NEGATIVE
    assert run("diff", saved, "other.npz", "--atol", "1e-3").exit_code == ExitCode.OK


# ---- cat -----------------------------------------------------------------------------------------------------
def test_cat_gives_statistics(run: Run, saved: str) -> None:
    weight = model()["layers.0.weight"]
    result = run("cat", saved, "layers.0.weight")
    assert result.exit_code == 0, result.output
    lines = dict(line.split(maxsplit=1) for line in result.output.splitlines() if line.startswith("  "))
    assert float(lines["min"]) == pytest.approx(float(weight.min()), rel=1e-5)
    assert float(lines["std"]) == pytest.approx(float(weight.astype(np.float64).std()), rel=1e-5)
    document = json.loads(run("cat", saved, "layers.0.weight", "--json").stdout)
    assert document["statistics"]["mean"] == pytest.approx(float(weight.astype(np.float64).mean()))
    assert sum(document["histogram"]["counts"]) == 128
    assert document["first"] == weight.reshape(-1)[:8].tolist()


@pytest.mark.parametrize("name", ["layers.0.weight", "layers.1.weight", "step"])
def test_cat_values_are_exact(run: Run, saved: str, name: str) -> None:
    array = model()[name]
    result = run("cat", saved, name, "--values")
    read = np.array([line.split() for line in result.output.splitlines()], np.float64).astype(array.dtype)
    assert read.reshape(array.shape).tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3), np.float32), np.full(5, np.nan), np.array([np.inf, 1.0]), np.array(True), np.array(3),
        np.array([1 + 2j, 3j], np.complex64), np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.array(["ab", "c"]), np.array(["2020-01-01"], "M8[D]"), np.zeros(2, [("a", "i4"), ("b", "f8")]),
        np.arange(5, dtype=">i4"),
    ],
    ids=lambda a: f"{a.dtype}{list(a.shape)}",
)  # fmt: skip
def test_cat_of_any_array(run: Run, array: np.ndarray) -> None:
    np.save("x.npy", array)
    name = next(iter(wl.open("x.npy")))
    for options in ((), ("--json",), ("--values",), ("--values", "--json")):
        result = run("cat", "x.npy", name, *options)
        assert result.exit_code == 0, result.output
        if "--json" in options:
            document = json.loads(result.stdout, parse_constant=pytest.fail)
            assert document["shape"] == list(array.shape)
    if array.dtype.kind in "iub":
        assert document["values"] == array.reshape(-1).tolist()


def test_cat_suggests_names(run: Run, saved: str) -> None:
    result = run("cat", saved, "layer.0.weight")
    assert result.exit_code == ExitCode.ERROR and "Did you mean 'layers.0.weight'" in result.stderr


# ---- how commands end ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (wl.ChecksumError("bad", path="f", tensor="t", offset=1, end=2), ("file f, tensor 't', bytes 1-2", "verify")),
        (wl.TruncatedError("short", path="f"), ("not complete",)),
        (wl.StorageError("full", errno=28, path="f"), ("Free some space", "nothing was left behind")),
        (FileNotFoundError(2, "No such file", "f"), ("No such file", "file f")),
        (MemoryError(), ("out of memory", "--names")),
        (RuntimeError("odd"), ("RuntimeError: odd", "WEIGHTLIFT_DEBUG=1")),
        (wl.FormatError("two\nlines \x1b[2J"), (r"two lines \x1b[2J",)),
    ],
    ids=lambda p: type(p).__name__,
)
def test_errors_are_one_line_that_helps(
    error: BaseException, parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    report(error)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("Error: ") and err.count("\n") == 1
    assert all(part in err for part in parts), err


def test_missing_files_suggest_others(run: Run, saved: str) -> None:
    result = run("inspect", "modle.safetensors")
    assert result.exit_code == ExitCode.ERROR and "Did you mean 'model.safetensors'?" in result.stderr


def test_debug_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTLIFT_DEBUG", "1")
    assert "Traceback" in run("verify", "nothing.npz").stderr


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (RuntimeError("a fault"), ExitCode.ERROR),
        (wl.FormatError("bad"), ExitCode.ERROR),
        (MemoryError(), ExitCode.ERROR),
    ],
    ids=lambda p: type(p).__name__,
)
def test_exit_codes(run: Run, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int) -> None:
    def diff(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr(wl, "diff", diff)
    result = run("diff", "a", "b")
    assert result.exit_code == code
    assert len(result.stderr.splitlines()) <= 2 and "Traceback" not in result.stderr


def test_help_is_the_same_with_and_without_click(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["weightlift", "--help"])
    main()
    assert capsys.readouterr().out == help_text() == run("--help").output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0 and result.output.startswith(f"Usage: app {command}")


def test_missing_libraries_are_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import weightlift.cli

    monkeypatch.setattr(sys, "argv", ["weightlift", "inspect", "x"])
    monkeypatch.setattr(weightlift.cli, "find_spec", lambda name: None if name == "rich" else object())
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    assert capsys.readouterr().err == "Error: the command line needs rich: pip install 'weightlift[cli]'\n"
