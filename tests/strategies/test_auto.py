"""`auto`: what it measures, when it asks for a plan, and how it changes its strategy."""

import math
from dataclasses import dataclass, field

import pytest

from mottle import strategies
from mottle.core import strategy as s
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.core.errors import ConfigError
from mottle.core.protocol import Planned, PlanWanted, Version, update_name
from mottle.simulate import Fleet, Simulation, Synthetic, Workers
from mottle.strategies.auto import ANSWER_S, ROUNDS
from mottle.strategies.measuring import ENOUGH, Measurements
from mottle.strategies.noise_scale import MOST, NoiseScale, efficiency

V = [Version(0, number) for number in range(50)]


@dataclass
class View:
    """Two workers, ample samples."""

    crew: tuple[int, ...] = (0, 1)
    version: Version = V[0]
    free_samples: int = 10**6
    working: set[int] = field(default_factory=set)

    @property
    def head(self) -> Version:
        return self.version

    def busy(self, worker: int) -> bool:
        return worker in self.working


def auto(**options):
    return strategies.build({"auto": options}, {"batch_size": 8})


# --- the noise scale --------------------------------------------------------------------------------------------------------------------


def test_the_noise_scale_is_that_of_the_specification() -> None:
    """Eight gradients of 32 samples: |g_s|^2 = 5 and, for their mean of 256 samples, |g_b|^2 = 1.2."""
    noise = NoiseScale()
    num, small2, big2 = 8, 5.0, 1.2
    product = (num**2 * big2 - num * small2) / (num * (num - 1))  # the mean of <g_i, g_j> that gives the mean that norm
    noise.note([32.0] * num, [small2] * num, [product] * 28)
    assert noise.value == pytest.approx(211.478, abs=1e-3)


def test_numerator_and_denominator_are_smoothed_apart() -> None:
    noise = NoiseScale()
    noise.note([2.0], [3.0], [1.0])  # S = 4, G2 = 1
    noise.note([2.0], [5.0], [3.0])  # S = 4, G2 = 3
    assert noise.value == pytest.approx(4 / 2)


def test_a_gradient_that_drowns_in_noise_has_the_largest_noise_scale() -> None:
    noise = NoiseScale()
    assert noise.value is None
    noise.note([4.0, 4.0], [1.0, 1.0], [-0.1])
    assert noise.value == MOST


@pytest.mark.parametrize(("batch", "worth"), [(16, 1.0), (32, 1.0), (64, 0.883838), (128, 0.717213), (256, 0.520833)])
def test_larger_batches_are_worth_what_the_specification_says(batch: int, worth: float) -> None:
    assert efficiency(batch, 32, 211.478) == pytest.approx(worth, abs=1e-6)


# --- measuring --------------------------------------------------------------------------------------------------------------------------


def update(work_id: int, worker: int, samples: int, *, spent_ns: int, took_ns: int = 0, norm2: float = 1.0) -> s.Update:
    return s.Update(work_id, worker, V[0], samples, norm2, compute_ns=spent_ns, took_ns=took_ns)


def test_speed_overhead_and_exchange_are_told_apart() -> None:
    measured = Measurements()
    for work_id, samples in enumerate((8, 4, 12, 8)):
        measured.note(update(work_id, 0, samples, spent_ns=1000 + 100 * samples, took_ns=6000 + 100 * samples), alone=True)
        assert measured.known(0) == (work_id + 1 == ENOUGH)
    numbers = measured.of(0)
    assert numbers is not None
    assert numbers == pytest.approx({"sample_s": 100e-9, "overhead_s": 1000e-9, "exchange_s": 5000e-9, "jitter": 0.0})
    assert measured.speed([0, 1]) == pytest.approx(1e9 / 100)


def test_an_order_that_waited_behind_another_says_nothing_of_the_exchange() -> None:
    measured = Measurements()
    for work_id in range(ENOUGH):
        measured.note(update(work_id, 0, 8, spent_ns=800, took_ns=10**9), alone=False)
    numbers = measured.of(0)
    assert numbers is not None
    assert numbers["exchange_s"] == 0


def test_scatter_of_the_times_is_their_jitter() -> None:
    measured = Measurements()
    for work_id in range(100):
        measured.note(update(work_id, 0, 8, spent_ns=round(8000 * math.exp(0.2 * (-1) ** work_id))), alone=True)
    numbers = measured.of(0)
    assert numbers is not None
    assert numbers["jitter"] == pytest.approx(0.2, rel=0.15)


# --- asking -----------------------------------------------------------------------------------------------------------------------------


def played(*, seconds: float, slowness: float = 1.0):
    """A run of three quick workers and a slow one that nobody plans for, and all that was asked."""
    asked: list[dict] = []

    def answer(event, commands):
        for command in commands:
            if isinstance(command, PlanWanted):
                asked.append({"at_s": run.clock.now_ns / 1e9, "steps": run.tally.num_versions, **command.measured})

    workers = tuple(
        Workers(name=name, count=count, sample_s=slowness * sample_s, latency_s=0.003)
        for name, count, sample_s in (("fast", 3, 0.002), ("slow", 1, 0.008))
    )
    config = BrainConfig(num_positions=10**6, max_ns=round(seconds * 1e9))
    brain = Brain(config, strategies.build("auto", {"batch_size": 64}))
    run = Simulation(brain, Fleet(workers=workers), Synthetic(0), checks=True, on_event=answer)
    return run, asked


def test_a_plan_is_asked_for_once_everybody_has_been_measured() -> None:
    run, asked = played(seconds=1.0)
    run.run()
    first = asked[0]
    assert first["steps"] == ROUNDS - 2, "the version at the start is counted too, and the newest is yet to be"
    assert (first["running"], first["candidates"]) == ("lb_bsp", ["sync", "backup", "lb_bsp", "abs_sgd"])
    assert {slot: round(each["sample_s"], 6) for slot, each in first["workers"].items()} == {"0": 0.002, "1": 0.002, "2": 0.002, "3": 0.008}
    assert all(each["exchange_s"] == pytest.approx(0.006) for each in first["workers"].values())
    assert first["noise_scale"] == 0, "the simulator's gradients are all alike"


def test_without_an_answer_training_goes_on_as_it_is() -> None:
    run, asked = played(seconds=2 * ANSWER_S, slowness=10)
    run.run()
    assert len(asked) == 1, "nothing has changed, so nothing is asked again"
    assert run.brain.strategy.spec == "lb_bsp"
    assert run.brain.samples / run.clock.now_ns * 1e9 > 100


def test_with_a_robust_rule_only_strategies_that_apply_it_are_candidates() -> None:
    strategy = strategies.build({"auto": {"allow": ["async"]}}, {"batch_size": 8, "rule": {"median": {}}})
    assert strategy.config.candidates({"median": {}}) == ["sync", "backup", "lb_bsp", "abs_sgd"]
    assert strategy.config.candidates(None) == ["sync", "backup", "lb_bsp", "abs_sgd", "async"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allow": "async"}, "takes a list"),
        ({"allow": ["asink"]}, "did you mean 'async'"),
        ({"allow": [{"ssp": {"slak": 1}}]}, "did you mean 'slack'"),
        ({"allow": [{"diloco": {"optimizer": "sgd"}}]}, "cannot change to diloco in the middle of a run"),
        ({"allow": [{"zeno++": {"rho": 0.01, "lr": 0.1}}]}, "cannot change to zeno"),
        ({"allow": ["auto"]}, "cannot change to auto"),
        ({"replan": 0}, "replan > 0"),
    ],
)
def test_what_cannot_be_a_candidate_is_refused(options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        auto(**options)


# --- changing ---------------------------------------------------------------------------------------------------------------------------


def issue(strategy, view: View, decisions: list[s.Decision], first_id: int) -> list[int]:
    """Make orders of all assignments, as the brain does."""
    ids = []
    for decision in decisions:
        if isinstance(decision, s.Assign):
            work_id = first_id + len(ids)
            view.working.add(decision.worker)
            strategy.handle(s.OrderIssued(work_id, decision.worker, decision.samples), view)
            ids.append(work_id)
    return ids


def arrive(strategy, view: View, work_id: int, worker: int) -> list[s.Decision]:
    view.working.discard(worker)
    return strategy.handle(s.UpdateArrived(update(work_id, worker, 4, spent_ns=400)), view)


def test_a_change_waits_until_what_is_out_has_been_applied() -> None:
    strategy, view = auto(), View()
    assert issue(strategy, view, strategy.handle(s.VersionPublished(V[0]), view), 0) == [0, 1]
    assert strategy.handle(s.Planned("async"), view) == []
    assert arrive(strategy, view, 0, 0) == []
    compared, step = arrive(strategy, view, 1, 1)
    assert compared == s.MeasureDots("noise", (1,), update_name(0)), "before the step uses them up"
    assert step == s.Apply(((0, 1 / 8), (1, 1 / 8)))
    view.version = V[1]
    decisions = strategy.handle(s.VersionPublished(V[1]), view)
    assert decisions == [s.Assign(0, 8), s.Assign(1, 8)], "asynchronous orders, and none of LB-BSP before them"
    assert strategy.spec == "async"


def test_updates_that_the_old_strategy_kept_are_discarded() -> None:
    strategy, view = auto(), View()
    assert strategy.handle(s.Planned({"fedbuff": {"buffer_size": 3}}), view) == [s.Assign(0, 8), s.Assign(1, 8)]
    assert issue(strategy, view, [s.Assign(0, 8)], 5) == [5]
    strategy.handle(s.Planned("sync"), view)
    decisions = arrive(strategy, view, 5, 0)
    assert decisions == [s.Discard(5, "the strategy changed"), s.Assign(0, 4), s.Assign(1, 4)]


def test_alarms_of_the_old_strategy_mean_nothing_to_the_new_one() -> None:
    strategy, view = auto(), View()
    decisions = strategy.handle(s.Planned({"sync": {"deadline_s": 1.0}}), view)
    (alarm,) = [each.name for each in decisions if isinstance(each, s.SetAlarm)]
    assert alarm == "1/round-0"
    issue(strategy, view, decisions, 0)
    assert strategy.handle(s.AlarmRang("0/round-0"), view) == []


def test_an_answer_that_is_late_for_one_question_is_not_missed_for_the_next() -> None:
    strategy, view = auto(), View()
    work_id, alarms = 0, []
    for number in range(4 * ROUNDS):
        view.version = V[number]
        for worker in view.crew:
            strategy.handle(s.OrderIssued(work_id, worker, 4), view)
            spent_ns = 400 if number < 2 * ROUNDS else 800  # twice as slow from then on
            strategy.handle(s.UpdateArrived(update(work_id, worker, 4, spent_ns=spent_ns)), view)
            work_id += 1
        decisions = strategy.handle(s.VersionPublished(V[number]), view)
        alarms += [each.name for each in decisions if isinstance(each, s.SetAlarm)]
        if len(alarms) == 1 and number == ROUNDS:
            strategy.handle(s.Planned("lb_bsp"), view)
    assert alarms == ["plan-1", "plan-2"]
    strategy.handle(s.AlarmRang("plan-1"), view)
    assert strategy._asked, "the second question is open still"
    strategy.handle(s.AlarmRang("plan-2"), view)
    assert not strategy._asked


def test_a_rule_that_the_running_strategy_cannot_apply_brings_one_back_that_can() -> None:
    strategy, view = auto(), View()
    strategy.handle(s.Planned("async"), view)
    assert strategy.spec == "async"
    strategy.handle(s.RuleChanged({"median": {}}), view)
    assert strategy.spec == "lb_bsp"
    strategy.handle(s.Planned("fedbuff"), view)
    assert strategy.handle(s.WorkerIdle(0), view) == []
    strategy.handle(s.Planned({"abs_sgd": {"linear_batch": 16}}), view)
    assert strategy.handle(s.WorkerIdle(0), view) == []
    assert strategy.spec == "lb_bsp", "the plans were older than the rule"


def test_a_resumed_run_goes_on_with_its_strategy_and_measures_anew() -> None:
    before, view = auto(), View()
    before.handle(s.Planned("abs_sgd"), view)
    before.handle(s.VersionPublished(V[0]), view)
    after = auto()
    after.restore(before.state())
    assert after.spec == "abs_sgd"
    assert after.handle(s.VersionPublished(V[0]), view)[0] == s.Assign(0, 8), "round 0 of ABS-SGD"


def test_a_coded_strategy_may_be_allowed_and_a_run_changes_to_it_and_back(train, least_squares) -> None:
    """Nothing is lost on the way, surplus copies of its rounds included."""
    problem = least_squares(num_samples=60, dim=3, seed=51)
    spec = {"auto": {"allow": [{"gradient_coding": {"code": "fractional"}}]}}
    run = train(spec, problem, speeds=(1, 1, 2, 9), defaults={"batch_size": 8, "lr": 0.05}, num_positions=60, max_samples=480)
    seen = []
    for chosen in ("lb_bsp", {"gradient_coding": {"code": "fractional"}}, "sync", {"gradient_coding": {}}, {"gradient_coding": {}}):
        target = run.brain.samples + 70
        run.run(until=lambda target=target: run.brain.samples >= target)
        seen.append(run.brain.strategy.spec)
        run.tell(Planned(chosen, "the test says so"))
    run.run()
    assert seen == ["lb_bsp", "lb_bsp", {"gradient_coding": {"code": "fractional"}}, "sync", {"gradient_coding": {}}]
    assert run.brain.finished == "samples"
    assert set(run.used.values()) == {1}
    assert len(run.used) == 480
    assert any(verdict.reason.startswith("surplus") for verdict in run.verdicts)


def test_a_plan_that_comes_back_to_a_coded_strategy_before_the_change_makes_it_go_on() -> None:
    """Its next round was held back for a change that is no longer wanted."""
    strategy, view = auto(allow=["gradient_coding"]), View()
    assert [type(each) for each in strategy.handle(s.Planned("gradient_coding"), view)].count(s.AssignChunks) == 2
    for work_id, worker in enumerate(view.crew):
        view.working.add(worker)
        strategy.handle(s.OrderIssued(work_id, worker, 8), view)
    strategy.handle(s.Planned("sync"), view)
    view.working.discard(0)
    (step,) = strategy.handle(s.UpdateArrived(update(0, 0, 8, spent_ns=800)), view)
    assert step.chunks
    view.version = V[1]
    assert strategy.handle(s.VersionPublished(V[1]), view) == [], "one is out still"
    strategy.handle(s.Planned("gradient_coding"), view)
    view.working.discard(1)
    decisions = strategy.handle(s.OrderEnded(1, 1, "surplus"), view)
    assert [type(each) for each in decisions].count(s.AssignChunks) == 2


def test_a_coded_candidate_that_cannot_run_in_the_job_is_refused() -> None:
    spec = {"auto": {"allow": [{"gradient_coding": {"num_stragglers": 4}}]}}
    with pytest.raises(ConfigError, match="needs at least 5 workers, there are 3"):
        strategies.check_coded(spec, num_workers=3)
    strategies.check_coded("auto", num_workers=1)
