"""What the ``model.json`` of an upload promises of its weight files, and the checksums that a stored model gets.

The JSON is understood by the library's own TensorFlow.js format; nothing is parsed here.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from weightlift import _json
from weightlift._layout import KINDS
from weightlift._plan import hash_rows
from weightlift._source import open_source
from weightlift._verify import verify_url
from weightlift.errors import ChecksumError, FormatError, UnsafeContentError
from weightlift.formats._tfjs import MAX_DEPTH
from weightlift.formats._tfjs_manifest import RECORD, dump, parse, parse_weight, shard_path
from weightlift.server._names import MODEL_JSON, check_file

__all__ = ["Promise", "check_safe", "seal"]


class Promise:
    """The weight files that a document names, and how many bytes each group of them must have.

    Args:
        data: The text of ``model.json``.

    Raises:
        FormatError: It breaks the rules of the format.
        UnsafeContentError: It names a file that is refused.
    """

    def __init__(self, data: bytes) -> None:
        """See the class."""
        value = _json.loads(data, what=MODEL_JSON, max_bytes=len(data), max_depth=MAX_DEPTH)
        if not isinstance(value, dict):
            raise FormatError("model.json is not a JSON object")
        document = parse(value)
        self.paths: dict[str, int] = {}
        """Relative paths of the weight files, and the number of the group of each."""
        self._bounds: list[tuple[int, bool]] = []
        self._arrived: list[int] = []
        for number, (paths, weights) in enumerate(document.groups, 1):
            for path in (check_file(shard_path(p, number)) for p in paths):
                if path in self.paths or path == MODEL_JSON:
                    raise FormatError(f"the manifest lists the weight file {path!r} twice, or as model.json")
                self.paths[path] = number - 1
            parsed = [parse_weight(w, number, i, document.record.dtypes) for i, w in enumerate(weights, 1)]
            least = sum(w.elements * (w.item or 4) for w in parsed)
            self._bounds.append((least, all(w.item for w in parsed)))
            self._arrived.append(0)
        both = {str(parent) for p in self.paths for parent in PurePosixPath(p).parents} & set(self.paths)
        if both:
            raise FormatError(f"the manifest uses {min(both)!r} as a file and as a directory")

    def find(self, *names: str) -> str | None:
        """The manifest's path that a part with these names stands for; None for none, or for more than one."""
        plain = [n.removeprefix("./") for n in names if n]
        for name in plain:
            if name in self.paths:
                return name
        for name in plain:
            found = [p for p in self.paths if p.rpartition("/")[2] == name.rpartition("/")[2]]
            if len(found) == 1:
                return found[0]
        return None

    def arrive(self, path: str, nbytes: int) -> None:
        """Count bytes of a weight file; FormatError as soon as they are more than its group has room for."""
        group = self.paths[path]
        self._arrived[group] += nbytes
        bound, exact = self._bounds[group]
        if exact and self._arrived[group] > bound:
            raise FormatError(
                f"group {group + 1}: its weights take {bound} bytes, but more than that arrive in {path!r}"
            )

    def check_complete(self) -> None:
        """FormatError for a group of which fewer bytes arrived than its weights take."""
        for number, ((bound, exact), arrived) in enumerate(zip(self._bounds, self._arrived, strict=True), 1):
            if arrived < bound:
                least = "" if exact else "at least "
                raise FormatError(f"group {number}: its weights take {least}{bound} bytes, but {arrived} arrived")


def seal(folder: Path, *, checksums: bool) -> dict[str, Any]:
    """Check a complete model directory as a whole; give it checksums if it has none.

    A model that comes with checksums is verified by them.

    Returns:
        How many tensors and bytes it has.

    Raises:
        FormatError: The files are no model.
        ChecksumError: They are not what was sent.
    """
    place = folder / MODEL_JSON
    source = open_source(place, format="tfjs")
    table = source.table
    if source.layout.damaged:
        raise ChecksumError(source.layout.damaged)
    if table.check_kind.any():
        report = verify_url(place, format="tfjs")
        if not report.ok:
            bad = next((t for t in report.tensors if t.status == "corrupt"), None)
            raise ChecksumError("the weights do not match their checksum", tensor=bad.name if bad else None)
    elif checksums and len(table):
        data = place.read_bytes()
        document = _json.loads(data, what=MODEL_JSON, max_bytes=len(data), max_depth=MAX_DEPTH)
        table.check_kind[:] = KINDS.index("crc32c")
        computed = hash_rows(source.layout, source.readers())
        record = {k: v for k, v in document.get(RECORD, {}).items() if k not in ("version", "digest")}
        record["crc32c"] = {name: f"{computed[i]:08x}" for i, name in enumerate(table.names)}
        place.write_bytes(dump(document, record))
    nbytes = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    return {"tensors": len(table), "bytes": nbytes}


def check_safe(name: str) -> None:
    """UnsafeContentError for a part's name that could not be a file's."""
    if "\0" in name or "\\" in name or name.startswith("/") or ".." in name.split("/"):
        raise UnsafeContentError(f"the part {name[:200]!r} is refused: its name leads out of the model")
