"""A sweep's rows: which is best, what differs, what is written."""

import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mottle.tune.ranking import Row, best, ranked, score, searched, shown, table_csv

GOOD = Row(trial="a", state="done", values={"lr": 0.1, "strategy": "sync", "seed": 1}, metrics={"loss": 0.5, "samples": 100})
BETTER = Row(trial="b", state="stopped", values={"lr": 0.2, "strategy": {"async": {"rho": 0.5}}, "seed": 1}, metrics={"loss": 0.25})
BROKEN = Row(trial="c", state="failed", values={"lr": 9.0, "seed": 1}, metrics={"loss": 0.0}, error="diverged, badly")
NOWHERE = Row(trial="d", state="done", values={"seed": 1}, metrics={"loss": math.nan})
ROWS = [GOOD, BROKEN, BETTER, NOWHERE]


def test_the_best_is_the_best_of_those_that_did_not_fail() -> None:
    assert best(ROWS, "loss", "min") is BETTER
    assert best(ROWS, "loss", "max") is GOOD
    assert [row.trial for row in ranked(ROWS, "loss", "min")] == ["b", "a", "c", "d"]
    assert best([BROKEN, NOWHERE], "loss", "min") is None
    assert best([], "loss", "min") is None
    assert best(ROWS, "accuracy", "max") is None


@given(st.lists(st.floats(), max_size=8), st.sampled_from(["max", "min"]))
def test_ranking_loses_nobody_and_puts_scores_in_order(values: list[float], mode: str) -> None:
    rows = [Row(trial=str(number), state="done", metrics={"m": value}) for number, value in enumerate(values)]
    order = ranked(rows, "m", mode)
    assert sorted(row.trial for row in order) == sorted(row.trial for row in rows)
    known = [value for row in order if (value := score(row, "m")) is not None]
    assert known == sorted(known, reverse=mode == "max")
    assert all(score(row, "m") is not None for row in order[: len(known)])


def test_only_what_differs_is_a_column() -> None:
    assert searched(ROWS) == ["lr", "strategy"]
    assert searched([GOOD]) == ["lr", "strategy", "seed"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (64, "64"),
        (True, "yes"),
        (None, "-"),
        ("sync", "sync"),
        ({"sgd": {"lr": 0.1, "nesterov": False}}, "sgd(lr=0.1, nesterov=no)"),
        ({"sync": None}, "sync"),
        ([2, 4], "2 4"),
    ],
)
def test_values_are_shown_short(value: object, text: str) -> None:
    assert shown(value) == text


def test_the_table_is_read_back_whole() -> None:
    head, *lines = csv.reader(io.StringIO(table_csv(ROWS)))
    assert head == ["trial", "state", "evaluations", "lr", "strategy", "seed", "loss", "samples", "error"]
    assert lines[0] == ["a", "done", "0", "0.1", "sync", "1", "0.5", "100", ""]
    assert lines[1][-1] == "diverged, badly"
    assert lines[2][4] == "async(rho=0.5)"
