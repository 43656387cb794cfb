"""The coordinator's brain: literal events in, literal commands out; its invariants are checked after every event."""

import json
from dataclasses import replace

import pytest

from mottle import strategies
from mottle.aggregation.decisions.rulebook import Rules
from mottle.core import protocol as p
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.core.exactsum import exact_sum
from mottle.core.naming import Spec
from mottle.core.updates import REJECTED_STREAK

R0 = p.ReplicaId(0, 0)
V0, V1, V2 = (p.Version(0, number) for number in range(3))


class Ear:
    """A brain, and shorthand for what it hears and says."""

    def __init__(self, spec: Spec = "async", *, batch_size: int = 4, restore: dict | None = None, **config: object) -> None:
        numbers = {"num_positions": 12, "max_samples": 12, "lease_floor_ns": None, **config}
        defaults = {"batch_size": batch_size, "lr": 0.1, "rho": 0.001}
        self.brain = Brain(BrainConfig(**numbers), strategies.build(spec, defaults), rules=Rules())
        if restore is not None:
            self.brain.restore(restore)
        self.now_ns = 0

    def hear(self, *events: p.Event) -> list[p.Command]:
        """Everything said because of these events."""
        said: list[p.Command] = []
        for event in events:
            said += self.brain.handle(event, now_ns=self.now_ns)
            self.brain.check()
            counts = self.brain.ledger.counts
            assert counts.accepted + counts.unselected + counts.rejected + counts.discarded + counts.in_flight == counts.acknowledged
            assert self.brain.samples == sum(e.applied + e.unselected + e.rejected for e in self.brain.book.epochs)
        return said

    def start(self, num_workers: int = 2) -> list[p.Command]:
        return self.hear(*(p.Joined(slot) for slot in range(num_workers)), p.Started(V0))

    def counts(self) -> dict[str, int]:
        return {name: count for name, count in self.brain.ledger.counts.as_dict().items() if count}


def order(work_id: int, worker: int, start: int, stop: int, *, base: p.Version = V0, lease: int | None = None, epoch: int = 0) -> p.Compute:
    part = p.Part(p.Lease(work_id if lease is None else lease, epoch, start, stop))
    return p.Compute(work_id, worker, base, (part,), p.Samples(stop - start))


def receipt(work_id: int, worker: int, samples: int = 4, *, replica: p.ReplicaId = R0, finite: bool = True, **more: object) -> p.Receipt:
    norm2 = exact_sum([4.0]) if finite else 0
    return p.Receipt(replica, p.update_name(work_id), worker, samples, finite, norm2, **more)


def only(said: list[p.Command], *kinds: type) -> list[p.Command]:
    return [command for command in said if isinstance(command, kinds)]


def shard_commands(said: list[p.Command]) -> list[p.ShardCommand]:
    return [command for batch in only(said, p.Batch) for command in batch.commands]


def verdicts(said: list[p.Command]) -> list[tuple[int, str, str]]:
    return [(verdict.work_id, verdict.verdict, verdict.reason) for verdict in only(said, p.Verdict)]


# --- the life of an update --------------------------------------------------------------------------------------------------------------


def test_from_joining_to_the_end_of_the_run() -> None:
    ear = Ear(max_samples=8)
    joined = [p.Notice("joined", f"worker {slot} joined on cpu", slot) for slot in (0, 1)]
    assert ear.start() == [*joined, order(0, 0, 0, 4), order(1, 1, 4, 8)]
    step = p.Step(V1, "update/1", 0.25, 0, 0, ((0, ("work/0",)),), ("update/1",))
    assert ear.hear(receipt(1, 1)) == [p.Batch(0, 0, (step,))]
    assert ear.hear(p.Stepped(R0, V1)) == [p.Verdict(1, 1, "accepted", "applied", 4, 0), p.Published(V1, 4)]
    step = p.Step(V2, "update/0", 0.25, 4, 1, (), ("update/0",), ("work/0",))
    assert ear.hear(receipt(0, 0)) == [p.Batch(0, 1, (step,))]
    assert ear.hear(p.Stepped(R0, V2)) == [
        p.Verdict(0, 0, "accepted", "applied", 4, 1),
        p.Published(V2, 8),
        p.Dismiss(0),
        p.Dismiss(1),
        p.Finished("samples"),
    ]
    assert ear.hear(p.Joined(2), receipt(1, 1)) == []


def test_nobody_works_before_the_shards_are_there_and_a_joiner_works_at_once_after() -> None:
    ear = Ear()
    assert only(ear.hear(p.Joined(0)), p.Compute) == []
    assert only(ear.hear(p.Started(V0)), p.Compute) == [order(0, 0, 0, 4)]
    assert only(ear.hear(p.Joined(5)), p.Compute) == [order(1, 5, 4, 8)]


def test_an_update_is_acknowledged_when_all_shards_hold_it() -> None:
    ear = Ear(num_shards=2)
    ear.start()
    assert ear.hear(receipt(0, 0)) == []
    assert ear.counts() == {}
    assert ear.hear(receipt(0, 0)) == []
    ear.hear(receipt(0, 0, replica=p.ReplicaId(1, 0)))
    assert ear.counts() == {"in_flight": 1}


def test_two_orders_in_flight_are_two_orders() -> None:
    ear = Ear({"async": {"max_in_flight": 2}})
    assert only(ear.start(1), p.Compute) == [order(0, 0, 0, 4), order(1, 0, 4, 8)]


def test_when_the_last_samples_are_out_it_says_for_how_many_workers_there_is_something_to_do() -> None:
    ear = Ear()
    assert only(ear.start(), p.Compute) == [order(0, 0, 0, 4), order(1, 1, 4, 8)]
    assert ear.brain.usable is None, "four are left"
    assert only(ear.hear(receipt(1, 1), p.Stepped(R0, V1)), p.Compute) == [order(2, 1, 8, 12, base=V1)]
    assert (ear.brain.usable, ear.brain.unoccupied) == (2, [])
    ear.hear(receipt(0, 0), p.Stepped(R0, V2))
    assert (ear.brain.usable, ear.brain.unoccupied) == (1, [0])
    assert only(ear.hear(p.RemoveAsked(0)), p.Dismiss) == [p.Dismiss(0)]
    ear.hear(p.Left(0, "dismissed"), p.Left(1, "died: killed", died=True))
    assert ear.brain.usable is None, "what it had is to be computed again"
    assert only(ear.hear(p.Joined(3)), p.Compute) == [order(3, 3, 8, 12, base=V2)]


# --- the gate ---------------------------------------------------------------------------------------------------------------------------


def test_an_update_that_is_not_finite_is_rejected_and_its_samples_go_once_to_another_worker() -> None:
    ear = Ear(num_positions=8, max_samples=8)
    ear.start()
    said = ear.hear(receipt(0, 0, finite=False))
    assert verdicts(said) == [(0, "rejected", "not finite")]
    assert shard_commands(said) == [p.Drop(("update/0",))]
    assert only(said, p.Compute) == [], "its samples are not for the worker that spoilt them"
    said = ear.hear(receipt(1, 1), p.Stepped(R0, V1))
    assert only(said, p.Compute) == [order(2, 1, 0, 4, base=V1)]
    said = ear.hear(receipt(2, 1, finite=False))
    assert verdicts(said) == [(2, "rejected", "not finite")]
    assert only(said, p.Finished) == [p.Finished("samples")]
    (epoch,) = ear.brain.book.epochs
    assert (epoch.applied, epoch.rejected) == (4, 4)
    assert ear.counts() == {"accepted": 1, "rejected": 2}


def test_without_retries_rejected_samples_count_at_once() -> None:
    ear = Ear(retry_rejected=False)
    ear.start()
    assert only(ear.hear(receipt(0, 0, finite=False)), p.Compute) == [order(2, 0, 8, 12)]
    assert ear.brain.samples == 4


def test_samples_that_nobody_else_could_try_count_as_rejected_and_the_run_ends() -> None:
    ear = Ear(batch_size=12)
    ear.start(1)
    said = ear.hear(receipt(0, 0, 12, finite=False))
    assert only(said, p.Finished) == [p.Finished("samples")]
    assert ear.brain.samples == 12


@pytest.mark.parametrize("samples", [0, -3, 3, 5, 10**30])
def test_a_wrong_sample_count_is_rejected(samples: int) -> None:
    ear = Ear()
    ear.start()
    assert verdicts(ear.hear(receipt(0, 0, samples))) == [(0, "rejected", f"claims {samples} samples, was ordered 4")]


@pytest.mark.parametrize(("claims", "fault"), [((4, None), ""), ((4, 2.0), "different"), ((3, None), "was ordered 4")])
def test_counts_must_be_the_same_on_all_shards(claims: tuple[int, float | None], fault: str) -> None:
    ear = Ear(num_shards=2, weighted_loss=True)
    ear.start()
    samples, weight = claims
    said = ear.hear(receipt(0, 0), receipt(0, 0, samples, weight=weight, replica=p.ReplicaId(1, 0)))
    assert bool(fault) == bool(verdicts(said))
    assert all(fault in reason for _, _, reason in verdicts(said))


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_an_impossible_weight_is_rejected(weight: float) -> None:
    ear = Ear(weighted_loss=True)
    ear.start()
    assert verdicts(ear.hear(receipt(0, 0, weight=weight))) == [(0, "rejected", f"claims a weight of {weight}")]


def nothing(work_id: int, worker: int, samples: int = 4) -> p.Receipt:
    """Of an update over samples of which none counts for the loss."""
    return replace(receipt(work_id, worker, samples, weight=0.0), norm2=0)


def test_samples_of_which_nothing_counts_for_the_loss_are_applied_without_a_step_once_two_workers_say_so() -> None:
    """One worker's word would let a liar burn all the samples that it is given."""
    ear = Ear(weighted_loss=True)
    ear.start()
    said = ear.hear(nothing(0, 0))
    assert verdicts(said) == [(0, "rejected", "nothing in it counts for the loss")]
    assert shard_commands(said) == [p.Drop(("update/0",))]
    assert only(said, p.Compute) == [order(2, 0, 8, 12)]
    (again,) = only(ear.hear(nothing(1, 1)), p.Compute)
    assert (again.worker, again.parts[0].lease.start) == (1, 0), "worker 1 is asked about the samples of worker 0"
    assert verdicts(ear.hear(nothing(3, 1))) == [(3, "accepted", "nothing in it counts for the loss")]
    assert ear.brain.samples == 4


def test_a_worker_that_is_alone_is_believed_to_have_nothing_that_counts() -> None:
    ear = Ear(weighted_loss=True)
    ear.start()
    ear.hear(p.Left(1, "gone"))
    assert verdicts(ear.hear(nothing(0, 0))) == [(0, "accepted", "nothing in it counts for the loss")]


def test_a_round_of_padding_alone_is_followed_by_the_next_round() -> None:
    ear = Ear("sync", num_positions=12, max_samples=12, weighted_loss=True, retry_rejected=False)
    ear.start()
    said = ear.hear(*(nothing(slot, slot, 2) for slot in (0, 1)))
    assert [text for _, text, _ in verdicts(said)] == ["accepted", "accepted"]
    assert only(said, p.Compute) == [order(2, 0, 4, 6), order(3, 1, 6, 8)]


@pytest.mark.parametrize("weight", ["4", None, [4.0], True, 1 << 2000])
def test_a_weight_that_is_no_number_is_rejected_and_nothing_breaks(weight: object) -> None:
    ear = Ear(weighted_loss=True)
    ear.start()
    expected = [] if weight is None else [(0, "rejected", f"claims a weight of {weight}")]
    assert verdicts(ear.hear(receipt(0, 0, weight=weight))) == expected


def test_a_weight_of_nothing_does_not_excuse_a_vector_that_is_something() -> None:
    ear = Ear(weighted_loss=True)
    ear.start()
    assert verdicts(ear.hear(receipt(0, 0, weight=0.0))) == [(0, "rejected", "claims a weight of 0 for a sum that is not zero")]


def test_a_name_belongs_to_whoever_was_given_the_order() -> None:
    ear = Ear()
    ear.start()
    said = ear.hear(p.Contested(R0, "update/0", (1, 0)))
    assert shard_commands(said) == [p.Award("update/0", 0)]
    assert [notice.worker for notice in only(said, p.Notice)] == [1]
    assert shard_commands(ear.hear(p.Contested(R0, "update/99", (1, 0)))) == [p.Drop(("update/99",))]
    said = ear.hear(receipt(0, 1))
    assert shard_commands(said) == [p.Award("update/0", 0)], "the whole update of somebody else"
    assert only(said, p.Notice) == [p.Notice("warning", "refused update/0 of worker 1: no such order is open", 1)]


def test_a_weight_where_the_loss_has_no_units_of_its_own_is_rejected() -> None:
    ear = Ear()
    ear.start()
    assert verdicts(ear.hear(receipt(0, 0, weight=4.0))) == [(0, "rejected", "claims a weight of 4.0")]


def test_a_payload_that_the_shards_refused_is_rejected() -> None:
    ear = Ear()
    ear.start()
    assert verdicts(ear.hear(receipt(0, 0, finite=False, fault="wrong length"))) == [(0, "rejected", "wrong length")]


@pytest.mark.parametrize(
    ("name", "sender", "drop"),
    [
        ("update/9", 1, True),  # never given
        ("update/00", 0, False),  # another spelling: the shards would not find it
        ("update/²", 0, False),
        ("update/" + "9" * 5000, 0, False),
        ("params", 0, False),
        ("reference/1", 0, False),
    ],
)
def test_a_foreign_or_unknown_name_is_refused_and_changes_nothing(name: str, sender: int, drop: bool) -> None:
    ear = Ear()
    ear.start()
    said = ear.hear(p.Receipt(R0, name, sender, 4, True, 1))
    assert only(said, p.Notice) == [p.Notice("warning", f"refused {name} of worker {sender}: no such order is open", sender)]
    assert shard_commands(said) == ([p.Drop((name,))] if drop else [])
    assert ear.counts() == {}
    assert len(said) == 1 + drop


def test_a_work_id_that_is_used_again_is_refused() -> None:
    ear = Ear()
    ear.start()
    ear.hear(receipt(0, 0))
    assert ear.hear(receipt(0, 0)) == [], "said twice while the step is under way"
    ear.hear(p.Stepped(R0, V1))
    said = ear.hear(receipt(0, 0))
    assert shard_commands(said) == [p.Drop(("update/0",))]
    assert ear.counts() == {"accepted": 1}


def test_people_are_told_of_a_streak_of_rejections() -> None:
    ear = Ear(num_positions=40, max_samples=40)
    ear.start()
    said = [command for number in range(REJECTED_STREAK) for command in ear.hear(receipt(number + bool(number), 0, finite=False))]
    assert only(said, p.Notice) == [p.Notice("rejected_streak", f"worker 0: {REJECTED_STREAK} updates rejected in a row", 0)]


def test_free_samples_that_the_first_worker_may_not_have_go_to_the_others() -> None:
    """A round of one sample is the first worker's, whose own update of it was rejected: it would begin again for ever."""
    ear = Ear("sync", batch_size=2, num_positions=2, max_samples=2)
    ear.start()
    said = ear.hear(receipt(0, 0, 1, finite=False), receipt(1, 1, 1), p.Stepped(R0, V1))
    assert only(said, p.Compute) == [order(2, 1, 0, 1, base=V1)]


# --- workers that go --------------------------------------------------------------------------------------------------------------------


def test_the_samples_of_a_dead_worker_go_to_the_next() -> None:
    ear = Ear(max_samples=8)
    ear.start()
    said = ear.hear(p.Left(0, "connection lost", died=True))
    assert only(said, p.Notice) == [p.Notice("killed", "worker 0 killed: connection lost", 0)]
    assert only(ear.hear(receipt(1, 1), p.Stepped(R0, V1)), p.Compute) == [order(2, 1, 0, 4, base=V1)]


def test_a_torn_push_of_a_killed_worker_is_forgotten_by_the_shards() -> None:
    ear = Ear(num_shards=2)
    ear.start()
    ear.hear(receipt(0, 0))
    assert shard_commands(ear.hear(p.Left(0, "killed"))) == [p.Drop(("update/0",))]
    assert ear.counts() == {}


def test_a_torn_push_that_no_shard_has_whole_is_forgotten_as_well() -> None:
    ear = Ear()
    ear.start()
    assert shard_commands(ear.hear(p.Left(0, "killed"))) == [p.Drop(("update/0",))]


def test_an_acknowledged_update_outlives_its_worker() -> None:
    ear = Ear()
    ear.start()
    ear.hear(receipt(0, 0), p.Left(0, "killed"))
    assert verdicts(ear.hear(p.Stepped(R0, V1))) == [(0, "accepted", "applied")]


def test_a_push_that_was_complete_when_its_worker_died_is_acknowledged_and_discarded() -> None:
    ear = Ear()
    ear.start()
    ear.hear(p.Left(0, "killed"))
    said = ear.hear(receipt(0, 0))
    assert verdicts(said) == [(0, "discarded", "late: its samples had been given back")]
    assert p.Drop(("update/0",)) in shard_commands(said)
    assert ear.counts() == {"discarded": 1}


def test_a_late_update_after_the_rounds_deadline_is_acknowledged_and_discarded() -> None:
    ear = Ear({"sync": {"deadline_s": 1.0}}, batch_size=4)
    assert only(ear.start(), p.SetTimer) == [p.SetTimer("strategy/round-0", 1_000_000_000)]
    ear.hear(receipt(0, 0, 2))
    said = ear.hear(p.TimerFired("strategy/round-0"))
    assert only(said, p.Abandon) == [p.Abandon(1, 1)]
    assert shard_commands(said)[-1] == p.Step(V1, "update/0", 0.5, 0, 0, (), ("update/0",))
    assert verdicts(ear.hear(receipt(1, 1, 2))) == [(1, "discarded", "late: its samples had been given back")]
    orders = only(ear.hear(p.Stepped(R0, V1)), p.Compute)
    assert [(each.parts[0].lease.start, each.parts[0].lease.stop) for each in orders] == [(2, 4), (4, 6)]


S = 1_000_000_000


def test_an_order_that_is_overdue_goes_to_others_and_its_worker_gets_nothing_until_it_is_heard_of() -> None:
    ear = Ear(lease_floor_ns=10 * S, first_lease_ns=10 * S, batch_size=4)
    assert only(ear.start(), p.SetTimer) == [p.SetTimer("brain/overdue", 10 * S)]
    ear.now_ns = 9 * S
    ear.hear(receipt(0, 0), p.Stepped(R0, V1))
    ear.now_ns = 10 * S
    said = ear.hear(p.TimerFired("brain/overdue"))
    assert only(said, p.Notice) == [
        p.Notice("overdue", "worker 1 has been silent for 10.0 s, far longer than usual: its samples go to others", 1)
    ]
    assert only(said, p.Cut, p.Abandon) == [p.Cut(1, 1)]
    assert ear.brain.crew == (0,)
    assert only(said, p.SetTimer) == [p.SetTimer("brain/overdue", 9 * S + 27 * S)], "worker 0: 9 s and eight times a quarter of it more"
    assert only(ear.hear(receipt(2, 0), p.Stepped(R0, V2)), p.Compute) == [order(3, 0, 4, 8, base=V2)], "the samples that were worker 1's"
    said = ear.hear(receipt(1, 1))
    assert verdicts(said) == [(1, "discarded", "late: its samples had been given back")]
    assert only(said, p.Notice) == [p.Notice("back", "worker 1 is back", 1)]
    assert ear.brain.crew == (0, 1)


def test_an_overdue_worker_that_gives_its_order_back_is_heard_of() -> None:
    ear = Ear("sync", lease_floor_ns=S, first_lease_ns=S)
    ear.start()
    ear.now_ns = S
    ear.hear(receipt(0, 0, 2))
    said = ear.hear(p.TimerFired("brain/overdue"))
    assert shard_commands(said)[-1] == p.Step(V1, "update/0", 0.5, 0, 0, (), ("update/0",)), "the round ends with those who are in"
    assert [each.worker for each in only(ear.hear(p.Stepped(R0, V1)), p.Compute)] == [0]
    assert only(ear.hear(p.WorkReturned(1, 1, "cut before the first micro-batch")), p.Notice) == [p.Notice("back", "worker 1 is back", 1)]
    assert [each.worker for each in only(ear.hear(receipt(2, 0), p.Stepped(R0, V2)), p.Compute)] == [0, 1]


def test_an_overdue_worker_whose_update_was_lost_is_heard_of_by_its_answer() -> None:
    ear = Ear("sync", lease_floor_ns=S, first_lease_ns=S)
    ear.start()
    ear.now_ns = S
    ear.hear(receipt(0, 0, 2), p.TimerFired("brain/overdue"), p.Stepped(R0, V1))
    said = ear.hear(p.WorkReturned(1, 1, "it was done before", done=True))
    assert only(said, p.Notice) == [p.Notice("back", "worker 1 is back", 1)]


def test_the_answer_that_an_order_was_done_before_does_not_end_it() -> None:
    ear = Ear()
    ear.start(1)
    said = ear.hear(p.WorkReturned(0, 0, "it was done before", done=True))
    assert only(said, p.Notice, p.Compute) == []
    assert [each.source for each in shard_commands(ear.hear(receipt(0, 0)))] == ["update/0"], "its update was on its way"


def test_a_part_of_a_late_update_is_a_sign_of_life() -> None:
    ear = Ear("sync", num_shards=2, lease_floor_ns=S, first_lease_ns=S)
    ear.start()
    ear.now_ns = S
    ear.hear(p.TimerFired("brain/overdue"))
    said = ear.hear(receipt(1, 1, 2))
    assert only(said, p.Notice) == [p.Notice("back", "worker 1 is back", 1)], "the other shard may never have its part"


def test_an_order_that_is_given_back_is_lent_again_at_once() -> None:
    ear = Ear()
    ear.start(1)
    said = ear.hear(p.WorkReturned(0, 0, "out of memory"))
    assert only(said, p.Notice) == [p.Notice("warning", "worker 0 returned its order: out of memory", 0)]
    assert only(said, p.Compute) == [order(1, 0, 0, 4)]
    assert only(ear.hear(p.WorkReturned(0, 0, "again"), p.WorkReturned(3, 1, "not mine"), p.WorkReturned(0, 99, "x")), p.Notice) == []


def test_a_worker_that_is_removed_finishes_what_it_has_and_gets_nothing_new() -> None:
    ear = Ear()
    ear.start()
    assert ear.hear(p.RemoveAsked(0)) == []
    assert ear.brain.crew == (1,)
    said = ear.hear(receipt(0, 0))
    assert only(said, p.Dismiss, p.Compute) == [p.Dismiss(0)]
    assert only(said, p.Notice) == [p.Notice("left", "worker 0 left: removed", 0)]
    said = ear.hear(p.Stepped(R0, V1), p.Left(0, "process ended"))
    assert verdicts(said) == [(0, "accepted", "applied")]
    assert only(said, p.Compute, p.Notice) == []


def test_what_a_worker_has_in_hand_that_is_recalled_at_once_goes_to_another() -> None:
    ear = Ear(num_positions=8, max_samples=8)
    ear.start()
    ear.hear(p.RemoveAsked(0))
    said = ear.hear(p.RemoveAsked(0, at_once=True), receipt(1, 1), p.Stepped(R0, V1))
    assert only(said, p.Dismiss) == [p.Dismiss(0)]
    assert [(each.worker, each.parts[0].lease.start) for each in only(said, p.Compute)] == [(1, 0)]
    late = ear.hear(receipt(0, 0), p.Left(0, "process ended"))
    assert [(each.work_id, each.verdict) for each in only(late, p.Verdict)] == [(0, "discarded")]
    assert only(late, p.Dismiss, p.Notice) == []


def test_an_idle_worker_that_is_removed_is_dismissed_at_once() -> None:
    ear = Ear(num_positions=4, max_samples=4)
    ear.start()
    assert only(ear.hear(p.RemoveAsked(1), p.RemoveAsked(1), p.RemoveAsked(7)), p.Dismiss) == [p.Dismiss(1)]


def test_a_round_of_synchronous_workers_goes_on_without_the_dead() -> None:
    ear = Ear("sync", batch_size=6)
    assert len(only(ear.start(3), p.Compute)) == 3
    ear.hear(receipt(0, 0, 2), p.Left(1, "killed"))
    assert shard_commands(ear.hear(receipt(2, 2, 2)))[0] == p.Combine("direction", (("update/0", 1.0), ("update/2", 1.0)))


# --- replicas ---------------------------------------------------------------------------------------------------------------------------

BACKUP = p.ReplicaId(0, 1)


def test_receipts_and_steps_wait_for_both_replicas() -> None:
    ear = Ear(replicas=1)
    ear.start()
    assert ear.hear(receipt(0, 0)) == []
    assert len(only(ear.hear(receipt(0, 0, replica=BACKUP)), p.Batch)) == 1
    assert ear.hear(p.Stepped(BACKUP, V1)) == []
    assert only(ear.hear(p.Stepped(R0, V1)), p.Published) == [p.Published(V1, 4)]


@pytest.mark.parametrize("lost", [R0, BACKUP])
def test_the_other_replica_goes_on_with_what_was_under_way(lost: p.ReplicaId) -> None:
    ear = Ear(replicas=1)
    ear.start()
    (left,) = {R0, BACKUP} - {lost}
    ear.hear(receipt(0, 0), receipt(0, 0, replica=BACKUP), p.Stepped(left, V1), receipt(1, 1, replica=left))
    said = ear.hear(p.ReplicaLost(lost, "node is gone"))
    text = "a replica of shard 0 is lost (node is gone); the other one goes on"
    assert only(said, p.Notice) == [p.Notice("warning", text)]
    assert only(said, p.Published) == [p.Published(V1, 4)]
    assert [command.version for command in shard_commands(said)] == [V2]
    assert ear.brain.shards.primary(0) == left
    assert ear.hear(p.ReplicaLost(lost, "said twice")) == []


def test_a_run_without_a_replica_of_every_shard_fails() -> None:
    ear = Ear(num_shards=2)
    ear.start()
    said = ear.hear(p.ReplicaLost(p.ReplicaId(1, 0), "node is gone"))
    text = "shard 1 is lost: node is gone"
    assert said == [p.Notice("failed", text), p.Finished(text, failed=True)]
    assert ear.hear(p.Joined(9)) == []


# --- settings, pause, stop --------------------------------------------------------------------------------------------------------------


def test_a_setting_of_the_optimizer_goes_to_the_shards_in_the_order_of_commands() -> None:
    ear = Ear()
    ear.start()
    assert ear.hear(p.Configured({"lr": 0.5})) == [p.Notice("configured", "lr = 0.5"), p.Batch(0, 0, (p.Configure({"lr": 0.5}),))]


def test_a_rule_goes_to_the_strategy_and_not_to_the_shards_and_is_still_there_after_a_resumption() -> None:
    rule = {"median": {}}
    ear = Ear("sync", max_samples=None)
    ear.start()
    assert ear.hear(p.Configured({"rule": rule})) == [p.Notice("configured", "rule = median()")]
    resumed = Ear("sync", max_samples=None, restore=through_json(ear.brain.state()))
    told = resumed.hear(p.Joined(2), p.Joined(3), p.Started(V0))
    assert p.Notice("configured", "rule = median()") in told
    for each in (ear, resumed):
        orders = [order.compute for order in each.brain.ledger.undecided]
        step = each.hear(*(receipt(order.work_id, order.worker, order.until.count) for order in orders))
        assert [command.rule for command in shard_commands(step) if isinstance(command, p.ApplyRule)] == [rule]


@pytest.mark.parametrize("spec", ["sync", "async", "fedbuff", {"zeno++": {"refresh_every": 1}}])
def test_a_pause_lets_orders_end_and_gives_none_until_the_run_is_resumed(spec: Spec) -> None:
    ear = Ear(spec, num_positions=100, max_samples=100)
    orders = only(ear.start(), p.Compute)
    assert only(ear.hear(p.Configured({"paused": True})), p.Batch) == []
    said = ear.hear(*(receipt(each.work_id, each.worker, each.until.count) for each in orders), p.Joined(7))
    said += ear.hear(*(p.Stepped(R0, p.Version(0, number)) for number in (1, 2)))
    assert only(said, p.Compute, p.Finished) == []
    resumed = only(ear.hear(p.Configured({"paused": False})), p.Compute)
    assert {each.worker for each in resumed} >= {7}


def test_resuming_twice_wakes_everybody_once() -> None:
    ear = Ear()
    ear.hear(p.Configured({"paused": True}))
    assert only(ear.start(), p.Compute) == []
    said = ear.hear(p.Configured({"paused": False}), p.Configured({"paused": False}))
    assert only(said, p.Compute) == [order(0, 0, 0, 4), order(1, 1, 4, 8)]


def test_a_run_that_is_asked_to_stop_ends_with_what_is_out() -> None:
    ear = Ear()
    ear.start()
    assert ear.hear(p.StopAsked("user")) == []
    said = ear.hear(receipt(0, 0), p.Stepped(R0, V1), receipt(1, 1), p.Stepped(R0, V2))
    assert [number for number, _, _ in verdicts(said)] == [0, 1]
    assert only(said, p.Compute) == []
    assert only(said, p.Finished) == [p.Finished("user")]


def test_a_stop_with_a_checkpoint_saves_when_the_last_update_is_applied_and_ends_when_it_is_written() -> None:
    ear = Ear(evaluate_every=4)
    ear.start()
    ear.hear(p.Evaluated(V0))
    assert ear.hear(p.StopAsked("user", checkpoint=True)) == []
    said = ear.hear(receipt(0, 0), p.Stepped(R0, V1), receipt(1, 1), p.Stepped(R0, V2))
    assert [number for number, verdict, _ in verdicts(said) if verdict == "accepted"] == [0, 1]
    assert only(said, p.SaveModel, p.Finished) == []
    said = ear.hear(p.Evaluated(V1), p.Evaluated(V2))
    assert only(said, p.Evaluate, p.SaveModel, p.Finished) == [p.Evaluate(V2), p.SaveModel(1, V2)]
    said = ear.hear(p.ModelSaved(1), p.SnapshotDone(R0, 1))
    assert [(command.version, command.samples) for command in only(said, p.SaveCheckpoint)] == [(V2, 8)]
    assert only(said, p.Finished) == []
    assert only(ear.hear(p.CheckpointWritten(1)), p.Finished) == [p.Finished("user")]


@pytest.mark.parametrize("spec", ["sync", "async"])
def test_a_stop_is_not_held_up_by_samples_that_come_back(spec: Spec) -> None:
    ear = Ear(spec)
    ear.start()
    ear.hear(p.StopAsked("user"), p.Left(0, "killed"))
    size = ear.brain.ledger.get(1).samples
    said = ear.hear(receipt(1, 1, size, finite=False))
    assert only(said, p.Finished) == [p.Finished("user")]


def test_a_paused_run_can_be_stopped() -> None:
    ear = Ear()
    ear.start()
    ear.hear(p.Configured({"paused": True}), receipt(0, 0), p.Stepped(R0, V1), p.Left(1, "killed"))
    assert only(ear.hear(p.StopAsked("user")), p.Finished) == [p.Finished("user")]


def test_the_first_reason_to_stop_is_the_one_that_is_told() -> None:
    ear = Ear(max_ns=60)
    ear.now_ns = 40
    assert only(ear.start(), p.SetTimer) == [p.SetTimer("brain/max_time", 100)]
    said = ear.hear(p.TimerFired("brain/max_time"), p.StopAsked("user"), receipt(0, 0), receipt(1, 1), p.Stepped(R0, V1), p.Stepped(R0, V2))
    assert only(said, p.Finished) == [p.Finished("time")]


def test_a_target_that_is_reached_stops_the_run_after_a_last_evaluation() -> None:
    ear = Ear(target=("accuracy", 0.9), evaluate_every=4, num_positions=100, max_samples=None)
    assert only(ear.start(), p.Evaluate) == [p.Evaluate(V0)]
    ear.hear(p.Evaluated(V0, {"accuracy": float("nan")}))
    assert only(ear.hear(receipt(0, 0), p.Stepped(R0, V1)), p.Evaluate) == [p.Evaluate(V1)]
    ear.hear(p.Evaluated(V0, {"accuracy": 1.0}))
    ear.hear(p.Evaluated(V1, {"accuracy": 0.9}))
    said = ear.hear(receipt(1, 1), p.Stepped(R0, V2))
    assert only(said, p.Compute, p.Evaluate) == [p.Evaluate(V2)]
    last = p.Version(0, 3)
    said = ear.hear(receipt(2, 0), p.Stepped(R0, last), p.Evaluated(V2))
    assert only(said, p.Compute, p.Evaluate, p.Finished) == [p.Evaluate(last)]
    assert only(ear.hear(p.Evaluated(last)), p.Finished) == [p.Finished("target accuracy >= 0.9")]


def test_a_version_that_is_evaluated_is_held() -> None:
    ear = Ear(evaluate_every=100)
    ear.start()
    (step,) = shard_commands(ear.hear(receipt(0, 0)))
    assert step.holds == ((0, ("evaluate", "work/1")),)
    ear.hear(p.Evaluated(V0, {}))
    (step,) = shard_commands(ear.hear(receipt(1, 1)))
    assert step.holds == ()


# --- references -------------------------------------------------------------------------------------------------------------------------

# --- rules that need trusted data ---------------------------------------------------------------------------------------------------------


def test_a_rule_with_a_reference_gets_it_on_the_shards_and_the_next_one_while_the_workers_compute() -> None:
    ear = Ear({"sync": {"rule": {"fltrust": {}}}})
    ear.start()
    assert only(ear.hear(receipt(0, 0, 2), receipt(1, 1, 2)), p.Refresh, p.Batch) == [p.Refresh("reference/rule/1", V0, 0, 128)]
    rows = (("update/0", 2.0), ("update/1", 2.0))
    said = ear.hear(reference("reference/rule/1"))
    assert shard_commands(said) == [p.RuleStatistics(1, {"fltrust": {}}, rows, "reference/rule/1")]
    norms, dots = (exact_sum([4.0]), exact_sum([1.0])), (exact_sum([2.0]), exact_sum([-1.0]))
    apply, step = shard_commands(ear.hear(p.Measured(R0, 1, (0, 0, *norms, *dots, exact_sum([4.0])))))
    assert apply.decision["weights"] == [1.0, 0.0], "the other one points away"
    assert (step.version, step.source) == (V1, "direction")
    said = ear.hear(p.Stepped(R0, V1))
    assert verdicts(said) == [(0, "accepted", "applied"), (1, "unselected", "left out of the average")]
    assert only(said, p.Refresh) == [p.Refresh("reference/rule/2", V1, 0, 128)]
    assert shard_commands(said) == [p.Drop(("reference/rule/1",))]
    ear.hear(reference("reference/rule/2"))
    assert [type(each) for each in shard_commands(ear.hear(receipt(2, 0, 2), receipt(3, 1, 2)))] == [p.RuleStatistics]


def test_without_its_reference_a_rule_makes_no_step_and_the_samples_are_free_again() -> None:
    ear = Ear({"sync": {"rule": {"fltrust": {}}}})
    ear.start()
    ear.hear(receipt(0, 0, 2), receipt(1, 1, 2))
    said = ear.hear(p.RefreshFailed("reference/rule/1", "out of memory"))
    why = "no reference gradient: out of memory"
    assert [notice.text for notice in only(said, p.Notice)] == [why, f"no step: {why}"]
    assert verdicts(said) == [(0, "discarded", why), (1, "discarded", why)]
    assert [order.parts[0].lease.start for order in only(said, p.Compute)] == [0, 2]
    assert only(ear.hear(receipt(2, 0, 2), receipt(3, 1, 2)), p.Refresh) == [p.Refresh("reference/rule/2", V0, 0, 128)]


def test_a_rule_that_ranks_by_losses_has_the_validator_score_the_updates() -> None:
    ear = Ear({"sync": {"rule": {"zeno": {"trim": 1, "rho": 0.01}}}}, rule_samples=16)
    ear.start()
    ear.hear(p.Configured({"lr": 0.5}))
    said = ear.hear(receipt(0, 0, 2), receipt(1, 1, 2))
    assert only(said, p.Score) == [p.Score(1, ("update/0", "update/1"), V0, 0, 16, 0, 0.5)]
    assert shard_commands(ear.hear(p.Scored(99, (1.0, 2.0)))) == []
    (measure,) = shard_commands(ear.hear(p.Scored(1, (float("nan"), 0.5))))
    assert isinstance(measure, p.RuleStatistics)
    ear.hear(p.Measured(R0, 1, (0, 0, exact_sum([4.0]), exact_sum([4.0]))))
    assert verdicts(ear.hear(p.Stepped(R0, V1))) == [(1, "accepted", "applied"), (0, "unselected", "left out of the average")]


def test_a_reference_that_fails_stops_no_rule_that_needs_none() -> None:
    """FLTrust's next reference is on its way when the user takes Zeno, which waits for scores alone."""
    ear = Ear({"sync": {"rule": {"fltrust": {}}}})
    ear.start()
    ear.hear(receipt(0, 0, 2), receipt(1, 1, 2), reference("reference/rule/1"))
    ear.hear(p.Measured(R0, 1, (0, 0, *(exact_sum([4.0]),) * 5)), p.Stepped(R0, V1))
    ear.hear(p.Configured({"rule": {"zeno": {"trim": 1, "rho": 0.01}}}))
    (asked,) = only(ear.hear(receipt(2, 0, 2), receipt(3, 1, 2)), p.Score)
    assert verdicts(ear.hear(p.RefreshFailed("reference/rule/2", "out of memory"))) == []
    assert [type(each) for each in shard_commands(ear.hear(p.Scored(asked.request, (0.5, 0.25))))] == [p.RuleStatistics]


def test_updates_that_cannot_be_scored_make_no_step() -> None:
    ear = Ear({"sync": {"rule": {"zeno": {"trim": 1, "rho": 0.01}}}})
    ear.start()
    ear.hear(receipt(0, 0, 2), receipt(1, 1, 2))
    said = ear.hear(p.Scored(1, error="the loss of the model itself is not finite"))
    assert {reason for _, _, reason in verdicts(said)} == {"the updates could not be scored: the loss of the model itself is not finite"}


ZENO = {"zeno++": {"refresh_every": 2}}


def reference(name: str = "reference/1", *, finite: bool = True, fault: str = "") -> p.Receipt:
    return p.Receipt(R0, name, p.VALIDATOR, 1, finite, exact_sum([4.0]) if finite else 0, fault=fault)


def test_a_reference_is_asked_for_held_measured_and_dropped() -> None:
    ear = Ear(ZENO)
    assert only(ear.start(1), p.Refresh) == [p.Refresh("reference/1", V0, 0, 128)]
    assert ear.hear(receipt(0, 0)) == []
    assert shard_commands(ear.hear(reference())) == [p.Measure(1, (("update/0", "reference/1"),))]
    (step,) = shard_commands(ear.hear(p.Measured(R0, 1, (exact_sum([4.0]),))))
    assert (step.source, step.scale) == ("update/0", 1.0)
    said = ear.hear(p.Stepped(R0, V1), receipt(1, 0, dots=(("reference/1", exact_sum([-4.0])),)))
    assert verdicts(said)[-1] == (1, "rejected", "fails the Zeno++ test")
    assert only(said, p.Refresh) == [p.Refresh("reference/2", V1, 0, 128)]
    assert p.Drop(("reference/1",)) in shard_commands(ear.hear(reference("reference/2")))


def test_candidates_that_wait_for_a_reference_are_judged_before_the_run_ends() -> None:
    ear = Ear(ZENO, num_positions=4, max_samples=4)
    ear.start(1)
    assert only(ear.hear(receipt(0, 0)), p.Finished) == []
    assert only(ear.hear(reference()), p.Finished) == []
    said = ear.hear(p.Measured(R0, 1, (exact_sum([4.0]),)), p.Stepped(R0, V1))
    assert verdicts(said) == [(0, "accepted", "applied")]
    assert only(said, p.Finished) == [p.Finished("samples")]


def test_references_that_fail_are_asked_for_again_and_in_the_end_halt_the_run() -> None:
    ear = Ear(ZENO)
    ear.start()
    said = ear.hear(p.RefreshFailed("reference/1", "validator died"))
    assert only(said, p.Notice, p.Refresh) == [
        p.Notice("warning", "no reference gradient: validator died"),
        p.Refresh("reference/2", V0, 0, 128),
    ]
    assert shard_commands(said) == [p.Drop(("reference/1",))]
    broken = "the reference gradient is not finite: the model itself is broken"
    assert only(ear.hear(reference("reference/2", finite=False)), p.Refresh) == [p.Refresh("reference/3", V0, 0, 128)]
    said = ear.hear(reference("reference/3", finite=False))
    text = f"3 reference gradients in a row failed; the last one: {broken}"
    assert said[-3:-1] == [p.Notice("failed", text), p.Finished(text, failed=True)]
    assert only(said, p.Compute) == []


def test_a_reference_that_nobody_asked_for_is_dropped() -> None:
    ear = Ear(ZENO)
    ear.start()
    assert shard_commands(ear.hear(reference("reference/8"))) == [p.Drop(("reference/8",))]
    assert ear.hear(p.RefreshFailed("reference/8", "x")) == []


# --- checkpoints ------------------------------------------------------------------------------------------------------------------------


def through_json(state: object) -> dict:
    return json.loads(json.dumps(state))


def test_a_checkpoint_is_taken_between_two_steps() -> None:
    ear = Ear(num_positions=100, max_samples=100)
    ear.start()
    ear.hear(receipt(0, 0))
    assert only(ear.hear(p.CheckpointAsked()), p.SaveCheckpoint) == []
    assert ear.hear(receipt(1, 1)) == [], "the next step waits for the snapshot"
    said = ear.hear(p.Stepped(R0, V1))
    assert only(said, p.SaveModel) == [p.SaveModel(1, V1)]
    snapshot, step = shard_commands(said)
    assert snapshot == p.Snapshot(1)
    assert (step.version, step.holds) == (V2, ((1, ("checkpoint/1",)),)), "whoever writes the model may still read it"
    (saved,) = ear.hear(p.Stepped(R0, V2), p.SnapshotDone(R0, 1, {"file": "a"}), p.ModelSaved(1, {"file": "b"}))[-1:]
    assert (saved.checkpoint, saved.version, saved.samples, saved.model, saved.shards) == (1, V1, 4, {"file": "b"}, ({"file": "a"},))
    assert (saved.state["version"], saved.state["samples"]) == ([0, 1], 4)


def save(ear: Ear, number: int = 1) -> p.SaveCheckpoint:
    """A checkpoint that is asked for, all of whose parts come to be on storage."""
    (saved,) = only(ear.hear(p.CheckpointAsked(), p.SnapshotDone(R0, number), p.ModelSaved(number)), p.SaveCheckpoint)
    assert saved.checkpoint == number
    return saved


def test_the_manifest_waits_for_every_replica_that_lives() -> None:
    ear = Ear(num_shards=2, replicas=1)
    ear.start()
    ear.hear(p.CheckpointAsked(), p.ModelSaved(1))
    replicas = sorted(ear.brain.shards.live)
    assert ear.hear(*(p.SnapshotDone(replica, 1, {"of": replica.replica}) for replica in replicas[:-1])) == []
    (saved,) = only(ear.hear(p.ReplicaLost(replicas[-1], "killed")), p.SaveCheckpoint)
    assert saved.shards == ({"of": 0}, {"of": 0})


def fragmented(**config: object) -> tuple[Ear, p.Compute]:
    """One worker that has been given its first two stretches: fragment 0 is sent after two samples, fragment 1 after two more."""
    options = {"local_steps": 2, "fragments": 2, "overlap": 0, "optimizer": "sgd"}
    ear = Ear({"streaming_diloco": options}, batch_size=2, **config)
    first, second = only(ear.start(1), p.Compute)
    assert (first.local.send, first.local.follows, second.local.follows, second.local.samples) == (0, None, 0, 2)
    return ear, second


def test_a_fragment_s_version_is_mixed_into_the_stretch_at_hand_once_it_is_there() -> None:
    ear, second = fragmented()
    (step,) = shard_commands(ear.hear(receipt(0, 0, 2, fragment=0)))
    assert (step.fragment, step.version) == (0, V1)
    said = ear.hear(p.Stepped(R0, V1))
    assert only(said, p.Mix) == [p.Mix(0, second.work_id, V1, 0, 0.5)]
    assert [order.local.follows for order in only(said, p.Compute)] == [second.work_id]


@pytest.mark.parametrize("fragment", [None, 1])
def test_an_update_of_another_fragment_than_was_ordered_is_rejected(fragment: int | None) -> None:
    ear, second = fragmented()
    said = ear.hear(receipt(0, 0, 2, fragment=fragment))
    assert verdicts(said) == [(0, "rejected", f"is of fragment {fragment}, ordered was 0")]
    assert p.Abandon(0, second.work_id) in said, "what was to go on from it"


def test_workers_save_what_they_kept_before_their_undecided_orders() -> None:
    """Worker 0 has an update that waits for another one's, worker 1 an order in hand, worker 2 nothing."""
    ear = Ear({"fedbuff": {"buffer_size": 2}}, max_samples=8, worker_state=True)
    ear.start(3)
    ear.hear(receipt(0, 0))
    asked = only(ear.hear(p.CheckpointAsked()), p.SaveSlot)
    assert asked == [p.SaveSlot(0, 1, 0), p.SaveSlot(1, 1, 1), p.SaveSlot(2, 1, 2)]
    said = ear.hear(p.SnapshotDone(R0, 1), p.ModelSaved(1), p.SlotSaved(1, 1, {"file": "w1"}), p.SlotSaved(0, 1, {"file": "w0"}))
    assert only(said, p.SaveCheckpoint) == [], "worker 2 has not answered"
    (saved,) = only(ear.hear(p.SlotSaved(2, 1)), p.SaveCheckpoint)
    assert saved.workers == tuple({"slot": slot, "group": "workers", "saved": {"file": f"w{slot}"}} for slot in (0, 1))


def test_a_worker_that_dies_or_is_silent_keeps_no_checkpoint_from_being_whole() -> None:
    ear = Ear(worker_state=True, lease_floor_ns=5, first_lease_ns=5, num_positions=24, max_samples=24)
    ear.start(3)
    ear.hear(p.CheckpointAsked(), p.SnapshotDone(R0, 1), p.ModelSaved(1), p.SlotSaved(2, 1, {"file": "w2"}))
    assert only(ear.hear(p.Left(0, "killed", died=True), receipt(2, 2)), p.SaveCheckpoint) == []
    ear.now_ns = 6
    (saved,) = only(ear.hear(p.TimerFired("brain/overdue")), p.SaveCheckpoint)
    assert [part["slot"] for part in saved.workers] == [2]
    assert ear.hear(p.SlotSaved(1, 1, {"file": "too late"})) == []


def test_a_checkpoint_fails_with_the_part_of_a_worker() -> None:
    ear = Ear(worker_state=True)
    ear.start(1)
    said = ear.hear(p.CheckpointAsked(), p.SnapshotDone(R0, 1), p.ModelSaved(1), p.SlotSaved(0, 1, error="disk full"))
    assert only(said, p.SaveCheckpoint, p.ForgetCheckpoint) == [p.ForgetCheckpoint(1)]


def test_one_checkpoint_is_written_at_a_time_and_a_failed_one_is_told() -> None:
    ear = Ear()
    ear.start()
    assert only(ear.hear(p.CheckpointAsked()), p.SaveModel) == [p.SaveModel(1, V0)]
    assert only(ear.hear(p.CheckpointAsked(), p.SnapshotDone(R0, 1, error="disk full")), p.SaveModel, p.Notice) == []
    text = "checkpoint {} failed, training goes on and the next one tries again: {}"
    said = ear.hear(p.ModelSaved(1))
    assert only(said, p.Notice, p.SaveModel, p.SaveCheckpoint, p.ForgetCheckpoint) == [
        p.Notice("warning", text.format(1, "disk full")),
        p.ForgetCheckpoint(1),
        p.SaveModel(2, V0),
    ]
    assert only(ear.hear(p.SnapshotDone(R0, 1), p.ModelSaved(1), p.CheckpointWritten(1)), p.SaveCheckpoint, p.Notice) == []
    assert len(only(ear.hear(p.SnapshotDone(R0, 2), p.ModelSaved(2)), p.SaveCheckpoint)) == 1
    gone = [p.Notice("warning", text.format(2, "bucket is gone")), p.ForgetCheckpoint(2)]
    assert ear.hear(p.CheckpointWritten(2, "bucket is gone")) == gone
    save(ear, 3)
    assert ear.hear(p.CheckpointWritten(3)) == [p.Notice("checkpoint", "checkpoint 3 is complete at 0 samples")]


def test_the_end_of_the_run_waits_for_the_checkpoint_that_is_written() -> None:
    ear = Ear(max_samples=4, checkpoint_every=4)
    ear.start(1)
    said = ear.hear(receipt(0, 0), p.Stepped(R0, V1), p.ModelSaved(1), p.SnapshotDone(R0, 1))
    assert (len(only(said, p.SaveCheckpoint)), only(said, p.Finished)) == (1, [])
    assert only(ear.hear(p.CheckpointWritten(1)), p.Finished) == [p.Finished("samples")]


def test_with_an_evaluation_goes_a_checkpoint_of_the_same_version_and_the_end_waits_for_it() -> None:
    ear = Ear(max_samples=8, evaluate_every=4, save_evaluated=True)
    assert only(ear.start(1), p.Evaluate, p.SaveModel) == [p.Evaluate(V0)], "what the run began with is nothing to save"
    ear.hear(p.Evaluated(V0, {"test_loss": 2.0}))
    said = ear.hear(receipt(0, 0), p.Stepped(R0, V1))
    assert only(said, p.Evaluate, p.SaveModel) == [p.Evaluate(V1), p.SaveModel(1, V1)]
    ear.hear(p.Evaluated(V1, {"test_loss": 1.0}), p.SnapshotDone(R0, 1), p.ModelSaved(1), p.CheckpointWritten(1))
    said = ear.hear(receipt(1, 0), p.Stepped(R0, V2))
    assert only(said, p.Evaluate, p.SaveModel) == [p.Evaluate(V2), p.SaveModel(2, V2)]
    said = ear.hear(p.Evaluated(V2, {"test_loss": 0.5}), p.SnapshotDone(R0, 2), p.ModelSaved(2))
    assert (len(only(said, p.SaveCheckpoint)), only(said, p.Finished)) == (1, [])
    assert only(ear.hear(p.CheckpointWritten(2)), p.Finished) == [p.Finished("samples")]


def test_a_run_that_goes_on_from_a_checkpoint_lends_what_was_out_and_numbers_on() -> None:
    ear = Ear()
    ear.start()
    ear.hear(receipt(1, 1), p.Stepped(R0, V1), p.Configured({"lr": 0.5}))
    saved = save(ear)
    resumed = Ear(restore=through_json(saved.state), coordination_epoch=1)
    resumed.hear(p.Joined(5))
    assert resumed.brain.samples == 4
    assert resumed.brain.settings == {"lr": 0.5}
    assert resumed.counts() == {"accepted": 1}
    (compute,) = only(resumed.hear(p.Started(V1)), p.Compute)
    assert (compute.work_id, compute.base) == (3, V1)
    assert [(part.lease.start, part.lease.stop) for part in compute.parts] == [(0, 4)]
    said = resumed.hear(p.CheckpointAsked())
    assert only(said, p.SaveModel) == [p.SaveModel(2, V1)], "a checkpoint that is complete is not written over"
    assert only(said, p.Batch)[0].epoch == 1


def test_a_run_that_goes_on_has_the_settings_of_the_one_before_and_is_not_paused() -> None:
    ear = Ear()
    ear.start()
    ear.hear(p.Configured({"lr": 0.5, "paused": True}))
    resumed = Ear(restore=through_json(save(ear).state))
    said = resumed.hear(p.Joined(2), p.Started(V0))
    assert shard_commands(said) == [p.Configure({"lr": 0.5})]
    assert len(only(said, p.Compute)) == 1


def test_a_stopped_run_can_go_on_from_its_last_checkpoint() -> None:
    ear = Ear()
    ear.start()
    ear.hear(p.Left(0, "killed"), p.StopAsked("user"))
    resumed = Ear(restore=through_json(save(ear).state))
    computes = only(resumed.hear(p.Joined(2), p.Joined(3), p.Joined(4), p.Started(V0)), p.Compute)
    assert sorted((part.lease.start, part.lease.stop) for each in computes for part in each.parts) == [(0, 4), (4, 8), (8, 12)]


def test_the_state_is_plain_json_and_restores_to_itself() -> None:
    ear = Ear(ZENO, num_positions=20, max_samples=50)
    ear.start()
    ear.hear(receipt(0, 0, finite=False), p.Left(1, "x"))
    ear.hear(p.Left(0, "y"))
    state = through_json(ear.brain.state())
    again = Ear(ZENO, num_positions=20, max_samples=50, restore=state)
    again.brain.pipeline.published = p.Version(*state["version"])
    assert through_json(again.brain.state()) == state


# --- newcomers --------------------------------------------------------------------------------------------------------------------------


def test_what_a_dead_donor_alone_has_taken_goes_to_another_worker_at_once() -> None:
    """Its worker did not know the newcomer yet, and the donor may not have passed it on."""
    newcomer = p.ReplicaId(0, 2)
    ear = Ear(replicas=1)
    ear.start()
    ear.hear(p.ReplicaLost(BACKUP, "gone"), p.ReplicaCame(newcomer), p.ReplicaReady(newcomer), p.ReplicaSynced(newcomer))
    ear.hear(receipt(0, 0))
    said = ear.hear(p.ReplicaLost(R0, "gone too"))
    assert only(said, p.Abandon) == [p.Abandon(0, 0)]
    (again,) = only(said, p.Compute)
    assert again.parts[0].lease.start == 0
    assert p.MakeReplica(p.ReplicaId(0, 3)) in said


def test_what_was_pushed_to_a_newcomer_as_well_is_waited_for() -> None:
    newcomer = p.ReplicaId(0, 2)
    ear = Ear(replicas=1)
    ear.start()
    ear.hear(p.ReplicaLost(BACKUP, "gone"), p.ReplicaCame(newcomer), p.ReplicaReady(newcomer), p.ReplicaSynced(newcomer))
    ear.hear(p.ReplicaKnown(newcomer), receipt(0, 0))
    assert only(ear.hear(p.ReplicaLost(R0, "gone too")), p.Abandon) == []
    said = ear.hear(receipt(0, 0, replica=newcomer))
    assert [type(command) for command in shard_commands(said)] == [p.Step]
