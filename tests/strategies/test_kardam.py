"""Kardam: the worked table of the specification, literal events, a published-style study, whole runs against plain loops.

D coordinates.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from tests.strategies.asynchronous_study import Study

from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.errors import ConfigError
from mottle.core.protocol import Version
from mottle.strategies import KardamConfig

Vector = np.ndarray


@dataclass
class PlainKardam:
    """The specification's procedure, one message at a time."""

    x: Vector
    n: int
    f: int
    gamma: float
    a: float = 0.2
    strict: bool = False
    versions: list[Vector] = field(default_factory=list)
    previous: tuple[Vector, int] | None = None
    table: dict[int, float] = field(default_factory=dict)
    window: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.versions = [self.x]

    def hear(self, worker: int, tau: int, g_D: Vector) -> tuple[bool, float | None]:
        """Whether it is accepted, and its coefficient."""
        coefficient = None
        if self.previous is not None and tau != self.previous[1]:
            moved = float(np.linalg.norm(self.versions[tau] - self.versions[self.previous[1]]))
            coefficient = float(np.linalg.norm(g_D - self.previous[0])) / max(moved, 1e-4)
        if len(self.table) < self.n:
            passes = True
        elif self.previous is not None and tau == self.previous[1]:
            passes = False
        else:
            passes = coefficient <= sorted(self.table.values())[self.n - self.f - 1]
        if coefficient is not None:
            self.table[worker] = coefficient
        if not passes or (self.strict and worker in self.window):
            return False, coefficient
        self.x = self.x - self.gamma * math.exp(-self.a * (len(self.versions) - 1 - tau)) * g_D
        self.versions.append(self.x)
        self.previous = (g_D, tau)
        self.window = [*self.window, worker][-2 * self.f :] if self.f else []
        return True, coefficient


class Server:
    """A machine on vectors: gives it messages as arrived updates, answers what it asks of the shards, takes the steps that it decides."""

    def __init__(self, machine: Any, x_D: Vector, gamma: float) -> None:
        self.machine, self.gamma = machine, gamma
        self.versions = [x_D]
        self.vectors: dict[str, Vector] = {}
        self.num_messages = 0
        assert machine.hear(s.VersionPublished(Version(0, 0))) == [s.KeepModels()]
        self.vectors[p.model_name(0)] = x_D

    def hear(self, worker: int, tau: int, g_D: Vector, samples: int = 1) -> tuple[bool, float | None]:
        """Whether the message is accepted, and its coefficient where one was measured."""
        work_id, self.num_messages = self.num_messages, self.num_messages + 1
        self.vectors[p.update_name(work_id)] = g_D
        update = s.Update(work_id, worker, Version(0, tau), samples, float(g_D @ g_D), weight=float(samples))
        decisions = self.machine.hear(s.UpdateArrived(update))
        coefficient = None
        if decisions and isinstance(decisions[-1], s.MeasureDistances):
            squared = tuple(float(np.sum((self.vectors[a] - self.vectors[b]) ** 2)) for a, b in decisions[-1].pairs)
            coefficient = math.sqrt(squared[0]) / max(math.sqrt(squared[1]), 1e-4)
            decisions = self.machine.hear(s.DistancesMeasured(decisions[-1].tag, squared))
        return self._obey(decisions), coefficient

    def _obey(self, decisions: list[s.Decision]) -> bool:
        accepted = False
        for decision in decisions:
            match decision:
                case s.Keep(name, source):
                    self.vectors[p.KEPT + name] = self.vectors[source]
                case s.Apply(((work_id, weight),)):
                    self.versions.append(self.versions[-1] - self.gamma * weight * self.vectors[p.update_name(work_id)])
                    self.vectors[p.model_name(len(self.versions) - 1)] = self.versions[-1]
                    accepted = True
        if accepted:
            self.machine.hear(self.machine.view.publish(len(self.versions) - 1))
        return accepted


@pytest.fixture
def kardam(alone):
    defaults = {"batch_size": 1, "num_byzantine": 1, "frequency": "off"}

    def build(*, crew: int = 4, **options: Any) -> Any:
        machine = alone(KardamConfig(**{**defaults, **options}))
        machine.view.crew = tuple(range(crew))
        return machine

    return build


# --- the worked table -------------------------------------------------------------------------------------------------------------------

MESSAGES = [
    (0, 0, 10, None, True, 9.0),
    (1, 1, 9.5, 0.5, True, 8.05),
    (2, 2, 8.0, 1.578947368, True, 7.25),
    (3, 3, 7.5, 0.625, True, 6.5),
    (0, 4, 6.0, 2.0, True, 5.9),
    (1, 4, -60, None, False, 5.9),
    (2, 5, 5.9, 0.166666667, True, 5.31),
    (3, 3, 7.0, 0.814814815, False, 5.31),
    (0, 6, 50, 74.745762712, False, 5.31),
    (3, 6, 5.0, 1.525423729, False, 5.31),
]


def test_the_worked_table(kardam) -> None:
    start_D = np.array([10.0])
    server, plain = Server(kardam(), start_D, 0.1), PlainKardam(start_D, 4, 1, 0.1)
    for worker, tau, g, coefficient, accepted, after in MESSAGES:
        for told in (server.hear(worker, tau, np.array([g])), plain.hear(worker, tau, np.array([g]))):
            assert told == (accepted, None if coefficient is None else pytest.approx(coefficient, abs=1e-9))
        assert server.versions[-1] == plain.x == pytest.approx(after, abs=1e-12)


# --- literal events ---------------------------------------------------------------------------------------------------------------------


def candidate(work_id: int, worker: int, base: int, samples: int = 1) -> s.Update:
    return s.Update(work_id, worker, Version(0, base), samples, 1.0)


def test_an_accepted_update_is_kept_with_the_model_that_it_began_at_and_its_step_is_damped(kardam) -> None:
    machine = kardam(batch_size=4)
    machine.hear(s.VersionPublished(Version(0, 0)))
    machine.view.head = Version(0, 3)
    weight = math.exp(-0.2 * 2) * 0.5 / 2.0  # two of four samples, a sum over both
    kept = [s.Keep("gradient", "update/7"), s.Keep("base", "model/1")]
    assert machine.hear(s.UpdateArrived(candidate(7, 0, 1, samples=2))) == [*kept, s.Apply(((7, pytest.approx(weight)),))]


def test_updates_are_measured_one_at_a_time_in_order_of_arrival(kardam) -> None:
    machine = kardam()
    machine.hear(s.VersionPublished(Version(0, 0)), s.UpdateArrived(candidate(0, 0, 0)))
    machine.hear(machine.view.publish(1))
    pairs = (("update/1", "kept/gradient"), ("model/1", "kept/base"))
    assert machine.hear(s.UpdateArrived(candidate(1, 1, 1))) == [s.MeasureDistances("kardam/1", pairs)]
    assert machine.hear(s.UpdateArrived(candidate(2, 2, 1))) == []
    first = machine.hear(s.DistancesMeasured("kardam/1", (4.0, 1.0)))
    # The second began where the first did, which is now the last accepted one; in the warm-up that is no reason to refuse it.
    assert [type(each) for each in first] == [s.Keep, s.Keep, s.Apply, s.Keep, s.Keep, s.Apply]
    assert first[2].scores == {1: 2.0}
    assert first[5].terms == ((2, pytest.approx(math.exp(-0.2))),)  # it is one version older by then


def test_the_strict_filter_benches_a_worker_until_others_have_been_accepted(kardam) -> None:
    machine = kardam(frequency="strict")
    machine.hear(s.VersionPublished(Version(0, 0)), s.UpdateArrived(candidate(0, 0, 0)))
    machine.hear(machine.view.publish(1))
    machine.hear(s.UpdateArrived(candidate(1, 0, 1)))
    told = machine.hear(s.DistancesMeasured("kardam/1", (1.0, 1.0)))
    assert told == [s.Discard(1, "its worker had an update among the last accepted ones")]
    assert machine.hear(s.WorkerIdle(0)) == []
    for work_id, worker in ((2, 1), (3, 2)):
        machine.hear(s.UpdateArrived(candidate(work_id, worker, work_id - 1)))
        decisions = machine.hear(s.DistancesMeasured(f"kardam/{work_id}", (1.0, 1.0)))
    assert s.Assign(0, 1) in decisions


def test_the_counting_filter_lets_a_worker_have_f_of_the_last_ones(kardam) -> None:
    machine = kardam(crew=7, num_byzantine=2, frequency="count")
    machine.hear(s.VersionPublished(Version(0, 0)))
    for work_id in (0, 1):
        assert isinstance(machine.hear(s.UpdateArrived(candidate(work_id, 5, 0)))[-1], s.Apply)
    assert isinstance(machine.hear(s.UpdateArrived(candidate(2, 5, 0)))[0], s.Discard)
    assert isinstance(machine.hear(s.UpdateArrived(candidate(3, 4, 0)))[2], s.Apply)


def test_with_too_small_a_crew_people_are_told_and_nobody_is_asked_until_it_is_large_enough(kardam) -> None:
    machine = kardam(crew=3)
    (warning,) = machine.hear(s.WorkerIdle(0))
    assert "needs 4 workers, there are 3" in warning.text
    assert machine.hear(s.WorkerIdle(1)) == []
    (discard,) = machine.hear(s.UpdateArrived(candidate(0, 2, 0)))
    assert discard == s.Discard(0, "kardam with num_byzantine=1 needs 4 workers, there are 3")
    machine.view.crew = (0, 1, 2, 3)
    assert machine.hear(s.WorkerIdle(3)) == [s.Assign(worker, 1) for worker in range(4)]


def test_a_newcomer_takes_the_place_of_one_that_left_and_does_not_open_the_filter(kardam) -> None:
    machine = kardam()
    machine.hear(s.VersionPublished(Version(0, 0)))
    server = Server.__new__(Server)
    server.machine, server.gamma, server.num_messages = machine, 0.1, 0
    server.versions, server.vectors = [np.array([10.0])], {p.model_name(0): np.array([10.0])}
    for worker, tau, g, *_ in MESSAGES[:5]:
        server.hear(worker, tau, np.array([float(g)]))
    machine.view.crew = (1, 2, 3, 9)
    machine.hear(s.WorkerGone(0))
    assert server.hear(9, 5, np.array([500.0]))[0] is False
    assert sorted(worker for worker, _ in machine.strategy.state()["coefficients"]) == [1, 2, 3, 9]


def test_an_update_that_is_too_stale_is_discarded(kardam) -> None:
    machine = kardam(max_staleness=1)
    machine.hear(machine.view.publish(3))
    assert machine.hear(s.UpdateArrived(candidate(0, 0, 1))) == [s.Discard(0, "staleness 2 is above 1"), s.Assign(0, 1)]


def test_a_restored_machine_judges_on(kardam) -> None:
    server, other = (Server(kardam(), np.array([10.0]), 0.1) for _ in range(2))
    for worker, tau, g, *_ in MESSAGES[:6]:
        server.hear(worker, tau, np.array([float(g)]))
    other.machine.strategy.restore(server.machine.strategy.state())
    other.versions, other.vectors, other.num_messages = list(server.versions), dict(server.vectors), server.num_messages
    other.machine.hear(other.machine.view.publish(5))
    for worker, tau, g, *_ in MESSAGES[6:]:
        assert other.hear(worker, tau, np.array([float(g)])) == server.hear(worker, tau, np.array([float(g)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"num_byzantine": -1}, "count of rows"),
        ({"num_byzantine": 0.34}, "fewer than a third"),
        ({"frequency": "often"}, "strict, count or off"),
        ({"max_staleness": -1}, "max_staleness >= 0"),
        ({"dampening": "hingee"}, "did you mean"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_says_why(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KardamConfig(**{"batch_size": 1, "num_byzantine": 1, **options})


# --- a published-style study ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "frequency", "error"),
    [
        (0.0, "off", 0.0632),
        (0.0, "strict", 0.0727),
        (0.1, "off", 0.0589),
        (0.1, "strict", 0.107),
        (0.2, "off", 0.0583),
        (0.2, "strict", 0.933),
        (0.3, "off", 0.623),
        (0.3, "strict", 13.6),
        (0.4, "off", 2.6e8),
        (0.6, "strict", 9e7),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_below_a_third_of_liars_it_trains_and_above_it_does_not(kardam, share: float, frequency: str, error: float) -> None:
    machine = kardam(crew=10, num_byzantine=3, frequency=frequency)
    server = Server(machine, np.zeros(20), 0.02)
    study = Study(share, server.versions, first_fault=100)
    for worker, base, g_D in study.messages():
        server.hear(worker, base, g_D)
    measured = study.error
    if error < 1:
        assert measured == pytest.approx(error, rel=0.012)
    else:
        assert measured > 1


# --- whole runs -------------------------------------------------------------------------------------------------------------------------


def arrivals(run: Any) -> list[int]:
    """Updates in the order in which the strategy hears of them, as the run goes on."""
    order: list[int] = []
    handle = run.brain.strategy.handle

    def noting(event: s.StrategyEvent, view: s.View) -> list[s.Decision]:
        if isinstance(event, s.UpdateArrived):
            order.append(event.update.work_id)
        decisions: list[s.Decision] = handle(event, view)
        return decisions

    run.brain.strategy.handle = noting
    return order


@pytest.mark.parametrize(("seed", "num_shards"), [(0, 1), (1, 3), (2, 2), (3, 1)])
def test_a_run_is_the_procedure_in_plain_loops_step_for_step(train, least_squares, seed: int, num_shards: int) -> None:
    problem = least_squares(num_samples=60, dim=3, seed=30 + seed)
    speeds = tuple(np.random.default_rng(seed).permutation([2, 3, 3, 4, 5]).tolist())
    liars = {seed % 5: lambda sum_D: -8 * sum_D}
    spec = {"kardam": {"num_byzantine": 1, "frequency": "strict" if seed % 2 else "off"}}
    settings = {"speeds": speeds, "defaults": {"batch_size": 3}, "num_positions": 60, "max_samples": 150, "step_ns": seed % 3}
    run = train(spec, problem, tamper=liars, lr=0.02, num_shards=num_shards, **settings)
    arrived = arrivals(run)
    run.run()
    assert run.finished == p.Finished("samples")
    plain = PlainKardam(problem.start, 5, 1, 0.02, strict=seed % 2 == 1)
    verdicts = {verdict.work_id: verdict for verdict in run.verdicts}
    for verdict in (verdicts[work_id] for work_id in arrived):
        compute = run.orders[verdict.work_id]
        base = plain.versions[compute.base.number]
        lies = liars.get(verdict.worker, lambda sum_D: sum_D)
        positions = [(part.lease.start, part.lease.stop) for part in compute.parts]
        g_D = lies(sum(problem.gradient_sum(base, *span) for span in positions)) / verdict.samples
        share = min(verdict.samples / 3, 1.0)
        plain.gamma = 0.02 * share
        accepted, coefficient = plain.hear(verdict.worker, compute.base.number, g_D)
        assert accepted == (verdict.verdict == "accepted"), verdict
        if verdict.score is not None:
            assert verdict.score == pytest.approx(coefficient, rel=1e-9)
    assert sorted(run.history) == list(range(len(plain.versions)))
    for number, x_D in enumerate(plain.versions):
        np.testing.assert_allclose(run.history[number], x_D, rtol=1e-9, atol=1e-12)
    assert run.count("accepted") > 10
    assert run.count("rejected") > 0
    run.drain()
    for shard in run.shards.values():
        models = [name for name in shard.vectors if name.startswith("model/")]
        assert len(models) <= 5 + 1, f"models that nobody computes on any more: {models}"


def test_a_run_goes_on_from_a_checkpoint_with_what_the_filter_knew(train, least_squares) -> None:
    """With orders of one worker, and so one course of events, to the same parameters as the run that was never interrupted."""
    problem = least_squares(num_samples=40, dim=3, seed=40)
    spec = {"kardam": {"num_byzantine": 0}}
    settings = {"defaults": {"batch_size": 4}, "lr": 0.02, "num_positions": 40, "max_samples": 120, "checkpoint_every": 40}
    whole = train(spec, problem, **settings).run()
    killed = train(spec, problem, **settings)
    killed.run(until=lambda: killed.brain.samples >= 60)
    assert whole.count("rejected") > 0
    resumed = train(spec, problem, num_shards=2, resume=killed.checkpoint, coordination_epoch=1, **settings)
    resumed.run()
    for number, x_D in resumed.history.items():
        np.testing.assert_allclose(x_D, whole.history[number], rtol=1e-12)
