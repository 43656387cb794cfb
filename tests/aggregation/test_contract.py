"""The contract of every rule: laws that hold for every input, up to rounding and the tie rules. Which law holds for which rule is a table.

Letters: N rows, D coordinates.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mottle import aggregation

pytestmark = pytest.mark.filterwarnings("ignore:multi_krum")


@dataclass(frozen=True)
class Case:
    """A rule for N=9 rows and the laws it keeps."""

    spec: Any
    translation: bool = True
    scale: bool = True
    sign: bool = True
    rotation: bool = False
    coordinate_scale: bool = False
    constant: bool = True
    gated: bool = True
    keeps_out_huge_rows: bool = True
    honest_range: int = 0
    """Largest number of faulty rows with which every coordinate stays between honest values."""


def reference(num_coordinates: int) -> Tensor:
    return torch.arange(1.0, num_coordinates + 1, dtype=torch.float64)


CASES = [
    Case("mean", rotation=True, coordinate_scale=True, gated=False, keeps_out_huge_rows=False),
    Case({"krum": {"num_byzantine": 2}}, rotation=True),
    Case({"multi_krum": {"num_byzantine": 2}}, rotation=True),
    Case({"bulyan": {"num_byzantine": 1}}, sign=False),
    Case("median", coordinate_scale=True, honest_range=4),
    Case({"trimmed_mean": {"trim": 2}}, coordinate_scale=True, honest_range=2),
    Case({"phocas": {"trim": 2}}, sign=False),
    Case({"mea_med": {"num_byzantine": 2}}, sign=False),
    Case("geometric_median", rotation=True),
    Case("rfa", translation=False, scale=False, rotation=True),
    Case({"rfa": {"z0": "mean"}}, scale=False, rotation=True),
    Case({"centered_clipping": {"radius": 1.0}}, translation=False, scale=False, rotation=True, constant=False),
    Case({"nnm": {"num_byzantine": 2, "inner": "mean"}}, rotation=True, keeps_out_huge_rows=False),
    Case({"nnm": {"num_byzantine": 2, "inner": "median"}}),
    Case({"nnm": {"num_byzantine": 2, "inner": "krum"}}, rotation=True),
    Case({"nnm": {"num_byzantine": 1, "inner": "bulyan"}}, sign=False),
    Case({"nnm": {"num_byzantine": 2, "inner": "geometric_median"}}, rotation=True),
    Case({"nnm": {"num_byzantine": 2, "inner": "trimmed_mean"}}),
    Case({"nnm": {"num_byzantine": 2, "inner": {"centered_clipping": {"radius": 1.0}}}}, translation=False, scale=False, constant=False),
    Case({"nnm": {"num_byzantine": 2, "inner": "fltrust"}}, translation=False, scale=False, sign=False, constant=False),
    Case({"zeno": {"trim": 2, "rho": 0.01, "gamma": 0.1}}, translation=False, scale=False, sign=False),
    Case("fltrust", translation=False, scale=False, sign=False, constant=False),
]


def names(cases: list[Case]) -> list[str]:
    return [str(case.spec).replace("'", "") for case in cases]


def all_cases(law: str = "") -> pytest.MarkDecorator:
    chosen = [case for case in CASES if not law or getattr(case, law)]
    return pytest.mark.parametrize("case", chosen, ids=names(chosen))


def aggregate(case: Case, rows_ND: np.ndarray, weights: Any = None, dtype: torch.dtype = torch.float64) -> np.ndarray:
    inputs = {"reference": reference(rows_ND.shape[1]).to(dtype)} if "reference" in aggregation.build(case.spec).config.required else {}
    return aggregation.build(case.spec)(torch.tensor(rows_ND, dtype=dtype), weights, **inputs).double().numpy()


def random_rows(seed: int, num_coordinates: int = 5) -> np.ndarray:
    """Nine rows in general position; on some seeds some of them far away, on some a common offset."""
    generator = np.random.default_rng(seed)
    rows_ND = generator.standard_normal((9, num_coordinates))
    rows_ND[: seed % 3] *= 50
    return rows_ND + (seed % 2) * generator.standard_normal(num_coordinates)


quick = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
seeds = st.integers(0, 10**6)


def assert_close(actual: np.ndarray, expected: np.ndarray, rows_ND: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-7 * max(1.0, float(np.abs(rows_ND).max())))


@all_cases()
@quick
@given(seed=seeds)
def test_the_order_of_the_workers_is_irrelevant(case: Case, seed: int) -> None:
    rows_ND = random_rows(seed)
    order = np.random.default_rng(seed + 1).permutation(9)
    assert_close(aggregate(case, rows_ND[order]), aggregate(case, rows_ND), rows_ND)
    counts = np.random.default_rng(seed + 2).integers(1, 9, 9)
    assert_close(aggregate(case, rows_ND[order], counts[order]), aggregate(case, rows_ND, counts), rows_ND)


@all_cases("translation")
@quick
@given(seed=seeds)
def test_a_common_offset_moves_the_result(case: Case, seed: int) -> None:
    rows_ND = random_rows(seed)
    offset_D = np.random.default_rng(seed + 1).standard_normal(5) * 10
    assert_close(aggregate(case, rows_ND + offset_D), aggregate(case, rows_ND) + offset_D, rows_ND + offset_D)


@all_cases("scale")
@quick
@given(seed=seeds, factor=st.sampled_from([1e-3, 0.5, 3.0, 1e4]))
def test_a_common_unit_scales_the_result(case: Case, seed: int, factor: float) -> None:
    rows_ND = random_rows(seed)
    assert_close(aggregate(case, rows_ND * factor) / factor, aggregate(case, rows_ND), rows_ND)


@all_cases("sign")
@quick
@given(seed=seeds)
def test_a_change_of_sign_changes_the_sign(case: Case, seed: int) -> None:
    rows_ND = random_rows(seed)
    assert_close(-aggregate(case, -rows_ND), aggregate(case, rows_ND), rows_ND)


@all_cases("rotation")
@quick
@given(seed=seeds)
def test_a_rotation_turns_the_result(case: Case, seed: int) -> None:
    rows_ND = random_rows(seed)
    rotation_DD = np.linalg.qr(np.random.default_rng(seed + 1).standard_normal((5, 5)))[0]
    assert_close(aggregate(case, rows_ND @ rotation_DD), aggregate(case, rows_ND) @ rotation_DD, rows_ND)


@all_cases("coordinate_scale")
@quick
@given(seed=seeds)
def test_each_coordinate_may_have_its_own_unit(case: Case, seed: int) -> None:
    rows_ND = random_rows(seed)
    unit_D = np.random.default_rng(seed + 1).uniform(-2, 2, 5)
    assert_close(aggregate(case, rows_ND * unit_D), aggregate(case, rows_ND) * unit_D, rows_ND)


@all_cases("constant")
@quick
@given(seed=seeds, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_agreement_is_kept(case: Case, seed: int, dtype: torch.dtype) -> None:
    value_D = np.random.default_rng(seed).standard_normal(5)
    rows_ND = np.tile(value_D, (9, 1))
    np.testing.assert_allclose(aggregate(case, rows_ND, dtype=dtype), value_D, rtol=1e-6 if dtype == torch.float32 else 1e-14)


@all_cases("honest_range")
@quick
@given(seed=seeds, scale=st.sampled_from([1.0, 1e3, 1e30]))
def test_faulty_rows_cannot_leave_the_honest_range(case: Case, seed: int, scale: float) -> None:
    rows_ND = random_rows(3 * seed)
    honest_ND = rows_ND[case.honest_range :]
    rows_ND[: case.honest_range] *= scale
    counts = np.random.default_rng(seed).integers(1, 1000, 9)
    slack = 1e-12 * np.abs(honest_ND).max()
    for weights in (None, counts):
        result_D = aggregate(case, rows_ND, weights)
        assert (honest_ND.min(axis=0) - slack <= result_D).all()
        assert (result_D <= honest_ND.max(axis=0) + slack).all()


@all_cases()
@quick
@given(seed=seeds)
def test_equal_counts_change_nothing_and_only_ratios_count(case: Case, seed: int) -> None:
    rows_ND = random_rows(seed)
    counts = np.random.default_rng(seed).integers(1, 9, 9)
    assert_close(aggregate(case, rows_ND, np.full(9, 7)), aggregate(case, rows_ND), rows_ND)
    assert_close(aggregate(case, rows_ND, counts * 5), aggregate(case, rows_ND, counts), rows_ND)


@all_cases("gated")
@quick
@given(seed=seeds, worker=st.integers(0, 8))
def test_claiming_more_than_the_cap_buys_nothing(case: Case, seed: int, worker: int) -> None:
    rows_ND = random_rows(seed)
    counts = np.full(9, 10)
    counts[worker] = 20
    capped = aggregate(case, rows_ND, counts)
    counts[worker] = 10**9
    np.testing.assert_array_equal(aggregate(case, rows_ND, counts), capped)


@all_cases()
@quick
@given(seed=seeds)
def test_float32_rows_meet_the_reference(case: Case, seed: int) -> None:
    rows_ND = random_rows(seed, 40).astype(np.float32).astype(np.float64)
    typical = np.median(np.linalg.norm(rows_ND, axis=1))
    error = np.linalg.norm(aggregate(case, rows_ND, dtype=torch.float32) - aggregate(case, rows_ND))
    assert error <= 1e-5 * typical


@all_cases()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_the_result_has_the_dtype_of_the_rows_and_repeats_bit_for_bit(case: Case, dtype: torch.dtype) -> None:
    rule = aggregation.build(case.spec)
    rows_ND = torch.tensor(random_rows(7), dtype=dtype)
    before_ND = rows_ND.clone()
    inputs = {"reference": reference(5).to(dtype)} if "reference" in rule.config.required else {}
    first, second = rule(rows_ND, **inputs), rule(rows_ND, **inputs)
    assert first.dtype == dtype
    assert first.shape == (5,)
    assert torch.equal(first, second)
    assert torch.equal(rows_ND, before_ND)


@all_cases()
@pytest.mark.parametrize("num_coordinates", [0, 1, 2])
def test_few_coordinates(case: Case, num_coordinates: int) -> None:
    rows_ND = random_rows(4, num_coordinates)
    result_D = aggregate(case, rows_ND)
    assert result_D.shape == (num_coordinates,)
    assert np.isfinite(result_D).all()


@all_cases()
def test_rows_may_lie_anywhere(case: Case) -> None:
    rule = aggregation.build(case.spec)
    rows_ND = torch.tensor(random_rows(11, 6))
    inputs = {"reference": reference(6)} if "reference" in rule.config.required else {}
    expected = rule(rows_ND, **inputs)
    assert torch.equal(rule(rows_ND.T.contiguous().T, **inputs), expected)
    assert torch.equal(rule(rows_ND.repeat_interleave(2, dim=0)[::2], **inputs), expected)
    assert torch.equal(rule(rows_ND.repeat_interleave(2, dim=1)[:, ::2], **inputs), expected)
    assert torch.equal(rule([row.clone() for row in rows_ND], **inputs), expected)


@all_cases()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_are_computed_in_float32_and_rounded_once(case: Case, dtype: torch.dtype) -> None:
    rule = aggregation.build(case.spec)
    halves_ND = torch.tensor(random_rows(8, 30)).to(dtype)
    inputs = {"reference": reference(30).to(dtype)} if "reference" in rule.config.required else {}
    wide = {name: vector.float() for name, vector in inputs.items()}
    assert torch.equal(rule(halves_ND, **inputs), rule(halves_ND.float(), **wide).to(dtype))


@all_cases()
@quick
@given(seed=seeds)
def test_equal_rows_may_change_places(case: Case, seed: int) -> None:
    """Exact ties: faulty workers send copies, and every distance and score comes twice."""
    rows_ND = random_rows(seed)[[0, 0, 0, 3, 3, 5, 5, 7, 8]]
    order = np.random.default_rng(seed + 1).permutation(9)
    assert_close(aggregate(case, rows_ND[order]), aggregate(case, rows_ND), rows_ND)


@all_cases("gated")
@quick
@given(seed=seeds, bad=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_a_row_that_is_not_finite_costs_one_unit_of_budget(case: Case, seed: int, bad: float) -> None:
    rule = aggregation.build(case.spec)
    rows_ND = random_rows(seed)
    worker, coordinate = seed % 9, seed % 5
    rows_ND[worker, coordinate] = bad
    inputs = {"reference": reference(5)} if "reference" in rule.config.required else {}
    told = rule.explain(torch.tensor(rows_ND), **inputs)
    assert told.invalid == (worker,)
    assert worker not in told.chosen
    others_ND = np.delete(rows_ND, worker, axis=0)
    smaller = aggregation.build(with_less_budget(case.spec))(torch.tensor(others_ND), **inputs)
    assert torch.equal(told.aggregate, smaller)


def with_less_budget(spec: Any) -> Any:
    if isinstance(spec, str):
        return spec
    ((name, options),) = spec.items()
    return {name: {key: value - 1 if key in ("num_byzantine", "trim") else value for key, value in options.items()}}


@all_cases("keeps_out_huge_rows")
@pytest.mark.parametrize("size", [1e30, 1e-40, 1e-30])
def test_huge_and_denormal_rows_are_aggregated_like_others(case: Case, size: float) -> None:
    """A huge minority must not spoil a robust result; a round of tiny rows is a round like any other."""
    rows_ND = random_rows(6, 20)
    if size > 1:
        rows_ND[0] *= size
    else:
        rows_ND *= size
    rows_ND = rows_ND.astype(np.float32).astype(np.float64)
    actual, expected = aggregate(case, rows_ND, dtype=torch.float32), aggregate(case, rows_ND)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-5 * np.median(np.linalg.norm(rows_ND, axis=1)) + 1e-44)
