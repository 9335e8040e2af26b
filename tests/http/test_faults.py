"""Each thing that a server or a network can do wrong ends in the right bytes, or in the right error."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.http import faults
from tests.http.fault_server import Fault, FaultServer, Resource
from tests.http.messages import Request
from tests.http.support import FAST, IMPATIENT, assert_same, model, model_bytes

import weightlift as wl

PATH = "/m.safetensors"
TENSORS = model(600_000)


@pytest.fixture
def data(server: FaultServer, tmp_path: Path) -> bytes:
    data = model_bytes(TENSORS, tmp_path)
    server.files[PATH] = data
    return data


def load(server: FaultServer, fault: str = "", **options: Any) -> Any:
    """With patience, but for the faults that are silence."""
    patience = IMPATIENT if fault in SILENT else FAST
    return wl.load(server.url(PATH), **{**patience, **options})


def beyond(byte: int) -> Callable[[Request], bool]:
    """Requests of ranges from that byte on; the first request of a file is never one."""
    return lambda request: request.range is not None and request.range[0] >= byte


def part(fault: Fault) -> Fault:
    """Every request but those of the file's beginning gets the fault."""
    return faults.where(beyond(70_000), fault)


PASSING: dict[str, Fault] = {
    "reset before the headers": faults.reset,
    "hang up before the headers": faults.hang_up,
    "no answer": faults.silence,
    "reset at byte 0": faults.reset_at(0),
    "reset at byte 30,000": faults.reset_at(30_000),
    "closed at byte 1": faults.close_at(1),
    "closed at byte 30,000": faults.close_at(30_000),
    "stall at byte 0": faults.stall_at(0),
    "stall at byte 30,000": faults.stall_at(30_000),
    "chunks cut short": faults.chunked_cut_at(30_000),
    "408": faults.status(408),
    "425": faults.status(425),
    "429": faults.status(429),
    "429, Retry-After: 0": faults.retry_after_seconds(429, 0),
    "500": faults.status(500),
    "502": faults.status(502),
    "503, Retry-After in the past": faults.retry_after_date(503, -100),
    "504": faults.status(504),
}
"""What may pass: once, or three times running, it costs time and nothing else; for good it is a TransportError."""

SILENT = ("no answer", "stall at byte 0", "stall at byte 30,000")

HARMLESS: dict[str, Fault] = {
    "chunks": faults.chunked,
    "no length": faults.no_length,
    "closed after every answer": faults.close_after,
    "slow": faults.paced(2e6),
    "huge headers, within reason": faults.huge_headers(20_000),
}
"""What is unusual and right."""

WRONG: dict[str, Fault] = {
    "Content-Range begins later": faults.wrong_content_range(begin=1),
    "Content-Range begins earlier": faults.wrong_content_range(begin=-1),
    "Content-Range ends earlier": faults.wrong_content_range(end=-1),
    "Content-Range ends later": faults.wrong_content_range(end=1),
    "Content-Range of no sense": faults.content_range("bytes zero-nine/ten"),
    "Content-Range of another unit": faults.content_range("lines 1-2/3"),
    "no Content-Range": faults.content_range(None),
    "more than asked": faults.too_long(100),
    "less than asked": faults.too_short(100),
    "no HTTP": faults.garbage_headers,
    "no end of headers": faults.huge_headers(3_000_000),
    "compressed parts": faults.gzipped,
    "page with status 200": faults.status(200),
    "204": faults.status(204),
    "400": faults.status(400),
    "416": faults.status(416),
    "418": faults.status(418),
    "501": faults.status(501),
    "redirect in a loop": faults.redirect(PATH),
    "redirect to nowhere": faults.redirect("http://127.0.0.1:1/x"),
    "redirect to a file": faults.redirect("file:///etc/passwd"),
    "redirect without a place": faults.status(302),
}
"""What is never taken for the part that was asked for."""


@pytest.mark.parametrize("name", PASSING)
def test_once_on_the_first_request(server: FaultServer, data: bytes, name: str) -> None:
    server.fault = faults.in_turn(PASSING[name])
    assert_same(load(server, name), TENSORS)


@pytest.mark.parametrize("name", PASSING)
def test_once_on_a_part(server: FaultServer, data: bytes, name: str) -> None:
    turn = faults.in_turn(PASSING[name])
    server.fault = part(turn)
    assert_same(load(server, name), TENSORS)


@pytest.mark.parametrize("name", PASSING)
def test_for_good_on_the_first_request(server: FaultServer, data: bytes, name: str) -> None:
    server.fault = PASSING[name]
    with pytest.raises(wl.TransportError, match=r"m\.safetensors") as caught:
        load(server, name, attempts=2, connections=1)
    error = caught.value
    assert error.url == server.url(PATH)
    if name[:3].isdigit():
        assert error.status == int(name[:3]) and name[:3] in str(error)
    # Those that hand over bytes each time may come to an end by resuming; but not one that hands over none.
    assert error.attempts == 2 and len(server.requests) >= 2


@pytest.mark.parametrize("name", [n for n in PASSING if "30,000" not in n and "cut" not in n and "byte 1" not in n])
def test_for_good_on_parts(server: FaultServer, data: bytes, name: str) -> None:
    server.fault = part(PASSING[name])
    with pytest.raises(wl.TransportError) as caught:
        load(server, name, attempts=2)
    error = caught.value
    assert error.url == server.url(PATH) and error.attempts == 2
    assert error.offset is not None and error.end is not None and 70_000 <= error.offset < error.end <= len(data)


@pytest.mark.parametrize("name", HARMLESS)
def test_unusual_and_right(server: FaultServer, data: bytes, name: str) -> None:
    server.fault = HARMLESS[name]
    assert_same(load(server), TENSORS)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_parts_are_never_taken(server: FaultServer, data: bytes, name: str) -> None:
    server.fault = part(WRONG[name])
    with pytest.raises((wl.TransportError, wl.ChangedError)) as caught:
        load(server, verify=False)
    error = caught.value
    assert error.url is not None and server.url("")[:-1] in error.url
    assert "bytes" in str(error), "the range is said"


@pytest.mark.parametrize("name", [n for n in WRONG if n not in ("no HTTP", "no end of headers")])
def test_wrong_from_the_start(server: FaultServer, data: bytes, name: str) -> None:
    """Some of it is not wrong when nothing is known yet: a page is simply no weights file."""
    server.fault = WRONG[name]
    try:
        loaded = load(server, attempts=2)
    except (wl.StorageError, wl.FormatError) as error:
        assert error.url is not None
    else:
        assert_same(loaded, TENSORS)


def test_parts_that_break_off_are_resumed(server: FaultServer, data: bytes) -> None:
    """Each attempt begins behind the bytes that came; an attempt that brought many does not count as a failed one."""
    server.fault = faults.where(beyond(1), faults.close_at(70_000))
    assert_same(load(server, attempts=2, connections=1, part_bytes=1 << 20), TENSORS)
    begins = [r.range[0] for r in server.requests if r.range]
    assert np.count_nonzero(np.diff(begins) == 70_000) >= 3


def test_a_wrong_size_is_a_changed_file(server: FaultServer, data: bytes) -> None:
    server.fault = part(faults.wrong_content_range(total=1))
    with pytest.raises((wl.ChangedError, wl.TransportError)):
        load(server)


def changes(data: bytes, **options: Any) -> Fault:
    """From the first part on, another version of the same size."""
    return part(faults.changed(Resource(data[::-1], **options)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"etag": '"1"'}, {"etag": '"2"'}),
        ({"etag": '"1"', "modified": None}, {"etag": '"2"', "modified": None}),
        ({"etag": None, "modified": 1e9}, {"etag": None, "modified": 1e9 + 100}),
    ],
    ids=["ETag and date", "ETag alone", "date alone"],
)
def test_a_file_that_changes_midway(server: FaultServer, data: bytes, before: Any, after: Any) -> None:
    server.files[PATH] = Resource(data, **before)
    server.fault = changes(data, **after)
    with pytest.raises(wl.ChangedError) as caught:
        load(server, verify=False)
    assert caught.value.url == server.url(PATH)


def test_a_file_that_shrinks_or_grows_midway(server: FaultServer, data: bytes) -> None:
    server.files[PATH] = Resource(data, etag=None, modified=None)
    for other in (data[:-1], data + b"x"):
        server.fault = part(faults.changed(Resource(other, etag=None, modified=None)))
        with pytest.raises((wl.ChangedError, wl.TransportError)):
            load(server, verify=False)


def test_a_server_that_forgets_its_ranges_midway(server: FaultServer, data: bytes) -> None:
    """200 with the whole file in answer to a part is not the part: it is asked for again, then an error."""
    server.fault = part(faults.whole_file(data))
    with pytest.raises(wl.TransportError, match="200, with the whole file, to a part") as caught:
        load(server, verify=False)
    assert (caught.value.status, caught.value.attempts) == (200, FAST["attempts"])
    assert caught.value.url == server.url(PATH) and caught.value.offset is not None


def test_a_server_that_forgets_its_ranges_once(server: FaultServer, data: bytes) -> None:
    """One of several servers behind a name, say: the part is asked for again."""
    server.fault = part(faults.in_turn(faults.whole_file(data)))
    assert_same(load(server, verify=False), TENSORS)
    ranges = [r.range for r in server.requests]
    assert len(ranges) == len(set(ranges)) + 1


def test_a_server_without_ranges(server: FaultServer, data: bytes) -> None:
    server.fault = faults.whole_file(data)
    assert_same(load(server), TENSORS)
    assert len(server.requests) <= 2, "the file is fetched once, in order"
    assert wl.verify(server.url(PATH), **FAST).ok


def test_a_server_without_ranges_that_breaks_off(server: FaultServer, data: bytes) -> None:
    whole = faults.whole_file(data)
    server.fault = lambda request, answer: faults.close_at(100_000)(request, whole(request, answer))
    with pytest.raises((wl.TransportError, wl.TruncatedError)) as caught:
        load(server)
    assert caught.value.url == server.url(PATH)


def test_a_body_without_ranges_does_not_fill_the_disk(
    server: FaultServer, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit into memory goes to $TMPDIR, and leaves room there."""
    monkeypatch.setenv("TMPDIR", str(small_disk))
    data = model_bytes({"w": np.zeros((66 << 20) // 4, np.float32)}, tmp_path)
    whole = faults.whole_file(data)
    server.fault = lambda request, answer: faults.chunked(request, whole(request, answer))
    with pytest.raises(wl.StorageError, match="TMPDIR") as caught:
        load(server)
    assert caught.value.errno == errno.ENOSPC
    assert len(server.requests) == 1, "another try would end likewise"


@pytest.mark.parametrize("size", [0, 7, 1000])
def test_a_tiny_file(server: FaultServer, size: int) -> None:
    """The head that is asked for is longer than the file."""
    server.files["/tiny.safetensors"] = b"\x01" * size
    with pytest.raises(wl.FormatError) as caught:
        wl.load(server.url("/tiny.safetensors"), **FAST)
    assert caught.value.url is not None


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, wl.NotFoundError), (410, wl.NotFoundError), (401, wl.AccessError), (403, wl.AccessError)],
)
def test_refusals(server: FaultServer, data: bytes, status: int, kind: type[wl.StorageError]) -> None:
    """At once, without a second attempt; the page is never taken for weights."""
    server.fault = faults.status(status)
    with pytest.raises(kind, match=str(status)) as caught:
        load(server)
    assert caught.value.url == server.url(PATH)
    assert len(server.requests) == 1


def test_html_is_not_weights(server: FaultServer) -> None:
    server.files[PATH] = Resource(
        b"<!DOCTYPE html><html>not here, but with status 200</html>", content_type="text/html"
    )
    with pytest.raises(wl.FormatError, match="HTML"):
        load(server)


def test_a_flipped_bit_is_a_checksum_error(server: FaultServer, data: bytes) -> None:
    server.fault = part(faults.in_turn(faults.flipped(1234)))
    with pytest.raises(wl.ChecksumError) as caught:
        load(server)
    assert caught.value.url == server.url(PATH) and caught.value.tensor in TENSORS


def test_retry_after_is_obeyed(server: FaultServer, data: bytes) -> None:
    """In seconds and as a date; a date is cut to whole seconds, so two seconds ahead is at least one."""
    for fault in (faults.retry_after_seconds(429, 1), faults.retry_after_date(503, 2)):
        server.forget()
        server.fault = faults.in_turn(fault)
        assert_same(load(server), TENSORS)
        first, second = server.requests[:2]
        assert second.at - first.at >= 0.9


def test_retry_after_beyond_the_total_time(server: FaultServer, data: bytes) -> None:
    """Nobody waits an hour for an error."""
    server.fault = faults.retry_after_seconds(503, 3600)
    with pytest.raises(wl.TransportError) as caught:
        load(server, total_timeout=60)
    assert caught.value.status == 503 and len(server.requests) == 1


def test_the_total_time_is_a_limit(server: FaultServer, data: bytes) -> None:
    server.fault = faults.silence
    with pytest.raises(wl.TransportError):
        load(server, total_timeout=0.5, timeout=100, attempts=1000)


def test_nothing_listens() -> None:
    with pytest.raises(wl.TransportError) as caught:
        wl.load("http://127.0.0.1:1/m.safetensors", **FAST)
    assert caught.value.attempts == FAST["attempts"] and caught.value.url == "http://127.0.0.1:1/m.safetensors"


def test_no_such_host() -> None:
    with pytest.raises(wl.TransportError, match=r"nowhere\.invalid"):
        wl.load("http://nowhere.invalid/m.safetensors", **{**FAST, "attempts": 2})


@pytest.mark.parametrize("url", ["http://", "http:///x.npy", "http://host:port/x.npy", "http://[::1/x.npy"])
def test_not_a_url(url: str) -> None:
    with pytest.raises((wl.RoutingError, wl.StorageError, ValueError)):
        wl.load(url, **FAST)


def test_unknown_options_are_refused(server: FaultServer) -> None:
    with pytest.raises(TypeError, match="header"):
        wl.load(server.url(PATH), header={"X": "y"})
    assert not server.requests


def test_control_characters_do_not_get_into_requests(server: FaultServer, data: bytes) -> None:
    for headers in ({"X": "a\r\nY: b"}, {"X\r\nY": "b"}, {"X Y": "b"}):
        with pytest.raises((ValueError, wl.WeightliftError)):
            load(server, headers=headers)
    assert not any("y" in r.headers for r in server.requests)
