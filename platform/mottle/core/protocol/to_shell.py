"""Commands to the shell, which has the clock, the checkpoints and the processes."""

from mottle.core.messages import message
from mottle.core.protocol.names import ReplicaId, Settings, Version


@message
class SetTimer:
    name: str
    at_ns: int


@message
class Verdict:
    """What became of an acknowledged update: accepted, unselected, rejected or discarded, and why."""

    work_id: int
    worker: int
    verdict: str
    reason: str
    samples: int
    staleness: int
    score: float | None = None


@message
class Notice:
    """Something a person wants to know: joined, left, quarantined, configured, warning ..."""

    kind: str
    text: str
    worker: int | None = None


@message
class Published:
    """A version exists: every shard has stepped."""

    version: Version
    samples: int


@message
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


@message
class ForgetCheckpoint:
    """The checkpoint failed: what there is of it is of no use and takes room on storage."""

    checkpoint: int


@message
class MakeReplica:
    """Make a process for a newcomer, known to the replicas of its shard; answer `ReplicaCame`, or `ReplicaLost` where none is to be had."""

    replica: ReplicaId


@message
class Introduce:
    """The replica is as good as any other: batches go to it, and workers and the validator get to know it. Answer `ReplicaKnown`."""

    replica: ReplicaId


@message
class PlanWanted:
    """Find out which strategy suits the crew, from what was measured of it (JSON types); answer `Planned`."""

    measured: Settings


@message
class Retire:
    """Another replica has taken this one's place, as was planned: nobody needs its process any more."""

    replica: ReplicaId


@message
class Finished:
    """The run has nothing left to do, or cannot go on."""

    reason: str
    failed: bool = False
