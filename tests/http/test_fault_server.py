"""The fault server does what its names say, seen by the standard library's client and a bare socket."""

from __future__ import annotations

import gzip
import http.client
import socket
from collections.abc import Iterator

import pytest
from tests.http import faults
from tests.http.fault_server import Fault, FaultServer, Resource

DATA = bytes(range(256)) * 1000


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer({"/f": DATA}) as server:
        yield server


def get(server: FaultServer, **headers: str) -> http.client.HTTPResponse:
    """The answer to a GET of ``/f``, not yet read."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/f", headers={n.replace("_", "-"): v for n, v in headers.items()})
    return connection.getresponse()


def test_honest(server: FaultServer) -> None:
    whole = get(server)
    assert (whole.status, whole.read()) == (200, DATA)
    part = get(server, Range="bytes=10-19")
    assert (part.status, part.read(), part.headers["Content-Range"]) == (206, DATA[10:20], f"bytes 10-19/{len(DATA)}")
    tail = get(server, Range=f"bytes={len(DATA) - 5}-")
    assert tail.read() == DATA[-5:]
    assert get(server, Range=f"bytes={len(DATA)}-").status == 416
    assert get(server, If_None_Match=whole.headers["ETag"]).status == 304
    assert get(server, If_Match='"other"').status == 412
    assert get(server, Range="bytes=0-9", If_Range='"other"').status == 200
    assert get(server, Range="bytes=0-9", If_Range=whole.headers["ETag"]).status == 206
    assert [r.range for r in server.requests[:3]] == [None, (10, 20), (len(DATA) - 5, None)]


def test_several_ranges(server: FaultServer) -> None:
    answer = get(server, Range="bytes=0-9, 500-599,1000-")
    assert answer.status == 206 and answer.headers["Content-Type"].startswith("multipart/byteranges; boundary=")
    parts = answer.read().split(b"\r\n--byte-ranges-0123456789")
    assert [p.partition(b"\r\n\r\n")[2] for p in parts[1:-1]] == [DATA[:10], DATA[500:600], DATA[1000:]]
    assert [r.range for r in server.requests] == [None] and len(server.requests[0].ranges) == 3
    server.fault = faults.where(lambda r: len(r.ranges) > 1, faults.whole_file(DATA))
    assert (get(server, Range="bytes=0-9,20-29").status, get(server, Range="bytes=0-9").status) == (200, 206)


def test_one_connection_serves_many_requests(server: FaultServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for _ in range(3):
        connection.request("GET", "/f")
        assert connection.getresponse().read() == DATA
    assert server.connections == 1 and len(server.requests) == 3


@pytest.mark.parametrize("chunked", [False, True])
def test_uploads_are_kept(server: FaultServer, chunked: bool) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("PUT", "/up", body=iter([b"ab", b"cd"]) if chunked else b"abcd", encode_chunked=chunked)
    assert connection.getresponse().status == 201
    assert server.stored == {"/up": b"abcd"}
    assert server.requests[0].body == b"abcd"


@pytest.mark.parametrize("fault", [faults.close_at(1000), faults.chunked_cut_at(1000)])
def test_cut_short(server: FaultServer, fault: Fault) -> None:
    server.fault = fault
    with pytest.raises(http.client.IncompleteRead):
        get(server).read()


@pytest.mark.parametrize("fault", [faults.reset_at(1000), faults.reset])
def test_reset(server: FaultServer, fault: Fault) -> None:
    server.fault = fault
    with pytest.raises(ConnectionResetError):
        get(server).read()


def test_hang_up(server: FaultServer) -> None:
    server.fault = faults.hang_up
    with pytest.raises(http.client.RemoteDisconnected):
        get(server)


@pytest.mark.parametrize("fault", [faults.silence, faults.stall_at(1000)])
def test_stall(server: FaultServer, fault: Fault) -> None:
    server.fault = fault
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(b"GET /f HTTP/1.1\r\n\r\n")
        received = b""
        server.wait_until(lambda: server.stalled == 1)
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            while data := client.recv(1 << 16):
                received += data
    assert received.partition(b"\r\n\r\n")[2] == (b"" if fault is faults.silence else DATA[:1000])


@pytest.mark.parametrize("fault", [faults.chunked, faults.no_length, faults.close_after, faults.paced(10e6)])
def test_right_in_another_way(server: FaultServer, fault: Fault) -> None:
    server.fault = fault
    answer = get(server, Range="bytes=100-")
    assert answer.status == 206 and answer.read() == DATA[100:]


def test_wrong_bodies(server: FaultServer) -> None:
    server.fault = faults.in_turn(
        faults.too_long(7), faults.too_short(7), faults.gzipped, faults.flipped(3), faults.whole_file(DATA)
    )
    bodies = [get(server, Range="bytes=0-99").read() for _ in range(5)]
    assert [len(b) for b in bodies[:2]] == [107, 93]
    assert gzip.decompress(bodies[2]) == DATA[:100]
    assert [a == b for a, b in zip(bodies[3], DATA, strict=False)] == [i != 3 for i in range(100)]
    assert bodies[4] == DATA


def test_wrong_headers(server: FaultServer) -> None:
    size = len(DATA)
    server.fault = faults.in_turn(
        faults.wrong_content_range(begin=1),
        faults.wrong_content_range(end=-1),
        faults.wrong_content_range(total=5),
        faults.content_range(None),
        faults.less_than_asked(10),
        faults.changed(Resource(b"x" * 50, etag='"2"')),
        faults.redirect("http://elsewhere/"),
        faults.retry_after_seconds(429, 7),
        faults.status(503),
    )
    answers = [get(server, Range="bytes=0-99") for _ in range(9)]
    assert [a.headers["Content-Range"] for a in answers[:6]] == [
        f"bytes 1-99/{size}", f"bytes 0-98/{size}", f"bytes 0-99/{size + 5}", None, f"bytes 0-9/{size}",
        "bytes 0-49/50",
    ]  # fmt: skip
    assert answers[5].headers["ETag"] == '"2"' and answers[6].headers["Location"] == "http://elsewhere/"
    assert [a.status for a in answers[6:]] == [302, 429, 503] and answers[7].headers["Retry-After"] == "7"


def test_no_http(server: FaultServer) -> None:
    server.fault = faults.in_turn(faults.garbage_headers, faults.huge_headers(200_000))
    with pytest.raises(http.client.BadStatusLine):
        get(server)
    with pytest.raises(http.client.HTTPException):
        get(server)
