"""What a worker computes with: engine, codec, data and the link to the shards. It does what it is told and decides nothing."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
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
        ranges, itemsize = job.layout.cut(len(shards)), np.dtype(job.layout.dtype).itemsize
        self._shards = ShardLink(shards, ranges, itemsize, slot, wants_news=True, fragments=job.fragments)
        device = "cuda" if group.num_gpus and torch.cuda.is_available() else "cpu"
        self._engine = TorchEngine(
            job.model(),
            job.loss,
            job.model_layout,
            device,
            job.micro_batch_size,
            group.autocast,  # type: ignore[arg-type]  # checked by the engine, which names the choices
            job.max_grad_norm_per_worker,
            global_randomness=GLOBAL_RANDOMNESS,  # the prefetcher's thread draws from the same generators
        )
        self._codec = compression.build(job.codec)
        self._faulty = None if group.attack is None else Faulty(group.attack, slot, job)
        self._feed = Feed(job.loader)
        self._fragments: dict[int, torch.Tensor] = {}
        """Read and not yet mixed in, by order."""
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

    def load_model(self, reader: str, number: int, model: int) -> None:
        """Read one of several models of a version from all shards, as `reader`."""
        self._shards.load_fragment(self._engine, reader, number, model)
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
        return LocalTraining(self._job.layout, self._engine.values(), self._job.schedule, self._job.fragments)

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

    # --- fragments --------------------------------------------------------------------------------------------------------------------

    def parcel(self, order: w.Push) -> Callable[[], None]:
        """What pushes the fragment's update as it is now; for another thread, while this one computes what follows."""
        local = self._state.local
        assert local is not None, "an update of local steps that were not taken"
        assert order.local is not None, "an order without local steps sends no fragment"
        vector_F, fragment, encoded = local.update(order.local), order.local.send, None
        if self._faulty is None:  # now, so that what the codec holds back is part of what the next order begins with
            spaces = self._shards.spaces(fragment)
            encoded = [self._encode(shard, owned, vector_F, self._base, fragment) for shard, owned in enumerate(spaces)]
        return partial(self._send, order, vector_F, local.weight, self._compute_ns, self._base, encoded)

    def read_fragment(self, mix: p.Mix) -> None:
        """Read what is to be mixed in; for another thread."""
        reader = f"{p.work_holder(mix.work_id)}/mix"
        self._fragments[mix.work_id] = self._shards.read_fragment(reader, mix.version.number, mix.fragment)

    def blend(self, mix: p.Mix) -> None:
        """Mix in what was read."""
        assert self._state.local is not None, "a fragment is mixed into steps that were not taken"
        self._state.local.mix(mix.fragment, self._fragments.pop(mix.work_id), mix.share)
        self._engine.refresh()
        self._engine.zero()

    # --- pushing ----------------------------------------------------------------------------------------------------------------------

    def push(self, order: w.Push) -> None:
        """Send every shard its range, encoded; wait until each has copied it."""
        vector_D, weight = None, self._weight
        if order.local is not None:
            assert self._state.local is not None, "an update of local steps that were not taken"
            vector_D, weight = self._state.local.update(order.local), self._state.local.weight
        self._send(order, vector_D, weight, self._compute_ns, self._base)

    def _send(
        self,
        order: w.Push,
        vector_D: torch.Tensor | None,
        weight: float,
        compute_ns: int,
        base: int,
        encoded: list[Any] | None = None,
    ) -> None:
        """Send an update: the one that lies in the engine for None.

        Args:
            encoded: it, for each shard, where that has been done already.
        """
        fragment = order.fragment if order.local is None else order.local.send

        def send(sent: Sent, encode: Callable[[int, Range], Any]) -> None:
            said = {"sender": sent.sender, "samples": sent.samples, "weight": sent.weight}
            self._shards.push(sent.name, encode, **said, compute_ns=compute_ns, fragment=fragment)

        own = weight if self._job.brain.weighted_loss else None
        honest = Sent(p.update_name(order.work_id), self._slot, order.samples, vector_D, own)
        if self._job.channel is not None:
            vector_D = self._engine.update() if vector_D is None else vector_D
            ray.get(self._job.channel.deposit.remote(self._slot, base, transport.publish(vector_D / weight)))
        if encoded is not None:
            send(honest, lambda shard, _: encoded[shard])
            return
        if self._faulty is None and vector_D is None:
            send(honest, partial(self._encode_parts, fragment=fragment))
            return
        honest = replace(honest, vector=self._engine.update() if vector_D is None else vector_D)
        lies = [honest]
        if self._faulty is not None:
            lies = self._faulty.messages(honest.vector, weight, work_id=order.work_id, base=base, samples=order.samples)
        for sent in lies:
            send(sent, partial(self._encode, vector=sent.vector, base=base, fragment=fragment))

    def _encode_parts(self, shard: int, owned: Range, fragment: int | None) -> Any:
        """A shard's range of the honest update; large ones from where they lie, if the codec loses nothing: then it may be divided."""
        parts = self._engine.parts(owned.start, owned.stop)
        if len(parts) > 1 and (self._codec.contraction < 1 or (owned.stop - owned.start) * parts[0].itemsize <= transport.INLINE_BYTES):
            parts = [torch.cat(parts)]
        payloads, key = [], shard if fragment is None else (fragment, shard)
        for part in parts:
            payload, self._state.memory[key] = self._codec.encode(part.cpu(), self._state.memory[key])
            payloads.append(payload)
        return payloads[0] if len(payloads) == 1 else tuple(payloads)

    def _encode(self, shard: int, owned: Range, vector: Any, base: int, fragment: int | None) -> Any:
        """A shard's range as the codec sends it; what no codec would take, only a liar sends, and as it is."""
        if not isinstance(vector, torch.Tensor) or vector.dim() != 1:
            return vector
        range_S = vector[owned.start : owned.stop].cpu()
        if self._faulty is not None:
            range_S = self._faulty.on_the_wire(range_S, base, owned.start)
            if range_S.dtype not in (torch.float32, torch.float64):
                return range_S
        key = shard if fragment is None else (fragment, shard)
        payload, self._state.memory[key] = self._codec.encode(range_S, self._state.memory.get(key))
        return payload
