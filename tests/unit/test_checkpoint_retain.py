"""Which steps are kept: tables of cases."""

from __future__ import annotations

import math

import pytest

from weightlift.checkpoint._retain import Best, Retention, best_steps

LOSSES = {10: 0.5, 20: 0.1, 30: 0.4, 40: math.nan, 50: 0.1, 60: 0.9}


@pytest.mark.parametrize(
    ("retention", "gone"),
    [
        (Retention(last=None), []),
        (Retention(last=1), [10, 20, 30, 40, 50]),
        (Retention(last=3), [10, 20, 30]),
        (Retention(last=6), []),
        (Retention(last=99), []),
        (Retention(last=1, every=20), [10, 30, 50]),
        (Retention(last=1, every=7), [10, 20, 30, 40, 50]),
        (Retention(last=1, best=Best("loss", 1)), [10, 20, 30, 40]),
        (Retention(last=1, best=Best("loss", 2)), [10, 30, 40]),
        (Retention(last=1, best=Best("loss", 3)), [10, 40]),
        (Retention(last=1, best=Best("loss", 99)), [40]),
        (Retention(last=2, best=Best("loss", 1, "max")), [10, 20, 30, 40]),
        (Retention(last=1, best=Best("accuracy", 2)), [10, 20, 30, 40, 50]),
        (Retention(last=1, every=20, best=Best("loss", 1)), [10, 30]),
        (Retention(last=None, every=20), []),
    ],
)
def test_superseded(retention: Retention, gone: list[int]) -> None:
    metrics = {step: {"loss": loss} for step, loss in LOSSES.items()}
    assert retention.superseded(metrics) == gone


def test_nothing_is_superseded_by_nothing() -> None:
    assert Retention(last=1).superseded({}) == []


def test_best_first() -> None:
    metrics = {step: {"loss": loss} for step, loss in LOSSES.items()} | {70: {}}
    assert best_steps(metrics, "loss") == [50, 20, 30, 10, 60]
    assert best_steps(metrics, "loss", "max") == [60, 10, 30, 50, 20]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Retention(last=0),
        lambda: Retention(every=0),
        lambda: Best("loss", 0),
        lambda: Best("loss", 1, "least"),
    ],
)
def test_wrong_arguments(make: object) -> None:
    with pytest.raises(ValueError, match="keep_"):
        make()  # type: ignore[operator]
