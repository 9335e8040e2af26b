"""Torch files of any content, good or bad, made byte by byte."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def archive(
    data: bytes, storages: Mapping[str, bytes] | None = None, *, method: int = STORED, top: str = "x", **members: bytes
) -> bytes:
    """A zip archive as torch lays it out; ``members`` replaces or adds some (empty: leaves it out)."""
    found = {
        "data.pkl": data,
        "byteorder": b"little",
        **{f"data/{key}": content for key, content in (storages or {}).items()},
        "version": b"3\n",
        **{name.replace("__", "."): content for name, content in members.items()},
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for name, content in found.items():
            if content or name.startswith("data/"):
                out.writestr(zipfile.ZipInfo(f"{top}/{name}"), content, method)
    return file.getvalue()


def name(module: str, attribute: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    """BINUNICODE."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    """LONG1, whatever its size."""
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return bytes((0x8A, len(raw))) + raw


def numbers(*values: int) -> bytes:
    """A tuple of them."""
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", numel: int = 4, kind: bytes = name("torch", "FloatStorage")) -> bytes:
    """A persistent id."""
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(numel) + b"tQ"


def tensor(
    size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), offset: int = 0, held: bytes = storage()
) -> bytes:
    """A call of _rebuild_tensor_v2."""
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + held
        + number(offset)
        + numbers(*size)
        + numbers(*stride)
        + b"\x89"
        + name("collections", "OrderedDict")
        + b")RtR"
    )


def pickled(body: bytes) -> bytes:
    """Protocol 2 and STOP around it."""
    return b"\x80\x02" + body + b"."


def legacy(data: bytes, keys: list[str], storages: list[tuple[int, bytes]]) -> bytes:
    """A file of before 1.6: (elements, bytes) of each storage."""
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, facts)]
    tail = [pickle.dumps(keys, 2)] + [struct.pack("<q", numel) + content for numel, content in storages]
    return b"".join([*head, data, *tail])
