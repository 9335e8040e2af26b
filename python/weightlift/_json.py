"""Strict JSON for the small files that say where weights are: indexes, manifests, topologies.

Two readers of one file must never see two different things, so what the standard leaves open is refused:
duplicate keys, NaN and infinities, text that is not UTF-8, lone surrogates. Nesting and size are bounded before
anything is built.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np

from weightlift.errors import FormatError, UnsafeContentError

__all__ = ["as_javascript", "impostor", "loads"]

_MAX_DIGITS = 400  # a float64 needs at most 309; int() of millions of digits takes quadratic time
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_NOT_STRUCTURE = bytes(b for b in range(256) if b not in b'[]{}"')
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?')
_MARKUP = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<!--")


def impostor(head: bytes) -> str | None:
    """What a file that begins with ``head`` is, where it stands in place of the file that was wanted.

    Servers answer with an error page and checkouts without git-LFS hold pointers, under the name of the
    weights. None: neither of these.
    """
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a git-LFS pointer, not the file itself; run 'git lfs pull' to fetch it"
    if head[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_MARKUP):
        return "an HTML or XML page, such as a server's error message"
    return None


def loads(data: bytes, *, what: str, max_bytes: int, max_depth: int = 100, lenient: bool = False) -> Any:
    """The value of one JSON text.

    Args:
        data: The whole text, UTF-8.
        what: What is parsed, for messages ("model.json", "the structure of model.safetensors").
        max_bytes: Largest text accepted.
        max_depth: Deepest nesting of objects and arrays accepted.
        lenient: Accept a byte order mark, and NaN and Infinity, which Python writes though JSON has them not.

    Raises:
        FormatError: For anything else than exactly one valid, unambiguous JSON value; ``offset`` is the byte.
        UnsafeContentError: For a text that is too large or nested too deep.
    """
    if len(data) > max_bytes:
        raise UnsafeContentError(f"{what} has {len(data)} bytes; at most {max_bytes} are accepted")
    if not data:
        raise FormatError(f"{what} is empty")
    found = impostor(data[:4096])
    if found is not None:
        raise FormatError(f"{what} is not JSON: it is {found}", offset=0)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{what} is not UTF-8: {error.reason}", offset=error.start, end=error.end) from None
    if text.startswith("\ufeff") and lenient:
        data, text = data[3:], text[1:]
    if text.startswith("\ufeff"):
        raise FormatError(f"{what} begins with a byte order mark, which JSON forbids", offset=0, end=3)
    depth = _depth(data)
    if depth > max_depth:
        raise UnsafeContentError(f"{what} is nested {depth} deep; at most {max_depth} is accepted")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=float if lenient else _refuse_constant,
            parse_int=_bounded_int,
            parse_float=_finite_float,
        )
    except json.JSONDecodeError as error:
        raise FormatError(
            f"{what} is not valid JSON: {error.msg}", offset=len(text[: error.pos].encode("utf-8"))
        ) from None
    except FormatError as error:
        raise FormatError(f"{what}: {error.message}") from None
    if _SURROGATE.search(data) is not None:
        _check_surrogates(value, what)
    return value


def _depth(data: bytes) -> int:
    """The deepest nesting, up to where the text stops being JSON; linear, without recursion.

    Only brackets and quotes are kept. Quotes next to each other vanish in pairs: that changes no bracket's
    side of the quotes. What is then at odd places between quotes was inside strings.
    """
    if data.count(b"[") + data.count(b"{") <= 1:
        return data.count(b"[") + data.count(b"{")
    if b"\\" in data:
        data = _ESCAPE.sub(b"", data)
    kept = data.translate(None, _NOT_STRUCTURE).replace(b'""', b"")
    brackets = np.frombuffer(b"".join(kept.split(b'"')[::2]), np.uint8)
    if not len(brackets):
        return 0
    opening = (brackets == ord("[")) | (brackets == ord("{"))
    return max(0, int(np.cumsum(np.where(opening, 1, -1)).max()))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        duplicate = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise FormatError(f"the key {duplicate[:80]!r} is there twice in one object")
    return value


def _refuse_constant(text: str) -> Any:
    raise FormatError(f"{text} is not a JSON number")


def _bounded_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise FormatError(f"a number of {len(text)} digits")
    return int(text)


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise FormatError(f"the number {text[:40]} is beyond float64")
    return value


def _check_surrogates(value: Any, what: str) -> None:
    """An escaped half of a surrogate pair stands for no character; whole pairs were joined by the parser."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError(f"{what} holds half a surrogate pair, which is no character") from None


def as_javascript(text: bytes) -> bytes:
    """JSON with its numbers as JavaScript's ``JSON.stringify`` writes them.

    Example:
        >>> as_javascript(b'{"epsilon":1e-07,"rate":1.0,"name":"1e-07"}')
        b'{"epsilon":1e-7,"rate":1,"name":"1e-07"}'
    """
    return _TOKEN.sub(_number, text)


def _number(token: re.Match[bytes]) -> bytes:
    """A number that JSON in Python and in JavaScript write differently; strings and integers stay."""
    text = token[0]
    if text[:1] == b'"' or (b"." not in text and b"e" not in text):
        return text
    value = float(text)
    if value == 0:
        return b"0"
    if not 1e-6 <= abs(value) < 1e21:
        return re.sub(rb"(e[+-])0+(?=\d)", rb"\1", text)
    plain = f"{Decimal(text.decode()):f}".encode()
    return plain.rstrip(b"0").rstrip(b".") if b"." in plain else plain
