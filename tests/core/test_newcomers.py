"""Newcomers that take the place of lost replicas, by literal events; whole runs with them are in tests/simulate/test_schedules.py."""

import pytest

from mottle.core import protocol as p
from mottle.core.effects import Effects
from mottle.core.newcomers import ATTEMPTS, Newcomers
from mottle.core.pipeline import Application, Pipeline
from mottle.core.shards import ShardMap

PRIMARY, BACKUP, THIRD = (p.ReplicaId(0, replica) for replica in range(3))
V0, V1 = p.Version(0, 0), p.Version(0, 1)


class Ear:
    """Newcomers of one shard whose backup is lost, and what was said since the last look."""

    def __init__(self) -> None:
        self.shards = ShardMap(1, 1, epoch=0)
        self.pipeline = Pipeline(self.shards, V0, max_grad_norm=None, rules=None, context=lambda: (0, (), ()))
        self.effects = Effects()
        self.newcomers = Newcomers(self.shards, self.pipeline, self.effects, first=2)
        assert self.shards.lose(BACKUP)
        self.newcomers.call(0)

    def told(self) -> list[tuple[p.ShardCommand, ...]]:
        return [batch.commands for batch in self.shards.flush()]

    def said(self) -> list[p.Command]:
        return self.effects.take()


@pytest.fixture
def ear() -> Ear:
    return Ear()


def adopted(ear: Ear) -> None:
    ear.newcomers.came(p.ReplicaCame(THIRD))
    assert ear.newcomers.adopt()
    ear.told()


def test_from_the_call_to_the_last_that_is_passed_on(ear: Ear) -> None:
    assert ear.said() == [p.MakeReplica(THIRD)]
    assert not ear.newcomers.adopt(), "its process does not stand yet"
    ear.newcomers.came(p.ReplicaCame(THIRD))
    assert ear.newcomers.adopt()
    assert ear.told() == [(p.Adopt(PRIMARY, THIRD),)]
    assert ear.shards.covered_by({PRIMARY})

    ear.newcomers.ready(p.ReplicaReady(THIRD))
    assert not ear.shards.covered_by({PRIMARY}), "from here on its answers are waited for"
    assert ear.shards.live == {PRIMARY}, "but it may not hold everything yet"
    assert ear.told() == [(p.Sync(THIRD),)]

    ear.newcomers.synced(p.ReplicaSynced(THIRD))
    assert ear.said() == [p.Notice("replica", "shard 0 has a new replica"), p.Introduce(THIRD)]
    assert ear.shards.live == {PRIMARY, THIRD}
    ear.newcomers.known(p.ReplicaKnown(THIRD))
    assert ear.told() == [(p.Wean(THIRD),)]
    assert ear.shards.lose(PRIMARY)
    assert ear.shards.complete


def test_it_gets_by_itself_what_follows_the_place_where_it_has_everything(ear: Ear) -> None:
    adopted(ear)
    ear.newcomers.ready(p.ReplicaReady(THIRD))
    ear.shards.tell(p.Drop(("next",)))
    place, following = ear.shards.flush()
    assert place.commands == (p.Sync(THIRD),)
    assert ear.shards.recipients(place) == [PRIMARY]
    assert ear.shards.recipients(following) == [PRIMARY, THIRD]


def test_it_is_handed_over_to_only_where_no_step_is_under_way_and_no_question_is_open(ear: Ear) -> None:
    answers: list[tuple[int, ...]] = []
    ear.pipeline.submit(Application(((7, 1.0),)))
    ear.pipeline.ask((("a", "b"),), answers.append)
    ear.told()
    ear.newcomers.came(p.ReplicaCame(THIRD))
    assert not ear.newcomers.adopt(), "a step is under way"
    ear.pipeline.submit(Application(((8, 1.0),)))
    ear.pipeline.ask((("c", "d"),), answers.append)
    assert ear.told() == [], "nothing new is told to the shards meanwhile"

    ear.pipeline.stepped(PRIMARY, V1)
    assert len(ear.pipeline.take_published()) == 1
    assert not ear.newcomers.adopt(), "a question is open"
    ear.pipeline.answered(PRIMARY, 1, (5,))
    assert answers == [(5,)]
    assert ear.newcomers.adopt()
    hand_over, held_back = ear.told()
    assert hand_over == (p.Adopt(PRIMARY, THIRD),)
    assert [type(command) for command in held_back] == [p.Measure, p.Step]


@pytest.mark.parametrize("phase", ["called", "waiting", "adopted", "awaited"])
def test_one_that_dies_on_the_way_is_replaced_and_nobody_waits_for_it(ear: Ear, phase: str) -> None:
    if phase == "waiting":
        ear.newcomers.came(p.ReplicaCame(THIRD))
        ear.pipeline.hold()
    if phase in ("adopted", "awaited"):
        adopted(ear)
    if phase == "awaited":
        ear.newcomers.ready(p.ReplicaReady(THIRD))
    ear.said()
    assert ear.newcomers.lose(p.ReplicaLost(THIRD, "gone"))
    fourth = p.ReplicaId(0, 3)
    assert ear.said() == [
        p.Notice("warning", "a new replica of shard 0 is lost (gone); another is made"),
        p.MakeReplica(fourth),
    ]
    assert ear.shards.covered_by({PRIMARY})
    ear.told()
    ear.pipeline.submit(Application(((7, 1.0),)))
    assert [type(command) for commands in ear.told() for command in commands] == [p.Step], "steps go on"
    ear.newcomers.came(p.ReplicaCame(THIRD))  # its last words
    ear.newcomers.ready(p.ReplicaReady(THIRD))
    ear.newcomers.synced(p.ReplicaSynced(THIRD))
    assert not ear.newcomers.adopt()
    assert ear.shards.live == {PRIMARY}
    assert not ear.newcomers.lose(p.ReplicaLost(THIRD, "said twice"))


def test_after_some_that_fail_in_a_row_the_shard_goes_on_with_one_replica(ear: Ear) -> None:
    for number in range(ATTEMPTS):
        assert ear.newcomers.lose(p.ReplicaLost(p.ReplicaId(0, 2 + number), "no host has room"))
    *_, last = ear.said()
    assert last == p.Notice("warning", "a new replica of shard 0 is lost (no host has room); the shard goes on with one replica")


def test_messages_that_come_twice_change_nothing(ear: Ear) -> None:
    adopted(ear)
    ear.newcomers.came(p.ReplicaCame(THIRD))
    assert not ear.newcomers.adopt()
    ear.newcomers.ready(p.ReplicaReady(THIRD))
    ear.newcomers.ready(p.ReplicaReady(THIRD))
    assert ear.told() == [(p.Sync(THIRD),)]
    ear.said()
    ear.newcomers.synced(p.ReplicaSynced(THIRD))
    ear.newcomers.synced(p.ReplicaSynced(THIRD))
    assert [type(command) for command in ear.said()] == [p.Notice, p.Introduce]
