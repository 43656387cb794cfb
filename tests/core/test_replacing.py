"""Another model, or a fresh strategy, in the place of a run's own: literal events in, literal commands out. Schedules with replacements at
random moments are in `tests/simulate`."""

from tests.core.test_brain import R0, V1, Ear, only, order, receipt, shard_commands

from mottle.core import protocol as p
from mottle.core import shard as sh
from mottle.core import strategy as s
from mottle.core import worker as w
from mottle.core.layout import Range

V2 = p.Version(1, 2)
FETCH = p.Fetch("fetched/1", "donor")


def replacing() -> Ear:
    """Two workers; update 0 is applied, update 1 is out, order 2 as well, and a model is wanted."""
    ear = Ear(num_positions=40, max_samples=40)
    ear.start()
    ear.hear(receipt(0, 0), p.Stepped(R0, V1))
    assert shard_commands(ear.hear(p.ReplaceAsked("donor", {"lr": 0.5}))) == [FETCH]
    return ear


def test_training_goes_on_until_every_shard_has_the_model_and_then_nothing_of_the_old_line_counts() -> None:
    ear = replacing()
    assert only(ear.hear(receipt(1, 1)), p.Batch)[0].commands[0].source == "update/1", "a step while the model is fetched"
    said = ear.hear(p.Fetched(R0, "fetched/1"))
    assert only(said, p.Batch, p.Abandon) == [], "the step that was told is waited for"
    said = ear.hear(p.Stepped(R0, p.Version(0, 2)))
    assert [each.work_id for each in only(said, p.Abandon)] == [2]
    replace = shard_commands(said)[-1]
    assert (replace.version, replace.source, replace.drop) == (p.Version(1, 3), "fetched/1", ("fetched/1",))
    assert only(said, p.Compute) == [], "nothing is ordered before it is there"
    late = ear.hear(receipt(2, 0))
    assert [(each.work_id, each.verdict) for each in only(late, p.Verdict)] == [(2, "discarded")]
    said = ear.hear(p.Stepped(R0, p.Version(1, 3)))
    assert only(said, p.Published) == [p.Published(p.Version(1, 3), 8)]
    assert [each.base for each in only(said, p.Compute)] == [p.Version(1, 3)] * 2
    assert p.Configure({"lr": 0.5}) in shard_commands(said)
    assert "replaced" in [each.kind for each in only(said, p.Notice)]


def test_a_shard_that_cannot_get_it_changes_nothing() -> None:
    ear = replacing()
    said = ear.hear(p.Fetched(R0, "fetched/1", "no such host"))
    assert shard_commands(said) == [p.Drop(("fetched/1",))]
    assert only(said, p.Notice) == [p.Notice("warning", "the model was not replaced, and no setting changed: no such host")]
    assert not ear.brain.replacing
    assert only(ear.hear(receipt(1, 1)), p.Batch)[0].commands[0].source == "update/1"


def test_a_run_that_is_stopped_does_not_wait_for_a_model() -> None:
    ear = replacing()
    assert p.Drop(("fetched/1",)) in shard_commands(ear.hear(p.StopAsked("enough")))
    ear.hear(receipt(1, 1), receipt(2, 0), p.Stepped(R0, p.Version(0, 2)), p.Stepped(R0, p.Version(0, 3)))
    assert ear.brain.finished == "enough"


def test_other_options_of_the_strategy_are_a_break_without_a_new_model() -> None:
    ear = Ear(num_positions=40, max_samples=40)
    ear.brain._build = lambda spec: ear.brain._pristine
    ear.start()
    said = ear.hear(p.Configured({"strategy": {"async": {"max_staleness": 1}}}))
    assert [each.work_id for each in only(said, p.Abandon)] == [0, 1]
    assert [(each.work_id, each.base) for each in only(said, p.Compute)] == [(2, p.Version(0, 0)), (3, p.Version(0, 0))]
    assert ear.brain.settings["strategy"] == {"async": {"max_staleness": 1}}


class GoesBack:
    """An asynchronous strategy that retains the beginning, and goes back to it from version 2."""

    def __init__(self, inner) -> None:
        self._inner = inner

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def handle(self, event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        own: list[s.Decision] = []
        match event:
            case s.VersionPublished(p.Version(0, 0)):
                own = [s.Retain("begin")]
            case s.VersionPublished(p.Version(0, 2)):
                own = [s.Revert("begin")]
        return [*own, *self._inner.handle(event, view)]


def going_back() -> Ear:
    ear = Ear(num_positions=40, max_samples=40)
    ear.brain.strategy = GoesBack(ear.brain.strategy)
    assert p.Retain("kept/begin") in shard_commands(ear.start())
    return ear


def test_a_run_goes_back_to_what_its_shards_retain_and_gives_up_what_is_in_hand() -> None:
    ear = going_back()
    ear.hear(receipt(0, 0), p.Stepped(R0, V1), receipt(1, 1))
    said = ear.hear(p.Stepped(R0, p.Version(0, 2)))
    assert shard_commands(said)[-1] == p.Replace(p.Version(1, 3), "kept/begin", 2, (), ("kept/begin",), ("work/2",))
    assert [each.work_id for each in only(said, p.Abandon)] == [2, 3], "one of them had just been given"
    said = ear.hear(p.Stepped(R0, p.Version(1, 3)))
    assert [each.base for each in only(said, p.Compute)] == [p.Version(1, 3)] * 2
    assert [each.text for each in only(said, p.Notice)] == ["the model is an earlier one again; version 3 is the first of its line"]
    assert ear.brain.samples == 8, "what was applied stays used"


def test_going_back_comes_before_another_runs_model_and_before_a_stop() -> None:
    ear = going_back()
    ear.hear(p.ReplaceAsked("donor"), receipt(0, 0), p.Stepped(R0, V1), receipt(1, 1))
    said = ear.hear(p.Fetched(R0, "fetched/1"), p.StopAsked("enough"), p.Stepped(R0, p.Version(0, 2)))
    assert [each.source for each in shard_commands(said) if isinstance(each, p.Replace)] == ["kept/begin"]
    assert p.Drop(("fetched/1",)) in shard_commands(said)
    ear.hear(p.Stepped(R0, p.Version(1, 3)))
    assert ear.brain.finished == "enough"


def test_a_shard_answers_a_fetch_when_it_has_ended_and_a_replacement_as_a_step() -> None:
    shard = sh.Shard(R0, Range(0, 4096), version=p.Version(0, 1))
    assert shard.handle(sh.Heard(p.Told(0, batches=(p.Batch(0, 0, (FETCH,)),)))) == [sh.Run(FETCH)]
    assert shard.handle(sh.Ran(FETCH)) == []
    assert shard.handle(sh.FetchEnded("fetched/1")) == [sh.SendUp(p.Fetched(R0, "fetched/1"))]
    replace = p.Replace(V2, "fetched/1", 1, drop=("fetched/1",))
    shard.handle(sh.Heard(p.Told(0, batches=(p.Batch(0, 1, (replace,)),))))
    assert shard.handle(sh.Ran(replace))[0] == sh.SendUp(p.Stepped(R0, V2))
    assert shard.version == V2
    assert shard.handle(sh.ReadAsked("user", 2)) == [sh.Serve("user", 2)]


def test_what_was_fetched_is_said_again_to_another_coordinator() -> None:
    shard = sh.Shard(R0, Range(0, 4096), version=p.Version(0, 1))
    shard.handle(sh.Heard(p.Told(0, batches=(p.Batch(0, 0, (FETCH,)),))))
    shard.handle(sh.FetchEnded("fetched/1"))
    assert shard.handle(sh.Heard(p.Told(1, again=True))) == [sh.SendUp(p.Fetched(R0, "fetched/1"))]


def test_a_worker_reads_the_new_line_though_its_number_was_another_ones() -> None:
    worker = w.Worker(0)
    worker.handle(w.Ordered(order(0, 0, 0, 4)))
    worker.handle(w.Loaded(0))
    worker.handle(w.Computed(0, 0, 4))
    worker.handle(w.PushConfirmed(0))
    follows = order(1, 0, 4, 8, base=p.Version(1, 0))
    assert w.LoadBase(1, p.Version(1, 0)) in worker.handle(w.Ordered(follows)), "of the same number, and another model"


def test_what_is_offered_is_let_go_when_nobody_says_more() -> None:
    ear = Ear()
    said = ear.start() + ear.hear(p.OfferAsked("copy"))
    assert shard_commands(said)[-1] == p.Offer("copy")
    assert p.SetTimer("offer/copy", 60 * 10**9) in said
    assert shard_commands(ear.hear(p.TimerFired("offer/copy"))) == [p.Drop(("copy",))]
