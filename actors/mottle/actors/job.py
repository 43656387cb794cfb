"""What the actors of a run must know, in plain picklable data. The front door builds it; nothing here decides anything."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mottle.actors.slot_state import TakeUp
from mottle.core.config import BrainConfig
from mottle.core.errors import ConfigError
from mottle.core.fragments import Fragments
from mottle.core.layout import Layout
from mottle.core.naming import configured, lookup, parse
from mottle.core.protocol import Planned
from mottle.core.rotation import Rotation
from mottle.data import Loader
from mottle.data.source import Source
from mottle.engines import CATALOGUE, Loss, Metric
from mottle.engines.placed import PlacedConfig
from mottle.optim.schedule import Schedule

Spec = Mapping[str, Any] | str


@dataclass(frozen=True, kw_only=True)
class WorkerGroup:
    """Workers that are alike.

    `count` of them start; up to `max_count` are added where machines come, or by hand. Resources are Ray's, for each worker.
    """

    name: str = "workers"
    count: int = 1
    max_count: int | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    accelerator_type: str | None = None
    label_selector: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    """Declared extra time of each sample, for studies of unequal fleets."""
    attack: Spec | None = None
    """What these workers do to their updates, for studies of hostile fleets."""
    autocast: str | None = None
    engine: Spec = "torch"
    """What a worker computes with: `torch`, one process; or `placed`, one for each stage of the model, each with these resources."""


def placed_config(group: WorkerGroup) -> PlacedConfig | None:
    """The options of a group whose workers are gangs; None of one whose workers are single processes.

    Raises:
        ConfigError: an engine or option that there is not.
    """
    name, options = parse(group.engine, "engine")
    config, _ = lookup(name, CATALOGUE, "engine")
    if config is PlacedConfig:
        return configured(PlacedConfig, options, "engine 'placed'")
    if options:
        raise ConfigError(
            f"engine {name!r} takes what it needs from the job (micro_batch_size) and the group (autocast); leave options out"
        )
    return None


def processes(group: WorkerGroup) -> int:
    """Of each of its workers."""
    config = placed_config(group)
    return 1 if config is None else config.stages


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    name: str
    model: Callable[[], Any]
    """Makes the module, untrained; the parameters come from the shards."""
    loss: Loss
    layout: Layout
    fragments: Fragments | None = None
    """Where the strategy sends and steps them apart."""
    rotation: Rotation | None = None
    """Where it trains several models: `layout` and `fragments` are then those of all of them."""
    loader: Loader
    validation: Source | None
    test: Source | None
    metrics: Mapping[str, Metric]
    optimizer: Spec
    """The user's: of the shards, or of the workers' inner steps where the strategy has one for the shards."""
    server_optimizer: Spec | None = None
    """What the shards step with, where that is not `optimizer`."""
    schedule: Schedule | None
    strategy: Spec
    strategy_defaults: Mapping[str, Any]
    codec: Spec
    groups: tuple[WorkerGroup, ...]
    brain: BrainConfig
    micro_batch_size: int
    run_dir: str
    seed: int = 0
    max_grad_norm_per_worker: float | None = None
    threads_per_worker: int = 1
    total_samples: int | None = None
    collusion: bool = False
    """Whether attackers may see the others' updates."""
    channel: Any = None
    """Handle of the collusion channel, put in when the run starts."""
    planner: Callable[[Mapping[str, Any]], Planned] | None = None
    """Answers `PlanWanted`, in the coordinator's process; for strategies that ask."""
    lent_crew: int = 0
    """Above 0: the run starts no workers. Somebody lends them (`mottle.actors.guests`), and it begins with so many."""
    lender: Any = None
    """Actor that does so: asked `lent_to(run_dir)` by a coordinator that takes over."""
    keep: "KeepCheckpoints" = field(default_factory=lambda: KeepCheckpoints())

    @property
    def model_layout(self) -> Layout:
        """Of what an engine holds: of one model, if there are several."""
        return self.layout if self.rotation is None else self.rotation.layout

    @property
    def own_groups(self) -> tuple[WorkerGroup, ...]:
        """Groups whose workers the run starts itself."""
        return () if self.lent_crew else self.groups


@dataclass(frozen=True, kw_only=True)
class KeepCheckpoints:
    """Which checkpoints stay: the newest `count`, or those that are best by a metric; all of them with `count` None."""

    count: int | None = None
    score: str | None = None
    highest: bool = True


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """Where an interrupted run is taken up."""

    version: tuple[int, int]
    brain: Mapping[str, Any]
    slots: Sequence[Mapping[str, Any]]
    """Optimizer state of each shard."""
    log_seq: int
    workers: Sequence[TakeUp] = ()
    """What the workers of the first crew go on from, by ascending slot."""
