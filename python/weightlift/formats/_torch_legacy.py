"""Files of torch 0.1.10 to 1.5, and of later ones with ``_use_new_zipfile_serialization=False``.

Five pickles one after another: a number, a version, facts about the machine, the object, and the list of its storages'
keys; then each storage in the order of that list: its number of elements (int64) and its bytes, in little-endian order
whatever the machine was. Nothing is aligned and nothing has a checksum. What the pickles mean is as in archives.
"""

from __future__ import annotations

from dataclasses import dataclass

from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.formats._pickle import MAX_PICKLE, PickleEnded, decode_pickle
from weightlift.formats._torch_rows import Place, storage_bytes
from weightlift.formats._torch_vocabulary import Storage, TorchVocabulary
from weightlift.formats._window import Window
from weightlift.protocols import Reader

__all__ = ["Legacy", "is_legacy", "read_legacy"]

_NUMBER = 0x1950A86A20F9469CFC6C
_BEGIN = b"\x8a\x0a" + _NUMBER.to_bytes(10, "little")
"""How a pickle of the number goes on behind its protocol."""

_FRAME = b"\x95"
_VERSION = 1001
_FIRST_READ = 64 << 10
_COUNT = 8  # bytes of a storage's number of elements


@dataclass(frozen=True)
class Legacy:
    """What a file holds: the object, the bytes of its pickles, and where each storage is."""

    root: object
    pickled: int
    places: dict[str, Place]

    def place(self, storage: Storage) -> Place:
        """Where a storage is."""
        return self.places[storage.key]


def is_legacy(head: bytes) -> bool:
    """Whether a file begins as these do."""
    framed = head[2:3] == _FRAME  # of protocol 4 on: with its length
    return (
        len(head) > 2 and head[0] == 0x80 and head[1] in range(2, 6) and head[11 if framed else 2 :].startswith(_BEGIN)
    )


def read_legacy(reader: Reader, *, skip_unsafe: bool = False) -> Legacy:
    """Decode the pickles, and find and check the storages."""
    wanted = _FIRST_READ
    while True:  # where pickles end is known only when they are decoded
        data = reader.read_at(0, min(wanted, reader.size))
        try:
            root, keys, words, at = _pickles(data, skip_unsafe=skip_unsafe)
            break
        except PickleEnded:
            if len(data) == reader.size or wanted > MAX_PICKLE:
                raise
            wanted *= 8
    return Legacy(root, at, _places(reader, keys, words.storages, at))


def _pickles(data: bytes, *, skip_unsafe: bool) -> tuple[object, list[str], TorchVocabulary, int]:
    """The object, its storages' keys in their order, the words it was decoded in, and where the storages begin."""
    nothing = TorchVocabulary()
    number, at = decode_pickle(data, nothing)
    version, at = decode_pickle(data, nothing, at)
    facts, at = decode_pickle(data, nothing, at)
    if number != _NUMBER or type(facts) is not dict:
        raise FormatError("not a torch file: it does not begin with torch's number", offset=0)
    if version != _VERSION or facts.get("protocol_version") != _VERSION:
        raise UnsupportedFeatureError(f"a torch file of version {str(version)[:40]}; {_VERSION} is known")
    words = TorchVocabulary(skip_unsafe=skip_unsafe)
    root, at = decode_pickle(data, words, at)
    keys, at = decode_pickle(data, nothing, at)
    if type(keys) is not list or not all(type(key) is str for key in keys) or len(set(keys)) != len(keys):
        raise FormatError("the storages of the file are not listed by their keys", offset=at)
    if set(keys) != set(words.storages):
        odd = next(iter(set(keys) ^ set(words.storages)))
        raise FormatError(f"storage {odd[:80]!r} is not both in the object and in the list of storages", offset=at)
    return root, keys, words, at


def _places(reader: Reader, keys: list[str], storages: dict[str, Storage], at: int) -> dict[str, Place]:
    """Where each storage is, once the file has been seen to agree about its size."""
    places: dict[str, Place] = {}
    for key in keys:
        nbytes = storage_bytes(storages[key])
        places[key] = Place(at + _COUNT, nbytes, nbytes)
        at += _COUNT + nbytes
    if at != reader.size:
        what = "is cut off" if at > reader.size else "goes on behind the last of them"
        raise FormatError(f"the storages take {at} bytes; the file has {reader.size} and {what}", end=reader.size)
    spans = [(place.offset - _COUNT, _COUNT) for place in places.values()]
    window = Window(reader, spans, reader.size)
    for key, (begin, _) in zip(keys, spans, strict=True):
        found = int.from_bytes(window.read(begin, _COUNT), "little", signed=True)
        if found != storages[key].numel:
            raise FormatError(
                f"storage {key[:80]!r} has {found} elements, the object says {storages[key].numel}",
                offset=begin,
                end=begin + _COUNT,
            )
    return places
