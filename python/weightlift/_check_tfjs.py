"""Will TensorFlow.js load it? A document, its weights and its architecture, checked as the real one loads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from weightlift import _json, _models
from weightlift._artifacts import WeightSpec
from weightlift._plan import OpenFiles
from weightlift._source import find
from weightlift._tfjs_graph import check_graph_model, graph_ops
from weightlift._tfjs_topology import check_layers_model, layer_classes
from weightlift._urls import Url, as_text, is_file, scheme_of
from weightlift.errors import FormatError, UnsafeContentError
from weightlift.formats._tfjs import MAX_DEPTH, MAX_JSON
from weightlift.formats._tfjs_check import check_manifest, check_specs, nbytes_as
from weightlift.types import ModelArtifacts, TfjsProblem, TfjsReport

__all__ = ["check_tfjs"]

LOADERS = {
    "layers-model": "tf.loadLayersModel",
    "graph-model": "tf.loadGraphModel",
    "weights": "tf.io.decodeWeights",
}
_SEVERITIES = ("error", "warning", "note")


def check_tfjs(model: Url | ModelArtifacts, **options: Any) -> TfjsReport:
    """Say whether TensorFlow.js 4.22 loads a model, and everything that is in the way, each with what to do.

    The document, the list of weight files and their sizes, every manifest entry, the layers with their options and
    variables, or the operations of a graph are checked as TensorFlow.js handles them. Weights are not read, but for
    the lengths of strings and a few kilobytes of each file.

    Args:
        model: Path or URL of a ``model.json`` or of its directory, or artifacts (whose weights have no files yet).
        options: Of the URL's scheme; for ``http(s)://`` those of :func:`weightlift.http`.

    Returns:
        The report; true if there is no error.

    Raises:
        NotFoundError: There is no such document.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> dense = {"class_name": "Dense", "config": {"name": "d", "units": 2, "batch_input_shape": [None, 3]}}
        >>> topology = {"class_name": "Sequential", "config": {"name": "s", "layers": [dense]}}
        >>> weights = {"d/kernel": np.zeros((3, 2), "f4"), "d/offset": np.zeros(2, "f4")}
        >>> report = wl.check_tfjs(wl.ModelArtifacts(topology, weights))
        >>> report.loads, [(p.where, p.code) for p in report.problems]
        (False, [("weight 'd/offset'", 'no-variable'), ("variable 'd/bias'", 'no-weight')])
    """
    if isinstance(model, ModelArtifacts):
        return _of_artifacts(model, "artifacts")
    if not is_file(model) and scheme_of(as_text(model)) not in ("http", "https"):
        return _of_artifacts(_models.load_model(model, **options), as_text(model))
    store, name = find(model, store_options=options)
    files = OpenFiles(store)
    reader = files.open(name)
    if reader.size > MAX_JSON:
        raise UnsafeContentError(f"it has {reader.size} bytes; at most {MAX_JSON} are accepted", path=store.path(name))
    data = reader.read_at(0, reader.size)
    problems = _text_problems(data)
    try:
        document = _json.loads(data, what=name, max_bytes=MAX_JSON, max_depth=MAX_DEPTH, lenient=True)
    except FormatError as error:
        what = TfjsProblem("error", "json", name, error.message, "convert or fetch the model again")
        return TfjsReport(as_text(model), "weights", LOADERS["weights"], (what,))
    if isinstance(document, list):
        document = {"weightsManifest": document}
    if not isinstance(document, dict) or not {"modelTopology", "weightsManifest"} & set(document):
        text = "it contains neither model topology nor weights manifest"
        what = TfjsProblem("error", "document", name, text, "name the model.json of a TensorFlow.js model")
        return TfjsReport(as_text(model), "weights", LOADERS["weights"], (what,))
    found, specs = check_manifest(document.get("weightsManifest", []), files, PurePosixPath(name).parent)
    return _report(as_text(model), document, specs, [*problems, *found])


def _of_artifacts(artifacts: ModelArtifacts, url: str) -> TfjsReport:
    specs, problems = check_specs([dict(s) for s in artifacts.weight_specs or artifacts.specs])
    document = {k: v for k, v in artifacts.to_json().items() if k != "weightsManifest"}
    return _report(url, document, specs, problems)


def _text_problems(data: bytes) -> list[TfjsProblem]:
    found = []
    if data.startswith(b"\xef\xbb\xbf"):
        what = "it begins with a byte order mark: browsers drop it, tfjs-node fails"
        found.append(TfjsProblem("warning", "byte-order-mark", "the document", what, "save it as UTF-8 without one"))
    try:
        _json.loads(data, what="", max_bytes=MAX_JSON, max_depth=MAX_DEPTH)
    except FormatError as error:
        if "is not a JSON number" in error.message:
            what = f"{error.message.removeprefix(': ')}: JavaScript's JSON.parse fails"
            fix = "write null, or a number, in its place"
            found.append(TfjsProblem("error", "not-a-number", "the document", what, fix))
    return found


# --- what kind of model it is ---------------------------------------------------------------------
def _kind(topology: Any) -> str:
    """By the architecture: what a document says of its format is never looked at by TensorFlow.js."""
    if not isinstance(topology, Mapping):
        return "weights"
    graph = {"node", "versions", "library"} & set(topology)
    layers = {"class_name", "className", "model_config", "modelConfig", "config"} & set(topology)
    return "graph-model" if graph and not layers else "layers-model"


def _report(url: str, document: dict[str, Any], specs: list[WeightSpec], problems: list[TfjsProblem]) -> TfjsReport:
    topology = document.get("modelTopology")
    kind = _kind(topology)
    said = document.get("format")
    found = list(problems)
    parts: Counter[str] = Counter()
    if topology is not None and not isinstance(topology, Mapping):
        what = "modelTopology is not a JSON object: binary topologies are not supported any more"
        found.append(TfjsProblem("error", "topology", "modelTopology", what, "convert the model again"))
    if said is not None and kind != "weights" and said != kind:
        what = f"the document calls itself a {said!r}, but its topology is that of a {kind}"
        fix = f"load it with {LOADERS[kind]}, and correct 'format'"
        found.append(TfjsProblem("warning", "format", "the document", what, fix))
    if kind == "graph-model" and isinstance(topology, Mapping):
        initializer = document.get("modelInitializer")
        meta = document.get("userDefinedMetadata")
        signature = meta.get("signature") if isinstance(meta, Mapping) else None
        found += check_graph_model(topology, specs, signature or document.get("signature"), initializer)
        parts = graph_ops(topology, initializer)
    elif kind == "layers-model":
        found += check_layers_model(topology, specs, document.get("trainingConfig"))
        parts = layer_classes(topology)
    else:
        what = "there is no architecture: neither loader takes it, tf.io.decodeWeights and tf.io.loadWeights do"
        found.append(TfjsProblem("note", "weights-only", "the document", what))
    return TfjsReport(
        url=url,
        kind=kind,
        loader=LOADERS[kind],
        problems=tuple(sorted(found, key=lambda p: _SEVERITIES.index(p.severity))),
        tensors=len(specs),
        dtypes=_by_dtype(specs),
        savings={kind: sum(nbytes_as(s, kind) for s in specs) for kind in ("float16", "uint16", "uint8")},
        parts=dict(parts.most_common()),
    )


def _by_dtype(specs: Sequence[WeightSpec]) -> dict[str, tuple[int, int]]:
    counts: dict[str, tuple[int, int]] = {}
    for spec in specs:
        stored = spec.dtype if spec.quantization is None else spec.quantization.dtype
        count, nbytes = counts.get(stored, (0, 0))
        counts[stored] = count + 1, nbytes + (spec.nbytes or 0)
    return counts
