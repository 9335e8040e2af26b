"""The rules of docs/architecture.md that a machine can check: who imports whom, sizes, exports, examples.

The tables below are the rules; a new module, folder or exception is added to them on purpose, with its reason.
"""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "python" / "weightlift"
CPP = REPOSITORY / "cpp"

# ---- Python: layers. A module imports modules of its own layer and of those above it in this list. ----------
LAYERS: list[tuple[str, tuple[str, ...]]] = [
    ("the compiled modules", ("_core", "_http")),
    ("the public contract", ("errors", "_artifacts", "types", "protocols", "_stored_arrays")),
    (
        "small tools",
        (
            "_dtypes",
            "_urls",
            "_json",
            "_globs",
            "_tree",
            "_strings",
            "_checksum",
            "_ggml",
            "_arrays",
            "_sharded",
            "_awaiting",
            "_stopping",
            "_descriptors",
            "_layer_kinds",
            "_convention_names",
            "_layer_match",
            "_tfjs_registry",
            "_tfjs_layers",
            "_tfjs_options",
            "_tfjs_topology",
            "_tfjs_graph",
            "_mxnet_graph",
        ),
    ),
    (
        "the nouns",
        (
            "_steps",
            "_layout",
            "_packing",
            "_inflate",
            "_lzf",
            "_unchunk",
            "_zstd",
            "_ops",
            "_ranges",
            "_sparse",
            "_decode",
            "_runs",
            "_plan",
            "_write_plan",
            "_stream",
        ),
    ),
    ("the wings", ("stores", "formats", "frameworks")),
    (
        "the engine",
        (
            "_sidecar",
            "_source",
            "_slices",
            "_chunks",
            "_load",
            "_weights",
            "_rearranged",
            "_conventions",
            "_transpose",
            "_intake",
            "_superseded",
            "_job",
            "_block_rows",
            "_publish",
            "_send",
            "_quantize",
            "_save",
            "_convert",
            "_verify",
            "_parts",
            "_live",
            "_statistics",
        ),
    ),
    ("routing", ("_handlers", "_http_handlers", "_http_models", "_browser_handlers", "_router")),
    ("the public functions", ("_models", "_check_tfjs", "_managers", "_dumps", "_api", "_modules", "aio")),
    ("the package", ("__init__",)),
    ("programs on top", ("cli", "__main__", "checkpoint", "server", "testing")),
]

WINGS = ("stores", "formats", "frameworks")
"""Three wings that never import each other; they meet in the engine."""

CORE_USERS = {
    "_checksum": "lends formats the CRCs of small parts and their combination",
    "_dtypes": "joins the core's dtype table to NumPy",
    "_layout": "checks a whole table in one call",
    "_decode": "converts what it decoded",
    "_ops": "spells steps for the core",
    "_plan": "runs read plans",
    "_ranges": "reads ranges of a file that belong to no layout",
    "_load": "allocates the memory that a load fills",
    "_live": "asks which conversions there are before anything is read",
    "_weights": "maps files and makes arrays over them",
    "_intake": "reads its temporary file by the core's reader",
    "_chunks": "runs conversions on the part of a tensor at hand",
    "_save": "describes arrays, a hundred thousand at once",
    "_quantize": "finds the ranges of tensors, and what quantisation loses",
    "_job": "converts what is written by other means than a plan",
    "_publish": "runs the write plan",
    "_send": "hashes without writing",
    "_sidecar": "hashes what is not payload",
    "_api": "offers the kernels on arrays",
    "stores._local": "opens files through the core's readers and writers",
    "stores._buffers": "derives its writer from the core's",
    "stores._localstorage": "opens what it read by the core's reader",
    "stores._indexeddb": "derives its writer from the core's, and lends it a reader of rows",
    "stores._downloads": "writes files by the core's writer, as ``_local``",
    "stores._picked": "opens what was picked by the core's readers",
    "stores._memory": "opens its files by the core's reader",
    "stores._http_file": "lends plans what was fetched with headers",
    "stores._tensorstore": "lends plans the arrays that it decodes",
    "stores._object": "derives its reader and its writer from the core's",
    "stores._cache": "checks blocks, and lends them to plans",
    "checkpoint._snapshot": "finds arrays that are one memory, and allocates their copies",
    "checkpoint._unchanged": "hashes without writing",
    "frameworks._torch_device": "has as many threads as the core",
    "formats._safetensors_file": "parses and checks the header in the core: a hundred thousand tensors in milliseconds",
}
"""The only modules that import the compiled core, and why."""

HTTP_USERS = {"stores._http": "opens URLs"}
"""The only modules that may import the compiled HTTP client, which loads libcurl, and why."""

TOP_LEVEL_LIBRARIES = {
    "numpy": "", "ml_dtypes": "", "click": "cli", "rich": "cli", "pytest": "testing",
    "torch": "checkpoint.dcp",
    "anyio": "server", "h11": "server", "python_multipart": "server", "starlette": "server", "uvicorn": "server",
}  # fmt: skip
"""Libraries that may be imported when a module is, and the part of the package that may ("" is any).

Every other library is imported inside the function that needs it.
"""

HEAVY_MODULES = (
    "asyncio", "click", "email", "http.client", "importlib.metadata", "multiprocessing", "rich", "safetensors",
    "sqlite3", "ssl", "torch", "unittest", "urllib.request", "zstandard",
)  # fmt: skip
"""What `import weightlift` must not bring in, unless NumPy itself does."""

# ---- C++: parts, and the parts that each may include ---------------------------------------------------------
INCLUDES: dict[str, tuple[str, ...]] = {
    "base": ("base",),
    "kernels": ("base", "kernels"),
    "io": ("base", "io"),
    "layout": ("base", "kernels", "layout"),
    "plan": ("base", "kernels", "io", "plan"),
    "http": ("base", "io", "http"),
    "bindings": ("base", "kernels", "io", "layout", "plan", "http", "bindings"),
    "tests": ("base", "kernels", "io", "layout", "plan", "http", "tests"),
    "fuzz": ("base", "kernels", "io", "layout", "plan", "fuzz"),
}
PUBLIC_HEADERS = {
    "error": "base", "dtype": "base", "stop": "base",
    "checksum": "kernels", "convert": "kernels", "isa": "kernels",
    "buffer": "io", "reader": "io", "writer": "io",
    "layout": "layout",
    "plan": "plan",
    "http": "http",
}  # fmt: skip
"""The part that each header of include/weightlift belongs to."""

# ---- sizes ---------------------------------------------------------------------------------------------------
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
LONG_FILES: dict[str, str] = {}
"""Files over 500 lines, and why each is better whole."""
LONG_FUNCTIONS: dict[str, str] = {}
"""Functions over 60 lines (``file:name``), and why each is better whole."""


# ---- reading the sources -------------------------------------------------------------------------------------
def module_name(path: Path) -> str:
    """``stores._local`` for ``stores/_local.py``; ``stores`` for ``stores/__init__.py``; ``__init__`` for the root."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def python_modules() -> dict[str, Path]:
    """The package's modules by name."""
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@lru_cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports(node: ast.AST, *, top_level: bool = False) -> Iterator[tuple[str, str | None]]:
    """(module, imported name or None) of the imports under a node, without those for type checkers only.

    With ``top_level``, only of those that run when the module is imported.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, None) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0 and child.module, f"line {child.lineno}: imports are absolute here"
            yield from ((child.module, alias.name) for alias in child.names)
        elif not is_type_checking(child) and not (top_level and isinstance(child, (ast.FunctionDef, ast.Lambda))):
            yield from imports(child, top_level=top_level)


def own_imports(path: Path, modules: dict[str, Path]) -> set[str]:
    """The package's modules that a file imports; the root package is ``__init__``."""
    known = {*modules, "_core", "_http"}
    names = set()
    for module, name in imports(parsed(path)):
        if module.split(".")[0] != "weightlift":
            continue
        short = module.removeprefix("weightlift").removeprefix(".")
        submodule = f"{short}.{name}".removeprefix(".")
        names.add(submodule if submodule in known else short or "__init__")
    return names


def layer_of(module: str) -> int:
    top = module.split(".")[0]
    for rank, (_, members) in enumerate(LAYERS):
        if top in members:
            return rank
    pytest.fail(f"module {module} is in no layer; add it to LAYERS, and to docs/architecture.md")


def tracked_files() -> list[Path]:
    """Files under version control; all but build output where there is no git."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=False)
    if listed.returncode == 0:
        return [REPOSITORY / name for name in listed.stdout.decode().split("\0") if name]
    skipped = {"build", "dist", ".venv", "node_modules", "__pycache__"}
    return [p for p in REPOSITORY.rglob("*") if p.is_file() and not skipped & set(p.relative_to(REPOSITORY).parts)]


# ---- Python --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("module", python_modules())
def test_module_imports_only_its_own_layer_and_those_before(module: str) -> None:
    modules = python_modules()
    used = own_imports(modules[module], modules)
    wrong = {name for name in used if layer_of(name) > layer_of(module)}
    assert not wrong, f"{module} imports {sorted(wrong)}, of a later layer"


@pytest.mark.parametrize("module", [m for m in python_modules() if m.split(".")[0] in WINGS])
def test_wings_do_not_import_each_other(module: str) -> None:
    modules = python_modules()
    wing = module.split(".")[0]
    wrong = {name for name in own_imports(modules[module], modules) if name.split(".")[0] in set(WINGS) - {wing}}
    assert not wrong, f"{module} imports {sorted(wrong)}"


def test_only_listed_modules_import_the_core() -> None:
    modules = python_modules()
    users = {name for name, path in modules.items() if "_core" in own_imports(path, modules)}
    assert users == set(CORE_USERS), "CORE_USERS must list exactly the modules that import _core"


def test_only_listed_modules_import_the_http_client() -> None:
    modules = python_modules()
    users = {name for name, path in modules.items() if "_http" in own_imports(path, modules)}
    assert users <= set(HTTP_USERS), "HTTP_USERS must list the modules that import _http"


def test_no_import_cycles() -> None:
    modules = python_modules()
    graph = {name: own_imports(path, modules) - {name, "_core", "_http"} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join((*trail[trail.index(name) :], name))}"
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("module", python_modules())
def test_libraries_are_imported_where_they_are_needed(module: str) -> None:
    for name, _ in imports(parsed(python_modules()[module]), top_level=True):
        library = name.split(".")[0]
        if library in sys.stdlib_module_names or library == "weightlift":
            continue
        assert library in TOP_LEVEL_LIBRARIES, f"{module} imports {library} at its top; import it where it is used"
        part = TOP_LEVEL_LIBRARIES[library]
        assert not part or f"{module}.".startswith(f"{part}."), (
            f"only {part} may import {library} at its top, not {module}"
        )


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, numpy, ml_dtypes\n"
        "before = set(sys.modules)\n"
        "import weightlift\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    new = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = [name for name in new if name in HEAVY_MODULES]
    assert not heavy, f"import weightlift brings in {heavy}"
    expected = {"weightlift", *(library for library, part in TOP_LEVEL_LIBRARIES.items() if not part)}
    foreign = {name.split(".")[0] for name in new} - set(sys.stdlib_module_names) - expected
    assert not foreign, f"import weightlift brings in {sorted(foreign)}"


# ---- the public names ----------------------------------------------------------------------------------------
def public_functions() -> list[str]:
    import weightlift

    return [name for name in weightlift.__all__ if inspect.isfunction(getattr(weightlift, name))]


def test_the_package_only_re_exports() -> None:
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    for node in parsed(PACKAGE / "__init__.py").body:
        lazy = isinstance(node, ast.FunctionDef) and node.name in ("__getattr__", "__dir__")
        types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        assert isinstance(node, allowed) or lazy or types, f"line {node.lineno} of __init__.py is more than a re-export"


def test_all_is_sorted_and_true() -> None:
    import weightlift

    assert list(weightlift.__all__) == sorted(weightlift.__all__)
    assert len(set(weightlift.__all__)) == len(weightlift.__all__)
    missing = [name for name in weightlift.__all__ if not hasattr(weightlift, name)]
    assert not missing, f"in __all__, but not there: {missing}"
    imported = {
        alias.asname or alias.name
        for node in ast.walk(parsed(PACKAGE / "__init__.py"))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("weightlift")
        for alias in node.names
    }
    unlisted = {name for name in imported if not name.startswith("_")} - set(weightlift.__all__)
    assert not unlisted, f"imported, but not in __all__: {sorted(unlisted)}"


@pytest.mark.parametrize("name", public_functions())
def test_public_function_has_an_example_that_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    import weightlift

    text = inspect.getdoc(getattr(weightlift, name)) or ""
    assert text.strip(), f"{name} has no docstring"
    assert re.search(r"^Examples?:", text, re.M), f"the docstring of {name} has no Example section"
    assert ">>> " in text, f"the example of {name} is not in doctest form"
    monkeypatch.chdir(tmp_path)
    from weightlift import _models, _modules
    from weightlift.frameworks import _adapters

    monkeypatch.setattr(_adapters, "_ADAPTERS", dict(_adapters._ADAPTERS))
    monkeypatch.setattr(_modules, "_MODULES", {})
    monkeypatch.setattr(_models, "_exporters", [])  # what an example registers ends with it
    test = doctest.DocTestParser().get_doctest(text, {"wl": weightlift, "np": np}, name, None, None)
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(
        test, out=said.append
    )
    assert result.failed == 0, "".join(said)


@pytest.mark.parametrize("name", [n for n in __import__("weightlift").__all__ if not n.startswith("__")])
def test_public_name_is_documented(name: str) -> None:
    import weightlift

    value = getattr(weightlift, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        assert own and own.strip(), f"{name} has no docstring"


# ---- C++ -----------------------------------------------------------------------------------------------------
def cpp_files() -> list[Path]:
    return sorted(p for p in CPP.rglob("*") if p.suffix in (".h", ".cc"))


def part_of(path: Path) -> str:
    """Which part of the core a C++ file belongs to."""
    parts = path.relative_to(CPP).parts
    if parts[:2] == ("include", "weightlift"):
        assert path.stem in PUBLIC_HEADERS, f"{path.name}: add it to PUBLIC_HEADERS"
        return PUBLIC_HEADERS[path.stem]
    return parts[1] if parts[0] == "src" else parts[0]


@pytest.mark.parametrize("path", cpp_files(), ids=lambda p: str(p.relative_to(CPP)))
def test_cpp_includes(path: Path) -> None:
    part = part_of(path)
    assert part in INCLUDES, f"{part} is no part of the core; add it to INCLUDES, and to docs/architecture.md"
    text = path.read_text(encoding="utf-8")
    for kind, name in re.findall(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', text, re.M):
        if kind == "<":
            foreign = re.match(r"(Python\.h|pybind11/|numpy/)", name)
            assert not foreign or part == "bindings", f"{path.name} includes <{name}>: only bindings may"
            continue
        if name.startswith("weightlift/"):
            included = PUBLIC_HEADERS[Path(name).stem]
        elif "/" in name:
            included = name.split("/")[0]
        else:
            included = part  # beside it
        assert included in INCLUDES[part], f"{path.name}, of {part}, includes {name}, of {included}"


# ---- all files -----------------------------------------------------------------------------------------------
def source_files() -> list[Path]:
    return [p for p in tracked_files() if p.suffix in (".py", ".pyi", ".h", ".cc", ".sh", ".mjs", ".js")]


@pytest.mark.parametrize("path", source_files(), ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_file_is_short_or_has_a_reason(path: Path) -> None:
    if not path.exists():
        return  # removed in the work tree, not yet in the index
    lines = len(path.read_text(encoding="utf-8").splitlines())
    name = str(path.relative_to(REPOSITORY))
    assert lines <= MAX_FILE_LINES or name in LONG_FILES, (
        f"{name} has {lines} lines: split it, or say why in LONG_FILES"
    )


def test_functions_are_short_or_have_a_reason() -> None:
    long = {}
    for path in python_modules().values():
        for node in ast.walk(parsed(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long[f"{path.relative_to(PACKAGE)}:{node.name}"] = lines
    unexplained = {name: lines for name, lines in long.items() if name not in LONG_FUNCTIONS}
    assert not unexplained, f"longer than {MAX_FUNCTION_LINES} lines: split them, or say why: {unexplained}"


def test_allow_lists_are_current() -> None:
    """An exception that is no longer needed is removed."""
    for name in LONG_FILES:
        path = REPOSITORY / name
        assert path.exists() and len(path.read_text(encoding="utf-8").splitlines()) > MAX_FILE_LINES, name
    defined = {
        f"{path.relative_to(PACKAGE)}:{node.name}"
        for path in python_modules().values()
        for node in ast.walk(parsed(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert set(LONG_FUNCTIONS) <= defined


def test_no_machine_paths_or_registry_hosts() -> None:
    """What is tracked runs anywhere: no absolute path of one machine, no package registry's address."""
    # Written in pieces, so that this file does not contain what it looks for.
    folders = "|".join(["work", "root", "home/[a-z]", "opt", "Users"])
    hosts = "|".join([r"py" + r"pi\.org", "files.python" + "hosted", "registry.npm" + "js", r"deb\.debian\.o" + "rg"])
    pattern = re.compile(rf"(?<![\w.$}}~>/:-])/(?:{folders})/|{hosts}")
    found = []
    for path in tracked_files():
        if not path.is_file() or path.is_symlink():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a golden file
        for number, line in enumerate(text.splitlines(), 1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {match.group()}")
    assert not found, "\n".join(found)
