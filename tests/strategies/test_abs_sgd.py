"""ABS-SGD: literal events, the worked example, SGD delayed by one step as the neutral reference, and batches that follow the speeds."""

import random
from collections import defaultdict

import numpy as np
import pytest

from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.strategies import ABSConfig

V0, V1 = p.Version(0, 0), p.Version(0, 1)


@pytest.fixture
def abs_sgd(alone):
    def build(*crew: int, free: int = 1000, **options):
        machine = alone(ABSConfig(**{"batch_size": 4, "least": 2, **options}))
        machine.view.crew, machine.view.free_samples = crew, free
        return machine

    return build


def update(work_id: int, worker: int, samples: int, base: int = 0) -> s.Update:
    return s.Update(work_id, worker, p.Version(0, base), samples, norm2=1.0)


def grow(worker: int, samples: int = 8) -> s.Assign:
    return s.Assign(worker, samples, least=2)


def issued(*orders: tuple[int, int, int]) -> list[s.OrderIssued]:
    return [s.OrderIssued(*order) for order in orders]


# --- literal events ---------------------------------------------------------------------------------------------------------------------


def test_every_worker_begins_with_a_batch_and_has_one_that_grows_behind_it(abs_sgd) -> None:
    machine = abs_sgd(0, 3)
    assert machine.hear(s.VersionPublished(V0)) == [s.Assign(0, 4), grow(0), s.Assign(3, 4), grow(3)]
    assert machine.hear(*issued((10, 0, 4), (11, 0, 8), (12, 3, 4), (13, 3, 8)), s.WorkerIdle(0)) == []


def test_a_published_version_cuts_the_growing_orders_and_all_go_on_at_it(abs_sgd) -> None:
    machine = abs_sgd(0, 1)
    machine.hear(s.VersionPublished(V0), *issued((10, 0, 4), (11, 0, 8), (12, 1, 4), (13, 1, 8)))
    assert machine.hear(s.UpdateArrived(update(12, 1, 4))) == []
    assert machine.hear(s.UpdateArrived(update(10, 0, 4))) == [s.Apply(((10, 1 / 8), (12, 1 / 8)))]
    machine.view.head = V1
    assert machine.hear(s.WorkerIdle(0)) == [], "its next order waits in its hands"
    cuts = [s.CutOrder(11), s.CutOrder(13)]
    assert machine.hear(machine.view.publish(1)) == [*cuts, grow(0), grow(1)]
    machine.hear(*issued((14, 0, 8), (15, 1, 8)), s.UpdateArrived(update(11, 0, 7)))
    assert machine.hear(s.UpdateArrived(update(13, 1, 3))) == [s.Apply(((11, 1 / 10), (13, 1 / 10)))]
    assert machine.hear(machine.view.publish(2)) == [s.CutOrder(14), s.CutOrder(15), grow(0, 14), grow(1)], "room for twice the last"


def test_a_worker_that_has_used_all_it_borrowed_gets_more_of_the_same_round(abs_sgd) -> None:
    machine = abs_sgd(0, 1)
    machine.hear(s.VersionPublished(V0), *issued((10, 0, 4), (11, 0, 8), (12, 1, 4), (13, 1, 8)), s.UpdateArrived(update(10, 0, 4)))
    machine.hear(s.UpdateArrived(update(11, 0, 8)))
    assert machine.hear(s.WorkerIdle(0)) == [grow(0, 16)]
    machine.hear(s.OrderIssued(14, 0, 16), s.UpdateArrived(update(12, 1, 4)))
    assert machine.hear(machine.view.publish(1))[:2] == [s.CutOrder(13), s.CutOrder(14)]
    machine.hear(*issued((15, 0, 16), (16, 1, 8)), s.UpdateArrived(update(13, 1, 6)))
    assert machine.hear(s.UpdateArrived(update(14, 0, 2))) == [s.Apply(((11, 1 / 16), (14, 1 / 16), (13, 1 / 16)))]


def test_with_a_rule_a_worker_is_one_row_of_a_round_and_whoever_left_is_missed(abs_sgd) -> None:
    rule = {"trimmed_mean": {"trim": 1}}
    machine = abs_sgd(0, 1, 2, rule=rule)
    machine.hear(s.VersionPublished(V0), *issued(*((10 + turn + 2 * worker, worker, 4) for worker in range(3) for turn in (0, 1))))
    machine.hear(s.UpdateArrived(update(11, 0, 8)))
    assert machine.hear(s.WorkerIdle(0)) == [], "it has its row of the growing round"
    machine.hear(s.OrderEnded(14, 2, "no update"), s.UpdateArrived(update(12, 1, 4)))
    assert machine.hear(s.UpdateArrived(update(10, 0, 4))) == [s.ApplyRule(((10, 4.0), (12, 4.0)), rule, 3)]


def test_a_rule_that_comes_in_the_middle_of_a_round_counts_the_first_update_of_a_worker(abs_sgd) -> None:
    machine = abs_sgd(0, 1)
    machine.hear(s.VersionPublished(V0), *issued((10, 0, 4), (11, 0, 8), (12, 1, 4), (13, 1, 8)), s.UpdateArrived(update(10, 0, 4)))
    machine.hear(s.UpdateArrived(update(11, 0, 8)), s.WorkerIdle(0), s.OrderIssued(14, 0, 16), s.UpdateArrived(update(12, 1, 4)))
    machine.hear(s.RuleChanged({"median": {}}), machine.view.publish(1), *issued((15, 0, 16), (16, 1, 8)))
    machine.hear(s.UpdateArrived(update(13, 1, 6)))
    surplus = s.Discard(14, "a worker is one row of a rule")
    assert machine.hear(s.UpdateArrived(update(14, 0, 2))) == [surplus, s.ApplyRule(((11, 8.0), (13, 6.0)), {"median": {}}, 2)]


def test_a_rule_in_its_place_keeps_a_liar_out(train, least_squares) -> None:
    problem = least_squares(num_samples=120, dim=4, seed=50)
    tamper = {3: lambda sum_D: -30 * sum_D}
    settings = {"speeds": (1, 2, 3, 2), "lr": 0.05, "num_positions": 120, "max_samples": 1200, "tamper": tamper, "step_ns": 5}
    defended = train("abs_sgd", problem, defaults={"batch_size": 4, "rule": {"trimmed_mean": {"trim": 1}}}, **settings).run()
    assert problem.loss(defended.params) < 0.2 * problem.loss(problem.start)
    assert max(each.staleness for each in defended.verdicts if each.verdict == "accepted") == 1
    bare = train("abs_sgd", problem, defaults={"batch_size": 4}, **settings).run()
    assert not problem.loss(bare.params) < problem.loss(problem.start)


def test_a_joiner_takes_part_in_the_round_that_grows(abs_sgd) -> None:
    machine = abs_sgd(0)
    machine.hear(s.VersionPublished(V0), *issued((10, 0, 4), (11, 0, 8)))
    machine.view.crew = (0, 1)
    assert machine.hear(s.WorkerIdle(1)) == [grow(1)]
    machine.hear(s.OrderIssued(12, 1, 8), s.UpdateArrived(update(10, 0, 4)))
    assert machine.hear(machine.view.publish(1)) == [s.CutOrder(11), s.CutOrder(12), grow(0), grow(1)]


def test_a_round_goes_on_without_the_dead(abs_sgd) -> None:
    machine = abs_sgd(0, 1)
    machine.hear(s.VersionPublished(V0), *issued((10, 0, 4), (11, 0, 8), (12, 1, 4), (13, 1, 8)), s.UpdateArrived(update(10, 0, 4)))
    machine.view.crew = (0,)
    assert machine.hear(s.OrderEnded(12, 1, "no update")) == [s.Apply(((10, 1 / 4),))]
    machine.hear(s.OrderEnded(13, 1, "no update"), s.WorkerGone(1))
    assert machine.hear(machine.view.publish(1)) == [s.CutOrder(11), grow(0)]


def test_a_round_that_came_to_nothing_is_replaced_by_the_one_behind_it(abs_sgd) -> None:
    machine = abs_sgd(0, 1)
    machine.hear(s.VersionPublished(V0), *issued((10, 0, 4), (11, 0, 8), (12, 1, 4), (13, 1, 8)), s.OrderEnded(10, 0, "not finite"))
    assert machine.hear(s.OrderEnded(12, 1, "not finite")) == [s.CutOrder(11), s.CutOrder(13), grow(0), grow(1)]


def test_when_nothing_is_left_it_rests_and_begins_again_with_whoever_is_woken(abs_sgd) -> None:
    machine = abs_sgd(0)
    machine.hear(s.VersionPublished(V0), *issued((10, 0, 4)), s.NoWork(0))
    assert machine.hear(s.UpdateArrived(update(10, 0, 4))) == [s.Apply(((10, 1 / 4),))]
    assert machine.hear(machine.view.publish(1)) == [grow(0)]
    assert machine.hear(s.NoWork(0)) == []
    assert machine.hear(s.WorkerIdle(0)) == [s.Assign(0, 4), grow(0)]


def test_an_order_that_comes_of_an_assignment_to_a_round_closed_meanwhile_is_cut_at_once(abs_sgd) -> None:
    machine = abs_sgd(0, 1)
    machine.hear(s.VersionPublished(V0), *issued((10, 0, 4)), s.NoWork(0), *issued((12, 1, 4)), s.NoWork(1))
    machine.hear(s.UpdateArrived(update(10, 0, 4)), s.UpdateArrived(update(12, 1, 4)))
    machine.hear(machine.view.publish(1))
    assert machine.hear(s.OrderIssued(14, 0, 2)) == [s.CutOrder(14), grow(0), grow(1)], "nothing is under way: it takes its place at once"
    assert machine.hear(s.OrderIssued(15, 1, 2)) == [s.CutOrder(15)]


@pytest.mark.parametrize(("free", "samples"), [(1000, 8), (10, 5), (3, 2), (0, 2)])
def test_an_order_borrows_no_more_than_its_share_of_what_is_left_but_its_least_size(abs_sgd, free: int, samples: int) -> None:
    assert abs_sgd(0, 1, free=free).hear(s.VersionPublished(V0))[1] == grow(0, samples)


def test_the_most_that_an_order_may_borrow(abs_sgd) -> None:
    assert abs_sgd(0, most=5).hear(s.VersionPublished(V0))[1] == grow(0, 5)


@pytest.mark.parametrize(("samples", "weight"), [(4, 0.5 / 4), (8, 1 / 8), (16, 2 / 16), (80, 4 / 80)])
def test_steps_may_scale_with_their_samples_up_to_a_cap(abs_sgd, samples: int, weight: float) -> None:
    machine = abs_sgd(0, linear_batch=8)
    machine.hear(s.VersionPublished(V0), *issued((10, 0, samples), (11, 0, 8)))
    assert machine.hear(s.UpdateArrived(update(10, 0, samples))) == [s.Apply(((10, weight),))]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"least": 0}, {"most": 1}, {"linear_batch": 0}, {"linear_cap": 0.0}])
def test_impossible_settings_are_refused(abs_sgd, options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="abs_sgd needs"):
        abs_sgd(0, **options)


# --- the worked example -----------------------------------------------------------------------------------------------------------------


def test_the_worked_example(abs_sgd) -> None:
    """Loss 0.5 (x - a)^2, x_0 = 0, rate 0.1; worker 0 meets a = 1, 2, 3 ..., worker 1 meets 10, 20 ...; batches (1, 1), then (2, 1)."""
    machine = abs_sgd(0, 1)
    machine.hear(s.VersionPublished(V0), *issued((0, 0, 1), (2, 0, 8), (1, 1, 1), (3, 1, 8)))
    samples = {0: [1], 1: [10], 2: [2, 3], 3: [20], 4: [4, 5], 5: [30], 6: [6, 7], 7: [40]}
    path = [0.0]  # by version: x_1 = x_0, x_2, ...
    for number, round_ids in enumerate([(0, 1), (2, 3), (4, 5), (6, 7)]):
        base = max(0, number - 1)
        sums = {each: sum(path[base] - a for a in samples[each]) for each in round_ids}
        machine.hear(s.UpdateArrived(update(round_ids[0], 0, len(samples[round_ids[0]]), base)))
        (step,) = machine.hear(s.UpdateArrived(update(round_ids[1], 1, len(samples[round_ids[1]]), base)))
        path.append(path[-1] - 0.1 * sum(weight * sums[each] for each, weight in step.terms))
        machine.hear(machine.view.publish(number + 1), *issued((2 * number + 4, 0, 8), (2 * number + 5, 1, 8)))
    assert path[1:] == pytest.approx([0.55, 1.383333, 2.628333, 4.256667], abs=5e-7)


# --- neutral reference ------------------------------------------------------------------------------------------------------------------


def batches_of(run) -> dict[int, list[tuple[int, int]]]:
    """Version -> ranges of the samples whose gradients made it, read off orders and verdicts."""
    made = defaultdict(list)
    for verdict in run.verdicts:
        order, left = run.orders[verdict.work_id], verdict.samples
        for part in order.parts:
            used = min(left, len(part.lease))
            made[order.base.number + verdict.staleness + 1].append((part.lease.start, part.lease.start + used))
            left -= used
    return made


def delayed_sgd(problem, batches: dict[int, list[tuple[int, int]]], lr: float = 0.1) -> list[np.ndarray]:
    """x_{t+1} = x_t - lr * g_{t-1}, g_t at x_t, from x_1 = x_0; by version, which is t - 1."""
    path = [problem.start, problem.start]  # x_0, x_1
    for number in sorted(batches):
        before_D = path[number - 1]
        sum_D = sum(problem.gradient_sum(before_D, start, stop) for start, stop in batches[number])
        path.append(path[-1] - lr * sum_D / sum(stop - start for start, stop in batches[number]))
    return path[1:]


@pytest.mark.parametrize("speeds", [(3,), (3, 3), (1, 2, 7)], ids=str)
def test_it_is_sgd_delayed_by_one_step(train, least_squares, speeds: tuple[int, ...]) -> None:
    problem = least_squares(num_samples=3000, dim=5, seed=51)
    spec = {"abs_sgd": {"least": 2}}
    run = train(spec, problem, speeds=speeds, lr=0.05, step_ns=30, defaults={"batch_size": 4}, num_positions=3000, max_samples=3000)
    run.run(until=lambda: len(run.history) == 40)
    batches = batches_of(run)
    path = delayed_sgd(problem, batches, lr=0.05)
    assert len(path) == len(run.history) == 40
    for number, params in run.history.items():
        np.testing.assert_allclose(params, path[number], rtol=1e-12, atol=1e-14)
    first_round = len(speeds)
    assert [verdict.staleness for verdict in run.verdicts] == [0] * first_round + [1] * (len(run.verdicts) - first_round)
    assert set(run.used.values()) == {1}


@pytest.mark.parametrize(("rate", "falls"), [(0.99, True), (1.01, False)])
def test_the_recurrence_is_stable_up_to_half_the_rate_of_synchronous_sgd(train, rate: float, falls: bool) -> None:
    class Parabola:
        """f = x^2 / 2, whatever the sample."""

        start = np.array([1.0])

        def gradient_sum(self, x_D: np.ndarray, start: int, stop: int) -> np.ndarray:
            return (stop - start) * x_D

    run = train("abs_sgd", Parabola(), speeds=(1, 2), lr=rate, defaults={"batch_size": 8}, num_positions=10**5, max_samples=10**5)
    run.run(until=lambda: len(run.history) == 250)
    late, later = (max(abs(run.history[number][0]) for number in range(begin, begin + 12)) for begin in (50, 230))
    assert (later < late) == falls


# --- speeds -----------------------------------------------------------------------------------------------------------------------------


def test_batches_follow_the_speeds_and_nobody_waits(train, least_squares) -> None:
    problem = least_squares(num_samples=40_000, dim=2, seed=52)
    spec = {"abs_sgd": {"least": 1}}
    settings = {"lr": 0.01, "step_ns": 240, "defaults": {"batch_size": 8}, "num_positions": 40_000, "max_samples": 40_000}
    run = train(spec, problem, speeds=(1, 1, 2, 4), **settings).run()
    counts = defaultdict(dict)
    for verdict in run.verdicts:
        base = run.orders[verdict.work_id].base.number
        counts[base][verdict.worker] = counts[base].get(verdict.worker, 0) + verdict.samples
    steady = [counts[base] for base in sorted(counts)[3:8]]
    for count in steady:
        assert count[0] == count[1] == pytest.approx(2 * count[2], abs=2)
        assert count[2] == pytest.approx(2 * count[3], abs=2)
    assert run.now_ns == pytest.approx(40_000 / (1 + 1 + 1 / 2 + 1 / 4), rel=0.06), "the sum of speeds"


@pytest.mark.parametrize("seed", range(10))
def test_small_epochs_and_odd_sizes_use_every_sample_once(train, least_squares, seed: int) -> None:
    rng = random.Random(seed)
    size, batch, least = rng.randint(5, 60), rng.randint(1, 12), rng.randint(1, 9)
    problem = least_squares(num_samples=size, dim=2, seed=53)
    speeds = tuple(rng.choice((1, 3, 10)) for _ in range(rng.randint(1, 4)))
    settings = {"lr": 0.001, "step_ns": rng.choice((0, 5, 50)), "num_positions": size, "max_samples": 4 * size}
    run = train({"abs_sgd": {"least": least}}, problem, speeds=speeds, defaults={"batch_size": batch}, **settings).run()
    assert run.finished == p.Finished("samples")
    assert len(run.used) == 4 * size
    assert set(run.used.values()) == {1}
    assert {verdict.staleness for verdict in run.verdicts} <= {0, 1}
