"""The JSON of TensorFlow.js: what ``model.json`` says, checked and understood, and how it is written.

Nothing here reads a weight file. See docs/formats/tfjs.md for the rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from json.encoder import encode_basestring, encode_basestring_ascii
from math import isfinite, prod
from typing import Any, NamedTuple

from weightlift._artifacts import WRITERS
from weightlift._checksum import crc32c, from_hex
from weightlift._dtypes import DTYPES, STRING, DType
from weightlift._steps import AffineDecode, Cast, Step, UpperHalf
from weightlift.errors import FormatError, UnsafeContentError, UnsupportedFeatureError

__all__ = [
    "RECORD",
    "WIDENED",
    "Document",
    "Entries",
    "Record",
    "Weight",
    "dump",
    "parse",
    "parse_weight",
    "parse_weights",
    "shard_path",
]

RECORD = "weightlift"
"""Our own key in the document; TensorFlow.js ignores keys that it does not know."""

VERSION = 1
MAX_RANK = 64
"""NumPy's own limit."""

PLAIN = ("float32", "int32", "bool", "complex64", "uint8", "uint16")
"""Stored as they are. The Python converter writes uint8 and uint16 too, which TensorFlow.js itself cannot read."""

QUANTIZED = {"uint8": ("float32", "int32"), "uint16": ("float32", "int32"), "float16": ("float32",)}
"""Stored types of quantised weights, and the dtypes each may stand for."""

WIDENED = {
    "bfloat16": "float32",
    "float8_e4m3fn": "float32",
    "float8_e4m3fnuz": "float32",
    "float8_e5m2": "float32",
    "float8_e5m2fnuz": "float32",
    "float8_e8m0fnu": "float32",
    "int8": "int32",
    "int16": "int32",
    "uint8": "int32",
    "uint16": "int32",
}
"""dtypes that TensorFlow.js lacks and the ones that hold their values exactly."""

MODEL_KEYS = WRITERS["tfjs-node"]
"""Keys of a document in their order on the disk."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_INTEGRAL = re.compile(r"\.0(?=[,\]}])")
_LARGE = re.compile(r"-?\d(?:\.\d+)?e\+(?:1[6-9]|20)(?=[,\]}])")


# --- reading --------------------------------------------------------------------------------------
class Weight(NamedTuple):
    """One manifest entry, understood.

    Attributes:
        name: Its name.
        shape: In elements.
        dtype: Element type once decoded.
        elements: How many, exact.
        item: Bytes a stored element takes; 0 for strings, whose sizes are known only to the data.
        steps: From stored elements to decoded ones.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    elements: int
    item: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Record:
    """Our own key: what TensorFlow.js has no room for.

    Attributes:
        crc32c: CRC-32C of each tensor's stored bytes, by name.
        dtypes: The type a tensor had before it was widened, by name.
        structure: What was saved, see ``_tree``.
        damaged: Why the document does not match its digest, if it does not.
    """

    crc32c: Mapping[str, int] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    structure: Any = None
    damaged: str | None = None


@dataclass(frozen=True)
class Document:
    """A ``model.json`` or a bare manifest.

    Attributes:
        groups: (paths as written, raw entries) of each group.
        extra: Every other key, ours aside.
        record: Ours.
    """

    groups: Sequence[tuple[list[Any], list[Any]]]
    extra: Mapping[str, Any]
    record: Record


def parse(value: Any) -> Document:
    """The document that a JSON value is; FormatError says which rule it breaks."""
    if isinstance(value, list):
        return Document(tuple(_groups(value)), {}, Record())
    if not isinstance(value, dict):
        raise FormatError(f"the JSON is {_kind(value)}, not a model.json object or a weights manifest")
    if "modelTopology" not in value and "weightsManifest" not in value:
        keys = ", ".join(map(repr, list(value)[:5])) or "nothing"
        raise FormatError(f"the JSON contains neither model topology nor weights manifest; it has {keys}")
    if not isinstance(value.get("modelTopology"), (dict, type(None))):
        raise FormatError(f"modelTopology is {_kind(value['modelTopology'])}, not a JSON object")
    manifest = value.get("weightsManifest")
    if not isinstance(manifest, (list, type(None))):
        raise FormatError(f"weightsManifest is {_kind(manifest)}, not a list of groups")
    extra = {k: v for k, v in value.items() if k not in ("weightsManifest", RECORD)}
    return Document(tuple(_groups(manifest or [])), extra, _record(value))


def _groups(manifest: list[Any]) -> Iterator[tuple[list[Any], list[Any]]]:
    for i, group in enumerate(manifest, 1):
        if not isinstance(group, dict):
            raise FormatError(f"group {i} of the weights manifest is {_kind(group)}, not an object")
        paths, entries = group.get("paths"), group.get("weights")
        if entries is None and paths is not None:
            # TensorFlow.js writes this for a model that it saved without weight specs: nothing is described.
            continue
        if not isinstance(paths, list) or not isinstance(entries, list):
            key, items = ("weights", entries) if isinstance(paths, list) else ("paths", paths)
            raise FormatError(f"group {i} of the weights manifest: {key!r} is {_kind(items)}, not a list")
        yield paths, entries


def shard_path(path: Any, group: int) -> str:
    """The relative name that a manifest's path stands for; UnsafeContentError for one that leads elsewhere.

    Percent signs are literal, as for tfjs-node; ``./`` is dropped.
    """
    if not isinstance(path, str) or not path:
        raise FormatError(f"group {group} names a weight file {path!r}: not a file name")
    parts = [p for p in path.split("/") if p not in ("", ".")]
    reason = None
    if path.startswith("/"):
        reason = "it is absolute"
    elif "\\" in path or "\0" in path:
        reason = "it holds a backslash or a NUL"
    elif ".." in parts:
        reason = "it leads out of the directory"
    elif _SCHEME.match(path):
        reason = "it is a URL or has a drive letter"
    if reason:
        raise UnsafeContentError(f"group {group} names the weight file {path!r}, which is refused: {reason}")
    if not parts or path.endswith("/"):
        raise FormatError(f"group {group} names a weight file {path!r}: not a file name")
    return "/".join(parts)


def parse_weight(raw: Any, group: int, index: int, originals: Mapping[str, str]) -> Weight:
    """One entry of a group's ``weights``, by the decode rules of TensorFlow.js.

    Args:
        raw: The JSON value.
        group: Number of its group, from 1, for messages.
        index: Its position there, from 1.
        originals: The dtypes that our own record gives, by name.

    Raises:
        FormatError: Malformed.
        UnsupportedFeatureError: A dtype or quantisation that TensorFlow.js does not have.
    """
    if not isinstance(raw, dict):
        raise FormatError(f"weight {index} of group {group} is {_kind(raw)}, not an object")
    name = raw.get("name")
    if not isinstance(name, str) or not name:
        raise FormatError(f"weight {index} of group {group} has no name: {name!r}")
    shape, original = _shape(raw.get("shape"), name), originals.get(name)
    dtype = raw.get("dtype")
    quantization = raw.get("quantization")
    if quantization is not None:
        stored, decoded, steps = _quantized(quantization, dtype, name, original)
    elif dtype == "string":
        return Weight(name, shape, STRING, prod(shape), 0, ())
    elif dtype in PLAIN:
        stored, decoded, steps = dtype, dtype, ()
    else:
        raise UnsupportedFeatureError(
            f"unsupported dtype {dtype!r}; TensorFlow.js has float32, int32, bool, string and complex64", tensor=name
        )
    if original is not None and original != decoded:
        if quantization is not None or WIDENED.get(original) != decoded:
            raise FormatError(f"the recorded dtype {original!r} does not go with {decoded!r} as stored", tensor=name)
        exact = original == "bfloat16"
        decoded, steps = original, (UpperHalf() if exact else Cast(stored, original),)
    return Weight(name, shape, DTYPES[decoded], prod(shape), DTYPES[stored].bits // 8, steps)


def parse_weights(entries: Sequence[Any], group: int, originals: Mapping[str, str]) -> list[Weight]:
    """All entries of a group, see ``parse_weight``.

    Models have few shapes and many weights: what follows from a dtype and a shape is worked out once for each.
    """
    known: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    weights: list[Weight] = []
    for index, raw in enumerate(entries, 1):
        key = None
        if type(raw) is dict and len(raw) == 3 and _is_plain(raw) and raw["name"] not in originals:
            key = (raw["dtype"], *raw["shape"])
            alike = known.get(key)
            if alike is not None and raw["name"]:
                weights.append(Weight(raw["name"], *alike))
                continue
        weights.append(parse_weight(raw, group, index, originals))
        if key is not None:
            known[key] = weights[-1][1:]
    return weights


def _is_plain(entry: Mapping[str, Any]) -> bool:
    """Whether an entry has a name, a shape of integers and a dtype."""
    shape = entry.get("shape")
    return (
        type(entry.get("name")) is str
        and type(entry.get("dtype")) is str
        and type(shape) is list
        and set(map(type, shape)) <= {int}
    )


def _is_affine(quantization: Any) -> bool:
    """Whether it is what a save makes of uint8 and uint16, in its order."""
    if type(quantization) is not dict or (*quantization,) != ("dtype", "min", "scale", "original_dtype"):
        return False
    stored, low, scale, original = quantization.values()
    texts, numbers = {type(stored), type(original)} == {str}, {type(low), type(scale)} == {float}
    return texts and numbers and isfinite(low) and isfinite(scale)


def _shape(raw: Any, name: str) -> tuple[int, ...]:
    if isinstance(raw, list):
        if len(raw) > MAX_RANK:
            raise UnsupportedFeatureError(f"{len(raw)} dimensions; at most {MAX_RANK} are handled", tensor=name)
        for size in raw:
            if type(size) is not int or not 0 <= size < 1 << 63:
                break
        else:
            return tuple(raw)
    raise FormatError(f"the shape is {str(raw)[:80]}, not a list of non-negative integers", tensor=name)


def _quantized(raw: Any, dtype: Any, name: str, original: str | None) -> tuple[str, str, tuple[Step, ...]]:
    """(stored type, decoded type, steps) of a quantised weight."""
    stored = raw.get("dtype") if isinstance(raw, dict) else None
    if not isinstance(stored, str) or stored not in QUANTIZED:
        raise UnsupportedFeatureError(
            f"unknown quantization {str(stored or raw)[:80]!r}; supported are {', '.join(QUANTIZED)}", tensor=name
        )
    if dtype not in QUANTIZED[stored]:
        raise UnsupportedFeatureError(
            f"quantized with {stored}, which goes with {' and '.join(QUANTIZED[stored])}, not with {dtype!r}",
            tensor=name,
        )
    if stored == "float16":
        if original == "float16":
            return "float16", "float16", ()
        return "float16", "float32", (Cast("float16", "float32"),)
    scale, minimum = raw.get("scale"), raw.get("min")
    for key, number in (("scale", scale), ("min", minimum)):
        if type(number) not in (int, float) or not _finite(number):
            shown = json.dumps(number) if isinstance(number, float) else repr(number)
            raise FormatError(f"quantized with {stored}: {key!r} is {shown}, not a finite number", tensor=name)
    return stored, dtype, (AffineDecode(stored, dtype, float(scale), float(minimum)),)


def _finite(number: float) -> bool:
    try:
        return isfinite(number)
    except OverflowError:  # an integer beyond float64
        return False


def _kind(value: Any) -> str:
    names = {type(None): "missing or null", dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")


# --- our own key ----------------------------------------------------------------------------------
def _record(document: Mapping[str, Any]) -> Record:
    raw = document.get(RECORD)
    if RECORD not in document:
        near = next((k for k in document if _one_letter_apart(k, RECORD)), None)
        return Record() if near is None else Record(damaged=f"the key {RECORD!r} has become {near!r}")
    if not isinstance(raw, dict) or type(raw.get("version")) is not int:
        raise FormatError(f"{RECORD!r} is not an object with a version")
    if raw["version"] != VERSION:
        raise UnsupportedFeatureError(
            f"{RECORD!r} is of version {raw['version']}, this library knows version {VERSION}; use a newer one"
        )
    digest = raw.get("digest")
    if digest is None:
        damaged = "the JSON has lost its digest: it was edited or damaged"
    elif digest not in (_digest(document), _digest(document, first=True)):
        damaged = "the JSON does not match its digest: it was edited or damaged"
    else:
        damaged = None
    checks, dtypes = raw.get("crc32c", {}), raw.get("dtypes", {})
    sums: list[Any] = list(checks.values()) if isinstance(checks, dict) else [None]
    fit = not set(map(type, sums)) - {str} and not set(map(len, sums)) - {8}
    values = from_hex("".join(sums), len(sums)) if fit else None
    if values is None:
        raise FormatError(f"{RECORD!r}: 'crc32c' is not a table of 8 hexadecimal digits each")
    if not isinstance(dtypes, dict) or not all(isinstance(v, str) for v in dtypes.values()):
        raise FormatError(f"{RECORD!r}: 'dtypes' is not a table of dtype names")
    return Record(dict(zip(checks, values.tolist(), strict=True)), dtypes, raw.get("structure"), damaged)


def _one_letter_apart(a: str, b: str) -> bool:
    """A damaged key must not pass for a file that never had checksums."""
    return len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) == 1


def _digest(document: Mapping[str, Any], *, first: bool = False) -> str:
    """CRC-32C of the document's canonical text, our digest itself left out.

    Canonical: keys sorted, no spaces, and whole numbers as JavaScript writes them (1.0 as 1, 1e+20 with all digits), so
    that a tool that re-indents the JSON or passes it through JavaScript does not look like damage. JavaScript also
    makes 0 of -0.0, which therefore is never written. ``first``: as the first files had it, with large numbers as in
    Python.
    """
    record = {k: v for k, v in document[RECORD].items() if k != "digest"}
    text = _INTEGRAL.sub("", _document_text({**document, RECORD: record}, canonical=True))
    if not first:
        text = _LARGE.sub(lambda number: f"{Decimal(number[0]):f}", text)
    return f"{crc32c(text.encode()):08x}"


# --- writing --------------------------------------------------------------------------------------
class Entries(list[dict[str, Any]]):
    """A group's ``weights`` that stay as they are: a save over an older model writes its document twice."""

    def __init__(self, entries: Iterable[dict[str, Any]]) -> None:
        super().__init__(entries)
        self.texts: dict[bool, str] = {}


def _document_text(document: Mapping[str, Any], *, canonical: bool) -> str:
    """The JSON of a document, as ``json.dumps`` has it but sooner: entries of weights are all alike.

    Canonical: keys sorted, ASCII. Else in order, as UTF-8 holds it, and without NaN.
    """
    encoder = json.JSONEncoder(ensure_ascii=canonical, sort_keys=canonical, separators=(",", ":"), allow_nan=canonical)
    dumps, quote = encoder.encode, encode_basestring_ascii if canonical else encode_basestring

    def entry(raw: Any) -> str:
        keys = (*raw,) if type(raw) is dict else ()
        if keys[:3] != ("name", "shape", "dtype") or not _is_plain(raw):
            return dumps(raw)
        name, shape, dtype = quote(raw["name"]), str(raw["shape"]).replace(" ", ""), quote(raw["dtype"])
        more = ""
        if len(keys) > 3:
            if keys[3:] != ("quantization",) or not _is_affine(raw["quantization"]):
                return dumps(raw)
            stored, low, scale, original = raw["quantization"].values()
            stored, low, scale, original = quote(stored), repr(low), repr(scale), quote(original)
            if canonical:
                more = f',"quantization":{{"dtype":{stored},"min":{low},"original_dtype":{original},"scale":{scale}}}'
            else:
                more = f',"quantization":{{"dtype":{stored},"min":{low},"scale":{scale},"original_dtype":{original}}}'
        if canonical:
            return f'{{"dtype":{dtype},"name":{name}{more},"shape":{shape}}}'
        return f'{{"name":{name},"shape":{shape},"dtype":{dtype}{more}}}'

    def members(value: Mapping[str, Any], key: str, text: Callable[[Any], str]) -> str:
        keys = sorted(value) if canonical else value
        return ",".join([f"{dumps(k)}:{text(value[k]) if k == key else dumps(value[k])}" for k in keys]).join("{}")

    def entries(raw: Any) -> str:
        if not isinstance(raw, Entries):
            return listed(raw, entry)
        if canonical not in raw.texts:
            raw.texts[canonical] = listed(raw, entry)
        return raw.texts[canonical]

    def group(raw: Any) -> str:
        return members(raw, "weights", entries) if isinstance(raw, dict) else dumps(raw)

    def listed(raw: Any, text: Callable[[Any], str]) -> str:
        return ",".join(map(text, raw)).join("[]") if isinstance(raw, list) else dumps(raw)

    return members(document, "weightsManifest", lambda raw: listed(raw, group))


def dump(document: Mapping[str, Any], record: Mapping[str, Any] | None, first: Sequence[str] = MODEL_KEYS) -> bytes:
    """The text of a document, compact; ``first`` are the keys that go first, ``record`` goes last, with the digest."""
    ordered = {k: document[k] for k in first if k in document}
    ordered |= {k: v for k, v in document.items() if k not in ordered}
    if record is not None:
        ordered[RECORD] = {"version": VERSION, **record}
        ordered[RECORD]["digest"] = _digest(ordered)
    try:
        return _document_text(ordered, canonical=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise _not_json("model.json", error) from None


def compact(value: Any, what: str) -> str:
    """JSON as JavaScript's ``JSON.stringify`` has it; UnsupportedFeatureError for what JSON cannot hold."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise _not_json(what, error) from None
    return text


def _not_json(what: str, error: Exception) -> UnsupportedFeatureError:
    return UnsupportedFeatureError(f"{what} cannot be written as JSON: {error}")
