"""FedFix: literal events, the worked weights, and plain SGD with one worker."""

import numpy as np
import pytest

from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.strategies import FedFixConfig

V0, V1 = p.Version(0, 0), p.Version(0, 1)


@pytest.fixture
def fedfix(alone):
    def build(*crew: int, **options):
        machine = alone(FedFixConfig(**{"batch_size": 4, "window_s": 2.0, **options}))
        machine.view.crew = crew
        return machine

    return build


def update(work_id: int, worker: int, samples: int = 4) -> s.Update:
    return s.Update(work_id, worker, V0, samples, norm2=1.0)


def alarm(number: int) -> s.SetAlarm:
    return s.SetAlarm(f"window-{number}", 2_000_000_000)


def begin(machine, *workers: int) -> None:
    for worker in workers:
        assert machine.hear(s.WorkerIdle(worker)) == [s.Assign(worker, 4)]
        machine.hear(s.OrderIssued(10 + worker, worker, 4))


def test_the_first_order_opens_a_window_and_its_end_makes_the_step(fedfix) -> None:
    machine = fedfix(0, 1)
    assert machine.hear(s.WorkerIdle(0), s.OrderIssued(10, 0, 4)) == [alarm(0)]
    assert machine.hear(s.WorkerIdle(1), s.OrderIssued(11, 1, 4)) == []
    assert machine.hear(s.UpdateArrived(update(10, 0))) == []
    assert machine.hear(s.WorkerIdle(0)) == [], "it waits for the end of the window"
    assert machine.hear(s.AlarmRang("window-0")) == [s.Apply(((10, 1 / 2 / 4),)), alarm(1)]
    machine.view.head = V1
    assert machine.hear(s.WorkerIdle(0)) == [], "and for the version"
    assert machine.hear(machine.view.publish(1)) == [s.Assign(0, 4)]


def test_an_empty_window_makes_no_step_and_a_rest_opens_none(fedfix) -> None:
    machine = fedfix(0)
    begin(machine, 0)
    assert machine.hear(s.AlarmRang("window-0")) == [alarm(1)]
    machine.hear(s.OrderEnded(10, 0, "no update"))
    assert machine.hear(s.AlarmRang("window-1")) == []
    assert machine.hear(s.WorkerIdle(0), s.OrderIssued(11, 0, 4)) == [alarm(2)]
    assert machine.hear(s.AlarmRang("window-1")) == [], "the alarm of a window that is over"


def test_the_worked_weights(fedfix) -> None:
    """Three workers that take 1, 2 and 5 in windows of 2: they come in every, every and every third one and weigh 1/3, 1/3 and 1."""
    machine = fedfix(0, 1, 2)
    begin(machine, 0, 1, 2)
    weights = {0: [], 1: [], 2: []}
    for window in range(6):
        came = (0, 1, 2) if window % 3 == 2 else (0, 1)
        machine.hear(*(s.UpdateArrived(update(10 + worker, worker)) for worker in came))
        step, _ = machine.hear(s.AlarmRang(f"window-{window}"))
        for work_id, weight in step.terms:
            weights[work_id - 10].append(4 * weight)
        machine.hear(machine.view.publish(window + 1), *(s.OrderIssued(10 + worker, worker, 4) for worker in came))
    assert weights == {0: pytest.approx([1 / 3] * 6), 1: pytest.approx([1 / 3] * 6), 2: pytest.approx([1.0, 1.0])}
    assert [sum(each) / 6 for each in weights.values()] == pytest.approx([1 / 3] * 3), "the average weight of every worker"


def test_a_late_joiner_is_not_blamed_for_the_windows_before_it_came(fedfix) -> None:
    machine = fedfix(0)
    begin(machine, 0)
    machine.hear(s.AlarmRang("window-0"), s.AlarmRang("window-1"))
    machine.view.crew = (0, 1)
    begin(machine, 1)
    machine.hear(s.UpdateArrived(update(10, 0)), s.UpdateArrived(update(11, 1, samples=2)))
    step, _ = machine.hear(s.AlarmRang("window-2"))
    assert step == s.Apply(((10, pytest.approx(3 / 2 / 4)), (11, pytest.approx(1 / 2 / 2 / 2))))


def test_the_update_of_a_worker_that_left_meanwhile_counts_once(fedfix) -> None:
    machine = fedfix(0, 1)
    begin(machine, 0, 1)
    machine.hear(s.UpdateArrived(update(11, 1)), s.WorkerGone(1))
    assert machine.hear(s.AlarmRang("window-0")) == [s.Apply(((11, 1 / 2 / 4),)), alarm(1)]


def test_at_the_end_the_window_closes_early(fedfix) -> None:
    machine = fedfix(0)
    begin(machine, 0)
    machine.hear(s.UpdateArrived(update(10, 0)))
    assert machine.hear(s.NothingLeft()) == [s.Apply(((10, 1 / 4),))]
    assert machine.hear(machine.view.publish(1), s.OrderIssued(11, 0, 4)) == [alarm(1)], "should there be more after all"


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"window_s": 0.0}])
def test_impossible_settings_are_refused(fedfix, options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="fedfix needs"):
        fedfix(0, **options)


def test_with_one_worker_that_comes_in_every_window_it_is_plain_sgd(train, least_squares) -> None:
    problem = least_squares(num_samples=40, dim=4, seed=71)
    spec = {"fedfix": {"window_s": 20e-9}}
    run = train(spec, problem, speeds=(1,), defaults={"batch_size": 8}, num_positions=40, max_samples=80).run()
    x_D = problem.start
    for number in range(1, 11):
        start = (number - 1) * 8 % 40
        x_D = x_D - 0.1 * problem.gradient_sum(x_D, start, start + 8) / 8
        np.testing.assert_allclose(run.history[number], x_D, rtol=1e-12, atol=1e-14)
    assert len(run.history) == 11
    assert run.now_ns == 188, "nine windows, and the last one ends with the data"


def test_slow_workers_keep_their_weight_in_the_mixture(train, least_squares) -> None:
    problem = least_squares(num_samples=4000, dim=2, seed=72)
    run = train(
        {"fedfix": {"window_s": 20e-9}}, problem, speeds=(1, 2, 5), defaults={"batch_size": 10}, num_positions=4000, max_samples=4000
    )
    run.run(until=lambda: run.now_ns > 1000)
    came = [sum(verdict.worker == worker for verdict in run.verdicts) for worker in range(3)]
    assert came[0] == came[1] > 40
    assert came[2] == pytest.approx(came[0] / 3, abs=1)
