"""Leases: literal loans, and random sequences of loans in which every position is used exactly once an epoch or is listed as rejected."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mottle.core.errors import ProtocolError
from mottle.core.leases import EpochCount, LeaseBook
from mottle.core.protocol import Lease


def make(size: int = 10, *, limit: int | None = None, overlap: bool = True, retry: bool = True) -> LeaseBook:
    return LeaseBook(size, max_samples=limit, overlap_epochs=overlap, retry_rejected=retry)


def ranges(leases: tuple[Lease, ...]) -> list[tuple[int, int, int]]:
    return [(lease.epoch, lease.start, lease.stop) for lease in leases]


@pytest.fixture
def book():
    book = make()
    yield book
    book.check()


def test_missed_and_repeated_samples_are_counted_from_the_record_and_outlive_a_checkpoint() -> None:
    book = make()
    (first,) = book.lend(0, 6, others=True)
    book.spend(first, 6, "applied", worker=0)
    assert book.epochs == (EpochCount(0, applied=6, unselected=0, rejected=0, missed=4, repeated=0),)
    book._open[0].covered = [(0, 4)]  # two positions were spent twice, or the record is wrong
    (second,) = book.lend(0, 4, others=True)
    book.spend(second, 4, "applied", worker=0)
    (count,) = book.epochs
    assert (count.applied, count.missed, count.repeated) == (10, 2, 2)
    book._open[0].covered = [(0, 10)]
    book._close_if_done(book._open[0])
    resumed = make()
    resumed.restore(json.loads(json.dumps(book.state())))
    assert resumed.epochs == book.epochs


# --- literal loans ----------------------------------------------------------------------------------------------------------------------


def test_positions_are_lent_in_order_and_the_tail_is_short(book: LeaseBook) -> None:
    assert book.lend(0, 4, others=True) == (Lease(0, 0, 0, 4),)
    assert book.lend(1, 4, others=True) == (Lease(1, 0, 4, 8),)
    assert book.lend(0, 4, others=True) == (Lease(2, 0, 8, 10),)
    assert book.out == 3


def test_what_comes_back_is_lent_again_first_lowest_position_first(book: LeaseBook) -> None:
    (a,), (b,), _ = (book.lend(0, 3, others=True) for _ in range(3))
    book.give_back(b)
    book.give_back(a)
    assert ranges(book.lend(1, 5, others=True)) == [(0, 0, 3), (0, 3, 5)]
    assert ranges(book.lend(1, 5, others=True)) == [(0, 5, 6), (0, 9, 10)]


def test_unused_positions_of_a_spent_lease_are_free_again(book: LeaseBook) -> None:
    (lease,) = book.lend(0, 6, others=True)
    book.spend(lease, 2, "applied", worker=0)
    assert ranges(book.lend(0, 10, others=True)) == [(0, 2, 6), (0, 6, 10)]


def test_the_tail_of_a_cut_order_was_never_computed_and_what_was_given_back_was(book: LeaseBook) -> None:
    (lease,) = book.lend(0, 6, others=True)
    book.spend(lease, 2, "applied", worker=0)
    (head,) = book.lend(0, 1, others=True)
    (rest,) = book.lend(0, 3, others=True)
    assert not book.lent_before(head)
    assert not book.lent_before(rest)
    book.give_back(head)
    (again,) = book.lend(0, 1, others=True)
    assert book.lent_before(again)
    book.spend(rest, 1, "applied", worker=0)
    assert not book.lent_before(book.lend(0, 2, others=True)[0])


def test_a_rejected_range_is_lent_once_more_to_another_worker_and_then_counts_as_rejected(book: LeaseBook) -> None:
    (lease,) = book.lend(0, 10, others=True)
    book.spend(lease, 10, "rejected", worker=0)
    assert book.free == 10
    assert book.spent == 0
    assert book.lend(0, 10, others=True)[0].epoch == 1
    (again,) = book.lend(1, 10, others=True)
    assert ranges((again,)) == [(0, 0, 10)]
    book.spend(again, 10, "rejected", worker=1)
    assert book.epochs[0] == EpochCount(0, applied=0, unselected=0, rejected=10, missed=0, repeated=0)
    assert book.spent == 10


def test_a_range_that_was_rejected_once_may_still_be_applied() -> None:
    book = make(overlap=False)
    (lease,) = book.lend(0, 10, others=True)
    book.spend(lease, 10, "rejected", worker=0)
    assert book.lend(0, 10, others=True) == ()
    (again,) = book.lend(1, 10, others=True)
    book.spend(again, 10, "applied", worker=1)
    assert book.epochs[0] == EpochCount(0, applied=10, unselected=0, rejected=0, missed=0, repeated=0)


def test_the_retry_of_a_rejected_range_is_not_used_up_by_a_worker_that_left() -> None:
    book = make(overlap=False)
    (lease,) = book.lend(0, 10, others=True)
    book.spend(lease, 10, "rejected", worker=0)
    (again,) = book.lend(1, 10, others=True)
    book.give_back(again)
    (third,) = book.lend(0, 10, others=True)
    book.spend(third, 10, "rejected", worker=0)
    assert book.epochs[0].rejected == 10


def test_a_rejected_range_that_nobody_else_could_take_counts_as_rejected_at_the_next_loan() -> None:
    book = make(limit=10, overlap=False)
    (lease,) = book.lend(0, 10, others=False)
    book.spend(lease, 10, "rejected", worker=0)
    assert not book.exhausted
    assert book.lend(0, 10, others=False) == ()
    assert book.epochs == (EpochCount(0, applied=0, unselected=0, rejected=10, missed=0, repeated=0),)
    assert book.exhausted


def test_without_retries_a_rejected_range_is_spent_at_once() -> None:
    book = make(retry=False)
    (lease,) = book.lend(0, 10, others=True)
    book.spend(lease, 10, "rejected", worker=0)
    assert book.epochs[0].rejected == 10


def test_without_overlap_the_next_epoch_waits_for_the_last_lease_of_this_one() -> None:
    book = make(overlap=False)
    (a,), (b,) = (book.lend(0, 5, others=True) for _ in range(2))
    assert book.free == 0
    assert book.lend(1, 5, others=True) == ()
    book.spend(a, 5, "applied", worker=0)
    assert book.lend(1, 5, others=True) == ()
    book.spend(b, 5, "applied", worker=0)
    assert ranges(book.lend(1, 5, others=True)) == [(1, 0, 5)]


def test_with_overlap_at_most_two_epochs_are_open(book: LeaseBook) -> None:
    book.lend(0, 10, others=True)
    assert ranges(book.lend(1, 10, others=True)) == [(1, 0, 10)]
    assert book.free == 0
    assert book.lend(1, 10, others=True) == ()


def test_the_limit_counts_over_all_epochs() -> None:
    book = make(limit=13)
    for expected in ((0, 0, 10), (1, 0, 3)):
        (lease,) = book.lend(0, 10, others=True)
        assert ranges((lease,)) == [expected]
        book.spend(lease, len(lease), "applied", worker=0)
    assert book.lend(0, 10, others=True) == ()
    assert book.exhausted
    assert book.spent == 13


def test_after_a_stop_nothing_is_free_even_what_comes_back_later() -> None:
    book = make()
    (lease,) = book.lend(0, 4, others=True)
    book.stop()
    book.give_back(lease)
    assert book.free == 0
    assert book.exhausted
    assert book.lend(1, 4, others=True) == ()
    book.check()


def test_a_run_that_goes_on_from_a_stopped_one_has_every_position() -> None:
    book = make()
    (a,), (b,) = (book.lend(0, 4, others=True) for _ in range(2))
    book.spend(b, 4, "applied", worker=0)
    book.give_back(a)
    book.stop()
    resumed = make()
    resumed.restore(json.loads(json.dumps(book.state())))
    resumed.check()
    assert ranges(resumed.lend(0, 10, others=True)) == [(0, 0, 4), (0, 8, 10)]


def test_a_lease_ends_once() -> None:
    book = make()
    (lease,) = book.lend(0, 4, others=True)
    book.give_back(lease)
    for again in (lambda: book.give_back(lease), lambda: book.spend(lease, 4, "applied", worker=0)):
        with pytest.raises(ProtocolError, match="ended before, or never lent"):
            again()
    book.check()


def test_impossible_ends_are_refused() -> None:
    book = make()
    (lease,) = book.lend(0, 4, others=True)
    for used, how in ((5, "applied"), (-1, "applied"), (4, "discarded")):
        with pytest.raises(ProtocolError, match="cannot spend"):
            book.spend(lease, used, how, worker=0)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        make(0)


# --- random sequences -------------------------------------------------------------------------------------------------------------------

ACTIONS = st.tuples(
    st.sampled_from(("lend", "lend", "lend", "return", "applied", "unselected", "rejected", "partly", "save", "leave")),
    st.integers(0, 2),
    st.integers(1, 9),
)


class Clerk:
    """Carries out random actions and keeps its own count of what became of every position."""

    def __init__(self, **options: object) -> None:
        self.options = options
        self.book = make(**options)  # type: ignore[arg-type]  # the options of `make`
        self.out: list[tuple[int, Lease]] = []
        self.ended: dict[str, Counter[tuple[int, int]]] = {"applied": Counter(), "unselected": Counter(), "rejected": Counter()}
        self.crew = {0, 1, 2}

    def lend(self, worker: int, count: int) -> bool:
        leases = self.book.lend(worker, count, others=len(self.crew) > 1)
        assert sum(map(len, leases)) <= count
        assert len({lease.epoch for lease in leases}) <= 1
        self.out += [(worker, lease) for lease in leases]
        return bool(leases)

    def spend(self, index: int, used: int, how: str) -> None:
        worker, lease = self.out.pop(index)
        used = min(used, len(lease))
        before = self.book.epochs
        self.book.spend(lease, used, how, worker=worker)
        if how == "rejected" and self.book.epochs == before:
            return  # it is lent once more
        self.ended[how].update((lease.epoch, position) for position in range(lease.start, lease.start + used))

    def act(self, action: str, worker: int, count: int) -> None:
        if action == "lend":
            if worker in self.crew:
                self.lend(worker, count)
        elif action == "save":  # whatever is out is free again in the run that goes on from here
            saved = json.loads(json.dumps(self.book.state()))
            self.book = make(**self.options)  # type: ignore[arg-type]  # the options of `make`
            self.book.restore(saved)
            again = json.loads(json.dumps(self.book.state()))
            assert again == saved
            self.out = []
        elif action == "leave":
            if len(self.crew) > 1:
                self.crew.discard(worker)
                for _, lease in [each for each in self.out if each[0] == worker]:
                    self.book.give_back(lease)
                self.out = [each for each in self.out if each[0] != worker]
        elif self.out:
            index = count % len(self.out)
            if action == "return":
                self.book.give_back(self.out.pop(index)[1])
            elif action == "partly":
                self.spend(index, count // 2, "applied")
            else:
                self.spend(index, len(self.out[index][1]), action)
        self.book.check()

    def finish(self) -> None:
        """Apply everything that is left."""
        while True:
            while self.out:
                self.spend(0, len(self.out[0][1]), "applied")
            if not any(self.lend(worker, 100) for worker in sorted(self.crew)):
                break
        self.book.check()


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(1, 12),
    limit=st.integers(0, 40),
    overlap=st.booleans(),
    retry=st.booleans(),
    actions=st.lists(ACTIONS, max_size=40),
)
def test_every_position_ends_once_an_epoch_or_is_listed_as_rejected(size, limit, overlap, retry, actions) -> None:
    clerk = Clerk(size=size, limit=limit, overlap=overlap, retry=retry)
    for action in actions:
        clerk.act(*action)
    clerk.finish()
    used = clerk.ended["applied"] + clerk.ended["unselected"]
    assert all(times == 1 for times in used.values()), "a position was used twice"
    assert clerk.book.exhausted
    assert clerk.book.spent == limit
    for count in clerk.book.epochs:
        room = max(0, min(size, limit - count.index * size))
        assert count.applied + count.unselected + count.rejected == room
        for how in ("applied", "unselected"):
            assert getattr(count, how) == sum(times for (epoch, _), times in clerk.ended[how].items() if epoch == count.index)
        assert sum(epoch == count.index for epoch, _ in used) + count.rejected == room


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 12), actions=st.lists(ACTIONS, max_size=40))
def test_what_free_says_can_be_lent(size: int, actions: list[tuple[str, int, int]]) -> None:
    clerk = Clerk(size=size, limit=40)
    for action in actions:
        clerk.act(*action)
        free, before = clerk.book.free, len(clerk.out)
        lent = any(clerk.lend(worker, max(free, 1)) for worker in sorted(clerk.crew))
        assert lent == bool(free) or clerk.book.free == 0
        while len(clerk.out) > before:
            clerk.book.give_back(clerk.out.pop()[1])
        clerk.book.check()
