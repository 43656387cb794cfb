"""What is let in: invalid rows and their price, bad input, and what the errors say."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from mottle import aggregation
from mottle.aggregation import ConditionError, FaultBudgetWarning, InputError
from mottle.aggregation.decisions import Rules
from mottle.core.errors import ConfigError

ROWS = torch.tensor([[0.0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 9], [6, 8]])


@pytest.mark.parametrize(
    ("spec", "num_rows", "condition"),
    [
        ({"krum": {"num_byzantine": 2}}, 6, "n >= 2f + 3"),
        ({"multi_krum": {"num_byzantine": 2}}, 6, "n >= 2f + 3"),
        ({"multi_krum": {"num_byzantine": 1, "num_selected": 7}}, 7, "num_selected is 7"),
        ({"bulyan": {"num_byzantine": 1}}, 6, "n >= 4f + 3"),
        ({"trimmed_mean": {"trim": 3}}, 6, "2b < n"),
        ({"phocas": {"trim": 3}}, 6, "2b < n"),
        ({"mea_med": {"num_byzantine": 3}}, 6, "2f < n"),
        ({"nnm": {"num_byzantine": 3, "inner": "mean"}}, 6, "2f < n"),
        ({"nnm": {"num_byzantine": 2, "inner": "krum"}}, 6, "n >= 2f + 3"),
        ({"zeno": {"trim": 6, "rho": 0.0, "gamma": 1.0}}, 6, "b < n"),
    ],
    ids=str,
)
def test_a_rule_refuses_rounds_too_small_for_its_budget(spec: Any, num_rows: int, condition: str) -> None:
    with pytest.raises(ConditionError) as caught:
        aggregation.build(spec, num_workers=num_rows)
    assert condition in str(caught.value)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(ConditionError):
        aggregation.build(spec)(ROWS[torch.arange(num_rows) % 7], reference=torch.ones(2))


@pytest.mark.parametrize(
    "spec", ["median", "geometric_median", "rfa", {"centered_clipping": {}}, {"trimmed_mean": {"trim": 0}}, "mean"], ids=str
)
def test_one_row_is_its_own_aggregate(spec: Any) -> None:
    inside = torch.tensor([[0.25, -0.5]])
    torch.testing.assert_close(aggregation.build(spec)(inside), inside[0])


@pytest.mark.parametrize("spec", ["median", "mean", "geometric_median", "fltrust"])
def test_no_row_at_all_is_an_error(spec: str) -> None:
    with pytest.raises(ConditionError, match="got n=0"):
        aggregation.build(spec)(torch.empty(0, 3), reference=torch.ones(3))


@pytest.mark.parametrize("spec", ["median", "geometric_median"])
def test_rules_without_a_budget_drop_rows_and_raise_when_none_is_left(spec: str) -> None:
    rule, nan = aggregation.build(spec), float("nan")
    assert rule.explain(torch.tensor([[1.0], [nan], [1.0]])).invalid == (1,)
    with pytest.raises(ConditionError, match="got n=0"):
        rule(torch.tensor([[nan], [nan]]))


def test_the_mean_lets_everything_through() -> None:
    result = aggregation.build("mean")(torch.tensor([[1.0, 1.0], [float("nan"), float("inf")]]))
    assert torch.isnan(result[0])
    assert torch.isinf(result[1])


@pytest.mark.parametrize("name", ["trimmed_mean", "phocas"])
def test_more_invalid_rows_than_declared_raise_or_leave_a_mark(name: str) -> None:
    rows = ROWS.clone()
    rows[[1, 3], 0] = float("inf")
    spec = {name: {"trim": 1}}
    with pytest.raises(ConditionError, match="2 are invalid"):
        aggregation.build(spec)(rows)
    with pytest.warns(FaultBudgetWarning, match="more than declared"):
        told = aggregation.build(spec, strict=False).explain(rows)
    assert told.fault_budget_exceeded
    torch.testing.assert_close(told.aggregate, rows[[0, 2, 4, 5, 6]].mean(0))


BUDGETED = [
    {"krum": {"num_byzantine": 1}},
    {"multi_krum": {"num_byzantine": 1}},
    {"bulyan": {"num_byzantine": 1}},
    {"trimmed_mean": {"trim": 1}},
    {"phocas": {"trim": 1}},
    {"mea_med": {"num_byzantine": 1}},
    {"zeno": {"trim": 1, "rho": 0.0, "gamma": 1.0}},
    {"nnm": {"num_byzantine": 1, "inner": "median"}},
]


@pytest.mark.parametrize("spec", BUDGETED, ids=str)
def test_every_rule_with_a_budget_refuses_or_marks_a_round_that_exceeds_it(spec: Any) -> None:
    rows, reference = ROWS.clone(), torch.ones(2)
    rows[1, 0], rows[3] = float("nan"), float("-inf")
    with pytest.raises(ConditionError, match="2 are invalid"):
        aggregation.build(spec)(rows, reference=reference)
    with pytest.warns(FaultBudgetWarning, match="more than declared"):
        told = aggregation.build(spec, strict=False).explain(rows, reference=reference)
    assert told.fault_budget_exceeded
    assert told.invalid == (1, 3)
    assert bool(torch.isfinite(told.aggregate).all())
    alone = aggregation.build(
        {name: {**options, **{key: 0 for key in options if key in ("num_byzantine", "trim")}} for name, options in spec.items()}
    )
    assert torch.equal(told.aggregate, alone(rows[[0, 2, 4, 5, 6]], reference=reference))


@pytest.mark.parametrize("num_invalid", [0, 1, 2])
def test_each_invalid_row_uses_one_unit_so_as_many_rows_survive(num_invalid: int) -> None:
    rows = ROWS.clone()
    rows[:num_invalid] = float("nan")
    assert len(aggregation.build({"multi_krum": {"num_byzantine": 2}}).explain(rows).chosen) == 7 - 2 - 2
    told = aggregation.build({"zeno": {"trim": 3, "rho": 0.0, "gamma": 1.0}}).explain(rows, reference=torch.ones(2))
    assert len(told.chosen) == 7 - 3
    assert told.scores is not None
    assert np.isnan(told.scores).tolist() == [row < num_invalid for row in range(7)]


@pytest.mark.parametrize("count", [0, -3, 2.5, float("nan"), float("inf")])
def test_a_count_that_is_no_positive_whole_number_makes_the_row_invalid(count: float) -> None:
    told = aggregation.build({"trimmed_mean": {"trim": 1}}).explain(ROWS, [4, 4, count, 4, 4, 4, 4])
    assert told.invalid == (2,)
    with pytest.raises(InputError, match="no gate"):
        aggregation.build("mean")(ROWS, [4, 4, count, 4, 4, 4, 4])


@pytest.mark.parametrize("spec", [{"trimmed_mean": {"trim": 0}}, {"phocas": {"trim": 0}}, {"mea_med": {"num_byzantine": 0}}], ids=str)
def test_a_rule_without_a_budget_left_keeps_its_gate(spec: Any) -> None:
    rows = ROWS.clone()
    rows[3, 1] = float("nan")
    with pytest.raises(ConditionError, match="1 are invalid"):
        aggregation.build(spec)(rows)
    with pytest.warns(FaultBudgetWarning):
        told = aggregation.build(spec, strict=False).explain(rows)
    assert told.invalid == (3,)
    torch.testing.assert_close(told.aggregate, rows[[0, 1, 2, 4, 5, 6]].mean(0))


def test_counts_beyond_64_bits_are_capped_like_others() -> None:
    rule = aggregation.build({"trimmed_mean": {"trim": 1}})
    assert torch.equal(rule(ROWS, [4, 4, 10**30, 4, 4, 4, 4]), rule(ROWS, [4, 4, 8, 4, 4, 4, 4]))


def test_in_a_run_the_units_of_a_loss_count_like_samples() -> None:
    """Tokens, or what classes weigh: any positive number; the cap is a ratio."""
    rule, sums = {"multi_krum": {"num_byzantine": 1}}, aggregation.build({"multi_krum": {"num_byzantine": 1}}).measure(ROWS).to_wire()
    fractions, whole = (Rules().decide(rule, sums, counts, 7) for counts in ((0.5, 0.5, 1.5, 0.5, 0.5, 0.5, 9e9), (2, 2, 4, 2, 2, 2, 4)))
    assert fractions.selected == whole.selected
    weights = [np.array(each.instructions["weights"]) / each.instructions["divisor"] for each in (fractions, whole)]
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-12)


@pytest.mark.parametrize("weights", [[1, 2], np.ones((7, 1)), ["a"] * 7, [True] * 7], ids=["short", "matrix", "words", "flags"])
def test_weights_are_one_number_a_row(weights: Any) -> None:
    with pytest.raises(InputError, match="one sample count for each of the 7 rows"):
        aggregation.build("mean")(ROWS, weights)


@pytest.mark.parametrize("spec", ["median", {"krum": {"num_byzantine": 2}}, {"nnm": {"num_byzantine": 2, "inner": "median"}}], ids=str)
def test_missing_and_malformed_messages_are_invalid_rows(spec: Any) -> None:
    messages: list[Any] = list(ROWS)
    messages[2] = None
    messages[4] = torch.ones(3)
    told = aggregation.build(spec).explain(messages)
    assert told.invalid == (2, 4)
    assert set(told.chosen) <= {0, 1, 3, 5, 6}
    messages[2] = torch.ones(2, dtype=torch.int64)
    assert aggregation.build(spec).explain(messages).invalid == (2, 4)


def test_a_row_that_never_came_uses_budget_too() -> None:
    rule = aggregation.build({"multi_krum": {"num_byzantine": 2}})
    assert len(rule.explain(ROWS, num_expected=8).chosen) == 8 - 2 - 2
    with pytest.raises(ConditionError, match="3 are invalid"):
        rule.explain(ROWS, num_expected=10)
    with pytest.raises(InputError, match="num_expected"):
        rule.explain(ROWS, num_expected=6)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_only_floating_point_is_aggregated(dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match="floating point"):
        aggregation.build("median")(torch.ones(3, 2).to(dtype))


def test_malformed_rounds() -> None:
    rule = aggregation.build("median")
    with pytest.raises(InputError, match="matrix"):
        rule(torch.ones(3))
    with pytest.raises(InputError, match="no row to aggregate"):
        rule([None, None])
    with pytest.raises(InputError, match="majority"):
        rule([torch.ones(2), torch.ones(3)])
    with pytest.raises(InputError, match="several devices"):
        rule([torch.ones(2), torch.ones(2, device="meta")])


@pytest.mark.parametrize(
    ("center", "message"),
    [(torch.ones(3), "2 coordinates"), (torch.tensor([1.0, float("nan")]), "not finite"), (torch.ones(2, device="meta"), "meta")],
    ids=["length", "nan", "device"],
)
def test_a_companion_must_fit_the_rows(center: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        aggregation.build({"centered_clipping": {}})(ROWS, center=center)


@pytest.mark.parametrize(
    ("spec", "missing"),
    [("fltrust", "reference"), ({"zeno": {"trim": 1, "rho": 0.1}}, "score"), ({"rfa": {"z0": "center"}}, "center")],
    ids=str,
)
def test_a_missing_input_is_named(spec: Any, missing: str) -> None:
    with pytest.raises(InputError, match=f"needs {missing}="):
        aggregation.build(spec)(ROWS)


def test_zeno_takes_losses_that_are_not_finite_for_the_worst() -> None:
    rule = aggregation.build({"zeno": {"trim": 2, "rho": 0.0}})
    told = rule.explain(ROWS, score=[1, float("nan"), 2, 3, float("inf"), 5, 6])
    assert told.scores is not None
    assert np.isneginf(told.scores).tolist() == [False, True, False, False, True, False, False]
    assert told.chosen == (0, 2, 3, 5, 6)
    with pytest.raises(InputError, match="destroyed"):
        rule(ROWS, score=lambda update: float("nan"))
    with pytest.raises(InputError, match="one descent for each"):
        rule(ROWS, score=[1.0])


def test_nnm_scores_the_mixed_rows() -> None:
    rule = aggregation.build({"nnm": {"num_byzantine": 2, "inner": {"zeno": {"rho": 0.0}}}})
    seen: list[torch.Tensor] = []

    def loss(update: torch.Tensor | None) -> float:
        if update is None:
            return 0.0
        seen.append(update)
        return float(update.sum())

    told = rule.explain(ROWS, score=loss)
    assert len(seen) == 7
    best = sorted(range(7), key=lambda row: float(seen[row].sum()))[:5]
    assert told.order == tuple(best)
    torch.testing.assert_close(told.aggregate, torch.stack([seen[row] for row in sorted(best)]).mean(0))
    with pytest.raises(InputError, match="as a function"):
        rule(ROWS, score=[0.0] * 7)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("phocass", "did you mean 'phocas'"),
        ({"krum": {"num_byzantin": 1}}, "did you mean 'num_byzantine'"),
        ({"krum": {}}, "krum needs num_byzantine"),
        ({"krum": {"num_byzantine": -1}}, "count of rows"),
        ({"krum": {"num_byzantine": True}}, "count of rows"),
        ({"krum": {"num_byzantine": 1.5}}, "count of rows"),
        ({"rfa": {"smoothing": 0}}, "above 0"),
        ({"rfa": {"iterations": 0}}, "whole number"),
        ({"rfa": {"z0": "median"}}, "z0 is"),
        ({"centered_clipping": {"radius": -1.0}}, "above 0"),
        ({"mea_med": {"num_byzantine": 1, "weight_cap": 0.5}}, "at least 1"),
        ({"nnm": {"num_byzantine": 1}}, "nnm needs inner"),
        ({"nnm": {"num_byzantine": 1, "inner": {"nnm": {"inner": "mean"}}}}, "nnm itself"),
        (["krum"], "named as"),
    ],
    ids=str,
)
def test_a_spec_that_cannot_be_built_says_why(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        aggregation.build(spec)


def test_a_budget_may_be_a_share_of_the_round() -> None:
    config = aggregation.build({"krum": {"num_byzantine": 0.29}}).config
    assert [config.budget(n) for n in (10, 24, 100)] == [2, 6, 29]


def test_nnm_hands_its_budget_to_the_inner_rule_unless_that_has_one() -> None:
    assert aggregation.build({"nnm": {"num_byzantine": 2, "inner": "phocas"}}).config.inner.trim == 2  # type: ignore[attr-defined] # Nnm
    own = aggregation.build({"nnm": {"num_byzantine": 2, "inner": {"phocas": {"trim": 1}}}}).config
    assert own.inner.trim == 1  # type: ignore[attr-defined] # Nnm


def test_the_catalogue_lists_every_rule_with_its_parameters() -> None:
    entries = {entry.name: entry for entry in aggregation.catalogue()}
    assert set(entries) == {
        *("mean", "krum", "multi_krum", "bulyan", "median", "trimmed_mean", "phocas", "mea_med"),
        *("geometric_median", "rfa", "centered_clipping", "zeno", "fltrust", "nnm"),
    }
    assert [(each.name, each.required) for each in entries["phocas"].parameters] == [("trim", True), ("weight_cap", False)]
    assert all(entry.source and entry.condition and entry.guarantee and entry.summary for entry in entries.values())
    assert all(parameter.doc for entry in entries.values() for parameter in entry.parameters)


@pytest.mark.parametrize(
    ("rule", "n", "largest", "survives"),
    [
        ("krum", 25, 11, 11),
        ({"krum": {"num_byzantine": 4}}, 25, 11, 4),
        ({"krum": {"num_byzantine": 12}}, 25, 11, -1),
        ("bulyan", 25, 5, 5),
        ("median", 25, 12, 12),
        ("mean", 25, 0, 0),
        ("zeno", 25, 24, 24),
        ("centered_clipping", 25, 2, 2),
        ({"nnm": {"num_byzantine": 3, "inner": "bulyan"}}, 25, 5, 3),
        ("krum", 2, -1, -1),
    ],
    ids=str,
)
def test_breakdown(rule: Any, n: int, largest: int, survives: int) -> None:
    told = aggregation.breakdown(rule, n)
    assert (told.largest, told.survives) == (largest, survives)
    assert told.warning(max(survives, 0) + 1)
    assert survives < 0 or told.warning(survives) is None


def test_decisions_come_without_torch() -> None:
    code = "import sys, mottle.aggregation, mottle.aggregation.decisions; mottle.aggregation.catalogue(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names() -> None:
    assert all(getattr(aggregation, name) is not None for name in aggregation.__all__)
    with pytest.raises(AttributeError, match="no attribute 'buld'"):
        aggregation.buld  # noqa: B018 - the access is the test
