"""``manifest.json``: what a committed step consists of. Its presence, under the step's own name, is the commit.

It repeats where each tensor lies and its checksums, so that a shard that was exchanged or cut is noticed, and it has
a digest over itself. Specification: docs/checkpoints.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from weightlift import _json
from weightlift._checksum import crc32c
from weightlift._dtypes import byte_size, from_name
from weightlift.errors import FormatError, UnsupportedFeatureError, WeightliftError
from weightlift.formats._safetensors_encoded import Encoded, check_encoded, encoded_json, parse_encoded
from weightlift.formats._safetensors_pieces import Pieces, parse_pieces, pieces_json

if TYPE_CHECKING:
    from weightlift.checkpoint._folders import Folder

__all__ = ["INDEX", "MANIFEST", "Manifest", "StoredFile", "StoredTensor", "encoded_of", "read_manifest", "with_encoded"]

MANIFEST = "manifest.json"
INDEX = "model.safetensors.index.json"
FORMAT, VERSION = "weightlift-checkpoint", 1
MAX_BYTES = 1 << 30
_MOST = 1 << 62


@dataclass(frozen=True)
class StoredFile:
    """A shard of a step: its size in bytes; ``since`` is the step that wrote it."""

    nbytes: int
    since: int


class StoredTensor(NamedTuple):
    """Where a tensor lies, in which shard from which byte, and the checksums of its bytes (CRC-32 if it is known).

    ``encoded`` says what the bytes are where they are compressed.
    """

    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    nbytes: int
    crc32c: int
    crc32: int | None = None
    encoded: Encoded | None = None

    @property
    def values(self) -> StoredTensor | Encoded:
        """What was saved: type, shape, bytes and checksums before they were compressed."""
        return self if self.encoded is None else self.encoded

    def same_values(self, other: StoredTensor) -> bool:
        """Whether both were made of the same bytes, as far as 64 bits of checksums tell."""
        a, b = self.values, other.values
        return a.crc32 is not None and (a.dtype, a.shape, a.nbytes, a.crc32c, a.crc32) == (
            b.dtype, b.shape, b.nbytes, b.crc32c, b.crc32
        )  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """What a step consists of.

    Attributes:
        step: Its number.
        created: Seconds since 1970 (UTC) when it was committed, by the clock of that machine.
        index_crc32c: Of the index, which holds the state's plain values.
        files: The shards, by name.
        tensors: By name.
        metrics: As given to ``save``.
        metadata: As given to the checkpointer.
        world_size: How many processes wrote it.
        pieces: What of ``tensors`` are pieces of others.
        identity: Of the save, by which the processes of one know it.
    """

    step: int
    created: float
    index_crc32c: int
    files: Mapping[str, StoredFile] = field(default_factory=dict)
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    world_size: int = 1
    pieces: Mapping[str, Pieces] = field(default_factory=dict)
    identity: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of all shards, linked ones too."""
        return sum(file.nbytes for file in self.files.values())

    @property
    def tensor_count(self) -> int:
        """How many tensors it holds, those in pieces once each."""
        return len(self.tensors) - sum(len(of.begins) - 1 for of in self.pieces.values())

    def to_json(self) -> bytes:
        """The file's bytes."""
        numbers = {name: number for number, name in enumerate(self.files)}
        document = {
            "format": FORMAT,
            "version": VERSION,
            "step": self.step,
            "created": self.created,
            "world_size": self.world_size,
            "identity": self.identity,
            "metrics": {name: _number(value) for name, value in self.metrics.items()},
            "metadata": {},
            "index_crc32c": self.index_crc32c,
            "files": [[name, file.nbytes, file.since] for name, file in self.files.items()],
            "tensors": [
                [name, t.dtype, list(t.shape), numbers[t.file], t.offset, t.nbytes, t.crc32c, t.crc32]
                for name, t in self.tensors.items()
            ],
            "pieces": pieces_json(self.pieces),
            "encoded": encoded_json(encoded_of(self.tensors)),
        }
        try:
            document["metadata"] = json.loads(json.dumps(dict(self.metadata)))  # keys are text, which sorts otherwise
            text = _sorted(document)
        except (TypeError, ValueError, RecursionError) as error:
            raise UnsupportedFeatureError(f"metadata of the checkpointer cannot be written as JSON: {error}") from None
        return b'{"digest":"%08x",' % crc32c(text) + text[1:] + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """The manifest; FormatError for bytes that break its rules, or are not those that were written."""
        raw = _json.loads(data, what="the manifest", max_bytes=MAX_BYTES)
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise FormatError(f"not a checkpoint's manifest: its 'format' is not {FORMAT!r}")
        if raw.get("version") != VERSION:
            raise UnsupportedFeatureError(f"a manifest of version {str(raw.get('version'))[:20]}; known is {VERSION}")
        stored = raw.pop("digest", None)
        if stored != _digest(raw):
            raise FormatError(f"the manifest was changed or damaged: its digest is not {str(stored)[:20]!r}")
        try:
            return cls._of(raw)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"malformed manifest: {type(error).__name__} {error}") from None

    @classmethod
    def _of(cls, raw: Mapping[str, Any]) -> Manifest:
        names = [_file_name(name) for name, _, _ in raw["files"]]
        files = {
            name: StoredFile(_count(nbytes, "bytes"), _count(since, "a step"))
            for name, (_, nbytes, since) in zip(names, raw["files"], strict=True)
        }
        if len(files) != len(names):
            raise FormatError("the manifest names a file twice")
        tensors: dict[str, StoredTensor] = {}
        for name, dtype, shape, number, offset, nbytes, crc32c_, crc32 in raw["tensors"]:
            if not isinstance(name, str) or name in tensors:
                raise FormatError(f"the manifest has the tensor {str(name)[:80]!r} twice, or it is no text")
            tensor = StoredTensor(
                str(dtype), tuple(_count(n, "a length") for n in shape), names[_count(number, "a file")],
                _count(offset, "an offset"), _count(nbytes, "bytes"), _checksum(crc32c_),
                None if crc32 is None else _checksum(crc32),
            )  # fmt: skip
            _check_tensor(name, tensor, files[tensor.file].nbytes)
            tensors[name] = tensor
        tensors |= with_encoded(tensors, raw.get("encoded", {}))
        metrics, metadata = raw["metrics"], raw["metadata"]
        if not (isinstance(metrics, dict) and isinstance(metadata, dict)):
            raise FormatError("malformed manifest: 'metrics' or 'metadata' is not an object")
        return cls(
            _count(raw["step"], "a step"), _seconds(raw["created"]), _checksum(raw["index_crc32c"]), files, tensors,
            {str(name): float(value) for name, value in metrics.items()}, metadata,
            max(1, _count(raw["world_size"], "a number of processes")), _pieces(raw.get("pieces", {}), tensors),
            str(raw.get("identity", "")),
        )  # fmt: skip


def read_manifest(folder: Folder) -> Manifest:
    """The manifest in a step's folder; FormatError when it is damaged, or not there."""
    path = f"{folder.url}/{MANIFEST}"
    try:
        return Manifest.from_json(folder.read(MANIFEST, MAX_BYTES))
    except FileNotFoundError:
        raise FormatError("the step has no manifest: something has removed it", path=path) from None
    except WeightliftError as error:
        raise error.locate(path=path) from None


def encoded_of(tensors: Mapping[str, StoredTensor]) -> dict[str, Encoded]:
    """Those that are compressed."""
    return {name: tensor.encoded for name, tensor in tensors.items() if tensor.encoded is not None}


def with_encoded(tensors: Mapping[str, StoredTensor], raw: Any) -> dict[str, StoredTensor]:
    """Those that are compressed, with what they hold; FormatError where they cannot."""
    found = {}
    for name, encoded in parse_encoded(raw).items():
        if name not in tensors:
            raise FormatError("it is said to be compressed, and not in the manifest", tensor=name)
        try:
            check_encoded(encoded, tensors[name].dtype, tensors[name].shape)
        except FormatError as error:
            raise error.locate(tensor=name) from None
        found[name] = tensors[name]._replace(encoded=encoded)
    return found


def _pieces(raw: Any, tensors: Mapping[str, StoredTensor]) -> dict[str, Pieces]:
    pieces = parse_pieces(raw)
    for name, of in pieces.items():
        missing = next((piece for piece in of.begins if piece not in tensors), None)
        if missing is not None:
            raise FormatError(f"its piece {missing[:80]!r} is not in the manifest", tensor=name)
    return pieces


def _check_tensor(name: str, tensor: StoredTensor, file_bytes: int) -> None:
    """Size against shape, and range against file."""
    wanted = byte_size(from_name(tensor.dtype), tensor.shape)
    if tensor.nbytes != wanted:
        raise FormatError(f"{tensor.nbytes} bytes are said to hold {tensor.dtype} of {tensor.shape}", tensor=name)
    if tensor.offset + tensor.nbytes > file_bytes:
        raise FormatError(
            f"it is said to end at byte {tensor.offset + tensor.nbytes} of {tensor.file}, which has {file_bytes}",
            tensor=name,
        )


def _digest(document: Mapping[str, Any]) -> str:
    return f"{crc32c(_sorted(document)):08x}"


def _sorted(document: Mapping[str, Any]) -> bytes:
    """What the digest is taken of: JSON with sorted keys, in ASCII."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _number(value: Any) -> float | str:
    """A metric; what JSON has no number for as text, which ``float`` reads."""
    number = float(value)
    return number if math.isfinite(number) else repr(number)


def _count(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value < _MOST:
        raise FormatError(f"malformed manifest: {str(value)[:40]!r} for {what}")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float):  # text may be "inf", which is no JSON
        raise FormatError(f"malformed manifest: {str(value)[:40]!r} for a time")
    return float(value)


def _checksum(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise FormatError(f"malformed manifest: {str(value)[:40]!r} for a checksum")
    return value


def _file_name(name: Any) -> str:
    plain = isinstance(name, str) and name.endswith(".safetensors") and not name.startswith(".")
    if not plain or any(c in name for c in "/\\:\0"):
        raise FormatError(f"the manifest names the file {str(name)[:80]!r}; only plain names of shards are accepted")
    return str(name)
