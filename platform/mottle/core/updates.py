"""Updates from their first receipt to their one verdict. Knows no step and no strategy's reasons."""

from collections.abc import Iterable

from mottle.core import protocol as p
from mottle.core import strategy as s
from mottle.core.chunks import Chunks
from mottle.core.effects import Effects
from mottle.core.evidence import fault_of, is_padding, update_of
from mottle.core.health import Health
from mottle.core.leases import LeaseBook
from mottle.core.ledger import Ledger, Order
from mottle.core.members import Members
from mottle.core.orders import Orders
from mottle.core.pipeline import Pipeline
from mottle.core.shards import ShardMap

_ENDS = {"accepted": "applied", "unselected": "unselected", "rejected": "rejected", "discarded": "rejected"}
"""What becomes of the samples."""

PADDING = "nothing in it counts for the loss"
"""What an update of weight 0 says."""

REJECTED_STREAK = 5  # rejections in a row after which people are told


class Updates:
    """Every update that the shards hold, or a part of it.

    Args:
        weighted_loss: whether the loss has units of its own, so that workers say how many an update is over.
    """

    def __init__(
        self,
        book: LeaseBook,
        chunks: Chunks,
        ledger: Ledger,
        members: Members,
        shards: ShardMap,
        pipeline: Pipeline,
        orders: Orders,
        health: Health,
        effects: Effects,
        *,
        weighted_loss: bool,
    ) -> None:
        self._book = book
        self._chunks = chunks
        self._ledger = ledger
        self._members = members
        self._shards = shards
        self._pipeline = pipeline
        self._orders = orders
        self._health = health
        self._effects = effects
        self._weighted_loss = weighted_loss

    @property
    def head(self) -> p.Version:
        """Version after every step decided so far."""
        published = self._pipeline.published
        return p.Version(published.lineage, published.number + self._pipeline.depth)

    def staleness(self, work_ids: Iterable[int]) -> dict[int, int]:
        """Of each of these updates, the steps decided since the version that it was computed on; of several models those of its own."""
        head, steps = self.head.number, self._orders.steps
        orders = [self._ledger.held(work_id) for work_id in work_ids]
        return {
            order.compute.work_id: head - order.compute.base.number if (one := order.compute.fragment) is None else steps[one] - order.steps
            for order in orders
        }

    # --- coming in --------------------------------------------------------------------------------------------------------------------

    def receipt(self, receipt: p.Receipt) -> None:
        """A replica holds its range of an update."""
        work_id = p.work_id_of(receipt.name)
        order = None if work_id is None else self._ledger.add_receipt(work_id, receipt)
        if order is None:
            self._refuse(receipt, None if work_id is None else self._ledger.get(work_id))
            return
        if order.state == "ended":
            self._pipeline.drop((receipt.name,))
            # A sign of life by itself: dropped, it may never cover all replicas, for a newcomer gets nothing of it.
            self._health.heard_of(order.compute.worker)
            self._orders.offer(order.compute.worker)
        if self._shards.covered_by(order.receipts.keys()):
            self._acknowledge(order)

    def _refuse(self, receipt: p.Receipt, known: Order | None) -> None:
        """No such order is open, or it is another worker's."""
        if (known is None or known.compute.worker != receipt.sender) and not self._orders.lost(receipt.name):
            text = f"refused {receipt.name} of worker {receipt.sender}: no such order is open"
            self._effects.tell(p.Notice("warning", text, receipt.sender))
        if known is None and p.work_id_of(receipt.name) is not None:
            self._pipeline.drop((receipt.name,))
        if known is not None and known.compute.worker != receipt.sender:
            self._shards.tell(p.Award(receipt.name, known.compute.worker))

    def contested(self, event: p.Contested) -> None:
        """Two workers push under one name: it is that of whoever was given the order."""
        work_id = p.work_id_of(event.name)
        order = None if work_id is None else self._ledger.get(work_id)
        if order is None:
            self._pipeline.drop((event.name,))
            return
        for sender in event.senders:
            if sender != order.compute.worker:
                text = f"worker {sender} sent an update in the name of worker {order.compute.worker}'s order"
                self._effects.tell(p.Notice("warning", text, sender))
        self._shards.tell(p.Award(event.name, order.compute.worker))

    def replica_lost(self) -> None:
        """Fewer replicas to wait for: some updates may be complete now."""
        for order in self._ledger.undecided:
            if order.state == "issued" and order.receipts and self._shards.covered_by(order.receipts.keys()):
                self._acknowledge(order)

    def _acknowledge(self, order: Order) -> None:
        """Every shard holds the update: from here on it must get a verdict."""
        late = order.state == "ended"
        work_id, worker = order.compute.work_id, order.compute.worker
        self._ledger.acknowledge(work_id)
        self._orders.came_back(order)
        receipts = list(order.receipts.values())
        order.used = order.samples
        if late:
            self.judge(work_id, "discarded", "late: its samples had been given back", leases=False, drop=True)
        elif fault := fault_of(order, receipts, weighted_loss=self._weighted_loss):
            self.judge(work_id, "rejected", fault, drop=True)
            self._effects.hear(s.OrderEnded(work_id, worker, fault, refused=True))
        elif is_padding(receipts):
            self.judge(work_id, "rejected" if self._wants_a_second_opinion(order) else "accepted", PADDING, drop=True)
            self._effects.hear(s.OrderEnded(work_id, worker, PADDING))
        else:
            order.used = receipts[0].samples
            self._effects.hear(s.UpdateArrived(update_of(order, now_ns=self._effects.now_ns)))
        self._health.heard_of(worker)
        self._orders.offer(worker)

    def _wants_a_second_opinion(self, order: Order) -> bool:
        """Whether somebody else is asked: who says that nothing in its samples counts would otherwise burn as many as it likes."""
        others = any(worker != order.compute.worker for worker in self._members.crew)
        return others and any(self._book.will_be_retried(part.lease) for part in order.compute.parts)

    # --- the verdict ------------------------------------------------------------------------------------------------------------------

    def judge(
        self,
        work_id: int,
        verdict: str,
        reason: str,
        *,
        score: float | None = None,
        staleness: int | None = None,
        leases: bool = True,
        drop: bool = False,
        spent: bool = False,
    ) -> None:
        """Give an acknowledged update its one verdict, and its leases their end (those of a round end with it, see `mottle.core.chunks`).

        Args:
            staleness: at the time of its step, where that was decided earlier; None for now.
            leases: whether it still has its leases.
            drop: whether the shards still hold it.
            spent: whether the samples of a discarded update count as those of a rejected one: tried once more elsewhere, then given up.
        """
        staleness = self.staleness((work_id,))[work_id] if staleness is None else staleness
        order = self._ledger.decide(work_id, verdict)
        worker, parts = order.compute.worker, order.compute.parts if leases else ()
        samples = self._chunks.judged(order, verdict) if leases and order.chunks else order.used
        redone = sum([len(part.lease) for part in parts if self._book.lent_before(part.lease)])
        left = order.used
        for part in () if order.chunks else parts:
            if verdict == "discarded" and not spent:
                self._book.give_back(part.lease)
            else:
                used = min(left, len(part.lease))
                self._book.spend(part.lease, used, _ENDS[verdict], worker=worker)
                left -= used
        member, spent_ns = self._members.ever(worker), order.claimed_ns
        member.note_verdict(verdict, staleness=staleness, samples=samples, compute_ns=spent_ns, redone=redone / order.samples)
        self._health.judged(worker, verdict)
        if member.rejected_in_a_row and (streak := member.take_streak(REJECTED_STREAK)):
            self._effects.tell(p.Notice("rejected_streak", f"worker {worker}: {streak} updates rejected in a row", worker))
        if drop:
            self._pipeline.drop((p.update_name(work_id),))
        self._effects.tell(p.Verdict(work_id, worker, verdict, reason, samples, staleness, score))
