"""Rules that look at whole rows against slow references in float64, written from their definitions, on small random rounds with duplicates.

Letters: N rows, D coordinates.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mottle import aggregation

Array = np.ndarray
some = settings(max_examples=25, deadline=None, derandomize=True)


def random_round(seed: int) -> tuple[Array, Array]:
    """7 to 12 rows of 1 to 4 coordinates with sample counts; on some seeds equal rows, a far row, whole numbers."""
    generator = np.random.default_rng(seed)
    num_rows, num_coordinates = int(generator.integers(7, 13)), int(generator.integers(1, 5))
    rows_ND = generator.standard_normal((num_rows, num_coordinates))
    if seed % 3 == 0:
        rows_ND[1] = rows_ND[4]
    if seed % 4 == 0:
        rows_ND[0] *= 1e6
    if seed % 5 == 0:
        rows_ND = np.round(3 * rows_ND)
    return rows_ND, generator.integers(1, 9, num_rows).astype(float)


def capped(counts_N: Array) -> Array:
    return np.minimum(counts_N, 2 * np.sort(counts_N)[(len(counts_N) + 1) // 2 - 1])


def squared_distances(rows_ND: Array) -> Array:
    return np.array([[((a - b) ** 2).sum() for b in rows_ND] for a in rows_ND])


def krum_key(distances_NN: Array, row: int, among: list[int], num_neighbours: int) -> float:
    return float(sum(sorted(distances_NN[row, other] for other in among if other != row)[:num_neighbours]))


def krum_order(rows_ND: Array, f: int) -> list[int]:
    distances_NN, everyone = squared_distances(rows_ND), list(range(len(rows_ND)))
    keys = [(krum_key(distances_NN, row, everyone, len(rows_ND) - f - 2), row) for row in everyone]
    return [row for _, row in sorted(keys)]


def krum(rows_ND: Array, counts_N: Array, f: int) -> Array:
    return rows_ND[krum_order(rows_ND, f)[0]]


def multi_krum(rows_ND: Array, counts_N: Array, f: int) -> Array:
    chosen = sorted(krum_order(rows_ND, f)[: len(rows_ND) - f - 2])
    return np.average(rows_ND[chosen], axis=0, weights=capped(counts_N)[chosen])


def bulyan_selection(rows_ND: Array, f: int) -> list[int]:
    distances_NN, left, picked = squared_distances(rows_ND), list(range(len(rows_ND))), []
    for _ in range(len(rows_ND) - 2 * f):
        keys = [(krum_key(distances_NN, row, left, max(0, len(left) - f - 2)), distances_NN[row, left].sum(), row) for row in left]
        picked.append(min(keys)[2])
        left.remove(picked[-1])
    return picked


def bulyan(rows_ND: Array, counts_N: Array, f: int) -> Array:
    """With equal counts: the values of the picked rows that are closest to their median."""
    values_SD = rows_ND[sorted(bulyan_selection(rows_ND, f))]
    kept = len(values_SD) - 2 * f
    return np.array([np.mean(closest(column, float(np.median(column)), kept)) for column in values_SD.T])


def closest(column: Array, center: float, kept: int) -> list[float]:
    return sorted(column, key=lambda value: (abs(value - center), value))[:kept]


def centered_clipping(rows_ND: Array, counts_N: Array, f: int) -> Array:
    center_D, weights_N = np.zeros(rows_ND.shape[1]), capped(counts_N)
    for _ in range(2):
        moves = [(row - center_D) * min(1.0, 1.5 / max(float(np.linalg.norm(row - center_D)), 1e-300)) for row in rows_ND]
        center_D = center_D + np.average(moves, axis=0, weights=weights_N)
    return center_D


def rfa(rows_ND: Array, counts_N: Array, f: int) -> Array:
    z_D, weights_N = np.zeros(rows_ND.shape[1]), capped(counts_N)
    for _ in range(8):
        z_D = np.average(rows_ND, axis=0, weights=weights_N / np.maximum(0.1, np.linalg.norm(rows_ND - z_D, axis=1)))
    return z_D


def nnm_median(rows_ND: Array, counts_N: Array, f: int) -> Array:
    distances_NN, weights_N = squared_distances(rows_ND), capped(counts_N)
    mixed = []
    for row in range(len(rows_ND)):
        near = sorted(range(len(rows_ND)), key=lambda other, row=row: (distances_NN[row, other], other != row, other))[: len(rows_ND) - f]
        mixed.append(np.average(rows_ND[near], axis=0, weights=weights_N[near]))
    return np.median(mixed, axis=0)


def fltrust(rows_ND: Array, counts_N: Array, f: int) -> Array:
    own_D, norms_N = np.ones(rows_ND.shape[1]), np.linalg.norm(rows_ND, axis=1)
    length = np.linalg.norm(own_D)
    there = norms_N > 0
    trust_N = np.zeros(len(rows_ND))
    trust_N[there] = np.maximum(0, rows_ND[there] @ own_D / (norms_N[there] * length)) * capped(counts_N)[there]
    if trust_N.sum() == 0:
        return np.zeros_like(own_D)
    return (trust_N[there] * length / norms_N[there]) @ rows_ND[there] / trust_N.sum()


def first_order_zeno(rows_ND: Array, counts_N: Array, f: int) -> Array:
    scores = 0.1 * rows_ND @ np.ones(rows_ND.shape[1]) - 0.01 * (rows_ND**2).sum(axis=1)
    chosen = sorted(sorted(range(len(rows_ND)), key=lambda row: (-scores[row], row))[: len(rows_ND) - f])
    return np.average(rows_ND[chosen], axis=0, weights=capped(counts_N)[chosen])


CASES: list[tuple[Any, Callable[[Array, Array, int], Array], int]] = [
    ({"krum": {"num_byzantine": 2}}, krum, 2),
    ({"multi_krum": {"num_byzantine": 2}}, multi_krum, 2),
    ({"bulyan": {"num_byzantine": 1}}, bulyan, 1),
    ({"centered_clipping": {"radius": 1.5, "iterations": 2}}, centered_clipping, 0),
    ("rfa", rfa, 0),
    ({"nnm": {"num_byzantine": 2, "inner": "median"}}, nnm_median, 2),
    ("fltrust", fltrust, 0),
    ({"zeno": {"trim": 2, "rho": 0.01, "gamma": 0.1}}, first_order_zeno, 2),
]


@pytest.mark.parametrize(("spec", "reference", "f"), CASES, ids=[case[1].__name__ for case in CASES])
@some
@given(seed=st.integers(0, 10**6))
def test_a_rule_does_what_its_definition_says(spec: Any, reference: Callable[[Array, Array, int], Array], f: int, seed: int) -> None:
    rows_ND, counts_N = random_round(seed)
    if reference is bulyan:
        counts_N = np.ones(len(rows_ND))
    told = aggregation.build(spec)(torch.tensor(rows_ND), counts_N, reference=torch.ones(rows_ND.shape[1], dtype=torch.float64))
    scale = float(np.abs(rows_ND).max())
    np.testing.assert_allclose(told.numpy(), reference(rows_ND, counts_N, f), rtol=0, atol=1e-9 * scale)


@some
@given(seed=st.integers(0, 10**6))
def test_bulyan_picks_in_the_order_of_its_definition(seed: int) -> None:
    rows_ND, _ = random_round(seed)
    told = aggregation.build({"bulyan": {"num_byzantine": 1}}).explain(torch.tensor(rows_ND))
    assert list(told.order) == bulyan_selection(rows_ND, 1)


@some
@given(seed=st.integers(0, 10**6))
def test_no_point_has_a_smaller_sum_of_distances_than_the_geometric_median(seed: int) -> None:
    """The sum is convex, so a small step in any direction would show a better point."""
    rows_ND, counts_N = random_round(seed)
    weights_N, generator = capped(counts_N), np.random.default_rng(seed + 1)

    def objective(point_D: Array) -> float:
        return float(weights_N @ np.linalg.norm(rows_ND - point_D, axis=1))

    median_D = aggregation.build("geometric_median")(torch.tensor(rows_ND), counts_N).numpy()
    least = objective(median_D)
    for step in (1e-1, 1e-3, 1e-5):
        for direction_D in generator.standard_normal((8, rows_ND.shape[1])):
            assert least <= objective(median_D + step * direction_D) * (1 + 1e-12)
    assert least <= min(objective(row_D) for row_D in rows_ND) * (1 + 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_two_rows_a_hair_apart_do_not_hold_the_geometric_median_between_them(dtype: torch.dtype) -> None:
    """At a distance of 1e-30 each of them pulls with a weight of 1e30, and together they are still weaker than the others."""
    far = [[10.0, 1.0], [10.0, -1.0], [10.0, -0.3], [-0.1, 5.0], [-0.1, -5.0]]
    rows_ND = np.array([[0.0, 0.0], [1e-30, -2e-30], *far])
    found_D = aggregation.build("geometric_median")(torch.tensor(rows_ND, dtype=dtype)).double().numpy()
    assert np.linalg.norm(rows_ND - found_D, axis=1).sum() < np.linalg.norm(rows_ND, axis=1).sum() - 1
