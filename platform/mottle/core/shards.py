"""The brain's picture of the shards: which replicas live, what they were told, what they have answered.

Every replica runs every batch in order, so a backup is a second primary: losing one needs no recovery of state, only a smaller set to wait
for. A newcomer is waited for before it counts as a replica that the shard can go on with. Knows no worker and no strategy.
"""

from collections.abc import Set as AbstractSet

from mottle.core.errors import ProtocolError
from mottle.core.protocol import Batch, ReplicaId, ShardCommand


class ShardMap:
    """Replicas 0..replicas of shards 0..num_shards-1.

    Args:
        num_shards: ranges that the layout is cut into, at least 1.
        replicas: backups of each shard; 0 or 1.
        epoch: coordination epoch written on every batch.
    """

    def __init__(self, num_shards: int, replicas: int, *, epoch: int) -> None:
        if num_shards < 1 or replicas not in (0, 1):
            raise ValueError(f"needs at least one shard and 0 or 1 replicas, got {num_shards} and {replicas}")
        self._live = {ReplicaId(shard, replica) for shard in range(num_shards) for replica in range(replicas + 1)}
        self._num_shards = num_shards
        self.complete = True
        """Whether every shard has a live replica."""
        self._epoch = epoch
        self._seq = 0
        self._pending: list[ShardCommand] = []
        self._sealed: list[Batch] = []
        self._awaited: set[ReplicaId] = set()
        """Newcomers whose answers are waited for, but which may not hold everything yet."""
        self._first_seq: dict[ReplicaId, int] = {}
        """Number of the first batch that goes to a newcomer by itself: those before come from its donor."""

    @property
    def live(self) -> frozenset[ReplicaId]:
        return frozenset(self._live)

    @property
    def epoch(self) -> int:
        """Of coordination: what is told bears it."""
        return self._epoch

    def take_over(self, epoch: int) -> None:
        """From here on another coordinator tells them; it goes on in the count of batches."""
        self._epoch = epoch

    def primary(self, shard: int) -> ReplicaId:
        """The replica that readers ask."""
        candidates = sorted(replica for replica in self._live if replica.shard == shard)
        if not candidates:
            raise ProtocolError(f"shard {shard} has no live replica")
        return candidates[0]

    def lose(self, replica: ReplicaId) -> bool:
        """Whether the replica was live until now."""
        known = replica in self._live or replica in self._awaited
        self._live.discard(replica)
        self._awaited.discard(replica)
        self._count()
        return known

    def wait_for(self, newcomer: ReplicaId) -> None:
        """From here on nothing is covered without it, and what follows this batch goes to it by itself."""
        self._awaited.add(newcomer)
        self.seal()
        self._first_seq[newcomer] = self._seq

    def admit(self, newcomer: ReplicaId) -> None:
        """It holds all that the others hold."""
        self._awaited.discard(newcomer)
        self._live.add(newcomer)
        self._count()

    def _count(self) -> None:
        self.complete = len({replica.shard for replica in self._live}) == self._num_shards

    def covered_by(self, answers: AbstractSet[ReplicaId]) -> bool:
        """Whether these answers come from every replica that is waited for, and so from every shard."""
        return self.complete and self._live <= answers and self._awaited <= answers

    def tell(self, command: ShardCommand) -> None:
        """Add to the batch that `flush` sends."""
        self._pending.append(command)

    def seal(self) -> None:
        """What is told from here on goes into another batch."""
        if self._pending:
            self._sealed.append(Batch(self._epoch, self._seq, tuple(self._pending)))
            self._seq += 1
            self._pending = []

    @property
    def listeners(self) -> list[ReplicaId]:
        """Who is told anything at all by itself, ascending."""
        return sorted(self._live | self._awaited)

    def first_seq(self, replica: ReplicaId) -> int:
        """Number of the first batch that it is told by itself."""
        return self._first_seq.get(replica, 0)

    def recipients(self, batch: Batch) -> list[ReplicaId]:
        """To whom a batch goes, ascending."""
        return sorted(each for each in self._live | self._awaited if self.first_seq(each) <= batch.seq)

    def flush(self) -> list[Batch]:
        """The batches since the last call."""
        self.seal()
        batches, self._sealed = self._sealed, []
        return batches
