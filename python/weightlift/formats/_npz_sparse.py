"""Sparse arrays of MXNet 2 in an npz archive: several members that are one array.

``NAME/data.npy``, ``NAME/indices.npy``, for csr ``NAME/indptr.npy``, ``NAME/shape.npy``, and ``NAME/format.npy``: a
word behind an npy header that MXNet writes malformed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from weightlift._checksum import crc32, crc32_combine
from weightlift._dtypes import DType, byte_size
from weightlift._layout import Chain, Checksum, Extent, Piece, TensorEntry
from weightlift._steps import Sparse
from weightlift.errors import ChecksumError, FormatError
from weightlift.formats._npy_header import Header, parse_header
from weightlift.formats._window import Window
from weightlift.formats._zip import STORED, Member

__all__ = ["SparseMembers", "sparse_members"]

_FORMAT, _SUFFIX = "/format.npy", ".npy"
_LONGEST_WORD = 16
_MAX_AXES = 64
_KINDS = {b"row_sparse": ("data", "indices"), b"csr": ("data", "indptr", "indices")}
_INDEX_TYPES = ("int64", "int32")


@dataclass(frozen=True)
class SparseMembers:
    """One array, in several members.

    Attributes:
        kind: ``"row_sparse"`` or ``"csr"``.
        members: Names of all of them.
        entry: The whole array; None where the members are not as MXNet writes them, and are read one by one.
    """

    kind: str
    members: frozenset[str]
    entry: TensorEntry | None


def sparse_members(
    members: Sequence[Member], headers: Mapping[str, bytes], window: Window
) -> Iterator[tuple[str, SparseMembers]]:
    """The sparse arrays of an archive, by name."""
    by_name: dict[str, Member] = {}
    for member in members:
        if not member.name.endswith(_FORMAT) or member.name not in headers:
            continue
        word = _word(window, member, len(headers[member.name]))
        if word is None:
            continue
        by_name = by_name or {m.name: m for m in members}
        name = member.name[: -len(_FORMAT)]
        try:
            yield name, _sparse(name, word, by_name, headers, window)
        except FormatError as error:
            raise error.locate(tensor=name, offset=member.data) from None


def _word(window: Window, member: Member, header_size: int) -> bytes | None:
    """What stands behind the malformed header of a format; None if it is no word of MXNet's."""
    if member.method != STORED or member.size - header_size > _LONGEST_WORD:
        return None
    data = window.read(member.data, member.size)
    return data[header_size:] if data[header_size:] in _KINDS and _intact(member, data) else None


def _intact(member: Member, data: bytes) -> bool:
    """ChecksumError if a member's bytes are not those of its checksum."""
    if crc32(data) != member.crc32:
        raise ChecksumError(
            f"CRC-32 of {member.name!r} is {crc32(data):08x}, expected {member.crc32:08x}",
            offset=member.data,
            end=member.data + member.size,
        )
    return True


def _sparse(
    name: str, word: bytes, members: Mapping[str, Member], headers: Mapping[str, bytes], window: Window
) -> SparseMembers:
    kind, parts = word.decode(), _KINDS[word]
    wanted = {part: f"{name}/{part}{_SUFFIX}" for part in (*parts, "shape")}
    missing = [member for member in wanted.values() if member not in headers]
    if missing:
        raise FormatError(f"the {kind} array {name!r} has no member {', '.join(missing)}")
    found = {part: (members[member], parse_header(headers[member])) for part, member in wanted.items()}
    taken = frozenset({*wanted.values(), f"{name}{_FORMAT}"})
    if not all(_plain(member, header) for member, header in found.values()):
        return SparseMembers(kind, taken, None)
    shape = _shape(window, *found.pop("shape"))
    dtype = _check(kind, shape, {part: header for part, (_, header) in found.items()})
    stored = tuple((part, header.dtype.name, prod(header.shape)) for part, (_, header) in found.items())
    extents, crc = [], 0
    for member, header in found.values():
        nbytes = header.data_nbytes
        extents.append(Extent(0, member.data + header.nbytes, nbytes))
        payload = crc32_combine(header.crc32, member.crc32, nbytes)  # the header's part in the member's is taken out
        crc = crc32_combine(crc, payload, nbytes)
    piece = Piece(Chain(tuple(extents)), (Sparse(kind, shape, stored),))
    return SparseMembers(kind, taken, TensorEntry(dtype, shape, (piece,), checksum=Checksum("crc32", crc)))


def _plain(member: Member, header: Header) -> bool:
    """Whether a part's bytes lie in the file as they are in memory."""
    if header.nbytes + header.data_nbytes != member.size:
        raise FormatError(
            f"{member.name!r} has {member.size} bytes, and should have {header.nbytes + header.data_nbytes}"
        )
    plain = member.method == STORED and header.swap is None and header.strides is None
    return plain and header.dtype.core and not header.dtype.packed


def _shape(window: Window, member: Member, header: Header) -> tuple[int, ...]:
    """The shape of the whole array."""
    if header.dtype.name != "int64" or len(header.shape) != 1 or header.shape[0] > _MAX_AXES:
        raise FormatError(f"the shape of a sparse array is {header.dtype} of the shape {list(header.shape)}")
    data = window.read(member.data, header.nbytes + header.data_nbytes)
    _intact(member, data)
    shape = tuple(np.frombuffer(data, "<i8", offset=header.nbytes).tolist())
    if any(n < 0 for n in shape):
        raise FormatError(f"a sparse array of the shape {list(shape)}")
    return shape


def _check(kind: str, shape: tuple[int, ...], headers: Mapping[str, Header]) -> DType:
    """The type of the elements, once the parts fit each other and the whole."""
    data, indices = headers["data"], headers["indices"]
    fits = all(h.dtype.name in _INDEX_TYPES and len(h.shape) == 1 for p, h in headers.items() if p != "data")
    if fits and kind == "row_sparse":
        fits = bool(shape) and data.shape == (*indices.shape, *shape[1:]) and indices.shape[0] <= shape[0]
    elif fits:
        fits = len(shape) == 2 and data.shape == indices.shape
        fits = fits and headers["indptr"].shape[0] in ((shape[0] + 1,) if prod(data.shape) else (0, shape[0] + 1))
    if not fits:
        parts = {part: f"{h.dtype} {list(h.shape)}" for part, h in headers.items()}
        raise FormatError(f"a {kind} array of the shape {list(shape)} with the parts {parts}")
    byte_size(data.dtype, shape)
    return data.dtype
