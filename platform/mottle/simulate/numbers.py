"""The seam between the simulator and numbers: what shards store, what workers compute. `Synthetic` has none, `learning.Learning` real ones.

A simulation asks for numbers only where they travel or decide, so gradients of work that is abandoned are never computed.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

from mottle.core import exactsum
from mottle.core import protocol as p
from mottle.core.fragments import Fragments
from mottle.core.layout import BLOCK, Range
from mottle.core.shard import Ran, RangeStored, StoreRange
from mottle.simulate.fleet import Workers


class Done(NamedTuple):
    """Positions [start, stop) of an epoch that a worker has computed for its update."""

    epoch: int
    start: int
    stop: int
    coefficient: float
    step: p.LocalSteps | None = None
    """The inner step that was taken after them."""


class Blended(NamedTuple):
    """A fragment that a worker has mixed in between two pieces: what `read` gave of it for each shard."""

    mix: p.Mix
    values: tuple[Any, ...]


Deed = Done | Blended


class Shipment(NamedTuple):
    """A vector ready to travel: one payload a shard."""

    payloads: tuple[Any, ...]
    num_bytes: tuple[int, ...]
    weight: float | None = None
    """Units of a loss that has its own (tokens)."""
    fragment: int | None = None
    """What it is of; None: everything."""


class Numbers(Protocol):
    """What stands in for tensors. `base` is what `read` gave for each shard, in their order."""

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Coordinates of each shard."""

    @property
    def fragments(self) -> Fragments | None:
        """Of the model, where they are stepped apart."""

    def version_bytes(self, shard: int, fragment: int | None = None) -> int:
        """Size of a version of a shard's range, or of what it has of a fragment, as it travels."""

    def store(self, replica: p.ReplicaId, order: StoreRange) -> RangeStored: ...

    def run(self, replica: p.ReplicaId, command: p.ShardCommand, *, save: bool = True) -> Ran:
        """Execute a command; `save`: the version that a step or a replacement ends may still be read."""

    def read(self, replica: p.ReplicaId, number: int, fragment: int | None = None) -> Any:
        """A version of a replica's range, or of a fragment there; it stays as it is while somebody holds it."""

    def free(self, replica: p.ReplicaId, numbers: tuple[int, ...]) -> None: ...

    def fetch(self, replica: p.ReplicaId, order: p.Fetch) -> str:
        """Have a replica keep its range of what another run offers; why it cannot, else empty."""

    def hand_over(self, donor: p.ReplicaId, newcomer: p.ReplicaId) -> None:
        """A newcomer begins with what its donor holds now."""

    def update(
        self,
        slot: int,
        group: Workers,
        base: Sequence[Any],
        version: p.Version,
        done: Sequence[Deed],
        local: p.LocalSteps | None,
        fragment: int | None = None,
    ) -> Shipment:
        """The update of a worker of that group that has computed these positions at `base`, or gone on with `local` steps; of that one of
        several models."""

    def reference(self, order: p.Refresh, base: Sequence[Any]) -> Shipment:
        """A reference gradient."""

    def evaluate(self, base: Sequence[Any]) -> Mapping[str, float]:
        """Metrics of a version."""

    def trusted_loss(self, base: Sequence[Any]) -> float:
        """Mean loss of a version on the trusted data."""


@dataclass
class Synthetic:
    """No numbers: every gradient is one and the same unit vector, so every test of updates accepts.

    Args:
        num_bytes: of one update and of one version, over all shards.
        num_shards: equal parts.
        num_fragments: equal parts of each shard that are stepped apart; 0 for none.
        narrow: versions of them travel at half the size.
        apart: they are models side by side.
        disagree: inner products and norms drawn from the vectors' names instead, for studies of rejections.
    """

    num_bytes: int
    num_shards: int = 1
    num_fragments: int = 0
    narrow: bool = False
    apart: bool = False
    disagree: bool = False
    others: tuple[str, ...] = ()
    """Models that other runs offer."""
    applied: dict[p.ReplicaId, list[tuple[int, tuple[str, ...]]]] = field(default_factory=dict)
    """With `disagree`: (version, vectors that went into it) of each replica, the stand-in for parameters."""

    def __post_init__(self) -> None:
        edges = [self.num_bytes * shard // self.num_shards for shard in range(self.num_shards + 1)]
        self._bytes = tuple(stop - start for start, stop in pairwise(edges))
        wide = max(1, self.num_fragments)
        self.ranges = tuple(Range(shard * wide * BLOCK, (shard + 1) * wide * BLOCK) for shard in range(self.num_shards))
        self.fragments = None
        if self.num_fragments:
            self.fragments = Fragments(tuple(map(self._blocks_of, range(self.num_fragments))), apart=self.apart)

    def _blocks_of(self, fragment: int) -> tuple[Range, ...]:
        """One block in every shard."""
        return tuple(Range(each.start + fragment * BLOCK, each.start + (fragment + 1) * BLOCK) for each in self.ranges)

    def version_bytes(self, shard: int, fragment: int | None = None) -> int:
        num_bytes = self._update_bytes(shard, fragment)
        return num_bytes // 2 if self.narrow and fragment is not None else num_bytes

    def _update_bytes(self, shard: int, fragment: int | None) -> int:
        if fragment is None:
            return self._bytes[shard]
        return self._bytes[shard] * (fragment + 1) // self.num_fragments - self._bytes[shard] * fragment // self.num_fragments

    def _shipment(self, fragment: int | None = None) -> Shipment:
        sizes = tuple(self._update_bytes(shard, fragment) for shard in range(self.num_shards))
        return Shipment((None,) * self.num_shards, sizes, fragment=fragment)

    def store(self, replica: p.ReplicaId, order: StoreRange) -> RangeStored:
        dots = tuple((name, self._product(order.name, name, replica.shard)) for name in order.references)
        return RangeStored(order.name, order.start, order.stop, True, self._product(order.name, order.name, replica.shard), dots)

    def run(self, replica: p.ReplicaId, command: p.ShardCommand, *, save: bool = True) -> Ran:
        if isinstance(command, p.Measure | p.Distances):
            return Ran(command, tuple(self._product(a, b, replica.shard) for a, b in command.pairs))
        if isinstance(command, p.Step | p.Replace) and self.disagree:
            self.applied.setdefault(replica, []).append((command.version.number, command.drop))
        return Ran(command)

    def _product(self, first: str, second: str, shard: int) -> int:
        """The same on every replica of a shard."""
        if not self.disagree:
            return _ONE if shard == 0 else 0
        number = random.Random(f"{first} {second} {shard}").randint(-(1 << 1100), 1 << 1100)
        return abs(number) if first == second else number

    def read(self, replica: p.ReplicaId, number: int, fragment: int | None = None) -> Any:
        return None

    def free(self, replica: p.ReplicaId, numbers: tuple[int, ...]) -> None:
        pass

    def fetch(self, replica: p.ReplicaId, order: p.Fetch) -> str:
        return "" if order.source in self.others else f"nobody offers {order.source}"

    def hand_over(self, donor: p.ReplicaId, newcomer: p.ReplicaId) -> None:
        if donor in self.applied:
            self.applied[newcomer] = list(self.applied[donor])

    def update(
        self,
        slot: int,
        group: Workers,
        base: Sequence[Any],
        version: p.Version,
        done: Sequence[Deed],
        local: p.LocalSteps | None,
        fragment: int | None = None,
    ) -> Shipment:
        return self._shipment(fragment if local is None else local.send)

    def reference(self, order: p.Refresh, base: Sequence[Any]) -> Shipment:
        return self._shipment()

    def evaluate(self, base: Sequence[Any]) -> Mapping[str, float]:
        return {}

    def trusted_loss(self, base: Sequence[Any]) -> float:
        return 1.0


_ONE = exactsum.exact_sum([1.0])
