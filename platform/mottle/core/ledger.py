"""What became of every work order and of every acknowledged update.

An order is *issued*; when receipts of all shards cover the layout its update is *stored*, which acknowledges it; then it is decided once:
accepted (applied), unselected, rejected or discarded, with a reason. An order may also end without an update (returned, abandoned, lost
with its worker). Then a late update can still arrive: it is acknowledged and discarded.

    accepted + unselected + rejected + discarded + in flight = acknowledged          (design, invariant 1)

Knows no lease, member or strategy.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from mottle.core.errors import ProtocolError
from mottle.core.holds import Holds
from mottle.core.protocol import Compute, Mix, Receipt, ReplicaId

VERDICTS = ("accepted", "unselected", "rejected", "discarded")
_REMEMBERED_ENDED = 10_000  # orders that ended without an update and may still see one; older ones are told apart by nothing but their id


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateCounts:
    """Acknowledged updates by what became of them; invariant 1 of the design made visible."""

    accepted: int = 0
    unselected: int = 0
    """Reached a rule that averaged others."""
    rejected: int = 0
    """Refused for their content, with a reason."""
    discarded: int = 0
    """Late, stale, abandoned or surplus; their samples went back."""
    in_flight: int = 0
    """Acknowledged and not yet decided."""
    lost: int = 0
    """Acknowledged, and neither decided nor held any more; anything but 0 is a bug and is shown."""
    duplicated: int = 0
    """More verdicts than there were acknowledged updates; anything but 0 is a bug and is shown."""

    @property
    def acknowledged(self) -> int:
        """Every update the run took responsibility for."""
        return self.accepted + self.unselected + self.rejected + self.discarded + self.in_flight + self.lost

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(slots=True)
class Order:
    """A work order and what is known of its update."""

    compute: Compute
    issued_ns: int
    receipts: dict[ReplicaId, Receipt] = field(default_factory=dict)
    state: str = "issued"  # issued, stored, or ended (no update came in time)
    mix: Mix | None = None
    """What it was told to mix in."""
    cut: bool = False
    """It was told to push what it had; fewer samples than ordered are then in order."""
    chunks: tuple[int, ...] = ()
    """Chunks that it computes copies of; its leases are then theirs (`mottle.core.chunks`), not its own."""
    used: int = 0
    """Samples of the update, once it is stored: the first ones of its parts."""
    steps: int = 0
    """Of its model, where there are several, that were decided before it."""
    samples: int = field(init=False)
    """That were ordered."""

    def __post_init__(self) -> None:
        self.samples = sum([part.lease.stop - part.lease.start for part in self.compute.parts])

    @property
    def claimed_ns(self) -> int:
        """Time that the worker says it computed; the longest that it said to any replica."""
        return max([receipt.compute_ns for receipt in self.receipts.values()])


class Ledger:
    """Orders by id, and the counts. Every method is one transition."""

    def __init__(self) -> None:
        self._acknowledged = 0
        self._verdicts = dict.fromkeys(VERDICTS, 0)
        self.holds = Holds()
        self._orders: dict[int, Order] = {}
        self._ended: OrderedDict[int, Order] = OrderedDict()

    def issue(self, compute: Compute, *, now_ns: int, chunks: tuple[int, ...] = (), steps: int = 0) -> None:
        if compute.work_id in self._orders:
            raise ProtocolError(f"order {compute.work_id} was issued before")
        self._orders[compute.work_id] = Order(compute, now_ns, chunks=chunks, steps=steps)
        if compute.fragment is None:  # one of several models stays as it is until its own step, whatever the number of the version
            self.holds.order_issued(compute.work_id, compute.base)

    def add_receipt(self, work_id: int, receipt: Receipt) -> Order | None:
        """Note a receipt. The order it belongs to; None for an order never issued, decided already, or not this sender's."""
        order = self._orders.get(work_id) or self._ended.get(work_id)
        if order is None or order.compute.worker != receipt.sender or order.state == "stored":
            return None
        order.receipts[receipt.replica] = receipt
        return order

    def acknowledge(self, work_id: int) -> None:
        """All shards hold the update."""
        late = self._ended.pop(work_id, None)
        if late is not None:
            self._orders[work_id] = late
        else:
            self._let_go(self._orders[work_id])
        order = self._orders[work_id]
        if order.state == "stored":
            raise ProtocolError(f"update {work_id} was acknowledged twice")
        order.state = "stored"
        self._acknowledged += 1

    def decide(self, work_id: int, verdict: str) -> Order:
        """Give an acknowledged update its one verdict and forget it."""
        order = self._orders.get(work_id)
        if order is None or order.state != "stored":
            raise ProtocolError(f"update {work_id} cannot be {verdict}: it is {'unknown' if order is None else order.state}")
        del self._orders[work_id]
        self._verdicts[verdict] += 1
        return order

    def end(self, work_id: int) -> Order:
        """The order ends without an update; a late one will be discarded."""
        order = self._orders.get(work_id)
        if order is None or order.state != "issued":
            raise ProtocolError(f"order {work_id} cannot end without an update: it is {'unknown' if order is None else order.state}")
        del self._orders[work_id]
        order.state = "ended"
        self._let_go(order)
        self._ended[work_id] = order
        while len(self._ended) > _REMEMBERED_ENDED:
            self._ended.popitem(last=False)
        return order

    def _let_go(self, order: Order) -> None:
        if order.compute.fragment is None:
            self.holds.order_over(order.compute.work_id)

    def get(self, work_id: int) -> Order | None:
        return self._orders.get(work_id)

    def held(self, work_id: int) -> Order:
        """An order that must be open."""
        return self._orders[work_id]

    def of_worker(self, worker: int) -> tuple[Order, ...]:
        """Issued orders of the worker that have no complete update yet, oldest first."""
        return tuple(o for o in self._orders.values() if o.compute.worker == worker and o.state == "issued")

    @property
    def undecided(self) -> tuple[Order, ...]:
        """Every order that is not decided or ended, oldest first."""
        return tuple(self._orders.values())

    @property
    def counts(self) -> UpdateCounts:
        """The totals so far. What was acknowledged must be decided or held: what is missing is lost, what is too much was decided twice."""
        in_flight = sum(order.state == "stored" for order in self._orders.values())
        missing = self._acknowledged - sum(self._verdicts.values()) - in_flight
        return UpdateCounts(**self._verdicts, in_flight=in_flight, lost=max(0, missing), duplicated=max(0, -missing))

    def restore(self, counts: Mapping[str, int]) -> None:
        """Take up the counts of a checkpoint; what was in flight then is not part of it, what was lost by then stays lost."""
        self._verdicts = {verdict: counts[verdict] for verdict in VERDICTS}
        self._acknowledged = sum(self._verdicts.values()) + counts["lost"] - counts["duplicated"]

    def check(self) -> None:
        counts = self.counts
        assert not counts.lost, f"{counts.lost} acknowledged updates are lost"
        assert not counts.duplicated, f"{counts.duplicated} verdicts too many: an update was decided twice"
