"""Exact sums: against math.fsum, and the laws that rounding breaks."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mottle.core.exactsum import INFINITE, add, exact_sum, exact_sums, from_digits, to_float

finite = st.floats(allow_nan=False, allow_infinity=False)
subnormal = st.floats(min_value=-1e-307, max_value=1e-307)


def fsum_or_infinity(values: list[float]) -> float:
    try:
        return math.fsum(values)
    except OverflowError:  # fsum gives up on an intermediate overflow; scaled down by a power of two it does not
        scaled = math.fsum(value / 4096 for value in values)
        return scaled * 4096.0


@given(st.lists(finite | subnormal, max_size=40))
def test_the_sum_is_the_correctly_rounded_one(values: list[float]) -> None:
    assert to_float(exact_sum(values)) == fsum_or_infinity(values)


@given(st.lists(finite, min_size=1, max_size=30), st.data())
def test_any_cut_and_any_order_give_the_same_integer(values: list[float], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(values)))
    shuffled = data.draw(st.permutations(values))
    assert add([exact_sum(values[cut:]), exact_sum(values[:cut])]) == exact_sum(values) == exact_sum(shuffled)


@given(finite)
def test_one_value_comes_back_bit_for_bit(value: float) -> None:
    assert to_float(exact_sum([value])) == value


def test_small_addends_survive_a_huge_one_that_cancels() -> None:
    assert to_float(exact_sum([1e308, 1.0, 5e-324, -1e308, -1.0])) == 5e-324


def test_columns_are_summed_apart() -> None:
    values_BK = np.array([[1.0, 1e16, 0.0], [2.0, 1.0, -0.0], [3.0, -1e16, 0.0]])
    assert [to_float(total) for total in exact_sums(values_BK)] == [6.0, 1.0, 0.0]


def test_empty_sums_are_zero() -> None:
    assert exact_sum([]) == 0
    assert exact_sums(np.zeros((0, 3))) == (0, 0, 0)


def test_overflow_and_infinity_come_out_infinite_and_stay_so() -> None:
    assert to_float(exact_sum([1.7e308, 1.7e308])) == math.inf
    assert to_float(add([exact_sum([math.inf]), exact_sum([-1.7e308] * 100)])) == math.inf
    assert to_float(exact_sum([-math.inf, 3.0])) == -math.inf
    assert exact_sum([math.inf]) == INFINITE


@pytest.mark.parametrize("values", [[math.nan], [1.0, math.nan], [math.inf, -math.inf]])
def test_what_has_no_sum_raises(values: list[float]) -> None:
    with pytest.raises(ValueError, match="exact_sums got"):
        exact_sum(values)


def test_only_a_table_has_columns() -> None:
    with pytest.raises(ValueError, match="shape"):
        exact_sums([1.0, 2.0])


def test_digits_without_carries_done_are_read_with_their_signs() -> None:
    digits_KL = np.array([[-1, 0], [1 << 40, 1], [5, -3]])
    assert from_digits(digits_KL) == (-1, (1 << 40) + (1 << 32), 5 - (3 << 32))
