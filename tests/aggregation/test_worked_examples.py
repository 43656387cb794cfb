"""Numbers worked by hand or at high precision for every rule, with equal and with unequal sample counts."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mottle import aggregation

E1 = torch.tensor([[1, 0], [2, 1], [0, 2], [3, 3], [1, 4], [2, 2], [10, -10]], dtype=torch.float64)
COUNTS = (8, 4, 4, 2, 2, 4, 1000)
E2 = torch.tensor([[2], [17], [0], [23], [6], [16], [11]], dtype=torch.float64)
ONE_TO_NINE = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=torch.float64)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def e1_loss(gamma: float) -> Callable[[Tensor | None], float]:
    """Mean of half the squared distance of the model -gamma u to the points (-1, -2) and (-2, -2)."""

    def loss(update: Tensor | None) -> float:
        model = torch.zeros(2, dtype=torch.float64) if update is None else -gamma * update
        return float(sum(0.5 * ((model - point) ** 2).sum() for point in (vector(-1, -2), vector(-2, -2))) / 2)

    return loss


def inner(name: str, **options: Any) -> dict[str, Any]:
    return {"nnm": {"num_byzantine": 1, "inner": {name: options}}}


EQUAL: list[tuple[Any, dict[str, Any], tuple[float, float], float]] = [
    ("mean", {}, (19 / 7, 2 / 7), 1e-12),
    ({"krum": {"num_byzantine": 1}}, {}, (2, 2), 0),
    ({"krum": {"num_byzantine": 2}}, {}, (2, 2), 0),
    ({"multi_krum": {"num_byzantine": 1, "num_selected": 4}}, {}, (1.75, 2), 1e-12),
    ({"multi_krum": {"num_byzantine": 2, "num_selected": 3}}, {}, (5 / 3, 1), 1e-12),
    ({"bulyan": {"num_byzantine": 1}}, {}, (5 / 3, 5 / 3), 1e-12),
    ("median", {}, (2, 2), 0),
    ({"trimmed_mean": {"trim": 1}}, {}, (1.8, 1.6), 1e-12),
    ({"trimmed_mean": {"trim": 2}}, {}, (5 / 3, 5 / 3), 1e-12),
    ({"phocas": {"trim": 1}}, {}, (1.5, 2), 1e-12),
    ({"phocas": {"trim": 2}}, {}, (1.8, 1.6), 1e-12),
    ({"mea_med": {"num_byzantine": 1}}, {}, (1.5, 2), 1e-12),
    ({"mea_med": {"num_byzantine": 2}}, {}, (1.8, 1.6), 1e-12),
    ("geometric_median", {}, (1.886582644642, 1.759380938021), 1e-10),
    ({"rfa": {"iterations": 3}}, {}, (1.822235221391, 1.439167511462), 1e-11),
    ({"rfa": {"iterations": 8}}, {}, (1.857833145180, 1.655122163946), 1e-11),
    ({"rfa": {"iterations": 3, "z0": "mean"}}, {}, (1.849060814950, 1.446883072133), 1e-11),
    ({"centered_clipping": {"radius": 1}}, {}, (0.608326165657, 0.446351839547), 1e-11),
    ({"centered_clipping": {"radius": 1, "iterations": 2}}, {}, (1.049064077404, 0.814857499319), 1e-11),
    ({"centered_clipping": {"radius": 1, "iterations": 3}}, {}, (1.356647363595, 1.082642883795), 1e-11),
    ({"centered_clipping": {"radius": 2}}, {"center": vector(1, 2)}, (1.569836340286, 1.756346741571), 1e-11),
    (inner("mean"), {}, (1.714285714286, 1.666666666667), 1e-11),
    (inner("median"), {}, (1.5, 2), 1e-12),
    (inner("krum"), {}, (1.5, 2), 1e-12),
    ("fltrust", {"reference": vector(1, 2)}, (1.222168319620, 1.578731821697), 1e-11),
    ("fltrust", {"reference": vector(3, 4)}, (2.909499407045, 3.362339781683), 1e-11),
    ({"zeno": {"trim": 1, "rho": 0.001}}, {"score": e1_loss(0.1)}, (1.5, 2), 1e-12),
    ({"zeno": {"trim": 2, "rho": 0.01}}, {"score": e1_loss(0.1)}, (1.6, 2.4), 1e-12),
]

UNEQUAL: list[tuple[Any, dict[str, Any], tuple[float, float], float]] = [
    ("mean", {}, (9.796875, -9.732421875), 1e-12),
    ({"krum": {"num_byzantine": 1}}, {}, (2, 2), 0),
    ("median", {}, (2, 2), 0),
    ({"multi_krum": {"num_byzantine": 1, "num_selected": 4}}, {}, (11 / 7, 13 / 7), 1e-12),
    ({"multi_krum": {"num_byzantine": 2, "num_selected": 3}}, {}, (1.5, 0.75), 1e-12),
    ({"bulyan": {"num_byzantine": 1}}, {}, (1.5, 5 / 3), 1e-12),
    ({"trimmed_mean": {"trim": 1}}, {}, (1.6, 13 / 11), 1e-12),
    ({"trimmed_mean": {"trim": 2}}, {}, (21 / 13, 5 / 3), 1e-12),
    ({"phocas": {"trim": 1}}, {}, (4 / 3, 17 / 12), 1e-12),
    ({"phocas": {"trim": 2}}, {}, (1.6, 13 / 11), 1e-12),
    ({"mea_med": {"num_byzantine": 1}}, {}, (4 / 3, 17 / 12), 1e-12),
    ({"mea_med": {"num_byzantine": 2}}, {}, (1.6, 13 / 11), 1e-12),
    ("geometric_median", {}, (1.842891778270, 0.878574353712), 1e-10),
    ({"rfa": {"iterations": 3}}, {}, (1.577166283122, 0.572059591685), 1e-11),
    ({"rfa": {"iterations": 8}}, {}, (1.729850856827, 0.756567492442), 1e-11),
    ({"centered_clipping": {"radius": 2}}, {"center": vector(1, 2)}, (1.536803398875, 1.155901699437), 1e-11),
    (inner("median"), {}, (4 / 3, 17 / 12), 1e-12),
    ({"zeno": {"trim": 1, "rho": 0.001}}, {"score": e1_loss(0.1)}, (4 / 3, 17 / 12), 1e-12),
    ({"zeno": {"trim": 2, "rho": 0.01}}, {"score": e1_loss(0.1)}, (1.5, 2.125), 1e-12),
    ("fltrust", {"reference": vector(1, 2)}, (1.358831724928, 1.357524527502), 1e-11),
]


@pytest.mark.parametrize(("spec", "inputs", "expected", "tolerance"), EQUAL, ids=[str(spec) for spec, *_ in EQUAL])
def test_e1_with_equal_counts(spec: Any, inputs: dict[str, Any], expected: tuple[float, float], tolerance: float) -> None:
    assert aggregation.build(spec)(E1, **inputs).tolist() == pytest.approx(expected, abs=tolerance, rel=0)


@pytest.mark.parametrize(("spec", "inputs", "expected", "tolerance"), UNEQUAL, ids=[str(spec) for spec, *_ in UNEQUAL])
def test_e1_with_unequal_counts(spec: Any, inputs: dict[str, Any], expected: tuple[float, float], tolerance: float) -> None:
    assert aggregation.build(spec)(E1, COUNTS, **inputs).tolist() == pytest.approx(expected, abs=tolerance, rel=0)


@pytest.mark.parametrize(("num_byzantine", "scores"), [(1, (25, 13, 19, 22, 25, 12, 792)), (2, (12, 8, 14, 12, 15, 7, 574))])
def test_krum_scores_of_e1(num_byzantine: int, scores: tuple[int, ...]) -> None:
    told = aggregation.build({"krum": {"num_byzantine": num_byzantine}}).explain(E1)
    assert told.scores is not None
    assert tuple(told.scores) == scores
    assert told.chosen == (5,)


def test_a_tie_between_scores_goes_to_the_smaller_index() -> None:
    told = aggregation.build({"multi_krum": {"num_byzantine": 2, "num_selected": 3}}).explain(E1)
    assert (told.chosen, told.order) == ((0, 1, 5), (5, 1, 0))


def test_more_rows_than_the_analysis_covers_are_allowed_with_a_warning() -> None:
    rule = aggregation.build({"multi_krum": {"num_byzantine": 1, "num_selected": 6}})
    with pytest.warns(UserWarning, match="above n-f-2=4"):
        assert rule(E1).tolist() == [1.5, 2.0]


def test_bulyan_picks_e1_in_the_published_order() -> None:
    assert aggregation.build({"bulyan": {"num_byzantine": 1}}).explain(E1).order == (5, 1, 2, 3, 0)


def test_e2_tells_the_fixed_convention_of_krum_from_all_others() -> None:
    told = aggregation.build({"krum": {"num_byzantine": 2}}).explain(E2)
    assert told.scores is not None
    assert tuple(told.scores) == (101, 73, 161, 229, 77, 75, 86)
    assert told.aggregate.tolist() == [17.0]


@pytest.mark.parametrize(
    ("spec", "counts", "expected"),
    [
        (inner("mean"), None, None),
        ({"nnm": {"num_byzantine": 2, "inner": "median"}}, None, [(8, 8), (8, 8), (6, 9), (8, 12), (8, 12), (8, 8), (18, -4)]),
        (inner("mean"), COUNTS, None),
    ],
    ids=str,
)
def test_mixed_rows_of_e1(spec: Any, counts: Any, expected: Any) -> None:
    from mottle.aggregation.decisions import Nnm
    from mottle.aggregation.decisions.decide import gather

    rule = aggregation.build(spec)
    assert isinstance(rule.config, Nnm)
    evidence, _ = gather(rule.config, 7, statistics=rule.measure(E1), counts=counts)
    mixing = rule.config.mixing(evidence)
    mixed = mixing @ E1.numpy() / mixing.sum(axis=1, keepdims=True)
    if expected is None:
        last = (3, -1 / 3) if counts is None else (11 / 3, -1.8)
        expected = [(1.5, 2) if counts is None else (4 / 3, 17 / 12)] * 6 + [last]
    else:
        expected = np.array(expected) / 5
    np.testing.assert_allclose(mixed, expected, atol=1e-12)


def test_mixing_of_three_rows() -> None:
    told = aggregation.build({"nnm": {"num_byzantine": 1, "inner": "median"}}).explain(ONE_TO_NINE)
    mixing = told.decision.choice.mixing
    assert mixing is not None
    expected = np.array([[2.5, 3.5, 4.5], [2.5, 3.5, 4.5], [5.5, 6.5, 7.5]])
    np.testing.assert_array_equal(mixing @ ONE_TO_NINE.numpy() / 2, expected)
    assert told.aggregate.tolist() == [2.5, 3.5, 4.5]


@pytest.mark.parametrize(
    ("rho", "trim", "scores"),
    [(0.001, 1, (0.144, 0.470, 0.376, 0.942, 0.848, 0.652, -1.700)), (0.01, 2, (0.135, 0.425, 0.340, 0.780, 0.695, 0.580, -3.500))],
)
def test_zeno_scores_of_e1(rho: float, trim: int, scores: tuple[float, ...]) -> None:
    told = aggregation.build({"zeno": {"trim": trim, "rho": rho}}).explain(E1, score=e1_loss(0.1))
    np.testing.assert_allclose(told.scores, scores, atol=1e-12)


def test_first_order_zeno_scores_of_e1() -> None:
    told = aggregation.build({"zeno": {"trim": 1, "rho": 0.001, "gamma": 0.1}}).explain(E1, reference=vector(1.5, 2))
    np.testing.assert_allclose(told.scores, (0.149, 0.495, 0.396, 1.032, 0.933, 0.692, -0.700), atol=1e-12)


def test_trust_scores_of_e1() -> None:
    told = aggregation.build("fltrust").explain(E1, reference=vector(1, 2))
    expected = (0.447213595500, 0.8, 0.894427191000, 0.948683298051, 0.976187060184, 0.948683298051, 0)
    np.testing.assert_allclose(told.scores, expected, atol=1e-11)


def test_fltrust_of_three_rows() -> None:
    told = aggregation.build("fltrust").explain(torch.tensor([[6.0, 8], [5, 0], [-3, -4]]).double(), reference=vector(3, 4))
    np.testing.assert_allclose(told.scores, (1, 0.6, 0), atol=1e-15)
    assert told.aggregate.tolist() == pytest.approx([3.75, 2.5], abs=1e-12)


def test_geometric_median_of_a_square_and_a_far_point() -> None:
    rows = torch.tensor([[0, 0], [4, 0], [0, 4], [4, 4], [100, 100]], dtype=torch.float64)
    assert aggregation.build("geometric_median")(rows).tolist() == pytest.approx([2 + 2 / math.sqrt(3)] * 2, rel=1e-9)


def test_rfa_from_the_published_example() -> None:
    result = aggregation.build({"rfa": {"iterations": 3}})(ONE_TO_NINE)
    assert result.tolist() == pytest.approx([3.78788764, 4.78788764, 5.78788764], abs=1e-8)


def test_centered_clipping_of_three_rows() -> None:
    rows = torch.tensor([[3, 0], [0, 4], [0, 0]], dtype=torch.float64)
    assert aggregation.build({"centered_clipping": {"radius": 2}})(rows).tolist() == pytest.approx([2 / 3, 2 / 3], abs=1e-14)
    twice = aggregation.build({"centered_clipping": {"radius": 2, "iterations": 2}})(rows)
    assert twice.tolist() == pytest.approx([0.954716319446, 0.915017476307], abs=1e-11)


def test_the_median_of_an_even_number_is_the_midpoint() -> None:
    assert aggregation.build("median")(torch.tensor([[1.0], [2], [3], [10]])).tolist() == [2.5]


@pytest.mark.parametrize("spec", [{"phocas": {"trim": 1}}, {"mea_med": {"num_byzantine": 1}}])
def test_the_mean_around_a_centre_may_leave_the_honest_range(spec: Any) -> None:
    assert aggregation.build(spec)(torch.tensor([[0.0], [0], [0], [10], [-9]])).tolist() == [-2.25]


def test_of_two_equally_close_values_the_smaller_is_kept() -> None:
    assert aggregation.build({"mea_med": {"num_byzantine": 1}})(torch.tensor([[1.0], [4], [7]])).tolist() == [2.5]


@pytest.mark.parametrize(
    "spec",
    [{"trimmed_mean": {"trim": 0}}, {"multi_krum": {"num_byzantine": 0, "num_selected": 1}}, {"zeno": {"trim": 2, "rho": 0.1}}],
    ids=str,
)
def test_a_single_row_that_is_left_comes_out_as_it_is_whatever_its_count(spec: Any) -> None:
    rows = torch.tensor([[0.1], [0.7], [1.9]], dtype=torch.float64)
    given = rows[:1] if "trimmed_mean" in spec else rows
    told = aggregation.build(spec)(given, [3, 7, 11][: len(given)], score=[1.0, 0.0, 0.0])
    assert float(told) in rows.flatten().tolist()
