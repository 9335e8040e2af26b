"""Pickled members of an npz archive: lists and dicts that ``np.savez`` was given."""

from __future__ import annotations

from weightlift._inflate import inflate
from weightlift._layout import Extent
from weightlift._steps import Deflate
from weightlift.errors import FormatError
from weightlift.formats._npy_header import object_shape
from weightlift.formats._npy_objects import ArrayWalk, decode_objects
from weightlift.formats._pickle import MAX_PICKLE
from weightlift.formats._pickle_file import PickledFile
from weightlift.formats._zip import STORED, Member
from weightlift.protocols import Reader

__all__ = ["member_objects"]


def member_objects(reader: Reader, member: Member, header: bytes, key: str, *, skip_unsafe: bool) -> ArrayWalk:
    """What a member of Python objects holds, its names below ``key``.

    Arrays of a stored member are extents of the file. A deflated one is inflated as a whole and its arrays are held in
    the table, so it may have no more than 64 MiB.

    Raises:
        UnsafeContentError: The pickle names code.
        FormatError: It is malformed.
    """
    begin, shape = len(header), object_shape(header)
    if shape is None:
        raise FormatError("the member holds no objects")
    if member.method == STORED:
        stored = PickledFile(reader, member.data + begin, member.data + member.size)
        return decode_objects(
            stored, shape, where=member.data + begin, located=True, skip_unsafe=skip_unsafe, under=(key,)
        )
    if member.size > MAX_PICKLE:
        raise FormatError(f"a compressed pickle of {member.size} bytes; at most {MAX_PICKLE} are read")
    data = bytearray(member.size - begin)
    inflate(reader, Extent(0, member.data, member.stored_size), Deflate(member.size, begin, member.crc32), data)
    return decode_objects(bytes(data), shape, where=member.data, located=False, skip_unsafe=skip_unsafe, under=(key,))
