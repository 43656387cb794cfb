"""A worker: `mottle.core.worker.Worker` decides, an engine computes, this carries messages.

Its process serves one run after another; what belongs to one of them is its `Session`. `run` is the compute thread; `post` only puts
messages into the mailbox, which the compute thread looks into at every micro-batch boundary.
"""

import gc
import os
import queue
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import ray
import torch

from mottle import compression, strategies
from mottle.actors import transport
from mottle.actors.exchange import Door, Exchange
from mottle.actors.faulty import Faulty, Sent
from mottle.actors.job import Job, WorkerGroup
from mottle.actors.lines import Message
from mottle.actors.link import Replica, ShardLink, Shards, ways_to
from mottle.actors.logs import Output
from mottle.actors.memory import forget_peak, peak_rss_bytes
from mottle.actors.reports import Reports, RunHandle
from mottle.actors.slot_state import SlotState, TakeUp
from mottle.actors.way import Way, connect
from mottle.core import protocol as p
from mottle.core import worker as w
from mottle.core.layout import Range
from mottle.data import GLOBAL_RANDOMNESS, Positions, Prefetcher, derive_seed
from mottle.engines import LocalTraining, TorchEngine


class TrainingWorker:
    """A worker's process: `connect`, `prepare` and `run` make it a worker of a run's crew, `rest` ends that."""

    def __init__(self) -> None:
        self._output = Output()
        self._exchange: Exchange | None = None
        self._session: Session | None = None

    def where(self) -> dict[str, Any]:
        """Process id, node and device, for the crew's books."""
        context = ray.get_runtime_context()
        device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
        return {"pid": os.getpid(), "node": context.get_node_id(), "device": device}

    def connect(self, slot: int, door: Door | None, shards: Shards, run: RunHandle) -> list[str]:
        """Call the coordinator and the shards. Returns what people should know where one cannot be called.

        Args:
            slot: the worker's number in the crew.
            door: of the coordinator's exchange; None for a run without lines.
        """
        forget_peak()
        self._slot = slot
        self._mailbox: queue.SimpleQueue[w.WorkerEvent] = queue.SimpleQueue()
        self._exchange = None if door is None else Exchange(self._hear)
        me = line_name(slot)
        line, trouble = connect(self._exchange, door, me, "the coordinator")
        self._log, self._reports = run.log, Reports(run, line)
        self._shards, troubles = ways_to(shards, self._exchange, me)
        return [trouble, *troubles] if trouble else troubles

    def meet(self, shard: int, newcomer: Replica) -> None:
        """Know a further replica of a shard; answered once no push is under way that leaves it out."""
        ways, _ = ways_to({shard: [newcomer]}, self._exchange, line_name(self._slot))
        self._shards[shard] += ways[shard]
        if self._session is not None:
            self._session.await_push()

    def _hear(self, messages: list[Message]) -> None:
        for message in messages:
            match message.body:
                case ("post", (event,)):
                    self._mailbox.put(event)

    @transport.call(group="mail", answered=False)
    def post(self, event: w.WorkerEvent) -> None:
        """Put a message into the mailbox."""
        self._mailbox.put(event)

    @transport.call(group="run")
    def prepare(self, job: Job, group: WorkerGroup, take_up: TakeUp | None = None) -> None:
        """Make the model and open the data, once connected: whoever fails at that never joins.

        Args:
            take_up: what a worker of a run that is resumed goes on from.
        """
        torch.set_num_threads(job.threads_per_worker)
        self._output.keep(job.run_dir, f"w{self._slot}", self._log)
        try:
            self._session = Session(self._slot, job, group, self._shards, self._reports, self._mailbox, take_up)
        except Exception:
            traceback.print_exc()
            raise

    @transport.call(group="run")
    def run(self) -> int:
        """Work until dismissed, once prepared. Returns the peak resident memory in bytes."""
        assert self._session is not None
        try:
            self._session.run()
        except Exception:
            traceback.print_exc()  # the coordinator gets the error, this worker's log the whole story
            raise
        finally:
            if self._exchange is not None:
                self._exchange.close()
            self._output.close()
        return peak_rss_bytes()

    @transport.call(group="mail")
    def rest(self) -> None:
        """Forget the run; what was still under way to the mailbox has come when this is answered."""
        self._session = self._exchange = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def line_name(slot: int) -> str:
    """Under which a worker calls the coordinator and the shards."""
    return f"worker/{slot}"


class Session:
    """One worker's part in one job."""

    def __init__(
        self,
        slot: int,
        job: Job,
        group: WorkerGroup,
        shards: Mapping[int, list[Way]],
        reports: Reports,
        mailbox: "queue.SimpleQueue[w.WorkerEvent]",
        take_up: TakeUp | None = None,
    ) -> None:
        self._slot = slot
        self._job = job
        self._delay_s = group.delay_s
        self._reports = reports
        self._mailbox = mailbox
        self._machine = w.Worker(slot)
        ranges = job.layout.cut(len(shards))
        self._shards = ShardLink(shards, ranges, np.dtype(job.layout.dtype).itemsize, slot, wants_news=True)
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
        most = strategies.build(job.strategy, job.strategy_defaults).max_in_flight
        self._state = SlotState(job.run_dir, slot, ranges, most, reports, take_up)
        self._faulty = None if group.attack is None else Faulty(group.attack, slot, job)
        self._prefetcher = Prefetcher(job.loader.load, depth=4)
        self._weight = 0.0
        self._compute_ns = 0
        self._base = 0

    def run(self) -> None:
        """Execute what the machine orders until it says `Exit`."""
        orders: deque[w.WorkerOrder] = deque()
        try:
            while True:
                if not orders:
                    orders.extend(self._machine.handle(self._mailbox.get()))
                    continue
                order = orders.popleft()
                if isinstance(order, w.Exit):
                    return
                event = self._execute(order)
                if event is not None:
                    orders.extend(self._machine.handle(event))
        finally:
            self._prefetcher.close()
            self._state.close()

    def _execute(self, order: w.WorkerOrder) -> w.WorkerEvent | None:
        match order:
            case w.Fetch(epoch, start, stop):
                self._prefetch(epoch, start, stop)
            case w.Unfetch(epoch, start, stop):
                self._unfetch(epoch, start, stop)
            case w.Answer(event):
                self._reports.tell([event])
            case w.SaveState():
                self._state.save(order)
            case w.LoadBase(work_id) | w.ClearAccumulator(work_id) | w.RunPart(work_id) | w.Push(work_id):
                return self._attempt(work_id, lambda: self._work(order))
        return None

    def _attempt(self, work_id: int, do: Callable[[], w.WorkerEvent]) -> w.WorkerEvent:
        """A failure gives the order back with its reason; the worker goes on to the next one."""
        try:
            return do()
        except Exception as error:
            print(traceback.format_exc(), flush=True)  # into this worker's log; the coordinator gets the sentence
            return w.WorkFailed(work_id, f"{type(error).__name__}: {error}")

    def _work(self, order: w.WorkerOrder) -> w.WorkerEvent:
        match order:
            case w.LoadBase(work_id, version, local):
                if self._state.local is not None:
                    self._state.local.forget()
                self._shards.load(self._engine, p.work_holder(work_id), version.number)
                self._base = version.number
                return self._clear(work_id, local)
            case w.ClearAccumulator(work_id, local):
                if self._state.local is not None:
                    self._state.local.rewind()
                return self._clear(work_id, local)
            case w.RunPart():
                return self._compute(order)
            case w.Push():
                self._push(order)
                return w.PushConfirmed(order.work_id)
        raise AssertionError(order)

    def _clear(self, work_id: int, local: p.LocalSteps | None) -> w.Loaded:
        self._state.begin(work_id)
        if local is not None:
            self._state.training(self._make_local).start(local)
            self._engine.refresh()
        self._engine.zero()
        self._weight = 0.0
        self._compute_ns = 0
        return w.Loaded(work_id)

    def _make_local(self) -> LocalTraining:
        return LocalTraining(self._job.layout, self._engine.values(), self._job.schedule)

    def await_push(self) -> None:
        """Return once a push that is under way now is through."""
        self._shards.await_push()

    # --- computing --------------------------------------------------------------------------------------------------------------------

    def _prefetch(self, epoch: int, start: int, stop: int) -> None:
        size = self._engine.micro_batch_size
        for low in range(start, stop, size):
            if not self._prefetcher.request(Positions(epoch, low, min(low + size, stop))):
                return

    def _unfetch(self, epoch: int, start: int, stop: int) -> None:
        """Make room for what comes next; all that can be on the shelf is micro-batches from `start` on."""
        size = self._engine.micro_batch_size
        for low in range(start, stop, size):
            self._prefetcher.discard(Positions(epoch, low, min(low + size, stop)))

    def _compute(self, order: w.RunPart) -> w.Computed:
        began_ns = time.monotonic_ns()

        def fetch(start: int, stop: int) -> Any:
            batch = self._prefetcher.take(Positions(order.epoch, start, stop))
            self._prefetch(order.epoch, stop, min(order.stop, stop + 3 * self._engine.micro_batch_size))
            if self._delay_s:
                time.sleep(self._delay_s * (stop - start))
            return batch if self._faulty is None else self._faulty.batch(batch, self._base)

        done = self._engine.accumulate(
            fetch,
            order.start,
            order.stop,
            seed_of_position=lambda position: derive_seed(self._job.seed, "model", order.epoch, position),
            should_stop=lambda: self._interrupted(order.work_id),
            coefficient=order.coefficient,
        )
        if done.num_out_of_memory:
            print(f"out of memory: micro-batches of {done.micro_batch_size} from here on", flush=True)
        self._weight += done.weight
        if order.step is not None and order.start + done.num_samples == order.stop:
            self._step(order.step)
        self._compute_ns += time.monotonic_ns() - began_ns
        return w.Computed(order.work_id, order.part, order.start + done.num_samples)

    def _step(self, order: p.LocalSteps) -> None:
        """An inner step on what was accumulated since the last one."""
        assert self._state.local is not None
        self._state.local.step(order, self._engine.update(), self._weight)
        self._weight = 0.0
        self._engine.refresh()
        self._engine.zero()

    def _interrupted(self, work_id: int) -> bool:
        """Look into the mailbox: a new order is only queued here, a cut or an abandonment ends this one."""
        while not self._mailbox.empty():
            for order in self._machine.handle(self._mailbox.get()):
                self._execute(order)
        return self._machine.interrupted(work_id)

    # --- pushing ----------------------------------------------------------------------------------------------------------------------

    def _push(self, order: w.Push) -> None:
        """Send every shard its range, encoded; wait until each has copied it."""
        work_id, samples = order.work_id, order.samples
        flat_D = None
        if order.local is not None:
            assert self._state.local is not None, "an update of local steps that were not taken"
            flat_D, self._weight = self._state.local.update(order.local), self._state.local.weight
        if self._job.channel is None and self._faulty is None:
            encode = self._encode_parts if flat_D is None else partial(self._encode, vector=flat_D)
            self._send(p.update_name(work_id), self._slot, samples, encode)
            return
        flat_D = self._engine.update() if flat_D is None else flat_D
        if self._job.channel is not None:
            ray.get(self._job.channel.deposit.remote(self._slot, self._base, transport.publish(flat_D / self._weight)))
        honest = Sent(p.update_name(work_id), self._slot, samples, flat_D)
        for sent in [honest] if self._faulty is None else self._lie(honest, work_id, samples):
            self._send(sent.name, sent.sender, sent.samples, partial(self._encode, vector=sent.vector))

    def _send(self, name: str, sender: int, samples: Any, encode: Callable[[int, Range], Any]) -> None:
        weight = self._weight if self._job.brain.weighted_loss else None
        self._shards.push(name, encode, sender=sender, samples=samples, weight=weight, compute_ns=self._compute_ns)

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
