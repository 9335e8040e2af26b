"""weightlift ls, cp, mv, rm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.unit.test_handlers import model, same
from tests.unit.test_managers import small

import weightlift as wl
from weightlift.stores._memory import PROCESS

pytest.importorskip("click")
pytest.importorskip("rich")

from click.testing import CliRunner, Result

from weightlift.cli._app import app

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in a fresh directory, with databases of its own and nothing in memory."""
    PROCESS.files.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEIGHTLIFT_BROWSER_DATA", str(tmp_path / "data"))
    return lambda *args, **given: CliRunner().invoke(app, [str(a) for a in args], **given)


def test_ls(run: Run) -> None:
    assert run("ls").output == ""
    for url in ("indexeddb://a", "localstorage://deep/b", "models/c"):
        wl.save_model(model(), url)
    lines = run("ls").output.splitlines()
    assert lines[0].split() == ["model", "weights", "topology", "saved"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["localstorage://deep/b", "36", "B"],
        ["indexeddb://a", "36", "B"],
    ]
    assert [json.loads(line)["url"] for line in run("ls", "models", "--json").output.splitlines()] == ["models/c"]
    (info,) = (json.loads(line) for line in run("ls", "localstorage://deep", "--json").output.splitlines())
    assert (info["url"], info["weightDataBytes"], info["modelTopologyType"]) == ("localstorage://deep/b", 36, "JSON")
    bad = run("ls", "memroy://", "models")
    assert bad.exit_code == 3 and "did you mean memory://" in bad.output and "models/c" in bad.output
    assert run("ls", "none").exit_code == 3


def test_cp_mv_and_rm(run: Run) -> None:
    wl.save_model(model(), "m", quantize={"uint8": "d/kernel"})
    assert run("cp", "m", "indexeddb://m").output == "copied m to indexeddb://m: 18 B\n"
    again = run("cp", "m", "indexeddb://m")
    assert again.exit_code == 2 and "--force" in again.output
    assert run("cp", "m", "indexeddb://m", "--force").exit_code == 0
    assert run("mv", "indexeddb://m", "localstorage://m").exit_code == 0
    assert list(wl.list_models()) == ["localstorage://m"]
    assert run("mv", "localstorage://m", "back").output == "moved localstorage://m to back: 18 B\n"
    assert same(wl.load_model("back"), wl.load_model("m"))
    assert run("mv", "back", "./back", "--force").exit_code == 3
    refused = run("rm", "back")
    assert refused.exit_code == 2 and "--yes" in refused.output and Path("back").exists()
    assert run("rm", "back", "m", "none", "--yes").exit_code == 3
    assert not Path("back").exists() and not Path("m").exists()


def test_rm_asks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wl.save_model(small(), "m")
    monkeypatch.setattr("weightlift.cli._rm.has_terminal", lambda: True)
    no = run("rm", "m", input="n\n")
    assert no.exit_code == 1 and "Remove m?" in no.output and Path("m").exists()
    assert run("rm", "m", input="y\n").exit_code == 0 and not Path("m").exists()


def test_a_database_of_ones_own(run: Run) -> None:
    wl.save_model(model(), "m")
    for verb in ("cp", "mv"):
        assert run(verb, "m", "indexeddb://m", "--database", "x.db", "--force").exit_code == 0
    assert "indexeddb://m" in run("ls", "--database", "x.db", "indexeddb://").output
    assert run("ls").output == ""
    assert run("rm", "--yes", "--database", "x.db", "indexeddb://m").exit_code == 0


def test_the_other_commands_take_these_urls_too(run: Run) -> None:
    wl.save({"w": np.arange(4, dtype="f4")}, "w.safetensors")
    assert run("convert", "w.safetensors", "indexeddb://w").exit_code == 0
    assert run("convert", "indexeddb://w", "back.npz").exit_code == 0
    assert run("diff", "back.npz", "indexeddb://w").exit_code == 0
    for command in ("inspect", "verify"):
        assert "indexeddb://w" in run(command, "indexeddb://w").output
    assert run("cat", "indexeddb://w", "w").exit_code == 0


def test_options_of_two_urls_go_to_the_one_that_has_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        wl.save({"w": np.arange(4, dtype="f4")}, f"indexeddb://{name}", database=tmp_path / "x.db")
    assert wl.diff("indexeddb://a", "indexeddb://b", database=tmp_path / "x.db").same
    wl.convert("indexeddb://a", "memory://a.npz", database=tmp_path / "x.db")
    assert wl.load("memory://a.npz")["w"].tolist() == [0, 1, 2, 3]
    with pytest.raises(TypeError, match="typo"):
        wl.diff("indexeddb://a", "memory://a.npz", database=tmp_path / "x.db", typo=1)


def test_import_and_export(run: Run) -> None:
    for scheme in ("localstorage", "indexeddb"):
        wl.save_model(model(), f"{scheme}://m")
        assert run("export", scheme, "dump.json").output == f"exported {scheme}://m: 36 B\n"
        again = run("import", "dump.json")
        assert again.exit_code == 3 and "'m'" in again.output
        assert run("import", "dump.json", "--force").output == f"imported {scheme}://m: 36 B\n"
        assert run("import", "dump.json", "--database", f"{scheme}.db").exit_code == 0
        assert list(wl.list_models(f"{scheme}://", database=f"{scheme}.db")) == [f"{scheme}://m"]
    assert run("export", "memory", "dump.json").exit_code == 2


@pytest.mark.parametrize("command", ["mv", "cp", "convert"])
def test_memory_does_not_last(run: Run, command: str) -> None:
    """A model that was moved there would be gone."""
    wl.save_model(model(), "m")
    refused = run(command, "m", "memory://m", "--force")
    assert refused.exit_code == 2 and "memory://" in refused.output
    same(wl.load_model("m"), model())
