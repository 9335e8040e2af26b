"""Pickles that would run code, break the machine, or eat it: one corpus for every format that holds pickles.

Each entry of ``PICKLES`` is the body of a pickle of protocol 2, without PROTO and STOP; ``python_pickles`` are whole
ones, made by Python itself. Nothing of either may be executed: all that would be leaves a file ``EXECUTED`` in the
working directory.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.torch_support import name, number, storage, tensor, text

import weightlift as wl

SENTINEL = "EXECUTED"
SYSTEM = name("posix", "system")
COMMAND = text(f"touch {SENTINEL}")


class Reduce:
    """What a pickle makes by calling anything."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def python_pickles() -> dict[str, bytes]:
    """Made by Python itself, in every protocol: calls of what runs code, opens files, or reaches into modules."""
    calls = {
        "os.system": Reduce(os.system, f"touch {SENTINEL}"),
        "eval": Reduce(eval, "open('EXECUTED', 'w')"),
        "exec": Reduce(exec, "open('EXECUTED', 'w')"),
        "open": Reduce(open, "EXECUTED", "w"),
        "import": Reduce(__import__, "antigravity"),
        "getattr": Reduce(getattr, "", "join"),
        "popen": Reduce(subprocess.Popen, ["touch", "EXECUTED"]),
        "exit": Reduce(sys.exit, 3),
        "sleep": Reduce(time.sleep, 60),
    }
    found = {f"{key} in protocol {p}": pickle.dumps(call, p) for key, call in calls.items() for p in range(6)}
    found["in a dict"] = pickle.dumps({"w": calls["os.system"]}, 2)
    found["in a set of a list"] = pickle.dumps([{1, 2}, [calls["eval"]]], 4)
    return found


MANY = b"".join(b"(h" + bytes([i]) + b"h" + bytes([i]) + b"tq" + bytes([i + 1]) for i in range(60))
PICKLES: dict[str, bytes] = {
    # names
    "reduce": SYSTEM + b"(" + COMMAND + b"tR",
    "reduce of a dotted name": name("torch", "serialization.os.system") + b"(" + COMMAND + b"tR",
    "a name by the stack": text("posix") + text("system") + b"\x93" + b"(" + COMMAND + b"tR",
    "a name of something that is not text": b"K\1K\2\x93",
    "a name made by a call": name("torch", "device") + b"(" + text("posix") + b"tR" + b"]\x93",
    "named but not called": SYSTEM,
    "named in a dropped value": SYSTEM + b"0N",
    "named in a tensor's hooks": b"(" + tensor() + SYSTEM + b"t",
    "newobj": SYSTEM + b")\x81",
    "newobj_ex": SYSTEM + b")}\x92",
    "inst": b"(" + COMMAND + b"iposix\nsystem\n",
    "obj": b"(" + SYSTEM + COMMAND + b"o",
    "build with setstate": name("collections", "OrderedDict") + b")R" + text("__setstate__") + SYSTEM + b"\x86b",
    "build of a tensor": tensor() + b"}b",
    "build of a type": name("torch", "Tensor") + b"}b",
    "build of a list": b"]}b",
    "ext1": b"\x82\x01",
    "ext2": b"\x83\x01\x00",
    "ext4": b"\x84\x01\x00\x00\x00",
    "text persistent id": b"Pposix.system\n",
    "next_buffer": b"\x97",
    "readonly_buffer": b"N\x98",
    "a storage class that is code": storage(kind=SYSTEM),
    "a call of a storage class": name("torch", "FloatStorage") + b")R",
    "a call of text": text("posix.system") + b")R",
    "a call of a tensor": tensor() + b")R",
    "a defaultdict of code": name("collections", "defaultdict") + b"(" + SYSTEM + b"tR",
    "a tensor by another function": name("torch._tensor", "_rebuild_from_type_v2")
    + b"("
    + name("collections", "OrderedDict")
    + name("torch", "Tensor")
    + b")N"
    + b"tR",
    "a tensor of a type of its own": name("torch._tensor", "_rebuild_from_type_v2")
    + b"("
    + name("torch._utils", "_rebuild_tensor_v2")
    + name("torch", "Size")
    + b")Nt"
    + b"R",
    "torch.load in a pickle": name("torch.storage", "_load_from_bytes") + b"(C\x02\x80\x02tR",
    "numpy": name("numpy.core.multiarray", "_reconstruct") + b")R",
    "a script's class outside of a script": name("__torch__.M", "M") + b")\x81",
    "a module that only begins like one": name("__torch__evil", "M") + b")\x81",
    "a module's source": b"(" + text("module") + SYSTEM + text("f.py") + text("import os") + b"tQ",
    # structure
    "a list as a key": b"}]Ks",
    "a key of nested tuples": b"}" + b")q\0" + MANY + b"N" + b"s",
    "a huge integer as a key": b"}" + number(1 << 100) + b"Ns",
    "a member of a set that is a list": b"\x8f(]\x90",
    "items of a list": b"]" + text("a") + b"Ns",
    "items of a tensor": tensor() + text("a") + b"Ns",
    "append to a dict": b"}Na",
    "append to a tuple": b")Na",
    "add to a list": b"](N\x90",
    "an odd number of items": b"}(" + text("a") + b"u",
    "a list that holds itself": b"]q\0h\0a",
    "a dict that holds itself": b"}q\0" + text("a") + b"h\0s",
    "memo that was never set": b"h\7",
    "put of nothing": b"q\0",
    "a mark for a value": b"(N0a",
    "an integer of two gigabytes": b"\x8b\xff\xff\xff\x7f",
    "text of four gigabytes": b"X\xff\xff\xff\xff",
    "text of 2**63 bytes": b"\x8d" + b"\xff" * 7 + b"\x7f",
    "bytes of 2**63 bytes": b"\x8e" + b"\xff" * 7 + b"\x7f",
    "a frame beyond the end": b"\x95" + b"\xff" * 8 + b"\xff\xff",
    "text that is not UTF-8": b"X\2\0\0\0\xff\xfe",
    "an unknown opcode": b"\xfe",
    "protocol 0's integers": b"I01\n",
    "two values": b"NN",
    "no value": b"",
    "a name without an end": b"c" + b"a" * 3000,
    # names that look like others
    "a dotted name by the stack": text("collections") + text("OrderedDict.__init__") + b"\x93" + b"(" + COMMAND + b"tR",
    "a dotted name of numpy's": name("numpy.core.multiarray", "_reconstruct.__globals__"),
    "a module with a space": name("collections ", "OrderedDict") + b")R",
    "an empty module": name("", "system") + b"(" + COMMAND + b"tR",
    "an empty name": name("collections", "") + b")R",
    "a homoglyph": name("c\u043ellections", "OrderedDict") + b")R",
    "a name from the memo": text("posix") + b"q\0" + text("system") + b"q\1" + b"00h\0h\1\x93("
    + COMMAND + b"tR",
    "a name from a list's items": b"](" + text("posix") + text("system") + b"e\x93",
    "a name in two halves": text("posix") + b"(" + text("sys") + text("tem") + b"t\x93",
    "python 2's module": name("__builtin__", "eval") + b"(" + text("1") + b"tR",
    "a name put over an allowed one": name("collections", "OrderedDict") + b"q\0" + b"0" + SYSTEM + b"q\0" + b")R",
    "a pickle in a pickle": name("_pickle", "loads") + b"(C\x02N.tR",
    "a pickle in text": name("pickle", "loads") + b"(" + text("cposix\nsystem\n.") + b"tR",
    "marshal": name("marshal", "loads") + b"(C\x01NtR",
    "a code object": name("types", "CodeType") + b")R",
    "copyreg": name("copyreg", "_reconstructor") + b"(" + SYSTEM + SYSTEM + b"NtR",
    "partial": name("functools", "partial") + b"(" + SYSTEM + COMMAND + b"tR",
    "ctypes": name("ctypes", "CDLL") + b"(" + text("libc.so.6") + b"tR",
    "numpy's own loader": name("numpy", "load") + b"(" + text("x.npy") + b"tR",
    "numpy's exec": name("numpy.testing._private.utils", "runstring") + b"(" + text("1") + b"}tR",
    "build with a tuple of two states": name("collections", "OrderedDict") + b")R" + b"}}\x86b",
    "an ordered dict of code": name("collections", "OrderedDict") + b"(" + SYSTEM + b"tR",
    "a set of code": name("builtins", "set") + b"(](" + SYSTEM + b"etR",
    "text for bytes": name("_codecs", "encode") + b"(" + text("x") + text("rot13") + b"tR",
    # bombs
    "a memo number of four gigabytes": b"Nr\xff\xff\xff\xff" + b"h\x01",
    "memos that double": b"]q\0"
    + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(99)),
    "a hundred thousand levels": b"]" * 100_000 + b"a" * 99_999,
    "a dict that holds itself by a list": b"}q\0" + text("a") + b"]h\0as",
    "marks without end": b"(" * 100_000,
    "a frame in a frame": b"\x95" + b"\x04" + b"\0" * 7 + b"\x95" + b"\xff" * 8,
}  # fmt: skip


def wait_for_nothing(look: Callable[[], Any]) -> wl.WeightliftError:
    """``look`` gives an error, soon, and runs nothing in the working directory."""
    begin = time.monotonic()
    with pytest.raises((wl.FormatError, wl.TruncatedError)) as caught:
        look()
    assert time.monotonic() - begin < 30, "this is what a bomb would take; refusing takes milliseconds"
    assert not Path(SENTINEL).exists()
    return caught.value
