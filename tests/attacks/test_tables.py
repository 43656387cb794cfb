"""The attacks against brute-force float64 rules: tables T4 (inner-product manipulation) and T1 (training) of the specification.

The rules here are written from their definitions, slowly; letters: N workers, D coordinates.
"""

import numpy as np
import pytest
import torch

from mottle import attacks


def mean(rows_ND, budget):
    return rows_ND.mean(0)


def median(rows_ND, budget):
    return np.median(rows_ND, 0)


def trimmed_mean(rows_ND, budget):
    return np.sort(rows_ND, 0)[budget : len(rows_ND) - budget].mean(0)


def phocas(rows_ND, budget):
    """Mean of the n-b values of a coordinate nearest the trimmed mean, the smaller of two equally near."""
    ascending = np.sort(rows_ND, 0)
    far = np.abs(ascending - trimmed_mean(rows_ND, budget))
    order = np.argsort(far, 0, kind="stable")[: len(rows_ND) - budget]
    return np.take_along_axis(ascending, order, 0).mean(0)


def squared_distances(rows_ND):
    return np.array([((rows_ND - row) ** 2).sum(1) for row in rows_ND])


def krum_scores(rows_ND, budget):
    distances = squared_distances(rows_ND)
    others = [np.sort(np.delete(row, i)) for i, row in enumerate(distances)]
    return np.array([row[: len(rows_ND) - budget - 2].sum() for row in others])


def krum(rows_ND, budget):
    return rows_ND[np.argmin(krum_scores(rows_ND, budget))]


def geometric_median(rows_ND, budget):
    """Weiszfeld's iteration with the correction of Vardi and Zhang."""
    y = np.median(rows_ND, 0)
    for _ in range(20_000):
        distance = np.linalg.norm(rows_ND - y, axis=1)
        off = distance > 0
        if not off.any():
            return y
        h = 1 / distance[off]
        target, at = h @ rows_ND[off] / h.sum(), (~off).sum()
        if at:
            pull = np.linalg.norm(h @ (rows_ND[off] - y))
            if pull <= at:
                return y
            target = (1 - at / pull) * target + at / pull * y
        if np.linalg.norm(target - y) <= 1e-12 * max(1, np.linalg.norm(target)):
            return target
        y = target
    return y


def nnm_median(rows_ND, budget):
    near = [np.argsort(row, kind="stable")[: len(rows_ND) - budget] for row in squared_distances(rows_ND)]
    return np.median([rows_ND[np.sort(places)].mean(0) for places in near], 0)


RULES = (mean, median, trimmed_mean, phocas, krum, geometric_median, nnm_median)
T4 = [
    (0.1, 0.1, (0.5359, -0.0916, -0.0902, -0.1229, -0.1039, -0.1039, 0.0920)),
    (0.1, 1, (0.1246, -0.8809, -0.8677, -0.9864, -1.0386, -1.0386, -0.6425)),
    (0.1, 10, (-3.9882, -2.2512, -2.3448, -0.8781, -10.386, -3.325, 1.0386)),
    (0.1, 100, (-45.1166, -2.3429, -2.5086, 0.8584, 1.5033, -3.3254, 1.0386)),
    (1, 0.1, (0.5180, 0.0307, 0.0492, -0.0359, -0.1004, -0.1004, 1.0039)),
    (1, 1, (0.1205, -0.1642, -0.1911, -0.4241, -1.0039, -0.1739, 1.0039)),
    (1, 2, (-0.3212, -0.1916, -0.2465, -0.1561, -2.0077, -0.1738, 1.0039)),
    (1, 5, (-1.6463, -0.1982, -0.2640, 0.8119, 1.0503, -0.1738, 1.0039)),
    (2, 0.5, (0.3407, 0.4010, 0.3696, 0.3778, -0.5010, 0.3975, 1.0019)),
    (2, 1, (0.1202, 0.4009, 0.3679, 0.6871, 1.0252, 0.3975, 1.0019)),
]


def attacked(signal, epsilon):
    """The round of table T4: 11 manipulated rows before 14 honest ones around signal * ones."""
    honest = torch.from_numpy(signal + np.random.default_rng(0).standard_normal((14, 1000)))
    view = attacks.RoundView(num_workers=25, faulty_ids=tuple(range(11)), honest=honest)
    return view.assemble(attacks.build({"ipm": {"epsilon": epsilon}}).rows(view)).numpy()


@pytest.mark.parametrize(("signal", "epsilon", "wanted"), T4)
def test_inner_product_manipulation_table(signal, epsilon, wanted):
    rows, truth = attacked(signal, epsilon), np.full(1000, float(signal))
    got = [rule(rows, 11) @ truth / (truth @ truth) for rule in RULES]
    np.testing.assert_allclose(got, wanted, atol=6e-5, rtol=5e-5)


@pytest.mark.parametrize("signal", [1, 2])
def test_krum_picks_a_manipulated_row_below_the_derived_limit_only(signal):
    """(1 + epsilon)^2 < ((n-3)/(n-2q-1)) V/G with n = 25, q = 11, V/G = 1/signal^2."""
    limit = np.sqrt(11 / signal**2) - 1
    for epsilon in (0.8 * limit, 1.2 * limit):
        chosen = int(np.argmin(krum_scores(attacked(signal, epsilon), 11)))
        assert (chosen < 11) == (epsilon < limit)


def test_krum_worked_example_of_inner_product_manipulation():
    view = attacks.RoundView(num_workers=5, faulty_ids=(0,), honest=torch.tensor([[-4.0], [0.0], [4.0], [8.0]], dtype=torch.float64))
    rows = view.assemble(attacks.build({"ipm": {"epsilon": 0.5}}).rows(view)).numpy()
    assert krum_scores(rows, 1).tolist() == [10, 25, 17, 32, 80]
    assert krum(rows, 1).tolist() == [-1]


# --- table T1: 200 rounds of least squares ----------------------------------------------------------------------------------------------

T1 = [
    ("honest", 0, {"oracle": 0.0218, "mean": 0.0218, "median": 0.0195, "trimmed_mean": 0.0184, "phocas": 0.0207, "krum": 0.0649}),
    ("sign_flip", 8, {"oracle": 0.0266, "mean": 0.539, "median": 0.391, "trimmed_mean": 0.399, "phocas": 0.387, "krum": 0.340}),
    ({"sign_flip": {"scale": 10}}, 8, {"mean": np.inf, "median": 0.231, "trimmed_mean": 0.252, "phocas": 0.0348, "krum": 0.0957}),
    ("gaussian", 8, {"oracle": 0.0316, "mean": 35.4, "median": 0.0508, "trimmed_mean": 0.0526, "phocas": 0.0319, "krum": 0.109}),
    ({"ipm": {"epsilon": 0.5}}, 8, {"mean": 0.0673, "median": 7.71, "trimmed_mean": 6.42, "phocas": 33.0, "krum": 583}),
    ({"alie": {"z": 1.0}}, 8, {"mean": 0.338, "median": 21.5, "trimmed_mean": 12.1, "phocas": 41.5, "krum": 139}),
]


def train(attack, num_faulty, aggregate):
    """Distance to the true parameters after the recipe's 200 rounds; infinite once they run away."""
    generator, num_workers, batch, num_coordinates = np.random.default_rng(0), 20, 10, 20
    truth, params, state = generator.standard_normal(num_coordinates), np.zeros(num_coordinates), None
    for round in range(200):
        inputs = generator.standard_normal((num_workers, batch, num_coordinates))
        targets = inputs @ truth + 0.5 * generator.standard_normal((num_workers, batch))
        gradients = np.einsum("nbd,nb->nd", inputs, inputs @ params - targets) / batch
        generator.standard_normal((12, num_coordinates))  # the server's sample, which the rules tested here do not use
        generator.standard_normal(12)
        view = attacks.RoundView.split(torch.from_numpy(gradients), range(num_faulty), round=round)
        rows, state = attack.step(view, state, generator=generator)
        params = params - 0.05 * aggregate(view.assemble(rows).numpy())
        if np.linalg.norm(params) > 1e12:
            return np.inf
    return np.linalg.norm(params - truth)


@pytest.mark.parametrize(("spec", "num_faulty", "errors"), T1, ids=[str(row[0]) for row in T1])
def test_training_table(spec, num_faulty, errors):
    """Values below 1 to the printed digits; runs that diverge only have to."""
    budgets = {"median": 0, "mean": 0, "trimmed_mean": 8, "phocas": 8, "krum": num_faulty}
    rules = {rule.__name__: rule for rule in (mean, median, trimmed_mean, phocas, krum)}
    for name, wanted in errors.items():
        if name == "oracle":
            got = train(attacks.build(spec), num_faulty, lambda rows: rows[num_faulty:].mean(0))
        else:
            got = train(attacks.build(spec), num_faulty, lambda rows, name=name: rules[name](rows, budgets[name]))
        assert got > 1 if wanted > 1 else got == pytest.approx(wanted, rel=0.01), name
