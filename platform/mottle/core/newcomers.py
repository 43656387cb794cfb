"""Replicas on their way to take the place of lost ones.

A newcomer gets a process (`MakeReplica`, `ReplicaCame`), at a quiet place of the command order all that its donor holds (`Adopt`,
`ReplicaReady`), and from then on what the donor takes, passed on in order. Once it is ready its receipts are waited for; once it has come
to a later place (`Sync`, `ReplicaSynced`) it has everything that was acknowledged without it as well, and is as good as any other: what
follows that place comes to it from the coordinator itself, for the donor may die with what it has not passed on. The newcomer is
then introduced to those who push and read, and when all of them know it the donor passes nothing on any more (`ReplicaKnown`, `Wean`).
Training goes on all the while. Knows no process, worker or strategy.

A replica whose machine is about to be taken away is replaced likewise before it is lost: it goes when its newcomer is known to all.
"""

from collections import defaultdict

from mottle.core import protocol as p
from mottle.core.effects import Effects
from mottle.core.pipeline import Pipeline
from mottle.core.shards import ShardMap

ATTEMPTS = 3
"""Newcomers in a row that may fail before a shard goes on with one replica."""


class Newcomers:
    """What becomes of them, until they are live."""

    def __init__(self, shards: ShardMap, pipeline: Pipeline, effects: Effects, *, first: int) -> None:
        """
        Args:
            first: number of a shard's first newcomer, above those that it began with.
        """
        self._shards = shards
        self._pipeline = pipeline
        self._effects = effects
        self._next: dict[int, int] = defaultdict(lambda: first)
        self._failed: dict[int, int] = defaultdict(int)
        self.phases: dict[p.ReplicaId, str] = {}
        """`called`, `waiting` for a quiet place, `adopted` or `awaited`, in the order in which they were called."""
        self._instead: dict[p.ReplicaId, p.ReplicaId] = {}
        """Newcomer -> the replica that goes when it is known."""
        self._unknown: set[p.ReplicaId] = set()
        """Live, but what is under way may leave them out."""

    def call(self, shard: int) -> None:
        """Have one made for a shard that has lost a replica."""
        newcomer = p.ReplicaId(shard, self._next[shard])
        self._next[shard] += 1
        self.phases[newcomer] = "called"
        self._effects.tell(p.MakeReplica(newcomer))

    def replace(self, replica: p.ReplicaId) -> None:
        """Have one made in the place of a replica that lives and will have to go."""
        if replica not in self._instead.values():
            self._instead[p.ReplicaId(replica.shard, self._next[replica.shard])] = replica
            self.call(replica.shard)

    def replaces(self, replica: p.ReplicaId) -> bool:
        """Whether a newcomer is on the way for a replica that has been lost now."""
        for newcomer, old in self._instead.items():
            if old == replica:
                del self._instead[newcomer]
                return True
        return False

    @property
    def settled(self) -> bool:
        """Whether nobody is between what a donor has handed over and being live."""
        return not {"adopted", "awaited"} & set(self.phases.values())

    def came(self, event: p.ReplicaCame) -> None:
        if self.phases.get(event.replica) == "called":
            self.phases[event.replica] = "waiting"

    def adopt(self) -> bool:
        """Have a donor hand over to a newcomer that waits, if this place is quiet. Whether one did."""
        if not self.phases:
            return False
        newcomer = next((each for each, phase in self.phases.items() if phase == "waiting"), None)
        if newcomer is None or not self._pipeline.hold():
            return False
        self.phases[newcomer] = "adopted"
        self._shards.tell(p.Adopt(self._shards.primary(newcomer.shard), newcomer))
        self._shards.seal()
        self._pipeline.go_on()
        return True

    def ready(self, event: p.ReplicaReady) -> None:
        if self.phases.get(event.replica) == "adopted":
            self.phases[event.replica] = "awaited"
            self._shards.tell(p.Sync(event.replica))
            self._shards.wait_for(event.replica)

    def synced(self, event: p.ReplicaSynced) -> None:
        if self.phases.pop(event.replica, None) is None:
            return
        self._failed.pop(event.replica.shard, None)
        self._shards.admit(event.replica)
        self._unknown.add(event.replica)
        self._effects.tell(p.Notice("replica", f"shard {event.replica.shard} has a new replica"))
        self._effects.tell(p.Introduce(event.replica))

    def unknown_in(self, shard: int) -> bool:
        """Whether a shard has a newcomer that some may not push to by themselves yet."""
        return any(newcomer.shard == shard for newcomer in self._unknown & self._shards.live)

    def known(self, event: p.ReplicaKnown) -> p.ReplicaId | None:
        """All know it. Returns the replica that may go now, if its place was taken."""
        self._unknown.discard(event.replica)
        self._shards.tell(p.Wean(event.replica))
        return self._instead.pop(event.replica, None)

    def took_over(self) -> None:
        """Another coordinator may not have the answers to what was asked for them."""
        for newcomer, phase in self.phases.items():
            if phase == "called":
                self._effects.tell(p.MakeReplica(newcomer))
        for newcomer in sorted(self._unknown & self._shards.live):
            self._effects.tell(p.Introduce(newcomer))

    @property
    def processes(self) -> frozenset[p.ReplicaId]:
        """Those that stand and are not live yet."""
        return frozenset(newcomer for newcomer, phase in self.phases.items() if phase != "called")

    def lose(self, event: p.ReplicaLost) -> bool:
        """Whether it was one of these; another is called then, a few times."""
        newcomer = event.replica
        phase = self.phases.pop(newcomer, None)
        if phase is None:
            return False
        self._shards.lose(newcomer)
        if phase == "waiting":
            self._pipeline.go_on()  # it may have been held for this one
        self._failed[newcomer.shard] += 1
        more = self._failed[newcomer.shard] < ATTEMPTS
        following = "another is made" if more else "the shard goes on with one replica"
        self._effects.tell(p.Notice("warning", f"a new replica of shard {newcomer.shard} is lost ({event.reason}); {following}"))
        old = self._instead.pop(newcomer, None)
        if more and old is not None:
            self.replace(old)
        elif more:
            self.call(newcomer.shard)
        return True
