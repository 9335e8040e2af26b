"""Conditional requests and ranges (RFC 9110, sections 13 and 14), without input or output.

Starlette's ``FileResponse`` knows If-Range and ranges; it knows no other condition, answers 400 to ranges that are to
be ignored, and makes its ETag of a file's time and size alone. Writes are conditional here, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from email.utils import formatdate, parsedate_to_datetime

__all__ = ["MAX_RANGES", "etag_of", "http_date", "may_write", "ranges_of", "read_status", "wants_ranges"]

MAX_RANGES = 64
"""More ranges in one request than this are answered with the whole file."""

_TAG = re.compile(r'\s*(W/)?("[^"]*")\s*(?:,|\Z)')
_RANGE = re.compile(r"(\d*)-(\d*)\Z", re.ASCII)
_MAX_DIGITS = 20


def etag_of(status: os.stat_result) -> str:
    """A strong entity tag: files here are replaced, not changed in place, and a new one has another inode or time."""
    return f'"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}"'


def http_date(seconds: float) -> str:
    """``Sun, 06 Nov 1994 08:49:37 GMT``."""
    return formatdate(int(seconds), usegmt=True)


def _tags(header: str, *, weak: bool) -> set[str]:
    """The entity tags of a list; weak ones only if they may be compared."""
    return {tag for mark, tag in _TAG.findall(header) if weak or not mark}


def _seconds(date: str | None) -> int | None:
    """An HTTP date in seconds, or None for none and for what is none."""
    try:
        return None if date is None else int(parsedate_to_datetime(date).timestamp())
    except (TypeError, ValueError, OverflowError):
        return None


def may_write(headers: Mapping[str, str], current: str | None) -> bool:
    """Whether If-Match and If-None-Match allow to replace what is there; ``current`` is its tag, None if nothing is."""
    match, none_match = headers.get("if-match"), headers.get("if-none-match")
    if match is not None:
        found = current is not None and (match.strip() == "*" or current in _tags(match, weak=False))
        if not found:
            return False
    if none_match is not None and current is not None:
        return none_match.strip() != "*" and current not in _tags(none_match, weak=True)
    return True


def read_status(headers: Mapping[str, str], tags: Collection[str], modified: float) -> int:
    """200, 304 or 412 for a GET or HEAD of what has these tags (one a content coding) and time."""
    match, none_match = headers.get("if-match"), headers.get("if-none-match")
    if match is not None:
        if match.strip() != "*" and not _tags(match, weak=False) & set(tags):
            return 412
    elif (since := _seconds(headers.get("if-unmodified-since"))) is not None and int(modified) > since:
        return 412
    if none_match is not None:
        return 304 if none_match.strip() == "*" or _tags(none_match, weak=True) & set(tags) else 200
    since = _seconds(headers.get("if-modified-since"))
    return 304 if since is not None and int(modified) <= since else 200


def wants_ranges(headers: Mapping[str, str], tag: str, modified: float) -> bool:
    """Whether there is a Range header that If-Range lets stand."""
    if "range" not in headers:
        return False
    condition = headers.get("if-range")
    if condition is None:
        return True
    if '"' in condition:
        return condition.strip() == tag
    return _seconds(condition) == int(modified)


def ranges_of(header: str, size: int) -> list[tuple[int, int]] | None:
    """The ranges (first byte, byte after the last) of a Range header that lie in ``size`` bytes.

    Returns:
        None for a header that is to be ignored: another unit, malformed, or more ranges than are worth it. An empty
        list if none can be satisfied.
    """
    unit, _, text = header.partition("=")
    if unit.strip().lower() != "bytes":
        return None
    specs = [spec.strip() for spec in text.split(",") if spec.strip()]
    if not specs or len(specs) > MAX_RANGES:
        return None
    ranges = []
    for spec in specs:
        found = _RANGE.match(spec)
        if found is None or max(map(len, found.groups())) > _MAX_DIGITS:
            return None
        first, last = found.groups()
        if not first and not last:
            return None
        if not first:
            begin, end = max(0, size - int(last)), size
        else:
            begin, end = int(first), min(size, int(last) + 1) if last else size
            if last and int(last) < int(first):
                return None
        if begin < end:
            ranges.append((begin, end))
    if sum(end - begin for begin, end in ranges) > size:
        return None  # overlapping: more bytes than the file has
    return ranges
