"""The strict JSON reader: everything that is one valid JSON value, and nothing else."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightlift import _json
from weightlift.errors import FormatError, UnsafeContentError

LIMIT = 1 << 20

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=30,
)


@given(value=values, ascii_only=st.booleans())
def test_reads_what_json_writes(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert _json.loads(text, what="x", max_bytes=1 << 24) == value


@given(value=values, ascii_only=st.booleans())
def test_depth_is_exact(value, ascii_only):
    def depth(node):
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else None
        return 0 if children is None else 1 + max(map(depth, children), default=0)

    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    deep = depth(value)
    assert _json.loads(text, what="x", max_bytes=1 << 24, max_depth=deep) == value
    if deep:
        with pytest.raises(UnsafeContentError, match=f"nested {deep} deep"):
            _json.loads(text, what="x", max_bytes=1 << 24, max_depth=deep - 1)


@given(data=st.binary(max_size=200) | st.text('[]{}",:\\ue0"', max_size=60).map(str.encode))
def test_other_bytes_are_refused_with_the_right_error(data):
    try:
        value = _json.loads(data, what="x", max_bytes=LIMIT)
    except FormatError:
        return
    assert json.loads(data.decode()) == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n", "not valid JSON"),
        (b'{"a":1,"a":2}', "'a' is there twice"),
        (b'[{"b":{"a":1,"a":1}}]', "'a' is there twice"),
        (b'{"a":1,"\\u0061":2}', "'a' is there twice"),
        (b"NaN", "NaN is not a JSON number"),
        (b'{"scale": Infinity}', "Infinity is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
        (b"[1e999]", "beyond float64"),
        (b"1" * 5000, "5000 digits"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\uDC00x":1}', "surrogate"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'"\xc0\xaf"', "not UTF-8"),
        (b'{"a":', "not valid JSON"),
        (b'{"a":1,}', "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b'{"a":"\n"}', "not valid JSON"),
        (b"{'a':1}", "not valid JSON"),
        (b"[01]", "not valid JSON"),
        (b"<!DOCTYPE html><html>404</html>", "HTML"),
        (b"\n  <HTML><body>Not found</body></HTML>", "HTML"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error/>", "XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    ],
)
def test_refused(data, message):
    with pytest.raises(FormatError, match=message) as caught:
        _json.loads(data, what="model.json", max_bytes=LIMIT)
    assert str(caught.value).startswith("model.json")


def test_offset_is_in_bytes():
    with pytest.raises(FormatError) as caught:
        _json.loads('{"é":x}'.encode(), what="x", max_bytes=LIMIT)
    assert caught.value.offset == 6


def test_size_limit():
    assert _json.loads(b"[1]", what="x", max_bytes=3) == [1]
    with pytest.raises(UnsafeContentError, match="4 bytes"):
        _json.loads(b"[12]", what="x", max_bytes=3)


@pytest.mark.parametrize("unit", [b"[", b'{"a":', b'[{"a":'])
def test_deep_nesting_is_no_recursion_error(unit):
    with pytest.raises(UnsafeContentError, match="nested"):
        _json.loads(unit * 100_000, what="x", max_bytes=LIMIT)


def test_brackets_in_strings_do_not_count():
    value = {"[[[": ["]}", '\\"[', "{" * 200]}
    assert _json.loads(json.dumps(value).encode(), what="x", max_bytes=LIMIT, max_depth=2) == value


@pytest.mark.parametrize("data", [b'"' + b"\\" * 4_000_000, b"9" * 4_000_000, b'""' * 2_000_000, b"]" * 4_000_000])
def test_hostile_text_takes_linear_time(data):
    start = time.perf_counter()
    with pytest.raises(FormatError):
        _json.loads(data, what="x", max_bytes=1 << 24)
    assert time.perf_counter() - start < 3


def test_impostor_knows_weights_from_pages():
    assert _json.impostor(b'{"a": "<html>"}') is None
    assert _json.impostor(b"\x08\x00\x00\x00\x00\x00\x00\x00{}") is None
