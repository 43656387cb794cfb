"""A worker: literal facts in, literal orders out."""

from dataclasses import replace
from itertools import pairwise

import pytest

from mottle.core import worker as w
from mottle.core.protocol import Compute, Lease, LocalSteps, Mix, Part, Samples, Version, VersionAfter, WorkReturned

SLOT = 4
V0, V1 = Version(0, 0), Version(0, 1)


class Ear:
    """A worker machine whose invariants are checked after every event."""

    def __init__(self) -> None:
        self.machine = w.Worker(SLOT)

    def hear(self, *events: w.WorkerEvent) -> list[w.WorkerOrder]:
        """Orders that follow from the last of the events."""
        orders: list[w.WorkerOrder] = []
        for event in events:
            orders = self.machine.handle(event)
            self.machine.check()
        return orders


@pytest.fixture
def ear() -> Ear:
    return Ear()


def order(work_id: int, base: Version = V0) -> Compute:
    """Eight samples in two leases."""
    parts = (Part(Lease(2 * work_id, 3, 0, 5)), Part(Lease(2 * work_id + 1, 3, 20, 23), coefficient=0.5))
    return Compute(work_id, SLOT, base, parts, Samples(8))


def run(work_id: int, part: int) -> w.RunPart:
    return (w.RunPart(work_id, 0, 3, 0, 5, 1.0), w.RunPart(work_id, 1, 3, 20, 23, 0.5))[part]


def returned(work_id: int, reason: str) -> w.Answer:
    return w.Answer(WorkReturned(SLOT, work_id, reason))


FETCH = [w.Fetch(3, 0, 5), w.Fetch(3, 20, 23)]


def unfetch(start: int, *, second: int = 20) -> list[w.Unfetch]:
    """What is not needed after all when the first lease was computed up to `start`, or the second up to `second`."""
    return [w.Unfetch(3, a, b) for a, b in ((start, 5), (second, 23)) if a < b]


# --- an order from its arrival to its end -----------------------------------------------------------------------------------------------


def test_an_order_is_fetched_loaded_computed_part_by_part_and_pushed(ear: Ear) -> None:
    assert ear.hear(w.Ordered(order(1))) == [*FETCH, w.LoadBase(1, V0)]
    assert ear.hear(w.Loaded(1)) == [run(1, 0)]
    assert ear.hear(w.Computed(1, 0, 5)) == [run(1, 1)]
    assert ear.hear(w.Computed(1, 1, 23)) == [w.Push(1, 8)]
    assert ear.machine.orders_in_hand == 1
    assert ear.hear(w.PushConfirmed(1)) == []
    assert ear.machine.orders_in_hand == 0


def finish(ear: Ear, work_id: int) -> list[w.WorkerOrder]:
    return ear.hear(w.Loaded(work_id), w.Computed(work_id, 0, 5), w.Computed(work_id, 1, 23), w.PushConfirmed(work_id))


def test_a_second_order_is_fetched_at_once_and_begins_when_the_first_is_pushed(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)))
    assert ear.hear(w.Ordered(order(2, V1))) == FETCH
    assert finish(ear, 1) == [w.LoadBase(2, V1)]


def test_parameters_that_are_in_place_are_not_read_again(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)))
    finish(ear, 1)
    assert ear.hear(w.Ordered(order(2)))[-1] == w.ClearAccumulator(2)
    finish(ear, 2)
    assert ear.hear(w.Ordered(order(3, V1)))[-1] == w.LoadBase(3, V1)


def test_parameters_are_read_again_after_a_failure(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)), w.Loaded(1), w.WorkFailed(1, "out of memory"))
    assert ear.hear(w.Ordered(order(2)))[-1] == w.LoadBase(2, V0)


def test_an_order_said_twice_is_computed_once_even_when_it_is_done_with(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)))
    assert ear.hear(w.Ordered(order(1))) == []
    finish(ear, 1)
    assert ear.hear(w.Ordered(order(1))) == []
    assert ear.hear(w.Ordered(order(0)))[-1] == w.ClearAccumulator(0), "an order that was overtaken is none of the past"


def test_facts_about_other_orders_and_phases_are_ignored(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)), w.Ordered(order(2)))
    for event in (w.Loaded(2), w.Computed(1, 0, 5), w.PushConfirmed(1), w.Loaded(9), w.WorkFailed(2, "x"), w.CutAsked(9)):
        assert ear.hear(event) == []
    assert ear.hear(w.Loaded(1)) == [run(1, 0)]
    assert ear.hear(w.Loaded(1)) == []


# --- cut --------------------------------------------------------------------------------------------------------------------------------


def test_a_cut_pushes_what_is_there(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)), w.Loaded(1), w.Computed(1, 0, 5))
    assert not ear.machine.interrupted(1)
    assert ear.hear(w.CutAsked(1)) == []
    assert ear.machine.interrupted(1)
    assert ear.hear(w.Computed(1, 1, 21)) == [*unfetch(5, second=21), w.Push(1, 6)]


def test_a_cut_in_the_middle_of_a_part_does_not_begin_the_next(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)), w.Loaded(1), w.CutAsked(1))
    assert ear.hear(w.Computed(1, 0, 4)) == [*unfetch(4), w.Push(1, 4)]


def test_a_cut_before_anything_is_computed_gives_the_order_back(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)), w.CutAsked(1))
    assert ear.hear(w.Loaded(1)) == [*unfetch(0), returned(1, "cut before the first micro-batch")]
    ear.hear(w.Ordered(order(2)), w.Ordered(order(3)))
    assert ear.hear(w.CutAsked(3)) == [*unfetch(0), returned(3, "cut before it began")]
    assert ear.machine.orders_in_hand == 1


def test_a_cut_of_what_was_done_before_is_answered_so(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)))
    finish(ear, 1)
    assert ear.hear(w.CutAsked(1)) == [w.Answer(WorkReturned(SLOT, 1, "it was done before", done=True))]
    assert ear.hear(w.AbandonAsked(1)) == []
    assert ear.hear(w.CutAsked(9)) == [], "which never came"


def test_a_cut_while_pushing_comes_too_late_to_matter(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)), w.Loaded(1), w.Computed(1, 0, 5), w.Computed(1, 1, 23))
    assert ear.hear(w.CutAsked(1)) == []
    assert ear.hear(w.PushConfirmed(1)) == []
    assert ear.machine.orders_in_hand == 0


# --- an order that grows ----------------------------------------------------------------------------------------------------------------


def growing(work_id: int, least: int) -> Compute:
    """The same two leases, until version 1 exists, but at least `least` samples."""
    return Compute(work_id, SLOT, V0, order(work_id).parts, VersionAfter(V1, least))


def test_its_first_samples_are_a_piece_of_their_own_that_no_cut_stops(ear: Ear) -> None:
    begun = ear.hear(w.Ordered(growing(1, least=2)))
    assert begun == [w.Fetch(3, 0, 2), w.Fetch(3, 2, 5), w.Fetch(3, 20, 23), w.LoadBase(1, V0)]
    assert ear.hear(w.Loaded(1)) == [w.RunPart(1, 0, 3, 0, 2, 1.0)]
    ear.hear(w.CutAsked(1))
    assert not ear.machine.interrupted(1)
    assert ear.hear(w.Computed(1, 0, 2)) == [*unfetch(2), w.Push(1, 2)]


def test_after_its_least_size_it_grows_until_it_is_cut(ear: Ear) -> None:
    ear.hear(w.Ordered(growing(1, least=2)), w.Loaded(1))
    assert ear.hear(w.Computed(1, 0, 2)) == [w.RunPart(1, 0, 3, 2, 5, 1.0)]
    assert ear.hear(w.Computed(1, 0, 5)) == [run(1, 1)]
    ear.hear(w.CutAsked(1))
    assert ear.machine.interrupted(1)
    assert ear.hear(w.Computed(1, 1, 22)) == [*unfetch(5, second=22), w.Push(1, 7)]


@pytest.mark.parametrize(("least", "pieces"), [(0, [(0, 5), (20, 23)]), (5, [(0, 5), (20, 23)]), (6, [(0, 5), (20, 21), (21, 23)])])
def test_the_least_size_may_lie_anywhere(ear: Ear, least: int, pieces: list[tuple[int, int]]) -> None:
    assert ear.hear(w.Ordered(growing(1, least)))[:-1] == [w.Fetch(3, start, stop) for start, stop in pieces]


def test_a_cut_before_it_begins_still_lets_it_compute_its_least_size(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)), w.Ordered(growing(2, least=6)))
    assert ear.hear(w.CutAsked(2)) == []
    assert finish(ear, 1) == [w.ClearAccumulator(2)]
    assert ear.hear(w.Loaded(2)) == [run(2, 0)]
    assert ear.hear(w.Computed(2, 0, 5)) == [w.RunPart(2, 1, 3, 20, 21, 0.5)]
    assert ear.hear(w.Computed(2, 1, 21)) == [*unfetch(5, second=21), w.Push(2, 6)]


def test_abandoning_stops_it_at_any_size(ear: Ear) -> None:
    ear.hear(w.Ordered(growing(1, least=2)), w.Loaded(1), w.CutAsked(1), w.AbandonAsked(1))
    assert ear.machine.interrupted(1)
    assert ear.hear(w.Computed(1, 0, 1)) == [w.Unfetch(3, 1, 2), *unfetch(2)]


# --- abandon ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["loading", "computing"])
def test_an_abandoned_order_pushes_nothing_and_the_next_begins(ear: Ear, phase: str) -> None:
    ear.hear(w.Ordered(order(1)), w.Ordered(order(2, V1)))
    if phase == "computing":
        ear.hear(w.Loaded(1))
    assert ear.hear(w.AbandonAsked(1)) == []
    assert ear.machine.interrupted(1)
    done = 0 if phase == "loading" else 2
    assert ear.hear(w.Computed(1, 0, done) if done else w.Loaded(1)) == [*unfetch(done), w.LoadBase(2, V1)]


def test_an_abandoned_order_that_waits_is_forgotten(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)), w.Ordered(order(2)))
    assert ear.hear(w.AbandonAsked(2)) == unfetch(0)
    assert ear.hear(w.Ordered(order(2))) == []
    assert finish(ear, 1) == []


def test_abandoning_wins_over_a_cut_and_not_the_other_way_round(ear: Ear) -> None:
    for work_id, asked in ((1, (w.CutAsked, w.AbandonAsked)), (2, (w.AbandonAsked, w.CutAsked))):
        ear.hear(w.Ordered(order(work_id)), w.Loaded(work_id), *(ask(work_id) for ask in asked))
        assert ear.hear(w.Computed(work_id, 0, 4)) == unfetch(4)
    assert ear.machine.orders_in_hand == 0


# --- failure and leaving ----------------------------------------------------------------------------------------------------------------


def test_a_worker_saves_its_part_of_a_checkpoint_once_whatever_it_is_doing(ear: Ear) -> None:
    assert ear.hear(w.SaveAsked(1, 0)) == [w.SaveState(1, 0)]
    ear.hear(w.Ordered(order(1)), w.Loaded(1))
    assert ear.hear(w.SaveAsked(2, 1)) == [w.SaveState(2, 1)]
    assert ear.hear(w.SaveAsked(2, 1)) == []
    assert ear.hear(w.Computed(1, 0, 5)) == [run(1, 1)]


def test_a_failure_gives_the_order_back_and_the_next_begins(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)), w.Ordered(order(2)))
    assert ear.hear(w.WorkFailed(1, "version 0 is gone")) == [*unfetch(0), returned(1, "version 0 is gone"), w.LoadBase(2, V0)]


def test_the_failure_of_an_abandoned_order_is_nobodys_business(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)), w.Loaded(1), w.AbandonAsked(1))
    assert ear.hear(w.WorkFailed(1, "x")) == unfetch(0)
    assert ear.machine.orders_in_hand == 0


def test_an_idle_worker_that_is_dismissed_exits_at_once_and_takes_nothing_new(ear: Ear) -> None:
    assert ear.hear(w.DismissAsked()) == [w.Exit()]
    assert ear.hear(w.Ordered(order(1))) == []


def test_a_dismissed_worker_finishes_nothing(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)), w.Ordered(order(2)), w.Loaded(1))
    assert ear.hear(w.DismissAsked()) == []
    assert ear.machine.interrupted(1)
    assert ear.hear(w.Computed(1, 0, 2)) == [*unfetch(2), w.Exit()]


def test_a_push_under_way_ends_before_a_dismissed_worker_exits(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)), w.Loaded(1), w.Computed(1, 0, 5), w.Computed(1, 1, 23))
    assert ear.hear(w.DismissAsked()) == []
    assert ear.hear(w.PushConfirmed(1)) == [w.Exit()]


# --- local steps ------------------------------------------------------------------------------------------------------------------------

LOCAL = LocalSteps(3, "sgd", advance=6)


def local_order(work_id: int) -> Compute:
    """The eight samples of `order`, in steps of three, three and two."""
    return replace(order(work_id), local=LOCAL)


def piece(part: int, start: int, stop: int, *, step: bool) -> w.RunPart:
    return w.RunPart(1, part, 3, start, stop, (1.0, 0.5)[part], LOCAL if step else None)


def test_an_order_of_local_steps_is_cut_where_they_end(ear: Ear) -> None:
    pieces = [piece(0, 0, 3, step=True), piece(0, 3, 5, step=False), piece(1, 20, 21, step=True), piece(1, 21, 23, step=True)]
    assert ear.hear(w.Ordered(local_order(1))) == [*(w.Fetch(3, each.start, each.stop) for each in pieces), w.LoadBase(1, V0, LOCAL)]
    assert ear.hear(w.Loaded(1)) == pieces[:1]
    for done, following in pairwise(pieces):
        assert ear.hear(w.Computed(1, done.part, done.stop)) == [following]
    assert ear.hear(w.Computed(1, 1, 23)) == [w.Push(1, 8, LOCAL)]


def test_a_piece_that_was_stopped_half_way_still_ends_its_step(ear: Ear) -> None:
    ear.hear(w.Ordered(local_order(1)), w.Loaded(1))
    assert ear.hear(w.Computed(1, 0, 2)) == [piece(0, 2, 3, step=True)]


def test_a_cut_waits_for_the_end_of_the_step_at_hand(ear: Ear) -> None:
    ear.hear(w.Ordered(local_order(1)), w.Loaded(1), w.Computed(1, 0, 3), w.Computed(1, 0, 5), w.CutAsked(1))
    assert not ear.machine.interrupted(1)
    assert ear.hear(w.Computed(1, 1, 21)) == [w.Unfetch(3, 21, 23), w.Push(1, 6, LOCAL)]


def test_a_cut_before_the_first_step_has_begun_gives_the_order_back(ear: Ear) -> None:
    ear.hear(w.Ordered(local_order(1)), w.CutAsked(1))
    assert ear.hear(w.Loaded(1))[-1] == returned(1, "cut before the first micro-batch")


def test_abandoned_local_steps_stop_in_the_middle_of_one(ear: Ear) -> None:
    ear.hear(w.Ordered(local_order(1)), w.Loaded(1), w.AbandonAsked(1))
    assert ear.machine.interrupted(1)
    assert ear.hear(w.Computed(1, 0, 1)) == [w.Unfetch(3, 1, 3), w.Unfetch(3, 3, 5), w.Unfetch(3, 20, 21), w.Unfetch(3, 21, 23)]


# --- another coordinator ----------------------------------------------------------------------------------------------------------------


def test_what_a_replaced_coordinator_says_is_not_obeyed(ear: Ear) -> None:
    ear.hear(w.Attached(2, (), ()))
    assert ear.hear(w.Ordered(order(1), epoch=1)) == []
    assert ear.hear(w.DismissAsked(epoch=1)) == []
    assert ear.hear(w.Ordered(order(2), epoch=2)) == [*FETCH, w.LoadBase(2, V0)]
    assert ear.hear(w.AbandonAsked(2, epoch=1), w.CutAsked(2, epoch=0)) == []
    assert not ear.machine.interrupted(2)


def test_a_new_coordinator_finds_the_worker_computing_what_it_knows_of(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)), w.Loaded(1))
    assert ear.hear(w.Attached(1, (order(1), order(2)), ())) == FETCH, "order 2 had never come"
    assert not ear.machine.interrupted(1)
    assert ear.hear(w.Attached(2, (order(1), order(2)), (1,))) == []
    assert ear.machine.interrupted(1)


def test_orders_that_the_new_coordinator_does_not_know_are_given_back(ear: Ear) -> None:
    ear.hear(w.Ordered(order(1)), w.Loaded(1), w.Ordered(order(2)))
    lost = "its order was lost with the coordinator"
    unfetch = [w.Unfetch(each.epoch, each.start, each.stop) for each in FETCH]
    assert ear.hear(w.Attached(1, (), ())) == [returned(1, lost), *unfetch, returned(2, lost)]
    assert ear.machine.interrupted(1)
    assert ear.hear(w.Computed(1, 0, 2)) == [w.Unfetch(3, 2, 5), w.Unfetch(3, 20, 23)]
    assert ear.hear(w.Attached(2, (order(2),), ())) == [returned(2, lost)], "said again: it had not been heard"


def test_an_order_of_the_new_coordinator_that_overtook_its_first_word_is_kept(ear: Ear) -> None:
    ear.hear(w.Ordered(order(7), epoch=1))
    assert ear.hear(w.Attached(1, (), ())) == []
    assert not ear.machine.interrupted(7)


# --- fragments --------------------------------------------------------------------------------------------------------------------------


def stretch(work_id: int, *, follows: int | None = None, adopt_after: int | None = None) -> Compute:
    """Two steps of four samples; fragment 1 is sent."""
    local = LocalSteps(4, "sgd", 2, send=1, follows=follows, adopt_after=adopt_after)
    return Compute(work_id, SLOT, V0, (Part(Lease(work_id, 3, 0, 8)),), Samples(8), local)


def steps_of(compute: Compute) -> list[w.RunPart]:
    return [w.RunPart(compute.work_id, 0, 3, start, start + 4, 1.0, compute.local) for start in (0, 4)]


def mix_into(work_id: int) -> Mix:
    return Mix(SLOT, work_id, V1, 0, 0.5)


def end(ear: Ear, work_id: int) -> list[w.WorkerOrder]:
    """Compute a stretch that has nothing to wait for."""
    return ear.hear(w.Loaded(work_id), w.Computed(work_id, 0, 4), w.Computed(work_id, 0, 8))


def test_a_fragment_is_pushed_while_the_next_stretch_goes_on_from_there(ear: Ear) -> None:
    first, second = stretch(1), stretch(2, follows=1)
    ear.hear(w.Ordered(first), w.Ordered(second))
    assert end(ear, 1) == [w.Push(1, 8, first.local), w.GoOn(2, second.local)]
    assert ear.hear(w.Loaded(2)) == [steps_of(second)[0]]
    assert ear.hear(w.PushConfirmed(1)) == []
    assert ear.hear(w.Computed(2, 0, 4), w.Computed(2, 0, 8)) == [w.Push(2, 8, second.local)]
    assert ear.hear(w.Ordered(stretch(3, follows=2)))[-1] == w.GoOn(3, stretch(3, follows=2).local)


def test_a_stretch_waits_at_its_step_for_the_fragment_that_it_mixes_in(ear: Ear) -> None:
    second = stretch(2, follows=1, adopt_after=1)
    ear.hear(w.Ordered(stretch(1)), w.Ordered(second))
    end(ear, 1)
    assert ear.hear(w.Loaded(2)) == [steps_of(second)[0]]
    assert ear.hear(w.Computed(2, 0, 4)) == [], "it waits"
    assert ear.hear(w.MixAsked(mix_into(2))) == [w.ReadFragment(mix_into(2))]
    assert ear.hear(w.MixAsked(mix_into(2))) == []
    assert ear.hear(w.FragmentRead(2)) == [w.Blend(mix_into(2)), steps_of(second)[1]]


def test_a_fragment_that_has_come_in_time_keeps_nobody_waiting(ear: Ear) -> None:
    second = stretch(2, follows=1, adopt_after=1)
    ear.hear(w.Ordered(stretch(1)), w.MixAsked(mix_into(2)))
    assert ear.hear(w.Ordered(second)) == [w.Fetch(3, 0, 4), w.Fetch(3, 4, 8), w.ReadFragment(mix_into(2))], "the word came early"
    end(ear, 1)
    assert ear.hear(w.FragmentRead(2), w.Loaded(2)) == [steps_of(second)[0]]
    assert ear.hear(w.Computed(2, 0, 4)) == [w.Blend(mix_into(2)), steps_of(second)[1]]


def test_a_stretch_too_short_for_its_step_mixes_in_before_it_pushes(ear: Ear) -> None:
    last = stretch(2, follows=1, adopt_after=5)
    ear.hear(w.Ordered(stretch(1)), w.Ordered(last))
    end(ear, 1)
    ear.hear(w.MixAsked(mix_into(2)), w.FragmentRead(2))
    assert end(ear, 2) == [w.Blend(mix_into(2)), w.Push(2, 8, last.local)]


@pytest.mark.parametrize("fault", [w.WorkFailed(1, "broken"), w.AbandonAsked(1)])
def test_what_would_go_on_from_a_stretch_that_came_to_nothing_is_given_back(ear: Ear, fault: w.WorkerEvent) -> None:
    ear.hear(w.Ordered(stretch(1)), w.Ordered(stretch(2, follows=1)), w.Loaded(1))
    said = ear.hear(fault) + ear.hear(w.Computed(1, 0, 4))
    assert returned(2, "the order that it goes on from came to nothing") in said
    assert ear.hear(w.Ordered(stretch(3)))[-1] == w.LoadBase(3, V0, stretch(3).local), "from the base, which has to be read again"


def test_a_stretch_that_cannot_have_its_fragment_is_given_back(ear: Ear) -> None:
    ear.hear(w.Ordered(stretch(1, adopt_after=0)))
    assert ear.hear(w.Loaded(1)) == []
    assert ear.hear(w.MixAsked(mix_into(1)), w.FragmentRead(1, "gone")) == [w.Unfetch(3, 0, 4), w.Unfetch(3, 4, 8), returned(1, "gone")]


@pytest.mark.parametrize(("told", "answers"), [(w.CutAsked(1), True), (w.AbandonAsked(1), False), (w.DismissAsked(), False)])
def test_who_waits_for_a_fragment_stops_at_once(ear: Ear, told: w.WorkerEvent, answers: bool) -> None:
    ear.hear(w.Ordered(stretch(1, adopt_after=0)), w.Loaded(1))
    said = ear.hear(told)
    assert (returned(1, "cut while it waited for the others") in said) == answers
    assert ear.machine.orders_in_hand == 0
    assert (said[-1] == w.Exit()) == isinstance(told, w.DismissAsked)


def test_a_push_that_fails_gives_its_order_back_while_the_next_goes_on(ear: Ear) -> None:
    ear.hear(w.Ordered(stretch(1)), w.Ordered(stretch(2, follows=1)))
    end(ear, 1)
    assert ear.hear(w.WorkFailed(1, "lost")) == [returned(1, "lost")]
    assert ear.hear(w.Loaded(2)) == [steps_of(stretch(2, follows=1))[0]]


# --- one of several models ----------------------------------------------------------------------------------------------------------------


def test_an_order_of_one_of_several_models_loads_and_pushes_that_one_and_another_one_is_loaded_anew(ear: Ear) -> None:
    first, second, third = (replace(order(work_id), fragment=model) for work_id, model in ((0, 1), (1, 0), (2, 0)))
    assert ear.hear(w.Ordered(first))[-1] == w.LoadBase(0, V0, None, 1)
    ear.hear(w.Ordered(second), w.Ordered(third), w.Loaded(0), w.Computed(0, 0, 5))
    assert ear.hear(w.Computed(0, 1, 23)) == [w.Push(0, 8, None, 1)]
    assert ear.hear(w.PushConfirmed(0)) == [w.LoadBase(1, V0, None, 0)]
    ear.hear(w.Loaded(1), w.Computed(1, 0, 5), w.Computed(1, 1, 23))
    assert ear.hear(w.PushConfirmed(1)) == [w.ClearAccumulator(2)], "it is in place"
