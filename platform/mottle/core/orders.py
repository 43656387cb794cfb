"""Work orders on their way out and back: lent, cut, abandoned, returned, overdue. Knows no update's content, no shard and no step."""

from collections import Counter

from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.chunks import Chunks
from mottle.core.deadlines import Deadlines
from mottle.core.effects import Effects
from mottle.core.errors import ProtocolError
from mottle.core.health import SMALL, Health
from mottle.core.leases import LeaseBook
from mottle.core.ledger import Ledger, Order
from mottle.core.members import AT_WORK, Members
from mottle.core.pipeline import Pipeline

RETURNED_STREAK = 10  # orders in a row, for each worker of the crew, that came to nothing: what fails then is not the workers
HASTE = 1.5
"""Usual times that an order is taken to need when its worker must be gone by then."""
OVERDUE = "brain/overdue"
"""The one timer of all deadlines."""
IDS_PER_EPOCH = 10**9
"""Orders of different coordinators never have the same number: the last ones of a lost coordinator may be in no log."""


class Orders:
    """Every order that is out.

    Args:
        max_in_flight: orders that one worker may have in hand.
    """

    def __init__(
        self,
        book: LeaseBook,
        chunks: Chunks,
        ledger: Ledger,
        members: Members,
        pipeline: Pipeline,
        deadlines: Deadlines,
        health: Health,
        effects: Effects,
        *,
        max_in_flight: int,
    ) -> None:
        self._book = book
        self._chunks = chunks
        self._ledger = ledger
        self._members = members
        self._pipeline = pipeline
        self._deadlines = deadlines
        self._health = health
        self._effects = effects
        self._max_in_flight = max_in_flight
        self.next_work_id = 0
        self.given: p.Compute | None = None
        """The last order of the strategy."""
        self.num_given = 0
        self.steps: Counter[int | None] = Counter()
        """Decided so far, of each of several models."""
        self.lending = True
        """Whether anything may be lent now: not while the run is paused or stopping."""
        self._starving: set[int] = set()
        self._offered_at: tuple[int, tuple[int, ...]] | None = None
        self._lost: list[range] = []
        """Numbers that lost coordinators may have given out without a trace."""
        self._returned_in_a_row = 0
        """Orders since the last acknowledged update of whoever it was."""

    # --- giving -----------------------------------------------------------------------------------------------------------------------

    def has_room(self, worker: int) -> bool:
        member = self._members.present(worker)
        return member is not None and member.state in AT_WORK and len(member.orders) < self._max_in_flight

    def offer(self, worker: int) -> None:
        """Tell the strategy that the worker could take an order, if it could."""
        if self.has_room(worker):
            self._effects.hear(s.WorkerIdle(worker))

    def assign(self, decision: s.Assign, version: p.Version) -> bool:
        """Lend samples to a worker and order their gradient at `version`. Whether there was something to lend."""
        worker, crew = decision.worker, self._members.crew
        if not self.has_room(worker):
            return False
        others = len(crew) > 1 or (len(crew) == 1 and crew[0] != worker)
        leases = self._book.lend(worker, self._share(decision), others=others) if self.lending else ()
        if not leases:
            self._starving.add(worker)
            self._effects.hear(s.NoWork(worker))
            return False
        samples = sum([lease.stop - lease.start for lease in leases])
        until = p.Samples(samples) if decision.least is None else p.VersionAfter(version.next(), min(decision.least, samples))
        parts = tuple([p.Part(lease) for lease in leases])
        self._issue(p.Compute(self.next_work_id, worker, version, parts, until, decision.local), samples)
        return True

    def assign_chunks(self, decision: s.AssignChunks) -> None:
        """Order copies of chunks, at the version that they were lent for; on probation too, for a code cannot do with smaller ones.

        Raises:
            ProtocolError: the worker cannot take an order, or a chunk is not open.
        """
        member = self._members.present(decision.worker)
        if member is None or member.state not in AT_WORK or len(member.orders) >= self._max_in_flight:
            raise ProtocolError(f"worker {decision.worker} cannot take an order of chunks now")
        chunks = tuple(chunk for chunk, _ in decision.parts)
        parts, base, fragment = self._chunks.parts(decision.parts)
        samples = sum(len(part.lease) for part in parts)
        self._chunks.issued(self.next_work_id, chunks)
        compute = p.Compute(self.next_work_id, decision.worker, base, parts, p.Samples(samples), fragment=fragment)
        self._issue(compute, samples, chunks)

    def take_id(self) -> int:
        """A work id that nobody has had."""
        self.next_work_id += 1
        return self.next_work_id - 1

    def _issue(self, compute: p.Compute, samples: int, chunks: tuple[int, ...] = ()) -> None:
        self.next_work_id += 1
        self.given = compute
        self.num_given += 1
        self._ledger.issue(compute, now_ns=self._effects.now_ns, chunks=chunks, steps=self.steps[compute.fragment])
        self._members.here(compute.worker).orders.append(compute.work_id)
        self._effects.tell(compute)
        self._effects.hear(s.OrderIssued(compute.work_id, compute.worker, samples))
        if isinstance(compute.until, p.Samples):
            self._watch(compute.work_id, compute.worker, samples)
        self.offer(compute.worker)

    def _share(self, decision: s.Assign) -> int:
        """Samples of an order: all that were decided, and a small part of them on probation."""
        if self._members.here(decision.worker).state == "active":
            return decision.samples
        least = 1 if decision.local is None else decision.local.batch
        return min(decision.samples, max(least, decision.samples // SMALL))

    def offer_again(self) -> bool:
        """Wake workers that found nothing to do, now that samples are free again. Whether any was woken."""
        if not self._starving or not self.lending:
            return False
        state_of_supply = (self._book.revision, self._members.crew)
        if state_of_supply == self._offered_at or not self._book.free:
            return False
        self._offered_at = state_of_supply
        waiting, self._starving = sorted(self._starving), set()
        for worker in waiting:
            self.offer(worker)
        return bool(self._effects.heard)

    def wake(self) -> None:
        """The run goes on after a pause."""
        self._offered_at = None
        for worker in self._members.crew:
            self.offer(worker)

    def gone(self, worker: int) -> None:
        """The worker left the crew: its orders are free again."""
        self._starving.discard(worker)
        for order in self._ledger.of_worker(worker):
            self.end(order, drop=True)  # some shards may hold a part of its update, of which they send no receipt

    def took_over(self, epoch: int, absent_ns: int) -> None:
        """Another coordinator goes on: tell everybody what is open, and hold the time that nobody was heard against nobody."""
        following = max(self.next_work_id, epoch * IDS_PER_EPOCH)
        self._lost.append(range(self.next_work_id, following))
        self.next_work_id = following
        self._deadlines.extend(absent_ns)
        for member in self._members.all:
            if member.state == "left":
                continue
            orders = self._ledger.of_worker(member.slot)
            for order in orders:
                order.issued_ns += absent_ns
            open_orders = tuple(order.compute for order in orders)
            cut = tuple(order.compute.work_id for order in orders if order.cut)
            self._effects.tell(p.Reattach(member.slot, epoch, open_orders, cut))
            for mix in [order.mix for order in orders if order.mix is not None]:
                self._effects.tell(mix)

    def lost(self, name: str) -> bool:
        """Whether an update may be of an order that was lost with its coordinator."""
        work_id = p.work_id_of(name)
        return work_id is not None and any(work_id in numbers for numbers in self._lost)

    # --- ending -----------------------------------------------------------------------------------------------------------------------

    def release(self, order: Order) -> None:
        """The worker no longer has the order in hand."""
        member = self._members.known(order.compute.worker)
        if member is not None and order.compute.work_id in member.orders:
            member.orders.remove(order.compute.work_id)

    def end(self, order: Order, *, drop: bool) -> None:
        """No update will come of the order: its leases are free again, but for those of a round."""
        work_id = order.compute.work_id
        self._ledger.end(work_id)
        self.release(order)
        if order.chunks:
            self._chunks.lost(order)
        else:
            for part in order.compute.parts:
                self._book.give_back(part.lease)
        if drop:
            self._pipeline.drop((p.update_name(work_id),))
        self._effects.hear(s.OrderEnded(work_id, order.compute.worker, "no update"))

    def came_back(self, order: Order) -> None:
        """Every shard holds its update."""
        self._returned_in_a_row = 0
        duration_ns = self._effects.now_ns - order.issued_ns
        self._health.came_back(order.compute.worker, duration_ns)
        self._deadlines.note(order.compute.worker, duration_ns, order.samples)
        self.release(order)

    def returned(self, event: p.WorkReturned) -> str:
        """A worker gives an order back without an update. Why the run cannot go on, if that has happened too often; else empty."""
        self._health.heard_of(event.worker)
        order = self._ledger.get(event.work_id)
        if event.done or order is None or order.state != "issued" or order.compute.worker != event.worker:
            self.offer(event.worker)
            return ""
        self._effects.tell(p.Notice("warning", f"worker {event.worker} returned its order: {event.reason}", event.worker))
        self.end(order, drop=True)
        if not order.cut:
            self._health.failed(event.worker)
        self._returned_in_a_row += 1
        if self._returned_in_a_row >= RETURNED_STREAK * max(1, len(self._members.crew)):
            return f"{self._returned_in_a_row} orders in a row came back without an update; the last one: {event.reason}"
        self.offer(event.worker)
        return ""

    def cut(self, decision: s.CutOrder) -> None:
        order = self._ledger.get(decision.work_id)
        if order is not None and order.state == "issued":
            assert not order.chunks, "a part of a coded sum is of no use"
            order.cut = True
            self._effects.tell(p.Cut(order.compute.worker, decision.work_id))
            if isinstance(order.compute.until, p.VersionAfter):  # until now it lasted as long as others took
                self._watch(decision.work_id, order.compute.worker, order.samples)

    def hurry(self, worker: int, left_ns: int | None) -> None:
        """The worker will be gone after that time: what it cannot finish by then it is to push as far as it has come, or to give back."""
        usual_ns = self._deadlines.usual_ns(worker)
        for order in self._ledger.of_worker(worker):
            spent_ns = self._effects.now_ns - order.issued_ns
            if left_ns is not None and usual_ns is not None and usual_ns * HASTE - spent_ns <= left_ns:
                continue
            if order.chunks:
                self._abandon(order)  # a part of a coded sum is of no use
            elif not order.cut and (left_ns is not None or isinstance(order.compute.until, p.VersionAfter)):
                self.cut(s.CutOrder(order.compute.work_id))

    def abandon(self, decision: s.AbandonOrder) -> None:
        order = self._ledger.get(decision.work_id)
        if order is not None and order.state == "issued":
            self._abandon(order)

    def _abandon(self, order: Order) -> None:
        self._effects.tell(p.Abandon(order.compute.worker, order.compute.work_id))
        self.end(order, drop=bool(order.receipts))
        self.offer(order.compute.worker)

    def end_all(self) -> None:
        """Nobody is to go on with what was ordered so far."""
        self._starving.clear()
        self._offered_at = None
        for order in self._ledger.undecided:
            if order.state == "issued":
                self._abandon(order)

    def stranded(self, replica: p.ReplicaId) -> None:
        """A replica died before it had passed everything on: what it alone of its shard has a receipt for may never be whole again."""
        for order in self._ledger.undecided:
            shards = [each.shard for each in order.receipts]
            if order.state == "issued" and replica in order.receipts and shards.count(replica.shard) == 1:
                self._abandon(order)

    # --- deadlines --------------------------------------------------------------------------------------------------------------------

    def _watch(self, work_id: int, worker: int, samples: int) -> None:
        """Expect the order back, from now on."""
        allowed_ns = self._deadlines.allowed_ns(worker, samples)
        if allowed_ns is not None and self._deadlines.set(work_id, self._effects.now_ns + allowed_ns):
            self._effects.tell(p.SetTimer(OVERDUE, self._effects.now_ns + allowed_ns))

    def look_for_overdue(self) -> list[int]:
        """End the orders whose deadline has passed; their workers, which are returned, get nothing new until they are heard of."""
        silent = []
        for work_id in self._deadlines.passed(self._effects.now_ns):
            order = self._ledger.get(work_id)
            if order is None or order.state != "issued":
                continue
            worker = order.compute.worker
            waited_s = (self._effects.now_ns - order.issued_ns) / 1e9
            text = f"worker {worker} has been silent for {waited_s:.1f} s, far longer than usual: its samples go to others"
            self._effects.tell(p.Notice("overdue", text, worker))
            # Told to push what it has, so that a worker that lives is heard of again; the update itself comes too late.
            self._effects.tell(p.Cut(worker, work_id))
            self._health.overdue(worker)
            self.end(order, drop=bool(order.receipts))
            silent.append(worker)
        if (next_ns := self._deadlines.next_ns) is not None:
            self._effects.tell(p.SetTimer(OVERDUE, next_ns))
        return silent
