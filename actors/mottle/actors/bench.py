"""What a worker computes with: engine, codec, data and the link to the shards. It does what it is told and decides nothing."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import ray
import torch

from mottle import compression
from mottle.actors import transport
from mottle.actors.faulty import Faulty, Sent
from mottle.actors.feed import Feed
from mottle.actors.job import Job, WorkerGroup
from mottle.actors.link import Replica, ShardLink
from mottle.actors.slot_state import SlotState
from mottle.actors.way import Way
from mottle.core import protocol as p
from mottle.core import worker as w
from mottle.core.layout import Range
from mottle.data import GLOBAL_RANDOMNESS, derive_seed
from mottle.engines import LocalTraining, TorchEngine


class Bench:
    """One worker's, in one job.

    Args:
        slot: the worker's number in the crew.
        shards: ways to the live replicas of each shard.
        state: what is kept from order to order.
    """

    def __init__(self, slot: int, job: Job, group: WorkerGroup, shards: Mapping[int, list[Way]], state: SlotState) -> None:
        self._slot = slot
        self._job = job
        self._delay_s = group.delay_s
        self._state = state
        self._shards = ShardLink(shards, job.layout.cut(len(shards)), np.dtype(job.layout.dtype).itemsize, slot, wants_news=True)
        device = "cuda" if group.num_gpus and torch.cuda.is_available() else "cpu"
        self._engine = TorchEngine(
            job.model(),
            job.loss,
            job.layout,
            device,
            job.micro_batch_size,
            group.autocast,  # type: ignore[arg-type]  # checked by the engine, which names the choices
            job.max_grad_norm_per_worker,
            global_randomness=GLOBAL_RANDOMNESS,  # the prefetcher's thread draws from the same generators
        )
        self._codec = compression.build(job.codec)
        self._faulty = None if group.attack is None else Faulty(group.attack, slot, job)
        self._feed = Feed(job.loader)
        self._weight = 0.0
        self._compute_ns = 0
        self._base = 0

    def close(self) -> None:
        """End the thread that loads data."""
        self._feed.close()

    def meet(self, shard: int, newcomer: Replica) -> None:
        """A further replica of a shard is known; return once no push is under way that leaves it out."""
        self._shards.await_push()

    # --- getting ready ----------------------------------------------------------------------------------------------------------------

    def load(self, reader: str, number: int) -> None:
        """Read a version from all shards, as `reader`."""
        if self._state.local is not None:
            self._state.local.forget()
        self._shards.load(self._engine, reader, number)
        self._base = number

    def rewind(self) -> None:
        """The wanted version is the one that was loaded last; local steps may have left it."""
        if self._state.local is not None:
            self._state.local.rewind()

    def clear(self, local: p.LocalSteps | None) -> None:
        """Forget what was accumulated, and get ready for local steps if there are to be any."""
        if local is not None:
            self._state.training(self._make_local).start(local)
            self._engine.refresh()
        self._engine.zero()
        self._weight = 0.0
        self._compute_ns = 0

    def _make_local(self) -> LocalTraining:
        return LocalTraining(self._job.layout, self._engine.values(), self._job.schedule)

    # --- computing --------------------------------------------------------------------------------------------------------------------

    def prefetch(self, epoch: int, start: int, stop: int) -> None:
        """These positions come next."""
        self._feed.request(epoch, start, stop, self._engine.micro_batch_size)

    def unfetch(self, epoch: int, start: int, stop: int) -> None:
        """These positions, which would have come next, do not."""
        self._feed.forget(epoch, start, stop, self._engine.micro_batch_size)

    def compute(self, order: w.RunPart, should_stop: Callable[[], bool]) -> int:
        """Add the order's gradients, and take the inner step that ends it. Returns the samples done; fewer when it was stopped."""
        began_ns = time.monotonic_ns()

        def fetch(start: int, stop: int) -> Any:
            batch = self._feed.take(order.epoch, start, stop, self._engine.micro_batch_size, order.stop)
            if self._delay_s:
                time.sleep(self._delay_s * (stop - start))
            return batch if self._faulty is None else self._faulty.batch(batch, self._base)

        done = self._engine.accumulate(
            fetch,
            order.start,
            order.stop,
            seed_of_position=lambda position: derive_seed(self._job.seed, "model", order.epoch, position),
            should_stop=should_stop,
            coefficient=order.coefficient,
        )
        if done.num_out_of_memory:
            print(f"out of memory: micro-batches of {done.micro_batch_size} from here on", flush=True)
        self._weight += done.weight
        if order.step is not None and order.start + done.num_samples == order.stop:
            self._step(order.step)
        self._compute_ns += time.monotonic_ns() - began_ns
        return done.num_samples

    def _step(self, order: p.LocalSteps) -> None:
        """An inner step on what was accumulated since the last one."""
        assert self._state.local is not None
        self._state.local.step(order, self._engine.update(), self._weight)
        self._weight = 0.0
        self._engine.refresh()
        self._engine.zero()

    # --- pushing ----------------------------------------------------------------------------------------------------------------------

    def push(self, order: w.Push) -> None:
        """Send every shard its range, encoded; wait until each has copied it."""
        work_id, samples = order.work_id, order.samples
        flat_D = None
        if order.local is not None:
            assert self._state.local is not None, "an update of local steps that were not taken"
            flat_D, self._weight = self._state.local.update(order.local), self._state.local.weight
        if self._job.channel is None and self._faulty is None:
            encode = self._encode_parts if flat_D is None else partial(self._encode, vector=flat_D)
            self._send(Sent(p.update_name(work_id), self._slot, samples, None, self._own_weight), encode)
            return
        flat_D = self._engine.update() if flat_D is None else flat_D
        if self._job.channel is not None:
            ray.get(self._job.channel.deposit.remote(self._slot, self._base, transport.publish(flat_D / self._weight)))
        honest = Sent(p.update_name(work_id), self._slot, samples, flat_D, self._own_weight)
        for sent in [honest] if self._faulty is None else self._lie(honest, work_id, samples):
            self._send(sent, partial(self._encode, vector=sent.vector))

    @property
    def _own_weight(self) -> float | None:
        return self._weight if self._job.brain.weighted_loss else None

    def _send(self, sent: Sent, encode: Callable[[int, Range], Any]) -> None:
        self._shards.push(sent.name, encode, sender=sent.sender, samples=sent.samples, weight=sent.weight, compute_ns=self._compute_ns)

    def _encode_parts(self, shard: int, owned: Range) -> Any:
        """A shard's range of the honest update; large ones from where they lie, if the codec loses nothing: then it may be divided."""
        parts = self._engine.parts(owned.start, owned.stop)
        if len(parts) > 1 and (self._codec.contraction < 1 or (owned.stop - owned.start) * parts[0].itemsize <= transport.INLINE_BYTES):
            parts = [torch.cat(parts)]
        payloads = []
        for part in parts:
            payload, self._state.memory[shard] = self._codec.encode(part.cpu(), self._state.memory[shard])
            payloads.append(payload)
        return payloads[0] if len(payloads) == 1 else tuple(payloads)

    def _lie(self, honest: Sent, work_id: int, samples: int) -> list[Sent]:
        assert self._faulty is not None
        return self._faulty.messages(honest.vector, self._weight, work_id=work_id, base=self._base, samples=samples)

    def _encode(self, shard: int, owned: Range, vector: Any) -> Any:
        """A shard's range as the codec sends it; what no codec would take, only a liar sends, and as it is."""
        if not isinstance(vector, torch.Tensor) or vector.dim() != 1:
            return vector
        range_S = vector[owned.start : owned.stop].cpu()
        if self._faulty is not None:
            range_S = self._faulty.on_the_wire(range_S, self._base, owned.start)
            if range_S.dtype not in (torch.float32, torch.float64):
                return range_S
        payload, self._state.memory[shard] = self._codec.encode(range_S, self._state.memory[shard])
        return payload
