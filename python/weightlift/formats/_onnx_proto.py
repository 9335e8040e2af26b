"""The parts of an ONNX model that hold its initialisers, walked without protobuf: what else is there is skipped.

Specification: github.com/onnx/onnx/blob/main/onnx/onnx.proto; protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from weightlift.errors import FormatError
from weightlift.formats._pickle_file import PickledFile
from weightlift.protocols import Reader

__all__ = ["Field", "Initialiser", "Model", "parse_model", "typed_bytes", "varints"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_FIELDS = 10_000_000
_MAX_TEXT = 1 << 16
_MAX_AXES = 64
_MAX_TYPED = 64 << 20
_LIMIT = 1 << 63


@dataclass(slots=True, eq=False)
class Initialiser:
    """A TensorProto.

    Attributes:
        name: Its name.
        dims: Its shape.
        type: The number of its element type.
        raw: Where ``raw_data`` is: (offset, bytes); None if there is none.
        typed: Where the values of a typed field are, by the field's number: runs of (offset, bytes, packed).
        external: Where they are in another file, if ``data_location`` says so.
        segmented: It is a part of a tensor.
        begin: Where it is in the file.
        end: Likewise.
    """

    name: str = ""
    dims: list[int] = field(default_factory=list)
    type: int = 0
    raw: tuple[int, int] | None = None
    typed: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    external: dict[str, str] = field(default_factory=dict)
    location: int = 0
    segmented: bool = False
    begin: int = 0
    end: int = 0


@dataclass(slots=True)
class Model:
    """What was found: initialisers, names of sparse ones, and the model's own metadata."""

    tensors: list[Initialiser] = field(default_factory=list)
    sparse: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message: its number, its kind of encoding, and its value or where it is."""

    number: int
    wire: int
    value: int
    begin: int
    end: int


class _Walker:
    """A file's bytes, as messages."""

    def __init__(self, reader: Reader) -> None:
        self.data = PickledFile(reader, 0, reader.size)
        self.left = _MAX_FIELDS

    def bytes(self, begin: int, end: int) -> bytes:
        found: bytes = self.data[begin:end] if end > begin else b""
        return found

    def text(self, part: Field) -> str:
        if part.wire != _BYTES or part.end - part.begin > _MAX_TEXT:
            raise FormatError(f"field {part.number} is not text of up to {_MAX_TEXT} bytes")
        try:
            return self.bytes(part.begin, part.end).decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"field {part.number} is not UTF-8") from None

    def varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            if at >= end or shift > 63:
                raise FormatError("a number has no end", offset=at, end=at)
            byte = self.data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value & (2 * _LIMIT - 1), at

    def fields(self, begin: int, end: int) -> Iterator[Field]:
        """The fields of the message that lies there; each is whole."""
        at = begin
        while at < end:
            self.left -= 1
            if not self.left:
                raise FormatError(f"more than {_MAX_FIELDS} fields")
            start = at
            tag, at = self.varint(at, end)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                raise FormatError("a field has the number 0", offset=start, end=at)
            if wire == _VARINT:
                value, at = self.varint(at, end)
                yield Field(number, wire, value, start, at)
                continue
            count = {_FIXED64: 8, _FIXED32: 4}.get(wire)
            if wire == _BYTES:
                count, at = self.varint(at, end)
            if count is None:
                raise FormatError(f"no field begins with the number {tag}", offset=start, end=at)
            if count > end - at:
                raise FormatError(f"a field of {count} bytes where {end - at} are left", offset=start, end=end)
            yield Field(number, wire, 0, at, at + count)
            at += count

    def message(self, part: Field) -> Iterator[Field]:
        if part.wire != _BYTES:
            raise FormatError(f"field {part.number} is no message", offset=part.begin, end=part.end)
        return self.fields(part.begin, part.end)


def parse_model(reader: Reader) -> Model:
    """The initialisers of a model; FormatError if it is malformed or has no graph."""
    walker, model, graphs = _Walker(reader), Model(), 0
    for part in walker.fields(0, reader.size):
        if part.number == 7:
            graphs += 1
            _graph(walker, part, model)
        elif part.number == 14:
            key, value = _pair(walker, part)
            model.metadata[key] = value
    if graphs != 1:
        raise FormatError(f"not an ONNX model: it has {graphs} graphs", offset=0, end=reader.size)
    return model


def _graph(walker: _Walker, graph: Field, model: Model) -> None:
    for part in walker.message(graph):
        if part.number == 5:
            model.tensors.append(_tensor(walker, part))
        elif part.number == 15:
            for inner in walker.message(part):
                if inner.number == 1:
                    model.sparse.append(_tensor(walker, inner).name)


def _tensor(walker: _Walker, message: Field) -> Initialiser:
    found = Initialiser(begin=message.begin, end=message.end)
    try:
        for part in walker.message(message):
            _tensor_field(walker, part, found)
    except FormatError as error:
        raise error.locate(tensor=found.name[:200] or None, offset=message.begin, end=message.end) from None
    return found


def _tensor_field(walker: _Walker, part: Field, found: Initialiser) -> None:
    number = part.number
    if number == 1:
        dims = (
            [part.value]
            if part.wire == _VARINT
            else varints(walker.bytes(part.begin, min(part.end, part.begin + 1000)))
        )
        found.dims += dims
        if len(found.dims) > _MAX_AXES or any(n >= _LIMIT for n in dims):
            raise FormatError(f"the shape of a tensor is {str(found.dims)[:80]}")
    elif number in (2, 14) and part.wire == _VARINT:
        if number == 2:
            found.type = part.value
        else:
            found.location = part.value
    elif number == 3:
        found.segmented = True
    elif number == 8:
        found.name = walker.text(part)
    elif number == 9 and part.wire == _BYTES:
        if found.raw is not None:
            raise FormatError("a tensor has raw_data twice")
        found.raw = (part.begin, part.end - part.begin)
    elif number in (4, 5, 6, 7, 10, 11):
        begin = part.begin
        if part.wire == _VARINT:  # the tag is in front of the value
            _, begin = walker.varint(begin, part.end)
        found.typed.setdefault(number, []).append((begin, part.end - begin, part.wire))
    elif number == 13:
        key, value = _pair(walker, part)
        if key in found.external:
            raise FormatError(f"external_data has the key {key[:80]!r} twice")
        found.external[key] = value


def _pair(walker: _Walker, message: Field) -> tuple[str, str]:
    """A StringStringEntryProto."""
    key = value = ""
    for part in walker.message(message):
        if part.number == 1:
            key = walker.text(part)
        elif part.number == 2:
            value = walker.text(part)
    return key, value


def varints(data: bytes) -> list[int]:
    """Numbers one after another, each of up to 64 bits; FormatError if they end within one."""
    found: list[int] = []
    value = shift = 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            found.append(value & (2 * _LIMIT - 1))
            value = shift = 0
        elif shift > 63:
            raise FormatError("a number of more than 64 bits")
    if shift:
        raise FormatError("the data end within a number")
    return found


def typed_bytes(reader: Reader, runs: list[tuple[int, int, int]]) -> bytes:
    """The bytes of a typed field, run after run; FormatError for more than 64 MiB."""
    if sum(count for _, count, _ in runs) > _MAX_TYPED:
        raise FormatError(f"values in a typed field of more than {_MAX_TYPED} bytes")
    return b"".join(reader.read_at(begin, count) for begin, count, _ in runs)
