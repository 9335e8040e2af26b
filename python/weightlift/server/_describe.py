"""What the API says of models and files: everything comes from the library's own open, verify and statistics."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from math import isfinite
from pathlib import Path
from threading import Lock
from typing import Any

import weightlift as wl
from weightlift._dtypes import byte_size
from weightlift._statistics import summarize
from weightlift.errors import MismatchError, NotFoundError, WeightliftError
from weightlift.server._conditions import etag_of
from weightlift.server._errors import told

__all__ = ["Catalogue", "topology_summary"]

Json = dict[str, Any]
Identity = tuple[Any, ...]

_MAX_CACHED = 1000
_MAX_CACHED_TENSORS = 200_000
"""Of all details together: each is some hundred bytes."""
_MAX_VERIFIED = 10_000
_MAX_LAYERS = 2000


class Catalogue:
    """Descriptions of what lies in a directory, remembered as long as the files are the same.

    Args:
        root: The directory; paths in answers are relative to it.
    """

    def __init__(self, root: Path) -> None:
        """See the class."""
        self._root = root
        self._lock = Lock()
        self._cache: OrderedDict[tuple[str, Path], tuple[Identity, Json]] = OrderedDict()
        self._held = 0  # tensors of the details among them
        self._verified: OrderedDict[Path, tuple[Identity, Json]] = OrderedDict()

    # --- answers ---
    def summary(self, place: Path) -> Json:
        """A row of the list: sizes, dtypes, checksum state; or ``error`` for what is broken."""
        try:
            result = dict(self._remembered("summary", place, _summary))
        except (WeightliftError, OSError) as error:
            result = {"error": told(error, self._root), "tensors": 0, "bytes": 0, "dtypes": {}, "checksums": "none"}
        result["modified"] = _iso(place.stat().st_mtime) if place.exists() else None
        result["verified"] = self._verdict(place)
        return result

    def details(self, place: Path) -> Json:
        """All tensors, metadata and, of a model, what its topology consists of."""
        result = dict(self._remembered("details", place, _details))
        return {**result, "modified": _iso(place.stat().st_mtime), "verified": self._verdict(place)}

    def files(self, place: Path) -> list[Path]:
        """The files that belong to a model, or to a sharded set; the one that was asked for first."""
        return [Path(p) for p in self._remembered("summary", place, _summary)["_files"]]

    def histogram(self, place: Path, weight: str, bins: int) -> Json:
        """Statistics of one tensor, and a histogram of its finite values."""

        def make(place: Path) -> Json:
            return _histogram(place, weight, bins)

        return self._remembered(f"histogram {bins} {weight}", place, make)

    def verify(self, place: Path) -> Json:
        """Compare everything with its checksum now, and remember the result for the list."""
        before = _identity([place, *self.files(place)])
        report = wl.verify(place)
        corrupt = [{"name": t.name, "detail": t.detail} for t in report.tensors if t.status == "corrupt"]
        counts = Counter(t.status for t in report.tensors)
        result: Json = {
            "ok": report.ok,
            "counts": {status: counts.get(status, 0) for status in ("ok", "corrupt", "unchecked")},
            "corrupt": corrupt[:1000],
            "problems": [p.replace(f"{self._root}/", "") for p in report.problems],
            "bytes": report.nbytes,
            "at": _iso(datetime.now(timezone.utc).timestamp()),
        }
        with self._lock:
            self._verified[place] = (before, {"ok": report.ok, "at": result["at"]})
            self._verified.move_to_end(place)
            while len(self._verified) > _MAX_VERIFIED:
                self._verified.popitem(last=False)
        return result

    # --- memory ---
    def _verdict(self, place: Path) -> Json | None:
        with self._lock:
            known = self._verified.get(place)
        if known is None:
            return None
        try:
            same = known[0] == _identity([place, *self.files(place)])
        except (WeightliftError, OSError):
            same = False
        return known[1] if same else None

    def _remembered(self, kind: str, place: Path, make: Callable[[Path], Json]) -> Json:
        key = (kind, place)
        with self._lock:
            known = self._cache.get(key)
        if known is not None and known[0] == _identity([place, *map(Path, known[1]["_files"])]):
            return known[1]
        result = make(place)
        identity = _identity([place, *map(Path, result["_files"])])
        with self._lock:
            self._drop(key)
            self._cache[key] = (identity, result)
            self._held += len(result.get("table", ()))
            while len(self._cache) > _MAX_CACHED or (self._held > _MAX_CACHED_TENSORS and len(self._cache) > 1):
                self._drop(next(iter(self._cache)))
        return result

    def _drop(self, key: tuple[str, Path]) -> None:
        """Forget a description, if there is one; the lock is held."""
        known = self._cache.pop(key, None)
        if known is not None:
            self._held -= len(known[1].get("table", ()))


def _identity(files: list[Path]) -> Identity:
    """What changes when one of the files does."""
    result = []
    for file in files:
        try:
            result.append(etag_of(file.stat()))
        except OSError:
            result.append("")
    return tuple(result)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


# --- what is computed -----------------------------------------------------------------------------
def _summary(place: Path) -> Json:
    with wl.open(place, memory="arena") as weights:
        return _summary_of(weights)


def _summary_of(weights: wl.Weights) -> Json:
    source = weights.source
    table, dtypes = source.table, Counter[str]()
    for row in range(len(table)):
        dtypes[str(table.dtype(row))] += 1
    checked = int((table.check_kind > 0).sum())
    state = "none" if not checked else "all" if checked == len(table) else "some"
    files = [Path(f) for f in weights.files]
    return {
        "format": source.layout.extra.get("format") or source.layout.format,
        "container": source.layout.format,
        "tensors": len(table),
        "bytes": sum(f.stat().st_size for f in files),
        "dtypes": dict(dtypes.most_common()),
        "checksums": "damaged" if source.layout.damaged else state,
        "files": [{"name": f.name, "bytes": f.stat().st_size} for f in files],
        "_files": [str(f) for f in files],
    }


def _details(place: Path) -> Json:
    with wl.open(place, memory="arena") as weights:
        layout = weights.source.layout
        tensors = []
        for name, view in weights.items():
            tensors.append(
                {
                    "name": name,
                    "dtype": str(view.dtype),
                    "shape": list(view.shape),
                    "bytes": byte_size(view.dtype, view.shape) or view.stored_nbytes,
                    "stored": view.stored,
                    "stored_bytes": view.stored_nbytes,
                    "checksum": view.checksum,
                }
            )
        keys = ("generatedBy", "convertedBy", "trainingConfig", "signature")
        facts = {k: layout.extra[k] for k in keys if layout.extra.get(k) is not None}
        return {
            **_summary_of(weights),
            "table": tensors,
            "metadata": dict(layout.metadata),
            "facts": facts,
            "topology": topology_summary(layout.extra.get("modelTopology")),
        }


def _histogram(place: Path, weight: str, bins: int) -> Json:
    with wl.open(place, memory="arena", verify=False) as weights:
        if weight not in weights:
            raise NotFoundError(f"there is no tensor {weight!r}")
        view = weights[weight]
        if str(view.dtype) == "string":
            raise MismatchError("strings have no histogram", tensor=weight)
        statistics, histogram = summarize(view.row, bins=bins)
        result: Json = {"name": weight, "dtype": str(view.dtype), "shape": list(view.shape), "_files": weights.files}
        if statistics is not None:
            names = ("elements", "zeros", "nans", "positive_infinities", "negative_infinities", "finite")
            result["statistics"] = {n: getattr(statistics, n) for n in names} | {
                n: _number(getattr(statistics, n)) for n in ("minimum", "maximum", "mean", "std")
            }
        if histogram is not None:
            edges = [_number(e) for e in histogram.edges.tolist()]
            result["histogram"] = {"edges": edges, "counts": histogram.counts.tolist()}
        return result


def _number(value: Any) -> Any:
    """A number as JSON can have it; complex ones as [real, imaginary]."""
    if isinstance(value, complex):
        return [_number(value.real), _number(value.imag)]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


# --- topologies -----------------------------------------------------------------------------------
def topology_summary(topology: Any) -> Json | None:
    """What a person wants to know of a topology: layers of a Keras config, operations of a GraphDef."""
    if not isinstance(topology, Mapping):
        return None
    nodes = topology.get("node")
    if isinstance(nodes, list):
        named = [n for n in nodes if isinstance(n, Mapping)]
        ops = Counter(str(n.get("op")) for n in named)
        inputs = [str(n.get("name")) for n in named if n.get("op") == "Placeholder"]
        return {"kind": "graph", "nodes": len(nodes), "inputs": inputs[:20], "ops": dict(ops.most_common(200))}
    config = topology.get("model_config", topology)
    if not isinstance(config, Mapping):
        return None
    inner = config.get("config")
    layers = inner.get("layers") if isinstance(inner, Mapping) else inner
    rows = [_layer(layer) for layer in layers if isinstance(layer, Mapping)] if isinstance(layers, list) else []
    name = inner.get("name") if isinstance(inner, Mapping) else None
    return {
        "kind": "layers",
        "class": str(config.get("class_name")),
        "name": str(name) if name is not None else None,
        "layers": rows[:_MAX_LAYERS],
        "layer_count": len(rows),
    }


_TELLING = ("units", "filters", "kernel_size", "pool_size", "rate", "activation", "batch_input_shape", "input_dim")


def _layer(layer: Mapping[str, Any]) -> Json:
    config = layer.get("config")
    config = config if isinstance(config, Mapping) else {}
    facts = {k: config[k] for k in _TELLING if isinstance(config.get(k), (str, int, float, list))}
    inner = config.get("layers")
    if isinstance(inner, list):
        facts["layers"] = len(inner)
    return {"name": str(layer.get("name") or config.get("name")), "class": str(layer.get("class_name")), "facts": facts}
