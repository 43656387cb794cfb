"""When a checkpoint is due and what it still waits for. Knows no storage.

A checkpoint is one place in the order of commands: every step told before it is in, none after it. The shards save their optimizer slots,
the validator saves the model by name, workers what they keep from order to order, the brain its own state; only when all of these are on
storage is the manifest written, which is what makes a checkpoint visible. A worker that is gone, or not heard of, is waited for no longer:
its part is left out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mottle.core.protocol import ModelSaved, ReplicaId, SaveCheckpoint, SaveModel, Settings, SlotSaved, SnapshotDone, Version
from mottle.core.shards import ShardMap


@dataclass(slots=True)
class _Pending:
    number: int
    version: Version
    samples: int
    state: Mapping[str, Any] = field(default_factory=dict)
    shards: dict[ReplicaId, SnapshotDone] = field(default_factory=dict)
    model: ModelSaved | None = None
    awaited: dict[int, str] = field(default_factory=dict)
    """Workers that have not saved yet, with their groups."""
    workers: dict[int, Settings] = field(default_factory=dict)
    """What the manifest says of those that have."""
    error: str = ""
    """Why a worker could not."""
    asked: bool = False
    """The manifest is being written."""


class Checkpoints:
    """One checkpoint at a time.

    Args:
        shards: which replicas must have saved.
        every: samples between two checkpoints; None for those on demand only.
    """

    def __init__(self, shards: ShardMap, every: int | None) -> None:
        self._shards = shards
        self._every = every
        self.last = 0
        """Number of the newest one that was begun."""
        self.last_samples = 0
        """Samples spent when it was begun, or when the run was taken up."""
        self._asked = False
        self._pending: _Pending | None = None

    def ask(self) -> None:
        """One is wanted as soon as it can be."""
        self._asked = True

    def stirs(self, samples: int) -> bool:
        """Whether one is due, or being written: else there is nothing to do here."""
        return self._pending is not None or self._asked or (self._every is not None and samples - self.last_samples >= self._every)

    def due(self, samples: int) -> bool:
        """Whether one should be begun now."""
        return self._pending is None and self.stirs(samples)

    @property
    def idle(self) -> bool:
        """No snapshot is being taken: the replicas that are to answer may change."""
        return self._pending is None

    @property
    def busy(self) -> bool:
        """One is wanted or being written."""
        return self._asked or self._pending is not None

    @property
    def holds(self) -> tuple[tuple[str, Version], ...]:
        """Versions that the writer of the model may still have to read, and under which name."""
        pending = self._pending
        return () if pending is None or pending.model is not None else ((f"checkpoint/{pending.number}", pending.version),)

    def begin(self, version: Version, samples: int) -> int:
        """Its number, growing from 1; the brain's state follows by `keep`, so that it can name the number."""
        self.last += 1
        self.last_samples, self._asked = samples, False
        self._pending = _Pending(self.last, version, samples)
        return self.last

    def keep(self, state: Mapping[str, Any]) -> None:
        """The brain's state at the place of the checkpoint just begun."""
        assert self._pending is not None
        self._pending.state = state

    def await_workers(self, groups: Iterable[tuple[int, str]]) -> None:
        """These (slot, group) are told to save as well."""
        assert self._pending is not None
        self._pending.awaited = dict(groups)

    def worker_saved(self, event: SlotSaved) -> None:
        pending = self._pending
        if pending is None or pending.number != event.checkpoint or event.worker not in pending.awaited:
            return
        group = pending.awaited.pop(event.worker)
        pending.error = pending.error or event.error
        if event.saved:
            pending.workers[event.worker] = {"slot": event.worker, "group": group, "saved": event.saved}

    def worker_lost(self, worker: int) -> None:
        """It is not waited for any longer."""
        if self._pending is not None:
            self._pending.awaited.pop(worker, None)

    def shard_saved(self, event: SnapshotDone) -> None:
        if self._pending is not None and self._pending.number == event.checkpoint:
            self._pending.shards[event.replica] = event

    def model_saved(self, event: ModelSaved) -> None:
        if self._pending is not None and self._pending.number == event.checkpoint:
            self._pending.model = event

    def take_complete(self) -> SaveCheckpoint | tuple[int, str] | None:
        """Once every part is on storage or failed, told once: what the manifest says, or (number, error) of a checkpoint that is over."""
        pending = self._pending
        if pending is None or pending.asked or pending.model is None or pending.awaited:
            return None
        if not self._shards.covered_by(pending.shards.keys()):
            return None
        pending.asked = True
        parts: list[ModelSaved | SnapshotDone] = [pending.model, *pending.shards.values()]
        error = next((part.error for part in parts if part.error), pending.error)
        if error:
            self._pending = None
            return pending.number, error
        return _manifest(pending)

    def took_over(self) -> SaveModel | SaveCheckpoint | None:
        """Another coordinator goes on: what was asked of validator or shell and is not answered.

        What workers kept from order to order they may have changed since: a checkpoint that waits for them fails, and is tried again.
        """
        pending = self._pending
        if pending is None:
            return None
        if pending.awaited:
            pending.error = pending.error or "the coordinator was lost while workers saved their parts"
            pending.awaited.clear()
            self._asked = True
        if pending.model is None:
            return SaveModel(pending.number, pending.version)
        return _manifest(pending) if pending.asked else None

    def written(self, checkpoint: int) -> int | None:
        """The manifest is there, or could not be written. Samples at its place; None for one that is not awaited."""
        pending = self._pending
        if pending is None or pending.number != checkpoint:
            return None
        self._pending = None
        return pending.samples

    def restore(self, number: int, samples: int) -> None:
        """Go on after checkpoint `number`."""
        self.last, self.last_samples = number, samples


def _manifest(pending: _Pending) -> SaveCheckpoint:
    assert pending.model is not None
    by_shard = {replica.shard: part.saved for replica, part in sorted(pending.shards.items(), reverse=True) if part.saved}
    shards = tuple(by_shard[shard] for shard in sorted(by_shard))
    workers = tuple(pending.workers[slot] for slot in sorted(pending.workers))
    return SaveCheckpoint(pending.number, pending.version, pending.samples, pending.state, pending.model.saved, shards, workers)
