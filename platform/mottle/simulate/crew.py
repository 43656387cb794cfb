"""The workers: `mottle.core.worker.Worker` decides, a pace says how long computing takes, this carries messages and faults.

A piece of work is one event, not one for each micro-batch: a worker that is told to stop meanwhile finds the boundary at which it would
have looked up. A boundary at the very moment of the message counts (`heterogeneous.md` 10.7). Gradients are computed when they are pushed.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mottle.core import protocol as p
from mottle.core import worker as w
from mottle.simulate.clock import COMPUTE_DONE, MESSAGE, Clock
from mottle.simulate.fleet import Workers
from mottle.simulate.hosts import Base, Hosts, Side
from mottle.simulate.network import Alive, Link, Post, ns
from mottle.simulate.numbers import Blended, Deed, Done, Numbers
from mottle.simulate.speed import Pace
from mottle.simulate.tally import Tally, WorkerTally


@dataclass(slots=True)
class _Piece:
    """Positions [start, stop) that a worker is computing, `micro` at a time; micro-batch k ends at `since_ns + k * micro_ns`."""

    order: w.RunPart
    start: int
    stop: int
    since_ns: int
    micro: int
    micro_ns: int
    end_ns: int
    uncounted_ns: int
    """From when on its time is not counted yet."""


@dataclass(slots=True)
class SimWorker:
    """One worker of the fleet."""

    name: str
    machine: w.Worker
    group: Workers
    pace: Pace
    side: Side
    tally: WorkerTally
    alive: bool = True
    base: Base = ()
    version: p.Version | None = None
    """Which `base` is."""
    done: list[Deed] = field(default_factory=list)
    read: dict[int, Base] = field(default_factory=dict)
    """Fragments that are not mixed in yet, by order."""
    compute_ns: int = 0
    """For the update in hand."""
    num_pieces: int = 0
    piece: _Piece | None = None
    paused_until_ns: int = 0
    slowed: list[float] = field(default_factory=list)


class Crew:
    """All workers that there ever were, by slot.

    Args:
        primaries: the replicas to read from, asked for at every read.
        tell: takes what a worker says to the coordinator.
        micro_batch: samples between two looks at the mailbox; None: a part at once.
        ring: transfers take no time; the step does.
        save_ns: time until a worker's part of a checkpoint is on storage.
    """

    def __init__(
        self,
        hosts: Hosts,
        numbers: Numbers,
        clock: Clock,
        post: Post,
        tally: Tally,
        *,
        primaries: Callable[[], Iterable[p.ReplicaId]],
        tell: Callable[[p.Event], None],
        micro_batch: int | None,
        ring: bool,
        save_ns: int,
        seed: int,
        checks: bool,
    ) -> None:
        self.all: dict[int, SimWorker] = {}
        self.num_alive = 0
        self.num_facts = 0
        self._hosts = hosts
        self._numbers = numbers
        self._clock = clock
        self._post = post
        self._tally = tally
        self._primaries = primaries
        self._tell = tell
        self._micro_batch = micro_batch
        self._ring = ring
        self._save_ns = save_ns
        self._seed = seed
        self._checks = checks
        self._obeying: dict[type, Callable[[int, SimWorker, Any], None]] = {
            w.LoadBase: self._load,
            w.ClearAccumulator: self._begin,
            w.GoOn: self._begin,
            w.ReadFragment: self._read_fragment,
            w.Blend: lambda slot, worker, order: worker.done.append(Blended(order.mix, worker.read.pop(order.mix.work_id))),
            w.RunPart: lambda slot, worker, order: self._compute(slot, worker, order, order.start),
            w.Push: self._push,
            w.Answer: lambda slot, worker, order: self._post.message(partial(self._tell, order.event), worker.side.alive),
            w.SaveState: self._save_state,
            w.Exit: lambda slot, worker, order: self._gone(worker, "left"),
            w.Fetch: lambda slot, worker, order: None,  # data are there as soon as they are wanted
            w.Unfetch: lambda slot, worker, order: None,
        }

    # --- who is here ------------------------------------------------------------------------------------------------------------------

    def join(self, slot: int, name: str, group: Workers) -> None:
        bandwidth, latency_ns = (None, 0) if self._ring else (group.bandwidth_bytes_per_s, ns(group.latency_s))
        tally = self._tally.workers[slot] = WorkerTally(name, group.name, group.price_per_hour, self._clock.now_ns)
        side = Side(slot, lambda: worker.alive, Link(bandwidth, latency_ns), Link(bandwidth, latency_ns))
        worker = self.all[slot] = SimWorker(name, w.Worker(slot), group, Pace(group.sample_s, self._seed, slot), side, tally)
        self.num_alive += 1

    def crash(self, slot: int) -> None:
        """Gone, with what it had in hand; nobody knows yet."""
        worker = self.all[slot]
        if worker.alive:
            self._stop_computing(worker)
            self._gone(worker, "crashed")

    def _gone(self, worker: SimWorker, why: str) -> None:
        worker.alive = False
        worker.tally.left_ns, worker.tally.why_left = self._clock.now_ns, why
        self.num_alive -= 1

    def pause(self, slot: int, duration_ns: int) -> None:
        """It hears and computes nothing for a while; what it has sent travels on."""
        worker = self.all[slot]
        begin_ns = max(self._clock.now_ns, worker.paused_until_ns)
        worker.paused_until_ns = begin_ns + duration_ns
        self._tally.span(slot, "pause", begin_ns, worker.paused_until_ns, -1)
        if (piece := worker.piece) is not None:
            self._count(worker, piece, self._clock.now_ns)
            piece.uncounted_ns = worker.paused_until_ns
            piece.since_ns += duration_ns
            piece.end_ns += duration_ns
            self._expect(slot, worker, piece)

    def slow(self, slot: int, factor: float) -> None:
        """From its next micro-batch on samples take `factor` times as long."""
        self.all[slot].slowed.append(factor)
        self._new_pace(slot)

    def recover(self, slot: int, factor: float) -> None:
        """The end of a slow-down."""
        self.all[slot].slowed.remove(factor)
        self._new_pace(slot)

    def settle(self) -> None:
        """At the end of a run: count what is being computed."""
        for worker in self.all.values():
            self._stop_computing(worker)

    # --- messages ---------------------------------------------------------------------------------------------------------------------

    def send(self, slot: int, event: w.WorkerEvent, alive: Alive | None = None) -> None:
        """A message of the coordinator, `alive` as long as it is."""
        self._post.message(partial(self.hear, slot, event), alive)

    def hear(self, slot: int, event: w.WorkerEvent) -> None:
        """A worker takes a fact, once it can."""
        worker = self.all[slot]
        if not worker.alive:
            return
        if worker.paused_until_ns > self._clock.now_ns:
            self._clock.at(worker.paused_until_ns, MESSAGE, slot, partial(self.hear, slot, event))
            return
        self.num_facts += 1
        for order in worker.machine.handle(event):
            self._obeying[type(order)](slot, worker, order)
        if (piece := worker.piece) is not None and worker.machine.interrupted(piece.order.work_id):
            self._stop_at_boundary(slot, worker, piece)
        if self._checks:
            worker.machine.check()

    def _load(self, slot: int, worker: SimWorker, order: w.LoadBase) -> None:
        asked_ns = self._clock.now_ns

        def loaded(base: Base) -> None:
            self._tally.span(slot, "pull", asked_ns, self._clock.now_ns, order.work_id)
            worker.base, worker.version = base, order.version
            self._begin(slot, worker, order)

        failed = partial(self.hear, slot, w.WorkFailed(order.work_id, "the version is gone"))
        reader = p.work_holder(order.work_id)
        self._hosts.read(reader, order.version.number, self._primaries(), worker.side, loaded, failed, order.fragment)

    def _begin(self, slot: int, worker: SimWorker, order: w.LoadBase | w.ClearAccumulator | w.GoOn) -> None:
        worker.done, worker.compute_ns = [], 0
        self.hear(slot, w.Loaded(order.work_id))

    def _read_fragment(self, slot: int, worker: SimWorker, order: w.ReadFragment) -> None:
        asked_ns, mix = self._clock.now_ns, order.mix

        def read(values: Base) -> None:
            self._tally.span(slot, "pull", asked_ns, self._clock.now_ns, mix.work_id)
            worker.read[mix.work_id] = values
            self.hear(slot, w.FragmentRead(mix.work_id))

        failed = partial(self.hear, slot, w.FragmentRead(mix.work_id, "the fragment is gone"))
        reader = f"{p.work_holder(mix.work_id)}/mix"
        self._hosts.read(reader, mix.version.number, self._primaries(), worker.side, read, failed, mix.fragment)

    def _push(self, slot: int, worker: SimWorker, order: w.Push) -> None:
        assert worker.version is not None
        began_ns = self._clock.now_ns
        shipment = self._numbers.update(slot, worker.group, worker.base, worker.version, worker.done, order.local, order.fragment)

        def confirmed() -> None:
            self._tally.span(slot, "push", began_ns, self._clock.now_ns, order.work_id)
            self.hear(slot, w.PushConfirmed(order.work_id))

        self._hosts.push(p.update_name(order.work_id), worker.side, order.samples, worker.compute_ns, shipment, confirmed)

    def _save_state(self, slot: int, worker: SimWorker, order: w.SaveState) -> None:
        saved = partial(self._tell, p.SlotSaved(slot, order.checkpoint))
        self._post.at(self._clock.now_ns + self._save_ns, MESSAGE, slot, saved, worker.side.alive)

    # --- computing --------------------------------------------------------------------------------------------------------------------

    def _compute(self, slot: int, worker: SimWorker, order: w.RunPart, at: int) -> None:
        """Go on from `at`, at the speed of now, until the part is done, the speed changes or somebody says stop."""
        if at == order.stop or worker.machine.interrupted(order.work_id):
            worker.done.append(Done(order.epoch, order.start, at, order.coefficient, order.step if at == order.stop else None))
            self.hear(slot, w.Computed(order.work_id, order.part, at))
            return
        now_ns = self._clock.now_ns
        sample_s, until_ns = worker.pace.sample_s(worker.num_pieces, now_ns)
        if worker.slowed:
            sample_s *= math.prod(worker.slowed)
        worker.num_pieces += 1
        micro = min(self._micro_batch or order.stop - at, order.stop - at)
        whole, rest = divmod(order.stop - at, micro)
        overhead_s = worker.group.overhead_s
        micro_ns = ns(overhead_s + micro * sample_s)
        end_ns = now_ns + whole * micro_ns + (ns(overhead_s + rest * sample_s) if rest else 0)
        piece = worker.piece = _Piece(order, at, order.stop, now_ns, micro, micro_ns, end_ns, now_ns)
        if until_ns is not None and until_ns < end_ns:
            self._shorten(piece, until_ns)
        self._expect(slot, worker, piece)

    def _expect(self, slot: int, worker: SimWorker, piece: _Piece) -> None:
        self._clock.at(piece.end_ns, COMPUTE_DONE, slot, partial(self._computed, slot, worker, piece))

    def _computed(self, slot: int, worker: SimWorker, piece: _Piece) -> None:
        if not worker.alive or worker.piece is not piece or piece.end_ns != self._clock.now_ns:
            return  # dead, or it ended sooner or later than was expected then
        self._count(worker, piece, piece.end_ns)
        worker.piece = None
        self._compute(slot, worker, piece.order, piece.stop)

    def _count(self, worker: SimWorker, piece: _Piece, until_ns: int) -> None:
        """Count the time from when it began, or from the end of a pause."""
        began_ns = min(piece.uncounted_ns, until_ns)
        worker.compute_ns += until_ns - began_ns
        worker.tally.compute_ns += until_ns - began_ns
        self._tally.span(worker.side.slot, "compute", began_ns, until_ns, piece.order.work_id)

    def _new_pace(self, slot: int) -> None:
        worker = self.all[slot]
        if worker.piece is not None:
            self._stop_at_boundary(slot, worker, worker.piece)

    def _stop_at_boundary(self, slot: int, worker: SimWorker, piece: _Piece) -> None:
        if self._shorten(piece, self._clock.now_ns):
            self._expect(slot, worker, piece)

    @staticmethod
    def _shorten(piece: _Piece, now_ns: int) -> bool:
        """End the piece at its first boundary that is not before now; whether that is sooner than it was to end."""
        num_micros = max(0, -(-(now_ns - piece.since_ns) // piece.micro_ns)) if piece.micro_ns else 0
        stop = piece.start + num_micros * piece.micro
        if stop >= piece.stop:
            return False
        piece.stop, piece.end_ns = stop, piece.since_ns + num_micros * piece.micro_ns
        return True

    def _stop_computing(self, worker: SimWorker) -> None:
        """Nothing comes of what it is computing; the time was spent all the same."""
        if worker.piece is not None:
            self._count(worker, worker.piece, min(self._clock.now_ns, worker.piece.end_ns))
            worker.piece = None
