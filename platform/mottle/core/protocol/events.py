"""Facts that reach the brain."""

from collections.abc import Mapping
from dataclasses import field

from mottle.core.messages import message
from mottle.core.protocol.names import ReplicaId, Settings, Version


@message
class Started:
    """The shards hold version `version`; training may begin."""

    version: Version


@message
class Joined:
    worker: int
    device: str = "cpu"
    group: str = "workers"
    host: str = ""
    """The machine that it is on, which may outlive it and come back with another; empty where nobody knows."""
    kind: str = ""
    """Of its arithmetic: workers of one kind make the same bits of the same samples. Empty: of no kind that is known."""


@message
class Left:
    """A worker is gone: it died, was removed, or its node drained."""

    worker: int
    reason: str
    died: bool = False


@message
class RemoveAsked:
    """Let this worker go: it finishes what it has and gets nothing new; or at once, and what it has in hand is for others."""

    worker: int
    at_once: bool = False


@message
class OfferAsked:
    """Another run wants this one's model, under that name."""

    name: str


@message
class OfferOver:
    """It has it, or does not want it any more."""

    name: str


@message
class ReplaceAsked:
    """Put the model that another run offers as `source` in the place of this one's, and change settings with it."""

    source: str
    settings: Settings = field(default_factory=dict)


@message
class Fetched:
    """A replica holds its range of a model that it was to fetch, or `error` says why not."""

    replica: ReplicaId
    name: str
    error: str = ""


@message
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


@message
class Contested:
    """Two senders push under one name; a replica does not know whose order it is and waits for `Award`."""

    replica: ReplicaId
    name: str
    senders: tuple[int, int]
    """Who came first, and the other."""


@message
class Measured:
    replica: ReplicaId
    request: int
    values: tuple[int, ...]


@message
class Stepped:
    replica: ReplicaId
    version: Version


@message
class SnapshotDone:
    """A replica's part of a checkpoint is on storage; `saved` names it for the manifest."""

    replica: ReplicaId
    checkpoint: int
    saved: Settings = field(default_factory=dict)
    error: str = ""


@message
class ModelSaved:
    """The model's part of a checkpoint is on storage; `saved` names it for the manifest."""

    checkpoint: int
    saved: Settings = field(default_factory=dict)
    error: str = ""


@message
class SlotSaved:
    """A worker's part of a checkpoint is on storage; `saved` names it for the manifest, and is empty where there was nothing to save."""

    worker: int
    checkpoint: int
    saved: Settings = field(default_factory=dict)
    error: str = ""


@message
class CheckpointWritten:
    """The manifest is on storage (or the error that kept it away)."""

    checkpoint: int
    error: str = ""


@message
class CheckpointAsked:
    pass


@message
class WorkReturned:
    """A worker gives an order back without an update; `done`: it was asked about one that it had pushed or given back before."""

    worker: int
    work_id: int
    reason: str
    done: bool = False


@message
class RefreshFailed:
    name: str
    reason: str


@message
class Scored:
    """Loss before minus loss after each update, in the order asked; NaN where the loss after it is not finite."""

    request: int
    descents: tuple[float, ...] = ()
    error: str = ""


@message
class Evaluated:
    version: Version
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    """Why there are no metrics."""
    trusted: bool = False
    """As in `Evaluate`; `metrics` has the `loss` then."""


@message
class TimerFired:
    name: str


@message
class Configured:
    """The user changed something while the run goes on: `lr`, `rule` (None is the mean), `paused`."""

    settings: Settings


@message
class Planned:
    """Which strategy to go on with, why, and how all candidates were rated, best first."""

    spec: str | Settings
    why: str
    ranking: tuple[Settings, ...] = ()


@message
class ReplicaLost:
    replica: ReplicaId
    reason: str


@message
class HostDraining:
    """A machine will be taken away: its workers are to leave in time."""

    host: str
    left_ns: int | None = None
    """Until then; None where nobody knows."""


@message
class ReplicaDraining:
    """A replica lies on a machine that will be taken away: another is to take its place before."""

    replica: ReplicaId


@message
class ReplicaCame:
    """The process of a newcomer stands, empty."""

    replica: ReplicaId


@message
class ReplicaReady:
    """A newcomer has taken up what its donor handed over; receipts for all of that were sent before."""

    replica: ReplicaId


@message
class ReplicaSynced:
    """A newcomer has come to the place that it was told of."""

    replica: ReplicaId


@message
class ReplicaKnown:
    """Every sender sends to the newcomer by itself."""

    replica: ReplicaId


@message
class StopAsked:
    """Lend nothing more and end with what is out; `checkpoint`: save when all of that is applied."""

    reason: str
    checkpoint: bool = False


@message
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
