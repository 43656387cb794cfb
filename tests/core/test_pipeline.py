"""Steps under way: literal batches to the shards, versions in the order in which steps were decided."""

from dataclasses import dataclass, field

import pytest

from mottle.core.exactsum import exact_sum
from mottle.core.pipeline import DIRECTION, Application, Pipeline, RuleDecision, exact_totals
from mottle.core.protocol import ApplyRule, Combine, Drop, Measure, ReplicaId, RuleStatistics, Settings, ShardCommand, Step, Version
from mottle.core.shards import ShardMap

A, B, A2, B2 = ReplicaId(0, 0), ReplicaId(1, 0), ReplicaId(0, 1), ReplicaId(1, 1)
V0, V1, V2, V3 = (Version(0, number) for number in range(4))
RULE: Settings = {"krum": {}}


@dataclass
class Book:
    """Decides as a test says; remembers what it was asked."""

    decision: RuleDecision
    statistics: bool = True
    trusted: frozenset[str] = frozenset()
    asked: list[tuple] = field(default_factory=list)

    def wants_statistics(self, rule: Settings) -> bool:
        return self.statistics

    def wants_trusted(self, rule: Settings) -> frozenset[str]:
        return self.trusted

    def decide(
        self,
        rule: Settings,
        statistics: tuple[int, ...],
        counts: tuple[float, ...],
        num_expected: int,
        descents: tuple[float, ...] | None = None,
    ) -> RuleDecision:
        self.asked.append((rule, statistics, counts, num_expected) if descents is None else (statistics, descents))
        return self.decision


class Ear:
    """A pipeline and what it told the shards since the last look."""

    def __init__(self, *, num_shards: int = 1, replicas: int = 0, max_grad_norm: float | None = None, rules: Book | None = None) -> None:
        self.shards = ShardMap(num_shards, replicas, epoch=3)
        self.held: tuple = ()
        self.pipe = Pipeline(self.shards, V0, max_grad_norm=max_grad_norm, rules=rules, context=lambda: (60, self.held, ()))

    def told(self) -> tuple[ShardCommand, ...]:
        return tuple(command for batch in self.shards.flush() for command in batch.commands)

    def submit(self, *work_ids: int, weight: float = 0.5) -> None:
        self.pipe.submit(Application(tuple((work_id, weight) for work_id in work_ids)))

    def stepped(self, number: int, *replicas: ReplicaId) -> list[Version | None]:
        for replica in replicas or (A,):
            self.pipe.stepped(replica, Version(0, number))
        return [application.version for application in self.pipe.take_published()]


# --- plain steps ------------------------------------------------------------------------------------------------------------------------


def test_a_single_update_is_stepped_along_without_being_copied() -> None:
    ear = Ear()
    ear.submit(7)
    assert ear.told() == (Step(V1, "update/7", 0.5, 60, 0, (), ("update/7",)),)


def test_several_updates_are_combined_first_and_all_are_dropped_with_the_step() -> None:
    ear = Ear()
    ear.held = ((0, ("work/9",)),)
    ear.pipe.submit(Application(((7, 0.25), (8, 0.75)), unselected=(6,)))
    drop = ("update/7", "update/8", "update/6", DIRECTION)
    combine = Combine(DIRECTION, (("update/7", 0.25), ("update/8", 0.75)))
    assert ear.told() == (combine, Step(V1, DIRECTION, 1.0, 60, 0, ((0, ("work/9",)),), drop))


def test_a_version_is_published_when_every_live_replica_of_every_shard_has_stepped() -> None:
    ear = Ear(num_shards=2, replicas=1)
    ear.submit(7)
    assert ear.stepped(1, A, B, A2) == []
    assert ear.pipe.published == V0
    assert ear.stepped(1, A) == []
    assert ear.stepped(1, B2) == [V1]
    assert ear.pipe.published == V1


def test_losing_a_replica_leaves_fewer_to_wait_for() -> None:
    ear = Ear(num_shards=2, replicas=1)
    ear.submit(7)
    assert ear.stepped(1, A, B, A2) == []
    ear.shards.lose(B2)
    ear.pipe.replica_lost()
    assert [application.version for application in ear.pipe.take_published()] == [V1]


def test_steps_are_told_ahead_and_published_in_order() -> None:
    ear = Ear()
    for work_id in (7, 8, 9):
        ear.submit(work_id)
    assert [command.version for command in ear.told()] == [V1, V2, V3]
    assert ear.pipe.depth == 3
    assert ear.stepped(2) == []
    assert ear.stepped(1) == [V1, V2]
    assert ear.pipe.depth == 1
    assert ear.stepped(3) == [V3]
    assert ear.pipe.idle


def test_the_floor_is_the_published_version_when_the_step_is_told() -> None:
    ear = Ear()
    ear.submit(7)
    ear.submit(8)
    ear.stepped(1)
    ear.submit(9)
    assert [command.floor for command in ear.told()] == [0, 0, 1]


def test_answers_about_unknown_versions_and_requests_are_ignored() -> None:
    ear = Ear()
    assert ear.stepped(5) == []
    ear.pipe.answered(A, 99, (1,))
    assert ear.pipe.idle


# --- clipping ---------------------------------------------------------------------------------------------------------------------------


def test_the_direction_is_bounded_by_its_norm_over_all_shards() -> None:
    ear = Ear(num_shards=2, max_grad_norm=1.0)
    ear.submit(7)
    assert ear.told() == (Measure(1, (("update/7", "update/7"),)),)
    ear.pipe.answered(A, 1, (exact_sum([9.0]),))
    assert ear.told() == ()
    ear.pipe.answered(B, 1, (exact_sum([16.0]),))
    (step,) = ear.told()
    # |0.5 * (3, 4)| = 2.5
    assert step == Step(V1, "update/7", 0.5 / (2.5 + 1e-6), 60, 0, (), ("update/7",))


def test_a_direction_that_is_short_enough_is_left_alone() -> None:
    ear = Ear(max_grad_norm=10.0)
    ear.submit(7, 8)
    assert ear.told() == (Combine(DIRECTION, (("update/7", 1.0), ("update/8", 1.0))), Measure(1, ((DIRECTION, DIRECTION),)))
    ear.pipe.answered(A, 1, (exact_sum([25.0]),))
    assert [command.scale for command in ear.told()] == [0.5]  # the weight that both updates share


def test_a_direction_too_long_for_a_float_makes_no_step_at_all() -> None:
    ear = Ear(max_grad_norm=1.0)
    ear.submit(7)
    ear.pipe.answered(A, 1, (exact_sum([1e308] * 20),))
    assert [command.scale for command in ear.told() if isinstance(command, Step)] == [0.0]


def test_while_a_norm_is_asked_for_the_next_step_waits() -> None:
    ear = Ear(max_grad_norm=10.0)
    ear.submit(7)
    ear.submit(8)
    assert ear.told() == (Measure(1, (("update/7", "update/7"),)),)
    assert ear.pipe.depth == 2
    ear.pipe.answered(A, 1, (exact_sum([1.0]),))
    step, measure = ear.told()
    assert (step.version, measure) == (V1, Measure(2, (("update/8", "update/8"),)))


def test_an_answer_said_twice_and_answers_of_both_replicas_count_once() -> None:
    ear = Ear(num_shards=2, replicas=1, max_grad_norm=1.0)
    ear.submit(7, weight=1.0)
    ear.told()
    for replica, value in ((A, 9.0), (A, 9.0), (A2, 9.0), (B2, 16.0)):
        ear.pipe.answered(replica, 1, (exact_sum([value]),))
        assert ear.told() == ()
    ear.pipe.answered(B, 1, (exact_sum([16.0]),))
    assert [command.scale for command in ear.told()] == [1.0 / (5.0 + 1e-6)]
    ear.pipe.answered(B, 1, (exact_sum([16.0]),))
    assert ear.told() == ()


def test_losing_a_replica_settles_questions_that_it_alone_had_not_answered() -> None:
    ear = Ear(replicas=1, max_grad_norm=10.0)
    ear.submit(7)
    ear.pipe.answered(A2, 1, (exact_sum([1.0]),))
    ear.told()
    ear.shards.lose(A)
    ear.pipe.replica_lost()
    assert [command.version for command in ear.told()] == [V1]


def test_totals_take_one_replica_of_each_shard() -> None:
    assert exact_totals({A: (1, 10), A2: (1, 10), B: (2, 20)}) == (3, 30)
    assert exact_totals({A2: (5,), B: (7,)}) == (12,)


# --- rules ------------------------------------------------------------------------------------------------------------------------------


def rounds(*work_ids: int) -> Application:
    return Application(tuple((work_id, 0.0) for work_id in work_ids), rule=RULE, counts=(3.0,) * len(work_ids), num_expected=4)


def test_a_rule_on_statistics_asks_decides_and_steps() -> None:
    book = Book(RuleDecision(selected=(0, 2), instructions={"weights": [0.5, 0, 0.5]}))
    ear = Ear(num_shards=2, rules=book)
    ear.pipe.submit(application := rounds(7, 8, 9))
    rows = (("update/7", 3.0), ("update/8", 3.0), ("update/9", 3.0))
    assert ear.told() == (RuleStatistics(1, RULE, rows),)
    ear.pipe.answered(A, 1, (1, 2, 3))
    ear.pipe.answered(B, 1, (10, 20, 30))
    assert book.asked == [(RULE, (11, 22, 33), (3.0, 3.0, 3.0), 4)]
    apply, step = ear.told()
    assert apply == ApplyRule(DIRECTION, RULE, rows, {"weights": [0.5, 0, 0.5]})
    assert (step.source, step.scale) == (DIRECTION, 1.0)
    assert sorted(step.drop) == sorted(("update/7", "update/8", "update/9", DIRECTION))
    assert (application.accepted, application.unselected) == ((7, 9), (8,))


def test_a_coordinate_wise_rule_asks_nothing() -> None:
    ear = Ear(rules=Book(RuleDecision(selected=(0,), instructions={}), statistics=False))
    ear.pipe.submit(rounds(7))
    assert [type(command) for command in ear.told()] == [ApplyRule, Step]


def test_a_rule_that_cannot_run_makes_no_version_and_the_next_step_goes_on() -> None:
    ear = Ear(rules=Book(RuleDecision((), {}, skip="needs 2f < workers")))
    ear.pipe.submit(skipped := rounds(7))
    ear.submit(8)
    ear.told()
    ear.pipe.answered(A, 1, (0,))
    assert ear.pipe.take_skipped() == [skipped]
    assert ear.pipe.take_skipped() == []
    assert skipped.skip == "needs 2f < workers"
    assert [command.version for command in ear.told()] == [V1]


# --- holding, asking, dropping ----------------------------------------------------------------------------------------------------------


def test_a_hold_tells_no_further_step_and_says_when_all_is_published() -> None:
    ear = Ear()
    ear.submit(7)
    ear.told()
    assert not ear.pipe.hold()
    ear.submit(8)
    assert ear.told() == ()
    ear.stepped(1)
    assert ear.pipe.hold()
    ear.pipe.go_on()
    assert [command.version for command in ear.told()] == [V2]


def test_a_thousand_steps_that_waited_are_told_after_a_hold() -> None:
    ear = Ear()
    assert ear.pipe.hold()
    for work_id in range(1000):
        ear.submit(work_id)
    ear.pipe.go_on()
    assert [command.version.number for command in ear.told()] == list(range(1, 1001))


def test_a_question_keeps_the_pipeline_from_being_idle_until_it_is_answered() -> None:
    ear = Ear(num_shards=2)
    answers: list[tuple[int, ...]] = []
    ear.pipe.ask((("update/1", "reference/1"), ("update/2", "reference/1")), answers.append)
    assert ear.told() == (Measure(1, (("update/1", "reference/1"), ("update/2", "reference/1"))),)
    assert not ear.pipe.idle
    ear.pipe.answered(A, 1, (1, 2))
    ear.pipe.answered(B, 1, (-3, 4))
    assert answers == [(-2, 6)]
    assert ear.pipe.idle


def test_dropping_nothing_says_nothing() -> None:
    ear = Ear()
    ear.pipe.drop(())
    assert ear.told() == ()
    ear.pipe.drop(("update/1",))
    assert ear.told() == (Drop(("update/1",)),)


# --- the map of shards ------------------------------------------------------------------------------------------------------------------


def test_batches_are_numbered_under_the_epoch_and_readers_ask_the_first_live_replica() -> None:
    shards = ShardMap(2, 1, epoch=3)
    assert shards.flush() == []
    for number in range(2):
        shards.tell(Drop((str(number),)))
        (batch,) = shards.flush()
        assert (batch.epoch, batch.seq, batch.commands) == (3, number, (Drop((str(number),)),))
    assert shards.primary(1) == B
    assert shards.lose(B)
    assert not shards.lose(B)
    assert shards.primary(1) == B2
    assert shards.complete
    shards.lose(B2)
    assert not shards.complete
    assert not shards.covered_by({A, A2})


@pytest.mark.parametrize(("num_shards", "replicas"), [(0, 0), (1, 2), (1, -1)])
def test_impossible_maps_are_refused(num_shards: int, replicas: int) -> None:
    with pytest.raises(ValueError, match="at least one shard and 0 or 1 replicas"):
        ShardMap(num_shards, replicas, epoch=0)
