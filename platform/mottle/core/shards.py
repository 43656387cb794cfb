"""The brain's picture of the shards: which replicas live, what they were told, what they have answered.

Every replica runs every batch in order, so a backup is a second primary: losing one needs no recovery of state, only a smaller set to wait
for. Knows no worker and no strategy.
"""

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
        self._epoch = epoch
        self._seq = 0
        self._pending: list[ShardCommand] = []

    @property
    def live(self) -> frozenset[ReplicaId]:
        return frozenset(self._live)

    @property
    def complete(self) -> bool:
        """Whether every shard has a live replica."""
        return {replica.shard for replica in self._live} == set(range(self._num_shards))

    def primary(self, shard: int) -> ReplicaId:
        """The replica that readers ask."""
        candidates = sorted(replica for replica in self._live if replica.shard == shard)
        if not candidates:
            raise ProtocolError(f"shard {shard} has no live replica")
        return candidates[0]

    def lose(self, replica: ReplicaId) -> bool:
        """Whether the replica was live until now."""
        known = replica in self._live
        self._live.discard(replica)
        return known

    def covered_by(self, answers: set[ReplicaId]) -> bool:
        """Whether these answers come from every live replica, and so from every shard."""
        return self.complete and self._live <= answers

    def tell(self, command: ShardCommand) -> None:
        """Add to the batch that `flush` sends."""
        self._pending.append(command)

    def flush(self) -> Batch | None:
        if not self._pending:
            return None
        batch = Batch(self._epoch, self._seq, tuple(self._pending))
        self._seq += 1
        self._pending = []
        return batch
