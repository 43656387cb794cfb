"""One fleet, several strategies: each runs alone, with the same machines, luck and faults."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mottle import strategies
from mottle.aggregation.decisions.rulebook import Rules
from mottle.core.brain import Brain
from mottle.core.config import BrainConfig
from mottle.core.errors import ConfigError
from mottle.core.naming import Spec, lookup, parse
from mottle.core.strategy import Fragmented, Rotating, Strategy
from mottle.simulate.fleet import Fleet
from mottle.simulate.numbers import Numbers, Synthetic
from mottle.simulate.outcome import Outcome
from mottle.simulate.planning import planner_of
from mottle.simulate.simulation import Simulation

TIMING_LR = 0.1
"""The learning rate of strategies that want to know one, where nothing is learnt: every test of updates accepts."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained.

    Attributes:
        config: the brain's, but for the number of shards' ranges, as a job gives it.
        numbers: made anew for each run.
        micro_batch: samples between two looks of a worker at its mailbox; None: an order at once.
        defaults: options that strategies take from the job: batch_size, lr, optimizer, rule.
        untested: why strategies that test updates on trusted data cannot run; empty if they can.
        num_workers: of the fleet, at the beginning.
    """

    config: BrainConfig
    numbers: Callable[[Brain], Numbers]
    micro_batch: int | None
    defaults: Mapping[str, Any]
    untested: str = ""
    num_workers: int

    def strategy(self, spec: Spec) -> Strategy:
        """The strategy that a spec names.

        Raises:
            ConfigError: it is unknown, lacks an option, or wants trusted data or workers that there are not.
        """
        strategy = strategies.build(spec, self.defaults)
        strategies.check_coded(spec, num_workers=self.num_workers, weighted_loss=self.config.weighted_loss)
        if strategy.needs_validation and self.untested:
            raise ConfigError(f"strategy {parse(spec, 'strategy')[0]} tests updates on trusted data, and {self.untested}")
        return strategy

    def run(self, fleet: Fleet, spec: Spec, *, seed: int | None = None, trace: bool = False) -> Simulation:
        """One strategy, to its end.

        Raises:
            ConfigError: as `strategy`.
        """
        brain = Brain(self.config, self.strategy(spec), rules=Rules())
        planner = planner_of(strategies.config_of(spec, self.defaults), self.micro_batch, self.defaults.get("optimizer", "sgd"))
        numbers = self.numbers(brain)
        return Simulation(brain, fleet, numbers, micro_batch=self.micro_batch, seed=seed, trace=trace, planner=planner).run()


def timing_task(fleet: Fleet, *, seconds: float) -> Task:
    """The fleet's own workload, without numbers, for that long.

    Raises:
        ConfigError: the fleet has no workload.
    """
    work = fleet.workload
    if work is None:
        raise ConfigError("wanted either a job (--job) or a workload: in the fleet file, to know what is trained")

    def numbers(brain: Brain) -> Numbers:
        strategy, num_shards = brain.strategy, brain.config.num_shards
        if isinstance(strategy, Rotating) and (models := len(strategy.models)):
            return Synthetic(models * work.model_bytes, num_shards, num_fragments=models, apart=True)
        vectors = 1 if strategy.companion is None else 2
        wanted = strategy.fragmentation if isinstance(strategy, Fragmented) else None
        number, narrow = (0, False) if wanted is None else (wanted.number, wanted.narrow)
        return Synthetic(vectors * work.model_bytes, num_shards, num_fragments=number, narrow=narrow)

    return Task(
        config=BrainConfig(num_positions=work.num_samples, max_ns=round(seconds * 1e9)),
        numbers=numbers,
        micro_batch=work.micro_batch_size,
        defaults={"batch_size": work.batch_size, "lr": TIMING_LR, "optimizer": "sgd"},
        num_workers=fleet.num_workers,
    )


def limited(task: Task, *, seconds: float | None, target: tuple[str, float] | None) -> Task:
    """The same task that ends earlier: after that time, or when a metric reaches a value."""
    max_ns = task.config.max_ns if seconds is None else round(seconds * 1e9)
    return replace(task, config=replace(task.config, max_ns=max_ns, target=target if target is not None else task.config.target))


def chosen(names: str, options: Mapping[str, Mapping[str, Any]], task: Task) -> tuple[dict[str, Spec], dict[str, str]]:
    """The strategies that a comparison runs.

    Args:
        names: `all`, or names with commas between.
        options: of each strategy, by its name.
    Returns:
        Specs by name; and those of `all` that cannot run here, with the reason.
    Raises:
        ConfigError: a name that is unknown, or a strategy that was named and cannot be built.
    """
    known = strategies.catalogue()
    canonical = {id(config): name for name, config in known.items()}
    wanted = list(known) if names == "all" else [canonical[id(lookup(each.strip(), known, "strategy"))] for each in names.split(",")]
    own = {canonical[id(lookup(name, known, "strategy"))]: dict(given) for name, given in options.items()}
    specs: dict[str, Spec] = {}
    left_out: dict[str, str] = {}
    for name in wanted:
        spec: Spec = {name: own.get(name, {})}
        try:
            task.strategy(spec)
        except ConfigError as error:
            if names != "all":
                raise
            left_out[name] = str(error)
            continue
        specs[name] = spec
    return specs, left_out


def by_speed(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Best first: by time to the target where there is one, else by throughput."""

    def rank(outcome: Outcome) -> tuple[bool, float, float]:
        reached_s = None if outcome.target is None else outcome.target.seconds
        return outcome.target is not None and reached_s is None, reached_s or 0.0, -outcome.samples_per_s

    return sorted(outcomes, key=rank)
