"""Timing simulation: brain, shards and workers exchange messages over a seeded network, without tensors.

Messages are delayed, overtake one another, are repeated, and a sender that is killed leaves some of its messages undelivered (a torn
push). Nothing is lost silently between living processes: that is what the transport below Mottle promises too.

Every decision comes from the same three machines as in the live system; this file only carries messages and time.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from mottle.core import protocol as p
from mottle.core import shard as sh
from mottle.core import worker as w
from mottle.core.brain import VALIDATOR, Brain
from mottle.core.layout import BLOCK, Range
from mottle.simulate.clock import Clock
from mottle.simulate.faults import Fault


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The machines and their network. Times in nanoseconds.

    Attributes:
        sample_ns: compute time of one sample, for each worker at the start.
        delay_ns: bounds between which the delay of every message is drawn.
        repeat: probability that a message is delivered twice.
        detect_ns: time from a worker's death until the brain hears of it.
        micro_batch: samples between two looks at the mailbox.
    """

    sample_ns: tuple[int, ...]
    delay_ns: tuple[int, int] = (100_000, 2_000_000)
    repeat: float = 0.0
    detect_ns: int = 5_000_000
    micro_batch: int = 8


@dataclass
class _SimShard:
    machine: sh.Shard
    alive: bool = True
    history: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    """(version, names that went into it), the stand-in for the parameters."""


@dataclass
class _SimWorker:
    machine: w.Worker
    sample_ns: int
    alive: bool = True


@dataclass
class _Call:
    """A message to several replicas and what happens when all have answered; a repeated answer counts once."""

    missing: set[p.ReplicaId]
    then: Callable[[], None]
    failed: Callable[[], None] | None
    """What a refusal or a death does; None: a dead replica counts as having answered."""

    def answered(self, replica: p.ReplicaId, well: bool) -> None:
        if replica not in self.missing:
            return
        self.missing.discard(replica)
        if not well and self.failed is not None:
            self.missing.clear()
            self.failed()
        elif not self.missing:
            self.then()


class Simulation:
    """One run on virtual time.

    Args:
        brain: the machine under test, with its strategy.
        fleet: speeds and network.
        seed: of delays, repetitions, torn messages and synthetic inner products.
        faults: what goes wrong.
        on_event: called after every event of the brain, with invariants already checked.
    """

    def __init__(
        self, brain: Brain, fleet: Fleet, *, seed: int, faults: Iterable[Fault] = (), on_event: Callable[[p.Event], None] | None = None
    ) -> None:
        self.brain = brain
        self.fleet = fleet
        self.clock = Clock()
        self.log: list[tuple[int, p.Event, tuple[p.Command, ...]]] = []
        self.fired: list[Fault] = []
        self.shards: dict[p.ReplicaId, _SimShard] = {}
        self.workers: dict[int, _SimWorker] = {}
        self.finished = ""
        self._rng = random.Random(seed)
        self._on_event = on_event
        self._faults = list(faults)
        self._calls: list[_Call] = []
        self._readers: dict[tuple[p.ReplicaId, str, int], Callable[[bool], None]] = {}
        for replica in sorted(brain.shards.live):
            owned = Range(replica.shard * BLOCK, (replica.shard + 1) * BLOCK)
            self.shards[replica] = _SimShard(sh.Shard(replica, owned, version=p.Version(0, 0)))
        for fault in self._faults:
            if fault.at_ns is not None:
                self.clock.after(fault.at_ns, lambda fault=fault: self._fire(fault))  # type: ignore[misc]

    def run(self, *, max_events: int = 1_000_000) -> None:
        """Run until the brain says that it has finished, or nothing moves any more."""
        for sample_ns in self.fleet.sample_ns:
            self._join(sample_ns)
        self._tell_brain(p.Started(p.Version(0, 0)))
        for _ in range(max_events):
            if self.finished or not self.clock.step():
                return
        raise AssertionError(f"the run did not end within {max_events} steps of the clock")

    # --- network ----------------------------------------------------------------------------------------------------------------------

    def _send(self, deliver: Callable[[], None], alive: Callable[[], bool] = lambda: True) -> None:
        """Deliver after a random delay, perhaps twice; a message of a sender that died meanwhile arrives or not."""
        copies = 2 if self._rng.random() < self.fleet.repeat else 1
        for _ in range(copies):
            survives = self._rng.random() < 0.5

            def arrive(survives: bool = survives) -> None:
                if alive() or survives:
                    deliver()

            self.clock.after(self._rng.randint(*self.fleet.delay_ns), arrive)

    # --- brain ------------------------------------------------------------------------------------------------------------------------

    def _tell_brain(self, event: p.Event) -> None:
        if self.finished:
            return
        commands = self.brain.handle(event, now_ns=self.clock.now_ns)
        self.log.append((self.clock.now_ns, event, tuple(commands)))
        self.brain.check()
        if self._on_event is not None:
            self._on_event(event)
        for command in commands:
            self._obey(command)
        due = [f for f in self._faults if f.at_samples is not None and self.brain.samples >= f.at_samples and f not in self.fired]
        for fault in due:
            self._fire(fault)

    def _obey(self, command: p.Command) -> None:
        match command:
            case p.Compute(worker=slot):
                self._to_worker(slot, w.Ordered(command))
            case p.Cut(slot, work_id):
                self._to_worker(slot, w.CutAsked(work_id))
            case p.Abandon(slot, work_id):
                self._to_worker(slot, w.AbandonAsked(work_id))
            case p.Dismiss(slot):
                self._to_worker(slot, w.DismissAsked())
            case p.Batch():
                for replica in self.shards:
                    self._to_shard(replica, sh.BatchArrived(command))
            case p.Refresh(name, version):
                failed = partial(self._tell_brain, p.RefreshFailed(name, "a shard did not answer"))
                push = partial(self._push, name, VALIDATOR, 1, lambda: True, lambda: None)
                self._read_all(name, version.number, push, partial(self._send, failed))
            case p.Evaluate(version):
                done = partial(self._send, partial(self._tell_brain, p.Evaluated(version)))
                self._read_all("evaluate", version.number, done, done)
            case p.SaveModel(checkpoint, version):
                saved = partial(self._send, partial(self._tell_brain, p.ModelSaved(checkpoint)))
                failed = partial(self._send, partial(self._tell_brain, p.ModelSaved(checkpoint, error="a shard did not answer")))
                self._read_all(f"checkpoint/{checkpoint}", version.number, saved, failed)
            case p.SetTimer(name, at_ns):
                self.clock.after(max(0, at_ns - self.clock.now_ns), lambda: self._tell_brain(p.TimerFired(name)))
            case p.SaveCheckpoint(checkpoint):
                self._send(lambda: self._tell_brain(p.CheckpointWritten(checkpoint)))
            case p.Finished(reason):
                self.finished = reason

    # --- shards -----------------------------------------------------------------------------------------------------------------------

    def _to_shard(self, replica: p.ReplicaId, event: sh.ShardEvent, served: Callable[[bool], None] | None = None) -> None:
        self._send(lambda: self._shard_handle(replica, event, served))

    def _shard_handle(self, replica: p.ReplicaId, event: sh.ShardEvent, served: Callable[[bool], None] | None = None) -> None:
        shard = self.shards[replica]
        if not shard.alive:
            return
        if isinstance(event, sh.ReadAsked) and served is not None:
            self._readers[replica, event.reader, event.number] = served
        for order in shard.machine.handle(event):
            self._run_shard_order(replica, shard, order)
        shard.machine.check()

    def _run_shard_order(self, replica: p.ReplicaId, shard: _SimShard, order: sh.ShardOrder) -> None:
        match order:
            case sh.StoreRange(name, start, stop, references=references):
                dots = tuple((reference, self._number(name, reference, replica.shard)) for reference in references)
                self._shard_handle(replica, sh.RangeStored(name, start, stop, True, 1 << 1100, dots))
            case sh.Run(command):
                if isinstance(command, p.Snapshot):
                    saved = p.SnapshotDone(replica, command.checkpoint)
                    self._send(partial(self._tell_brain, saved), lambda: shard.alive)
                if isinstance(command, p.Step):
                    shard.history.append((command.version.number, command.drop))
                pairs = command.pairs if isinstance(command, p.Measure) else ()
                self._shard_handle(replica, sh.Ran(command, tuple(self._number(a, b, replica.shard) for a, b in pairs)))
            case sh.SendUp(event):
                self._send(lambda: self._tell_brain(event), lambda: shard.alive)
            case sh.Serve(reader, number):
                self._serve(replica, reader, number, True)
            case sh.Refuse(reader, number):
                self._serve(replica, reader, number, False)

    @staticmethod
    def _number(name: str, reference: str, shard: int) -> int:
        """A synthetic inner product, the same on every replica of a shard."""
        number = random.Random(f"{name} {reference} {shard}").randint(-(1 << 1100), 1 << 1100)
        return abs(number) if name == reference else number

    def _serve(self, replica: p.ReplicaId, reader: str, number: int, served: bool) -> None:
        answer = self._readers.pop((replica, reader, number), None)
        if answer is not None:
            self._send(lambda: answer(served), lambda: self.shards[replica].alive)

    def _read_all(self, reader: str, number: int, then: Callable[[], None], failed: Callable[[], None]) -> None:
        """Read a version from the primary of every shard."""
        primaries = [self.brain.shards.primary(shard) for shard in sorted({r.shard for r in self.brain.shards.live})]
        call = _Call(set(primaries), then, failed)
        self._calls.append(call)
        for replica in primaries:
            asked = sh.ReadAsked(reader, number)
            self._to_shard(replica, asked, lambda served, r=replica: call.answered(r, served))  # type: ignore[misc]

    def _push(self, name: str, sender: int, samples: int, alive: Callable[[], bool], then: Callable[[], None]) -> None:
        """Push to every living replica; `then` when each has it, or is known to be dead."""
        targets = [replica for replica, shard in self.shards.items() if shard.alive]
        call = _Call(set(targets), lambda: self._send(then, alive), None)
        self._calls.append(call)

        def deliver(replica: p.ReplicaId) -> None:
            owned = self.shards[replica].machine.owned
            self._shard_handle(replica, sh.Pushed(name, sender, owned.start, owned.stop, samples, 0, None))
            call.answered(replica, True)

        for replica in targets:
            self._send(lambda r=replica: deliver(r), alive)  # type: ignore[misc]

    # --- workers ----------------------------------------------------------------------------------------------------------------------

    def _join(self, sample_ns: int) -> None:
        slot = len(self.workers)
        self.workers[slot] = _SimWorker(w.Worker(slot), sample_ns)
        self._tell_brain(p.Joined(slot))

    def _to_worker(self, slot: int, event: w.WorkerEvent) -> None:
        self._send(lambda: self._worker_handle(slot, event))

    def _worker_handle(self, slot: int, event: w.WorkerEvent) -> None:
        worker = self.workers[slot]
        if not worker.alive:
            return
        for order in worker.machine.handle(event):
            self._run_worker_order(slot, worker, order)
        worker.machine.check()

    def _run_worker_order(self, slot: int, worker: _SimWorker, order: w.WorkerOrder) -> None:
        match order:
            case w.LoadBase(work_id, version):
                self._read_all(
                    p.work_holder(work_id),
                    version.number,
                    lambda: self._worker_handle(slot, w.Loaded(work_id)),
                    lambda: self._worker_handle(slot, w.WorkFailed(work_id, "the version is gone")),
                )
            case w.ClearAccumulator(work_id):
                self._worker_handle(slot, w.Loaded(work_id))
            case w.RunPart():
                self._compute(slot, worker, order, order.start)
            case w.Push(work_id, samples):
                confirmed = w.PushConfirmed(work_id)
                name = p.update_name(work_id)
                self._push(name, slot, samples, lambda: worker.alive, lambda: self._worker_handle(slot, confirmed))
            case w.Answer(event):
                self._send(lambda: self._tell_brain(event), lambda: worker.alive)

    def _compute(self, slot: int, worker: _SimWorker, order: w.RunPart, at: int) -> None:
        """One micro-batch after the other, with a look at the mailbox in between."""
        if not worker.alive:
            return
        if at == order.stop or worker.machine.interrupted(order.work_id):
            self._worker_handle(slot, w.Computed(order.work_id, order.part, at))
            return
        count = min(self.fleet.micro_batch, order.stop - at)
        self.clock.after(count * worker.sample_ns, lambda: self._compute(slot, worker, order, at + count))

    # --- faults -----------------------------------------------------------------------------------------------------------------------

    def _fire(self, fault: Fault) -> None:
        self.fired.append(fault)
        match fault.kind:
            case "kill" if fault.worker in self.workers and self.workers[fault.worker].alive:
                self.workers[fault.worker].alive = False
                self.clock.after(self.fleet.detect_ns, lambda: self._tell_brain(p.Left(fault.worker, "killed")))
            case "join":
                self._join(fault.sample_ns)
            case "remove":
                self._tell_brain(p.RemoveAsked(fault.worker))
            case "kill_replica":
                replica = p.ReplicaId(*fault.replica)
                self.shards[replica].alive = False
                self.clock.after(self.fleet.detect_ns, lambda: self._replica_lost(replica))
            case "checkpoint":
                self._tell_brain(p.CheckpointAsked())

    def _replica_lost(self, replica: p.ReplicaId) -> None:
        self._tell_brain(p.ReplicaLost(replica, "killed"))
        self._calls = [call for call in self._calls if call.missing]
        for call in list(self._calls):
            call.answered(replica, False)
