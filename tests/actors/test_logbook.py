"""The log of a live coordinator, packed and kept by shard machines in the same process: when it travels, and what it gives back."""

import threading
from collections import defaultdict
from collections.abc import Sequence

import pytest
from ray import cloudpickle

from mottle import strategies
from mottle.actors import logbook as logbooks
from mottle.actors.logbook import Logbook, entries_of
from mottle.core import protocol as p
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.core.exactsum import exact_sum
from mottle.core.journal import Entry, Journal, Reported
from mottle.core.layout import BLOCK, Range
from mottle.core.shard import Heard, Run, Shard
from mottle.core.takeover import Standing, Takeover

R0, R1 = p.ReplicaId(0, 0), p.ReplicaId(0, 1)


class Coordination:
    """A brain, its logbook, and two replicas that keep the log and run nothing."""

    def __init__(self, recorded: int = 10**9) -> None:
        self.brain = Brain(
            BrainConfig(num_positions=100, replicas=1, lease_floor_ns=None), strategies.build("async", {"batch_size": 4, "lr": 0.1})
        )
        self.journal = Journal()
        self.shards = {each: Shard(each, Range(0, BLOCK), version=p.Version(0, 0)) for each in (R0, R1)}
        self.deaf: set[p.ReplicaId] = set()
        self.told: dict[p.ReplicaId, list[p.Told]] = defaultdict(list)
        self.ran: list[p.ShardCommand] = []
        self.flush_due = 0
        self.recorded = recorded
        self.now_ns = 0
        self.changed = threading.Condition(threading.RLock())
        self.log = Logbook(
            self.brain,
            self.journal,
            self.changed,
            tell=self.tell,
            later=self.later,
            freeze=lambda: (self.brain, self.journal),
            recorded=lambda: self.recorded,
        )
        self.tell([R0, R1], p.Told(0, base=self.log.base()))
        self.log.open()

    def tell(self, replicas: Sequence[p.ReplicaId], told: p.Told) -> None:
        for replica in replicas:
            if replica in self.deaf:
                continue
            self.told[replica].append(told)
            orders = self.shards[replica].handle(Heard(told))
            self.ran += [order.command for order in orders if isinstance(order, Run) and replica == R0]
            if told.confirm:
                self.log.held(replica, self.shards[replica].log.stop)

    def later(self, delay_ns: int) -> None:
        self.flush_due += 1

    def hear(self, *events: p.Event) -> list[p.Command]:
        said: list[p.Command] = []
        for event in events:
            self.now_ns += 10
            said += self.brain.handle(event, now_ns=self.now_ns)
            self.log.note(Entry(self.now_ns, event))
        self.log.send(said)
        return said

    def kept(self, replica: p.ReplicaId) -> tuple[Brain, Journal, list[Entry]]:
        """What another coordinator finds on a replica."""
        log = self.shards[replica].log
        assert log.base is not None
        brain, journal = cloudpickle.loads(log.base.content)
        return brain, journal, [entry for page in log.pages for entry in entries_of(page, log.base.at)]


def receipt(work_id: int, worker: int, replica: p.ReplicaId) -> p.Receipt:
    return p.Receipt(replica, p.update_name(work_id), worker, 4, True, exact_sum([4.0]))


def begun() -> Coordination:
    made = Coordination()
    made.hear(p.Joined(0), p.Joined(1), p.Started(p.Version(0, 0)))
    return made


def test_the_log_goes_ahead_of_orders_and_along_with_batches_and_else_waits_a_while() -> None:
    made = begun()
    (_, first) = made.told[R0]
    assert (first.page.first, first.page.stop, first.batches) == (0, 3, ())
    made.hear(receipt(0, 0, R0))
    assert (len(made.told[R0]), made.flush_due) == (2, 1)
    made.hear(receipt(0, 0, R1))
    last = made.told[R0][-1]
    assert (last.page.first, last.page.stop, last.log_stop) == (3, 5, 5)
    assert [type(command) for command in made.ran] == [p.Step]
    made.hear(p.CheckpointAsked())
    made.log.flush()
    assert made.shards[R1].log.stop == 6


def test_whoever_waits_waits_for_every_live_replica_and_no_longer() -> None:
    made = begun()
    with made.changed:
        made.hear(p.Configured({"lr": 0.5}))
        assert made.log.wait(0.01)
        made.deaf.add(R1)
        made.hear(p.CheckpointAsked())
        assert not made.log.wait(0.01)
        assert made.log.safe == 4
        made.hear(p.ReplicaLost(R1, "died"))
        assert made.log.wait(0.01)


def test_what_a_replica_keeps_gives_back_the_brain_and_its_batches() -> None:
    made = begun()
    made.deaf.add(R1)  # from here on
    made.hear(receipt(0, 0, R0), receipt(0, 0, R1))
    for replica, missing in ((R0, 0), (R1, 1)):
        shard, (brain, journal, entries) = made.shards[replica], made.kept(R0)
        standing = Standing(replica, 0, shard.log.stop, shard.next_seq)
        taken = Takeover(brain, journal, [standing])
        taken.replay(entries)
        assert brain.ledger.counts == made.brain.ledger.counts
        assert [type(command) for batch in taken.lacking(standing)[2] for command in batch.commands] == [p.Step] * missing


def test_a_base_takes_the_place_of_what_every_replica_and_the_record_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logbooks, "BASE_EVERY", 3)
    made = begun()
    made.recorded = 0
    made.hear(receipt(0, 0, R0), receipt(0, 0, R1))
    with made.changed:
        assert made.log.wait(0.01)
    made.hear(p.Stepped(R0, p.Version(0, 1)), p.Stepped(R1, p.Version(0, 1)))
    assert made.shards[R0].log.base == p.Base(0, made.shards[R0].log.base.content)
    made.recorded = 100
    made.hear(p.RemoveAsked(1), p.Left(1, "gone"))
    with made.changed:
        assert made.log.wait(0.01)
    made.hear(p.Joined(2))
    log = made.shards[R0].log
    assert 0 < log.base.at <= log.start + 2
    brain, journal, entries = made.kept(R0)
    taken = Takeover(brain, journal, [])
    taken.replay(entries)
    assert journal.stop == made.journal.stop
    assert brain.state() == made.brain.state()


def test_reports_are_told_apart_by_their_numbers_after_a_replay() -> None:
    made = begun()
    event = receipt(0, 0, R0)
    made.now_ns += 10
    made.brain.handle(event, now_ns=made.now_ns)
    made.log.note(Entry(made.now_ns, event, Reported(R0, 1)))
    made.log.flush()
    brain, journal, entries = made.kept(R1)
    Takeover(brain, journal, []).replay(entries)
    assert journal.knows(Reported(R0, 1))
    assert not journal.knows(Reported(R1, 1))
