"""A fleet: the machines, the network between them, and what happens to them. Times in seconds, sizes in bytes, money in one currency.

The time model is that of `heterogeneous.md`, section 10: a micro-batch of u samples takes `overhead_s + u * sample_s`, a message of M bytes
takes `latency_s + M / bandwidth_bytes_per_s` on the worker's own link, and transfers share the link of a server first come, first served.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from mottle.core.naming import Spec
from mottle.simulate.checked import check, number
from mottle.simulate.faults import Fault
from mottle.simulate.hostile import check_attack, colludes
from mottle.simulate.speed import MOST_S, ComputeTime, check_compute_time

MOST_WORKERS = 1_000_000
MOST_BANDWIDTH = 1e14
"""100 TB/s: beyond any link, so a slip of the unit."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Workers that are alike; the i-th is called `NAME-i`."""

    name: str = "worker"
    count: int = number(default=1, least=0, most=MOST_WORKERS, whole=True)
    """That are there from the start; a fault script may let more join."""
    sample_s: ComputeTime
    """Forward and backward of one sample: seconds, `{lognormal: {median_s: 0.01, sigma: 0.3}}` or `{trace: {file: speeds.csv}}`."""
    overhead_s: float = number(default=0.0, least=0, most=MOST_S)
    """Of every micro-batch, whatever its size."""
    bandwidth_bytes_per_s: float | None = number(default=None, least=1, most=MOST_BANDWIDTH, optional=True)
    """Of the worker's own link, each way; none: transfers take no time but the latency."""
    latency_s: float = number(default=0.0, least=0, most=3600)
    """One way."""
    price_per_hour: float = number(default=0.0, least=0, most=1e6)
    """Of each worker, from joining to leaving."""
    attack: Spec | None = None
    """What these workers do to their updates, where something is learnt: `{sign_flip: {scale: 10}}`."""

    def __post_init__(self) -> None:
        wrong = [("sample_s", message)] if (message := check_compute_time(self.sample_s)) else []
        if self.attack is not None and (message := check_attack(self.attack)):
            wrong.append(("attack", message))
        if not isinstance(self.name, str) or not self.name:
            wrong.append(("name", f"wanted a text, got {self.name!r}"))
        check(self, wrong)


@dataclass(frozen=True, kw_only=True)
class Servers:
    """The machines that hold the parameters: one for each shard, each with a link of its own."""

    bandwidth_bytes_per_s: float | None = number(default=None, least=1, most=MOST_BANDWIDTH, optional=True)
    """Of a shard's link, each way, shared first come, first served; none: never the bottleneck."""
    step_s: float = number(default=0.0, least=0, most=MOST_S)
    """From the order to step until the new version is there."""
    save_s: float = number(default=0.0, least=0, most=1e6)
    """To write a part of a checkpoint; training goes on meanwhile."""
    start_s: float = number(default=0.0, least=0, most=1e6)
    """Until the process stands that takes the place of a lost replica."""
    price_per_hour: float = number(default=0.0, least=0, most=1e6)
    """Of each."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Validator:
    """The machine that computes reference gradients and metrics, next to the servers: its transfers take no time."""

    sample_s: float = number(default=0.0, least=0, most=MOST_S)
    """Of a reference gradient."""
    evaluation_s: float = number(default=0.0, least=0, most=1e6)
    """Of measuring one version."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Messages:
    """What the network does to every message, beyond the time that its bytes take. For studies of disorder."""

    delay_s: tuple[float, float] = (0.0, 0.0)
    """Bounds between which each message's extra delay is drawn; messages then overtake one another, and of what a worker had on its way
    when it died a part arrives."""
    repeat: float = number(default=0.0, least=0, most=1)
    """Probability that a message is delivered twice."""

    def __post_init__(self) -> None:
        check(self, [] if self._bounds_fit() else [("delay_s", f"wanted [least, most], in seconds up to 3600, got {self.delay_s!r}")])

    def _bounds_fit(self) -> bool:
        bounds: object = self.delay_s
        if not isinstance(bounds, tuple) or len(bounds) != 2 or any(type(each) not in (int, float) for each in bounds):
            return False
        return bool(0 <= bounds[0] <= bounds[1] <= 3600)

    @property
    def disorder(self) -> bool:
        return self.delay_s[1] > 0 or self.repeat > 0


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is trained, where no job says it: enough to know how long things take."""

    batch_size: int = number(least=1, most=10**9, whole=True)
    """Samples of one step (synchronous) or of one order (asynchronous)."""
    micro_batch_size: int | None = number(default=None, least=1, most=10**9, whole=True, optional=True)
    """Samples that go through the model at once, and so how often a worker looks up; an order's samples at once if left out."""
    model_bytes: int = number(least=0, most=10**14, whole=True)
    """Of one update, and of one version of the model."""
    num_samples: int = number(default=1_000_000, least=1, most=10**15, whole=True)
    """Of one pass over the data."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Everything that a simulation needs to know of the machines."""

    workers: tuple[Workers, ...]
    servers: Servers = field(default_factory=Servers)
    validator: Validator = field(default_factory=Validator)
    exchange: Literal["servers", "ring"] = "servers"
    """`servers`: updates go to the shards and versions come from them. `ring`: the crew averages by a ring all-reduce; pushing and pulling
    take no time, and a step takes 2 (n - 1) (latency + M / n / bandwidth) on the slowest link. For strategies that step for all at once."""
    detect_s: float = number(default=1.0, least=0, most=1e6)
    """From a crash until the coordinator knows."""
    messages: Messages = field(default_factory=Messages)
    faults: tuple[Fault, ...] = ()
    collusion: bool = False
    """Let attackers look at what others have computed by then, for attacks that need it (`ipm`, `alie`, `min_max` ...)."""
    workload: Workload | None = None
    currency: str = ""
    """Of the prices, for display."""
    seed: int = number(default=0, least=0, most=2**63 - 1, whole=True)

    def __post_init__(self) -> None:
        check(self, list(self._wrong()))

    def _wrong(self) -> Iterator[tuple[str, str]]:
        names = [group.name for group in self.workers]
        if len(set(names)) < len(names):
            yield "workers", f"groups need names of their own, got {', '.join(names)}"
        if self.exchange not in ("servers", "ring"):
            yield "exchange", f"wanted servers or ring, got {self.exchange!r}"
        if self.num_workers < 1 or self.num_workers > MOST_WORKERS:
            yield "workers", f"wanted 1 to {MOST_WORKERS:,} workers at the start, got {self.num_workers:,}"
        if not self.collusion and (named := [group.name for group in self.workers if colludes(group.attack)]):
            yield "workers", f"the attack of {', '.join(named)} looks at others' updates; open the channel with collusion: true"
        for index, fault in enumerate(self.faults):
            if message := self._fault_fault(fault):
                yield f"faults.{index}", message

    def _fault_fault(self, fault: Fault) -> str:
        if fault.group is not None and fault.group not in {group.name for group in self.workers}:
            return f"no group is called {fault.group!r}; known: {', '.join(group.name for group in self.workers)}"
        if fault.worker is None or fault.worker in self.possible_names:
            return ""
        known = sorted(self.possible_names)
        shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        return f"no worker is called {fault.worker!r}; known: {shown}"

    @property
    def num_workers(self) -> int:
        """At the start."""
        return sum(group.count for group in self.workers)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the workers at the start, in the order of their slots."""
        return tuple(f"{group.name}-{index}" for group in self.workers for index in range(group.count))

    @cached_property
    def possible_names(self) -> frozenset[str]:
        """Of all that may ever be there: those at the start and those that the script lets join."""
        joins = Counter(fault.group for fault in self.faults if fault.kind == "join")
        joins.update((fault.worker or "").rpartition("-")[0] for fault in self.faults if fault.kind == "rejoin")
        return frozenset(f"{group.name}-{index}" for group in self.workers for index in range(group.count + joins[group.name]))

    def group(self, name: str) -> Workers:
        return next(group for group in self.workers if group.name == name)
