"""Load-balanced synchronous SGD: the split against brute force, the predictor, literal events, and synchronous SGD as its reference."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.evidence import update_of
from mottle.core.ledger import Order
from mottle.core.protocol import Version
from mottle.strategies import LBBSPConfig
from mottle.strategies.balance import Predictor, Speed, balanced

V0 = Version(0, 0)

# --- the split --------------------------------------------------------------------------------------------------------------------------


def test_the_worked_split() -> None:
    assert balanced(128, [Speed(2.0), Speed(2.0), Speed(4.0), Speed(8.0)]) == [47, 47, 23, 11]


@pytest.mark.parametrize(("batch", "shares"), [(12, [3, 3, 3, 3]), (14, [4, 4, 3, 3]), (3, [1, 1, 1, 0]), (0, [0, 0, 0, 0])])
def test_equal_workers_get_equal_shares_and_the_first_the_rest(batch: int, shares: list[int]) -> None:
    assert balanced(batch, [Speed(0.3, 0.1)] * 4) == shares


@given(
    batch=st.integers(0, 9),
    times=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), min_size=1, max_size=4),
    least=st.integers(0, 2),
    room=st.integers(0, 9),
)
def test_the_split_is_as_fast_as_any(batch: int, times: list[tuple[int, int]], least: int, room: int) -> None:
    n = len(times)
    most = least + room
    speeds = [Speed(float(sample), float(overhead)) for sample, overhead in times]
    if not least * n <= batch <= most * n:
        with pytest.raises(ValueError, match="cannot split"):
            balanced(batch, speeds, least, most)
        return
    shares = balanced(batch, speeds, least, most)
    assert sum(shares) == batch
    assert all(least <= share <= most for share in shares)
    every = (split for split in product(range(least, min(most, batch) + 1), repeat=n) if sum(split) == batch)
    fastest = min(max(each.time(share) for each, share in zip(speeds, split, strict=True)) for split in every)
    assert max(each.time(share) for each, share in zip(speeds, shares, strict=True)) == pytest.approx(fastest, rel=1e-12)


# --- the predictor ----------------------------------------------------------------------------------------------------------------------


def predictor(*orders: tuple[int, float], smoothing: float = 0.2, calibrate: bool = True) -> Predictor:
    made = Predictor(smoothing, calibrate=calibrate)
    for order in orders:
        made.note(*order)
    return made


def test_nothing_is_known_at_first_and_then_a_warm_up_until_there_is_more() -> None:
    assert predictor().speed is None
    assert predictor((10, 70.0)).speed == Speed(7.0)
    assert predictor((10, 70.0), (10, 20.0)).speed == Speed(2.0)


def test_two_clearly_different_sizes_give_overhead_and_speed() -> None:
    calibrated = predictor((10, 99.0), (15, 5.0 + 15 * 2.0), (5, 5.0 + 5 * 2.0))
    assert calibrated.calibrated
    assert calibrated.speed == Speed(2.0, 5.0)


def test_after_that_the_speed_is_a_moving_average() -> None:
    assert predictor((10, 99.0), (15, 35.0), (5, 15.0), (10, 5.0 + 10 * 4.0)).speed == Speed(pytest.approx(2.0 + 0.2 * 2.0), 5.0)
    assert predictor((8, 9.0), (10, 20.0), (10, 40.0), smoothing=0.5).speed == Speed(3.0), "sizes too close to calibrate"
    assert predictor((8, 9.0), (10, 20.0), (30, 30.0), calibrate=False).speed == Speed(pytest.approx(2.0 - 0.2))


@pytest.mark.parametrize("third", [(5, 60.0), (5, 1.0)], ids=["more samples take less time", "an overhead below zero"])
def test_times_that_make_no_sense_calibrate_nothing(third: tuple[int, float]) -> None:
    learnt = predictor((10, 99.0), (15, 45.0), third)
    assert learnt.calibrated
    assert learnt.speed is not None
    assert learnt.speed.overhead == 0.0


def test_a_time_below_the_overhead_leaves_a_speed_above_zero() -> None:
    speed = predictor((10, 99.0), (15, 35.0), (5, 15.0), (10, 1.0), smoothing=1.0).speed
    assert speed is not None
    assert speed.sample > 0


# --- literal events ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lb_bsp(alone):
    def build(*crew: int, free: int = 10_000, **options):
        machine = alone(LBBSPConfig(**{"batch_size": 128, "calibrate": False, **options}))
        machine.view.crew, machine.view.free_samples = crew, free
        return machine

    return build


def play(machine, sample_ns: dict[int, float], overhead_ns: float = 0.0) -> dict[int, int]:
    """One round in which every worker takes its time; the shares."""
    begun = machine.hear(s.VersionPublished(machine.view.version))
    shares = {each.worker: each.samples for each in begun}
    for worker, samples in shares.items():
        machine.hear(s.OrderIssued(worker, worker, samples))
    for worker, samples in shares.items():
        took_ns = round(overhead_ns + samples * sample_ns[worker])
        done = machine.hear(s.UpdateArrived(s.Update(worker, worker, V0, samples, 1.0, compute_ns=took_ns)))
    total = sum(shares.values())
    assert done == [s.Apply(tuple((worker, 1 / total) for worker in shares))]
    machine.view.publish(machine.view.version.number + 1)
    return shares


SPEEDS = {0: 2e6, 1: 2e6, 2: 4e6, 3: 8e6}


def test_the_first_round_is_even_and_the_next_as_the_speeds_say(lb_bsp) -> None:
    machine = lb_bsp(0, 1, 2, 3)
    assert play(machine, SPEEDS) == {0: 32, 1: 32, 2: 32, 3: 32}
    assert [play(machine, SPEEDS) for _ in range(3)] == [{0: 47, 1: 47, 2: 23, 3: 11}] * 3


def test_calibration_makes_shares_clearly_unequal_twice_and_they_still_add_up(lb_bsp) -> None:
    machine = lb_bsp(0, 1, 2, 3, calibrate=True)
    played = [play(machine, SPEEDS, overhead_ns=10e6) for _ in range(4)]
    assert {sum(shares.values()) for shares in played} == {128}
    assert all(played[1][worker] >= 1.5 * played[2][worker] or played[2][worker] >= 1.5 * played[1][worker] for worker in SPEEDS)
    assert played[3] == dict(enumerate(balanced(128, [Speed(2e6, 10e6), Speed(2e6, 10e6), Speed(4e6, 10e6), Speed(8e6, 10e6)])))


def test_shares_stay_for_a_gain_of_less_than_two_percent(lb_bsp) -> None:
    machine = lb_bsp(0, 1, batch_size=100, smoothing=1.0)
    play(machine, {0: 1000, 1: 1000})
    play(machine, {0: 1000, 1: 1000})
    assert play(machine, {0: 1000, 1: 1030}) == {0: 50, 1: 50}
    assert play(machine, {0: 1000, 1: 1100}) == {0: 50, 1: 50}, "a gain of 1.5 % was in sight"
    assert play(machine, {0: 1000, 1: 1100}) == {0: 52, 1: 48}


def test_a_joiner_is_taken_to_be_like_the_others_and_a_leaver_is_forgotten(lb_bsp) -> None:
    machine = lb_bsp(0, 1, batch_size=90)
    play(machine, {0: 1000, 1: 2000})
    machine.view.crew = (0, 1, 2)
    assert play(machine, {0: 1000, 1: 2000, 2: 500}) == {0: 42, 1: 21, 2: 27}
    machine.hear(s.WorkerGone(2))
    machine.view.crew = (0, 1)
    assert play(machine, {0: 1000, 1: 2000}) == {0: 60, 1: 30}
    assert set(machine.strategy._predictors) == {0, 1}


def test_the_tail_of_an_epoch_is_split_the_same_way_and_bounds_hold(lb_bsp) -> None:
    machine = lb_bsp(0, 1, 2, 3, least=10, most=40)
    play(machine, SPEEDS)
    assert play(machine, SPEEDS) == {0: 40, 1: 40, 2: 32, 3: 16}
    machine.view.free_samples = 6
    assert play(machine, SPEEDS) == {0: 2, 1: 2, 2: 1, 3: 1}
    machine.view.free_samples = 2
    assert play(machine, SPEEDS) == {0: 1, 1: 1}
    machine.view.crew, machine.view.free_samples = (0, 1), 1000
    assert play(machine, SPEEDS) == {0: 40, 1: 40}, "a batch of 128 does not fit into two workers"


def test_a_worker_that_reports_no_time_at_all_gets_no_more_than_the_batch(lb_bsp) -> None:
    machine = lb_bsp(0, 1, batch_size=10)
    play(machine, {0: 0.0, 1: 1000})
    assert play(machine, {0: 0.0, 1: 1000}) == {0: 9, 1: 1}


def test_a_rule_gets_one_row_a_worker(lb_bsp) -> None:
    machine = lb_bsp(0, 1, batch_size=4, rule={"phocas": {"trim": 1}})
    machine.hear(s.VersionPublished(V0), s.RuleChanged({"median": {}}), s.OrderIssued(5, 0, 2), s.OrderIssued(6, 1, 2))
    machine.hear(s.UpdateArrived(s.Update(6, 1, V0, 2, 1.0)))
    assert machine.hear(s.UpdateArrived(s.Update(5, 0, V0, 2, 1.0))) == [s.ApplyRule(((5, 2.0), (6, 2.0)), {"median": {}}, 2)]


def test_a_round_that_lost_everybody_begins_again(lb_bsp) -> None:
    machine = lb_bsp(0, 1, batch_size=4)
    machine.hear(s.VersionPublished(V0), s.OrderIssued(5, 0, 2), s.OrderIssued(6, 1, 2), s.OrderEnded(5, 0, "no update"))
    machine.view.crew = (2,)
    assert machine.hear(s.OrderEnded(6, 1, "no update")) == [s.Assign(2, 4)]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"least": 0}, {"most": 0}, {"smoothing": 0.0}, {"smoothing": 1.5}])
def test_impossible_settings_are_refused(lb_bsp, options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="lb_bsp needs"):
        lb_bsp(0, **options)


@pytest.mark.parametrize(("claimed_ns", "believed_ns"), [(300, 300), (10**12, 700), (-5, 0)])
def test_a_worker_cannot_claim_more_time_than_has_passed_since_its_order(claimed_ns: int, believed_ns: int) -> None:
    order = Order(p.Compute(7, 1, V0, (p.Part(p.Lease(0, 0, 0, 4)),), p.Samples(4)), issued_ns=100)
    order.used = 4
    replica = p.ReplicaId(0, 0)
    order.receipts[replica] = p.Receipt(replica, "update/7", 1, 4, True, 0, compute_ns=claimed_ns)
    assert update_of(order, now_ns=800).compute_ns == believed_ns


# --- neutral reference ------------------------------------------------------------------------------------------------------------------


def test_it_goes_the_way_of_synchronous_sgd_step_for_step_and_gets_there_sooner(train, least_squares) -> None:
    problem = least_squares(num_samples=470, dim=5, seed=61)
    settings = {"speeds": (1, 1, 2, 8), "defaults": {"batch_size": 48}, "num_positions": 470, "max_samples": 940, "num_shards": 2}
    plain, balanced_run = (train(spec, problem, **settings).run() for spec in ("sync", "lb_bsp"))
    assert sorted(plain.history) == sorted(balanced_run.history) == list(range(21))
    for number, params in plain.history.items():
        np.testing.assert_allclose(balanced_run.history[number], params, rtol=1e-12, atol=1e-14)
    assert set(balanced_run.used.values()) == {1}
    assert balanced_run.now_ns < 0.4 * plain.now_ns
