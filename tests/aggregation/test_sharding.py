"""Sharded = unsharded: any cut at multiples of 4096 gives the identical decision, and the same values bit for bit.

Letters: N rows, D coordinates.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mottle import aggregation
from mottle.aggregation.decisions import Decision, Rules, Statistics, total
from mottle.core.layout import BLOCK

RULES: list[Any] = [
    "mean",
    "median",
    {"trimmed_mean": {"trim": 2}},
    {"phocas": {"trim": 2}},
    {"mea_med": {"num_byzantine": 2}},
    {"krum": {"num_byzantine": 2}},
    {"multi_krum": {"num_byzantine": 2}},
    {"bulyan": {"num_byzantine": 1}},
    "geometric_median",
    "rfa",
    {"rfa": {"z0": "center"}},
    {"centered_clipping": {"radius": 3.0, "iterations": 2}},
    {"zeno": {"trim": 2, "rho": 0.001, "gamma": 0.1}},
    "fltrust",
    {"nnm": {"num_byzantine": 2, "inner": "median"}},
    {"nnm": {"num_byzantine": 2, "inner": "krum"}},
    {"nnm": {"num_byzantine": 1, "inner": "bulyan"}},
    {"nnm": {"num_byzantine": 2, "inner": "fltrust"}},
]

NUM_ROWS, NUM_COORDINATES = 9, 7 * BLOCK + 123
COUNTS = np.array([3, 9, 1, 4, 4, 4, 2, 50, 3])


def rows_of(seed: int, dtype: torch.dtype) -> Tensor:
    """Some rows far away, two of them equal, one with NaN in one place."""
    generator = torch.Generator().manual_seed(seed)
    rows_ND = torch.randn(NUM_ROWS, NUM_COORDINATES, generator=generator, dtype=dtype)
    rows_ND[1] *= 1000
    rows_ND[4] = rows_ND[3]
    if seed % 2:
        rows_ND[7, int(torch.randint(NUM_COORDINATES, (1,), generator=generator))] = torch.nan
    return rows_ND


def vector_of(seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(NUM_COORDINATES, generator=torch.Generator().manual_seed(seed + 10**6), dtype=dtype)


def sharded(rule: aggregation.Rule, rows_ND: Tensor, vector_D: Tensor, cuts: list[int]) -> tuple[Decision, Tensor]:
    """The three phases, one shard after the other; the vector serves as centre and as reference."""
    ranges = list(pairwise([0, *cuts, rows_ND.shape[1]]))
    shards = [(rows_ND[:, start:stop], vector_D[start:stop]) for start, stop in ranges]
    finite_N = np.logical_and.reduce([rule.finite(rows) for rows, _ in shards])
    statistics = None
    if not rule.measures.nothing:
        bad = np.flatnonzero(~finite_N).tolist()
        parts = [rule.measure(rows, center=vector, reference=vector, excluded=bad) for rows, vector in shards]
        assert all(Statistics.from_wire(part.what, NUM_ROWS, part.to_wire()).sums == part.sums for part in parts)
        statistics = total(parts[::-1])
    finite = np.ones(NUM_ROWS, dtype=bool) if rule.name == "mean" else finite_N
    decision = rule.decide(statistics, NUM_ROWS, finite=finite, counts=COUNTS)
    decision = Decision.from_settings(decision.to_settings())
    return decision, torch.cat([rule.apply(rows, decision, center=vector) for rows, vector in shards])


@pytest.mark.parametrize("spec", RULES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), cuts=st.sets(st.integers(0, 7), max_size=5))
def test_any_cut_gives_the_identical_decision(spec: Any, dtype: torch.dtype, seed: int, cuts: set[int]) -> None:
    rule, rows_ND, vector_D = aggregation.build(spec), rows_of(seed, dtype), vector_of(seed, dtype)
    whole = rule.explain(rows_ND, COUNTS, center=vector_D, reference=vector_D)
    decision, aggregate_D = sharded(rule, rows_ND, vector_D, [cut * BLOCK for cut in sorted(cuts)])
    assert decision.to_settings() == whole.decision.to_settings()
    assert torch.equal(aggregate_D.nan_to_num(nan=7.0), whole.aggregate.nan_to_num(nan=7.0))


@pytest.mark.parametrize("spec", RULES[5:], ids=str)
def test_an_invalid_row_that_was_not_announced_is_found_in_the_sums(spec: Any) -> None:
    rule, rows_ND, vector_D = aggregation.build(spec), rows_of(1, torch.float32), vector_of(1, torch.float32)
    statistics = rule.measure(rows_ND, center=vector_D, reference=vector_D)
    assert statistics.finite.tolist() == [row != 7 for row in range(NUM_ROWS)]
    if statistics.outdated:
        with pytest.raises(aggregation.InputError, match="measure again without them"):
            rule.decide(statistics, NUM_ROWS)
    else:
        assert rule.decide(statistics, NUM_ROWS).invalid == (7,)


def test_statistics_of_different_rounds_do_not_add() -> None:
    rule = aggregation.build({"krum": {"num_byzantine": 1}})
    with pytest.raises(aggregation.InputError, match="cannot be added"):
        rule.measure(torch.ones(5, 3)) + rule.measure(torch.ones(6, 3))
    with pytest.raises(aggregation.InputError, match="measured for another rule"):
        Statistics.from_wire(rule.measures, 5, (0,) * 7)


def test_the_brain_decides_on_integers_alone() -> None:
    spec = {"multi_krum": {"num_byzantine": 2}}
    rule, rows_ND = aggregation.build(spec), rows_of(2, torch.float32)
    shards = [rows_ND[:, : 3 * BLOCK], rows_ND[:, 3 * BLOCK :]]
    sums = tuple(map(sum, zip(*(rule.measure(shard).to_wire() for shard in shards), strict=True)))
    told = Rules().decide(spec, sums, tuple(COUNTS.tolist()), NUM_ROWS)
    whole = rule.explain(rows_ND, COUNTS)
    assert told.selected == whole.chosen
    decision = Decision.from_settings(told.instructions)
    assert torch.equal(torch.cat([rule.apply(shard, decision) for shard in shards]), whole.aggregate)


def test_the_brain_skips_a_round_that_a_rule_cannot_survive() -> None:
    rules = Rules()
    assert not rules.wants_statistics({"median": {}})
    assert rules.wants_statistics({"krum": {"num_byzantine": 1}})
    told = rules.decide({"trimmed_mean": {"trim": 2}}, (), (5, 5, 5), 3)
    assert "2b < n" in told.skip
    short = rules.decide({"trimmed_mean": {"trim": 1}}, (), (5, 5, 5), 5)
    assert "2 are invalid" in short.skip
    assert rules.decide({"trimmed_mean": {"trim": 1}}, (), (5, 5, 5), 4).instructions["columns"] is None
