"""What a server can do wrong: functions that change an honest answer, and schedules of them.

Each takes a :class:`Request` and the honest :class:`Answer` and gives what is sent. A schedule is a fault too: it
decides for each request which fault, if any, it gets.
"""

from __future__ import annotations

import gzip as gzip_module
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate

from tests.http.fault_server import Fault, Resource, file_answer
from tests.http.messages import Answer, Ending, Request

HTML = (("Content-Type", "text/html"),)


def honest(request: Request, answer: Answer) -> Answer:
    """No fault."""
    return answer


# --- the connection ---------------------------------------------------------------------------------
def reset_at(byte: int) -> Fault:
    """A TCP reset after that many bytes of the body."""
    return lambda request, answer: replace(answer, stop=byte, ending=Ending.RESET)


def close_at(byte: int) -> Fault:
    """An orderly end after that many bytes of the body, though more were promised."""
    return lambda request, answer: replace(answer, stop=byte, ending=Ending.CLOSE)


def stall_at(byte: int) -> Fault:
    """Nothing more after that many bytes of the body."""
    return lambda request, answer: replace(answer, stop=byte, ending=Ending.STALL)


def silence(request: Request, answer: Answer) -> Answer:
    """No answer at all."""
    return replace(answer, stop=-1, ending=Ending.STALL)


def hang_up(request: Request, answer: Answer) -> Answer:
    """Closed before the headers."""
    return replace(answer, stop=-1, ending=Ending.CLOSE)


def reset(request: Request, answer: Answer) -> Answer:
    """A TCP reset before the headers."""
    return replace(answer, stop=-1, ending=Ending.RESET)


def close_after(request: Request, answer: Answer) -> Answer:
    """The right answer, and then the connection is closed without a word."""
    return replace(answer, ending=Ending.CLOSE)


def paced(bytes_per_second: float) -> Fault:
    """The right answer, slowly."""
    return lambda request, answer: replace(answer, pace=bytes_per_second)


# --- the body ---------------------------------------------------------------------------------------
def too_long(extra: int) -> Fault:
    """More bytes than the range, and the length says so."""
    return lambda request, answer: replace(answer, body=answer.body + b"\xee" * extra)


def too_long_silently(extra: int) -> Fault:
    """More bytes than the length says: the rest looks like the next answer's head."""
    return lambda request, answer: replace(
        answer, claimed_length=len(answer.body), body=answer.body + b"\xee" * extra, ending=Ending.CLOSE
    )


def too_short(missing: int) -> Fault:
    """Fewer bytes than the range, and the length says so."""
    return lambda request, answer: replace(answer, body=answer.body[: max(0, len(answer.body) - missing)])


def chunked(request: Request, answer: Answer) -> Answer:
    """The right bytes in chunks, without a length."""
    return replace(answer, framing="chunked")


def chunked_cut_at(byte: int) -> Fault:
    """Chunks, and an orderly end without the last one."""
    return lambda request, answer: replace(answer, framing="chunked", stop=byte, ending=Ending.CLOSE)


def no_length(request: Request, answer: Answer) -> Answer:
    """The right bytes, ended by the end of the connection."""
    return replace(answer, framing="close", ending=Ending.CLOSE)


def gzipped(request: Request, answer: Answer) -> Answer:
    """Compressed, though nobody asked for that."""
    headers = answer.with_headers(content_encoding="gzip")
    return replace(answer, headers=headers, body=gzip_module.compress(answer.body, 1))


def flipped(byte: int) -> Fault:
    """One bit is wrong, and nothing tells so."""

    def fault(request: Request, answer: Answer) -> Answer:
        body = bytearray(answer.body)
        if body:
            body[byte % len(body)] ^= 0x10
        return replace(answer, body=bytes(body))

    return fault


# --- the headers ------------------------------------------------------------------------------------
def status(code: int, body: bytes = b"<!DOCTYPE html><h1>Sorry</h1>", **headers: str) -> Fault:
    """Another status, by default with a page."""
    return lambda request, answer: Answer(code, Answer(code, HTML).with_headers(**headers), body)


def retry_after_seconds(code: int, seconds: int) -> Fault:
    """Come back in that many seconds."""
    return status(code, retry_after=str(seconds))


def retry_after_date(code: int, seconds: float) -> Fault:
    """Come back at a date, which HTTP gives in whole seconds."""
    return lambda request, answer: status(code, retry_after=formatdate(time.time() + seconds, usegmt=True))(
        request, answer
    )


def whole_file(data: bytes) -> Fault:
    """200 with everything, whatever range was asked for."""
    return lambda request, answer: replace(
        answer, status=200, headers=answer.with_headers(content_range=None, accept_ranges=None), body=data
    )


def wrong_content_range(begin: int = 0, end: int = 0, total: int = 0) -> Fault:
    """A Content-Range that is off by this much, with a body that fits the honest one."""

    def fault(request: Request, answer: Answer) -> Answer:
        if request.range is None or answer.status != 206:
            return answer
        first, (last, size) = request.range[0], _span(answer)
        value = f"bytes {first + begin}-{last + end}/{size + total}"
        return replace(answer, headers=answer.with_headers(content_range=value))

    return fault


def _span(answer: Answer) -> tuple[int, int]:
    """(last byte, total size) of the honest Content-Range."""
    last, size = (answer.header("Content-Range") or "").rpartition("-")[2].split("/")
    return int(last), int(size)


def content_range(value: str | None) -> Fault:
    """A Content-Range of that text, or (None) none at all, on a 206."""
    return lambda request, answer: replace(answer, headers=answer.with_headers(content_range=value))


def less_than_asked(nbytes: int) -> Fault:
    """A 206 of fewer bytes, whose Content-Range says so truly."""

    def fault(request: Request, answer: Answer) -> Answer:
        if request.range is None or answer.status != 206 or len(answer.body) <= nbytes:
            return answer
        first, (_, size) = request.range[0], _span(answer)
        value = f"bytes {first}-{first + nbytes - 1}/{size}"
        return replace(answer, headers=answer.with_headers(content_range=value), body=answer.body[:nbytes])

    return fault


def changed(resource: Resource) -> Fault:
    """Another version of the file, served honestly."""
    return lambda request, answer: file_answer(request, resource)


def redirect(location: str, code: int = 302) -> Fault:
    """Go there."""
    return lambda request, answer: Answer(code, (("Location", location),))


def garbage_headers(request: Request, answer: Answer) -> Answer:
    """No HTTP at all."""
    return replace(answer, raw_head=b"\x00\xff\xfe SMTP ready\r\n: :\r\n\r\n", ending=Ending.CLOSE)


def huge_headers(nbytes: int) -> Fault:
    """Headers without end."""
    return lambda request, answer: replace(
        answer, headers=(*answer.headers, *((f"X-{i}", "x" * 1000) for i in range(nbytes // 1000)))
    )


# --- schedules --------------------------------------------------------------------------------------
def in_turn(*faults: Fault, then: Fault = honest) -> Fault:
    """The first request gets the first fault, and so on; those after get ``then``."""
    lock, left = threading.Lock(), list(faults)

    def schedule(request: Request, answer: Answer) -> Answer:
        with lock:
            fault = left.pop(0) if left else then
        return fault(request, answer)

    return schedule


def where(condition: Callable[[Request], bool], fault: Fault, otherwise: Fault = honest) -> Fault:
    """Only requests that a condition picks get the fault."""
    return lambda request, answer: (fault if condition(request) else otherwise)(request, answer)
