"""Synchronous SGD: literal events, and plain SGD on the concatenated batch as its neutral reference."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.protocol import RemoveAsked, Version
from mottle.strategies import SyncConfig

V0, V1 = Version(0, 0), Version(0, 1)


@pytest.fixture
def sync(alone):
    return lambda **options: alone(SyncConfig(**{"batch_size": 5, **options}))


def update(work_id: int, worker: int, samples: int, base: Version = V0) -> s.Update:
    return s.Update(work_id, worker, base, samples, norm2=1.0)


# --- literal events ---------------------------------------------------------------------------------------------------------------------


def test_a_round_shares_the_batch_and_gives_the_first_workers_one_sample_more(sync) -> None:
    assert sync().hear(s.VersionPublished(V0)) == [s.Assign(0, 3), s.Assign(1, 2)]


def test_a_round_is_the_tail_of_the_epoch_where_that_is_less_than_a_batch(sync) -> None:
    machine = sync()
    machine.view.free_samples = 3
    machine.view.crew = (2, 5, 7, 9)
    assert machine.hear(s.VersionPublished(V0)) == [s.Assign(2, 1), s.Assign(5, 1), s.Assign(7, 1)]


def test_no_round_begins_without_crew_without_samples_or_before_the_step_is_published(sync) -> None:
    for name, value in (("crew", ()), ("free_samples", 0), ("head", V1)):
        machine = sync()
        setattr(machine.view, name, value)
        assert machine.hear(s.VersionPublished(V0)) == []


def test_all_updates_of_a_round_are_applied_at_once_in_ascending_slot_with_weights_of_one_sample(sync) -> None:
    machine = sync()
    machine.hear(s.VersionPublished(V0), s.OrderIssued(10, 0, 3), s.OrderIssued(11, 1, 2))
    assert machine.hear(s.UpdateArrived(update(11, 1, 2))) == []
    assert machine.hear(s.UpdateArrived(update(10, 0, 3))) == [s.Apply(((10, 0.2), (11, 0.2)))]


def test_a_joiner_waits_for_the_next_round(sync) -> None:
    machine = sync()
    machine.hear(s.VersionPublished(V0), s.OrderIssued(10, 0, 3), s.OrderIssued(11, 1, 2))
    machine.view.crew = (0, 1, 2)
    assert machine.hear(s.WorkerIdle(2)) == []
    machine.hear(s.UpdateArrived(update(11, 1, 2)), s.UpdateArrived(update(10, 0, 3)))
    assert machine.hear(machine.view.publish(1)) == [s.Assign(0, 2), s.Assign(1, 2), s.Assign(2, 1)]


def test_a_worker_that_dies_takes_nobody_along(sync) -> None:
    machine = sync()
    machine.hear(s.VersionPublished(V0), s.OrderIssued(10, 0, 3), s.OrderIssued(11, 1, 2))
    machine.view.crew = (1,)
    assert machine.hear(s.OrderEnded(10, 0, "no update")) == []
    assert machine.hear(s.UpdateArrived(update(11, 1, 2))) == [s.Apply(((11, 0.5),))]


def test_a_round_that_lost_everybody_begins_again_with_those_who_are_there(sync) -> None:
    machine = sync()
    machine.hear(s.VersionPublished(V0), s.OrderIssued(10, 0, 3), s.OrderIssued(11, 1, 2), s.OrderEnded(10, 0, "no update"))
    machine.view.crew = (2,)
    assert machine.hear(s.OrderEnded(11, 1, "no update")) == [s.Assign(2, 5)]


def test_an_order_of_an_earlier_round_that_ends_does_not_end_this_one(sync) -> None:
    machine = sync()
    machine.hear(s.VersionPublished(V0), s.OrderIssued(10, 0, 3), s.OrderIssued(11, 1, 2))
    machine.hear(s.OrderEnded(3, 0, "no update"), s.UpdateArrived(update(11, 1, 2)))
    assert machine.hear(s.UpdateArrived(update(10, 0, 3))) == [s.Apply(((10, 0.2), (11, 0.2)))]


def test_the_next_round_goes_without_the_worker_that_may_not_have_what_is_free(sync) -> None:
    machine = sync(batch_size=1)
    assert machine.hear(s.VersionPublished(V0)) == [s.Assign(0, 1)]
    assert machine.hear(s.NoWork(0)) == [s.Assign(1, 1)]
    assert machine.hear(s.NoWork(1)) == []
    assert machine.hear(s.WorkerIdle(0)) == [s.Assign(0, 1)]


def test_the_deadline_abandons_the_late_once_a_quorum_is_in(sync) -> None:
    machine = sync(batch_size=6, deadline_s=0.5, quorum=2)
    machine.view.crew = (0, 1, 2)
    alarm = s.SetAlarm("round-0", 500_000_000)
    assert machine.hear(s.VersionPublished(V0)) == [s.Assign(0, 2), s.Assign(1, 2), s.Assign(2, 2), alarm]
    machine.hear(*(s.OrderIssued(10 + worker, worker, 2) for worker in range(3)), s.UpdateArrived(update(12, 2, 2)))
    assert machine.hear(s.AlarmRang("round-0")) == []
    late = s.AbandonOrder(11, "missed the round's deadline")
    assert machine.hear(s.UpdateArrived(update(10, 0, 2))) == [late, s.Apply(((10, 0.25), (12, 0.25)))]


def test_the_last_sample_goes_to_a_worker_that_delivers(sync) -> None:
    machine = sync(batch_size=2, deadline_s=0.5)
    machine.hear(s.VersionPublished(V0), s.OrderIssued(10, 0, 1), s.OrderIssued(11, 1, 1), s.UpdateArrived(update(11, 1, 1)))
    assert machine.hear(s.AlarmRang("round-0"))[0] == s.AbandonOrder(10, "missed the round's deadline")
    machine.view.free_samples = 1
    assert machine.hear(machine.view.publish(1))[0] == s.Assign(1, 1), "worker 0 would hold the end of the epoch up for a whole lease"
    machine.hear(s.OrderIssued(12, 1, 1), s.UpdateArrived(update(12, 1, 1, V1)))
    machine.view.free_samples = 2
    machine.hear(machine.view.publish(2), s.OrderIssued(13, 0, 1), s.OrderIssued(14, 1, 1))
    machine.hear(s.UpdateArrived(update(13, 0, 1)), s.UpdateArrived(update(14, 1, 1)))
    machine.view.free_samples = 1
    assert machine.hear(machine.view.publish(3))[0] == s.Assign(0, 1), "it delivers again"


def test_an_alarm_of_a_round_that_is_over_does_nothing(sync) -> None:
    machine = sync(deadline_s=0.5)
    machine.hear(s.VersionPublished(V0), s.OrderIssued(10, 0, 3), s.OrderIssued(11, 1, 2))
    machine.hear(s.UpdateArrived(update(10, 0, 3)), s.UpdateArrived(update(11, 1, 2)))
    machine.hear(machine.view.publish(1), s.OrderIssued(12, 0, 3), s.OrderIssued(13, 1, 2), s.UpdateArrived(update(12, 0, 3, V1)))
    assert machine.hear(s.AlarmRang("round-0")) == []
    assert machine.hear(s.AlarmRang("round-1"))[0] == s.AbandonOrder(13, "missed the round's deadline")


def test_a_rule_gets_the_rows_and_the_number_that_was_waited_for(sync) -> None:
    rule = {"phocas": {"trim": 1}}
    machine = sync(rule=rule)
    machine.hear(s.VersionPublished(V0), s.OrderIssued(10, 0, 3), s.OrderIssued(11, 1, 2), s.OrderEnded(10, 0, "not finite"))
    assert machine.hear(s.UpdateArrived(update(11, 1, 2))) == [s.ApplyRule(((11, 2.0),), rule, 2)]


def test_a_rule_that_is_changed_while_a_round_is_out_decides_that_round(sync) -> None:
    machine, median = sync(rule={"phocas": {"trim": 1}}), {"median": {}}
    machine.hear(s.VersionPublished(V0), s.OrderIssued(10, 0, 3), s.OrderIssued(11, 1, 2), s.UpdateArrived(update(10, 0, 3)))
    assert machine.hear(s.RuleChanged(median)) == []
    assert machine.hear(s.UpdateArrived(update(11, 1, 2))) == [s.ApplyRule(((10, 3.0), (11, 2.0)), median, 2)]
    machine.hear(machine.view.publish(1), s.OrderIssued(12, 0, 3), s.OrderIssued(13, 1, 2), s.RuleChanged(None))
    assert machine.hear(s.UpdateArrived(update(12, 0, 3)), s.UpdateArrived(update(13, 1, 2))) == [s.Apply(((12, 0.2), (13, 0.2)))]


def test_a_loss_with_units_of_its_own_is_divided_by_them(sync) -> None:
    machine = sync()
    machine.hear(s.VersionPublished(V0), s.OrderIssued(10, 0, 3), s.OrderIssued(11, 1, 2), s.UpdateArrived(update(10, 0, 3)))
    tokens = s.Update(11, 1, V0, 2, norm2=1.0, weight=13.0)
    assert machine.hear(s.UpdateArrived(tokens)) == [s.Apply(((10, 1 / 16), (11, 1 / 16)))]


def test_a_restored_machine_numbers_its_rounds_on(sync) -> None:
    machine = sync(deadline_s=1.0)
    machine.hear(s.VersionPublished(V0))
    restored = sync(deadline_s=1.0)
    restored.strategy.restore(machine.strategy.state())
    assert restored.hear(s.VersionPublished(V0))[-1] == s.SetAlarm("round-1", 1_000_000_000)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"quorum": 0}, {"deadline_s": 0.0}, {"deadline_s": -1.0}])
def test_impossible_settings_are_refused(sync, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="sync needs"):
        sync(**options)


# --- neutral reference ------------------------------------------------------------------------------------------------------------------


def test_it_is_plain_sgd_on_the_concatenated_batch_step_for_step(train, least_squares) -> None:
    problem = least_squares(num_samples=47, dim=7, seed=1)
    run = train("sync", problem, speeds=(3, 1, 2), defaults={"batch_size": 10}, num_positions=47, max_samples=94, num_shards=3).run()
    x_D = problem.start
    batches = [(start, min(start + 10, 47)) for _ in range(2) for start in range(0, 47, 10)]
    for number, (start, stop) in enumerate(batches, 1):
        x_D = x_D - 0.1 * problem.gradient_sum(x_D, start, stop) / (stop - start)
        np.testing.assert_allclose(run.history[number], x_D, rtol=1e-12, atol=1e-14)
    assert len(run.history) == len(batches) + 1
    assert set(run.used.values()) == {1}
    assert {v.staleness for v in run.verdicts} == {0}


@dataclass
class Points:
    """Loss 0.5 * (x - a)^2 of each point a; the worked example of unequal counts."""

    points: np.ndarray = field(default_factory=lambda: np.array([2.0, 3.0, 20.0]))
    start: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def gradient_sum(self, x_D: np.ndarray, start: int, stop: int) -> np.ndarray:
        return np.array([np.sum(x_D[0] - self.points[start:stop])])


def test_unequal_counts_give_the_mean_over_samples_not_the_mean_of_means(train) -> None:
    run = train("sync", Points(), speeds=(1, 1), defaults={"batch_size": 3}, num_positions=3, max_samples=3).run()
    assert [len(order.parts[0].lease) for order in run.orders.values()] == [2, 1]
    gradient = -(run.params[0] - 0.0) / 0.1
    assert gradient == pytest.approx(-25 / 3, rel=1e-15)


def test_members_that_come_and_go_do_not_change_the_trajectory(train, least_squares) -> None:
    problem = least_squares(num_samples=40, dim=5, seed=2)
    still = train("sync", problem, speeds=(1,), defaults={"batch_size": 8}, num_positions=40, max_samples=80).run()
    moving = train("sync", problem, speeds=(1, 1), defaults={"batch_size": 8}, num_positions=40, max_samples=80)
    moving.run(until=lambda: len(moving.history) == 3)
    moving.join(2)
    moving.run(until=lambda: len(moving.history) == 5)
    moving.tell(RemoveAsked(0))
    moving.run()
    for number, x_D in still.history.items():
        np.testing.assert_allclose(moving.history[number], x_D, rtol=1e-12, atol=1e-14)
    assert {order.worker for order in moving.orders.values()} == {0, 1, 2}


@pytest.mark.parametrize("spec", ["sync", "lb_bsp", {"backup": {"num_backups": 1}}], ids=str)
def test_with_a_rule_a_remainder_too_small_for_a_round_is_taken_along_with_the_one_before(train, least_squares, spec) -> None:
    problem = least_squares(num_samples=41, dim=3, seed=9)
    defaults = {"batch_size": 8, "rule": {"trimmed_mean": {"trim": 1}}}
    run = train(spec, problem, speeds=(1, 1, 1, 1), defaults=defaults, num_positions=41, max_samples=82).run()
    assert run.finished == p.Finished("samples")
    assert not [each.text for each in run.notices if "no step" in each.text]
    assert len(run.used) == 82


def test_samples_that_no_round_can_use_are_tried_once_more_and_then_listed_as_rejected(train, least_squares) -> None:
    """A trimmed mean cannot be taken of two workers: without an end to it they would compute the last samples for ever."""
    problem = least_squares(num_samples=12, dim=3, seed=9)
    defaults = {"batch_size": 8, "rule": {"trimmed_mean": {"trim": 1}}}
    run = train("sync", problem, speeds=(1, 1, 1), defaults=defaults, num_positions=12, max_samples=12)
    run.run(until=lambda: len(run.history) == 2)
    run.kill(2)
    run.run()
    assert run.finished == p.Finished("samples")
    assert (len(run.used), sum(epoch.rejected for epoch in run.brain.book.epochs)) == (11, 1)
