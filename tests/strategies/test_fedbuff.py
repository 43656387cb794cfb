"""FedBuff: literal events and the worked example."""

import numpy as np
import pytest

from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.protocol import Version
from mottle.strategies import FedBuffConfig


@pytest.fixture
def fedbuff(alone):
    return lambda **options: alone(FedBuffConfig(**{"batch_size": 1, "buffer_size": 2, **options}))


def update(work_id: int, worker: int = 0, *, base: int = 0, samples: int = 1) -> s.Update:
    return s.Update(work_id, worker, Version(0, base), samples, norm2=1.0)


def test_the_worked_example_weighs_by_staleness_at_arrival_and_divides_by_the_size_of_the_buffer(fedbuff) -> None:
    machine = fedbuff()
    machine.view.publish(3)
    assert machine.hear(s.UpdateArrived(update(1, base=3))) == []
    (apply,) = machine.hear(s.UpdateArrived(update(2, base=0)))
    assert apply == s.Apply(((1, 0.5), (2, 0.25)))
    deltas = {1: 2.0, 2: 4.0}
    assert 10 - sum(weight * deltas[work_id] for work_id, weight in apply.terms) == 8.0


def test_staleness_is_that_of_the_arrival_not_of_the_flush(fedbuff) -> None:
    machine = fedbuff(staleness={"polynomial": {"a": 1.0}})
    machine.hear(s.UpdateArrived(update(1)))
    machine.view.publish(9)
    assert machine.hear(s.UpdateArrived(update(2, base=9))) == [s.Apply(((1, 0.5), (2, 0.5)))]


def test_a_worker_goes_on_while_its_update_waits(fedbuff) -> None:
    machine = fedbuff()
    assert machine.hear(s.UpdateArrived(update(1, worker=5)), s.WorkerIdle(5)) == [s.Assign(5, 1)]


def test_the_mean_of_an_update_is_over_its_samples_and_a_short_one_counts_less(fedbuff) -> None:
    machine = fedbuff(batch_size=8, staleness="constant")
    machine.hear(s.UpdateArrived(update(1, samples=8)))
    assert machine.hear(s.UpdateArrived(update(2, samples=2))) == [s.Apply(((1, 1 / 16), (2, 1 / 16)))]


def test_what_is_left_in_the_buffer_at_the_end_is_not_applied(fedbuff) -> None:
    machine = fedbuff()
    machine.hear(s.UpdateArrived(update(1)))
    assert machine.hear(s.NothingLeft()) == []


def test_a_restored_machine_begins_with_an_empty_buffer(fedbuff) -> None:
    machine = fedbuff()
    machine.hear(s.UpdateArrived(update(1)))
    machine.strategy.restore(machine.strategy.state())
    assert machine.hear(s.UpdateArrived(update(2))) == []
    assert machine.hear(s.UpdateArrived(update(3))) == [s.Apply(((2, 0.5), (3, 0.5)))]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"buffer_size": 0}, {"max_in_flight": 0}, {"staleness": {"polynomial": {"b": 1}}}])
def test_impossible_settings_are_refused(fedbuff, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        fedbuff(**options)


def test_versions_grow_by_the_whole_buffers_of_updates_and_the_rest_stays_in_flight(train, least_squares) -> None:
    problem = least_squares(num_samples=44, dim=3, seed=5)
    spec = {"fedbuff": {"buffer_size": 3}}
    run = train(spec, problem, speeds=(1, 2), defaults={"batch_size": 4}, num_positions=44, max_samples=44).run()
    assert run.finished.reason == "samples"
    counts = run.brain.ledger.counts
    assert (run.brain.version.number, counts.accepted, counts.in_flight, counts.acknowledged) == (3, 9, 2, 11)


def test_each_step_is_the_weighted_mean_of_gradients_at_their_own_bases(train, least_squares) -> None:
    problem = least_squares(num_samples=48, dim=5, seed=6)
    spec = {"fedbuff": {"buffer_size": 2}}
    run = train(spec, problem, speeds=(1, 3, 4), defaults={"batch_size": 4}, num_positions=48, max_samples=48, num_shards=2).run()
    accepted = [verdict for verdict in run.verdicts if verdict.verdict == "accepted"]
    for number in range(1, run.brain.version.number + 1):
        x_D = run.history[number - 1].copy()
        for verdict in accepted[2 * number - 2 : 2 * number]:
            order = run.orders[verdict.work_id]
            (lease,) = [part.lease for part in order.parts]
            # Both updates of a buffer of two arrive before its step is decided, so arrival and decision see the same version.
            weight = (number - 1 - order.base.number + 1) ** -0.5
            x_D -= 0.1 / 2 * weight * problem.gradient_sum(run.history[order.base.number], lease.start, lease.stop) / len(lease)
        np.testing.assert_allclose(run.history[number], x_D, rtol=1e-12, atol=1e-14)
    assert max(verdict.staleness for verdict in accepted) > 1
