"""Names of models and paths of files, as clients give them; what is refused never reaches the file system."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

from weightlift.errors import UnsafeContentError
from weightlift.formats import FORMATS
from weightlift.stores._paths import check_relative

__all__ = ["HIDDEN", "MODEL_JSON", "SINGLE_FILES", "check_file", "check_model", "is_model_name", "is_weights_file"]

MODEL_JSON = "model.json"

HIDDEN = ".weightlift-server"
"""Directory, under the one that is served, of uploads under way. No name with a dot in front is ever served."""

SINGLE_FILES = tuple(s for f in FORMATS if f.name != "tfjs" for s in f.suffixes if s != ".bin")
"""What a file that holds weights by itself, or the index of such files, ends in."""

_SERVED = (*SINGLE_FILES, ".json", ".bin", ".crc32c")
_OLD_SHARD = re.compile(r"group\d+-shard\d+of\d+\Z")
_MODEL = re.compile(r"\w[\w.+@=, ()\-]*\Z")
_MAX_NAME = 120
_MAX_PATH = 1000


def is_model_name(name: str) -> bool:
    """Whether a model may be called so: one plain path segment of letters, digits, spaces and ``._-+@=,()``."""
    return (
        len(name) <= _MAX_NAME
        and len(name.encode("utf-8", "replace")) <= 200
        and _MODEL.match(name) is not None
        and name[-1] not in ". "
        and unicodedata.normalize("NFC", name) == name
    )


def check_model(name: str) -> str:
    """``name`` itself, or UnsafeContentError."""
    if not is_model_name(name):
        raise UnsafeContentError(
            f"{name[:80]!r} is no name for a model: letters, digits, spaces and ._-+@=,() are, a letter or digit "
            f"first, at most {_MAX_NAME} of them"
        )
    return name


def check_file(path: str) -> str:
    """A relative path as it is, or UnsafeContentError: it must be plain, and no part of it hidden."""
    check_relative(path)
    parts = path.split("/")
    if len(path) > _MAX_PATH or not path.isprintable() or any(not p or p.startswith(".") for p in parts):
        raise UnsafeContentError(
            f"file name {path[:200]!r} is refused: empty, hidden or unprintable parts, or too long"
        )
    return path


def is_weights_file(path: str) -> bool:
    """Whether a name is one that weights, or what describes them, have; nothing else is served."""
    name = PurePosixPath(path).name.lower()
    return name.endswith(_SERVED) or _OLD_SHARD.match(name) is not None
