"""The shards of a run: their replicas' processes, and the newcomers that take the place of lost ones."""

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import ray
from torch import Tensor

from mottle.actors import hosts, placing, transport
from mottle.actors.exchange import Door, Exchange
from mottle.actors.job import Job
from mottle.actors.link import Replica, Shards
from mottle.actors.reasons import reason_of
from mottle.actors.reports import RunHandle
from mottle.actors.reserve import let_rest
from mottle.actors.shard import Start, line_name
from mottle.actors.way import Way
from mottle.core import protocol as p
from mottle.vectors import ShardSpec


class Replicas:
    """All replicas of all shards.

    Args:
        job: the run.
        run: that they tell.
        exchange: where they call.
        door: of that exchange; None for a run without lines.
        tell: gives an event to the brain.
        note: has people read a sentence.
        charter: what another coordinator would have to know of the run, as `transport.publish` made it; kept by shard 0.
    """

    def __init__(
        self,
        job: Job,
        run: RunHandle,
        exchange: Exchange,
        door: Door | None,
        tell: Callable[[p.Event], None],
        note: Callable[[str], None],
        charter: Any,
    ) -> None:
        self._job = job
        self._charter = charter
        self._epoch = 0
        self._run = run
        self._exchange = exchange
        self._door = door
        self._tell = tell
        self._note = note
        self.handles: dict[p.ReplicaId, Any] = {}
        self.ways: dict[p.ReplicaId, Way] = {}
        self._doors: dict[p.ReplicaId, Door | None] = {}
        self._places: dict[p.ReplicaId, str] = {}
        self._lost: set[p.ReplicaId] = set()
        self._strangers: set[p.ReplicaId] = set()
        """Newcomers that nobody reads from or pushes to yet."""

    def make(self, replicas: list[p.ReplicaId], vector: Tensor, version: p.Version, slots: Sequence[Mapping[str, Any]] | None) -> None:
        """Cut the flat vector into shards and wait until they stand.

        Args:
            slots: optimizer state of each shard, for a run that goes on from a checkpoint.
        Raises:
            ray.exceptions.RayActorError: one of them could not start.
        """
        ranges = self._job.layout.cut(self._job.brain.num_shards)
        self._places, serving = hosts.spread(replicas, hosts.living()), []
        for replica in replicas:
            owned = ranges[replica.shard]
            values = transport.publish(vector[owned.start : owned.stop])
            start = Start(values, version, slots[replica.shard] if slots else None)
            handle = self.handles[replica] = placing.make_shard(self._places[replica])
            serving.append(self._serve(handle, replica, start))
        for replica, (door, troubles) in zip(self.handles, ray.get(serving), strict=True):
            self._attend(replica, door, troubles)

    def _serve(self, handle: Any, replica: p.ReplicaId, start: Start | None) -> Any:
        job, owned = self._job, self._job.layout.cut(self._job.brain.num_shards)[replica.shard]
        optimizer = job.server_optimizer or job.optimizer
        spec = ShardSpec(
            layout=job.layout, owned=owned, optimizer=optimizer, codec=job.codec, schedule=job.schedule, fragments=job.fragments
        )
        charter = self._charter if replica.shard == 0 else None
        return handle.serve.remote(job.run_dir, replica, self._run, self._door, spec, start, charter)

    def _attend(self, replica: p.ReplicaId, door: Door | None, troubles: list[str]) -> None:
        """Talk to a replica that stands, and be told of its end."""
        for trouble in troubles:
            self._note(trouble)
        self._doors[replica] = door
        self.ways[replica] = Way(self.handles[replica], self._exchange.line(line_name(replica)))
        threading.Thread(target=self._watch, args=(replica,), name="watch-shard", daemon=True).start()

    def _watch(self, replica: p.ReplicaId) -> None:
        try:
            ray.get(self.handles[replica].until_closed.remote(self._epoch))
        except ray.exceptions.RayActorError as error:
            self._tell(p.ReplicaLost(replica, reason_of(error)))

    def adopt(self, epoch: int, found: Mapping[p.ReplicaId, tuple[Any, Door | None]], strangers: Collection[p.ReplicaId]) -> None:
        """Take up the replicas that an earlier coordinator made.

        Args:
            epoch: of this coordinator.
            found: their handles, and where they are called.
            strangers: those of them that nobody pushes to yet.
        """
        self._epoch = epoch
        self._strangers |= set(strangers)
        for replica, (handle, door) in found.items():
            self.handles[replica] = handle
            self._attend(replica, door, [])
            self._places[replica] = ray.get(handle.where.remote()).node

    def by_shard(self) -> Shards:
        """The live replicas of each shard, primary first."""
        replicas: dict[int, list[Replica]] = defaultdict(list)
        for replica in sorted(self.handles.keys() - self._lost - self._strangers):
            replicas[replica.shard].append(self.known(replica))
        return dict(replicas)

    def known(self, replica: p.ReplicaId) -> Replica:
        """A replica, for those who want to reach it."""
        return Replica(self.handles[replica], self._doors[replica])

    def lose(self, replica: p.ReplicaId) -> None:
        """A replica no longer holds what the others hold, or is gone: nobody may read from it any more."""
        self._lost.add(replica)
        if replica in self.handles:
            ray.kill(self.handles[replica])

    def on(self, host: str) -> list[p.ReplicaId]:
        """Replicas that lie on a host, those included that are yet to be introduced."""
        return sorted(replica for replica, place in self._places.items() if place == host and replica not in self._lost)

    # --- newcomers --------------------------------------------------------------------------------------------------------------------

    def call_newcomer(self, replica: p.ReplicaId) -> None:
        """Start a process for a newcomer, empty, and let the others of its shard know it; nobody waits for that."""
        threading.Thread(target=self._bring, args=(replica,), name="newcomer", daemon=True).start()

    def _bring(self, replica: p.ReplicaId) -> None:
        others = [each for each in self.handles if each.shard == replica.shard and each not in self._lost and each != replica]
        try:
            self._places[replica] = hosts.apart({self._places[each] for each in others}, hosts.living())
            handle = placing.make_shard(self._places[replica])
            door, troubles = ray.get(self._serve(handle, replica, None))
            self._strangers.add(replica)
            self.handles[replica] = handle
            self._attend(replica, door, troubles)
            ray.get([self.handles[each].meet.remote(replica, handle) for each in others])
        except ray.exceptions.RayError as error:
            self._tell(p.ReplicaLost(replica, reason_of(error)))
        else:
            self._tell(p.ReplicaCame(replica))

    def admit(self, replica: p.ReplicaId) -> None:
        """A newcomer is read from and pushed to like any other."""
        self._strangers.discard(replica)

    # --- the end ----------------------------------------------------------------------------------------------------------------------

    def rest(self) -> list[int]:
        """Let all go. Returns the peak memory of those that live, in bytes."""
        peaks = [let_rest(handle) for replica, handle in self.handles.items() if replica not in self._lost]
        return [peak for peak in peaks if peak is not None]
