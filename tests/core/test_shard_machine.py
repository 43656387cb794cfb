"""One replica of a shard: literal facts in, literal orders out."""

from dataclasses import replace

import pytest

from mottle.core import protocol as p
from mottle.core import shard as sh
from mottle.core.fragments import Fragments
from mottle.core.layout import BLOCK, Range

REPLICA = p.ReplicaId(1, 0)
OWNED = Range(2 * BLOCK, 5 * BLOCK)
A, B, C, D = (number * BLOCK for number in range(2, 6))  # its four block edges


class Ear:
    """A shard machine with a driver that answers `Run` at once; its invariants are checked after every event."""

    def __init__(self, owned: Range = OWNED, **options: object) -> None:
        self.machine = sh.Shard(REPLICA, owned, version=p.Version(0, 0), **options)

    def hear(self, *events: sh.ShardEvent) -> list[sh.ShardOrder]:
        """All orders of all events, those that follow from a command run included."""
        orders: list[sh.ShardOrder] = []
        for event in events:
            for order in self.machine.handle(event):
                orders.append(order)
                if isinstance(order, sh.Run):
                    orders += self.hear(sh.Ran(order.command, (5,) if isinstance(order.command, p.Measure | p.Distances) else ()))
            self.machine.check()
        return orders

    def store(self, name: str, *, sender: int = 4, samples: int = 8, dots: tuple[tuple[str, int], ...] = ()) -> list[sh.ShardOrder]:
        owned = self.machine.owned
        self.hear(pushed(name, owned.start, owned.stop, sender=sender, samples=samples))
        return self.hear(sh.RangeStored(name, owned.start, owned.stop, True, 9, dots))


@pytest.fixture
def ear() -> Ear:
    return Ear()


def pushed(name: str, start: int = A, stop: int = D, *, sender: int = 4, samples: int = 8, weight: float | None = None) -> sh.Pushed:
    return sh.Pushed(name, sender, start, stop, samples, 70, "payload", weight)


def refused(name: str, fault: str, *, sender: int = 4, samples: int = 8) -> list[sh.ShardOrder]:
    return [sh.SendUp(p.Receipt(REPLICA, name, sender, samples, False, 0, fault=fault))]


def batch(seq: int, *commands: p.ShardCommand, epoch: int = 0) -> sh.Heard:
    return sh.Heard(p.Told(epoch, batches=(p.Batch(epoch, seq, commands),)))


def step(number: int, *, floor: int = 0, holds: tuple = (), drop: tuple[str, ...] = (), released: tuple[str, ...] = ()) -> p.Step:
    return p.Step(p.Version(0, number), "update/1", 0.5, 10, floor, holds, drop, released)


def done(number: int) -> sh.SendUp:
    return sh.SendUp(p.Stepped(REPLICA, p.Version(0, number)))


# --- vectors in -------------------------------------------------------------------------------------------------------------------------


def test_a_receipt_is_sent_when_the_whole_range_is_stored(ear: Ear) -> None:
    assert ear.hear(pushed("update/1", A, B)) == [sh.StoreRange("update/1", A, B, 8.0, "payload", ())]
    assert ear.hear(pushed("update/1", C, D)) == [sh.StoreRange("update/1", C, D, 8.0, "payload", ())]
    assert ear.hear(sh.RangeStored("update/1", A, B, True, 9)) == []
    assert ear.hear(sh.RangeStored("update/1", C, D, True, 16)) == []
    ear.hear(pushed("update/1", B, C))
    receipt = p.Receipt(REPLICA, "update/1", 4, 8, True, 9 + 16 + 25, compute_ns=70)
    assert ear.hear(sh.RangeStored("update/1", B, C, True, 25)) == [sh.SendUp(receipt)]
    assert ear.machine.held == ("update/1",)


def test_one_range_that_is_not_finite_makes_the_update_not_finite(ear: Ear) -> None:
    ear.hear(pushed("update/1", A, B), pushed("update/1", B, D), sh.RangeStored("update/1", A, B, False, 0))
    (up,) = ear.hear(sh.RangeStored("update/1", B, D, True, 4))
    assert (up.event.finite, up.event.fault) == (False, "")


def test_a_payload_that_cannot_be_decoded_is_a_fault_of_the_update(ear: Ear) -> None:
    ear.hear(pushed("update/1"))
    (up,) = ear.hear(sh.RangeStored("update/1", A, D, False, 0, fault="wrong dtype"))
    assert up.event.fault == "wrong dtype"


def test_a_range_said_twice_is_stored_once(ear: Ear) -> None:
    ear.hear(pushed("update/1", A, B))
    assert ear.hear(pushed("update/1", A, B)) == []
    ear.hear(sh.RangeStored("update/1", A, B, True, 1))
    assert ear.hear(pushed("update/1", A, B)) == []


@pytest.mark.parametrize(
    ("start", "stop", "fault"),
    [
        (A - BLOCK, B, f"range [{A - BLOCK}, {B}) is not inside [{A}, {D})"),
        (A, D + BLOCK, f"range [{A}, {D + BLOCK}) is not inside [{A}, {D})"),
        (B, A, f"range [{B}, {A}) is not inside [{A}, {D})"),
        (A, A, f"range [{A}, {A}) is not inside [{A}, {D})"),
        (A + 1, D, f"range starts at {A + 1}, not at a multiple of {BLOCK}"),
    ],
)
def test_a_range_that_does_not_fit_is_refused(ear: Ear, start: int, stop: int, fault: str) -> None:
    assert ear.hear(pushed("update/1", start, stop)) == refused("update/1", fault)
    assert ear.machine.held == ()


def test_a_range_that_overlaps_one_that_is_there_is_refused(ear: Ear) -> None:
    ear.hear(pushed("update/1", A, C))
    assert ear.hear(pushed("update/1", B, D)) == refused("update/1", f"range [{B}, {D}) overlaps one that has arrived")


@pytest.mark.parametrize("other", [{"samples": 9}, {"weight": 3.0}])
def test_ranges_of_one_update_must_agree(ear: Ear, other: dict[str, int]) -> None:
    ear.hear(pushed("update/1", A, B))
    (up,) = ear.hear(pushed("update/1", B, D, **other))
    assert up.event.fault == "its ranges disagree on sender, samples, weight or fragment"


@pytest.mark.parametrize(
    "name", ["params", "direction", "reference/1", "update/", "update/01", "update/-1", "update/²", "update/" + "9" * 5000]
)
def test_a_worker_can_push_nothing_but_updates(ear: Ear, name: str) -> None:
    fault = f"a worker may push updates of its orders only, and no vector named {name!r}"
    assert ear.hear(pushed(name)) == refused(name, fault)
    assert ear.machine.held == ()


def test_a_worker_cannot_touch_a_reference_that_is_held(ear: Ear) -> None:
    ear.store("reference/1", sender=p.VALIDATOR, samples=1)
    (up,) = ear.hear(pushed("reference/1", A, B, sender=4))
    assert "no vector named" in up.event.fault
    assert ear.machine.references == ("reference/1",)


def test_an_empty_shard_takes_part_with_empty_ranges() -> None:
    ear = Ear(Range(7, 7))
    assert ear.hear(pushed("update/1", 7, 7)) == [sh.StoreRange("update/1", 7, 7, 8.0, "payload", ())]
    assert ear.hear(sh.RangeStored("update/1", 7, 7, True, 0)) == [sh.SendUp(p.Receipt(REPLICA, "update/1", 4, 8, True, 0, compute_ns=70))]


def test_nobody_can_make_it_hold_more_vectors_than_it_may() -> None:
    ear = Ear(max_vectors=2)
    ear.store("update/1")
    ear.store("update/2")
    assert ear.hear(pushed("update/3")) == refused("update/3", "the shard holds 2 vectors already")
    ear.hear(batch(0, p.Drop(("update/1",))))
    assert ear.hear(pushed("update/3")) == [sh.StoreRange("update/3", A, D, 8.0, "payload", ())]


def test_the_weight_of_a_loss_with_units_of_its_own_goes_with_the_update(ear: Ear) -> None:
    assert ear.hear(pushed("update/1", weight=12.5)) == [sh.StoreRange("update/1", A, D, 12.5, "payload", ())]
    (up,) = ear.hear(sh.RangeStored("update/1", A, D, True, 1))
    assert up.event.weight == 12.5


# --- references -------------------------------------------------------------------------------------------------------------------------


def test_updates_are_measured_against_the_references_that_are_held_whole(ear: Ear) -> None:
    ear.hear(pushed("reference/1", A, B, sender=p.VALIDATOR))
    assert ear.hear(pushed("update/1"))[0].references == ()
    ear.hear(sh.RangeStored("reference/1", A, B, True, 1), pushed("reference/1", B, D, sender=p.VALIDATOR))
    assert ear.hear(pushed("update/2"))[0].references == ()
    ear.hear(sh.RangeStored("reference/1", B, D, True, 1))
    assert ear.hear(pushed("update/3"))[0].references == ("reference/1",)
    assert ear.hear(pushed("reference/2", sender=p.VALIDATOR))[0].references == ()


def test_inner_products_are_those_that_every_range_has(ear: Ear) -> None:
    ear.store("reference/1", sender=p.VALIDATOR)
    ear.hear(pushed("update/1", A, B))
    ear.store("reference/2", sender=p.VALIDATOR)
    ear.hear(pushed("update/1", B, D), sh.RangeStored("update/1", A, B, True, 1, (("reference/1", 3),)))
    (up,) = ear.hear(sh.RangeStored("update/1", B, D, True, 1, (("reference/1", -5), ("reference/2", 7))))
    assert up.event.dots == (("reference/1", -2),)


def test_a_dropped_reference_is_measured_against_no_more(ear: Ear) -> None:
    ear.store("reference/1", sender=p.VALIDATOR)
    ear.hear(batch(0, p.Drop(("reference/1",))))
    assert ear.hear(pushed("update/1"))[0].references == ()


def test_the_rest_of_a_vector_that_was_dropped_meanwhile_sends_no_receipt(ear: Ear) -> None:
    ear.hear(pushed("update/1"), batch(0, p.Drop(("update/1",))))
    assert ear.hear(sh.RangeStored("update/1", A, D, True, 1)) == []


# --- batches ----------------------------------------------------------------------------------------------------------------------------


def drop(name: str) -> p.Drop:
    return p.Drop((name,))


def test_batches_run_in_order_and_each_once(ear: Ear) -> None:
    assert ear.hear(batch(1, drop("b"))) == []
    assert ear.hear(batch(2, drop("c"), drop("d"))) == []
    ran = ear.hear(batch(0, drop("a")))
    assert ran == [sh.Run(drop(name)) for name in "abcd"]
    assert ear.hear(batch(0, drop("a")), batch(2, drop("c"))) == []
    assert ear.hear(batch(3, drop("e"))) == [sh.Run(drop("e"))]


def test_an_early_batch_said_twice_runs_once(ear: Ear) -> None:
    ear.hear(batch(1, drop("b")), batch(1, drop("b")))
    assert ear.hear(batch(0, drop("a"))) == [sh.Run(drop("a")), sh.Run(drop("b"))]


def test_a_coordinator_that_was_replaced_is_not_obeyed(ear: Ear) -> None:
    ear.hear(batch(0, drop("a"), epoch=2))
    assert ear.hear(batch(1, drop("x"), epoch=1)) == []
    assert ear.hear(batch(1, drop("b"), epoch=2)) == [sh.Run(drop("b"))]


def page(first: int, stop: int, epoch: int = 0, **more: object) -> sh.Heard:
    return sh.Heard(p.Told(epoch, stop, page=p.Page(first, stop, f"{first}-{stop}"), **more))


def test_a_new_coordinator_goes_on_in_the_count_and_early_batches_of_the_old_one_are_forgotten(ear: Ear) -> None:
    ear.hear(batch(0, drop("a")), batch(2, drop("old")))
    assert ear.hear(sh.Fenced(1)) == []
    assert ear.hear(batch(1, drop("b"), epoch=0)) == []
    assert ear.hear(batch(1, drop("b"), epoch=1)) == [sh.Run(drop("b"))]
    assert ear.hear(batch(2, drop("new"), epoch=1)) == [sh.Run(drop("new"))]


def test_a_batch_waits_for_the_log_that_led_to_it(ear: Ear) -> None:
    first, second = (p.Batch(0, seq, (drop(f"{seq}"),)) for seq in range(2))
    assert ear.hear(sh.Heard(p.Told(0, 5, (second,), p.Page(3, 5, "3-5")))) == []
    assert ear.hear(sh.Heard(p.Told(0, 2, (first,), p.Page(0, 2, "0-2")))) == [sh.Run(drop("0"))]
    assert ear.machine.log.stop == 2
    assert ear.hear(page(2, 3)) == [sh.Run(drop("1"))]
    assert [each.content for each in ear.machine.log.pages] == ["0-2", "2-3", "3-5"]


def test_pages_that_a_base_makes_superfluous_are_let_go_once_they_are_all_here(ear: Ear) -> None:
    ear.hear(page(0, 2), page(2, 4))
    ear.hear(sh.Heard(p.Told(0, base=p.Base(5, "too new"))))
    assert (ear.machine.log.base, ear.machine.log.start) == (None, 0)
    ear.hear(sh.Heard(p.Told(0, base=p.Base(2, "a brain"))))
    assert (ear.machine.log.base, ear.machine.log.start, ear.machine.log.stop) == (p.Base(2, "a brain"), 2, 4)
    ear.hear(sh.Heard(p.Told(0, base=p.Base(1, "an older one"))))
    assert ear.machine.log.base == p.Base(2, "a brain")


def test_what_the_log_does_not_show_to_be_heard_is_said_again_to_a_new_coordinator(ear: Ear) -> None:
    ear.hear(batch(0, p.Measure(1, ())), batch(1, p.Measure(2, ())), batch(2, p.Measure(3, ())))
    ear.hear(page(0, 4, heard=((REPLICA, 1), (p.ReplicaId(0, 0), 9))))
    again = ear.hear(sh.Heard(p.Told(1, again=True)))
    assert [(order.event.request, order.number) for order in again] == [(2, 2), (3, 3)]
    ear.hear(page(4, 7, 1, heard=((REPLICA, 3),)))
    assert ear.hear(sh.Heard(p.Told(2, again=True))) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", None),
        ("name", ["update/0"]),
        ("sender", "4"),
        ("start", 0.0),
        ("stop", None),
        ("samples", "many"),
        ("samples", [4]),
        ("samples", 1 << 2000),
        ("weight", "heavy"),
        ("weight", True),
        ("compute_ns", None),
    ],
)
def test_a_message_that_says_things_of_the_wrong_kind_is_refused_and_the_shard_goes_on(ear: Ear, field: str, value: object) -> None:
    (told,) = ear.hear(replace(pushed("update/0"), **{field: value}))
    assert isinstance(told, sh.SendUp)
    assert isinstance(told.event, p.Receipt)
    assert told.event.fault
    assert not told.event.finite
    assert ear.machine.held == ()


@pytest.mark.parametrize("part", [(A, B), (A, D)], ids=["part of it", "all of it"])
def test_whoever_pushes_first_under_another_ones_name_does_not_block_it(ear: Ear, part: tuple[int, int]) -> None:
    """A liar pushes under the order of worker 4; the coordinator knows whose it is, and the replica takes the rightful one's after all."""
    ear.hear(pushed("update/0", *part, sender=9))
    contested = sh.SendUp(p.Contested(REPLICA, "update/0", (9, 4)))
    assert ear.hear(pushed("update/0", A, B)) == [contested]
    assert ear.hear(pushed("update/0", B, D)) == []
    award, drop_it = p.Award("update/0", 4), p.Drop(("update/0",))
    orders = ear.hear(batch(0, award))
    assert orders[:2] == [sh.Run(award), sh.Run(drop_it)]
    assert [(order.start, order.stop) for order in orders[2:]] == [(A, B), (B, D)]
    assert all(isinstance(order, sh.StoreRange) for order in orders[2:])


def test_a_rival_under_a_name_that_is_anothers_is_forgotten(ear: Ear) -> None:
    ear.hear(pushed("update/0"))
    assert ear.hear(pushed("update/0", sender=9)) == [sh.SendUp(p.Contested(REPLICA, "update/0", (4, 9)))]
    assert ear.hear(batch(0, p.Award("update/0", 4))) == [sh.Run(p.Award("update/0", 4))]
    assert ear.machine.held == ("update/0",)


def test_an_award_that_comes_before_the_rightful_push_makes_room_for_it(ear: Ear) -> None:
    ear.hear(pushed("update/0", sender=9))
    ear.hear(batch(0, p.Award("update/0", 4)))
    (order,) = ear.hear(pushed("update/0"))
    assert isinstance(order, sh.StoreRange)


def test_nobody_can_make_a_replica_remember_any_number_of_rivals(ear: Ear) -> None:
    ear.hear(pushed("update/0"))
    told = [order for sender in range(10, 300) for order in ear.hear(pushed("update/0", sender=sender))]
    assert sum(isinstance(order.event, p.Contested) for order in told) == 256
    assert "wait already" in told[-1].event.fault


def test_answers_go_up_in_the_order_of_the_commands(ear: Ear) -> None:
    measure = p.Measure(6, (("update/1", "update/1"),))
    statistics = p.RuleStatistics(7, {"krum": {}}, ())
    silent = (p.Snapshot(3), p.Configure({"lr": 0.1}), p.Combine("direction", ()), p.Keep("kept/base", p.PARAMS))
    distances = p.Distances(8, (("update/1", "kept/base"),))
    orders = ear.hear(batch(0, measure, step(1), *silent, statistics, distances))
    assert [order.event for order in orders if isinstance(order, sh.SendUp)] == [
        p.Measured(REPLICA, 6, (5,)),
        p.Stepped(REPLICA, p.Version(0, 1)),
        p.Measured(REPLICA, 7, ()),
        p.Measured(REPLICA, 8, (5,)),
    ]


def test_what_went_into_a_step_is_forgotten_with_it(ear: Ear) -> None:
    ear.store("update/1")
    ear.store("update/2")
    ear.hear(batch(0, step(1, drop=("update/1", "direction"))))
    assert ear.machine.held == ("update/2",)


# --- versions out -----------------------------------------------------------------------------------------------------------------------


def test_a_reader_of_the_future_is_served_when_it_comes(ear: Ear) -> None:
    assert ear.hear(sh.ReadAsked("work/5", 2)) == []
    assert ear.hear(batch(0, step(1))) == [sh.Run(step(1)), done(1)]
    assert ear.hear(batch(1, step(2))) == [sh.Run(step(2)), done(2), sh.Serve("work/5", 2)]


def test_versions_from_the_floor_on_are_kept(ear: Ear) -> None:
    ear.hear(sh.ReadAsked("anybody", 0), batch(0, step(1), step(2)))
    for number in (0, 1, 2):
        assert ear.hear(sh.ReadAsked("anybody", number)) == [sh.Serve("anybody", number)]
    assert sh.FreeVersions((0, 1)) in ear.hear(batch(1, step(3, floor=2)))
    gone = sh.Refuse("anybody", 1, "version 1 is gone, the newest is 3")
    assert ear.hear(sh.ReadAsked("anybody", 1)) == [gone]


def test_a_version_that_is_held_is_kept_until_its_holder_has_read_it(ear: Ear) -> None:
    holds = ((0, ("reference/1", "work/5")),)
    ear.hear(sh.ReadAsked("work/4", 0))
    assert sh.FreeVersions((0,)) not in ear.hear(batch(0, step(1, floor=0), step(2, floor=1, holds=holds)))
    assert ear.hear(sh.ReadAsked("work/5", 0)) == [sh.Serve("work/5", 0)]
    assert ear.hear(sh.ReadAsked("reference/1", 0)) == [sh.Serve("reference/1", 0), sh.FreeVersions((0,))]


def test_a_holder_that_read_before_the_step_holds_nothing_back(ear: Ear) -> None:
    ear.hear(sh.ReadAsked("work/5", 0))
    assert sh.FreeVersions((0,)) in ear.hear(batch(0, step(1, floor=1, holds=((0, ("work/5",)),))))


def test_a_holder_that_is_released_holds_nothing_back(ear: Ear) -> None:
    ear.hear(sh.ReadAsked("work/4", 0))
    ear.hear(batch(0, step(1), step(2, floor=1, holds=((0, ("work/5",)),))))
    assert sh.FreeVersions((0,)) in ear.hear(batch(1, step(3, floor=1, released=("work/5",))))


def test_reading_a_version_that_nobody_holds_does_not_free_one_above_the_floor(ear: Ear) -> None:
    ear.hear(sh.ReadAsked("work/4", 0), batch(0, step(1)))
    assert ear.hear(sh.ReadAsked("work/5", 0), sh.ReadAsked("work/5", 0)) == [sh.Serve("work/5", 0)] * 2


def test_a_replica_that_nobody_reads_saves_no_version_while_nobody_holds_any(ear: Ear) -> None:
    told = step(1, holds=((0, ("evaluate",)),)), step(2, floor=1, released=("evaluate",)), step(3, floor=2)
    assert [ear.machine.wants_saved(told[0]), sh.FreeVersions((0,)) in ear.hear(batch(0, told[0]))] == [True, False]
    assert ear.machine.wants_saved(step(2, floor=1)), "the evaluation may come for an older one; orders of now may follow"
    assert ear.machine.wants_saved(step(2, floor=0, released=("evaluate",))), "orders that name this version may follow"
    assert [ear.machine.wants_saved(told[1]), sh.FreeVersions((1, 0)) in ear.hear(batch(1, told[1]))] == [False, True]
    assert not ear.machine.wants_saved(told[2])
    assert ear.hear(sh.ReadAsked("work/5", 1)) == [sh.Refuse("work/5", 1, "version 1 is gone, the newest is 2")], "its primary is dead"
    assert ear.machine.wants_saved(told[2])


def test_where_fragments_are_stepped_apart_a_replica_that_nobody_reads_saves_them_all() -> None:
    plain, of_a_fragment = step(1), replace(step(1), fragment=0)
    assert [Ear(fragments=FRAGMENTS).machine.wants_saved(each) for each in (plain, of_a_fragment)] == [False, True]


def test_the_newest_version_is_never_freed(ear: Ear) -> None:
    orders = ear.hear(sh.ReadAsked("work/4", 0), *(batch(number - 1, step(number, floor=number - 1)) for number in range(1, 6)))
    assert [order.numbers for order in orders if isinstance(order, sh.FreeVersions)] == [(0,), (1,), (2,), (3,)]
    assert ear.hear(sh.ReadAsked("evaluate", 5)) == [sh.Serve("evaluate", 5)]


# --- newcomers --------------------------------------------------------------------------------------------------------------------------

DONOR, NEWCOMER = REPLICA, p.ReplicaId(1, 2)


def test_a_donor_hands_over_what_it_has_at_that_place_and_passes_on_what_follows(ear: Ear) -> None:
    ear.store("update/1")
    half = pushed("update/2", A, B)
    ear.hear(half, sh.RangeStored("update/2", A, B, True, 4))
    following = batch(1, p.Drop(("update/1",)))
    ear.hear(following)  # early: it is run after the hand-over, and passed on
    orders = ear.hear(batch(0, p.Configure({"lr": 0.5}), p.Adopt(DONOR, NEWCOMER)))
    (hand_over,) = [order for order in orders if isinstance(order, sh.HandOver)]
    assert (hand_over.newcomer, hand_over.holding.next_seq) == (NEWCOMER, 1)
    assert [(known.name, len(known.parts), known.receipt is not None) for known in hand_over.holding.vectors] == [
        ("update/1", 1, True),
        ("update/2", 1, False),
    ]
    passed = sh.PassOn(NEWCOMER, sh.Heard(following.told, passed=True))
    assert orders.index(hand_over) < orders.index(passed) < orders.index(sh.Run(following.told.batches[0].commands[0]))

    rest = pushed("update/2", B, D)
    assert ear.hear(rest)[0] == sh.PassOn(NEWCOMER, rest)
    assert ear.hear(rest) == [], "said twice"
    ear.hear(batch(2, p.Wean(NEWCOMER)))
    assert not any(isinstance(order, sh.PassOn) for order in ear.hear(pushed("update/3"), batch(3, p.Drop(("update/2",)))))


def test_a_newcomer_keeps_the_versions_that_its_donor_keeps_for_somebody(ear: Ear) -> None:
    ear.hear(sh.ReadAsked("work/4", 0))
    chunk = step(1, floor=1, holds=((0, ("chunk/7", "work/4")),))
    (handed,) = [each for each in ear.hear(batch(0, chunk, p.Adopt(DONOR, NEWCOMER))) if isinstance(each, sh.HandOver)]
    assert handed.holding.kept == (sh.KeptVersion(0, None, ("chunk/7",)), sh.KeptVersion(1, None, ()))
    newcomer = Ear()
    newcomer.hear(sh.TakenOver(handed.holding))
    assert newcomer.hear(sh.ReadAsked("work/9", 0)) == [sh.Serve("work/9", 0)], "its donor may be dead"
    assert sh.FreeVersions((0,)) in newcomer.hear(batch(1, step(2, floor=1, released=("chunk/7",))))


def test_others_hand_over_nothing(ear: Ear) -> None:
    orders = ear.hear(batch(0, p.Adopt(p.ReplicaId(0, 0), p.ReplicaId(0, 2))), pushed("update/1"))
    assert not any(isinstance(order, sh.HandOver | sh.PassOn) for order in orders)


def test_a_newcomer_says_what_it_holds_and_goes_on_where_its_donor_was(ear: Ear) -> None:
    ear.store("update/1")
    ear.hear(pushed("update/2", A, B), sh.RangeStored("update/2", A, B, True, 4))
    ear.hear(batch(0, step(1, drop=("update/9",)), p.Adopt(DONOR, NEWCOMER)))
    holding = ear.machine._holding_for(NEWCOMER)

    newcomer = sh.Shard(NEWCOMER, OWNED, version=p.Version(0, 0))
    receipt = p.Receipt(NEWCOMER, "update/1", 4, 8, True, 9, compute_ns=70)
    assert newcomer.handle(sh.TakenOver(holding)) == [sh.SendUp(receipt), sh.SendUp(p.ReplicaReady(NEWCOMER))]
    newcomer.check()
    assert newcomer.handle(pushed("update/1")) == [], "it has that one"
    assert isinstance(newcomer.handle(pushed("update/2", B, D))[0], sh.StoreRange)
    (told,) = newcomer.handle(sh.RangeStored("update/2", B, D, True, 5))
    assert isinstance(told, sh.SendUp)
    assert (told.event.replica, told.event.norm2) == (NEWCOMER, 9)  # type: ignore[union-attr]

    assert newcomer.handle(sh.ReadAsked("work/5", 0)) == [sh.Refuse("work/5", 0, "version 0 is gone, the newest is 1")]
    assert newcomer.handle(sh.ReadAsked("work/6", 1)) == [sh.Serve("work/6", 1)]
    assert newcomer.handle(batch(0, p.Drop(("update/1",)))) == [], "its donor has run that one"
    assert newcomer.handle(batch(1, p.Sync(NEWCOMER))) == [sh.Run(p.Sync(NEWCOMER))]
    assert newcomer.handle(sh.Ran(p.Sync(NEWCOMER))) == [sh.SendUp(p.ReplicaSynced(NEWCOMER))]
    assert ear.hear(batch(1, p.Sync(NEWCOMER)))[-1] == sh.Run(p.Sync(NEWCOMER)), "the others say nothing"


# --- fragments --------------------------------------------------------------------------------------------------------------------------

# This shard holds blocks 2 to 4: of fragment 0 block 2, of fragment 1 blocks 3 and 4, which are blocks 1 and 2 of that fragment.
FRAGMENTS = Fragments(((Range(0, BLOCK), Range(2 * BLOCK, 3 * BLOCK)), (Range(BLOCK, 2 * BLOCK), Range(3 * BLOCK, 6 * BLOCK))))


def test_an_update_of_a_fragment_is_whole_when_the_shards_part_of_it_is() -> None:
    ear = Ear(fragments=FRAGMENTS)
    assert ear.hear(replace(pushed("update/1", 2 * BLOCK, 3 * BLOCK), fragment=1)) == [
        sh.StoreRange("update/1", 2 * BLOCK, 3 * BLOCK, 8.0, "payload", (), 1)
    ]
    assert ear.hear(sh.RangeStored("update/1", 2 * BLOCK, 3 * BLOCK, True, 9)) == [], "its other block is missing"
    ear.hear(replace(pushed("update/1", BLOCK, 2 * BLOCK), fragment=1))
    (said,) = ear.hear(sh.RangeStored("update/1", BLOCK, 2 * BLOCK, True, 16))
    assert said == sh.SendUp(p.Receipt(REPLICA, "update/1", 4, 8, True, 25, (), 70, fragment=1))


@pytest.mark.parametrize(
    ("push", "fault"),
    [
        (replace(pushed("update/1", 0, BLOCK), fragment=2), "there is no fragment 2"),
        (replace(pushed("update/1", 0, BLOCK), fragment=True), "there is no fragment True"),
        (replace(pushed("update/1", 0, BLOCK), fragment=0), f"range [0, {BLOCK}) is not inside [{BLOCK}, {2 * BLOCK})"),
        (pushed("update/9", A, B), "its ranges disagree on sender, samples, weight or fragment"),
    ],
)
def test_a_fragment_that_there_is_not_is_refused(push: sh.Pushed, fault: str) -> None:
    ear = Ear(fragments=FRAGMENTS)
    ear.hear(replace(pushed("update/9", BLOCK, 2 * BLOCK), fragment=1))
    assert ear.hear(push) == refused(push.name, fault)


def test_a_fragment_is_read_of_the_newest_version_and_of_older_ones_that_moved_it() -> None:
    ear = Ear(fragments=FRAGMENTS)
    for number in (1, 2):
        ear.hear(batch(number - 1, replace(step(number, floor=0, holds=((0, ("work/9",)),)), fragment=(number - 1) % 2)))
    assert ear.hear(sh.ReadAsked("work/1/mix", 2, 0)) == [sh.Serve("work/1/mix", 2, 0)]
    assert ear.hear(sh.ReadAsked("work/1/mix", 1, 0)) == [sh.Serve("work/1/mix", 1, 0)]
    gone = "fragment 1 of version 1 is gone, the newest is 2"
    assert ear.hear(sh.ReadAsked("work/1/mix", 1, 1)) == [sh.Refuse("work/1/mix", 1, gone, 1)]
    assert ear.hear(sh.ReadAsked("work/1/mix", 2, 7)) == [sh.Refuse("work/1/mix", 2, "there is no fragment 7", 7)]


def test_a_newcomer_holds_updates_of_fragments_as_its_donor_does() -> None:
    ear, other = Ear(fragments=FRAGMENTS), Ear(fragments=FRAGMENTS)
    ear.hear(replace(pushed("update/1", BLOCK, 2 * BLOCK), fragment=1), sh.RangeStored("update/1", BLOCK, 2 * BLOCK, True, 16))
    newcomer = p.ReplicaId(1, 1)
    (handed,) = [each for each in ear.hear(batch(0, p.Adopt(REPLICA, newcomer))) if isinstance(each, sh.HandOver)]
    other.hear(sh.TakenOver(handed.holding))
    other.hear(replace(pushed("update/1", 2 * BLOCK, 3 * BLOCK), fragment=1))
    (said,) = other.hear(sh.RangeStored("update/1", 2 * BLOCK, 3 * BLOCK, True, 9))
    assert (said.event.fragment, said.event.norm2) == (1, 25)


# --- models side by side ------------------------------------------------------------------------------------------------------------------

APART = replace(FRAGMENTS, apart=True)


def of_model(model: int, number: int, **options: object) -> sh.Heard:
    return batch(number - 1, replace(step(number, **options), fragment=model))


def test_a_model_is_served_as_it_is_until_its_own_step_however_often_others_moved() -> None:
    ear = Ear(fragments=APART)
    ear.hear(of_model(0, 1), of_model(0, 2, floor=1), of_model(0, 3, floor=2))
    assert ear.hear(sh.ReadAsked("work/1", 0, 1)) == [sh.Serve("work/1", 0, 1)]
    assert ear.hear(sh.ReadAsked("work/2", 3, 0)) == [sh.Serve("work/2", 3, 0)]
    assert ear.hear(sh.ReadAsked("work/3", 2, 0)) == [sh.Refuse("work/3", 2, "model 0 of version 2 is gone, it has moved to version 3", 0)]
    ear.hear(of_model(1, 4, floor=3))
    assert isinstance(ear.hear(sh.ReadAsked("work/4", 3, 1))[0], sh.Refuse)


def test_of_models_side_by_side_a_whole_version_is_saved_for_those_only_who_are_said_to_read_it() -> None:
    ear = Ear(fragments=APART)
    ear.hear(sh.ReadAsked("work/1", 0, 0))
    first, held = replace(step(1), fragment=0), replace(step(1, holds=((0, ("evaluate",)),)), fragment=0)
    behind = replace(step(2, floor=0), fragment=1)
    assert [ear.machine.wants_saved(each) for each in (first, held)] == [False, True]
    ear.hear(of_model(0, 1))
    assert ear.machine.wants_saved(behind), "somebody may ask yet for what was published meanwhile"
    assert ear.hear(sh.ReadAsked("evaluate", 0)) == [sh.Refuse("evaluate", 0, "version 0 is gone, the newest is 1")]
    assert ear.hear(sh.ReadAsked("evaluate", 1)) == [sh.Serve("evaluate", 1)]


def test_a_replaced_model_is_another_for_all_and_a_newcomer_knows_when_each_moved() -> None:
    donor, newcomer = Ear(fragments=APART), p.ReplicaId(1, 1)
    donor.hear(of_model(0, 1))
    (given,) = [each for each in donor.hear(batch(1, p.Adopt(REPLICA, newcomer))) if isinstance(each, sh.HandOver)]
    taker = Ear(fragments=APART)
    taker.hear(sh.TakenOver(given.holding))
    for ear in (donor, taker):
        assert [type(ear.hear(sh.ReadAsked("work/1", 0, model))[0]) for model in (0, 1)] == [sh.Refuse, sh.Serve]
    donor.hear(batch(2, p.Replace(p.Version(1, 2), "fetched/1", 1)))
    assert [type(donor.hear(sh.ReadAsked("work/2", 1, model))[0]) for model in (0, 1)] == [sh.Refuse, sh.Refuse]
