"""Pickles, decoded without running anything.

A pickle is a program for a stack machine. This is that machine without the two things that make pickles dangerous:
it imports nothing and calls nothing. A name (``GLOBAL``) is looked up in a closed list by the caller's ``Vocabulary``,
which makes inert nodes of what the pickle wants called. What is not in the list is refused at once.

Bounds: the pickle's own size, the number of its opcodes, the size of its integers; keys of dicts and members of sets
are scalars, because the hash of a nested tuple can take forever. What it makes may share parts and hold itself, so
nobody may walk over it as if it were a tree without counting.

Opcodes: those that ``pickle`` writes for plain data in protocols 2 to 5 (CPython, Lib/pickletools.py), and no others.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from weightlift.errors import FormatError, UnsafeContentError

__all__ = ["MAX_PICKLE", "Blob", "Keyed", "PickleEnded", "Pickled", "Refused", "Vocabulary", "decode_pickle", "is_key"]

MAX_PICKLE = 64 << 20
"""Bytes of a pickle; one that lists 100,000 tensors has some 15 MB."""

_MAX_OPCODES = 10_000_000
_MAX_INTEGER = 128  # bytes: as many digits as JSON is read with
_MAX_KEY = 1 << 64
_MAX_NAME = 1024  # bytes of a module's or function's name
_MAX_KEY_PARTS = 16
_HELD = 4096
"""Bytes of a string that is kept where it lies in a file; of longer ones only the place is."""

_CODE = {
    0x69: "INST", 0x6F: "OBJ", 0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4", 0x50: "PERSID", 0x92: "NEWOBJ_EX",
    0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
}  # fmt: skip
"""Opcodes that call or fetch something in ways that no file of weights needs."""


class Pickled(Protocol):
    """The bytes of a pickle: ``bytes``, or what reads them from a file as they are asked for."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, key: Any, /) -> Any:
        """One of them as a number, or a slice of them as ``bytes``."""

    def find(self, part: bytes, begin: int, end: int, /) -> int:
        """Where ``part`` begins; -1 if it is not there."""


@dataclass(frozen=True, slots=True, eq=False)
class Blob:
    """A string of bytes in a pickle, by where it is.

    Attributes:
        offset: In the file.
        nbytes: Its length.
        data: The bytes, if they are few.
    """

    offset: int
    nbytes: int
    data: bytes | None


class Keyed:
    """A node that may be a dict's key; nodes are equal to themselves only, so that this costs what a scalar costs."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class Refused(Keyed):
    """What code that is not run would have made, where the caller asked for the rest: its name."""

    name: str


class Vocabulary(Protocol):
    """What the names in a pickle mean; each method makes an inert node, or raises FormatError or UnsafeContentError."""

    def find(self, module: str, name: str) -> object:
        """The node of a name; UnsafeContentError for one that is not in the list."""

    def call(self, callee: object, args: tuple[Any, ...]) -> object:
        """What calling ``callee`` would have made (``REDUCE``)."""

    def new(self, kind: object, args: tuple[Any, ...]) -> object:
        """What making an instance of ``kind`` would have made (``NEWOBJ``)."""

    def build(self, target: object, state: object) -> None:
        """Give a node its attributes (``BUILD``)."""

    def persistent(self, key: object) -> object:
        """What lies outside of the pickle (``BINPERSID``)."""


class PickleEnded(FormatError):
    """The bytes end before the pickle does."""


class _Mark:
    """Where on the stack a group of items begins."""


_MARK = _Mark()


def is_key(value: object) -> bool:
    """Whether a value can be a dict's key or a set's member here: a scalar, a short tuple of scalars, or a Keyed."""
    if type(value) is tuple:
        return len(value) <= _MAX_KEY_PARTS and all(type(part) is not tuple and is_key(part) for part in value)
    if type(value) is int:
        return -_MAX_KEY < value < _MAX_KEY
    return value is None or type(value) in (str, float, bool, bytes, complex) or isinstance(value, Keyed)


def decode_pickle(
    data: Pickled, vocabulary: Vocabulary, begin: int = 0, *, where: int = 0, located: bool = False
) -> tuple[object, int]:
    """Decode the pickle that begins at ``begin`` of ``data``.

    Args:
        data: The bytes; what follows the pickle is not looked at.
        vocabulary: What its names mean.
        begin: Where it begins.
        where: Offset of ``data`` in its file, for messages.
        located: Strings of bytes are a :class:`Blob` each, and long ones are not read.

    Returns:
        What it describes, and where in ``data`` it ends.

    Raises:
        UnsafeContentError: It names something that is not in the vocabulary, or uses an opcode that runs code.
        PickleEnded: ``data`` ends first.
        FormatError: It is malformed, or larger than allowed.
    """
    return _Machine(data, vocabulary, begin, where, located=located).run()


class _Machine:
    """The stack machine; one method an opcode."""

    def __init__(self, data: Pickled, vocabulary: Vocabulary, begin: int, where: int, *, located: bool) -> None:
        self.data = data
        self.end = len(data)
        self.words = vocabulary
        self.at = begin
        self.where = where
        self.located = located
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> tuple[object, int]:
        data, end = self.data, self.end
        handlers = _HANDLERS
        left = _MAX_OPCODES
        begin = self.at
        try:
            while True:
                begin = self.at
                if begin >= end:
                    raise PickleEnded("the pickle ends without STOP")
                code = data[begin]
                self.at = begin + 1
                if code == 0x2E:  # STOP
                    value = self.pop()
                    if self.stack:
                        raise FormatError(f"the pickle leaves {len(self.stack)} items on its stack")
                    return value, self.at
                handler = handlers[code]
                if handler is None:
                    raise _refused(code)
                handler(self)
                left -= 1
                if not left:
                    raise FormatError(f"the pickle has more than {_MAX_OPCODES} opcodes")
        except FormatError as error:
            raise error.locate(offset=self.where + begin, end=self.where + min(self.at, end)) from None

    # --- bytes ---
    def take(self, count: int) -> bytes:
        at = self.at
        following = at + count
        if following > self.end:
            raise PickleEnded(f"the pickle ends within an opcode of {count} bytes")
        self.at = following
        found: bytes = self.data[at:following]
        return found

    def byte(self) -> int:
        at = self.at
        if at >= self.end:
            raise PickleEnded("the pickle ends within an opcode")
        self.at = at + 1
        found: int = self.data[at]
        return found

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + _MAX_NAME)
        if end < 0:
            kind = FormatError if len(self.data) - self.at > _MAX_NAME else PickleEnded
            raise kind("a name in the pickle has no end")
        text = self.data[self.at : end]
        self.at = end + 1
        return _text(text)

    # --- the stack ---
    def pop(self) -> Any:
        if not self.stack:
            raise FormatError("the pickle takes from an empty stack")
        value = self.stack.pop()
        if value is _MARK:
            raise FormatError("the pickle takes a mark for a value")
        return value

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise FormatError("the pickle needs a value on its stack")
        return self.stack[-1]

    def group(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        stack = self.stack
        for i in range(len(stack) - 1, -1, -1):
            if stack[i] is _MARK:
                found = stack[i + 1 :]
                del stack[i:]
                return found
        raise FormatError("the pickle has no mark on its stack")

    def some(self, count: int) -> list[Any]:
        found = [self.pop() for _ in range(count)]
        return found[::-1]

    # --- opcodes ---
    def op_proto(self) -> None:
        version = self.number(1)
        if version > 5:
            raise FormatError(f"pickle protocol {version}; up to 5 are known")

    def op_frame(self) -> None:
        self.take(8)

    def op_mark(self) -> None:
        self.stack.append(_MARK)

    def op_tuple(self) -> None:
        self.stack.append(tuple(self.group()))

    def op_integer4(self) -> None:
        self.stack.append(int.from_bytes(self.take(4), "little", signed=True))

    def op_integer(self) -> None:
        self.long(self.number(1))

    def op_long4(self) -> None:
        self.long(self.number(4))

    def long(self, count: int) -> None:
        if count > _MAX_INTEGER:
            raise FormatError(f"the pickle holds an integer of {count} bytes; at most {_MAX_INTEGER} are read")
        self.stack.append(int.from_bytes(self.take(count), "little", signed=True))

    def op_float(self) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])

    def op_get(self) -> None:
        self.get(self.byte())

    def op_long_get(self) -> None:
        self.get(self.number(4))

    def get(self, number: int) -> None:
        try:
            self.stack.append(self.memo[number])
        except KeyError:
            raise FormatError(f"the pickle asks for memo {number}, which it never set") from None

    def op_put(self) -> None:
        self.memo[self.byte()] = self.top()

    def op_long_put(self) -> None:
        self.memo[self.number(4)] = self.top()

    def op_byte(self) -> None:
        self.stack.append(self.byte())

    def op_text(self) -> None:
        self.stack.append(_text(self.take(self.number(4))))

    def binary(self, size: int) -> None:
        """A string of bytes, behind ``size`` bytes of length."""
        count = self.number(size)
        at = self.at
        if not self.located:
            self.stack.append(self.take(count))
            return
        if count > self.end - at:
            raise PickleEnded(f"the pickle ends within {count} bytes")
        self.stack.append(Blob(self.where + at, count, self.take(count) if count <= _HELD else None))
        self.at = at + count

    def op_memoize(self) -> None:
        self.memo[len(self.memo)] = self.top()

    def op_append(self) -> None:
        (value,) = self.some(1)
        self.extend([value])

    def op_appends(self) -> None:
        self.extend(self.group())

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is list:
            target.extend(values)
        elif type(target) is not Refused:
            raise FormatError(f"the pickle appends to a {_kind(target)}")

    def op_setitem(self) -> None:
        self.set_items(self.some(2))

    def op_setitems(self) -> None:
        self.set_items(self.group())

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is Refused:
            return
        if not isinstance(target, dict):
            raise FormatError(f"the pickle sets items of a {_kind(target)}")
        if len(items) % 2:
            raise FormatError("the pickle sets a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not is_key(key):
                raise FormatError(f"a dict in the pickle has a {_kind(key)} as a key; scalars are read")
            target[key] = value

    def op_additems(self) -> None:
        items = self.group()
        target = self.top()
        if type(target) is Refused:
            return
        if type(target) is not set:
            raise FormatError(f"the pickle adds members to a {_kind(target)}")
        for item in items:
            if not is_key(item):
                raise FormatError(f"a set in the pickle has a {_kind(item)} as a member; scalars are read")
            target.add(item)

    def op_global(self) -> None:
        module = self.line()
        self.stack.append(self.words.find(module, self.line()))

    def op_stack_global(self) -> None:
        module, name = self.some(2)
        if type(module) is not str or type(name) is not str:
            raise UnsafeContentError("the pickle makes up a name of something that is not text")
        self.stack.append(self.words.find(module, name))

    def op_reduce(self) -> None:
        args, callee = self.pop(), self.pop()
        refused = type(callee) is Refused
        self.stack.append(callee if refused else self.words.call(callee, _arguments(args)))

    def op_newobj(self) -> None:
        kind, args = self.some(2)
        refused = type(kind) is Refused
        self.stack.append(kind if refused else self.words.new(kind, _arguments(args)))

    def op_build(self) -> None:
        (state,) = self.some(1)
        target = self.top()
        if type(target) is not Refused and type(state) is not Refused:
            self.words.build(target, state)

    def op_persistent(self) -> None:
        self.stack.append(self.words.persistent(self.pop()))


def _arguments(args: object) -> tuple[Any, ...]:
    if type(args) is not tuple:
        raise FormatError(f"the pickle gives a {_kind(args)} for arguments")
    return args


def _kind(value: object) -> str:
    return type(value).__name__.lower()


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"text in the pickle is not UTF-8: {raw[:80]!r}") from None


def _old_text(raw: bytes) -> str:
    """A string of Python 2, which did not say what its bytes mean."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _refused(code: int) -> FormatError:
    name = _CODE.get(code)
    if name is not None:
        return UnsafeContentError(f"the pickle uses the opcode {name}, which can run code; nothing was run")
    return FormatError(f"unknown opcode 0x{code:02x} in the pickle")


_Handler = Callable[[_Machine], None]


def _constant(make: Callable[[], object]) -> _Handler:
    return lambda machine: machine.stack.append(make())


def _sized(size: int, make: Callable[[bytes], object]) -> _Handler:
    """An opcode that holds ``size`` bytes of length and then so many bytes."""
    return lambda machine: machine.stack.append(make(machine.take(machine.number(size))))


def _binary(size: int) -> _Handler:
    return lambda machine: machine.binary(size)


def _tuple_of(count: int) -> _Handler:
    return lambda machine: machine.stack.append(tuple(machine.some(count)))


def _unsigned(size: int) -> _Handler:
    return lambda machine: machine.stack.append(machine.number(size))


_BY_CODE: dict[int, _Handler] = {
    0x80: _Machine.op_proto, 0x95: _Machine.op_frame, 0x28: _Machine.op_mark, 0x30: lambda machine: machine.pop(),
    0x29: _constant(tuple), 0x74: _Machine.op_tuple, 0x85: _tuple_of(1), 0x86: _tuple_of(2), 0x87: _tuple_of(3),
    0x5D: _constant(list), 0x61: _Machine.op_append, 0x65: _Machine.op_appends,
    0x7D: _constant(dict), 0x73: _Machine.op_setitem, 0x75: _Machine.op_setitems,
    0x8F: _constant(set), 0x90: _Machine.op_additems,
    0x4E: _constant(lambda: None), 0x88: _constant(lambda: True), 0x89: _constant(lambda: False),
    0x4A: _Machine.op_integer4, 0x4B: _Machine.op_byte, 0x4D: _unsigned(2),
    0x8A: _Machine.op_integer, 0x8B: _Machine.op_long4, 0x47: _Machine.op_float,
    0x58: _Machine.op_text, 0x8C: _sized(1, _text), 0x8D: _sized(8, _text),
    0x54: _sized(4, _old_text), 0x55: _sized(1, _old_text),
    0x42: _binary(4), 0x43: _binary(1), 0x8E: _binary(8), 0x96: _binary(8),
    0x71: _Machine.op_put, 0x72: _Machine.op_long_put, 0x94: _Machine.op_memoize,
    0x68: _Machine.op_get, 0x6A: _Machine.op_long_get,
    0x63: _Machine.op_global, 0x93: _Machine.op_stack_global, 0x52: _Machine.op_reduce, 0x81: _Machine.op_newobj,
    0x62: _Machine.op_build, 0x51: _Machine.op_persistent,
}  # fmt: skip
_HANDLERS: list[_Handler | None] = [_BY_CODE.get(code) for code in range(256)]
