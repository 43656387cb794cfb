"""A whole training run in one thread on float64 numbers: the simulator's learning mode on problems that fit on a line.

Messages and transfers take no time; only computing takes time, so a test says by the workers' speeds which update comes first. After every
event the machines check their invariants.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mottle import strategies
from mottle.aggregation.decisions.rulebook import Rules
from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.core.fragments import Fragments
from mottle.core.layout import BLOCK, BUFFER_GROUP, Layout, Range, Slice
from mottle.core.rotation import Rotation
from mottle.core.shard import Ran
from mottle.engines.companions import SUFFIX
from mottle.engines.rotation import one_of, side_by_side
from mottle.optim.groups import in_rotation
from mottle.optim.state import cut, join
from mottle.simulate import Fleet, Learning, Servers, Simulation, Workers
from mottle.simulate.numbers import Done

# D coordinates
Vector = npt.NDArray[np.float64]
LR = 0.1
START = p.Version(0, 0)


class LeastSquares:
    """Sample i has loss 0.5 * (a_i . x - b_i)^2; the trusted data are all samples."""

    def __init__(self, num_samples: int, dim: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.rows_ND = rng.normal(size=(num_samples, dim))
        self.targets_N = self.rows_ND @ rng.normal(size=dim) + 0.1 * rng.normal(size=num_samples)
        self.start: Vector = np.zeros(dim)

    def gradient_sum(self, x_D: Vector, start: int, stop: int) -> Vector:
        rows_BD = self.rows_ND[start:stop]
        return np.asarray(rows_BD.T @ (rows_BD @ x_D - self.targets_N[start:stop]))

    def trusted_gradient(self, x_D: Vector) -> Vector:
        return self.gradient_sum(x_D, 0, len(self.targets_N)) / len(self.targets_N)

    def loss(self, x_D: Vector) -> float:
        return float(0.5 * np.mean((self.rows_ND @ x_D - self.targets_N) ** 2))


class Spread:
    """A problem of D numbers as one of the simulator's: each number begins a block, so that a cut between blocks cuts them too.

    Args:
        companion: what a second vector beside the parameters begins with; None for none.
    """

    def __init__(self, problem: Any, companion: float | None = None) -> None:
        self._problem = problem
        self._dim = len(problem.start)
        self._companion = companion
        size, tail = (self._dim - 1) * BLOCK + 1, self._dim * BLOCK
        slices = [Slice("x", 0, (size,), "float64", 0, "parameter")]
        if companion is not None:
            slices.append(Slice("x" + SUFFIX, tail, (size,), "float64", BUFFER_GROUP, "buffer"))
        self.layout = Layout(tuple(slices), size, size if companion is None else tail + size, "float64")
        self.start = self.wide(problem.start)
        if companion is not None:
            self.start[tail:] = companion

    def wide(self, x_D: Vector) -> torch.Tensor:
        """The parameters in their places, with a second vector of zeros."""
        wide = torch.zeros(self.layout.size, dtype=torch.float64)
        wide[: self.layout.num_params : BLOCK] = torch.from_numpy(np.asarray(x_D, dtype=np.float64))
        return wide

    def fragments(self, number: int) -> Fragments:
        """Coordinate i, with its block, belongs to fragment i mod `number`."""
        blocks = [Range(first, min(first + BLOCK, self.layout.size)) for first in range(0, self.layout.size, BLOCK)]
        return Fragments(tuple(tuple(blocks[each::number]) for each in range(number)))

    def narrow(self, wide: torch.Tensor) -> Vector:
        return wide[: self.layout.num_params : BLOCK].numpy().copy()

    def gradient(self, values: torch.Tensor, done: Sequence[Done]) -> tuple[torch.Tensor, None]:
        total_D = np.zeros(self._dim)
        for piece in done:
            total_D += piece.coefficient * self._problem.gradient_sum(self.narrow(values), piece.start, piece.stop)
        return self.wide(total_D), None

    def reference(self, values: torch.Tensor, order: p.Refresh) -> torch.Tensor:
        return self.wide(self._problem.trusted_gradient(self.narrow(values)))

    def evaluate(self, values: torch.Tensor) -> dict[str, float]:
        loss = self._problem.loss(self.narrow(values))
        return {"loss": loss, "test_loss": loss, "negative_loss": -loss}

    def trusted_loss(self, values: torch.Tensor) -> float:
        return self._problem.loss(self.narrow(values))


@dataclass
class Saved:
    """A complete checkpoint, and which samples had been used at its place."""

    state: str
    version: p.Version
    params: Vector
    used: Counter[tuple[int, int]]
    slots: Mapping[str, torch.Tensor]
    """What the shards saved, over the whole vector."""


class Saving(Learning):
    """Keeps what shards save at a snapshot."""

    def run(self, replica: p.ReplicaId, command: p.ShardCommand, *, save: bool = True) -> Ran:
        if isinstance(command, p.Snapshot):
            self.__dict__.setdefault("saved", {})[replica.shard] = self.memories[replica].optimizer_state()
        return super().run(replica, command, save=save)

    @property
    def slots(self) -> Mapping[str, torch.Tensor]:
        """Of the last snapshot."""
        saved = self.__dict__["saved"]
        return join([saved[shard] for shard in sorted(saved)], self.ranges)


@dataclass
class Held:
    """What one replica holds."""

    alive: bool
    values: Vector
    vectors: tuple[str, ...]


class Training:
    """One run. `history` holds the parameters of every version, `verdicts` and `notices` what the brain said.

    Of models in rotation parameters are a row for each model.
    """

    def __init__(
        self,
        spec: Any,
        problem: Any,
        *,
        speeds: tuple[int, ...] = (1,),
        tamper: Mapping[int, Callable[[Vector], Vector]] | None = None,
        step_ns: int = 0,
        lr: float = LR,
        defaults: Mapping[str, object] | None = None,
        resume: "Saved | None" = None,
        schedule: Callable[[int], float] | None = None,
        **config: Any,
    ) -> None:
        own = {"lr": lr, "optimizer": {"sgd": {"lr": lr}}, **(defaults or {})}
        self.brain = Brain(BrainConfig(**config), strategies.build(spec, own), rules=Rules())
        self.problem = Spread(problem, self.brain.strategy.companion)
        self.history: dict[int, Vector] = {}
        self.used: Counter[tuple[int, int]] = Counter()
        self._counted: set[int] = set()
        """Leases that an accepted update counts: of those that computed copies of a chunk, the first."""
        self.orders: dict[int, p.Compute] = {}
        self.verdicts: list[p.Verdict] = []
        self.notices: list[p.Notice] = []
        self.references: list[tuple[str, int]] = []
        self.checkpoint: Saved | None = None
        self._tamper = dict(tamper or {})
        version, start_D = START, problem.start
        if resume is not None:
            self.brain.restore(json.loads(resume.state))
            version, start_D, self.used = resume.version, resume.params, Counter(resume.used)
        self.history[version.number] = np.array(start_D, dtype=np.float64)
        strategy, optimizer = self.brain.strategy, own["optimizer"]
        models = strategy.models if isinstance(strategy, s.Rotating) else ()
        self._rotation = Rotation(self.problem.layout, len(models)) if models else None
        if models:
            self.history[version.number] = np.broadcast_to(start_D, (len(models), np.shape(start_D)[-1])).astype(np.float64)
        self._numbers = Saving(
            self.problem,
            self.brain.shards.live,
            fragments=self.problem.fragments(strategy.fragmentation.number) if isinstance(strategy, s.Fragmented) else None,
            rotation=self._rotation,
            optimizer=in_rotation(optimizer, models) if models else strategy.server_optimizer or optimizer,
            schedule=schedule,
            values=self._values_of(start_D),
            version=version.number,
            corrupt=self._corrupt,
        )
        for replica, memory in self._numbers.memories.items():
            memory.restore_optimizer(dict(cut({} if resume is None else resume.slots, self._numbers.ranges[replica.shard])))
        groups = tuple(Workers(name=f"first{i}", sample_s=each * 1e-9) for i, each in enumerate(speeds))
        fleet = Fleet(workers=groups, servers=Servers(step_s=step_ns * 1e-9, save_s=2e-9), detect_s=0)
        self._simulation = Simulation(
            self.brain, fleet, self._numbers, micro_batch=1, version=version, checks=True, on_event=self._note_all
        )
        self._simulation.start()

    def _values_of(self, params_D: Vector) -> torch.Tensor:
        """These parameters, with a second vector as at the beginning; of models in rotation all that begin so, or one row for each."""
        if self._rotation is not None:
            rows_MD = np.broadcast_to(params_D, (self._rotation.number, params_D.shape[-1]))
            return side_by_side([self.problem.wide(row_D.copy()) for row_D in rows_MD], self._rotation)
        values = self.problem.start.clone()
        params = slice(0, self.problem.layout.num_params)
        values[params] = self.problem.wide(params_D)[params]
        return values

    # --- what a test does -------------------------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool] | None = None) -> "Training":
        """Go on until the run has finished, nothing moves or `until` holds."""
        self._simulation.run(until)
        return self

    def drain(self) -> None:
        """After the end: what was on its way to the shards arrives, and nobody computes any more."""
        for worker in self.workers.values():
            worker.alive = False
        while self._simulation.clock.step():
            pass

    def join(self, sample_ns: int) -> int:
        return self._simulation.join(Workers(name="later", sample_s=sample_ns * 1e-9))

    def kill(self, slot: int) -> None:
        self._simulation.crew.crash(slot)
        self.tell(p.Left(slot, "killed"))

    def kill_replica(self, replica: p.ReplicaId) -> None:
        self._simulation.hosts.lose(replica)
        self._simulation.found_lost(replica)

    def tell(self, event: p.Event) -> None:
        self._simulation.tell(event)

    @property
    def now_ns(self) -> int:
        return self._simulation.clock.now_ns

    @property
    def finished(self) -> p.Finished | None:
        return self._simulation.finished

    @property
    def workers(self) -> dict[int, Any]:
        """By slot; each knows whether it is alive."""
        return self._simulation.crew.all

    @property
    def shards(self) -> dict[p.ReplicaId, Held]:
        hosts, memories = self._simulation.hosts.all, self._numbers.memories
        return {each: Held(host.alive, memories[each].values.numpy(), memories[each].held) for each, host in hosts.items()}

    @property
    def params(self) -> Vector:
        """The newest parameters."""
        return self.history[max(self.history)]

    def count(self, verdict: str) -> int:
        return sum(each.verdict == verdict for each in self.verdicts)

    # --- what it notes ----------------------------------------------------------------------------------------------------------------

    def _corrupt(self, slot: int, version: p.Version, update: torch.Tensor) -> torch.Tensor:
        tamper = self._tamper.get(slot)
        if tamper is None:
            return update
        if self._numbers.fragments is not None:  # of one fragment, whose numbers begin its blocks as well
            with np.errstate(invalid="ignore"):  # an infinite multiple of nothing
                update[::BLOCK] = torch.from_numpy(tamper(update[::BLOCK].numpy()))
            return update
        return self.problem.wide(tamper(self.problem.narrow(update)))

    def _note_all(self, event: p.Event, commands: Sequence[p.Command]) -> None:
        for command in commands:
            self._note(command)

    def _note(self, command: p.Command) -> None:
        match command:
            case p.Compute(work_id):
                self.orders[work_id] = command
            case p.Refresh(name, version):
                self.references.append((name, version.number))
            case p.Verdict():
                self._note_verdict(command)
            case p.Notice():
                self.notices.append(command)
            case p.Published(version):
                self.history[version.number] = self._values(version)
            case p.SaveModel(_, version):
                self._saved = Counter(self.used), self._values(version)
            case p.SaveCheckpoint(_, version, state=state):
                used, params_D = self._saved
                self.checkpoint = Saved(json.dumps(state), version, params_D, used, self._numbers.slots)

    def _values(self, version: p.Version) -> Vector:
        values, rotation = self._numbers.values(self._simulation.primaries, version.number), self._rotation
        if rotation is None:
            return self.problem.narrow(values)
        return np.stack([self.problem.narrow(one_of(values, rotation, model)) for model in range(rotation.number)])

    def _note_verdict(self, verdict: p.Verdict) -> None:
        self.verdicts.append(verdict)
        left = verdict.samples
        if verdict.verdict in ("accepted", "unselected"):
            parts = [part for part in self.orders[verdict.work_id].parts if part.lease.id not in self._counted]
            self._counted.update(part.lease.id for part in parts)
            for part in parts:
                stop = min(part.lease.start + left, part.lease.stop)
                self.used.update((part.lease.epoch, position) for position in range(part.lease.start, stop))
                left -= stop - part.lease.start
            assert left == 0, f"{verdict} names samples that were counted before"


@dataclass
class View:
    """What a strategy sees of the brain; a test sets it."""

    crew: tuple[int, ...] = (0, 1)
    version: p.Version = START
    head: p.Version = START
    free_samples: int = 100
    now_ns: int = 0

    def busy(self, worker: int) -> bool:
        return False

    def publish(self, number: int) -> s.VersionPublished:
        """Every step up to this version was decided and made."""
        self.version = self.head = p.Version(0, number)
        return s.VersionPublished(self.version)


@dataclass
class Alone:
    """A strategy without a brain; its invariants are checked after every event."""

    strategy: s.Strategy
    view: View = field(default_factory=View)

    def hear(self, *events: s.StrategyEvent) -> list[s.Decision]:
        """Decisions on the last of the events."""
        decisions: list[s.Decision] = []
        for event in events:
            decisions = self.strategy.handle(event, self.view)
            self.strategy.check()
        return decisions


@pytest.fixture
def alone() -> Callable[[Any], Alone]:
    """Build a strategy from its config and drive it with literal events."""
    return lambda config: Alone(config.build())


@pytest.fixture(scope="session")
def train() -> type[Training]:
    """Build a run: `train(spec, problem, speeds=..., num_positions=..., max_samples=...)`."""
    return Training


@pytest.fixture(scope="session")
def least_squares() -> type[LeastSquares]:
    return LeastSquares
