"""The compiled HTTP client as Python sees it: reads, plans, uploads, errors. Its parts are tested in cpp/tests."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.http_server import Exchange, serve

from weightlift import _core, _http, errors

REPOSITORY = Path(__file__).resolve().parent.parent.parent
NONE = 0xFFFFFFFF
DATA = np.random.default_rng(1).integers(0, 256, 3 << 20, np.uint8).tobytes()


def client(**options: Any) -> _http.Client:
    return _http.Client(_http.Options(**{"backoff": 0.001, "proxy": "", **options}))


def run(code: str) -> list[str]:
    """The words that a program prints, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def read_plan(reader: Any, ops: list[tuple[int, int, int]], out: Any, **more: Any) -> Any:
    """Ops are (offset, nbytes, destination); one tensor each."""
    columns = np.array(ops, np.uint64).reshape(-1, 3)
    n = len(columns)
    zeros = np.zeros(n, np.uint32)
    return _core.execute_read(
        [reader], [out], zeros, np.arange(n, dtype=np.uint32), columns[:, 0], columns[:, 1], zeros, columns[:, 2],
        np.full(n, NONE, np.uint32), [], check_kind=np.ones(n, np.uint8), **more,
    )  # fmt: skip


def test_importing_the_package_does_not_load_libcurl() -> None:
    code = (
        "import weightlift, sys; print('weightlift._http' in sys.modules, 'libcurl' in open('/proc/self/maps').read())"
    )
    assert run(code) == ["False", "False"]


def test_open_and_read() -> None:
    headers = {
        "ETag": '"v1"',
        "Last_Modified": "Mon, 02 Nov 2026 10:00:00 GMT",
        "Content_Type": "application/x-weights",
    }
    with serve(lambda x: x.reply_range(DATA, **headers)) as server:
        http = client()
        reader = http.open(f"{server.url}/w.bin?token=hidden", head=1000)
        assert isinstance(reader, _core.Reader)
        assert (reader.size, reader.ranged, reader.etag) == (len(DATA), True, '"v1"')
        assert reader.last_modified == headers["Last_Modified"]
        assert reader.content_type == "application/x-weights"
        assert reader.name == f"{server.url}/w.bin?..."
        assert reader.final_url == f"{server.url}/w.bin?token=hidden"
        assert reader.identity == http.open(f"{server.url}/w.bin?token=hidden", head=10).identity
        before = http.requests
        assert reader.read_at(0, 1000) == DATA[:1000]
        assert http.requests == before
        out = bytearray(5000)
        reader.read_into(500, out)
        assert bytes(out) == DATA[500:5500]
        assert http.requests == before + 1
        assert server.seen[-1].range() == (1000, 5500)
        assert server.seen[-1].headers["If-Range"] == '"v1"'
        assert reader.read_at(len(DATA), 0) == b""
        with pytest.raises(errors.TruncatedError) as caught:
            reader.read_at(len(DATA) - 1, 2)
        assert caught.value.url == reader.name
        assert caught.value.path is None


def test_a_plan_reads_parts_in_few_requests_and_hashes_them() -> None:
    with serve(lambda x: x.reply_range(DATA, ETag='"v1"')) as server:
        http = client()
        reader = http.open(server.url, head=1)
        out = np.zeros(3000, np.uint8)
        ops = [(100, 1000, 0), (2000, 500, 1000), (2500, 1500, 1500)]
        before = http.requests
        sums = read_plan(reader, ops, out)
        assert http.requests == before + 1  # the gap is read and thrown away
        stored = [DATA[o : o + n] for o, n, _ in ops]
        assert out.tobytes() == b"".join(stored)
        assert list(sums) == [_core.crc32c(s) for s in stored]


@pytest.mark.parametrize("connections", [0, 1, 5])
def test_a_plan_of_many_parts(connections: int) -> None:
    with serve(lambda x: x.reply_range(DATA, ETag='"v1"')) as server:
        http = client(connections=connections, part_bytes=200_000)
        reader = http.open(server.url)
        out = np.zeros(len(DATA), np.uint8)
        done: list[int] = []
        sums = read_plan(reader, [(0, len(DATA), 0)], out, progress=lambda d, _: done.append(d))
        assert out.tobytes() == DATA
        assert sums[0] == _core.crc32c(DATA)
        assert done[-1] == len(DATA)


def test_conversion_of_what_comes() -> None:
    values = np.arange(300_000, dtype=np.float32)
    with serve(lambda x: x.reply_range(b"abc" + values.tobytes(), ETag='"v1"')) as server:
        reader = client(part_bytes=100_001).open(server.url)
        out = np.zeros(len(values), np.float16)
        one = np.zeros(1, np.uint32)
        _core.execute_read(
            [reader], [out], one, one, np.array([3], np.uint64), np.array([values.nbytes], np.uint64), one,
            np.zeros(1, np.uint64), one, [[("cast", "float32", "float16", True)]],
        )  # fmt: skip
        assert np.array_equal(out, np.minimum(values, 65504).astype(np.float16))


def flaky(times: int, answer: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
    """Fails a number of requests by ``answer``, and gives ranges of DATA then."""
    left = [times]
    lock = threading.Lock()

    def reply(exchange: Exchange) -> None:
        with lock:
            failing = left[0] > 0
            left[0] -= failing
        if failing:
            answer(exchange)
        else:
            exchange.reply_range(DATA, ETag='"v1"')

    return reply


def test_transport_error_of_a_direct_call() -> None:
    with serve(flaky(99, lambda x: x.reply(503, b"come back later\n", Content_Type="text/plain"))) as server:
        with pytest.raises(errors.TransportError, match=r"503 .come back later") as caught:
            client(attempts=3).open(f"{server.url}/w?key=secret")
        error = caught.value
        assert (error.url, error.status, error.attempts) == (f"{server.url}/w?...", 503, 3)
        assert "secret" not in str(error)
        assert len(server.seen) == 3


def test_transport_error_of_a_plan_names_tensor_and_range() -> None:
    with serve(lambda x: x.reply_range(DATA, ETag='"v1"')) as server:
        reader = client(attempts=2).open(server.url, head=100)
        server.answer = lambda x: x.reply(500)
        out = np.zeros(1000, np.uint8)
        with pytest.raises(errors.TransportError) as caught:
            read_plan(reader, [(100, 500, 0), (600, 500, 500)], out, names=["first", "second"])
        error = caught.value
        assert (error.url, error.status, error.attempts, error.tensor) == (reader.name, 500, 2, "first")
        assert (error.offset, error.end) == (100, 1100)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, errors.NotFoundError), (410, errors.NotFoundError), (401, errors.AccessError), (403, errors.AccessError)],
)
def test_refusals_are_final_and_have_their_class(status: int, kind: type[Exception]) -> None:
    page = b"<html><head><title>Not today</title></head></html>"
    with serve(lambda x: x.reply(status, page, Content_Type="text/html")) as server:
        with pytest.raises(kind, match=f"answers {status} .Not today.*url http"):
            client().open(server.url)
        assert len(server.seen) == 1


def test_nobody_listens() -> None:
    with serve(lambda x: x.reply(200)) as server:
        url = server.url
    with pytest.raises(errors.TransportError) as caught:
        client(attempts=2).get(url, limit=10)
    assert (caught.value.status, caught.value.attempts) == (None, 2)


def test_changed_file() -> None:
    with serve(lambda x: x.reply_range(DATA, ETag='"v1"')) as server:
        reader = client().open(server.url, head=10)
        server.answer = lambda x: x.reply(200, DATA[:100], ETag='"v2"')
        with pytest.raises(errors.ChangedError, match=r'"v1".*"v2"'):
            reader.read_at(50, 10)


def test_sequential_lane() -> None:
    with serve(lambda x: x.reply(200, DATA)) as server:
        http = client()
        reader = http.open(server.url)
        assert (reader.ranged, reader.size) == (False, len(DATA))
        out = np.zeros(len(DATA), np.uint8)
        read_plan(reader, [(0, len(DATA), 0)], out)
        assert out.tobytes() == DATA
        assert reader.read_at(12345, 10) == DATA[12345:12355]
        assert http.requests == 1


def test_get_and_request() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.reply(201 if exchange.command == "POST" else 200, exchange.body or b"hello", X_Kind="café")

    with serve(answer) as server:
        http = client(headers=[("X-Mine", "yes")])
        response = http.get(server.url, limit=5)
        assert (response.status, response.body, response.url) == (200, b"hello", f"{server.url}/")
        assert ("X-Kind", "café") in response.headers
        assert server.seen[-1].headers["X-Mine"] == "yes"
        with pytest.raises(errors.FormatError, match="longer than the 4 bytes"):
            http.get(server.url, limit=4)
        posted = http.request("POST", server.url, body=b'{"a": 1}', headers=[("Content-Type", "application/json")])
        assert (posted.status, posted.body) == (201, b'{"a": 1}')
        assert server.seen[-1].headers["Content-Type"] == "application/json"
        head = http.request("HEAD", server.url, limit=1)
        assert (head.body, dict(head.headers)["Content-Length"]) == (b"", "5")
        assert http.request("HEAD", server.url).body == b""
        assert http.request("DELETE", server.url).status == 200


@pytest.mark.parametrize(
    "call",
    [
        lambda: client().open("ftp://127.0.0.1/x"),
        lambda: client().open("http://127.0.0.1/x\r\nHost: other"),
        lambda: client().get("http://127.0.0.1/", limit=1, headers=[("X-A", "b\r\nX-C: d")]),
        lambda: client().request("GET /", "http://127.0.0.1/"),
        lambda: client(connections=17),
        lambda: client(attempts=0),
        lambda: client(http_version="3"),
    ],
)
def test_what_cannot_be_sent_is_a_value_error(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        call()


def test_upload_by_a_plan() -> None:
    arrays = [np.frombuffer(DATA, np.uint8, 1_500_000), np.frombuffer(DATA, np.uint8, 1000, 1_500_000)]
    with serve(lambda x: x.reply(200, b"stored")) as server:
        http = client()
        upload = http.upload(
            f"{server.url}/m", method="POST", size=1_501_000, prefix=b"<<", suffix=b">>", headers=[("X-A", "b")]
        )
        assert isinstance(upload, _core.Writer)
        index = np.array([0, 1], np.uint32)
        _core.execute_write(
            [upload], [], arrays, np.zeros(2, np.uint32), index, np.array([0, 1_500_000], np.uint64),
            np.array([1_500_000, 1000], np.uint64), np.zeros(2, np.uint64), np.full(2, NONE, np.uint32), index, [], 2,
        )  # fmt: skip
        upload.commit()
        assert (upload.response.status, upload.response.body) == (200, b"stored")
        assert server.seen[-1].body == b"<<" + DATA[:1_501_000] + b">>"
        assert server.seen[-1].command == "POST"
        assert server.seen[-1].headers["X-A"] == "b"
        assert http.bytes_sent == 1_501_004


def test_upload_is_refused() -> None:
    with serve(lambda x: x.reply(403, b"no\n", Content_Type="text/plain")) as server:
        upload = client().upload(server.url, size=3)
        with pytest.raises(errors.AccessError, match=r"403 \(no\)"):
            upload.write_at(0, b"abc")
            upload.commit()


@pytest.mark.parametrize("plan", [False, True], ids=["direct", "plan"])
def test_interrupt_while_no_byte_comes(plan: bool) -> None:
    """Ctrl-C reaches a read that waits; far sooner than the stall timeout."""
    code = f"""
import _thread, sys, threading, time
import numpy as np
from tests.unit.http_server import serve
from tests.unit.test_http_core import DATA, client, read_plan
release = threading.Event()
def answer(x):
    if x.range() == (0, 1):
        x.reply_range(DATA, ETag='"v1"')
    else:
        _thread.interrupt_main()
        release.wait(60)
with serve(answer) as server:
    reader = client().open(server.url, head=1)
    begin = time.monotonic()
    try:
        if {plan}:
            read_plan(reader, [(1, 1000000, 0)], np.zeros(1000000, np.uint8))
        else:
            reader.read_at(1, 10)
    except KeyboardInterrupt:
        print("interrupted", time.monotonic() - begin < 10)
    release.set()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY
    )
    assert done.stdout.split() == ["interrupted", "True"], done.stderr


def test_a_forked_child_connects_anew() -> None:
    code = """
import os
from tests.unit.http_server import serve
from tests.unit.test_http_core import DATA, client
with serve(lambda x: x.reply_range(DATA, ETag='"v1"')) as server:
    http = client()
    reader = http.open(server.url, head=1)
    reader.read_at(1, 10)
    child = os.fork()
    if child == 0:
        good = reader.read_at(100, 50) == DATA[100:150]
        del reader, http
        os._exit(0 if good else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), reader.read_at(7, 5) == DATA[7:12], len(server.seen))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY
    )
    assert done.stdout.split() == ["0", "True", "4"], done.stderr
