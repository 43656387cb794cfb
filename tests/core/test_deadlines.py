"""By when an order should be back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mottle.core.deadlines import Deadlines

S = 1_000_000_000


def test_a_first_order_gets_the_time_of_first_orders() -> None:
    assert Deadlines(10 * S, first_ns=60 * S).allowed_ns(0, 8) == 60 * S
    assert Deadlines(90 * S, first_ns=60 * S).allowed_ns(0, 8) == 90 * S


def test_without_a_floor_there_is_no_deadline() -> None:
    deadlines = Deadlines(None, first_ns=60 * S)
    deadlines.note(0, S, 8)
    assert deadlines.allowed_ns(0, 8) is None


@pytest.mark.parametrize(
    ("times_s", "samples", "allowed_s"),
    [
        ([1.0], 8, 3.0),  # 1 + 8 * 0.25
        ([1.0, 1.0, 1.0, 50.0], 8, 3.0),  # one outlier moves neither median
        ([1.0, 2.0, 3.0], 8, 2 + 8 * 1.4826),  # deviations 1, 0, 1: median 1
        ([1.0], 16, 6.0),  # twice the samples
        ([1.0], 2, 3.0),  # a smaller order may be all overhead
        ([0.001], 8, 0.5),  # the floor
    ],
)
def test_the_median_and_eight_deviations_are_allowed(times_s: list[float], samples: int, allowed_s: float) -> None:
    deadlines = Deadlines(S // 2, first_ns=60 * S)
    for time_s in times_s:
        deadlines.note(3, round(time_s * S), 8)
    assert deadlines.allowed_ns(3, samples) == pytest.approx(allowed_s * S)
    assert deadlines.allowed_ns(4, samples) == 60 * S, "another worker's times say nothing"


def test_only_the_last_times_count() -> None:
    deadlines = Deadlines(1, first_ns=S)
    for time_s in [100] * 40 + [1] * 32:
        deadlines.note(0, time_s * S, 8)
    assert deadlines.allowed_ns(0, 8) == 3 * S


def test_deadlines_pass_in_order_and_once() -> None:
    deadlines = Deadlines(S, first_ns=S)
    assert [deadlines.set(7, 30), deadlines.set(8, 10), deadlines.set(9, 20)] == [True, True, False]
    assert (deadlines.passed(9), deadlines.next_ns) == ([], 10)
    assert (deadlines.passed(20), deadlines.next_ns) == ([8, 9], 30)
    assert (deadlines.passed(30), deadlines.next_ns, deadlines.passed(99)) == ([7], None, [])


@given(st.lists(st.tuples(st.floats(0.01, 40), st.integers(1, 64)), min_size=1, max_size=32), st.integers(1, 64), st.floats(0.1, 1000))
def test_what_is_surely_short_is_what_the_medians_would_say(orders: list[tuple[float, int]], samples: int, floor_s: float) -> None:
    low, floored = Deadlines(1, first_ns=S), Deadlines(round(floor_s * S), first_ns=S)
    for time_s, count in orders:
        for deadlines in (low, floored):
            deadlines.note(0, round(time_s * S), count)
    usual = low.allowed_ns(0, samples)
    assert usual is not None
    assert floored.allowed_ns(0, samples) == max(usual, round(floor_s * S))
