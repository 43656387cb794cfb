"""Who may compute which samples: leases on the positions of a data order.

Positions [0, num_positions) of an epoch are lent in ranges. A lease ends applied, unselected or rejected (its positions are spent) or it
comes back and is lent again, lowest position first. It has one owner, an order or a round: however many workers compute copies of it, it
ends once. An epoch is closed when its spent positions are exactly [0, num_positions): every
sample is used once, or is listed as rejected (design, invariant 2; `elasticity.md` 4.3).

Knows no worker's state, no update and no clock.
"""

import heapq
from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from mottle.core.errors import ProtocolError
from mottle.core.protocol import Lease

SPENT = ("applied", "unselected", "rejected")
NOBODY = -1
"""In the place of a worker: anybody may have a range that was rejected once."""
ROUND = -2
"""In the place of a worker: a strategy's round, which lends its samples on to several at once (`mottle.core.chunks`)."""


@dataclass(frozen=True, slots=True)
class EpochCount:
    """How the positions of a data epoch ended."""

    index: int
    applied: int
    unselected: int
    rejected: int
    missed: int
    """Positions that were never spent; in a closed epoch anything but 0 is a bug."""
    repeated: int
    """Positions spent more than once; anything but 0 is a bug."""


@dataclass(slots=True)
class _Epoch:
    index: int
    cursor: int = 0
    spent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPENT, 0))
    returned: list[tuple[int, int]] = field(default_factory=list)
    """Heap of free ranges (start, stop) below the cursor."""
    untouched: set[int] = field(default_factory=set)
    """Where those free ranges begin that nobody computed: the tails of orders that were cut. A checkpoint does not keep them apart."""
    barred: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Rejected once: start -> (stop, the worker that may not have it again)."""
    covered: list[tuple[int, int]] = field(default_factory=list)
    """Spent ranges, merged and sorted; two of them never overlap."""
    num_free: int = 0
    """Positions in `returned` and `barred`, so that nobody has to add them up."""

    def measure_free(self) -> int:
        """What `num_free` must be."""
        return sum(stop - start for start, stop in (*self.returned, *((start, stop) for start, (stop, _) in self.barred.items())))


@dataclass(frozen=True, slots=True)
class _Loan:
    lease: Lease
    retried: bool
    """Its positions were rejected once before."""
    again: bool
    """Its positions were computed before, as far as is known, and nothing came of it."""


class LeaseBook:
    """Lends, takes back and spends positions.

    Args:
        num_positions: samples in an epoch.
        max_samples: stop lending after that many positions over all epochs (counted from the first); None for no limit.
        overlap_epochs: lend from the next epoch while the tail of the last one is still out.
        retry_rejected: lend a rejected range once more, to another worker, before it counts as rejected.
    """

    def __init__(self, num_positions: int, *, max_samples: int | None, overlap_epochs: bool, retry_rejected: bool) -> None:
        if num_positions < 1:
            raise ValueError(f"needs at least one sample to train on, got {num_positions}; check the training data")
        self._size = num_positions
        self._limit = max_samples
        self._overlap = overlap_epochs
        self._retry = retry_rejected
        self._open: dict[int, _Epoch] = {0: _Epoch(0)}
        self._newest = 0
        self._closed: list[EpochCount] = []
        self._out: dict[int, _Loan] = {}
        self._next_id = 0
        self._stopped = False
        self.spent = 0
        """Positions of all epochs that are applied, unselected or rejected."""
        self.revision = 0
        """Grows whenever positions may have become free."""

    # --- lending ----------------------------------------------------------------------------------------------------------------------

    def lend(self, worker: int, count: int, *, others: bool) -> tuple[Lease, ...]:
        """Lend up to `count` positions of one epoch, free ranges first; empty when nothing is free.

        `others`: whether anybody else could take a range that this worker's update was rejected for. If nobody can, such a range is
        counted as rejected now, for it would block the epoch.
        """
        if self._stopped:
            return ()
        for epoch in list(self._open.values()):
            if not others:
                self._retire_barred(epoch, worker)
            leases = self._lend_from(epoch, worker, count)
            if leases:
                return leases
        if self._may_open_next():
            self._newest += 1
            following = self._open[self._newest] = _Epoch(self._newest)
            return self._lend_from(following, worker, count)
        return ()

    def _may_open_next(self) -> bool:
        if self._room(self._newest + 1) <= 0:
            return False
        newest = self._open.get(self._newest)  # None: closed already, though an older one may still be open
        return not self._open or (self._overlap and (newest is None or newest.cursor == self._size) and len(self._open) < 2)

    def open_next(self) -> bool:
        """Begin one more epoch though two are open: for when all that is out lies in updates that a strategy keeps until more have come.

        False when there is none to begin: the sample limit is reached, lending has stopped, or epochs may not overlap.
        """
        if self._stopped or not self._overlap or self._room(self._newest + 1) <= 0:
            return False
        self._newest += 1
        self._open[self._newest] = _Epoch(self._newest)
        self.revision += 1
        return True

    def _room(self, epoch: int) -> int:
        """Positions of that epoch which the sample limit allows."""
        return self._size if self._limit is None else min(self._size, self._limit - epoch * self._size)

    def _lend_from(self, epoch: _Epoch, worker: int, count: int) -> tuple[Lease, ...]:
        leases: list[Lease] = []
        while count > 0 and (found := self._take(epoch, worker, count)) is not None:
            start, stop, retried, again = found
            lease = Lease(self._next_id, epoch.index, start, stop)
            self._next_id += 1
            self._out[lease.id] = _Loan(lease, retried, again)
            leases.append(lease)
            count -= len(lease)
        return tuple(leases)

    def _take(self, epoch: _Epoch, worker: int, count: int) -> tuple[int, int, bool, bool] | None:
        for start in sorted(epoch.barred) if epoch.barred else ():
            stop, barred_worker = epoch.barred[start]
            if barred_worker != worker:
                del epoch.barred[start]
                epoch.num_free -= min(stop - start, count)
                if stop - start > count:
                    epoch.barred[start + count] = (stop, barred_worker)
                return start, min(stop, start + count), True, True
        if epoch.returned:
            start, stop = heapq.heappop(epoch.returned)
            epoch.num_free -= min(stop - start, count)
            untouched = start in epoch.untouched
            epoch.untouched.discard(start)
            if stop - start > count:
                heapq.heappush(epoch.returned, (start + count, stop))
                epoch.untouched.update([start + count] if untouched else [])
            return start, min(stop, start + count), False, not untouched
        start = epoch.cursor
        stop = min(start + count, self._room(epoch.index))
        if stop <= start:
            return None
        epoch.cursor = stop
        return start, stop, False, False

    # --- ending a lease ---------------------------------------------------------------------------------------------------------------

    def give_back(self, lease: Lease) -> None:
        """The positions are free again: nothing was made of them."""
        self._give_back(lease, lease.start, untouched=False)

    def spend(self, lease: Lease, used: int, how: str, *, worker: int) -> None:
        """The first `used` positions of the lease ended as `how` (one of SPENT); the rest is free again."""
        if how not in SPENT or not 0 <= used <= len(lease):
            raise ProtocolError(f"cannot spend {used} positions of {lease} as {how!r}")
        kept = lease.start + used
        loan = self._known(lease)
        epoch = self._open[lease.epoch]
        if used:
            if how == "rejected" and self._retry and not loan.retried:
                epoch.barred[lease.start] = (kept, worker)
                epoch.num_free += used
            else:
                self._cover(epoch, lease.start, kept, how)
        self._give_back(lease, kept, untouched=not loan.again)
        self._close_if_done(epoch)

    def _give_back(self, lease: Lease, start: int, *, untouched: bool) -> None:
        retried = self._known(lease).retried
        del self._out[lease.id]
        self.revision += 1
        if start < lease.stop:
            epoch = self._open[lease.epoch]
            epoch.num_free += lease.stop - start
            if retried:  # its one retry is not used up by a worker that left
                epoch.barred[start] = (lease.stop, NOBODY)
            else:
                heapq.heappush(epoch.returned, (start, lease.stop))
                epoch.untouched.update([start] if untouched else [])

    def _known(self, lease: Lease) -> _Loan:
        known = self._out.get(lease.id)
        if known is None:
            raise ProtocolError(f"{lease} was ended before, or never lent")
        return known

    def _retire_barred(self, epoch: _Epoch, worker: int) -> None:
        for start, (stop, barred_worker) in sorted(epoch.barred.items()):
            if barred_worker == worker:
                del epoch.barred[start]
                epoch.num_free -= stop - start
                self._cover(epoch, start, stop, "rejected")
        self._close_if_done(epoch)

    def _cover(self, epoch: _Epoch, start: int, stop: int, how: str) -> None:
        epoch.spent[how] += stop - start
        self.spent += stop - start
        if not _insert(epoch.covered, start, stop):
            raise ProtocolError(f"positions [{start}, {stop}) of epoch {epoch.index} were spent twice")

    def _close_if_done(self, epoch: _Epoch) -> None:
        if epoch.covered == [(0, self._size)] and epoch.index in self._open:
            del self._open[epoch.index]
            self._closed.append(self._count(epoch))

    # --- looking ----------------------------------------------------------------------------------------------------------------------

    def _count(self, epoch: _Epoch) -> EpochCount:
        """Spent positions by how they ended, against which positions they were: the two are noted apart and must agree."""
        covered = sum(stop - start for start, stop in epoch.covered)
        return EpochCount(epoch.index, **epoch.spent, missed=self._size - covered, repeated=max(0, sum(epoch.spent.values()) - covered))

    @property
    def free(self) -> int:
        """Positions that could be lent now from the oldest open epoch."""
        if self._stopped:
            return 0
        for epoch in self._open.values():
            free = epoch.num_free + max(0, self._room(epoch.index) - epoch.cursor)
            if free or not self._overlap:
                return free
        return self._room(self._newest + 1) if self._may_open_next() else 0

    @property
    def all_lent(self) -> bool:
        """Whether the last positions are out: there will be nothing more to lend but what comes back of them."""
        left = (epoch.num_free + max(0, self._room(epoch.index) - epoch.cursor) for epoch in self._open.values())
        return self._stopped or (self._room(self._newest + 1) <= 0 and not any(left))

    def will_be_retried(self, lease: Lease) -> bool:
        """Whether positions of a lease that is out, should they be rejected, are tried once more."""
        return self._retry and not self._known(lease).retried

    def lent_before(self, lease: Lease) -> bool:
        """Whether the positions of a lease that is out had been computed before in vain: computing them again is redone work."""
        return self._known(lease).again

    @property
    def out(self) -> int:
        """Leases that are with workers, or under an undecided update."""
        return len(self._out)

    @property
    def exhausted(self) -> bool:
        """Nothing is out and nothing is left to lend."""
        return not self._out and self.free == 0

    @property
    def epochs(self) -> tuple[EpochCount, ...]:
        """How every epoch ended, or how far it came; ascending."""
        counts = [*self._closed, *(self._count(epoch) for epoch in self._open.values())]
        return tuple(sorted(counts, key=lambda count: count.index))

    def stop(self) -> None:
        """Lend nothing new from now on: the run ends with what is out. What is free stays free for a run that goes on from here."""
        self._stopped = True

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """As JSON types. What is out is saved as free: its updates are not part of a checkpoint."""
        out: dict[int, list[tuple[int, int]]] = {}
        barred: dict[int, dict[int, tuple[int, int]]] = {}
        for loan in self._out.values():
            lease = loan.lease
            if loan.retried:
                barred.setdefault(lease.epoch, {})[lease.start] = (lease.stop, NOBODY)
            else:
                out.setdefault(lease.epoch, []).append((lease.start, lease.stop))
        return {
            "closed": [[c.index, c.applied, c.unselected, c.rejected, c.missed, c.repeated] for c in self._closed],
            "open": [
                {
                    "index": epoch.index,
                    "cursor": epoch.cursor,
                    "spent": dict(epoch.spent),
                    "returned": sorted([*epoch.returned, *out.get(epoch.index, [])]),
                    "barred": sorted([start, *rest] for start, rest in {**epoch.barred, **barred.get(epoch.index, {})}.items()),
                    "covered": list(epoch.covered),
                }
                for epoch in self._open.values()
            ],
            "newest": self._newest,
            "next_id": self._next_id,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._closed = [EpochCount(*counts) for counts in state["closed"]]
        self._open = {}
        for saved in state["open"]:
            epoch = _Epoch(saved["index"], saved["cursor"], dict(saved["spent"]))
            epoch.returned = [(start, stop) for start, stop in saved["returned"]]
            epoch.barred = {start: (stop, worker) for start, stop, worker in saved["barred"]}
            epoch.covered = [(start, stop) for start, stop in saved["covered"]]
            epoch.num_free = epoch.measure_free()
            self._open[epoch.index] = epoch
        self._out = {}
        self.spent = sum(count.applied + count.unselected + count.rejected for count in self.epochs)
        self._newest = state["newest"]
        self._next_id = state["next_id"]

    def check(self) -> None:
        """Invariants: lent, free and spent positions of an open epoch are disjoint and fill [0, cursor)."""
        for epoch in self._open.values():
            lent = [(loan.lease.start, loan.lease.stop) for loan in self._out.values() if loan.lease.epoch == epoch.index]
            barred = [(start, stop) for start, (stop, _) in epoch.barred.items()]
            ranges = sorted([*lent, *epoch.returned, *barred, *epoch.covered])
            assert all(a[1] <= b[0] for a, b in pairwise(ranges)), f"overlap in epoch {epoch.index}: {ranges}"
            assert sum(stop - start for start, stop in ranges) == epoch.cursor, f"hole in epoch {epoch.index}: {ranges}"
            assert sum(epoch.spent.values()) == sum(stop - start for start, stop in epoch.covered)
            assert epoch.num_free == epoch.measure_free(), f"{epoch.num_free} positions are said to be free, {epoch.measure_free()} are"


def _insert(ranges: list[tuple[int, int]], start: int, stop: int) -> bool:
    """Put a range among sorted, disjoint ones, joined with those that it touches. False, and nothing done, if it overlaps one."""
    at = bisect(ranges, (start, stop))
    left = ranges[at - 1] if at else (start - 1, start - 1)
    right = ranges[at] if at < len(ranges) else (stop + 1, stop + 1)
    if left[1] > start or right[0] < stop:
        return False
    joined = (left[0] if left[1] == start else start, right[1] if right[0] == stop else stop)
    ranges[at - (left[1] == start) : at + (right[0] == stop)] = [joined]
    return True
