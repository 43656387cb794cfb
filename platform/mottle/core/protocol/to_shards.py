"""Commands to shards: the same batches, in the same order, to every replica; and the coordinator's log, as the shards keep it."""

from typing import Any

from mottle.core.messages import message
from mottle.core.protocol.names import ReplicaId, Settings, Version


@message
class Combine:
    """vector[into] = sum over terms of weight * vector[name], added in the given order; the terms are used up by it."""

    into: str
    terms: tuple[tuple[str, float], ...]


@message
class ApplyRule:
    """Run a robust rule on rows vector[name] / count; `decision` is None for a coordinate-wise rule, else what the brain decided."""

    into: str
    rule: Settings
    rows: tuple[tuple[str, float], ...]
    decision: Settings | None = None


@message
class Measure:
    """Answer with the exact partial inner products of the named pairs over the parameters of the range."""

    request: int
    pairs: tuple[tuple[str, str], ...]


@message
class Distances:
    """Answer with the exact partial squared distances of the named pairs, each vector as a mean, over the parameters of the range."""

    request: int
    pairs: tuple[tuple[str, str], ...]


@message
class Keep:
    """vector[into] = a copy of vector[source] as a mean, or of the parameters as they are at this place of the command order."""

    into: str
    source: str


@message
class Retain:
    """Keep a copy of the range and the optimizer's slots, as they are at this place of the command order, for a `Replace` by `name`."""

    name: str


@message
class RuleStatistics:
    """Answer with the exact partial statistics that the rule asks of its rows, and of a reference vector where it needs one."""

    request: int
    rule: Settings
    rows: tuple[tuple[str, float], ...]
    reference: str | None = None


@message
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


@message
class Offer:
    """Keep a copy of the range and the optimizer's slots, as they are at this place of the command order, for others to fetch as `name`."""

    name: str


@message
class Fetch:
    """Get this range of what another run offers as `source`, and keep it as `name`; answer `Fetched`."""

    name: str
    source: str


@message
class Replace:
    """Make `version`, of a new lineage, by putting what was fetched or retained as `source` in the place of parameters and optimizer's
    slots. Else as `Step`."""

    version: Version
    source: str
    floor: int
    holds: tuple[tuple[int, tuple[str, ...]], ...] = ()
    drop: tuple[str, ...] = ()
    released: tuple[str, ...] = ()


@message
class Drop:
    """Forget these vectors (updates that were decided, references that were replaced)."""

    names: tuple[str, ...]


@message
class Award:
    """The vector of that name is `sender`'s: what others have pushed under it is forgotten."""

    name: str
    sender: int


@message
class Configure:
    """Change optimizer settings from here on (`lr`, ...)."""

    settings: Settings


@message
class Snapshot:
    """Save the optimizer's slots of the range, as they are at this place of the command order."""

    checkpoint: int


@message
class Adopt:
    """The donor hands all it holds at this place to a newcomer, and passes on what it takes from here on. Last in its batch."""

    donor: ReplicaId
    newcomer: ReplicaId


@message
class Sync:
    """A newcomer that comes to this place has all that its donor had here, and says so."""

    newcomer: ReplicaId


@message
class Wean:
    """Everybody knows the newcomer: nothing has to be passed on to it any more."""

    newcomer: ReplicaId


ShardCommand = (
    Combine
    | ApplyRule
    | Measure
    | Distances
    | Keep
    | Retain
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


@message
class Batch:
    """Commands number `seq`, first told in coordination epoch `epoch`; every replica runs all batches in order, each once."""

    epoch: int
    seq: int
    commands: tuple[ShardCommand, ...]


@message
class Page:
    """Entries [first, stop) of the log; their content is nothing that a shard looks into."""

    first: int
    stop: int
    content: Any


@message
class Base:
    """The coordinator's machine as it was after `at` entries: with it those are not needed any more."""

    at: int
    content: Any


@message
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
