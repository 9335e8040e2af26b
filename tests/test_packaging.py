"""The distribution: what it says of itself, what is in it, and what is not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import weightlift

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = Path(weightlift.__file__).parent


@pytest.fixture(scope="module")
def distribution() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution("weightlift")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("weightlift runs from the source tree here, not installed")


def test_version_is_one(distribution: importlib.metadata.Distribution) -> None:
    assert distribution.version == weightlift.__version__
    cmake = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.search(r"project\(weightlift VERSION (\S+)", cmake).group(1) == weightlift.__version__
    changes = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changes, re.M).group(1) == weightlift.__version__


def test_needs_only_numpy_and_ml_dtypes(distribution: importlib.metadata.Distribution) -> None:
    needed = [r for r in distribution.requires or [] if "extra ==" not in r]
    assert sorted(re.match(r"[\w-]+", r).group() for r in needed) == ["ml_dtypes", "numpy"]


def test_command_is_declared(distribution: importlib.metadata.Distribution) -> None:
    (entry,) = [e for e in distribution.entry_points if e.group == "console_scripts"]
    assert (entry.name, entry.value) == ("weightlift", "weightlift.cli:main")


def test_installed_files(distribution: importlib.metadata.Distribution) -> None:
    files = [str(f) for f in distribution.files or []]
    for wanted in (
        "weightlift/__init__.py",
        "weightlift/py.typed",
        "weightlift/_core.pyi",
        "weightlift/_http.pyi",
        "weightlift/server/page/index.html",
    ):
        assert wanted in files
    assert [f for f in files if re.fullmatch(r"weightlift/_core\..*\.so", f)]
    assert [f for f in files if f.endswith("LICENSE")]
    foreign = [f for f in files if not re.match(r"weightlift[/-]|\.\./\.\./\.\./bin/weightlift$", f)]
    assert not foreign, f"installed outside the package: {foreign}"
    assert not [f for f in files if f.endswith((".cc", ".h"))]
    installed = {f.removeprefix("weightlift/") for f in files if f.startswith("weightlift/") and f.endswith(".py")}
    source = {str(p.relative_to(REPOSITORY / "python/weightlift")) for p in (REPOSITORY / "python").rglob("*.py")}
    assert installed == source, "the installed package is not this source tree: install it again"


@pytest.mark.parametrize("name", ["_core", "_http"])
def test_a_module_exports_only_its_init(name: str) -> None:
    """The core's and the C++ library's symbols stay inside: two extensions must not meet by accident."""
    (module,) = PACKAGE.glob(f"{name}.*.so")
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", "-C", str(module)], capture_output=True, text=True, check=True
    )
    ours = [line for line in symbols.stdout.splitlines() if "weightlift::" in line and " T " in line]
    assert not ours, f"exported: {ours[:5]}"
    assert f"PyInit_{name}" in symbols.stdout


def test_sdist_holds_what_building_and_testing_need(tmp_path: Path) -> None:
    # A folder build/ beside the tests passes for a package of that name; the front end has a __main__.
    if importlib.util.find_spec("build") is None or importlib.util.find_spec("build.__main__") is None:
        pytest.skip("the build front end is not installed")
    subprocess.run(
        [sys.executable, "-m", "build", "--sdist", "--outdir", str(tmp_path), str(REPOSITORY)],
        check=True, capture_output=True, timeout=240,
    )  # fmt: skip
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    for wanted in (
        "pyproject.toml", "CMakeLists.txt", "LICENSE", "README.md", "cpp/CMakeLists.txt", "cpp/bindings/module.cc",
        "cpp/include/weightlift/plan.h", "python/weightlift/__init__.py", "python/weightlift/py.typed",
        "tests/conftest.py", "scripts/install.sh",
    ):  # fmt: skip
        assert wanted in names, wanted
    unwanted = [n for n in names if re.match(r"build/|\.venv/|dist/|\.git/", n) or n.endswith((".so", ".pyc"))]
    assert not unwanted, unwanted[:5]
