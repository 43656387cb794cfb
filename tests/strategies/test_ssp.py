"""Stale synchronous parallel: literal events, the worked example, the two bounds, and its neutral references."""

import random

import numpy as np
import pytest

from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.strategies import SSPConfig

V0, V1 = p.Version(0, 0), p.Version(0, 1)


@pytest.fixture
def ssp(alone):
    def build(*crew: int, **options):
        machine = alone(SSPConfig(**{"batch_size": 4, **options}))
        machine.view.crew = crew
        return machine

    return build


def update(work_id: int, worker: int, *, samples: int = 4, base: p.Version = V0) -> s.Update:
    return s.Update(work_id, worker, base, samples, norm2=1.0)


def iterate(machine, worker: int, times: int = 1) -> list[s.Decision]:
    """Begin and finish iterations of which nothing comes; the decisions on the last finish."""
    decisions: list[s.Decision] = []
    for _ in range(times):
        assert machine.hear(s.WorkerIdle(worker)) == [s.Assign(worker, 4)]
        decisions = machine.hear(s.OrderIssued(9, worker, 4), s.OrderEnded(9, worker, "not finite"))
    return decisions


# --- literal events ---------------------------------------------------------------------------------------------------------------------


def test_the_worked_example(ssp) -> None:
    machine = ssp(0, 1, 2, 3, slack=3)
    machine.hear(*map(s.WorkerIdle, range(4)))
    for worker in (3, 2, 1, 0):
        iterate(machine, worker, 2)
    for worker, more in ((2, 2), (1, 4), (0, 4)):
        iterate(machine, worker, more)
    assert machine.strategy._clocks == {0: 6, 1: 6, 2: 4, 3: 2}
    assert machine.hear(s.WorkerIdle(0)) == machine.hear(s.WorkerIdle(1)) == [], "their lead of 4 is above 3"
    assert machine.hear(s.WorkerIdle(2)) == [s.Assign(2, 4)]
    assert iterate(machine, 3) == [s.Assign(0, 4), s.Assign(1, 4)]


def test_an_update_is_one_of_n_parts_of_a_step_and_counts_when_its_version_is_published(ssp) -> None:
    machine = ssp(0, 1, slack=0)
    assert machine.hear(s.WorkerIdle(0)) == [s.Assign(0, 4)]
    assert machine.hear(s.WorkerIdle(1)) == [s.Assign(1, 4)]
    machine.hear(s.OrderIssued(5, 0, 4), s.OrderIssued(6, 1, 4))
    assert machine.hear(s.UpdateArrived(update(5, 0))) == [s.Apply(((5, 1 / 8),))]
    machine.view.head = V1
    assert machine.hear(s.WorkerIdle(0)) == []
    assert machine.hear(machine.view.publish(1)) == [], "worker 1 is an iteration behind"
    assert machine.hear(s.UpdateArrived(update(6, 1, samples=2))) == [s.Apply(((6, 2 / 4 / 2 / 2),))]
    assert machine.hear(s.WorkerIdle(1)) == []
    assert machine.hear(machine.view.publish(2)) == [s.Assign(0, 4), s.Assign(1, 4)]


@pytest.mark.parametrize("how", ["gone", "without samples"])
def test_whoever_takes_no_part_holds_nobody_back(ssp, how: str) -> None:
    machine = ssp(0, 1, slack=0)
    machine.hear(s.WorkerIdle(1), s.WorkerIdle(0), s.OrderIssued(5, 0, 4), s.OrderEnded(5, 0, "no update"))
    assert machine.hear(s.WorkerIdle(0)) == []
    event = {"gone": s.WorkerGone(1), "without samples": s.NoWork(1)}[how]
    machine.view.crew = (0,) if how == "gone" else (0, 1)
    assert machine.hear(event) == [s.Assign(0, 4)]


def test_an_overdue_worker_holds_the_others_while_its_order_is_out(ssp) -> None:
    machine = ssp(0, 1, slack=0)
    machine.hear(s.WorkerIdle(1), s.OrderIssued(6, 1, 4), s.WorkerIdle(0), s.OrderIssued(5, 0, 4), s.OrderEnded(5, 0, "no update"))
    machine.view.crew = (0,)
    assert machine.hear(s.WorkerIdle(0)) == []
    assert machine.hear(s.OrderEnded(6, 1, "overdue")) == [s.Assign(0, 4)]


def test_who_comes_and_who_comes_back_begins_at_the_least_clock(ssp) -> None:
    machine = ssp(0, 1, slack=2)
    iterate(machine, 0, 2)
    machine.hear(s.WorkerIdle(1), s.NoWork(1))
    iterate(machine, 0, 5)
    machine.view.crew = (0, 1, 2)
    machine.hear(s.WorkerIdle(1), s.WorkerIdle(2))
    assert machine.strategy._clocks == {0: 7, 1: 7, 2: 7}


def test_who_was_ahead_when_it_left_is_still_ahead_when_it_comes_back(ssp) -> None:
    machine = ssp(0, 1, slack=2)
    machine.hear(s.WorkerIdle(1))
    iterate(machine, 0, 2)
    machine.hear(s.WorkerIdle(0), s.NoWork(0))
    iterate(machine, 1)
    machine.hear(s.WorkerIdle(0))
    assert machine.strategy._clocks == {0: 2, 1: 1}


def test_buffered_updates_make_one_step_when_all_have_finished_the_iteration(ssp) -> None:
    machine = ssp(0, 1, slack=1, buffered=True)
    machine.hear(s.WorkerIdle(0), s.WorkerIdle(1), s.OrderIssued(5, 0, 4), s.OrderIssued(6, 1, 4))
    assert machine.hear(s.UpdateArrived(update(5, 0))) == []
    assert machine.hear(s.WorkerIdle(0)) == [s.Assign(0, 4)]
    assert machine.hear(s.OrderIssued(7, 0, 4), s.UpdateArrived(update(7, 0))) == []
    assert machine.hear(s.WorkerIdle(0)) == []
    assert machine.hear(s.UpdateArrived(update(6, 1, samples=2))) == [s.Apply(((5, 1 / 6), (6, 1 / 6)))]
    machine.view.head = V1
    assert machine.hear(s.WorkerIdle(1)) == [], "the step is not published yet"
    assert machine.hear(machine.view.publish(1)) == [s.Assign(0, 4), s.Assign(1, 4)]
    assert machine.hear(s.WorkerGone(1)) == [s.Apply(((7, 1 / 4),))]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"slack": -1}])
def test_impossible_settings_are_refused(ssp, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="ssp needs"):
        ssp(0, **options)


# --- laws -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_the_bounds_on_lead_and_staleness(train, least_squares, seed: int) -> None:
    """(i) the clocks differ by at most slack + 1, which the machine's own check sees after every event; (iii) staleness."""
    rng = random.Random(seed)
    slack, step_ns, speeds = rng.randint(0, 3), rng.randint(0, 20), [rng.randint(1, 9) for _ in range(rng.randint(1, 4))]
    problem = least_squares(num_samples=60, dim=2, seed=41)
    spec = {"ssp": {"slack": slack}}
    settings = {"defaults": {"batch_size": 2, "lr": 0.01}, "num_positions": 60, "max_samples": 120, "step_ns": step_ns}
    run = train(spec, problem, speeds=tuple(speeds), **settings).run()
    assert run.finished == p.Finished("samples")
    assert set(run.used.values()) == {1}
    assert max(verdict.staleness for verdict in run.verdicts) <= (2 * slack + 1) * (len(speeds) - 1)


def test_the_slack_lets_a_fast_worker_get_ahead_and_then_it_goes_at_the_pace_of_the_slowest(train, least_squares) -> None:
    problem = least_squares(num_samples=4000, dim=2, seed=42)
    orders = {}
    for slack in (0, 4):
        run = train({"ssp": {"slack": slack}}, problem, speeds=(1, 10), defaults={"batch_size": 1}, num_positions=4000, max_samples=4000)
        run.run(until=lambda run=run: run.now_ns >= 200)
        orders[slack] = [sum(order.worker == worker for order in run.orders.values()) for worker in (0, 1)]
    assert orders[0][0] - orders[0][1] <= 1
    assert orders[4][0] - orders[4][1] in (4, 5)
    assert orders[0][1] == pytest.approx(20, abs=1)
    assert orders[4][1] == pytest.approx(20, abs=1)


# --- neutral references -----------------------------------------------------------------------------------------------------------------


def test_with_one_worker_it_is_plain_sgd_step_for_step(train, least_squares) -> None:
    problem = least_squares(num_samples=40, dim=6, seed=43)
    run = train("ssp", problem, defaults={"batch_size": 8}, num_positions=40, max_samples=80, num_shards=2).run()
    x_D = problem.start
    for number in range(1, 11):
        start = (number - 1) * 8 % 40
        x_D = x_D - 0.1 * problem.gradient_sum(x_D, start, start + 8) / 8
        np.testing.assert_allclose(run.history[number], x_D, rtol=1e-12, atol=1e-14)
    assert len(run.history) == 11


def test_with_slack_0_and_buffering_it_is_synchronous_sgd_step_for_step(train, least_squares) -> None:
    problem = least_squares(num_samples=48, dim=5, seed=44)
    settings = {"speeds": (3, 1, 7), "num_positions": 48, "max_samples": 96, "step_ns": 5}
    run = train({"ssp": {"slack": 0, "buffered": True}}, problem, defaults={"batch_size": 4}, **settings).run()
    plain = train("sync", problem, defaults={"batch_size": 12}, **settings).run()
    assert sorted(run.history) == sorted(plain.history) == list(range(9))
    for number, params in plain.history.items():
        np.testing.assert_allclose(run.history[number], params, rtol=1e-12, atol=1e-14)
    assert {verdict.staleness for verdict in run.verdicts} == {0}
