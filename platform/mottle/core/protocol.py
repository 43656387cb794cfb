"""Everything that crosses between coordinator, shards, workers and validator.

Closed lists of small frozen dataclasses: facts (events) go up to the coordinator's brain, orders (commands) go down. A strategy that
needs more changes this file first. Nothing here holds a tensor: updates and vectors travel on the data plane under the names used here.

Numbers that decide (`norm2`, `dots`) are exact integers as made by `mottle.core.exactsum`: partial sums of shards add without rounding,
so a decision does not depend on how the parameters are cut.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Settings = Mapping[str, Any]
PARAMS = "params"
REFERENCE = "reference/"
"""Names of reference vectors begin so; the validator alone may push them."""
KEPT = "kept/"
"""Names of vectors that a strategy keeps for itself begin so; they are part of a checkpoint."""
VALIDATOR = -1
"""Sender of reference vectors; workers have slots from 0."""


class Version(NamedTuple):
    """Name of one published model. `number` exists only when every shard has stepped; `lineage` grows when the model is replaced."""

    lineage: int
    number: int

    def next(self) -> "Version":
        return Version(self.lineage, self.number + 1)


class ReplicaId(NamedTuple):
    """One shard actor: `shard` is the range it holds, `replica` 0 is the primary until it is lost."""

    shard: int
    replica: int


@dataclass(frozen=True, slots=True)
class Lease:
    """Positions [start, stop) of the data order of one epoch, lent to a worker."""

    id: int
    epoch: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Part:
    """A lease inside a work order; `coefficient` multiplies its gradient sum (gradient coding)."""

    lease: Lease
    coefficient: float = 1.0


# --- until when a worker computes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Samples:
    """All samples of the order's parts."""

    count: int


@dataclass(frozen=True, slots=True)
class VersionAfter:
    """Until that version exists (the worker is then told by `Cut`); unused leases go back."""

    version: Version
    least: int = 0
    """Samples that are computed whenever the cut comes."""


Until = Samples | VersionAfter


# --- what a worker makes of its samples -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LocalSteps:
    """Take an inner optimizer step after every `batch` samples, and push where they led instead of a gradient sum.

    The update is the weight of the order (its samples, or the loss's own units) times `base - end`, with the buffers in the same form: so
    sums over workers, means, robust rules and tests of updates treat it as a gradient sum. The optimizer and its state are the worker's
    own; the state is kept from order to order, and starts anew in a worker that joins.
    """

    batch: int
    """Samples of one step, of this worker; the last step of an order has what is left."""
    optimizer: str | Settings
    """As job files name it; or a method of the strategy's own, which `mottle.engines.inner` knows."""
    steps: int = 1
    """That are planned for the round."""
    advance: int = 0
    """By how much a step moves the argument of the learning-rate schedule: the samples that the whole crew spends meanwhile."""
    fresh: bool = False
    """Begin with a new optimizer state, for methods that reset it."""
    pull: float = 0.0
    """Strength rho of a proximal term rho/2 |x - base|^2."""
    whole: bool = False
    """Push the weight times `end` itself: the whole model."""
    samples: int = 0
    """Argument of the schedule at the first step; the brain adds those spent when it is ordered."""
    lr: float | None = None
    """Learning rate before the schedule, where the user changed it; the brain fills it in."""
    send: int | None = None
    """Push this fragment alone, and go on from where the steps led; None pushes everything."""
    follows: int | None = None
    """The worker's order whose end this one begins at; None: the base."""
    adopt_after: int | None = None
    """Inner steps of this order before the fragment that `Mix` names is mixed in, at the latest at its end; None: nothing is."""


# --- commands to workers ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Compute:
    """Compute the gradient sum of `parts` at version `base`, or what `local` steps from there make of them; push it to every shard."""

    work_id: int
    worker: int
    base: Version
    parts: tuple[Part, ...]
    until: Until
    local: LocalSteps | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """Stop at the next micro-batch boundary and push what is there."""

    worker: int
    work_id: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """Stop at the next micro-batch boundary and push nothing; the leases are already back with the coordinator."""

    worker: int
    work_id: int


@dataclass(frozen=True, slots=True)
class Dismiss:
    """The worker has left the crew: finish nothing, stop."""

    worker: int


@dataclass(frozen=True, slots=True)
class Mix:
    """In that order, at the step that it names: x <- share * x + (1 - share) * the fragment of `version`, which is the base of its next
    pseudo-gradient."""

    worker: int
    work_id: int
    version: Version
    fragment: int
    share: float


@dataclass(frozen=True, slots=True)
class SaveSlot:
    """Save what the worker keeps from order to order, as it was before its first order from `before` on; answer `SlotSaved`."""

    worker: int
    checkpoint: int
    before: int
    """The oldest of its orders that the checkpoint does not contain, or an id that none has yet."""


@dataclass(frozen=True, slots=True)
class Reattach:
    """From here on the worker hears the coordinator of a new epoch; of its orders these are open, and `cut` of them are to be pushed."""

    worker: int
    epoch: int
    orders: tuple[Compute, ...]
    cut: tuple[int, ...]


# --- commands to shards: the same batch, in the same order, to every replica ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Combine:
    """vector[into] = sum over terms of weight * vector[name], added in the given order; the terms are used up by it."""

    into: str
    terms: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class ApplyRule:
    """Run a robust rule on rows vector[name] / count; `decision` is None for a coordinate-wise rule, else what the brain decided."""

    into: str
    rule: Settings
    rows: tuple[tuple[str, float], ...]
    decision: Settings | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """Answer with the exact partial inner products of the named pairs over the parameters of the range."""

    request: int
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Distances:
    """Answer with the exact partial squared distances of the named pairs, each vector as a mean, over the parameters of the range."""

    request: int
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Keep:
    """vector[into] = a copy of vector[source] as a mean, or of the parameters as they are at this place of the command order."""

    into: str
    source: str


@dataclass(frozen=True, slots=True)
class RuleStatistics:
    """Answer with the exact partial statistics that the rule asks of its rows, and of a reference vector where it needs one."""

    request: int
    rule: Settings
    rows: tuple[tuple[str, float], ...]
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """Make `version` out of its predecessor with direction scale * vector[source]; then free `drop`.

    `samples`: the argument of the learning-rate schedule: samples spent before this step, or before the last inner step that led to it.
    `floor`: the published version when this was told; orders given from now on name it or a newer one, so those are kept.
    `holds`: holders (orders, the validator) that are new since the last step, by the version that they may still have to read.
    `released`: holders told earlier that need nothing more.
    """

    version: Version
    source: str
    scale: float
    samples: int
    floor: int
    holds: tuple[tuple[int, tuple[str, ...]], ...] = ()
    drop: tuple[str, ...] = ()
    released: tuple[str, ...] = ()
    buffers: str | None = None
    """Vector whose buffers are taken in the place of the source's; empty: none are, they stay; None: the source's own."""
    fragment: int | None = None
    """Only this one moves, with its part of the optimizer's state; None: everything."""
    rate: float = 1.0
    """Factor on the learning rate, beside the schedule's."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Keep a copy of the range and the optimizer's slots, as they are at this place of the command order, for others to fetch as `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get this range of what another run offers as `source`, and keep it as `name`; answer `Fetched`."""

    name: str
    source: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Make `version`, of a new lineage, by putting what was fetched as `source` in the place of parameters and optimizer's slots. Else as
    `Step`."""

    version: Version
    source: str
    floor: int
    holds: tuple[tuple[int, tuple[str, ...]], ...] = ()
    drop: tuple[str, ...] = ()
    released: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget these vectors (updates that were decided, references that were replaced)."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Award:
    """The vector of that name is `sender`'s: what others have pushed under it is forgotten."""

    name: str
    sender: int


@dataclass(frozen=True, slots=True)
class Configure:
    """Change optimizer settings from here on (`lr`, ...)."""

    settings: Settings


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Save the optimizer's slots of the range, as they are at this place of the command order."""

    checkpoint: int


@dataclass(frozen=True, slots=True)
class Adopt:
    """The donor hands all it holds at this place to a newcomer, and passes on what it takes from here on. Last in its batch."""

    donor: ReplicaId
    newcomer: ReplicaId


@dataclass(frozen=True, slots=True)
class Sync:
    """A newcomer that comes to this place has all that its donor had here, and says so."""

    newcomer: ReplicaId


@dataclass(frozen=True, slots=True)
class Wean:
    """Everybody knows the newcomer: nothing has to be passed on to it any more."""

    newcomer: ReplicaId


ShardCommand = (
    Combine
    | ApplyRule
    | Measure
    | Distances
    | Keep
    | RuleStatistics
    | Step
    | Offer
    | Fetch
    | Replace
    | Drop
    | Award
    | Configure
    | Snapshot
    | Adopt
    | Sync
    | Wean
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Commands number `seq`, first told in coordination epoch `epoch`; every replica runs all batches in order, each once."""

    epoch: int
    seq: int
    commands: tuple[ShardCommand, ...]


# --- the coordinator's log, as the shards keep it ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """Entries [first, stop) of the log; their content is nothing that a shard looks into."""

    first: int
    stop: int
    content: Any


@dataclass(frozen=True, slots=True)
class Base:
    """The coordinator's machine as it was after `at` entries: with it those are not needed any more."""

    at: int
    content: Any


@dataclass(frozen=True, slots=True)
class Told:
    """What the coordinator of an epoch says to replicas at once.

    A batch is run only when all of the log that led to it is held: so whatever a replica has done can be led to again.
    """

    epoch: int
    log_stop: int = 0
    """Entries that led to the batches."""
    batches: tuple[Batch, ...] = ()
    page: Page | None = None
    heard: tuple[tuple[ReplicaId, int], ...] = ()
    """How many of a replica's reports are in the log up to here, so that it need not keep them."""
    base: Base | None = None
    again: bool = False
    """Whether reports that are kept are to be said again, to a coordinator that has just taken over."""
    confirm: bool = False
    """Whether somebody waits to hear how much of the log is held; else that is said along with reports."""


# --- commands to the validator ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refresh:
    """Compute the gradient of the mean loss on trusted data at `version` and push it to the shards as `name`."""

    name: str
    version: Version
    seed: int
    num_samples: int


@dataclass(frozen=True, slots=True)
class Score:
    """Compute, on one trusted sample, by how much each of these updates alone would lower the loss of `version`; answer `Scored`.

    `samples` spent, and `lr` where the user changed it, give the learning rate of the step.
    """

    request: int
    names: tuple[str, ...]
    version: Version
    seed: int
    num_samples: int
    samples: int
    lr: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Compute the metrics of `version` on the test data; or its mean loss on the `trusted` data, for the strategy."""

    version: Version
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class SaveModel:
    """Write the parameters and buffers of `version`, by name, as part of the checkpoint; read under the name `checkpoint/N`."""

    checkpoint: int
    version: Version


# --- commands to the shell --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetTimer:
    name: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an acknowledged update: accepted, unselected, rejected or discarded, and why."""

    work_id: int
    worker: int
    verdict: str
    reason: str
    samples: int
    staleness: int
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person wants to know: joined, left, quarantined, configured, warning ..."""

    kind: str
    text: str
    worker: int | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """A version exists: every shard has stepped."""

    version: Version
    samples: int


@dataclass(frozen=True, slots=True)
class SaveCheckpoint:
    """Every other part of the checkpoint is on storage: write the brain's state, then the manifest."""

    checkpoint: int
    version: Version
    samples: int
    state: Settings
    model: Settings
    shards: tuple[Settings, ...]
    workers: tuple[Settings, ...] = ()
    """Slot, group and saved part of each worker that keeps something from order to order."""


@dataclass(frozen=True, slots=True)
class ForgetCheckpoint:
    """The checkpoint failed: what there is of it is of no use and takes room on storage."""

    checkpoint: int


@dataclass(frozen=True, slots=True)
class MakeReplica:
    """Make a process for a newcomer, known to the replicas of its shard; answer `ReplicaCame`, or `ReplicaLost` where none is to be had."""

    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class Introduce:
    """The replica is as good as any other: batches go to it, and workers and the validator get to know it. Answer `ReplicaKnown`."""

    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class PlanWanted:
    """Find out which strategy suits the crew, from what was measured of it (JSON types); answer `Planned`."""

    measured: Settings


@dataclass(frozen=True, slots=True)
class Retire:
    """Another replica has taken this one's place, as was planned: nobody needs its process any more."""

    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class Finished:
    """The run has nothing left to do, or cannot go on."""

    reason: str
    failed: bool = False


Command = (
    Compute
    | Cut
    | Abandon
    | Dismiss
    | Mix
    | SaveSlot
    | Reattach
    | Batch
    | Refresh
    | Score
    | Evaluate
    | SaveModel
    | SetTimer
    | Verdict
    | Notice
    | Published
    | SaveCheckpoint
    | ForgetCheckpoint
    | MakeReplica
    | Introduce
    | PlanWanted
    | Retire
    | Finished
)


# --- events: facts that reach the brain -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The shards hold version `version`; training may begin."""

    version: Version


@dataclass(frozen=True, slots=True)
class Joined:
    worker: int
    device: str = "cpu"
    group: str = "workers"
    host: str = ""
    """The machine that it is on, which may outlive it and come back with another; empty where nobody knows."""
    kind: str = ""
    """Of its arithmetic: workers of one kind make the same bits of the same samples. Empty: of no kind that is known."""


@dataclass(frozen=True, slots=True)
class Left:
    """A worker is gone: it died, was removed, or its node drained."""

    worker: int
    reason: str
    died: bool = False


@dataclass(frozen=True, slots=True)
class RemoveAsked:
    """Let this worker go: it finishes what it has and gets nothing new; or at once, and what it has in hand is for others."""

    worker: int
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class OfferAsked:
    """Another run wants this one's model, under that name."""

    name: str


@dataclass(frozen=True, slots=True)
class OfferOver:
    """It has it, or does not want it any more."""

    name: str


@dataclass(frozen=True, slots=True)
class ReplaceAsked:
    """Put the model that another run offers as `source` in the place of this one's, and change settings with it."""

    source: str
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A replica holds its range of a model that it was to fetch, or `error` says why not."""

    replica: ReplicaId
    name: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A replica holds its whole range of an update, or of a reference vector.

    `samples`: what the sender says it used, checked against the work order. `dots`: exact partial inner products with the references
    that the replica held when the last range arrived.
    """

    replica: ReplicaId
    name: str
    sender: int
    samples: int
    finite: bool
    norm2: int
    dots: tuple[tuple[str, int], ...] = ()
    compute_ns: int = 0
    weight: float | None = None
    """Units of the loss (tokens) that the sum is over, where these are not the samples."""
    fault: str = ""
    """Why the payload was refused (wrong length, dtype, undecodable); empty when it was stored."""
    fragment: int | None = None
    """What it is an update of; None: everything."""


@dataclass(frozen=True, slots=True)
class Contested:
    """Two senders push under one name; a replica does not know whose order it is and waits for `Award`."""

    replica: ReplicaId
    name: str
    senders: tuple[int, int]
    """Who came first, and the other."""


@dataclass(frozen=True, slots=True)
class Measured:
    replica: ReplicaId
    request: int
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stepped:
    replica: ReplicaId
    version: Version


@dataclass(frozen=True, slots=True)
class SnapshotDone:
    """A replica's part of a checkpoint is on storage; `saved` names it for the manifest."""

    replica: ReplicaId
    checkpoint: int
    saved: Settings = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class ModelSaved:
    """The model's part of a checkpoint is on storage; `saved` names it for the manifest."""

    checkpoint: int
    saved: Settings = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class SlotSaved:
    """A worker's part of a checkpoint is on storage; `saved` names it for the manifest, and is empty where there was nothing to save."""

    worker: int
    checkpoint: int
    saved: Settings = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointWritten:
    """The manifest is on storage (or the error that kept it away)."""

    checkpoint: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointAsked:
    pass


@dataclass(frozen=True, slots=True)
class WorkReturned:
    """A worker gives an order back without an update; `done`: it was asked about one that it had pushed or given back before."""

    worker: int
    work_id: int
    reason: str
    done: bool = False


@dataclass(frozen=True, slots=True)
class RefreshFailed:
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scored:
    """Loss before minus loss after each update, in the order asked; NaN where the loss after it is not finite."""

    request: int
    descents: tuple[float, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Evaluated:
    version: Version
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    """Why there are no metrics."""
    trusted: bool = False
    """As in `Evaluate`; `metrics` has the `loss` then."""


@dataclass(frozen=True, slots=True)
class TimerFired:
    name: str


@dataclass(frozen=True, slots=True)
class Configured:
    """The user changed something while the run goes on: `lr`, `rule` (None is the mean), `paused`."""

    settings: Settings


@dataclass(frozen=True, slots=True)
class Planned:
    """Which strategy to go on with, why, and how all candidates were rated, best first."""

    spec: str | Settings
    why: str
    ranking: tuple[Settings, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplicaLost:
    replica: ReplicaId
    reason: str


@dataclass(frozen=True, slots=True)
class HostDraining:
    """A machine will be taken away: its workers are to leave in time."""

    host: str
    left_ns: int | None = None
    """Until then; None where nobody knows."""


@dataclass(frozen=True, slots=True)
class ReplicaDraining:
    """A replica lies on a machine that will be taken away: another is to take its place before."""

    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class ReplicaCame:
    """The process of a newcomer stands, empty."""

    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class ReplicaReady:
    """A newcomer has taken up what its donor handed over; receipts for all of that were sent before."""

    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class ReplicaSynced:
    """A newcomer has come to the place that it was told of."""

    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class ReplicaKnown:
    """Every sender sends to the newcomer by itself."""

    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Lend nothing more and end with what is out; `checkpoint`: save when all of that is applied."""

    reason: str
    checkpoint: bool = False


@dataclass(frozen=True, slots=True)
class TookOver:
    """A new coordinator goes on where the log of a lost one ends; nobody was heard for a while."""

    epoch: int
    absent_ns: int


Report = Receipt | Contested | Measured | Stepped | Fetched | SnapshotDone | ReplicaReady | ReplicaSynced
"""What shards say."""

Event = (
    Started
    | Joined
    | Left
    | RemoveAsked
    | OfferAsked
    | OfferOver
    | ReplaceAsked
    | Fetched
    | Receipt
    | Contested
    | Measured
    | Stepped
    | SnapshotDone
    | ModelSaved
    | SlotSaved
    | CheckpointWritten
    | CheckpointAsked
    | WorkReturned
    | RefreshFailed
    | Scored
    | Evaluated
    | TimerFired
    | Configured
    | Planned
    | ReplicaLost
    | HostDraining
    | ReplicaDraining
    | ReplicaCame
    | ReplicaReady
    | ReplicaSynced
    | ReplicaKnown
    | StopAsked
    | TookOver
)


_MAX_DIGITS = 18  # of a work id; names come from workers, and Python refuses to read very long numbers


def update_name(work_id: int) -> str:
    """Name on the shards of the update that answers order `work_id`."""
    return f"update/{work_id}"


def work_id_of(name: str) -> int | None:
    """The order whose update has that name; None for every other name, such as another spelling of the number."""
    digits = name.removeprefix("update/")[:_MAX_DIGITS]
    if not (digits.isascii() and digits.isdecimal()):
        return None
    work_id = int(digits)
    return work_id if name == update_name(work_id) else None


def model_name(number: int) -> str:
    """Name on the shards of the parameters of version `number`, where a strategy has them kept."""
    return f"model/{number}"


def work_holder(work_id: int) -> str:
    """Name under which an order holds the version it reads."""
    return f"work/{work_id}"
