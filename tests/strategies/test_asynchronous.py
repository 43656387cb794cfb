"""Asynchronous SGD: literal events, and with one worker plain SGD."""

import numpy as np
import pytest

from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.protocol import Version
from mottle.strategies import AsyncConfig

V0, V1 = Version(0, 0), Version(0, 1)


class Parabola:
    """f = x^2 / 2 from x = 1, whatever the sample."""

    start = np.array([1.0])

    def gradient_sum(self, x_D: np.ndarray, start: int, stop: int) -> np.ndarray:
        return (stop - start) * x_D


@pytest.fixture
def asynchronous(alone):
    return lambda **options: alone(AsyncConfig(**{"batch_size": 4, **options}))


def update(work_id: int, worker: int, *, base: int = 0, samples: int = 4) -> s.Update:
    return s.Update(work_id, worker, Version(0, base), samples, norm2=1.0)


# --- literal events ---------------------------------------------------------------------------------------------------------------------


def test_an_update_is_applied_as_it_arrives_and_its_worker_waits_for_the_version_that_has_it(asynchronous) -> None:
    machine = asynchronous()
    assert machine.hear(s.WorkerIdle(0)) == [s.Assign(0, 4)]
    assert machine.hear(s.UpdateArrived(update(7, 0))) == [s.Apply(((7, 0.25),))]
    machine.view.head = V1
    assert machine.hear(s.WorkerIdle(0)) == []
    assert machine.hear(machine.view.publish(1)) == [s.Assign(0, 4)]


def test_a_version_wakes_only_those_whose_update_it_has(asynchronous) -> None:
    machine = asynchronous()
    machine.hear(s.UpdateArrived(update(7, 1)))
    machine.view.head = V1
    machine.hear(s.UpdateArrived(update(8, 0)))
    machine.view.head, machine.view.version = Version(0, 2), V1
    assert machine.hear(s.VersionPublished(V1)) == [s.Assign(1, 4)]
    assert machine.hear(machine.view.publish(2)) == [s.Assign(0, 4)]


def test_a_worker_that_left_is_not_woken(asynchronous) -> None:
    machine = asynchronous()
    machine.hear(s.UpdateArrived(update(7, 1)), s.WorkerGone(1))
    assert machine.hear(machine.view.publish(1)) == []


def test_an_update_of_the_past_does_not_end_the_wait_for_a_later_one(asynchronous) -> None:
    machine = asynchronous(max_in_flight=2)
    machine.hear(s.UpdateArrived(update(7, 0)))
    machine.view.head = V1
    machine.hear(s.UpdateArrived(update(8, 0)))
    machine.view.head, machine.view.version = Version(0, 2), V1
    assert machine.hear(s.VersionPublished(V1), s.WorkerIdle(0)) == []
    assert machine.hear(machine.view.publish(2)) == [s.Assign(0, 4)]


def test_a_short_update_makes_a_short_step(asynchronous) -> None:
    assert asynchronous().hear(s.UpdateArrived(update(7, 0, samples=1))) == [s.Apply(((7, 0.25),))]
    assert asynchronous().hear(s.UpdateArrived(update(7, 0, samples=2))) == [s.Apply(((7, 0.25),))]


def test_an_update_that_is_too_stale_is_discarded_and_its_worker_goes_on(asynchronous) -> None:
    machine = asynchronous(max_staleness=2)
    machine.view.publish(3)
    assert machine.hear(s.UpdateArrived(update(7, 0, base=1))) == [s.Apply(((7, 0.25),))]
    assert machine.hear(s.UpdateArrived(update(8, 1, base=0))) == [s.Discard(8, "staleness 3 is above 2")]
    assert machine.hear(s.WorkerIdle(1)) == [s.Assign(1, 4)]


def test_steps_that_are_decided_and_not_yet_made_count_as_staleness(asynchronous) -> None:
    machine = asynchronous(staleness={"polynomial": {"a": 1.0}})
    machine.view.head = Version(0, 3)
    assert machine.hear(s.UpdateArrived(update(7, 0))) == [s.Apply(((7, 0.25 / 4),))]


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"max_in_flight": 3}, {"max_staleness": -1}, {"staleness": {"hinge": {"a": -1.0}}}, {"staleness": "no"}]
)
def test_impossible_settings_are_refused(asynchronous, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        asynchronous(**options)


# --- neutral reference ------------------------------------------------------------------------------------------------------------------


def test_with_one_worker_it_is_plain_sgd_step_for_step(train, least_squares) -> None:
    problem = least_squares(num_samples=40, dim=6, seed=3)
    run = train("async", problem, defaults={"batch_size": 8}, num_positions=40, max_samples=80, num_shards=2).run()
    x_D = problem.start
    for number in range(1, 11):
        start = (number - 1) * 8 % 40
        x_D = x_D - 0.1 * problem.gradient_sum(x_D, start, start + 8) / 8
        np.testing.assert_allclose(run.history[number], x_D, rtol=1e-12, atol=1e-14)
    assert len(run.history) == 11
    assert {verdict.staleness for verdict in run.verdicts} == {0}


@pytest.mark.parametrize(("staleness", "after"), [("constant", 0.6), ({"polynomial": {"a": 1.0}}, 0.7)])
def test_two_workers_that_read_the_same_version(train, staleness: object, after: float) -> None:
    spec = {"async": {"staleness": staleness}}
    run = train(spec, Parabola(), speeds=(1, 2), lr=0.2, defaults={"batch_size": 1}, num_positions=2, max_samples=2).run()
    assert [run.history[number][0] for number in (1, 2)] == pytest.approx([0.8, after], rel=1e-15)
    assert [verdict.staleness for verdict in run.verdicts] == [0, 1]


def test_the_mean_staleness_of_n_equal_workers_is_n_minus_1(train) -> None:
    run = train("async", Parabola(), speeds=(5, 5, 5, 5), defaults={"batch_size": 2}, num_positions=80, max_samples=160).run()
    staleness = [verdict.staleness for verdict in run.verdicts]
    assert staleness[:3] == [0, 1, 2]
    assert set(staleness[3:]) == {3}


def test_two_orders_in_flight_cost_one_step_of_staleness(train) -> None:
    spec = {"async": {"max_in_flight": 2}}
    run = train(spec, Parabola(), speeds=(5,), defaults={"batch_size": 2}, num_positions=20, max_samples=20)
    assert len(run.brain.members.present(0).orders) == 2
    run.run()
    assert [verdict.staleness for verdict in run.verdicts] == [0] + [1] * 9
    assert set(run.used.values()) == {1}


def test_samples_of_updates_that_were_too_stale_are_computed_again(train, least_squares) -> None:
    problem = least_squares(num_samples=30, dim=3, seed=4)
    spec = {"async": {"max_staleness": 3}}
    run = train(spec, problem, speeds=(1, 1, 9), defaults={"batch_size": 2}, num_positions=30, max_samples=60).run()
    assert run.count("discarded") > 0
    assert max(verdict.staleness for verdict in run.verdicts if verdict.verdict == "accepted") <= 3
    assert len(run.used) == 60
    assert set(run.used.values()) == {1}
