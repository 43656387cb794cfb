"""Silent data corruption: two workers compute the same few samples at the same version, and the shards compare what they made of them.

A check is an order like any other to its workers, who do not know it for one; but it lends nothing, no strategy hears of it, and what comes
of it is measured (a.a, a.b, b.b, exactly) and dropped: it is in no ledger and no lease. Workers whose arithmetic is of one kind must agree
to the bit, others within a tolerance. Where two differ a third decides, and only one that differs from two who agree is blamed; without a
third, or where no two agree, nobody is, and people are told.

Which orders a check follows, and who computes it, is drawn from the run's seed. One is open at a time. Knows no strategy, lease or update.
"""

import hashlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement

from mottle.core import exactsum
from mottle.core import protocol as p
from mottle.core.effects import Effects
from mottle.core.health import Health
from mottle.core.ledger import Ledger
from mottle.core.members import Members
from mottle.core.orders import Orders
from mottle.core.pipeline import Pipeline
from mottle.core.shards import ShardMap

TIMER = "brain/check"
PATIENCE_NS = 60_000_000_000
"""A check whose workers need longer is given up: they are busy with a long order, or silent."""
NO_LEASE = -1
_REMEMBERED = 64  # orders of checks that are over, of which parts may still come


@dataclass(slots=True)
class _Answer:
    """One worker's part in a check."""

    worker: int
    receipts: dict[p.ReplicaId, p.Receipt] = field(default_factory=dict)
    whole: bool = False
    """Every replica holds it."""

    @property
    def finite(self) -> bool:
        return all(receipt.finite for receipt in self.receipts.values())


@dataclass(slots=True)
class _Check:
    order: p.Compute
    """What is computed, but for who does it."""
    asked_ns: int
    answers: dict[int, _Answer] = field(default_factory=dict)
    """By work id, in the order in which they were asked."""
    measuring: bool = False

    @property
    def samples(self) -> int:
        return len(self.order.parts[0].lease)


class SpotChecks:
    """One run's checks.

    Args:
        share: of the orders that a check follows.
        samples: of a check, at most; one micro-batch, so that all add up alike.
        tolerance: relative distance at which workers of different kinds still agree.
    """

    def __init__(
        self,
        share: float,
        samples: int,
        tolerance: float,
        seed: int,
        members: Members,
        health: Health,
        orders: Orders,
        ledger: Ledger,
        shards: ShardMap,
        pipeline: Pipeline,
        effects: Effects,
    ) -> None:
        self.wanted = share > 0
        """Whether there are any."""
        self._share = share
        self._samples = samples
        self._tolerance = tolerance
        self._seed = seed
        self._members = members
        self._health = health
        self._orders = orders
        self._ledger = ledger
        self._shards = shards
        self._pipeline = pipeline
        self._effects = effects
        self._num_orders = 0
        """Of the strategy, that were looked at."""
        self._due = False
        self._open: _Check | None = None
        self._over: deque[int] = deque(maxlen=_REMEMBERED)
        self.num_begun = self.num_agreed = 0

    # --- beginning --------------------------------------------------------------------------------------------------------------------

    def settle(self, version: p.Version) -> None:
        """Begin a check if one is due and there are two to compute it."""
        order = self._orders.given
        if order is None or not self.wanted:
            return
        for number in range(self._num_orders, self._orders.num_given):
            self._due = self._due or self._draw("order", number) < self._share
        self._num_orders = self._orders.num_given
        convicted = self._health.to_be_checked
        if self._open is None and self._orders.lending and (self._due or convicted is not None):
            self._due = False
            self._begin(order, version, convicted)

    def _draw(self, what: str, number: int) -> float:
        """Uniform in [0, 1)."""
        digest = hashlib.sha256(f"{self._seed} check {what} {number}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    def _begin(self, order: p.Compute, version: p.Version, convicted: int | None) -> None:
        first = self._partner(set()) if convicted is None else convicted
        second = None if first is None else self._partner({first})
        if first is None or second is None:
            return
        lease = order.parts[0].lease
        part = p.Part(replace(lease, id=NO_LEASE, stop=min(lease.stop, lease.start + self._samples)))
        self.num_begun += 1
        check = p.Compute(-1, first, version, (part,), p.Samples(len(part.lease)), fragment=self._model(order))
        self._open = _Check(check, self._effects.now_ns)
        self._effects.tell(p.SetTimer(TIMER, self._effects.now_ns + PATIENCE_NS))
        self._ask(self._open, first)
        self._ask(self._open, second)

    def _model(self, order: p.Compute) -> int | None:
        """Of several models the one that has moved last: it stays as it is for longest, so that both can read it."""
        return order.fragment if order.fragment is None or self._pipeline.moved is None else self._pipeline.moved

    def _partner(self, asked: set[int]) -> int | None:
        """Somebody at work who is not among `asked`, best one whose arithmetic is of their kind; drawn anew for every check."""
        others = [worker for worker in self._members.crew if worker not in asked]
        kinds = {self._members.ever(worker).kind for worker in asked}
        alike = [worker for worker in others if {self._members.ever(worker).kind} == kinds]
        among = alike or others
        return among[int(self._draw(f"worker {len(asked)}", self.num_begun) * len(among))] if among else None

    def _ask(self, check: _Check, worker: int) -> None:
        order = replace(check.order, work_id=self._orders.take_id(), worker=worker)
        check.answers[order.work_id] = _Answer(worker)
        if order.fragment is None:
            self._ledger.holds.order_issued(order.work_id, order.base)
        self._effects.tell(order)

    # --- what comes of it -------------------------------------------------------------------------------------------------------------

    def receipt(self, receipt: p.Receipt) -> bool:
        """A replica holds its range of a vector. Whether that was of a check."""
        work_id = p.work_id_of(receipt.name)
        if work_id in self._over:
            self._pipeline.drop((receipt.name,))
            return True
        answer = None if self._open is None or work_id is None else self._open.answers.get(work_id)
        if self._open is None or answer is None:
            return False
        if answer.worker != receipt.sender:
            text = f"refused {receipt.name} of worker {receipt.sender}: it is another worker's"
            self._effects.tell(p.Notice("warning", text, receipt.sender))
        elif receipt.fault or (receipt.samples, receipt.fragment) != (self._open.samples, self._open.order.fragment):
            self.give_up()  # a message that does not fit says nothing of what was computed
        else:
            answer.receipts[receipt.replica] = receipt
            self._look()
        return True

    def replica_lost(self) -> None:
        """Fewer replicas to wait for."""
        self._look()

    def _look(self) -> None:
        """Compare, once every answer is there."""
        check = self._open
        if check is None:
            return
        for work_id, answer in check.answers.items():
            if not answer.whole and answer.receipts and self._shards.covered_by(set(answer.receipts)):
                answer.whole = True
                self._let_go(work_id)
                self._health.heard_of(answer.worker)
        if all(answer.whole for answer in check.answers.values()) and not check.measuring:
            self._measure(check)

    def returned(self, event: p.WorkReturned) -> bool:
        """An order came back without an update. Whether it was of a check."""
        if self._open is None or event.work_id not in self._open.answers:
            return event.work_id in self._over
        self.give_up()
        return True

    def gone(self, worker: int) -> None:
        """A worker has left, or is to get no more work."""
        if self._open is not None and any(answer.worker == worker and not answer.whole for answer in self._open.answers.values()):
            self.give_up()

    def look_for_overdue(self) -> None:
        if self._open is not None and self._effects.now_ns - self._open.asked_ns >= PATIENCE_NS:
            self.give_up()

    def give_up(self) -> None:
        """No verdict; what is being measured yet is heard first."""
        if self._open is not None and not self._open.measuring:
            self._close(self._open)

    def forget(self) -> None:
        """No verdict, at a place where no question to the shards is open: what was to be asked is of a model that is replaced."""
        if self._open is not None:
            self._close(self._open)

    def _let_go(self, work_id: int) -> None:
        assert self._open is not None
        if self._open.order.fragment is None:
            self._ledger.holds.order_over(work_id)

    # --- comparing --------------------------------------------------------------------------------------------------------------------

    def _measure(self, check: _Check) -> None:
        finite = [work_id for work_id, answer in check.answers.items() if answer.finite]
        pairs = list(combinations_with_replacement(finite, 2))

        def measured(sums: tuple[int, ...]) -> None:
            check.measuring = False
            self._decide(check, dict(zip(pairs, sums, strict=True)))

        check.measuring = True
        if pairs:
            self._pipeline.ask(tuple((p.update_name(a), p.update_name(b)) for a, b in pairs), measured)
        else:
            measured(())

    def _decide(self, check: _Check, products: Mapping[tuple[int, int], int]) -> None:
        first, second, *third = check.answers
        if not third and self._agree(check, products, first, second):
            self.num_agreed += 1
            for answer in check.answers.values():
                self._health.agreed(answer.worker)
            self._close(check)
        elif not third:
            self._call_third(check)
        else:
            sides = [work_id for work_id in (first, second) if self._agree(check, products, work_id, *third)]
            if len(sides) == 1:
                (wrong,) = {first, second} - set(sides)
                self._blame(check, wrong)
            else:
                self._tell(check, "and a third agrees with neither, or with both: nobody is blamed")
            self._close(check)

    def _agree(self, check: _Check, products: Mapping[tuple[int, int], int], a: int, b: int) -> bool:
        if (a, b) not in products:
            return (a, a) not in products and (b, b) not in products  # neither is finite: they agree on that
        aa, ab, bb = products[a, a], products[a, b], products[b, b]
        kinds = {self._members.ever(check.answers[each].worker).kind for each in (a, b)}
        if len(kinds) == 1 and kinds != {""}:
            return aa == ab == bb
        return exactsum.to_float(aa - 2 * ab + bb) <= self._tolerance**2 * exactsum.to_float(max(aa, bb))

    def _call_third(self, check: _Check) -> None:
        third = self._partner({answer.worker for answer in check.answers.values()})
        if third is None:
            self._tell(check, "and there is no third to decide: nobody is blamed")
            self._close(check)
        else:
            self._ask(check, third)

    def _blame(self, check: _Check, wrong: int) -> None:
        others = sorted(answer.worker for work_id, answer in check.answers.items() if work_id != wrong)
        why = f"it computed {self._what(check)} differently from workers {others[0]} and {others[1]}, who agree"
        worker = check.answers[wrong].worker
        self._effects.tell(p.Notice("corruption", f"worker {worker} corrupts data: {why}", worker))
        self._health.convict(worker, why)

    def _tell(self, check: _Check, end: str) -> None:
        first, second, *_ = (answer.worker for answer in check.answers.values())
        self._effects.tell(p.Notice("corruption", f"workers {first} and {second} computed {self._what(check)} differently, {end}"))

    @staticmethod
    def _what(check: _Check) -> str:
        lease = check.order.parts[0].lease
        return f"samples {lease.start} to {lease.stop - 1} of epoch {lease.epoch} at version {check.order.base.number}"

    def _close(self, check: _Check) -> None:
        for work_id, answer in check.answers.items():
            if not answer.whole:
                self._let_go(work_id)
                if self._members.present(answer.worker) is not None:
                    self._effects.tell(p.Abandon(answer.worker, work_id))
            self._health.was_checked(answer.worker)
        self._open = None
        self._over.extend(check.answers)
        self._pipeline.drop(tuple(map(p.update_name, check.answers)))

    @property
    def open(self) -> bool:
        return self._open is not None
