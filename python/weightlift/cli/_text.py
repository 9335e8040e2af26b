"""Text for people: sizes, counts, shapes, names that are safe to print; and sizes as people type them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click
import numpy as np

__all__ = ["SIZE", "count", "pace", "printable", "seconds", "shape", "size", "value"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(nbytes: float) -> str:
    """``1536`` as ``"1.50 KiB"``: three digits, binary units."""
    value, unit = float(nbytes), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    if unit == 0:
        return f"{int(value)} B"
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {_UNITS[unit]}"


def pace(nbytes: float, elapsed: float) -> str:
    """``"0.40 s, 2.65 GB/s"``; the rate, in 10^9 bytes a second as hardware is rated, only where it means something."""
    rate = f", {nbytes / elapsed / 1e9:.2f} GB/s" if nbytes >= 1 << 20 and elapsed > 0 else ""
    return seconds(elapsed) + rate


def seconds(elapsed: float) -> str:
    """A duration with a unit that fits."""
    if elapsed < 1e-3:
        return f"{elapsed * 1e6:.0f} µs"
    if elapsed < 1:
        return f"{elapsed * 1e3:.0f} ms"
    return f"{elapsed:.1f} s" if elapsed < 60 else f"{int(elapsed // 60)} min {elapsed % 60:02.0f} s"


def count(n: int, noun: str) -> str:
    """``count(1, "tensor")`` is ``"1 tensor"``, of 2,000 ``"2,000 tensors"``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def value(x: object, *, exact: bool = False) -> str:
    """One element: floats to six digits, or ``exact``: the fewest digits that give the same value again."""
    if isinstance(x, bytes):
        return printable(x.decode("utf-8", "backslashreplace"))
    if exact or x is None:
        return printable(str(x))
    try:
        number = complex(x)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return printable(str(x))
    if isinstance(x, (bool, int, np.bool_, np.integer)):
        return str(x)
    if isinstance(x, (complex, np.complexfloating)):
        return f"{number.real:.6g}{number.imag:+.6g}j"
    return f"{number.real:.6g}"


def shape(dims: Sequence[int]) -> str:
    """``[2,3]``; one word, so that tables can be cut into columns."""
    return f"[{','.join(map(str, dims))}]"


def printable(text: str) -> str:
    """``text`` with everything escaped that could drive a terminal: names come from files of strangers."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)


class _Size(click.ParamType[int]):
    """A number of bytes: ``4194304``, ``4MiB``, ``1.5G``, ``100 MB``; an SI unit (MB) counts in thousands."""

    name = "size"

    _PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)(b?)\s*", re.IGNORECASE)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = self._PATTERN.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is not a size; write it like 4MiB, 256KiB or 1048576", param, ctx)
        digits, prefix, binary, byte = match.groups()
        base = 1000 if prefix and byte and not binary else 1024
        result = int(float(digits) * base ** "_kmgtp".index(prefix.lower() or "_"))
        if result <= 0:
            self.fail("a size must be at least one byte", param, ctx)
        return result


SIZE = _Size()
"""The click type of sizes."""
