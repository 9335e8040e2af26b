"""What HDF5 structures refer to: guesses from raw bytes, so that what h5py will ask for next can be fetched at once.

Nothing depends on them: a wrong guess fetches a block that is not needed.
"""

from __future__ import annotations

import re
from struct import Struct

__all__ = ["addresses"]

_NODE = re.compile(b"TREE\\x00|SNOD\\x01\\x00|HEAP\\x00")
_TREE = Struct("<4sBBHQQ")
_SYMBOL = Struct("<QQII16s")
_TWO = Struct("<QQ")
_MOST_CHILDREN = 1 << 10
_NOWHERE = (1 << 64) - 1
_GROUP = 1
"""Of a symbol: a group, whose B-tree and heap are given."""


def addresses(data: bytes) -> list[int]:
    """Where the nodes of groups in ``data`` say that others are: nodes below them, names, headers of what they list."""
    found: list[int] = []
    for match in _NODE.finditer(data):
        at = match.start()
        if data.startswith(b"TREE", at):
            found += _children(data, at)
        elif data.startswith(b"SNOD", at):
            found += _symbols(data, at)
        elif at + 32 <= len(data):
            found.append(int.from_bytes(data[at + 24 : at + 32], "little"))
    return [address for address in found if address != _NOWHERE]


def _children(data: bytes, at: int) -> list[int]:
    if at + _TREE.size > len(data):
        return []
    used = _TREE.unpack_from(data, at)[3]
    first = at + _TREE.size + 8
    ends = range(first, min(first + 16 * min(used, _MOST_CHILDREN), len(data) - 7), 16)
    return [int.from_bytes(data[i : i + 8], "little") for i in ends]


def _symbols(data: bytes, at: int) -> list[int]:
    used = int.from_bytes(data[at + 6 : at + 8], "little")
    found: list[int] = []
    for i in range(min(used, _MOST_CHILDREN)):
        begin = at + 8 + i * _SYMBOL.size
        if begin + _SYMBOL.size > len(data):
            break
        _, header, kind, _, scratch = _SYMBOL.unpack_from(data, begin)
        found += [header, *(_TWO.unpack(scratch) if kind == _GROUP else ())]
    return found
