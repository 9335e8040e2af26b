"""URLs and paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from weightlift._urls import as_text, encoded, file_url_path, is_file, local_path, scheme_of
from weightlift.errors import RoutingError, StorageError


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("model.json", None),
        ("/models/a.npz", None),
        ("C:\\models\\a.npz", None),
        ("c:/models/a.npz", None),
        ("a:b", None),
        ("odd name://x", None),
        ("file:///m", "file"),
        ("HTTPS://host/m?x=a://b", "https"),
        ("indexeddb://m", "indexeddb"),
        ("git+ssh://h/m", "git+ssh"),
        ("1http://h", None),
        ("", None),
    ],
)
def test_scheme(url: str, scheme: str | None) -> None:
    assert scheme_of(url) == scheme
    assert is_file(url) == (scheme in (None, "file"))


def test_path_objects_have_no_scheme() -> None:
    assert scheme_of(Path("a") / "model.json") is None
    assert local_path(Path("a") / "model.json") == Path("a/model.json")


@pytest.mark.parametrize("url", [b"model.json", 3, None])
def test_what_is_no_url_is_a_type_error(url: object) -> None:
    with pytest.raises(TypeError):
        as_text(url)  # type: ignore[arg-type]


@pytest.mark.skipif(os.name == "nt", reason="POSIX paths")
@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("plain/100%25.npz", "plain/100%25.npz"),
        ("file:///a%20b/m.json", "/a b/m.json"),
        ("FILE:///a/m.json", "/a/m.json"),
        ("file://localhost/a", "/a"),
        ("file://./m", "m"),
        ("file://models/m", "models/m"),
        ("file:///half%2", "/half%2"),
        ("file:///q?x=1#f", "/q?x=1#f"),
        ("file:///caf%C3%A9", "/café"),
        ("file:///%ff", os.fsdecode(b"/\xff")),
        ("file:///C:/m", "/C:/m"),
    ],
)
def test_local_path(url: str, path: str) -> None:
    assert local_path(url) == Path(path)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///C:/m/model.json", "C:/m/model.json"),
        ("file://C:/m", "C:/m"),
        ("file://C:\\m", "C:\\m"),
        ("file://localhost/d:/m", "d:/m"),
        ("file://./m", "./m"),
        ("file:///c%3A/m", "c:/m"),
    ],
)
def test_drive_letters_on_windows(url: str, path: str) -> None:
    assert file_url_path(url, windows=True) == path


def test_file_urls_of_pathlib_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a b?#%é.json"
    assert local_path(path.as_uri()) == path


def test_other_schemes_are_refused_by_name() -> None:
    with pytest.raises(RoutingError, match="s3://") as caught:
        local_path("s3://bucket/model.json")
    assert caught.value.url == "s3://bucket/model.json"


@pytest.mark.parametrize("url", ["", "file://", "a\0b", "file:///a%00b"])
def test_empty_paths_and_nul_are_refused(url: str) -> None:
    with pytest.raises(StorageError):
        local_path(url)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://h/a b", "http://h/a%20b"),
        ("http://h/a%20b", "http://h/a%20b"),
        ("http://h/100%", "http://h/100%25"),
        ("http://h/%zz%41", "http://h/%25zz%41"),
        ("http://h/a+b&c=d;e,f:g@h!$'()*~[0]", "http://h/a+b&c=d;e,f:g@h!$'()*~[0]"),
        ("http://h/ü?q=ü x&r=%C3%BC#ü", "http://h/%C3%BC?q=%C3%BC%20x&r=%C3%BC#ü"),
        ("http://me:a b@h/", "http://me:a b@h/"),
        ("http://h/a\x01b", "http://h/a\x01b"),
        ('http://h/"<>\\^`{|}', "http://h/%22%3C%3E%5C%5E%60%7B%7C%7D"),
    ],
)
def test_encoded(url: str, sent: str) -> None:
    assert encoded(url) == sent
    assert encoded(sent) == sent
