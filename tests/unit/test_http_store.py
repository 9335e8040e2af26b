"""What the HTTP store does without a server: addresses, options, multipart framing, lists of ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import weightlift as wl
from weightlift._urls import redacted
from weightlift.errors import RoutingError, UnsafeContentError
from weightlift.stores import at_url
from weightlift.stores._http import HttpOptions, HttpStore
from weightlift.stores._http_form import FormStore
from weightlift.stores._http_ranges import _parse


def store(url: str, **options: Any) -> HttpStore:
    return HttpStore(url, HttpOptions(**options))


# --- addresses ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("url", "name", "relative", "address"),
    [
        ("http://h/a/model.json", "model.json", "b.bin", "http://h/a/b.bin"),
        ("http://h/a/model.json", "model.json", "sub/b.bin", "http://h/a/sub/b.bin"),
        ("http://h/model.json?sig=AK/2020/x", "model.json", "b.bin", "http://h/b.bin?sig=AK/2020/x"),
        ("http://h/a/model.json#part", "model.json", "b.bin", "http://h/a/b.bin"),
        ("http://h/a%20b/m%C3%A9.json", "mé.json", "w 1#2?.bin", "http://h/a%20b/w%201%232%3F.bin"),
        ("http://u:p@h:81/a/x.npz", "x.npz", "x.npz.crc32c", "http://u:p@h:81/a/x.npz.crc32c"),
        ("http://h/a/", "", "model.json", "http://h/a/model.json"),
    ],
)
def test_files_beside_a_url(url: str, name: str, relative: str, address: str) -> None:
    found, own = at_url(url, {})
    assert own == name
    assert found.address(relative) == address  # type: ignore[attr-defined]


def test_the_own_file_has_the_url_as_it_was_given() -> None:
    assert store("http://h/a%7Eb/m%2Ejson?x=%20").address("m.json") == "http://h/a%7Eb/m%2Ejson?x=%20"


@pytest.mark.parametrize("relative", ["", "/etc/passwd", "..", "../x", "a/../../x", "nul\0", "back\\slash"])
def test_names_that_escape_are_refused(relative: str) -> None:
    with pytest.raises(UnsafeContentError):
        store("http://h/a/model.json").address(relative)


@pytest.mark.parametrize(
    ("final", "address"),
    [
        ("http://h/v2/model.json", "http://h/v2/b.bin?token=1"),
        ("http://cdn/v2/model.json?signed=2", "http://cdn/v2/b.bin"),
        ("https://h/v2/model.json", "https://h/v2/b.bin"),
        ("http://h:8080/model.json", "http://h:8080/b.bin"),
    ],
)
def test_a_query_does_not_follow_a_redirect_to_another_host(final: str, address: str) -> None:
    moved = store("http://h/v1/model.json?token=1")
    moved._moved_to(final)
    assert moved.address("b.bin") == address


def test_a_converter_names_the_files_beside() -> None:
    signed = HttpStore("http://h/model.json", HttpOptions(), lambda name: f"http://signed/{name}?k=1")
    assert signed.address("b.bin") == "http://signed/b.bin?k=1"
    assert signed.address("model.json") == "http://h/model.json"


@pytest.mark.parametrize("url", ["ftp://h/x", "http:///x", "http://", "http://[::1/x"])
def test_not_an_http_url(url: str) -> None:
    with pytest.raises(RoutingError):
        store(url)


def test_messages_hold_no_secrets() -> None:
    assert redacted("https://me:pw@h/x?token=1#f") == "https://h/x?..."
    assert "pw" not in store("https://me:pw@h/x.npz?token=1").path("x.npz")
    assert "token" not in repr(wl.http("https://me:pw@h/x.npz?token=1"))


# --- options --------------------------------------------------------------------------------------
def test_unknown_options_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="no option retries"):
        wl.load("http://127.0.0.1:9/x.npz", retries=3)
    with pytest.raises(TypeError, match="local files have no option auth"):
        wl.load("x.npz", auth="token")
    with pytest.raises(TypeError, match="no option retries"):
        wl.http("http://127.0.0.1:9/m", retries=3)


def test_schemes_without_a_store_are_named() -> None:
    with pytest.raises(RoutingError, match="http://"):
        wl.load("gopher://h/x.npz")


# --- multipart ------------------------------------------------------------------------------------
def test_multipart_parts_are_framed_as_browsers_do() -> None:
    form = FormStore("http://h/up", HttpOptions(), {'a"b\r\n': "1"})
    boundary = form._boundary.encode()
    assert form._part("model.json", b"{}", file="model.json", kind="application/json") == (
        b"--" + boundary + b'\r\nContent-Disposition: form-data; name="model.json"; filename="model.json"\r\n'
        b"Content-Type: application/json\r\n\r\n{}\r\n"
    )
    assert b'name="a%22b%0D%0A"' in form._part('a"b\r\n', b"1")


def test_an_upload_has_one_file_of_weights() -> None:
    model = wl.ModelArtifacts(weights={"w": np.zeros(8, "f4")})
    with pytest.raises(wl.UnsupportedFeatureError, match="shard_size"):
        wl.save_model(model, "http://127.0.0.1:9/up", shard_size=16)


# --- lists of ranges ------------------------------------------------------------------------------
PART = b"--B\r\nContent-Type: x/y\r\nContent-Range: bytes %d-%d/%d\r\n\r\n%s\r\n"


def test_parts_are_taken_as_they_say_they_are() -> None:
    body = PART % (0, 2, 100, b"abc") + PART % (10, 13, 100, b"--B\n") + b"--B--\r\n"
    assert _parse(body, b"B", 100) == {(0, 3): b"abc", (10, 4): b"--B\n"}


@pytest.mark.parametrize(
    "body",
    [
        PART % (0, 2, 99, b"abc"),  # of another file
        PART % (0, 200, 100, b"abc"),  # cut
        PART % (5, 3, 100, b""),
        b"--B\r\nContent-Type: x/y\r\n\r\nabc\r\n--B--",
        b"--B\r\nno end",
        b"",
        b"<html>",
    ],
)
def test_parts_that_cannot_be_right_are_not_taken(body: bytes) -> None:
    assert _parse(body, b"B", 100) == {}
