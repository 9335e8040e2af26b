"""The subset of Python literals that npy headers are written in.

A header is the text of a dict: strings in either quote, integers (Python 2 wrote ``4L``), ``True``, ``False``,
tuples, lists and dicts, with or without a trailing comma. NumPy reads it with ``ast.literal_eval``; this
parser evaluates nothing, takes nothing else, and bounds depth and the length of integers.
"""

from __future__ import annotations

import re
from typing import Any

from weightlift.errors import FormatError

__all__ = ["parse_literal"]

MAX_DEPTH = 32
_MAX_DIGITS = 20  # no dimension or size has more

_SPACE = re.compile(r"[ \t\r\n\f]*")
_TOKEN = re.compile(
    r"""(?P<mark>[\[\](){},:])
      | (?P<int>-?[0-9]+)[lL]?
      | (?P<word>[A-Za-z_]+)(?!['"])
      | [uU]?(?:'(?P<single>(?:[^'\\\n]|\\.)*)'|"(?P<double>(?:[^"\\\n]|\\.)*)")""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)")
_SIMPLE_ESCAPES = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "r": "\r", "t": "\t"}
_WORDS = {"True": True, "False": False}
_CLOSING = {"(": ")", "[": "]", "{": "}"}


def parse_literal(text: str) -> Any:
    """The value that ``text`` stands for; FormatError says at which character it is not one."""
    parser = _Parser(text)
    value = parser.value(0)
    if parser.token[0] != "end":
        raise parser.error("unexpected text after the header's value")
    return value


class _Parser:
    """One token of look-ahead over the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.begin = 0
        self.token: tuple[str, Any] = ("end", None)
        self.advance()

    def error(self, message: str) -> FormatError:
        return FormatError(f"{message}, at character {self.begin} of the header: {self.text[self.begin :][:24]!r}")

    def advance(self) -> None:
        """Read the next token: (kind, value), kinds ``mark``, ``int``, ``word``, ``string``, ``end``."""
        space = _SPACE.match(self.text, self.at)
        self.begin = space.end() if space else self.at
        if self.begin == len(self.text):
            self.token = ("end", None)
            return
        match = _TOKEN.match(self.text, self.begin)
        if match is None:
            raise self.error("not a literal")
        self.at = match.end()
        kind, text = match.lastgroup or "", match.group(match.lastgroup or 0)
        if kind == "int":
            if len(text) > _MAX_DIGITS:
                raise self.error("integer of more than 20 digits")
            self.token = ("int", int(text))
        elif kind == "word":
            if text not in _WORDS:
                raise self.error(f"unexpected word {text[:24]!r}")
            self.token = ("word", _WORDS[text])
        elif kind == "mark":
            self.token = ("mark", text)
        else:
            self.token = ("string", self.unescape(text) if "\\" in text else text)

    def unescape(self, text: str) -> str:
        """The string that ``repr`` wrote as ``text``."""

        def one(match: re.Match[str]) -> str:
            code = match.group(1)
            if len(code) > 1:
                point = int(code[1:], 16)
                if point > 0x10FFFF:
                    raise self.error("escape beyond the last code point")
                return chr(point)
            if code not in _SIMPLE_ESCAPES:
                raise self.error(f"unknown escape \\{code}")
            return _SIMPLE_ESCAPES[code]

        return _ESCAPE.sub(one, text)

    def expect(self, mark: str) -> None:
        if self.token != ("mark", mark):
            raise self.error(f"expected {mark!r}")
        self.advance()

    def value(self, depth: int) -> Any:
        """Any value; the token after it is current on return."""
        kind, value = self.token
        if kind == "mark" and value in _CLOSING:
            if depth >= MAX_DEPTH:
                raise self.error(f"nested deeper than {MAX_DEPTH}")
            return self.dict(depth) if value == "{" else self.sequence(value, depth)
        if kind in ("end", "mark"):
            raise self.error("expected a value")
        self.advance()
        return value

    def sequence(self, opening: str, depth: int) -> Any:
        """A list, a tuple, or a value in parentheses."""
        closing, items, comma = _CLOSING[opening], [], False
        self.advance()
        while self.token != ("mark", closing):
            items.append(self.value(depth + 1))
            comma = self.token == ("mark", ",")
            if not comma:
                break
            self.advance()
        self.expect(closing)
        if opening == "[":
            return items
        return items[0] if len(items) == 1 and not comma else tuple(items)

    def dict(self, depth: int) -> dict[str, Any]:
        """A dict with string keys, each once."""
        result: dict[str, Any] = {}
        self.advance()
        while self.token != ("mark", "}"):
            kind, key = self.token
            if kind != "string" or key in result:
                raise self.error("repeated key" if kind == "string" else "expected a string as key")
            self.advance()
            self.expect(":")
            result[key] = self.value(depth + 1)
            if self.token != ("mark", ","):
                break
            self.advance()
        self.expect("}")
        return result
