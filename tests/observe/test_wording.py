"""How numbers and foreign text are written."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mottle.observe import wording


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0.0 s"), (8.44, "8.4 s"), (59.94, "59.9 s"), (59.96, "1:00"), (65, "1:05"), (7389, "2:03:09"), (math.nan, "-")],
)
def test_durations_are_rounded_before_they_are_split(seconds: float, words: str) -> None:
    assert wording.duration(seconds) == words


def test_a_share_just_under_one_never_reads_as_all() -> None:
    assert wording.percent(0.9999) == "99.9 %"
    assert wording.percent(0.967) == "96.7 %"
    assert wording.percent(1.0) == "100.0 %"


def test_metrics_are_told_by_their_name() -> None:
    assert wording.metric("test_accuracy", 0.5) == wording.metric("test_accuracy/1", 0.5) == "50.0 %"
    assert wording.metric("test_loss", 0.123456) == "0.1235"
    assert wording.metric("test_loss", math.nan) == "not a number"
    assert wording.metric("test_loss", None) == "not a number"
    assert [name for name, _ in wording.ordered_metrics({"a": 1.0, "test_loss": 1.0, "test_accuracy": 1.0})] == [
        "test_accuracy",
        "test_loss",
        "a",
    ]


@pytest.mark.parametrize(("per_s", "words"), [(1240.4, "1,240"), (64.0, "64.0"), (0.314, "0.31"), (0.0, "0.0"), (math.inf, "-")])
def test_rates_keep_three_figures(per_s: float, words: str) -> None:
    assert wording.rate(per_s) == words


@pytest.mark.parametrize(("number", "words"), [(0, "0 B"), (1536, "1.5 KiB"), (214 << 20, "214 MiB"), (5 << 40, "5.0 TiB")])
def test_sizes_are_in_binary_units(number: int, words: str) -> None:
    assert wording.bytes_size(number) == words


@given(st.text())
def test_cleaned_text_cannot_command_a_terminal_or_turn_around(text: str) -> None:
    cleaned = wording.clean(text)
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 or 0x202A <= ord(char) <= 0x202E for char in cleaned)
    assert wording.clean(cleaned) == cleaned
