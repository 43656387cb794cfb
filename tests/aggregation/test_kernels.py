"""Kernels against brute force in float64, and the compiled ones against plain torch bit for bit.

Letters: N rows, D coordinates, K kept.
"""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mottle import aggregation
from mottle.aggregation.decisions import ColumnPlan
from mottle.aggregation.kernels import eager, engine, host, native, toolchain
from mottle.aggregation.kernels.emit import cpp_source
from mottle.aggregation.kernels.networks import pairwise_sort, selection
from mottle.aggregation.kernels.programs import MAX_NETWORK_ROWS, column_program
from mottle.aggregation.rows import collect
from mottle.core.layout import BLOCK

needs_compiler = pytest.mark.skipif(native.statistics_library() is None, reason=f"no compiled kernels: {toolchain.problem()}")
small = settings(max_examples=60, deadline=None, derandomize=True)


def brute_force(plan: ColumnPlan, column: list[float], weights: list[int] | None) -> Fraction:
    """One coordinate in exact rational arithmetic, straight from the definition by keys."""
    values = sorted(map(Fraction, column))
    n = len(values)
    median = (values[(n - 1) // 2] + values[n // 2]) / 2
    if plan.kind == "median":
        return median
    if plan.kind == "trimmed_mean":
        kept = values[plan.drop : n - plan.drop]
    else:
        trimmed = values[plan.drop : n - plan.drop] if plan.kind == "near_trimmed_mean" else []
        center = median if plan.kind == "near_median" else sum(trimmed, Fraction(0)) / len(trimmed)
        kept = sorted(sorted(values, key=lambda value: (abs(value - center), value))[: n - plan.drop])
    if weights is None or kept[0] == kept[-1]:
        return sum(kept, Fraction(0)) / len(kept)
    pairs = list(zip(map(Fraction, column), weights, strict=True))
    share = {value: Fraction(kept.count(value), values.count(value)) for value in kept}
    total = sum((weight * share.get(value, Fraction(0)) for value, weight in pairs), Fraction(0))
    return sum((value * weight * share.get(value, Fraction(0)) for value, weight in pairs), Fraction(0)) / total


@st.composite
def column_cases(draw: st.DrawFn) -> tuple[ColumnPlan, list[float], list[int]]:
    n = draw(st.integers(1, 11))
    kind: Any = draw(st.sampled_from(["median", "trimmed_mean", "near_trimmed_mean", "near_median"]))
    most = {"median": 0, "near_median": n - 1}.get(kind, (n - 1) // 2)
    drop = draw(st.integers(min(1, most), most))
    values = st.integers(-6, 6).map(float) | st.floats(-100, 100, width=32)
    column = draw(st.lists(values, min_size=n, max_size=n))
    weights = draw(st.lists(st.integers(1, 8), min_size=n, max_size=n))
    return ColumnPlan(kind=kind, drop=drop), column, weights


@small
@given(case=column_cases(), weighted=st.booleans(), presorted=st.booleans())
def test_programs_do_what_the_definition_says(case: tuple[ColumnPlan, list[float], list[int]], weighted: bool, presorted: bool) -> None:
    plan, column, weights = case
    if plan.kind != "median" and plan.drop == 0:
        return
    limit = 0 if presorted else MAX_NETWORK_ROWS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mottle.aggregation.kernels.programs.MAX_NETWORK_ROWS", limit)
        program = column_program.__wrapped__(plan, len(column), weighted=weighted)
    block = [torch.tensor([value], dtype=torch.float64) for value in column]
    expected = float(brute_force(plan, column, weights if weighted else None))
    for kind in (
        host.Interpreter(program, torch.float64, 1, np.array(weights)),
        eager.Interpreter(program, block[0], 1, np.array(weights)),
    ):
        kind.load(block)
        assert kind.finite()
        result, fine = kind.run()
        assert bool(fine)
        assert float(result) == pytest.approx(expected, rel=1e-12, abs=1e-11)


@pytest.mark.parametrize("num_wires", [1, 2, 4, 8, 16])
def test_the_network_sorts_whatever_comes(num_wires: int) -> None:
    """Every input of zeros and ones: a network that sorts those sorts everything (Knuth, 5.3.4, theorem Z)."""
    wires = list(np.arange(2**num_wires) >> np.arange(num_wires)[:, None] & 1)
    expected = np.sort(wires, axis=0)
    for low, high in pairwise_sort(num_wires):
        wires[low], wires[high] = np.minimum(wires[low], wires[high]), np.maximum(wires[low], wires[high])
    np.testing.assert_array_equal(wires, expected)


@pytest.mark.parametrize("num_wires", [1, 2, 3, 5, 8, 13, 25, 33, 65])
def test_networks_sort_and_pruned_ones_put_the_wanted_ranks_in_place(num_wires: int) -> None:
    generator = np.random.default_rng(num_wires)
    values = generator.integers(0, 2, (num_wires, 400))
    needs: list[Any] = generator.choice(["rank", "none"], num_wires).tolist()
    wires = list(values)
    for (low, high), wants_low, wants_high in selection(needs):
        pair = wires[low], wires[high]
        wires[low] = np.minimum(*pair) if wants_low else np.full(400, 99)
        wires[high] = np.maximum(*pair) if wants_high else np.full(400, 99)
    expected = np.sort(values, axis=0)
    for rank, need in enumerate(needs):
        if need == "rank":
            np.testing.assert_array_equal(wires[rank], expected[rank])


def test_a_bag_is_not_sorted_inside() -> None:
    ranks: list[Any] = ["rank"] * 25
    bag: list[Any] = ["none"] * 5 + ["bag"] * 15 + ["none"] * 5
    assert len(selection(bag)) < len(selection(ranks))


def test_a_median_of_25_takes_182_minima_and_maxima() -> None:
    program = column_program(engine.MEDIAN, 25)
    assert len(program.steps) == 182
    assert {step.kind for step in program.steps} == {"min", "max"}


PLANS = [
    (ColumnPlan(kind="median"), 7, False, False),
    (ColumnPlan(kind="median"), 6, False, False),
    (ColumnPlan(kind="trimmed_mean", drop=2), 7, True, False),
    (ColumnPlan(kind="near_trimmed_mean", drop=2), 7, False, False),
    (ColumnPlan(kind="near_trimmed_mean", drop=2), 7, True, False),
    (ColumnPlan(kind="near_median", drop=4), 6, True, False),
    (ColumnPlan(kind="near_median", drop=2), 7, False, True),
]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("plan", "num_rows", "weighted", "mixed"), PLANS)
def test_compiled_programs_give_the_bits_of_plain_torch(
    plan: ColumnPlan, num_rows: int, weighted: bool, mixed: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    rows_ND = torch.randn(num_rows, 3 * BLOCK + 77, generator=generator, dtype=dtype)
    rows_ND[:, :BLOCK] = rows_ND[:, :BLOCK].round()  # ties
    rows_ND[0, ::7] *= 1e30
    rows_ND[:3, 5] = torch.finfo(dtype).max
    weights = np.arange(1.0, num_rows + 1) if weighted else None
    mixing = (np.add.outer(np.arange(num_rows), np.arange(num_rows)) % 3).astype(float) + np.eye(num_rows) if mixed else None
    columns, rows = engine.Columns(plan, weights, mixing), collect(rows_ND)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "WORTH_COMPILING", 0)
        native.prepare()
        native.columns_function(columns.program(num_rows), dtype)
        toolchain.settle()
        assert engine._CompiledColumns.find(rows, columns) is not None
        compiled, finite = engine.apply_columns(rows, columns)
        with toolchain.disabled():
            interpreted, _ = engine.apply_columns(rows, columns)
        assert finite
        assert torch.isfinite(compiled).all()
        assert torch.equal(compiled, interpreted)
        rows_ND[1, BLOCK + 3] = torch.nan
        assert not engine.apply_columns(rows, columns)[1]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_compiled_weighted_sums_give_the_bits_of_plain_torch(dtype: torch.dtype) -> None:
    rows_ND = torch.randn(6, BLOCK + 77, generator=torch.Generator().manual_seed(3), dtype=dtype)
    weights, center = np.array([1.0, 0.0, 3.0, 0.25, 7.0, 1e-9]), torch.randn(BLOCK + 77, dtype=dtype)
    toolchain.settle()
    compiled = engine.apply_weights(collect(rows_ND), weights, 11.25, center, -0.5)
    with toolchain.disabled():
        assert torch.equal(engine.apply_weights(collect(rows_ND), weights, 11.25, center, -0.5), compiled)


SHAPES: dict[str, Any] = {
    "plain": lambda rows: rows,
    "offset": lambda rows: rows + 100.0,
    "far": lambda rows: rows * torch.where(torch.arange(len(rows)) < 3, 1e6, 1.0)[:, None],
    "tiny": lambda rows: rows * 1e-30,
    "huge": lambda rows: rows * 1e30,
    "sparse": lambda rows: rows * (torch.arange(rows.shape[1]) >= BLOCK),
    "duplicates": lambda rows: rows[torch.arange(len(rows)) // 2],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_rows", [2, 7, 13, 26])
def test_squared_distances_meet_the_reference(shape: str, num_rows: int) -> None:
    rows_ND = SHAPES[shape](torch.randn(num_rows, 2 * BLOCK + 333, generator=torch.Generator().manual_seed(num_rows)))
    distances = aggregation.build({"nnm": {"num_byzantine": 0, "inner": "mean"}}).measure(rows_ND).part("distances")
    wide = rows_ND.double().numpy()
    exact = np.array([((wide[i] - wide[j]) ** 2).sum() for i in range(num_rows) for j in range(i + 1, num_rows)])
    np.testing.assert_allclose(distances, exact, rtol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_inner_products_about_the_median_meet_the_reference(shape: str) -> None:
    rows_ND = SHAPES[shape](torch.randn(7, 2 * BLOCK + 333, generator=torch.Generator().manual_seed(1)))
    gram = aggregation.build({"rfa": {}}).measure(rows_ND).part("gram")
    centred = torch.cat([rows_ND, torch.zeros(1, rows_ND.shape[1])]).double().numpy() - np.median(rows_ND.numpy(), axis=0).astype(
        np.float64
    )
    exact = (centred @ centred.T)[np.triu_indices(8)]
    scale = np.sqrt(np.outer(*(2 * [np.diagonal(centred @ centred.T)])))[np.triu_indices(8)]
    assert (np.abs(gram - exact) <= 1e-6 * scale).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_without_a_compiler_statistics_are_in_double_precision(dtype: torch.dtype) -> None:
    rows_ND = torch.randn(5, BLOCK + 9, generator=torch.Generator().manual_seed(2), dtype=dtype)
    rule = aggregation.build({"krum": {"num_byzantine": 1}})
    compiled = rule.measure(rows_ND).part("distances")
    with toolchain.disabled():
        plain = rule.measure(rows_ND).part("distances")
    wide = rows_ND.double()
    exact = [float(((wide[i] - wide[j]) ** 2).sum()) for i in range(5) for j in range(i + 1, 5)]
    np.testing.assert_allclose(plain, exact, rtol=1e-12)
    np.testing.assert_allclose(compiled, exact, rtol=1e-6)


@pytest.mark.parametrize(
    "spec", ["median", {"krum": {"num_byzantine": 2}}, "geometric_median", "fltrust", {"phocas": {"trim": 2}}], ids=str
)
def test_rules_without_a_compiler(spec: Any) -> None:
    rows_ND = torch.randn(9, BLOCK + 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    reference: Tensor = rows_ND.mean(0)
    rule = aggregation.build(spec)
    with toolchain.disabled():
        plain = rule(rows_ND, reference=reference)
    torch.testing.assert_close(rule(rows_ND, reference=reference), plain, rtol=0, atol=1e-9)


@pytest.mark.parametrize("spec", [{"krum": {"num_byzantine": 2}}, "geometric_median", {"trimmed_mean": {"trim": 2}}], ids=str)
def test_the_number_of_threads_changes_nothing(spec: Any) -> None:
    rows_ND = torch.randn(9, 150_000, generator=torch.Generator().manual_seed(5))
    rule, threads = aggregation.build(spec), torch.get_num_threads()
    told = []
    try:
        for num_threads in (1, 3):
            torch.set_num_threads(num_threads)
            told.append(rule.explain(rows_ND))
    finally:
        torch.set_num_threads(threads)
    assert told[0].decision.to_settings() == told[1].decision.to_settings()
    assert torch.equal(told[0].aggregate, told[1].aggregate)


@pytest.mark.parametrize("spec", ["median", {"trimmed_mean": {"trim": 60}}, "geometric_median"], ids=str)
def test_more_rows_than_networks_are_made_for(spec: Any) -> None:
    rows_ND = torch.randn(MAX_NETWORK_ROWS + 3, 50, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    result = aggregation.build(spec)(rows_ND)
    ordered = rows_ND.sort(dim=0).values
    if spec == "median":
        assert torch.equal(result, ordered[(MAX_NETWORK_ROWS + 2) // 2])
    elif spec == "geometric_median":
        units = (rows_ND - result) / torch.linalg.vector_norm(rows_ND - result, dim=1, keepdim=True)
        assert float(torch.linalg.vector_norm(units.sum(0))) < 1e-6
    else:
        torch.testing.assert_close(result, ordered[60:-60].mean(0), rtol=0, atol=1e-12)


def test_sums_of_values_near_the_limit_of_the_dtype_do_not_overflow() -> None:
    top = torch.finfo(torch.float32).max
    rows_ND = torch.tensor([[0.9], [0.8], [0.7], [0.6], [-0.1]]) * top
    for spec in ({"trimmed_mean": {"trim": 1}}, {"phocas": {"trim": 1}}, {"mea_med": {"num_byzantine": 1}}):
        wide = aggregation.build(spec)(rows_ND.double())
        torch.testing.assert_close(aggregation.build(spec)(rows_ND).double(), wide, rtol=1e-6, atol=0)


def test_a_program_is_printed_once_for_each_operation() -> None:
    program = column_program(ColumnPlan(kind="near_median", drop=1), 3)
    text = cpp_source(program, "float")
    assert all(f" r{step.target} = " in text for step in program.steps)


def test_a_source_that_does_not_compile_is_reported_and_does_without() -> None:
    if native.statistics_library() is None:
        pytest.skip("no compiler")
    assert toolchain.wait("this is no C++") is None
    assert "error" in (toolchain.problem() or "")
