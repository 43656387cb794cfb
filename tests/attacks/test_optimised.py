"""Line searches, and attacks whose factor is fitted to the rule.

Letters: N workers, D coordinates.
"""

import numpy as np
import pytest
import torch

from mottle import attacks
from mottle.attacks.line_search import maximise_forward, maximise_swinging
from mottle.core.errors import ConfigError


def trace(search, objective, **parameters):
    tried = []

    def recorded(x):
        tried.append(x)
        return objective(x)

    return search(recorded, **parameters), tried


def test_the_forward_search_expands_and_then_contracts_ahead_of_the_best():
    best, tried = trace(maximise_forward, lambda x: -abs(x - 40), start=0, step=10, ratio=0.8, evaluations=8)
    # 0, +10, +20 are better, +40 is not; then 30 + 32, 30 + 25.6, 30 + 20.48, 30 + 16.384 (better).
    assert tried == pytest.approx([0, 10, 30, 70, 62, 55.6, 50.48, 46.384])
    assert best == pytest.approx(46.384)


def test_the_swinging_search_goes_back_and_forth():
    best, tried = trace(maximise_swinging, lambda x: -abs(x - 2.5), start=0, step=1, ratio=0.8, evaluations=7)
    # 0, 1, 3 are better, 7 is not; back by 3.2, back by 2.56 to 1.24, and forth by 2.048.
    assert tried == pytest.approx([0, 1, 3, 7, 3.8, 1.24, 3.288])
    assert best == 3


def test_the_swinging_search_never_goes_below_zero():
    best, tried = trace(maximise_swinging, lambda x: -x, start=0, step=1, ratio=0.8, evaluations=30)
    assert best == 0
    assert min(tried) >= 0


@pytest.mark.parametrize("search", [maximise_forward, maximise_swinging])
def test_a_search_keeps_to_its_budget(search):
    for evaluations in range(1, 12):
        for objective in (lambda x: x, lambda x: -x, lambda x: float("nan")):
            assert len(trace(search, objective, start=0, step=1, ratio=0.8, evaluations=evaluations)[1]) == evaluations


@pytest.mark.parametrize("search", [maximise_forward, maximise_swinging])
def test_nothing_that_is_no_number_counts_as_better(search):
    assert search(lambda x: 0.0 if x == 0 else float("nan"), start=0.0, step=1.0, ratio=0.5, evaluations=10) == 0


def median(rows_ND):
    return torch.quantile(rows_ND, 0.5, dim=0)


def a_view(rule):
    rows = 1 + torch.from_numpy(np.random.default_rng(0).standard_normal((25, 50)))
    return attacks.RoundView.split(rows, range(3, 14), rule=rule)


@pytest.mark.parametrize("family", ["alie", "ipm"])
@pytest.mark.parametrize("search", [{}, {"search": "swinging", "evaluations": 16, "first_step": 1.0}])
def test_the_fitted_factor_does_most_of_the_damage_that_any_does(family, search):
    view = a_view(median)
    attack = attacks.build({"optimised": {"family": family, **search}})
    mean, std = view.honest.mean(0), view.honest.std(0)

    def damage(factor):
        row = -factor * mean if family == "ipm" else mean - factor * std
        return (median(view.assemble(row.repeat(11, 1))) - mean).norm().item()

    reached = damage(attack.factor(view))
    assert reached >= 0.95 * max(damage(factor) for factor in np.linspace(0, 60, 121))
    assert reached > 1.2 * damage(0.0)
    base = {"ipm": {"epsilon": attack.factor(view)}} if family == "ipm" else {"alie": {"z": attack.factor(view)}}
    assert torch.equal(attack.rows(view), attacks.build(base).rows(view))


def test_against_the_mean_the_factor_runs_away():
    assert attacks.build("optimised").factor(a_view(lambda rows_ND: rows_ND.mean(0))) == 10 * (2**19 - 1)


def test_the_rule_is_needed_and_named():
    with pytest.raises(ConfigError, match="optimised needs the aggregation rule"):
        attacks.build("optimised").rows(a_view(None))
