"""The attacks against the library's own rules: table T4 again, and what a false sample count buys.

Letters: N workers, D coordinates.
"""

import numpy as np
import pytest
import torch

from mottle import aggregation, attacks

T4_RULES = {
    "mean": {"mean": {}},
    "median": {"median": {}},
    "trimmed_mean": {"trimmed_mean": {"trim": 11}},
    "phocas": {"phocas": {"trim": 11}},
    "krum": {"krum": {"num_byzantine": 11}},
    "geometric_median": {"geometric_median": {}},
    "nnm_median": {"nnm": {"num_byzantine": 11, "inner": "median"}},
}
T4 = {
    (0.1, 0.1): (0.5359, -0.0916, -0.0902, -0.1229, -0.1039, -0.1039, 0.0920),
    (0.1, 100): (-45.1166, -2.3429, -2.5086, 0.8584, 1.5033, -3.3254, 1.0386),
    (1, 1): (0.1205, -0.1642, -0.1911, -0.4241, -1.0039, -0.1739, 1.0039),
    (2, 0.5): (0.3407, 0.4010, 0.3696, 0.3778, -0.5010, 0.3975, 1.0019),
}


@pytest.mark.parametrize("place", range(len(T4_RULES)), ids=list(T4_RULES))
def test_inner_product_manipulation_of_the_librarys_rules(place):
    rule = aggregation.build(list(T4_RULES.values())[place])
    for (signal, epsilon), wanted in T4.items():
        honest = torch.from_numpy(signal + np.random.default_rng(0).standard_normal((14, 1000)))
        view = attacks.RoundView(num_workers=25, faulty_ids=tuple(range(11)), honest=honest)
        aggregate = rule(view.assemble(attacks.build({"ipm": {"epsilon": epsilon}}).rows(view)))
        assert aggregate.sum().item() / (1000 * signal) == pytest.approx(wanted[place], abs=6e-5, rel=5e-5)


def manipulated(signal, epsilon, num_coordinates=1000):
    """11 rows of inner-product manipulation before 14 honest ones, normal around signal * ones."""
    honest = torch.from_numpy(signal + np.random.default_rng(0).standard_normal((14, num_coordinates)))
    view = attacks.RoundView(num_workers=25, faulty_ids=tuple(range(11)), honest=honest)
    return view.assemble(attacks.build({"ipm": {"epsilon": epsilon}}).rows(view)), honest


@pytest.mark.parametrize("signal", [1, 2])
@pytest.mark.parametrize("share_of_limit", [0.8, 1.2])
def test_krum_falls_to_manipulation_below_the_derived_limit_and_zeno_never(signal, share_of_limit):
    """(1 + epsilon)^2 < ((n-3)/(n-2q-1)) V/G, here with n = 25, q = 11 and V/G = 1/signal^2 (attacks, C8)."""
    epsilon = share_of_limit * (np.sqrt(11 / signal**2) - 1)
    rows, _ = manipulated(signal, epsilon)
    (chosen,) = aggregation.build({"krum": {"num_byzantine": 11}}).explain(rows).chosen
    assert (chosen < 11) == (share_of_limit < 1)
    own = torch.full((1000,), float(signal), dtype=torch.float64)
    told = aggregation.build({"zeno": {"trim": 11, "rho": 1e-4, "gamma": 0.1}}).explain(rows, reference=own)
    assert told.chosen == tuple(range(11, 25))
    assert told.aggregate @ own > 0


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 3.0])
def test_the_median_is_the_manipulated_value_just_where_the_count_of_honest_values_below_says_so(epsilon):
    """With L honest values below -epsilon * mean: that value itself for 2 <= L <= 12, else an honest one (n = 25, q = 11; C8)."""
    rows, honest = manipulated(0.3, epsilon)
    mean = honest.mean(0)
    where = mean > 0
    below = (honest < -epsilon * mean).sum(0)
    taken = aggregation.build("median")(rows) == -epsilon * mean
    assert torch.equal(taken[where], ((below >= 2) & (below <= 12))[where])
    assert 0 < int(taken[where].sum()) < int(where.sum())


WEIGHTED = [
    {"multi_krum": {"num_byzantine": 2}},
    {"bulyan": {"num_byzantine": 2}},
    {"trimmed_mean": {"trim": 2}},
    {"phocas": {"trim": 2}},
    {"mea_med": {"num_byzantine": 2}},
    {"geometric_median": {}},
    {"rfa": {}},
    {"centered_clipping": {"radius": 2.0}},
    {"nnm": {"num_byzantine": 2, "inner": "median"}},
]


@pytest.mark.parametrize("spec", WEIGHTED, ids=lambda spec: next(iter(spec)))
@pytest.mark.parametrize("carried", ["honest", "sign_flip", {"alie": {"z": 1.0}}], ids=str)
def test_a_claim_above_the_cap_buys_nothing_more(spec, carried):
    rule, rows = aggregation.build(spec), torch.from_numpy(np.random.default_rng(0).standard_normal((11, 6)))
    true_counts = [8, 4, 6, 5, 3, 8, 9, 4, 7, 6, 5]
    view = attacks.RoundView.split(rows, [3, 7])

    def outcome(claim):
        attack = attacks.build({"count_inflation": {"claim": claim, "attack": carried}})
        rows_ND, counts = view.assemble(attack.rows(view)), list(true_counts)
        for worker in view.faulty_ids:
            message = attacks.Message(worker=worker, round=0, payload=rows_ND[worker], count=true_counts[worker])
            counts[worker] = attack.messages(message)[0].count
        return rule(rows_ND, weights=counts)

    # With both claims high, the 6th smallest count of the 11 is 7, and the cap is twice that.
    at_the_cap = outcome(14)
    for claim in (15, 1000, 10**9):
        assert torch.equal(outcome(claim), at_the_cap)
