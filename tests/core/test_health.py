"""Who is put away, why, and how it comes back: literal events in, literal commands out."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.test_brain import R0, Ear, S, only, receipt, verdicts

from mottle.aggregation.decisions.rulebook import Rules
from mottle.core import protocol as p
from mottle.core.errors import ConfigError
from mottle.core.health import TIMER, HealthConfig

QUICK = HealthConfig(rejected=3, strikes=2, wait_s=10.0, trials=2)


class Crew(Ear):
    """A brain whose workers answer their orders as they are told to."""

    def __init__(
        self, spec: object = "async", num_workers: int = 3, *, restore: dict | None = None, started: bool = True, **config: object
    ) -> None:
        numbers = {"num_positions": 10_000, "max_samples": 10_000, "health": QUICK, "retry_rejected": False, **config}
        super().__init__(spec, batch_size=16, restore=restore, **numbers)
        self.orders: dict[int, p.Compute] = {}
        self.said: list[p.Command] = []
        if started:
            self.told(self.start(num_workers))

    def told(self, said: list[p.Command]) -> list[p.Command]:
        """Remember orders, make every step at once."""
        self.said += said
        for command in said:
            if isinstance(command, p.Compute):
                self.orders[command.worker] = command
            elif isinstance(command, p.Batch):
                for each in command.commands:
                    if isinstance(each, p.Step):
                        self.tell(p.Stepped(R0, each.version))
        return said

    def tell(self, *events: p.Event) -> list[p.Command]:
        before = len(self.said)
        for event in events:
            self.told(self.hear(event))
        return self.said[before:]

    def answer(self, worker: int, *, good: bool = True, after_s: float = 0.0) -> list[p.Command]:
        """The worker's update arrives; a bad one is not finite."""
        self.now_ns += round(after_s * S)
        order = self.orders.pop(worker)
        return self.tell(receipt(order.work_id, worker, sum(len(part.lease) for part in order.parts), finite=good))

    def notices(self, kind: str) -> list[str]:
        return [notice.text for notice in only(self.said, p.Notice) if notice.kind == kind]

    def state(self, worker: int) -> str:
        return self.brain.members.ever(worker).state

    def size(self, worker: int) -> int:
        """Samples of the order in hand."""
        return sum(len(part.lease) for part in self.orders[worker].parts)


def spoil(crew: Crew, worker: int, rounds: int) -> None:
    """The worker's updates are rejected while the others' are accepted."""
    for _ in range(rounds):
        for each in sorted(crew.orders):
            if each in crew.orders:
                crew.answer(each, good=each != worker)


# --- rejections -------------------------------------------------------------------------------------------------------------------------


def test_a_worker_whose_updates_are_always_rejected_gets_no_more_leases() -> None:
    crew = Crew()
    spoil(crew, 0, 8)
    assert crew.state(0) == "quarantined"
    (text,) = crew.notices("quarantined")
    assert text.startswith("worker 0 gets no work for 10 s: its last ")
    assert crew.brain.crew == (1, 2)
    assert 0 not in crew.orders
    assert crew.brain.members.ever(0).verdicts["rejected"] < 8, "a fast liar burns no more data"
    spoil(crew, 0, 3)
    assert 0 not in crew.orders


def test_a_streak_must_be_longer_where_the_others_are_rejected_as_well() -> None:
    """Near the optimum an acceptance test rejects many honest updates: then a short streak says little."""
    mild, harsh = Crew(), Crew()
    for number in range(8):
        for worker in (0, 1, 2):
            if worker in mild.orders:
                mild.answer(worker, good=worker != 0)
            if worker in harsh.orders:
                harsh.answer(worker, good=worker != 0 and number % 2 == 0)
    assert mild.state(0) == "quarantined"
    assert harsh.state(0) == "active"
    for number in range(30):
        for worker in (0, 1, 2):
            if worker in harsh.orders:
                harsh.answer(worker, good=worker != 0 and number % 2 == 0)
    assert harsh.state(0) == "quarantined"


def test_nobody_is_put_away_for_what_happens_to_everybody() -> None:
    crew = Crew()
    for _ in range(40):
        for worker in (0, 1, 2):
            crew.answer(worker, good=False)
    assert not crew.notices("quarantined")
    assert crew.brain.crew == (0, 1, 2)


def test_a_worker_comes_back_on_probation_with_small_orders_and_is_like_any_other_when_they_count() -> None:
    crew = Crew()
    spoil(crew, 0, 8)
    crew.now_ns += 10 * S
    said = crew.tell(p.TimerFired("brain/health"))
    assert crew.state(0) == "probation"
    assert only(said, p.Notice)[0].kind == "probation"
    assert crew.size(0) == 2, "an eighth of the order"
    crew.answer(0)
    assert (crew.state(0), crew.size(0)) == ("probation", 2)
    crew.answer(0)
    assert (crew.state(0), crew.size(0)) == ("active", 16)
    assert crew.notices("readmitted") == ["worker 0 is like any other again"]
    assert crew.brain.members.ever(0).why == ""


def test_who_fails_on_probation_waits_twice_as_long() -> None:
    crew = Crew()
    spoil(crew, 0, 8)
    crew.now_ns += 10 * S
    crew.tell(p.TimerFired("brain/health"))
    crew.answer(0, good=False)
    assert crew.state(0) == "probation", "one may fail by chance"
    said = crew.answer(0, good=False)
    assert crew.state(0) == "quarantined"
    assert crew.notices("quarantined")[-1] == "worker 0 gets no work for 20 s: its updates are still rejected"
    assert only(said, p.SetTimer) == [p.SetTimer("brain/health", crew.now_ns + 20 * S)]


def test_a_timer_that_rings_too_early_is_set_again() -> None:
    crew = Crew()
    spoil(crew, 0, 8)
    (timer,) = only(crew.said, p.SetTimer)
    crew.now_ns += S
    assert only(crew.tell(p.TimerFired("brain/health")), p.SetTimer) == [timer]
    assert crew.state(0) == "quarantined"


# --- strikes ----------------------------------------------------------------------------------------------------------------------------


def test_orders_that_come_back_without_an_update_are_strikes() -> None:
    crew = Crew()
    crew.answer(1)
    for _ in range(2):
        crew.tell(p.WorkReturned(0, crew.orders[0].work_id, "RuntimeError: no memory"))
        crew.answer(1)
    assert crew.state(0) == "quarantined"
    assert crew.notices("quarantined") == ["worker 0 gets no work for 10 s: its orders come back without an update"]


def test_an_order_that_was_cut_before_it_began_is_none() -> None:
    crew = Crew({"abs_sgd": {"least": 1}})
    for _ in range(6):
        crew.answer(1)
        crew.answer(2)
        if 0 in crew.orders and crew.brain.ledger.get(crew.orders[0].work_id).cut:
            crew.tell(p.WorkReturned(0, crew.orders.pop(0).work_id, "cut before it began"))
    assert not crew.notices("quarantined")


def test_a_worker_that_hangs_and_comes_back_again_and_again_is_put_away() -> None:
    crew = Crew(lease_floor_ns=10 * S, first_lease_ns=10 * S)
    for silence_s in (60, 600):  # what was late is allowed more the next time
        crew.now_ns += silence_s * S
        hung = crew.orders.pop(0)
        for worker in (1, 2):
            crew.answer(worker)
        crew.tell(p.TimerFired("brain/overdue"))
        crew.tell(receipt(hung.work_id, 0, 16))  # too late
    assert crew.notices("quarantined") == ["worker 0 gets no work for 10 s: it has been silent beyond its deadlines again and again"]
    assert crew.state(0) == "quarantined"


def test_who_is_silent_is_not_tried_before_it_is_heard_of() -> None:
    crew = Crew(lease_floor_ns=10 * S, first_lease_ns=10 * S, health=replace(QUICK, strikes=1))
    crew.answer(1)
    crew.now_ns += 11 * S
    crew.answer(1)
    crew.answer(2)
    hung = crew.orders.pop(0)
    crew.tell(p.TimerFired("brain/overdue"))
    assert crew.state(0) == "quarantined"
    crew.now_ns += 10 * S
    crew.tell(p.TimerFired("brain/health"))
    assert (crew.state(0), 0 in crew.orders) == ("overdue", False)
    crew.tell(receipt(hung.work_id, 0, 16))
    assert (crew.state(0), crew.size(0)) == ("probation", 2)


@pytest.mark.parametrize(("spec", "away"), [("sync", True), ("async", False)])
def test_a_straggler_is_put_away_where_others_wait_for_it_and_shown_where_they_do_not(spec: str, away: bool) -> None:
    crew = Crew(spec, lease_floor_ns=S, first_lease_ns=1000 * S)
    for _ in range(4):
        for worker in (1, 2):
            crew.answer(worker, after_s=1.0)
        if 0 in crew.orders:
            crew.answer(0, after_s=20.0)
    assert (crew.state(0) == "quarantined") == away
    told = crew.notices("quarantined" if away else "straggler")
    assert len(told) == 1
    assert "times as long as those of the others" in told[0]


def test_orders_below_the_floor_of_deadlines_are_never_slow() -> None:
    crew = Crew("sync", lease_floor_ns=30 * S, first_lease_ns=1000 * S)
    for _ in range(6):
        for worker in (1, 2):
            crew.answer(worker, after_s=0.01)
        crew.answer(0, after_s=2.0)
    assert not crew.notices("quarantined")


def test_one_bad_order_in_five_is_borne() -> None:
    crew = Crew()
    for number in range(40):
        crew.answer(1)
        if number % 5:
            crew.answer(0)
        else:
            crew.tell(p.WorkReturned(0, crew.orders[0].work_id, "no memory"))
    assert not crew.notices("quarantined")


# --- checkpoints ------------------------------------------------------------------------------------------------------------------------


def resumed(crew: Crew, *joins: p.Joined, **config: object) -> Crew:
    """A run that goes on from the other's state as a checkpoint keeps it, with a crew of its own."""
    state = json.loads(json.dumps(crew.brain.state()))
    again = Crew(num_workers=0, restore=state, started=False, **config)
    again.now_ns = crew.now_ns
    again.tell(*joins, p.Started(p.Version(*state["version"])))
    return again


def test_a_quarantine_goes_on_in_a_resumed_run_for_who_stands_there_and_for_nobody_else() -> None:
    crew = Crew(num_workers=0)
    crew.tell(*(p.Joined(slot, group="odd" if slot == 2 else "even", host=f"h{slot % 2}") for slot in range(1, 5)))
    spoil(crew, 2, 8)
    assert crew.state(2) == "quarantined"
    again = resumed(crew, *(p.Joined(slot, group="odd" if slot == 7 else "even", host=f"h{slot % 2}") for slot in range(5, 9)))
    assert [again.state(slot) for slot in range(5, 9)] == ["active"] * 4, "its group is on another machine now"
    once_more = resumed(crew, *(p.Joined(slot, group="odd" if slot == 8 else "even", host=f"h{slot % 2}") for slot in range(5, 9)))
    assert [once_more.state(slot) for slot in range(5, 9)] == ["active", "active", "active", "quarantined"]
    (text,) = once_more.notices("quarantined")
    assert text.startswith("worker 8 gets no work for 10 s: its last ")
    assert text.endswith("(before the run was resumed)")
    assert 8 not in once_more.orders
    assert resumed(once_more, p.Joined(9, host="h0")).brain.crew == (9,), "who does not come is waited for by nobody"


def test_a_probation_goes_on_in_a_resumed_run_and_the_next_quarantine_is_the_longer_one() -> None:
    crew = Crew()
    spoil(crew, 0, 8)
    crew.now_ns += 10 * S
    crew.tell(p.TimerFired(TIMER))
    assert crew.state(0) == "probation"
    again = resumed(crew, *(p.Joined(slot) for slot in range(3, 6)))
    assert (again.state(3), again.size(3), again.size(4)) == ("probation", 2, 16)
    spoil(again, 3, 4)
    assert again.notices("quarantined") == ["worker 3 gets no work for 20 s: its updates are still rejected"]


def test_a_machine_that_lost_its_workers_again_and_again_is_known_in_a_resumed_run() -> None:
    crew = Crew()
    for slot in range(10, 13):
        flap(crew, slot, 1)
    again = resumed(crew, p.Joined(20), p.Joined(21))
    again.tell(p.Joined(22, host="loose contact"))
    assert again.state(22) == "quarantined"


def test_without_health_a_resumed_run_keeps_nobody_away() -> None:
    crew = Crew()
    spoil(crew, 0, 8)
    assert resumed(crew, *(p.Joined(slot) for slot in range(3, 6)), health=None).brain.crew == (3, 4, 5)


# --- hosts ------------------------------------------------------------------------------------------------------------------------------


def flap(crew: Crew, slot: int, good: int) -> None:
    """A worker joins on a host, has so many updates accepted and dies."""
    crew.tell(p.Joined(slot, host="loose contact"))
    for _ in range(good):
        crew.answer(slot)
    crew.orders.pop(slot, None)
    crew.tell(p.Left(slot, "died", died=True))


def test_a_machine_that_loses_its_workers_again_and_again_begins_in_quarantine() -> None:
    crew = Crew()
    for slot in range(10, 13):
        flap(crew, slot, 1)
    crew.tell(p.Joined(13, host="loose contact"))
    assert crew.state(13) == "quarantined"
    assert crew.notices("quarantined") == [
        "worker 13 gets no work for 10 s: the last 3 times its machine lost its workers before any of them had done anything"
    ]
    crew.tell(p.Joined(14, host="another"))
    assert crew.state(14) == "active"


def test_lives_that_were_worth_their_while_are_no_flapping() -> None:
    """Chaos kills workers every few seconds; what they have done by then counts."""
    crew = Crew()
    for slot in range(10, 20):
        flap(crew, slot, 3)
    assert not crew.notices("quarantined")


def test_a_host_that_dies_with_eight_workers_has_died_once() -> None:
    crew = Crew()
    for slot in range(10, 18):
        crew.tell(p.Joined(slot, host="big"))
    for slot in range(10, 18):
        crew.tell(p.Left(slot, "node died", died=True))
    crew.tell(p.Joined(18, host="big"))
    assert crew.state(18) == "active"


# --- the run goes on --------------------------------------------------------------------------------------------------------------------


def test_nobody_is_put_away_whom_the_rule_cannot_do_without() -> None:
    crew = Crew(num_workers=5, rule_crew=Rules().least_crew({"krum": {"num_byzantine": 1}}))
    spoil(crew, 0, 20)
    assert crew.state(0) == "active"
    warnings = [text for text in crew.notices("warning") if "stays, although" in text]
    assert warnings[0].endswith(": 4 without it would be fewer than the 5 that are needed")
    assert len(warnings) == 1


def test_a_rule_that_is_set_on_the_way_sets_the_least_crew_and_the_strategys_need_stays() -> None:
    crew = Crew("sync", num_workers=5, least_crew=3)
    crew.tell(p.Configured({"rule": {"krum": {"num_byzantine": 1}}}))
    assert crew.brain.health.least_crew == 5
    crew.tell(p.Configured({"rule": None}))
    assert crew.brain.health.least_crew == 3  # the strategy's


def test_when_others_leave_who_was_put_away_comes_back_on_probation() -> None:
    crew = Crew(num_workers=2)
    spoil(crew, 0, 8)
    assert crew.state(0) == "quarantined"
    crew.tell(p.Left(1, "died", died=True))
    assert (crew.state(0), crew.size(0)) == ("probation", 2)
    assert crew.notices("probation") == [
        "worker 0 is on probation (the crew would be too small without it): 2 updates of small orders must count"
    ]


def test_who_is_asked_to_leave_leaves_from_quarantine_as_well() -> None:
    crew = Crew()
    spoil(crew, 0, 8)
    assert only(crew.tell(p.RemoveAsked(0)), p.Dismiss) == [p.Dismiss(0)]
    crew.now_ns += 60 * S
    crew.tell(p.TimerFired("brain/health"))
    assert crew.state(0) == "left"


def test_none_puts_nobody_away() -> None:
    crew = Crew(health=None)
    spoil(crew, 0, 30)
    assert crew.brain.crew == (0, 1, 2)


def test_a_liar_in_a_synchronous_crew_is_out_of_the_rounds_and_they_go_on() -> None:
    crew = Crew("sync")
    spoil(crew, 0, 8)
    assert crew.state(0) == "quarantined"
    before = crew.brain.samples
    crew.answer(1)
    crew.answer(2)
    assert crew.brain.samples == before + 16
    assert [verdict for _, verdict, _ in verdicts(crew.said)[-2:]] == ["accepted", "accepted"]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["good", "bad", "return", "late", "wait", "die"])), max_size=120))
def test_somebody_always_works_and_the_same_events_give_the_same_commands(life: list[tuple[int, str]]) -> None:
    """Ear.hear checks the brain's invariants after every event."""

    def play() -> Crew:
        crew, slot = Crew(num_workers=4, lease_floor_ns=S, first_lease_ns=S, health=replace(QUICK, strikes=1)), 4
        for worker, what in life:
            crew.now_ns += S // 10
            if what == "wait":
                crew.now_ns += 7 * S
                crew.tell(p.TimerFired("brain/overdue"), p.TimerFired("brain/health"))
            elif what == "die":
                crew.orders.pop(worker, None)
                crew.tell(p.Left(worker, "died", died=True), p.Joined(slot, host=f"host {worker}"))
                slot += 1
            elif worker in crew.orders and crew.brain.finished is None:
                order = crew.orders[worker]
                if what == "return":
                    crew.tell(p.WorkReturned(worker, order.work_id, "no"))
                else:
                    crew.answer(worker, good=what != "bad", after_s=0.0 if what != "late" else 3.0)
            states = [member.state for member in crew.brain.members.all]
            assert crew.brain.finished or crew.brain.crew or "overdue" in states or "quarantined" not in states
        return crew

    assert play().said == play().said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rejected": 0}, "rejected must be an integer of at least 1, got 0"),
        ({"slow": 1.0}, "above 1, got 1.0"),
        ({"wait_s": float("inf")}, "wait_s must be above 0 and finite, got inf"),
        ({"trials": 0, "min_crew": None}, "trials must be .*"),
    ],
)
def test_settings_that_cannot_be_are_told(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        HealthConfig(**options)
