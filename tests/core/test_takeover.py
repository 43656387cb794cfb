"""A coordinator takes over from a lost one: literal logs and standings; whole runs are in tests/simulate/test_schedules.py."""

import pytest

from mottle import strategies
from mottle.core import protocol as p
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.core.exactsum import exact_sum
from mottle.core.journal import Entry, Journal, Reported
from mottle.core.takeover import ATTEMPTS, Standing, Takeover, TakeoverError, longest

R0, R1 = p.ReplicaId(0, 0), p.ReplicaId(0, 1)
V0, V1 = p.Version(0, 0), p.Version(0, 1)


def brain(**config: object) -> Brain:
    numbers = {"num_positions": 100, "lease_floor_ns": 1000, "first_lease_ns": 2000, "replicas": 1, **config}
    return Brain(BrainConfig(**numbers), strategies.build("async", {"batch_size": 4, "lr": 0.1}))


def receipt(work_id: int, worker: int, replica: p.ReplicaId) -> p.Receipt:
    return p.Receipt(replica, p.update_name(work_id), worker, 4, True, exact_sum([4.0]))


LOG = [
    Entry(0, p.Joined(0)),
    Entry(0, p.Joined(1)),
    Entry(0, p.Started(V0)),
    Entry(50, receipt(1, 1, R0), Reported(R0, 1)),
    Entry(60, receipt(1, 1, R1), Reported(R1, 1)),
]
"""Orders 0 and 1 are given; update 1 is acknowledged, so a step is told."""


def takeover(*standings: Standing, log: list[Entry] = LOG, **config: object) -> Takeover:
    taken = Takeover(brain(**config), Journal(), standings)
    taken.replay(log)
    return taken


def told(commands: list[p.Command], *kinds: type) -> list[p.Command]:
    return [command for command in commands if isinstance(command, kinds)]


def test_one_goes_on_from_the_longest_log() -> None:
    short, long = Standing(R0, 0, 7, 1), Standing(R1, 0, 9, 2)
    assert longest([short, long]) == long


def test_the_log_gives_back_the_brain_and_what_a_replica_lacks() -> None:
    all_told, behind = Standing(R0, 0, 5, 1), Standing(R1, 0, 3, 0)
    taken = takeover(all_told, behind)
    assert taken.brain.ledger.counts.in_flight == 1
    assert (taken.journal.stop, taken.journal.heard) == (5, ((R0, 1), (R1, 1)))
    assert taken.lacking(all_told) == (5, (), ())
    (batch,) = taken.batches.values()
    assert [type(command) for command in batch.commands] == [p.Step]
    assert taken.lacking(behind) == (3, (LOG[3], LOG[4]), (batch,))


def test_a_newcomer_that_was_handed_over_to_is_asked_to_repeat_that_it_is_ready() -> None:
    newcomer, base = p.ReplicaId(0, 2), p.Base(0, None)
    log = [*LOG[:3], Entry(70, p.ReplicaLost(R1, "died")), Entry(80, p.ReplicaCame(newcomer))]
    taken = takeover(Standing(R0, 0, 4, 0), Standing(R1, 0, 3, 0), Standing(newcomer, 0, 0, 0), log=log)
    (batch,) = taken.batches.values()
    assert taken.words(1, base, lambda first, entries: p.Page(first, first + len(entries), entries)) == [
        (R0, p.Told(1, 5, (batch,), p.Page(4, 5, (log[4],)), base=base, again=True)),
        (newcomer, p.Told(1, again=True)),
    ]


def test_workers_are_told_what_is_open_and_numbers_of_lost_orders_are_not_given_again() -> None:
    taken = takeover(Standing(R0, 0, 5, 1), Standing(R1, 0, 5, 1))
    commands = taken.brain.handle(p.TookOver(1, 40), now_ns=100)
    assert told(commands, p.Notice) == [p.Notice("coordinator", "the coordinator was lost and is back after 0.0 s")]
    first, second = told(commands, p.Reattach)
    assert [(each.worker, [order.work_id for order in each.orders], each.cut) for each in (first, second)] == [(0, [0], ()), (1, [], ())]
    for replica in (R0, R1):
        given = taken.brain.handle(p.Stepped(replica, V1), now_ns=105)
    assert [order.work_id for order in told(given, p.Compute)] == [1_000_000_000]
    for replica in (R0, R1):
        commands = taken.brain.handle(receipt(0, 0, replica), now_ns=110)
    (batch,) = told(commands, p.Batch)
    assert (batch.epoch, batch.seq) == (1, 1), "batches go on in the count, under the new epoch"


def test_an_update_of_a_lost_order_is_forgotten_without_a_warning() -> None:
    taken = takeover(Standing(R0, 0, 5, 1), Standing(R1, 0, 5, 1))
    taken.brain.handle(p.TookOver(1, 40), now_ns=100)
    commands = taken.brain.handle(receipt(3, 1, R0), now_ns=110)
    (batch,) = commands
    assert batch.commands == (p.Drop(("update/3",)),)
    assert told(taken.brain.handle(receipt(1_000_000_000, 1, R0), now_ns=111), p.Notice), "this one nobody can have been given"


def test_timers_are_set_again_and_the_absence_is_held_against_nobody() -> None:
    taken = takeover(Standing(R0, 0, 5, 1), Standing(R1, 0, 5, 1), max_ns=10_000)
    commands = taken.brain.handle(p.TookOver(1, 40), now_ns=100)
    timers = {(timer.name, timer.at_ns) for timer in told(commands, p.SetTimer)}
    assert ("brain/max_time", 10_000) in timers, "the run's own time goes on"
    assert ("brain/overdue", 2000 + 40) in timers
    taken.brain.handle(p.TimerFired("brain/overdue"), now_ns=2039)
    assert taken.brain.crew == (0, 1)
    assert told(taken.brain.handle(p.TimerFired("brain/overdue"), now_ns=2040), p.Notice)


def test_the_validator_and_the_writer_of_a_checkpoint_are_asked_again() -> None:
    log = [*LOG, Entry(61, p.CheckpointAsked()), *(Entry(62, p.Stepped(each, V1), Reported(each, 2)) for each in (R0, R1))]
    taken = takeover(Standing(R0, 0, 8, 2), Standing(R1, 0, 8, 2), log=log, evaluate_every=50)
    commands = taken.brain.handle(p.TookOver(1, 40), now_ns=100)
    assert told(commands, p.Evaluate, p.SaveModel) == [p.Evaluate(V0), p.SaveModel(1, V1)]
    for event in (p.ModelSaved(1, {"file": "m"}), p.SnapshotDone(R0, 1, {"file": "s"}), p.SnapshotDone(R1, 1)):
        last = taken.brain.handle(event, now_ns=110)
    (manifest,) = told(last, p.SaveCheckpoint)
    assert manifest in taken.brain.handle(p.TookOver(2, 40), now_ns=200)
    taken.brain.handle(p.CheckpointWritten(1), now_ns=210)
    assert not told(taken.brain.handle(p.TookOver(3, 40), now_ns=300), p.SaveCheckpoint, p.SaveModel)


def test_who_died_or_came_while_nobody_listened_is_told() -> None:
    taken = takeover(Standing(R0, 0, 5, 1))
    missed = taken.missed({1: p.Joined(1), 4: p.Joined(4, "cpu", "late")}, {0: "died: of hunger"})
    lost = "died while the coordinator was lost"
    assert missed == [p.ReplicaLost(R1, lost), p.Left(0, "died: of hunger", died=True), p.Joined(4, "cpu", "late")]


def test_a_replica_that_lacks_more_than_there_is_is_as_good_as_dead() -> None:
    journal = Journal()
    old = brain()
    for entry in LOG:
        old.handle(entry.event, now_ns=entry.now_ns)
        journal.recall(entry)
    taken = Takeover(old, journal, (Standing(R0, 0, 5, 1), Standing(R1, 0, 4, 1)))
    taken.replay([])
    assert [event.replica for event in taken.missed({0: p.Joined(0), 1: p.Joined(1)}, {})] == [R1]


def test_coordinators_that_are_lost_one_after_the_other_are_not_followed_for_ever() -> None:
    deaths = [Entry(100 + epoch, p.TookOver(epoch, 1)) for epoch in range(1, ATTEMPTS + 1)]
    takeover(log=[*LOG, *deaths[:-1]])
    takeover(log=[*LOG, *deaths[:3], Entry(104, p.CheckpointAsked()), *deaths[3:]])
    with pytest.raises(TakeoverError, match=f"lost {ATTEMPTS} times in a row"):
        takeover(log=[*LOG, *deaths])
