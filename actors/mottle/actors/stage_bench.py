"""What one process of a gang computes with: its stage of the model, its own ranges of versions and updates, its batches.

All processes of a gang are told the same, at the same time, by the gang's leader (`mottle.actors.gang`).
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mottle import compression, strategies
from mottle.actors import transport
from mottle.actors.feed import Feed
from mottle.actors.gang_copies import Packed, pack
from mottle.actors.gang_state import Patch, is_inner, patches_of, state_of, stretch_of
from mottle.actors.job import Job, WorkerGroup, placed_config
from mottle.actors.link import ShardLink
from mottle.actors.slot_state import CODEC
from mottle.actors.way import Way
from mottle.core import protocol as p
from mottle.core.kept import KeptStates
from mottle.core.layout import Range
from mottle.core.worker import RunPart
from mottle.data import GLOBAL_RANDOMNESS, Positions, derive_seed
from mottle.engines import LocalTraining
from mottle.engines.placed import Channel, MicroBatch, Part, StageEngine, captured_call
from mottle.engines.torch_engine import AUTOCAST
from mottle.placement.staging import Cut
from mottle.placement.tracing import Capture


class Counted(NamedTuple):
    """What a stage did in one call of `compute`."""

    weight: float
    """Of the last stage; 0 of the others."""
    busy_ns: int
    wall_ns: int


def capture_for(job: Job, model: Any) -> Capture:
    """The graph that a gang's stages are cut from: of a micro-batch of the job.

    Raises:
        ConfigError: it cannot be staged; says why.
    """
    size = min(job.micro_batch_size, job.loader.num_positions)
    return captured_call(model, job.loss, job.loader.load(Positions(0, 0, size)))


def device_of(group: WorkerGroup) -> torch.device:
    """What a process of such a worker computes on."""
    return torch.device("cuda" if group.num_gpus and torch.cuda.is_available() else "cpu")


class StageBench:
    """One stage's, in one job.

    Args:
        slot: the gang's number in the crew.
        shards: ways of this process to the live replicas of each shard.
        stage: which one of the cut.
    """

    def __init__(self, slot: int, job: Job, group: WorkerGroup, shards: Mapping[int, list[Way]], cut: Cut, stage: int) -> None:
        config = placed_config(group)
        assert config is not None
        self._job = job
        self._group = group
        self.cut, self.stage = cut, stage
        self._ranges = job.layout.cut(len(shards))
        self._shards = ShardLink(shards, self._ranges, np.dtype(job.layout.dtype).itemsize, slot, wants_news=True)
        device = device_of(group)
        part = Part(
            loss=job.loss,
            layout=job.layout,
            micro_batch_size=min(job.micro_batch_size, job.loader.num_positions),
            config=config,
            autocast=None if group.autocast is None else AUTOCAST[group.autocast],
            max_norm=job.max_grad_norm_per_worker,
        )
        model = job.model()
        self._engine = StageEngine(model, part, capture_for(job, model), cut, stage, device, GLOBAL_RANDOMNESS)
        self._sharing = self._engine.sharing(self._ranges)
        self._pieces = [(piece.shard, piece.range) for piece in self._sharing.pieces if piece.stage == stage]
        """(shard, coordinates) that this stage pushes."""
        self._codec = compression.build(job.codec)
        self._holds_back = compression.remembers(self._codec)
        self._memory: dict[tuple[int, int], Any] = {}
        """What the codec holds back, by shard and first coordinate."""
        self._own: float | None = None
        """Weight of the update that was settled last, where the job has its own."""
        self._encoded: dict[tuple[int, Range], Any] = {}
        """Of it, what was encoded before it is sent."""
        self._feed = Feed(job.loader)
        self._local: LocalTraining | None = None
        self._taken_up: dict[str, Tensor] = {}
        self._kept: KeptStates[list[Patch]] = KeptStates(strategies.build(job.strategy, job.strategy_defaults).max_in_flight)

    def join(self, channel: Channel) -> None:
        """Speak to the other stages this way from here on."""
        self._engine.join(channel)

    def leave(self) -> None:
        """Let go of the way to the others."""
        self._engine.leave()

    def close(self) -> None:
        """End the thread that loads data."""
        self._feed.close()

    def await_push(self) -> None:
        """Return once a push that is under way now is through."""
        self._shards.await_push()

    # --- versions ---------------------------------------------------------------------------------------------------------------------

    @property
    def cuts(self) -> tuple[transport.Cuts, ...]:
        """By shard: coordinates that each stage reads of a version."""
        reads = [self._engine.holdings.read(stage) for stage in range(self.cut.num_stages)]
        return tuple(tuple(_within(ranges, owned) for ranges in reads) for owned in self._ranges)

    def divided(self, reader: str, number: int) -> list[list[Any]]:
        """A version, divided between the stages; one reading for all of them."""
        return self._shards.read_cut(reader, number, self.cuts)

    def load(self, parts: Sequence[Any]) -> None:
        """Take this stage's part of a version, as `divided` has it."""
        if self._local is not None:
            self._local.forget()
        for published, cuts in zip(parts, self.cuts, strict=True):
            if published is None:
                continue
            values, at = transport.receive(published), 0
            for each in cuts[self.stage]:
                self._engine.load(values[at : at + each.size], each.start)
                at += each.size

    def rewind(self) -> None:
        """The wanted version is the one that was loaded last; local steps may have left it."""
        if self._local is not None:
            self._local.rewind()

    def clear(self, work_id: int, local: p.LocalSteps | None) -> None:
        """Forget what was accumulated, and get ready for local steps if there are to be any; keep what the order begins with."""
        self._kept.keep(work_id, self._now())
        if local is not None:
            if self._local is None:
                self._local = LocalTraining(self._engine.layout, self._engine.values(), self._job.schedule)
                self._local.take_up(self._taken_up)
            self._local.start(local)
        self._engine.zero()

    # --- what is kept from order to order -----------------------------------------------------------------------------------------------

    def kept(self, before: int) -> list[Patch]:
        """This stage's part of what the gang kept before its first order from `before` on."""
        kept = self._kept.before(before)
        return self._now() if kept is None else kept

    def _now(self) -> list[Patch]:
        inner = self._taken_up if self._local is None else self._local.state()
        patches = patches_of(inner, self._engine.spoken)
        for (_, start), memory in self._memory.items():
            patches += [Patch(f"{CODEC}{name}", start if value.dim() else None, value) for name, value in (memory or {}).items()]
        return patches

    def forget(self) -> None:
        """Begin anew."""
        self.take_up([])

    def take_up(self, patches: Sequence[Patch]) -> None:
        """Go on from what a gang, or a worker, kept; in place of what this stage has."""
        self._local, self._kept = None, KeptStates(self._kept.most)
        inner = [patch for patch in patches if is_inner(patch)]
        held_back = [patch._replace(name=patch.name.removeprefix(CODEC)) for patch in patches if not is_inner(patch)]
        self._taken_up = state_of(inner, self._engine.places, self._engine.layout.size)
        self._memory = {(shard, run.start): stretch_of(held_back, run) or None for shard, run in self._pieces}

    # --- computing --------------------------------------------------------------------------------------------------------------------

    def prefetch(self, epoch: int, start: int, stop: int) -> None:
        """These positions come next."""
        if self._engine.reads_data:
            self._feed.request(epoch, start, stop, self._engine.micro_batch_size)

    def unfetch(self, epoch: int, start: int, stop: int) -> None:
        """These positions, which would have come next, do not."""
        if self._engine.reads_data:
            self._feed.forget(epoch, start, stop, self._engine.micro_batch_size)

    def compute(self, epoch: int, start: int, stop: int, coefficient: float, last: int) -> Counted:
        """Add the gradients of positions [start, stop); those up to `last` come next."""
        fetch, seed = partial(self._fetch, epoch, last), partial(self._seed, epoch)
        done = self._engine.accumulate(fetch, start, stop, seed_of_position=seed, coefficient=coefficient)
        return Counted(done.weight, *self._engine.timing)

    def compute_stale(self, parts: Sequence[RunPart]) -> Counted:
        """All parts of a round of inner steps by DSP's schedule, which takes the steps as well."""
        batches: list[MicroBatch] = []
        for part in parts:
            size = self._engine.micro_batch_size
            for low in range(part.start, part.stop, size):
                high = min(low + size, part.stop)
                fetch, ends = partial(self._fetch, part.epoch, part.stop), part.step is not None and high == part.stop
                batches.append(MicroBatch(low, high, fetch, self._seed(part.epoch, low), part.coefficient, ends))
        steps = (part.step for part in parts if part.step is not None)
        done = self._engine.train_stale(batches, lambda weight: self.step(next(steps), weight))
        return Counted(done.weight, *self._engine.timing)

    def _fetch(self, epoch: int, last: int, low: int, high: int) -> Any:
        """A micro-batch; those up to `last` come next."""
        batch = self._feed.take(epoch, low, high, self._engine.micro_batch_size, last)
        if self._group.delay_s and self.stage == 0:
            time.sleep(self._group.delay_s * (high - low))
        return batch

    def _seed(self, epoch: int, position: int) -> int:
        return derive_seed(self._job.seed, "model", epoch, position)

    def step(self, order: p.LocalSteps, weight: float) -> None:
        """An inner step on what was accumulated since the last one."""
        assert self._local is not None
        self._local.step(order, self._engine.update(weight, everywhere=True), weight)
        self._engine.zero()

    # --- pushing ----------------------------------------------------------------------------------------------------------------------

    def push(self, name: str, samples: int, weight: float, compute_ns: int, local: p.LocalSteps | None) -> None:
        """Send the shards what this stage speaks for."""
        self.conclude(weight, local)
        self.send(name, samples, compute_ns)

    def conclude(self, weight: float, local: p.LocalSteps | None) -> None:
        """The order is computed: its update is settled, and so is what the next order begins with."""
        if local is None:
            update_S = self._engine.update(weight)
        else:
            assert self._local is not None, "an update of local steps that were not taken"
            update_S, weight = self._local.update(local), self._local.weight
        self._engine.share_out(update_S, self._sharing)
        self._own = weight if self._job.brain.weighted_loss else None
        self._encoded = {piece: self._encode(*piece) for piece in self._pieces} if self._holds_back else {}

    def entrusted(self) -> list[Packed]:
        """What the next order begins with, for another process to hold."""
        return pack(self._now())

    def send(self, name: str, samples: int, compute_ns: int) -> None:
        """Send what was settled."""

        def encoded(shard: int, run: Range) -> Any:
            piece = (shard, run)
            return self._encoded.pop(piece) if piece in self._encoded else self._encode(*piece)

        self._shards.push(name, encoded, samples=samples, weight=self._own, compute_ns=compute_ns, pieces=self._pieces)

    def _encode(self, shard: int, run: Range) -> Any:
        values: Tensor = torch.cat(self._engine.parts(run.start, run.stop))
        key = (shard, run.start)
        payload, self._memory[key] = self._codec.encode(values, self._memory.get(key))
        return payload


def _within(ranges: Sequence[Range], owned: Range) -> tuple[Range, ...]:
    met = ((max(each.start, owned.start), min(each.stop, owned.stop)) for each in ranges)
    return tuple(Range(start, stop) for start, stop in met if start < stop)
