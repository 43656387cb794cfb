"""Machines that will be taken away: what is on them leaves first. Literal events in, literal commands out."""

import pytest
from tests.core.test_brain import R0, V1, V2, Ear, S, only, receipt, shard_commands

from mottle.core import protocol as p
from mottle.core import wire

NEW = p.ReplicaId(0, 1)


def draining_ear(**config: object) -> Ear:
    """Worker 0 on machine a, worker 1 on machine b; both have an order, and worker 0's last one took 4 s."""
    ear = Ear(num_positions=400, max_samples=400, **config)
    ear.hear(p.Joined(0, host="a"), p.Joined(1, host="b"), p.Started(p.Version(0, 0)))
    ear.now_ns = 4 * S
    ear.hear(receipt(0, 0), p.Stepped(R0, V1))
    return ear


@pytest.mark.parametrize(("left_s", "cut"), [(30, False), (5, True), (None, False)])
def test_a_worker_finishes_what_it_can_in_the_time_left_and_goes(left_s: float | None, cut: bool) -> None:
    ear = draining_ear()
    said = ear.hear(p.HostDraining("a", None if left_s is None else left_s * S))
    assert only(said, p.Cut) == ([p.Cut(0, 2)] if cut else [])
    assert ear.brain.crew == (1,)
    assert only(said, p.Notice)[0].text.endswith("workers 0 leave")
    said = ear.hear(receipt(2, 0, 1 if cut else 4))
    assert only(said, p.Dismiss) == [p.Dismiss(0)]
    assert only(said, p.Compute) == []


def test_one_whose_usual_time_is_not_known_pushes_what_it_has() -> None:
    ear = draining_ear()
    assert only(ear.hear(p.HostDraining("b", 30 * S)), p.Cut) == [p.Cut(1, 1)]


def test_one_that_joins_on_such_a_machine_gets_nothing_and_goes() -> None:
    ear = draining_ear()
    ear.hear(p.HostDraining("c", 30 * S))
    said = ear.hear(p.Joined(2, host="c"))
    assert only(said, p.Compute) == []
    assert only(said, p.Dismiss) == [p.Dismiss(2)]


def move(ear: Ear) -> list[p.Command]:
    """The newcomer's way, to the end."""
    adopted = ear.hear(p.ReplicaCame(NEW))
    assert [each for each in shard_commands(adopted) if isinstance(each, p.Adopt)] == [p.Adopt(R0, NEW)]
    ear.hear(p.ReplicaReady(NEW))
    assert only(ear.hear(p.ReplicaSynced(NEW)), p.Introduce) == [p.Introduce(NEW)]
    assert not only(ear.hear(receipt(1, 1)), p.Retire), "not before all know it"
    return ear.hear(p.ReplicaKnown(NEW))


def test_the_only_replica_of_a_shard_moves_off_and_the_run_goes_on_with_the_newcomer() -> None:
    ear = draining_ear()
    assert only(ear.hear(p.ReplicaDraining(R0)), p.MakeReplica) == [p.MakeReplica(NEW)]
    assert only(ear.hear(p.ReplicaDraining(R0)), p.MakeReplica) == [], "said twice"
    said = move(ear)
    assert only(said, p.Retire) == [p.Retire(R0)]
    assert ear.brain.shards.live == {NEW}
    ear.hear(receipt(1, 1, replica=NEW))
    assert only(ear.hear(p.Stepped(NEW, V2)), p.Published) == [p.Published(V2, 8)]
    assert ear.hear(p.ReplicaLost(R0, "killed")) == [], "its end was planned"


def test_a_newcomer_that_fails_is_followed_by_another_in_the_same_place() -> None:
    ear = draining_ear()
    ear.hear(p.ReplicaDraining(R0))
    assert only(ear.hear(p.ReplicaLost(NEW, "no room")), p.MakeReplica) == [p.MakeReplica(p.ReplicaId(0, 2))]
    assert ear.brain.shards.live == {R0}


def test_a_replica_that_is_lost_before_its_place_is_taken_calls_no_second_newcomer() -> None:
    ear = Ear(num_positions=400, max_samples=400, replicas=1)
    ear.hear(p.Joined(0), p.Started(p.Version(0, 0)))
    new = p.ReplicaId(0, 2)
    assert only(ear.hear(p.ReplicaDraining(R0)), p.MakeReplica) == [p.MakeReplica(new)]
    assert only(ear.hear(p.ReplicaLost(R0, "taken away")), p.MakeReplica) == []
    assert only(ear.hear(p.ReplicaCame(new)), p.Batch)
    ear.hear(p.ReplicaReady(new), p.ReplicaSynced(new))
    assert not only(ear.hear(p.ReplicaKnown(new)), p.Retire)
    assert ear.brain.shards.live == {p.ReplicaId(0, 1), new}


@pytest.mark.parametrize("event", [p.HostDraining("a", 3), p.HostDraining("a"), p.ReplicaDraining(R0)])
def test_the_log_keeps_these_events(event: p.Event) -> None:
    assert wire.decode(wire.encode(event)) == event
