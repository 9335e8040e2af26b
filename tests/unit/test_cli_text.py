"""What the command line makes of numbers and names: sizes, tables, statistics."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

click = pytest.importorskip("click")

from weightlift._statistics import Histogram, Statistics, as_numbers  # noqa: E402
from weightlift.cli import _table, _text  # noqa: E402
from weightlift.cli._table import Column, Table  # noqa: E402


# ---- text ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (1024, "1.00 KiB"), (1536, "1.50 KiB"),
        (10 * 1024, "10.0 KiB"), (100 * 1024, "100 KiB"), (1023 * 1024, "1.00 MiB"), (5 << 30, "5.00 GiB"),
        (3 << 50, "3.00 PiB"), (4000 << 50, "4000 PiB"),
    ],
)  # fmt: skip
def test_sizes_have_three_digits(nbytes: int, text: str) -> None:
    assert _text.size(nbytes) == text


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1", 1), ("1048576", 1 << 20), ("4MiB", 4 << 20), ("4m", 4 << 20), ("4 MB", 4_000_000), ("1.5KiB", 1536),
        ("2G", 2 << 30), ("1kb", 1000), ("12b", 12),
    ],
)  # fmt: skip
def test_sizes_are_read(text: str, nbytes: int) -> None:
    assert _text.SIZE.convert(text, None, None) == nbytes


@pytest.mark.parametrize("text", ["", "MiB", "-1", "0", "0.1", "4XiB", "1e6", "4MiB4"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"size|byte"):
        _text.SIZE.convert(text, None, None)


def test_names_cannot_drive_the_terminal() -> None:
    assert _text.printable("a.b/ü") == "a.b/ü"
    assert _text.printable("a\x1b[31m\n\u202e\ud800") == r"a\x1b[31m\n\u202e\ud800"


def test_values_are_short_or_exact() -> None:
    third = np.float32(1) / np.float32(3)
    assert (_text.value(third), _text.value(third, exact=True)) == ("0.333333", "0.33333334")
    assert _text.value(ml_dtypes.bfloat16(0.1)) == "0.100098"
    assert _text.value(1 + 2j) == "1+2j"
    assert _text.value(np.int64(2**62 + 1)) == str(2**62 + 1)
    assert (_text.value(np.bool_(True)), _text.value(b"a\n")) == ("True", r"a\n")


def test_plain_table_aligns_and_drops_empty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table((Column("name"), Column("nothing"), Column("n", right=True)))
    table.add("long name", "", "1")
    table.add("x", "", "1,000", colour="red")
    table.show()
    assert capsys.readouterr().out == "name           n\nlong name      1\nx          1,000\n"


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("short", 8, ["short"]),
        ("model.layers.10.weight", 12, ["model.", "  layers.10.", "  weight"]),
        ("abcdefghij", 6, ["abcdef", "  ghij"]),
        ("│ ├ a.bcdefg", 8, ["│ ├ a.", "    bcde", "    fg"]),
        ("日本語.x", 4, ["日本", "  語", "  .x"]),
    ],
)
def test_long_names_fold_after_separators(text: str, width: int, lines: list[str]) -> None:
    assert _table.fold(text, width) == lines
    assert all(_table.cells(line) <= width for line in lines)


# ---- statistics ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint64", "bool", "complex64", "bfloat16"])
def test_statistics_in_pieces_are_those_of_the_whole(dtype: str) -> None:
    rng = np.random.default_rng(1)
    array = (rng.standard_normal(10_007) * 3 + 5).clip(0, 100)
    array = array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if dtype == "complex64":
        array += rng.standard_normal(10_007).astype(np.float32) * np.complex64(1j)
    statistics = Statistics()
    for piece in np.array_split(array, 13):
        statistics.add(piece)
    wide = array.astype(np.complex128 if dtype == "complex64" else np.float64)
    assert statistics.elements == statistics.finite == 10_007
    assert statistics.zeros == np.count_nonzero(wide == 0)
    assert statistics.minimum == pytest.approx(np.abs(wide).min()) and statistics.maximum == pytest.approx(
        np.abs(wide).max()
    )
    assert statistics.mean == pytest.approx(wide.mean()) and statistics.std == pytest.approx(wide.std())


def test_statistics_count_what_is_not_finite() -> None:
    statistics = Statistics()
    statistics.add(np.array([np.nan, 1, np.inf, -np.inf, 0, -np.inf, 3], np.float32))
    counts = (statistics.nans, statistics.positive_infinities, statistics.negative_infinities, statistics.finite)
    assert counts == (1, 1, 2, 3)
    assert (statistics.minimum, statistics.maximum, statistics.zeros) == (0, 3, 1)
    assert statistics.mean == pytest.approx(4 / 3)


def test_integers_keep_their_exact_range() -> None:
    statistics = Statistics()
    statistics.add(np.array([2**63 - 1, -(2**63)], np.int64))
    assert (statistics.minimum, statistics.maximum) == (-(2**63), 2**63 - 1)


def test_histogram_counts_every_finite_number() -> None:
    array = np.random.default_rng(2).standard_normal(5_000)
    histogram = Histogram(array.min(), array.max())
    for piece in np.array_split(np.append(array, [np.nan, np.inf]), 7):
        histogram.add(piece)
    assert histogram.counts.tolist() == np.histogram(array, 16)[0].tolist()


@pytest.mark.parametrize("dtype", ["float4_e2m1fn", "int4", "uint4"])
def test_packed_types_are_unpacked(dtype: str) -> None:
    every = np.arange(16, dtype=np.uint8)
    expected = every.view(getattr(ml_dtypes, dtype)).astype(np.float32)
    packed = every[::2] | every[1::2] << 4
    assert as_numbers(packed, dtype).astype(np.float32).tolist() == expected.tolist()
