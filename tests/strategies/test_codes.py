"""Gradient codes: the worked numbers of the specification, and every set of stragglers that a code claims to bear."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mottle.strategies.codes import LARGEST, USABLE, Cyclic, Fractional, chosen_code, cyclic

WORKED = np.array([[0.5, 1, 0], [0, 1, -1], [0.5, 0, 1]])


def coded_sums(code, sums: np.ndarray) -> list[float]:
    return [sum(factor * sums[chunk] for chunk, factor in row) for row in code.rows]


@pytest.mark.parametrize(("lost", "a"), [(0, {1: 1, 2: 2}), (1, {0: 1, 2: 1}), (2, {0: 2, 1: -1})])
def test_the_worked_example(lost: int, a: dict[int, float]) -> None:
    """n = 3, s = 1, g = (3, 5, -2): w = (6.5, 7, -0.5), the sum is 6 whoever is lost."""
    code = Cyclic(WORKED, 1)
    assert code.rows == (((0, 0.5), (1, 1.0)), ((1, 1.0), (2, -1.0)), ((0, 0.5), (2, 1.0)))
    sent = coded_sums(code, np.array([3.0, 5.0, -2.0]))
    assert sent == [6.5, 7.0, -0.5]
    decoded = dict(code.decode({0, 1, 2} - {lost}))
    assert decoded == pytest.approx(a)
    assert sum(factor * sent[worker] for worker, factor in decoded.items()) == pytest.approx(6)


@pytest.mark.parametrize(("num_workers", "s"), [(n, s) for n in range(1, 8) for s in range(n)])
def test_every_set_of_stragglers_decodes_to_the_plain_sum(num_workers: int, s: int) -> None:
    sums = np.random.default_rng(num_workers).normal(size=max(num_workers, 1))
    for code in (cyclic(num_workers, s), Fractional(num_workers, s)):
        assert len(code.rows) == num_workers
        sent = coded_sums(code, sums)
        for survivors in combinations(range(num_workers), num_workers - s):
            decoded = code.decode(survivors)
            assert set(dict(decoded)) <= set(survivors)
            total = sum(factor * sent[worker] for worker, factor in decoded)
            assert total == pytest.approx(sums[: code.num_chunks].sum(), abs=1e-9)


@pytest.mark.parametrize(("num_workers", "s"), [(4, 1), (6, 2), (7, 3), (5, 4), (3, 0)])
def test_a_worker_of_the_cyclic_code_computes_its_own_chunk_and_the_next_s(num_workers: int, s: int) -> None:
    rows = cyclic(num_workers, s).rows
    assert [{chunk for chunk, _ in row} for row in rows] == [{(i + k) % num_workers for k in range(s + 1)} for i in range(num_workers)]
    assert all(dict(row)[i] == 1.0 for i, row in enumerate(rows))


def test_without_stragglers_the_cyclic_code_is_the_identity_and_one_more_missing_cannot_be_decoded() -> None:
    assert cyclic(4, 0).rows == tuple(((i, 1.0),) for i in range(4))
    for code in (cyclic(5, 2), Fractional(6, 2)):
        assert code.decode(range(code.num_chunks - 3 if isinstance(code, Cyclic) else 3)) is None


def test_groups_of_the_fractional_code_are_consecutive_and_one_survivor_of_each_is_enough() -> None:
    code = Fractional(6, 2)
    assert code.rows == (((0, 1.0),),) * 3 + (((1, 1.0),),) * 3
    assert code.decode({1, 2, 5}) == ((1, 1.0), (5, 1.0))
    assert code.decode({0, 1, 2}) is None


@given(num_workers=st.integers(1, 40), s=st.integers(0, 6), most=st.integers(1, 40))
def test_a_crew_that_is_no_multiple_has_groups_of_nearly_equal_size_that_bear_s_stragglers_each(num_workers, s, most) -> None:
    if num_workers <= s:
        return
    code = Fractional(num_workers, s, most_chunks=most)
    assert code.num_chunks == min(num_workers // (s + 1), most)
    sizes = [sum(row == ((chunk, 1.0),) for row in code.rows) for chunk in range(code.num_chunks)]
    assert sum(sizes) == num_workers
    assert min(sizes) >= s + 1
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("name", "num_workers", "s", "batch", "kind"),
    [
        ("auto", 6, 2, 60, Fractional),
        ("auto", 5, 1, 60, Cyclic),
        ("auto", 5, 1, 4, Fractional),  # less than a sample a chunk
        ("cyclic", 6, 2, 60, Cyclic),
        ("cyclic", 6, 2, 5, Fractional),
        ("fractional", 5, 1, 60, Fractional),
        ("auto", 11, 4, 60, Fractional),  # no draw is well conditioned
        ("auto", LARGEST + 1, 1, 60, Fractional),
    ],
)
def test_which_code_a_crew_gets(name: str, num_workers: int, s: int, batch: int, kind: type) -> None:
    code = chosen_code(name, num_workers, s, batch)
    assert isinstance(code, kind)
    assert code.num_chunks <= batch
    assert name == "cyclic" or not isinstance(code, Cyclic) or code.amplification <= USABLE


def test_the_same_numbers_give_the_same_code() -> None:
    first = cyclic(5, 2).matrix_NN
    cyclic.cache_clear()
    assert (cyclic(5, 2).matrix_NN == first).all()
