"""Learning mode: real gradients on virtual time. Shards compute with `mottle.vectors.ShardMemory`, as live ones do.

A `Problem` turns a version and positions into a gradient; `torch_problem.TorchProblem` does it with the engine of live workers. All workers
share one problem: in a simulation one computes after the other. The same fleet, seed and problem give bit-identical runs.

Inner steps of local methods are taken when an update is pushed; those of an abandoned order, which a live worker's optimizer remembers,
never are.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mottle import compression
from mottle.core import protocol as p
from mottle.core.fragments import Fragments
from mottle.core.layout import Layout, Range
from mottle.core.naming import Spec
from mottle.core.rotation import Rotation, merged
from mottle.core.shard import Ran, RangeStored, StoreRange
from mottle.engines import LocalTraining
from mottle.engines.rotation import one_of, side_by_side
from mottle.optim.schedule import Schedule
from mottle.simulate.fleet import Workers
from mottle.simulate.hostile import Liars
from mottle.simulate.numbers import Blended, Deed, Done, Shipment
from mottle.vectors import ShardMemory, ShardSpec

Corrupt = Callable[[int, p.Version, Tensor], Tensor]
"""What the worker of a slot sends in the place of its update; gets shape (size,) and may change it."""


class Problem(Protocol):
    """A model and its data. Vectors have shape (layout.size,) and the layout's dtype, on the CPU."""

    @property
    def layout(self) -> Layout: ...

    @property
    def start(self) -> Tensor:
        """Where training begins."""

    def gradient(self, values_D: Tensor, done: Sequence[Done]) -> tuple[Tensor, float | None]:
        """Sum of the gradients at these positions, in memory of its own; and its weight, where the loss has units of its own."""

    def reference(self, values_D: Tensor, order: p.Refresh) -> Tensor:
        """Gradient of the mean loss on trusted data."""

    def evaluate(self, values_D: Tensor) -> Mapping[str, float]: ...

    def trusted_loss(self, values_D: Tensor) -> float:
        """Mean loss on all trusted data."""


class Learning:
    """Implements `mottle.simulate.numbers.Numbers`.

    Args:
        problem: what is learnt.
        replicas: of all shards.
        optimizer, codec, schedule: as a job names them; of the shards, and the schedule of inner steps too.
        fragments: of the model, where the strategy steps them apart.
        rotation: models of the problem side by side, that the strategy trains in rotation.
        validated: whether losses on trusted data say which of them is best, and not those on test data.
        values: to begin with, at `version`; the problem's own start (of each model) if left out.
        corrupt: what workers do to their updates beside the attack of their group.
        seed, num_workers: of the attacks' dice; of the fleet.
        collusion, rule: whether attackers see the others' updates; the defender's rule, for those who optimise against it.
    Raises:
        ConfigError: an unknown optimizer or codec, or options that cannot be.
    """

    def __init__(
        self,
        problem: Problem,
        replicas: Iterable[p.ReplicaId],
        *,
        optimizer: Spec,
        codec: Spec = "identity",
        schedule: Schedule | None = None,
        fragments: Fragments | None = None,
        rotation: Rotation | None = None,
        validated: bool = False,
        values: Tensor | None = None,
        version: int = 0,
        corrupt: Corrupt | None = None,
        seed: int = 0,
        num_workers: int = 1,
        collusion: bool = False,
        rule: Spec | None = None,
    ) -> None:
        self.problem = problem
        replicas = sorted(replicas)
        layout = problem.layout if rotation is None else rotation.stacked
        self.ranges = layout.cut(1 + max(replica.shard for replica in replicas))
        self._schedule = schedule
        self._rotation = rotation
        self._validated = validated
        self.fragments = fragments = fragments if rotation is None else rotation.fragments
        self._local: dict[int, tuple[Tensor, LocalTraining]] = {}
        """By worker: the values that it steps, and its inner optimizer."""
        self._codec = compression.build(codec)
        self._plain = compression.build("identity")
        self._corrupt = corrupt
        self._liars = Liars(seed, num_workers, collusion=collusion, rule=rule)
        self._error_memory: dict[tuple[int, int, int | None], Any] = {}
        """What a codec keeps back, by worker, shard and fragment."""
        self._lineages: dict[int, int] = {}
        """Of each worker's last update: what it kept beside the model is of no use in another."""
        self.others: dict[str, Mapping[p.ReplicaId, ShardMemory]] = {}
        """Shards of other runs of the same layout, by the name under which they offer their model."""
        start_D = self._start if values is None else values
        self.memories: dict[p.ReplicaId, ShardMemory] = {}
        for replica in replicas:
            owned = self.ranges[replica.shard]
            spec = ShardSpec(layout=layout, owned=owned, optimizer=optimizer, codec=codec, schedule=schedule, fragments=fragments)
            self.memories[replica] = ShardMemory(spec, start_D[owned.start : owned.stop].clone(), version, _copy)

    @property
    def _start(self) -> Tensor:
        start_D, rotation = self.problem.start, self._rotation
        return start_D if rotation is None else side_by_side([start_D] * rotation.number, rotation)

    # --- shards -----------------------------------------------------------------------------------------------------------------------

    def version_bytes(self, shard: int, fragment: int | None = None) -> int:
        narrow = fragment is not None and self.fragments is not None and self.fragments.narrow
        return self._spaces(fragment)[shard].size * (torch.bfloat16 if narrow else self._dtype).itemsize

    def _spaces(self, fragment: int | None) -> tuple[Range, ...]:
        """What each shard holds of a fragment, in its coordinates; of the layout for None."""
        if fragment is None:
            return self.ranges
        assert self.fragments is not None, "this model has no fragments"
        return tuple(self.fragments.owned(fragment, owned) for owned in self.ranges)

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.problem.layout.dtype)
        return dtype

    def store(self, replica: p.ReplicaId, order: StoreRange) -> RangeStored:
        return self.memories[replica].store(
            order.name, order.start, order.stop, order.weight, order.payload, order.references, order.fragment
        )

    def run(self, replica: p.ReplicaId, command: p.ShardCommand, *, save: bool = True) -> Ran:
        return self.memories[replica].run(command, save=save)

    def read(self, replica: p.ReplicaId, number: int, fragment: int | None = None) -> Tensor:
        values_D: Tensor = self.memories[replica].read(number, fragment)
        return values_D

    def free(self, replica: p.ReplicaId, numbers: tuple[int, ...]) -> None:
        self.memories[replica].free(numbers)

    def fetch(self, replica: p.ReplicaId, order: p.Fetch) -> str:
        donor = self.others.get(order.source, {}).get(p.ReplicaId(replica.shard, 0))
        model = None if donor is None else donor.offered(order.source)
        if model is None:
            return f"nobody offers {order.source}"
        values, slots = model
        fetched = values.clone(), {key: slot.clone() for key, slot in slots.items()}
        if not (trouble := self.memories[replica].misfit(fetched)):
            self.memories[replica].take(order.name, fetched)
        return trouble

    def hand_over(self, donor: p.ReplicaId, newcomer: p.ReplicaId) -> None:
        given = self.memories[donor]
        self.memories[newcomer] = ShardMemory.of(given.spec, given.holding(), _copy)

    # --- workers and validator --------------------------------------------------------------------------------------------------------

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
        values_D, computed = torch.cat(tuple(base)), [deed for deed in done if isinstance(deed, Done)]
        if self._lineages.setdefault(slot, version.lineage) != version.lineage:
            self._lineages[slot] = version.lineage
            self._local.pop(slot, None)
            self._error_memory = {key: kept for key, kept in self._error_memory.items() if key[0] != slot}
        vector_D, weight = self.problem.gradient(values_D, computed) if local is None else self._train(slot, local, values_D, done)
        divisor = float(sum(piece.stop - piece.start for piece in computed)) if weight is None else weight
        if divisor:
            self._liars.see(slot, group.attack, version.number, vector_D, divisor)
            if group.attack is not None:
                vector_D = self._liars.corrupt(slot, group.attack, version.number, vector_D, divisor)
        if self._corrupt is not None:
            vector_D = self._corrupt(slot, version, vector_D)
        payloads, sizes, fragment = [], [], fragment if local is None else local.send
        for shard, owned in enumerate(self._spaces(fragment)):
            memory = self._error_memory.get((slot, shard, fragment))
            payload, kept = self._codec.encode(vector_D[owned.start : owned.stop], memory)
            if kept is not None:
                self._error_memory[slot, shard, fragment] = kept
            payloads.append(payload)
            sizes.append(self._codec.num_bytes(owned.size, self._dtype))
        return Shipment(tuple(payloads), tuple(sizes), weight, fragment)

    def _train(self, slot: int, local: p.LocalSteps, base_D: Tensor, done: Sequence[Deed]) -> tuple[Tensor, float | None]:
        """The update of a worker that takes inner steps, and its weight."""
        if slot not in self._local:
            own_D = base_D.clone()
            self._local[slot] = own_D, LocalTraining(self.problem.layout, own_D, self._schedule, self.fragments)
        values_D, training = self._local[slot]
        if local.follows is None:
            values_D.copy_(base_D)
        training.start(local)
        pieces: list[Done] = []
        weighted = False
        for piece in done:
            if isinstance(piece, Blended):
                training.mix(piece.mix.fragment, torch.cat(piece.values), piece.mix.share)
                continue
            pieces.append(piece)
            if piece.step is not None:
                sum_D, weight = self.problem.gradient(values_D, pieces)
                weighted = weighted or weight is not None
                training.step(local, sum_D, float(sum(each.stop - each.start for each in pieces)) if weight is None else weight)
                pieces = []
        return training.update(local), training.weight if weighted else None

    def reference(self, order: p.Refresh, base: Sequence[Any]) -> Shipment:
        vector_D = self.problem.reference(torch.cat(tuple(base)), order)
        payloads = tuple(self._plain.encode(vector_D[owned.start : owned.stop], None)[0] for owned in self.ranges)
        return Shipment(payloads, tuple(map(self.version_bytes, range(len(self.ranges)))))

    def evaluate(self, base: Sequence[Any]) -> Mapping[str, float]:
        values_D, rotation, problem = torch.cat(tuple(base)), self._rotation, self.problem
        if rotation is None:
            return problem.evaluate(values_D)
        models = [one_of(values_D, rotation, model) for model in range(rotation.number)]
        return merged([*map(problem.evaluate, models)], [*map(problem.trusted_loss, models)] if self._validated else ())

    def trusted_loss(self, base: Sequence[Any]) -> float:
        return self.problem.trusted_loss(torch.cat(tuple(base)))

    def values(self, primaries: Iterable[p.ReplicaId], number: int) -> Tensor:
        """A version that the shards still hold, whole."""
        return torch.cat([self.read(replica, number) for replica in sorted(primaries)])


def _copy(range_D: Tensor) -> Tensor:
    """The publisher of one process: readers keep what they were given."""
    return range_D.clone()
