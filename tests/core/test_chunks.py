"""Chunks: samples that several orders compute at once end once, whatever becomes of the copies."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.brain import Brain
from mottle.core.chunks import Chunks
from mottle.core.config import BrainConfig
from mottle.core.errors import ProtocolError
from mottle.core.leases import EpochCount, LeaseBook
from mottle.core.ledger import Order

V0 = p.Version(0, 0)


def make(size: int = 12) -> tuple[Chunks, LeaseBook]:
    book = LeaseBook(size, max_samples=None, overlap_epochs=False, retry_rejected=True)
    return Chunks(book), book


def issue(chunks: Chunks, work_id: int, *wanted: tuple[int, float]) -> Order:
    parts, base, _ = chunks.parts(wanted)
    numbers = tuple(chunk for chunk, _ in wanted)
    chunks.issued(work_id, numbers)
    order = Order(p.Compute(work_id, work_id, base, parts, p.Samples(0)), 0, chunks=numbers)
    order.used = order.samples
    return order


# --- literal --------------------------------------------------------------------------------------------------------------------------


def test_an_order_of_chunks_computes_their_leases_with_their_coefficients_at_their_version() -> None:
    chunks, book = make()
    chunks.lend(0, 4, V0)
    chunks.lend(1, 3, V0)
    order = issue(chunks, 7, (0, 1.0), (1, -0.5))
    assert order.compute.parts == (p.Part(p.Lease(0, 0, 0, 4), 1.0), p.Part(p.Lease(1, 0, 4, 7), -0.5))
    assert order.compute.base == V0
    assert chunks.holds == {"chunks/0": 0}
    assert chunks.leases == {0, 1}
    assert book.out == 2
    chunks.check([order])


def test_chunks_for_one_of_several_models_are_computed_at_that_one_and_hold_no_version() -> None:
    chunks, _ = make()
    chunks.lend(0, 4, V0, fragment=1)
    chunks.lend(1, 4, V0, fragment=0)
    assert chunks.parts(((0, 1.0),))[1:] == (V0, 1)
    assert chunks.holds == {}, "nothing moves that model before its own step"
    with pytest.raises(ProtocolError, match="one version and one model"):
        chunks.parts(((0, 1.0), (1, 1.0)))


def test_a_chunk_of_several_copies_is_spent_once_and_counts_for_the_first_of_them() -> None:
    chunks, book = make()
    for chunk in range(3):
        chunks.lend(chunk, 4, V0)
    orders = [issue(chunks, i, (i, 1.0), ((i + 1) % 3, 1.0)) for i in range(3)]
    assert [chunks.judged(order, "accepted") for order in orders[:2]] == [8, 4]
    assert chunks.judged(orders[2], "discarded") == 8, "what a copy that is not needed computed, it computed all the same"
    for chunk in range(3):
        chunks.apply(chunk)
    assert book.epochs == (EpochCount(0, applied=12, unselected=0, rejected=0, missed=0, repeated=0),)


def test_given_back_its_samples_are_free_again_if_any_copy_was_sound_or_none_came() -> None:
    chunks, book = make()
    chunks.lend(0, 6, V0)
    chunks.lend(1, 6, V0)
    refused, sound = issue(chunks, 1, (0, 1.0)), issue(chunks, 2, (0, 1.0))
    lost = issue(chunks, 3, (1, 1.0))
    chunks.judged(refused, "rejected")
    chunks.judged(sound, "discarded")
    chunks.lost(lost)
    assert [chunks.give_back(0), chunks.give_back(1)] == [False, False]
    assert (book.free, book.spent, book.out) == (12, 0, 0)


def test_samples_that_every_copy_was_refused_for_are_tried_once_more_and_then_count_as_rejected() -> None:
    chunks, book = make()
    for attempt in range(2):
        chunks.lend(attempt, 5, V0)
        first, second, lost = (issue(chunks, 10 * attempt + i, (attempt, 1.0)) for i in range(3))
        for order in (first, second):
            chunks.judged(order, "rejected")
        chunks.lost(lost)
        assert chunks.give_back(attempt)
    assert book.epochs[0].rejected == 5
    chunks.lend(2, 7, V0)
    assert book.free == 0


def test_what_cannot_be_lent_is_refused_and_nothing_is_kept() -> None:
    chunks, book = make()
    chunks.lend(0, 10, V0)
    for number, samples, told in ((1, 3, "2 are free"), (0, 1, r"open are \[0\]"), (1, 0, "of 0 samples")):
        with pytest.raises(ProtocolError, match=told):
            chunks.lend(number, samples, V0)
    assert book.free == 2
    book.check()
    chunks.check([])


def test_an_order_is_of_open_chunks_of_one_version() -> None:
    chunks, _ = make()
    chunks.lend(0, 4, V0)
    chunks.lend(1, 4, V0.next())
    for wanted, told in (((), "no chunk"), (((0, 1.0), (1, 1.0)), "chunks of one version"), (((2, 1.0),), "chunk 2 is not open")):
        with pytest.raises(ProtocolError, match=told):
            chunks.parts(wanted)


def test_a_chunk_does_not_end_while_somebody_computes_it_nor_applied_where_nothing_was_accepted() -> None:
    chunks, _ = make()
    chunks.lend(0, 4, V0)
    order = issue(chunks, 1, (0, 1.0))
    for end in (chunks.apply, chunks.give_back):
        with pytest.raises(ProtocolError, match=r"cannot end while orders \[1\] compute it"):
            end(0)
    chunks.lost(order)
    with pytest.raises(ProtocolError, match="no accepted update"):
        chunks.apply(0)


def test_the_check_sees_an_order_of_a_chunk_that_has_ended() -> None:
    chunks, _ = make()
    chunks.lend(0, 4, V0)
    order = issue(chunks, 1, (0, 1.0))
    with pytest.raises(AssertionError, match="does not know its copies"):
        chunks.check([])
    chunks.lost(order)
    chunks.give_back(0)
    with pytest.raises(AssertionError, match="which has ended"):
        chunks.check([order])


# --- inside a brain -------------------------------------------------------------------------------------------------------------------


class ByHand:
    """A strategy that decides what a test tells it to."""

    max_in_flight = 3
    barriered = True
    needs_validation = False
    server_optimizer = None
    companion = None

    def __init__(self) -> None:
        self.decisions: list[s.Decision] = []
        self.heard: list[s.StrategyEvent] = []

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        self.heard.append(event)
        decisions, self.decisions = self.decisions, []
        return decisions

    def state(self) -> dict[str, object]:
        return {}

    def restore(self, state: object) -> None:
        pass

    def check(self) -> None:
        pass


class Ground:
    """A brain with one shard and a few workers, by hand; its invariants are checked after every event."""

    def __init__(self, *, num_workers: int = 3, size: int = 12, samples: int = 48) -> None:
        self.strategy = ByHand()
        self.brain = Brain(BrainConfig(num_positions=size, max_samples=samples), self.strategy)
        for worker in range(num_workers):
            self.tell(p.Joined(worker))
        self.tell(p.Started(V0))

    def tell(self, event: p.Event) -> list[p.Command]:
        commands = self.brain.handle(event, now_ns=0)
        self.brain.check()
        return commands

    def decide(self, *decisions: s.Decision) -> list[p.Command]:
        self.strategy.decisions = list(decisions)
        return self.tell(p.TimerFired("strategy/now"))

    def push(self, work_id: int, worker: int, samples: int, *, finite: bool = True) -> list[p.Command]:
        return self.tell(p.Receipt(p.ReplicaId(0, 0), p.update_name(work_id), worker, samples, finite, 1))

    def steps(self) -> list[p.Command]:
        """Every version that was told is made."""
        commands = []
        while self.brain.version != self.brain.head:
            commands += self.tell(p.Stepped(p.ReplicaId(0, 0), self.brain.version.next()))
        return commands


def of(kind: type, commands: list[p.Command]) -> list:
    return [command for command in commands if isinstance(command, kind)]


def test_a_decoded_step_spends_its_batch_and_gives_up_the_copies_that_it_does_not_need() -> None:
    ground = Ground()
    lend = [s.LendChunk(chunk, 4) for chunk in range(3)]
    rows = [s.AssignChunks(worker, ((worker, 1.0), ((worker + 1) % 3, 0.5))) for worker in range(3)]
    orders = of(p.Compute, ground.decide(*lend, *rows))
    assert [(order.worker, [(part.lease.start, part.coefficient) for part in order.parts]) for order in orders] == [
        (0, [(0, 1.0), (4, 0.5)]),
        (1, [(4, 1.0), (8, 0.5)]),
        (2, [(8, 1.0), (0, 0.5)]),
    ]
    ground.push(0, 0, 8)
    ground.push(1, 1, 8)
    commands = ground.decide(s.Apply(((0, 0.25), (1, -0.125)), chunks=(0, 1, 2)))
    assert of(p.Abandon, commands) == [p.Abandon(2, 2)]
    ((batch),) = of(p.Batch, commands)
    assert of(p.Combine, list(batch.commands)) == [p.Combine("direction", (("update/0", 0.25), ("update/1", -0.125)))]
    assert ground.brain.samples == 0, "not before the version is there"
    verdicts = of(p.Verdict, ground.steps())
    assert [(v.work_id, v.verdict, v.samples) for v in verdicts] == [(0, "accepted", 8), (1, "accepted", 4)]
    assert ground.brain.samples == 12
    (late,) = of(p.Verdict, ground.push(2, 2, 8))
    assert (late.verdict, ground.brain.samples) == ("discarded", 12)


def test_a_surplus_update_that_came_is_discarded_and_spends_nothing() -> None:
    ground = Ground()
    ground.decide(s.LendChunk(0, 12), *(s.AssignChunks(worker, ((0, 1.0),)) for worker in range(3)))
    ground.push(0, 0, 12)
    ground.push(1, 1, 12)
    verdicts = of(p.Verdict, ground.decide(s.Apply(((1, 1 / 12),), chunks=(0,))))
    assert [(v.work_id, v.verdict, v.reason) for v in verdicts] == [(0, "discarded", "surplus: the step was made without it")]
    ground.steps()
    assert ground.brain.book.epochs[0].applied == 12
    assert ground.brain.ledger.counts.as_dict() | {"in_flight": 0} == ground.brain.ledger.counts.as_dict()


def test_the_version_of_a_chunk_is_held_until_the_chunk_ends() -> None:
    ground = Ground(samples=48)
    ground.decide(s.LendChunk(0, 4), s.LendChunk(1, 4), s.AssignChunks(0, ((0, 1.0),)))
    ground.push(0, 0, 4)
    (batch,) = of(p.Batch, ground.decide(s.Apply(((0, 0.25),), chunks=(0,))))
    (step,) = of(p.Step, list(batch.commands))
    assert (0, ("chunks/0",)) in step.holds
    ground.steps()
    (order,) = of(p.Compute, ground.decide(s.AssignChunks(2, ((1, 1.0),))))
    assert order.base == V0, "further copies are computed at the version that the samples were lent for"
    ground.push(1, 2, 4)
    ground.decide(s.LendChunk(2, 4), s.AssignChunks(0, ((2, 1.0),)))
    (batch,) = of(p.Batch, ground.decide(s.Apply(((1, 0.25),), chunks=(1,))))
    ground.steps()
    ground.push(2, 0, 4)
    (batch,) = of(p.Batch, ground.decide(s.Apply(((2, 0.25),), chunks=(2,))))
    (step,) = of(p.Step, list(batch.commands))
    assert "chunks/0" in step.released


def test_a_round_that_is_given_up_frees_its_samples_and_says_so() -> None:
    ground = Ground()
    ground.decide(s.LendChunk(0, 12), s.AssignChunks(0, ((0, 1.0),)), s.AssignChunks(1, ((0, 1.0),)))
    ground.push(1, 1, 12, finite=False)
    commands = ground.decide(s.ReleaseChunks((0,), "given up"))
    assert of(p.Abandon, commands) == [p.Abandon(0, 0)]
    assert s.ChunksReleased((0,), refused=True) in ground.strategy.heard
    assert (ground.brain.book.out, ground.brain.free_samples) == (0, 12)


def test_orders_of_chunks_go_only_to_those_who_have_room_who_may_be_on_probation() -> None:
    ground = Ground()
    ground.brain.members.mark(ground.brain.members.here(1), "probation")
    ground.decide(s.LendChunk(1, 6), s.AssignChunks(1, ((1, 1.0),)), s.AssignChunks(1, ((1, 2.0),)))
    with pytest.raises(ProtocolError, match="worker 9 cannot take an order"):
        ground.decide(s.LendChunk(0, 6), s.AssignChunks(9, ((0, 1.0),)))


# --- random -------------------------------------------------------------------------------------------------------------------------

ACTIONS = ("begin", "push", "push", "push", "nan", "again", "die", "join", "return", "late", "decode", "decode", "release")


class Rounds:
    """Random rounds of repeated chunks in a brain whose invariants are checked after every event; keeps a count of its own."""

    def __init__(self) -> None:
        self.ground = Ground(size=12, samples=36)
        self.brain = self.ground.brain
        self.num_chunks = 0
        self.num_workers = 3
        self.copies: dict[int, list[p.Compute]] = {}
        """Of each chunk that is out."""
        self.given_up: list[p.Compute] = []
        self.used: Counter[tuple[int, int]] = Counter()

    def act(self, action: str, choice: int) -> None:
        match action:
            case "begin" if not self.copies:
                self.begin()
            case "push" | "nan" if orders := self.orders("issued"):
                self.push(orders[choice % len(orders)], finite=action == "push")
            case "again" if orders := self.orders("stored"):
                self.push(orders[choice % len(orders)])
            case "die" if len(self.brain.crew) > 1:
                self.ground.tell(p.Left(self.brain.crew[choice % len(self.brain.crew)], "died", died=True))
            case "join":
                self.ground.tell(p.Joined(self.num_workers))
                self.num_workers += 1
            case "return" if orders := self.orders("issued"):
                order = orders[choice % len(orders)]
                self.ground.tell(p.WorkReturned(order.worker, order.work_id, "failed"))
                self.given_up.append(order)
            case "late" if self.given_up:
                self.push(self.given_up.pop())
            case "decode" if self.copies:
                self.decode(choice)
            case "release" if self.copies:
                self.release()
        spent = sum(epoch.applied + epoch.rejected for epoch in self.brain.book.epochs)
        assert self.brain.samples == spent == len(self.used) + sum(epoch.rejected for epoch in self.brain.book.epochs)

    def orders(self, state: str) -> list[p.Compute]:
        open_orders = [order.compute for order in self.brain.ledger.undecided if order.state == state]
        return sorted(open_orders, key=lambda order: order.work_id)

    def begin(self) -> None:
        free, crew = self.brain.free_samples, self.brain.crew
        sizes = [size for size in (min(4, free), min(3, max(0, free - 4))) if size]
        numbers = range(self.num_chunks, self.num_chunks + len(sizes))
        if not sizes:
            return
        self.num_chunks += len(sizes)
        lend = [s.LendChunk(number, size) for number, size in zip(numbers, sizes, strict=True)]
        rows = [s.AssignChunks(worker, ((numbers[i % len(sizes)], 1.0),)) for i, worker in enumerate(crew)]
        orders = of(p.Compute, self.ground.decide(*lend, *rows))
        self.copies = {number: orders[i :: len(sizes)] for i, number in enumerate(numbers)}

    def push(self, order: p.Compute, *, finite: bool = True) -> None:
        self.ground.push(order.work_id, order.worker, sum(len(part.lease) for part in order.parts), finite=finite)

    def decode(self, choice: int) -> None:
        """Step with one copy of each chunk, where each has one."""
        stored = self.orders("stored")
        chosen = [[order for order in copies if order in stored] for copies in self.copies.values()]
        if not all(chosen):
            return
        self.given_up += self.orders("issued")
        terms = tuple((orders[choice % len(orders)].work_id, 0.1) for orders in chosen)
        verdicts = of(p.Verdict, self.ground.decide(s.Apply(terms, chunks=tuple(self.copies))) + self.ground.steps())
        batch = [(part.lease.epoch, at) for o in chosen for part in o[0].parts for at in range(part.lease.start, part.lease.stop)]
        self.used.update(batch)
        assert sum(verdict.samples for verdict in verdicts if verdict.verdict == "accepted") == len(batch)
        self.copies = {}

    def release(self) -> None:
        self.given_up += self.orders("issued")
        self.ground.decide(s.ReleaseChunks(tuple(self.copies), "given up"))
        self.copies = {}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 5)), max_size=60))
def test_under_any_schedule_a_sample_is_applied_once_or_listed_as_rejected(actions: list[tuple[str, int]]) -> None:
    rounds = Rounds()
    for action, choice in actions:
        rounds.act(action, choice)
    for _ in range(40):  # whatever is left ends well
        if rounds.brain.finished is not None:
            break
        for action in ("begin", *["push"] * len(rounds.brain.crew), "decode", "release"):
            rounds.act(action, 0)
        if len(rounds.brain.crew) < 2:
            rounds.act("join", 0)
    assert rounds.brain.finished == "samples"
    assert set(rounds.used.values()) <= {1}
    assert rounds.brain.samples == 36
    counts = rounds.brain.ledger.counts
    assert (counts.in_flight, counts.lost, counts.duplicated) == (0, 0, 0)
