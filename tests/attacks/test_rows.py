"""Worked numbers and laws of the attacks that make rows from numbers alone.

Letters: N workers, H honest, Q faulty, D coordinates.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mottle import attacks
from mottle.attacks.moments import BLOCK, column_means, column_stds, pairwise_squared_distances, projections, squared_distances_to
from mottle.core.errors import ConfigError

E1_HONEST = torch.tensor([[1, 0], [2, 1], [0, 2], [3, 3], [1, 4], [2, 2]], dtype=torch.float64)
ALIE_Z = [
    (5, 1, 0.0),
    (7, 2, 0.253347103136),
    (11, 4, 0.565948821933),
    (20, 8, 0.674489750196),
    (25, 5, 0.253347103136),
    (25, 11, 1.067570523878),
    (50, 10, 0.253347103136),
    (50, 24, 1.426076872273),
    (51, 12, 0.361201637711),
    (100, 24, 0.371149323202),  # 0.37114932320228 to 30 digits; the specification rounds its last digit to 4
]


def view_of(honest_HD, num_faulty=1, own_QD=None):
    honest_HD = torch.as_tensor(honest_HD, dtype=torch.float64)
    faulty = tuple(range(len(honest_HD), len(honest_HD) + num_faulty))
    return attacks.RoundView(num_workers=len(honest_HD) + num_faulty, faulty_ids=faulty, honest=honest_HD, own=own_QD)


def own_view(own_QD):
    own_QD = torch.as_tensor(own_QD)
    return attacks.RoundView(num_workers=len(own_QD), faulty_ids=tuple(range(len(own_QD))), own=own_QD)


def honest_rows(num_rows=5, num_coordinates=4):
    cells = st.floats(-100, 100).map(lambda x: round(x, 3))
    row = st.lists(cells, min_size=num_coordinates, max_size=num_coordinates)
    return st.lists(row, min_size=num_rows, max_size=num_rows).map(lambda rows: torch.tensor(rows, dtype=torch.float64))


# --- gaussian ---------------------------------------------------------------------------------------------------------------------------


def test_gaussian_draws_one_matrix_a_round():
    generator, same = np.random.default_rng(3), np.random.default_rng(3)
    view = attacks.RoundView(num_workers=9, faulty_ids=(2, 5), num_coordinates=4, dtype=torch.float64)
    for _ in range(2):
        rows = attacks.build("gaussian").rows(view, generator=generator)
        assert rows.tolist() == (same.standard_normal((2, 4)) * 200).tolist()


def test_gaussian_may_sit_on_top_of_the_own_update_and_off_zero():
    own = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    attack = attacks.build({"gaussian": {"mode": "additive", "sigma": 0.5, "mean": 0.1}})
    rows = attack.rows(own_view(own), generator=np.random.default_rng(0))
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 2)))
    torch.testing.assert_close(rows, own + 0.1 + 0.5 * noise, rtol=1e-15, atol=0)


# --- sign flip, multiples of the honest mean --------------------------------------------------------------------------------------------


def test_sign_flip_reverses_the_own_update():
    own = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    assert attacks.build("sign_flip").rows(own_view(own)).tolist() == (-own).tolist()
    assert attacks.build({"sign_flip": {"scale": 10}}).rows(own_view(own)).tolist() == (-10 * own).tolist()


def test_sign_flip_may_copy_the_smallest_id_or_reverse_the_honest_mean():
    own = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    view = view_of(E1_HONEST, 2, own)
    assert attacks.build({"sign_flip": {"variant": "copy"}}).rows(view).tolist() == [[-1.0, 2.0]] * 2
    assert attacks.build({"sign_flip": {"variant": "omniscient"}}).rows(view).tolist() == [[-1.5, -2.0]] * 2


def test_multiples_of_the_honest_mean():
    view = view_of(E1_HONEST, 2)
    assert attacks.build({"ipm": {"epsilon": 0.5}}).rows(view).tolist() == [[-0.75, -1.0]] * 2
    assert attacks.build({"omniscient": {"scale": 100}}).rows(view).tolist() == [[-900.0, -1200.0]] * 2
    assert attacks.build("zero").rows(view).tolist() == [[0.0, 0.0]] * 2
    assert attacks.build("zero_sum").rows(view).tolist() == [[-4.5, -6.0]] * 2


def test_an_omniscient_row_beyond_float32_becomes_infinite():
    view = attacks.RoundView(num_workers=2, faulty_ids=(0,), honest=torch.full((1, 1), 1e20))
    assert attacks.build({"omniscient": {"scale": 1e20}}).rows(view).item() == -np.inf


@given(rows=honest_rows(), factor=st.floats(-5, 5))
@settings(max_examples=50, deadline=None)
def test_ipm_is_linear(rows, factor):
    attack, shift = attacks.build({"ipm": {"epsilon": 0.7}}), torch.tensor([1.0, -2.0, 3.0, 0.0], dtype=torch.float64)
    row = attack.rows(view_of(rows))
    torch.testing.assert_close(attack.rows(view_of(rows * factor + shift)), row * factor - 0.7 * shift, rtol=1e-12, atol=1e-10)


@given(rows=honest_rows(), num_faulty=st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_zero_sum_makes_the_mean_zero(rows, num_faulty):
    view = view_of(rows, num_faulty)
    mean = view.assemble(attacks.build("zero_sum").rows(view)).mean(0)
    assert (mean.abs() <= 1e-12 * rows.abs().sum(0).clamp_min(1e-300)).all()


@pytest.mark.parametrize(("epsilon", "median"), [(0.5, -0.5), (10, -2.0)])
def test_ipm_worked_example_of_the_median(epsilon, median):
    view = view_of([[-2.0], [1.0], [4.0]], 2)
    rows = view.assemble(attacks.build({"ipm": {"epsilon": epsilon}}).rows(view))
    assert rows.median().item() == median
    if epsilon == 0.5:
        assert rows.mean().item() == pytest.approx(0.4)


@pytest.mark.parametrize(("epsilon", "broken"), [(1.27, False), (1.28, True)])
def test_ipm_turns_the_mean_around_above_h_over_q(epsilon, broken):
    honest = 1 + torch.from_numpy(np.random.default_rng(0).standard_normal((14, 30)))
    view = view_of(honest, 11)
    mean = view.assemble(attacks.build({"ipm": {"epsilon": epsilon}}).rows(view)).mean(0)
    assert (mean @ honest.mean(0) < 0).item() is broken


# --- bit flip ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "bit31", "bit22", "bit30", "all_four"),
    [
        (1.0, -1.0, 1.5, np.inf, -2.7670116e19),
        (0.5, -0.5, 0.75, 1.7014118e38, -1.3835058e19),
        (-0.25, 0.25, -0.375, -8.5070592e37, 6.9175290e18),
        (0.0, -0.0, 5.877e-39, 2.0, -5.5340232e19),
    ],
)
def test_bit_flip_check_values(value, bit31, bit22, bit30, all_four):
    for bits, wanted in (((31,), bit31), ((22,), bit22), ((30,), bit30), ((22, 29, 30, 31), all_four)):
        got = attacks.flip_bits(torch.tensor([value]), bits).item()
        assert got == pytest.approx(wanted, rel=1e-4 if bits == (22,) and value == 0 else 1e-7, abs=0)
        assert np.signbit(got) == np.signbit(wanted)


@given(pattern=st.integers(-(2**31), 2**31 - 1), bits=st.sets(st.integers(0, 31), min_size=1).map(tuple))
@settings(max_examples=200, deadline=None)
def test_bit_flip_twice_is_the_identity_on_every_pattern(pattern, bits):
    value = torch.tensor([pattern], dtype=torch.int32).view(torch.float32)
    attack = attacks.build({"bit_flip": {"bits": bits}})
    once = attack.rows(own_view(value[None]))
    twice = attack.rows(own_view(once))
    assert once.view(torch.int32).item() != pattern
    assert twice.view(torch.int32).item() == pattern


def test_bit_flip_works_on_float32_patterns_whatever_the_dtype():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        rows = attacks.build({"bit_flip": {"bits": [22], "count": 1}}).rows(own_view(torch.ones(1, 2, dtype=dtype)))
        assert rows.tolist() == [[1.5, 1.0]]
        assert rows.dtype == dtype


def test_bit_flip_hits_the_first_coordinates_of_every_row_or_copies_the_first():
    own = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    sign = {"bits": [31], "count": 2}
    assert attacks.build({"bit_flip": sign}).rows(own_view(own)).tolist() == [[-1, -1, 1], [-2, -2, 2]]
    assert attacks.build({"bit_flip": {**sign, "copy": True}}).rows(own_view(own)).tolist() == [[-1, -1, 1]] * 2


def test_dimensional_bit_flip_hits_one_worker_a_coordinate():
    attack = attacks.build({"bit_flip": {"bits": [31], "count": 5, "mode": "dimensional"}})
    rows = attack.rows(own_view(torch.ones(3, 7)))
    assert (rows < 0).int().tolist() == [[1, 0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0, 0]]
    sent, _ = attack.corrupt(torch.ones(7), worker=1, num_workers=3, round=0)
    assert torch.equal(sent, rows[1])


# --- ALIE -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_workers", "num_faulty", "z"), ALIE_Z)
def test_alie_z_table(num_workers, num_faulty, z):
    assert attacks.alie_z(num_workers, num_faulty) == pytest.approx(z, abs=1e-12)


@pytest.mark.parametrize(("num_workers", "num_faulty"), [(4, 3), (10, 6), (3, 2), (2, 1)])
def test_alie_refuses_an_infinite_z(num_workers, num_faulty):
    with pytest.raises(ConfigError, match="0 < "):
        attacks.alie_z(num_workers, num_faulty)


def test_alie_shifts_by_the_honest_spread():
    mean, std = E1_HONEST.numpy().mean(0), E1_HONEST.numpy().std(0, ddof=1)
    row = attacks.build("alie").rows(view_of(E1_HONEST, 2))
    np.testing.assert_allclose(row.numpy(), [mean - attacks.alie_z(8, 2) * std] * 2, rtol=1e-14)
    row = attacks.build({"alie": {"z": 1.5, "sign": 1}}).rows(view_of(E1_HONEST, 2))
    np.testing.assert_allclose(row.numpy(), [mean + 1.5 * std] * 2, rtol=1e-14)


def test_alie_may_know_its_colluders_only():
    own = E1_HONEST[:3]
    row = attacks.build({"alie": {"source": "own", "z": 1.0}}).rows(own_view(own))
    np.testing.assert_allclose(row.numpy()[0], own.numpy().mean(0) - own.numpy().std(0), rtol=1e-14)


def test_alie_needs_two_honest_updates():
    with pytest.raises(ConfigError, match="at least 2 honest updates"):
        attacks.build({"alie": {"z": 1.0}}).rows(view_of([[1.0]], 1))


@given(rows=honest_rows(), spec=st.sampled_from([{"alie": {}}, {"min_max": {}}, {"min_sum": {}}, {"min_sum": {"bound": "min"}}]))
@settings(max_examples=60, deadline=None)
def test_attacks_along_the_spread_are_translation_equivariant(rows, spec):
    attack, shift = attacks.build(spec), torch.tensor([10.0, -20.0, 0.5, 3.0], dtype=torch.float64)
    shifted = attack.rows(view_of(rows + shift))
    torch.testing.assert_close(shifted, attack.rows(view_of(rows)) + shift, rtol=1e-9, atol=1e-2 if attack.name != "alie" else 1e-9)


@given(rows=honest_rows(), scale=st.lists(st.floats(0.01, 100), min_size=4, max_size=4))
@settings(max_examples=50, deadline=None)
def test_alie_is_equivariant_to_positive_scales_of_coordinates(rows, scale):
    attack, scale_D = attacks.build("alie"), torch.tensor(scale, dtype=torch.float64)
    torch.testing.assert_close(attack.rows(view_of(rows * scale_D)), attack.rows(view_of(rows)) * scale_D, rtol=1e-9, atol=1e-9)


# --- Min-Max, Min-Sum -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "factor", "row"),
    [
        ("min_max", {"direction": "unit"}, 2.254734039307, (0.147159576416, 0.196212768555)),
        ("min_max", {"direction": "sign"}, 1.567344665527, (-0.067344665527, 0.432655334473)),
        ("min_max", {"direction": "std"}, 1.281661987305, (0.155781567352, 0.187456235176)),
        ("min_sum", {"direction": "unit"}, 2.061538696289, (0.263076782227, 0.350769042969)),
        ("min_sum", {"direction": "sign"}, 1.457729339600, (0.042270660400, 0.542270660400)),
        ("min_sum", {"direction": "std"}, 1.170883178711, (0.271967361994, 0.344121128712)),
        ("min_sum", {"direction": "unit", "bound": "min"}, 0.499992370605, (1.200004577637, 1.600006103516)),
        ("min_sum", {"direction": "std", "bound": "min"}, 0.283966064453, (1.202173879022, 1.598411340397)),
    ],
)
def test_min_max_and_min_sum_worked_example(name, parameters, factor, row):
    attack, view = attacks.build({name: parameters}), view_of(E1_HONEST, 2)
    assert attack.factor(view) == pytest.approx(factor, abs=1e-12)
    np.testing.assert_allclose(attack.rows(view).numpy(), [row, row], atol=2e-12)


def outlying(name, bound, row_D, honest_HD):
    """Left and right side of the constraint by its definition, with all differences formed."""
    to_row = (honest_HD - row_D).square().sum(1)
    between = (honest_HD[:, None] - honest_HD).square().sum(2)
    if name == "min_max":
        return to_row.max().item(), between.max().item()
    sums = between.sum(1)
    return to_row.sum().item(), (sums.max() if bound == "max" else sums.min()).item()


@given(
    rows=honest_rows(),
    name=st.sampled_from(["min_max", "min_sum"]),
    direction=st.sampled_from(["std", "unit", "sign"]),
    bound=st.sampled_from(["max", "min"]),
)
@settings(max_examples=100, deadline=None)
def test_the_row_satisfies_its_constraint_and_a_little_more_violates_it(rows, name, direction, bound):
    attack = attacks.build({name: {"direction": direction} | ({"bound": bound} if name == "min_sum" else {})})
    view = view_of(rows)
    row, factor = attack.rows(view)[0], attack.factor(view)
    reached, limit = outlying(name, bound, row, rows)
    slack = 1e-9 * max(limit, rows.square().sum().item())
    assert reached <= limit + slack
    mean = rows.mean(0)
    direction_D = {"std": rows.std(0), "unit": mean / mean.norm().clamp_min(1e-300), "sign": mean.sign()}[direction]
    if factor < 19.9999 and direction_D.norm() > 0.1:
        reached, limit = outlying(name, bound, mean - (factor + 2e-5) * direction_D, rows)
        assert reached > limit - slack


def test_the_search_stays_below_twice_its_start():
    view = view_of([[1.0, 1e6], [1.0, -1e6]])
    assert attacks.build({"min_max": {"direction": "unit"}}).factor(view) == pytest.approx(20, abs=1e-4)
    assert attacks.build({"min_max": {"direction": "unit", "initial": 50.0}}).factor(view) == pytest.approx(100, abs=1e-4)


def test_the_bisection_variant_comes_within_its_width_from_below():
    view = view_of(E1_HONEST)
    for name in ("min_max", "min_sum"):
        factor = attacks.build({name: {"search": "bisection"}}).factor(view)
        distances = lambda x: (E1_HONEST - (E1_HONEST.mean(0) - x * E1_HONEST.std(0))).norm(dim=1)  # noqa: E731  one line is clearer here
        between = (E1_HONEST[:, None] - E1_HONEST).norm(dim=2)
        measure, limit = (torch.max, between.max()) if name == "min_max" else (torch.sum, between.sum(1).max())
        assert measure(distances(factor)) < limit <= measure(distances(factor + 0.01))


def test_rows_that_agree_leave_no_room():
    view = view_of([[2.0, 3.0]] * 4)
    assert attacks.build("min_max").rows(view).tolist() == [[2.0, 3.0]]
    assert attacks.build({"min_max": {"direction": "unit"}}).factor(view) < 1e-4


def test_the_colluders_rows_may_stand_for_the_honest_ones():
    own_only = attacks.build({"min_max": {"source": "own"}}).rows(own_view(E1_HONEST))
    assert torch.equal(own_only[:1], attacks.build("min_max").rows(view_of(E1_HONEST)))


# --- not finite -------------------------------------------------------------------------------------------------------------------------


def test_rows_that_are_not_finite():
    view = own_view(torch.ones(3, 2))
    kinds = {kind: attacks.build({"non_finite": {"kind": kind, "coordinate": 1}}).rows(view) for kind in ("nan", "inf", "single", "mixed")}
    assert kinds["nan"].isnan().all()
    assert (kinds["inf"] == torch.inf).all()
    assert kinds["single"].isnan().tolist() == [[False, True]] * 3
    assert (kinds["single"][:, 0] == 1).all()
    assert kinds["mixed"].tolist() == [[np.inf] * 2, [-np.inf] * 2, [np.inf] * 2]
    assert kinds["mixed"].sum(0).isnan().all()


def test_a_coordinate_beyond_the_update_is_named():
    with pytest.raises(ConfigError, match="coordinate 2 lies outside an update of length 2"):
        attacks.build({"non_finite": {"kind": "single", "coordinate": 2}}).rows(own_view(torch.ones(1, 2)))


# --- statistics -------------------------------------------------------------------------------------------------------------------------


def test_statistics_in_blocks_of_columns_equal_those_of_the_whole():
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 2 * BLOCK + 5))).float()
    whole = rows.double()
    torch.testing.assert_close(column_means(rows), whole.mean(0), rtol=1e-15, atol=1e-18)
    torch.testing.assert_close(column_stds(rows, ddof=1), whole.std(0), rtol=1e-13, atol=0)
    between = (whole[:, None] - whole).square().sum(2)
    torch.testing.assert_close(pairwise_squared_distances(rows), between, rtol=1e-12, atol=0)
    torch.testing.assert_close(squared_distances_to(rows, whole[0]), between[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(projections(rows, whole[0], whole[1]), (whole - whole[0]) @ whole[1], rtol=1e-11, atol=1e-9)


def test_no_coordinates_are_legal():
    view = attacks.RoundView(num_workers=5, faulty_ids=(1, 2), own=torch.zeros(2, 0), honest=torch.zeros(3, 0))
    for spec in ("sign_flip", "ipm", "alie", "min_max", "bit_flip", "zero_sum", "non_finite", "mimic"):
        assert attacks.build(spec).rows(view).shape == (2, 0)
