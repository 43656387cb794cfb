"""The seam between the brain and a strategy: what a strategy hears, sees and decides.

A strategy is a pure state machine. It never talks to shards or workers: it returns decisions, and the brain turns them into leases, work
orders, shard batches and verdicts. So a strategy holds only what is its own (a round, a buffer, a reference) and every rule about loss,
duplication and order stays in one place.

Update vectors on the shards are gradient *sums* over the samples of their order, or what local steps led to times their number.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Protocol, runtime_checkable

from mottle.core.fragments import Fragmentation
from mottle.core.messages import message
from mottle.core.naming import Spec
from mottle.core.protocol import LocalSteps, Settings, Version

# --- what a strategy hears --------------------------------------------------------------------------------------------------------------


@message
class Update:
    """An acknowledged update that waits for its verdict.

    `norm2` and `dots` are of the gradient sum, over the parameters (not the buffers), rounded once from exact sums.
    """

    work_id: int
    worker: int
    base: Version
    samples: int
    norm2: float
    dots: Mapping[str, float] = field(default_factory=dict)
    weight: float = 0.0
    """What the sum is divided by to give a mean: its samples, or the units of a loss that has its own (tokens)."""
    compute_ns: int = 0
    """Time that the worker says it computed, waiting excluded; at most what passed since its order. A liar who makes itself out to be fast
    gets a larger share and delays the step, as it could by being late; one who makes itself out to be slow gets a smaller one. What its
    rows weigh in a robust rule stays capped."""

    took_ns: int = 0
    """From the order to the update's acknowledgement, by the run's clock."""

    def __post_init__(self) -> None:
        if not self.weight:
            object.__setattr__(self, "weight", float(self.samples))


@message
class WorkerIdle:
    """The worker could take an order now."""

    worker: int


@message
class WorkerGone:
    worker: int


@message
class UpdateArrived:
    update: Update


@message
class OrderIssued:
    """An `Assign` became an order."""

    work_id: int
    worker: int
    samples: int


@message
class NoWork:
    """An `Assign` found no free samples for this worker; it is offered again when that changes."""

    worker: int


@message
class OrderEnded:
    """No update will come of an order: its worker died or gave it back, its update failed the gate, or nothing in it counts."""

    work_id: int
    worker: int
    reason: str
    refused: bool = False
    """Its update came, and was refused for its content."""


@message
class VersionPublished:
    version: Version


@message
class ReferenceReady:
    """The shards hold the reference vector `name`: the gradient of the mean trusted loss at `version`."""

    name: str
    version: Version
    norm2: float


@message
class ReferenceFailed:
    name: str
    reason: str


@message
class LossMeasured:
    """The mean loss of `version` on the trusted data; None where it could not be measured."""

    version: Version
    loss: float | None


@message
class DotsMeasured:
    tag: str
    dots: tuple[float, ...]


@message
class DistancesMeasured:
    tag: str
    squared: tuple[float, ...]


@message
class AlarmRang:
    name: str


@message
class RuleChanged:
    """The user put another robust rule in the place of the strategy's, from the next step on; None is the mean."""

    rule: Settings | None


@message
class ChunksReleased:
    """These chunks ended without a step."""

    chunks: tuple[int, ...]
    refused: bool
    """Whether some samples among them may be what is wrong: all that came of them was refused for its content."""


@message
class Planned:
    """The answer to `AskPlan`: the strategy to go on with."""

    spec: Spec


@message
class NothingLeft:
    """No samples are left to lend, no order is out and no step is under way; undecided updates may still be held."""


StrategyEvent = (
    WorkerIdle
    | WorkerGone
    | UpdateArrived
    | OrderIssued
    | NoWork
    | OrderEnded
    | VersionPublished
    | ReferenceReady
    | ReferenceFailed
    | LossMeasured
    | DotsMeasured
    | DistancesMeasured
    | AlarmRang
    | RuleChanged
    | ChunksReleased
    | Planned
    | NothingLeft
)


# --- what it decides --------------------------------------------------------------------------------------------------------------------


@message
class Assign:
    """Order up to `samples` samples from the worker, at the newest published version. If none are free the worker is idle again later."""

    worker: int
    samples: int
    least: int | None = None
    """Given, the batch grows from so many samples until the strategy cuts the order, or has no more; what is unused is free again."""
    local: LocalSteps | None = None
    """Given, the worker takes inner optimizer steps; cut, it stops after a whole one."""


@message
class LendChunk:
    """Lend samples to the round itself, under a number of the strategy's own: several workers may then be ordered to compute them, at the
    version that is the newest now. At most `View.free_samples`; the round ends with `Apply` or `ReleaseChunks`."""

    chunk: int
    samples: int
    fragment: int | None = None
    """The model that they are for, of several side by side."""


@message
class AssignChunks:
    """Order the sum of coefficient * gradient sum over these chunks, all of one version (and one of several models), from a worker that has
    room for an order."""

    worker: int
    parts: tuple[tuple[int, float], ...]


@message
class ReleaseChunks:
    """Nothing comes of these chunks: orders of them are given up, their samples are free again (or rejected, see `mottle.core.chunks`)."""

    chunks: tuple[int, ...]
    reason: str


@message
class Apply:
    """Step with direction sum of weight * update over `terms`, added in that order; `unselected` updates are spent without a part in it.

    The terms are of ordinary orders, or each sample of `chunks` is in them once. Other orders of these chunks are then given up.
    """

    terms: tuple[tuple[int, float], ...]
    unselected: tuple[int, ...] = ()
    scores: Mapping[int, float] = field(default_factory=dict)
    lead: int = 0
    """By how many samples the schedule's argument is ahead of those spent: from the first to the last inner step of the updates, or where a
    strategy measures progress otherwise."""
    chunks: tuple[int, ...] = ()
    """That end with this step."""
    buffers: str | None = None
    """Reference vector whose buffers the step takes in the place of the updates'; empty: they stay; None: the updates' own."""
    fragment: int | None = None
    """What the updates are of, and all that steps; None: everything."""
    rate: float = 1.0
    """Factor on the learning rate of this step, beside the schedule's."""


@message
class ApplyRule:
    """Step with the direction that a robust rule makes of the updates' means; rows are (work id, weight)."""

    rows: tuple[tuple[int, float], ...]
    rule: Settings
    num_expected: int
    """Rows that the strategy set out to wait for; those missing use up fault budget."""
    lead: int = 0
    """As in `Apply`."""
    fragment: int | None = None
    """As in `Apply`."""
    rate: float = 1.0
    """As in `Apply`."""


@message
class Reject:
    """A verdict on content; the samples are tried once more elsewhere, or counted as rejected."""

    work_id: int
    reason: str
    score: float | None = None


@message
class Discard:
    """Late, stale or surplus: the samples are free again."""

    work_id: int
    reason: str


@message
class CutOrder:
    work_id: int


@message
class MixIn:
    """Have the worker of an order that adopts a fragment mix in that of the newest version; see `protocol.Mix`."""

    work_id: int
    fragment: int
    share: float


@message
class AbandonOrder:
    work_id: int
    reason: str


@message
class RequestReference:
    """Ask the validator for a reference at the newest published version; the shards then measure arriving updates against it."""

    name: str
    num_samples: int


@message
class MeasureLoss:
    """Ask the validator for the loss of the newest published version on all of the trusted data; training goes on meanwhile."""


@message
class MeasureDots:
    """Inner products of held vectors: update ids with a reference name."""

    tag: str
    work_ids: tuple[int, ...]
    reference: str


@message
class KeepModels:
    """From here on shards keep the model of every version that an undecided order began at, as the vector `protocol.model_name`.

    To be said before the first step: with the first event.
    """


@message
class Keep:
    """Copy a vector that the shards hold (an update becomes its mean) to `protocol.KEPT` + name, over what was there."""

    name: str
    source: str


@message
class Retain:
    """Have the shards keep the newest published version, with the optimizer's state, for a `Revert`; no step may be under way."""

    name: str


@message
class Release:
    """What was retained under that name is not wanted any more."""

    name: str


@message
class Revert:
    """Make a version of a new lineage of what was retained under that name, which ends with it; `VersionPublished` follows.

    What is in hand is given up, as wherever a model is replaced: the strategy goes on in a fresh one that is given its `state`.
    """

    name: str


@message
class MeasureDistances:
    """Squared distances of pairs of held vectors, each taken as a mean."""

    tag: str
    pairs: tuple[tuple[str, str], ...]


@message
class Forget:
    """Drop a reference that is no longer used."""

    name: str


@message
class SetAlarm:
    name: str
    after_ns: int


@message
class Warn:
    """Something that people should know."""

    text: str
    kind: str = "warning"
    """Of the notice: `batch` where a step has another size from here on."""


@message
class AskPlan:
    """Ask which strategy suits the crew; `measured` is what is known of it, as JSON types. Answered by `Planned`, or not at all."""

    measured: Settings


@message
class Halt:
    """The run cannot go on."""

    reason: str


Decision = (
    Assign
    | LendChunk
    | AssignChunks
    | ReleaseChunks
    | Apply
    | ApplyRule
    | Reject
    | Discard
    | CutOrder
    | MixIn
    | AbandonOrder
    | RequestReference
    | MeasureLoss
    | MeasureDots
    | Forget
    | AskPlan
    | SetAlarm
    | Halt
    | Warn
    | KeepModels
    | Keep
    | Retain
    | Release
    | Revert
    | MeasureDistances
)


# --- what it sees -----------------------------------------------------------------------------------------------------------------------


class View(Protocol):
    """Read-only facts that the brain keeps."""

    @property
    def crew(self) -> tuple[int, ...]:
        """Active workers, ascending slot."""

    @property
    def version(self) -> Version:
        """Newest published version."""

    @property
    def head(self) -> Version:
        """Version after every step decided so far; staleness counts from here."""

    @property
    def now_ns(self) -> int:
        """The run's clock at the event."""

    @property
    def free_samples(self) -> int:
        """Samples that could be lent now."""

    def busy(self, worker: int) -> bool:
        """Whether the worker has an order in hand."""


class Strategy(Protocol):
    """Who computes what and when the model changes."""

    @property
    def max_in_flight(self) -> int:
        """Orders that one worker may have in hand."""

    @property
    def barriered(self) -> bool:
        """Whether the next data epoch waits for the last one to end."""

    @property
    def needs_validation(self) -> bool:
        """Whether it works with references from trusted data."""

    @property
    def server_optimizer(self) -> Settings | None:
        """What the shards step with, where workers take inner steps with the job's own optimizer; None: they step with the job's."""

    @property
    def companion(self) -> float | None:
        """What a second vector begins with that the crew shares beside the parameters (`engines.companions`); None: there is none."""

    def handle(self, event: StrategyEvent, view: View) -> list[Decision]: ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep, as JSON types; updates still undecided are not part of it."""

    def restore(self, state: Mapping[str, Any]) -> None: ...

    def check(self) -> None:
        """Raise AssertionError if an invariant of its own is broken."""


@runtime_checkable
class Fragmented(Protocol):
    """A strategy whose updates and steps are of one fragment each."""

    @property
    def fragmentation(self) -> Fragmentation:
        """How it wants the model divided."""


@runtime_checkable
class Rotating(Protocol):
    """A strategy that can train several models in rotation (`mottle.core.rotation`); its updates and steps are then of one each."""

    @property
    def models(self) -> tuple[Settings, ...]:
        """What is each one's own: `seed` of its beginning, options of its optimizer. Empty: there is one model."""


@runtime_checkable
class Assessing(Protocol):
    """A strategy that asks for losses on trusted data (`MeasureLoss`)."""

    @property
    def measures_loss(self) -> bool: ...
