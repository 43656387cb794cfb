"""Backup workers: literal events, the worked example, and synchronous SGD as the neutral reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.protocol import Version
from mottle.strategies import BackupConfig

V0 = Version(0, 0)
LATE = "a backup: the step was made without it"


@pytest.fixture
def backup(alone):
    def build(*crew: int, free: int = 100, **options):
        machine = alone(BackupConfig(**{"batch_size": 6, "num_backups": 1, **options}))
        machine.view.crew, machine.view.free_samples = crew, free
        return machine

    return build


def update(work_id: int, worker: int, samples: int, base: Version = V0) -> s.Update:
    return s.Update(work_id, worker, base, samples, norm2=1.0)


def begin(machine, first: int = 10) -> dict[int, int]:
    """Begin a round and issue its orders: worker -> samples; order ids are first + worker."""
    shares = {each.worker: each.samples for each in machine.hear(s.VersionPublished(machine.view.version))}
    machine.hear(*(s.OrderIssued(first + worker, worker, samples) for worker, samples in shares.items()))
    return shares


# --- literal events ---------------------------------------------------------------------------------------------------------------------


def test_every_worker_gets_the_share_of_one_of_n(backup) -> None:
    assert backup(0, 1, 2, 3).hear(s.VersionPublished(V0)) == [s.Assign(0, 2), s.Assign(1, 2), s.Assign(2, 2), s.Assign(3, 2)]
    assert begin(backup(0, 1, 2, 3, batch_size=8)) == {0: 3, 1: 3, 2: 2, 3: 2}


def test_the_step_is_made_of_the_first_n_and_the_last_is_given_up(backup) -> None:
    machine = backup(0, 1, 2, 3)
    begin(machine)
    assert machine.hear(s.UpdateArrived(update(13, 3, 2)), s.UpdateArrived(update(10, 0, 2))) == []
    step = s.Apply(((10, 1 / 6), (11, 1 / 6), (13, 1 / 6)))
    assert machine.hear(s.UpdateArrived(update(11, 1, 2))) == [s.AbandonOrder(12, LATE), step]


def test_a_worker_that_dies_uses_up_a_backup_and_then_the_step_is_smaller(backup) -> None:
    machine = backup(0, 1, 2, 3)
    begin(machine)
    machine.hear(s.UpdateArrived(update(13, 3, 2)), s.OrderEnded(10, 0, "no update"), s.UpdateArrived(update(11, 1, 2)))
    assert machine.hear(s.OrderEnded(12, 2, "no update")) == [s.Apply(((11, 0.25), (13, 0.25)))]


def test_a_round_that_lost_everybody_begins_again(backup) -> None:
    machine = backup(0, 1)
    begin(machine)
    machine.hear(s.OrderEnded(10, 0, "no update"))
    machine.view.crew = (2,)
    assert machine.hear(s.OrderEnded(11, 1, "no update")) == [s.Assign(2, 6)]


def test_with_too_little_left_those_who_made_the_last_step_come_first(backup) -> None:
    machine = backup(0, 1, 2, 3)
    begin(machine)
    machine.hear(*(s.UpdateArrived(update(10 + worker, worker, 2)) for worker in (3, 1, 2)))
    machine.view.free_samples = 7  # six for the three that are needed, and one that would be half a share
    machine.view.publish(1)
    assert begin(machine, first=20) == {1: 2, 2: 2, 3: 2}


def test_the_tail_of_an_epoch_has_as_many_backups_as_there_are_samples_for(backup) -> None:
    assert begin(backup(0, 1, 2, 3, 4, 5, num_backups=3, free=8)) == {0: 2, 1: 2, 2: 2, 3: 2}
    assert begin(backup(0, 1, 2, 3, free=5)) == {0: 2, 1: 2, 2: 1}
    assert begin(backup(0, 1, 2, 3, free=2)) == {0: 1, 1: 1}


def test_as_many_backups_as_workers_still_leave_one_that_is_needed(backup) -> None:
    machine = backup(0, 1, num_backups=5)
    assert begin(machine) == {0: 6, 1: 6}
    assert machine.hear(s.UpdateArrived(update(11, 1, 6))) == [s.AbandonOrder(10, LATE), s.Apply(((11, 1 / 6),))]


def test_a_rule_gets_n_rows(backup) -> None:
    machine = backup(0, 1, 2, rule={"phocas": {"trim": 1}})
    begin(machine)
    machine.hear(s.UpdateArrived(update(12, 2, 3)), s.RuleChanged({"median": {}}))
    rows = ((10, 3.0), (12, 3.0))
    assert machine.hear(s.UpdateArrived(update(10, 0, 3))) == [s.AbandonOrder(11, LATE), s.ApplyRule(rows, {"median": {}}, 2)]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"num_backups": -1}])
def test_impossible_settings_are_refused(backup, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="backup needs"):
        backup(0, **options)


@given(num_workers=st.integers(1, 9), batch=st.integers(1, 40), free=st.integers(1, 80), num_backups=st.integers(0, 10))
def test_a_step_has_n_updates_and_no_more_samples_are_asked_for_than_there_are(num_workers, batch, free, num_backups) -> None:
    machine = BackupConfig(batch_size=batch, num_backups=num_backups).build()
    shares = {order.worker: order.samples for order in machine._orders(list(range(num_workers)), free)}
    assert sum(shares.values()) <= free
    assert list(shares) == sorted(shares)
    assert machine._needed == min(max(1, num_workers - num_backups), batch, free)
    assert sum(sorted(shares.values(), reverse=True)[: machine._needed]) == min(batch, free)
    assert max(shares.values()) - min(shares.values()) <= 1


# --- whole runs -------------------------------------------------------------------------------------------------------------------------


def test_the_worked_example_ends_when_the_third_of_four_is_in(train, least_squares) -> None:
    problem = least_squares(num_samples=8, dim=3, seed=31)
    run = train("backup", problem, speeds=(10, 11, 50, 12), defaults={"batch_size": 3}, num_positions=8, max_samples=8)
    run.run(until=lambda: len(run.history) == 2)
    assert run.now_ns == 12
    assert [verdict.worker for verdict in run.verdicts] == [0, 1, 3]
    run.run()
    assert set(run.used.values()) == {1}
    assert len(run.used) == 8, "the discarded samples were computed by others"


def test_without_backups_it_is_synchronous_sgd_bit_for_bit(train, least_squares) -> None:
    problem = least_squares(num_samples=47, dim=5, seed=32)
    settings = {"speeds": (3, 1, 2), "defaults": {"batch_size": 10}, "num_positions": 47, "max_samples": 94}
    plain, without = (train(spec, problem, **settings).run() for spec in ("sync", {"backup": {"num_backups": 0}}))
    assert sorted(plain.history) == sorted(without.history)
    assert all((without.history[number] == params).all() for number, params in plain.history.items())


def test_a_step_takes_as_long_as_the_nth_fastest_worker(train, least_squares) -> None:
    problem = least_squares(num_samples=400, dim=3, seed=33)
    times = {}
    for num_backups in (0, 1, 2):
        spec = {"backup": {"num_backups": num_backups}}
        run = train(spec, problem, speeds=(1, 2, 30, 100), defaults={"batch_size": 12}, num_positions=400, max_samples=400)
        run.run(until=lambda run=run: len(run.history) == 2)
        times[num_backups] = run.now_ns
    assert times == {0: 300, 1: 120, 2: 12}


def test_the_loss_falls_though_a_worker_is_always_late(train, least_squares) -> None:
    problem = least_squares(num_samples=60, dim=4, seed=34)
    run = train("backup", problem, speeds=(1, 1, 40), defaults={"batch_size": 6}, num_positions=60, max_samples=600).run()
    assert set(run.used.values()) == {1}
    assert len(run.used) == 600
    assert problem.loss(run.params) < 0.05 * problem.loss(problem.start)
    assert np.isfinite(run.params).all()
