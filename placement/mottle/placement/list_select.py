"""Which (op, device) pair the fast list engine commits next: rules A to F of specification 2.4.

Ready ops that may still go to several devices are columns of a `ReadyTable`. m-ETF keeps ops with a single device left in heaps, which
makes a repair, where nearly every op is bound, almost free of array work. m-SCT keeps all ops in the table: its rules compare the
urgency of every op.
"""

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import TYPE_CHECKING

import numpy as np

from mottle.placement.arrays import Ints, int_list
from mottle.placement.favourites import Favourites
from mottle.placement.graph import ABSENT

if TYPE_CHECKING:
    from mottle.placement.list_fast import Engine

FEW = 5
"""Up to so many ready ops a loop beats array operations."""

_Choice = tuple[int, int, int]  # start, op, device


class EarliestStart:
    """m-ETF: the admissible pair that starts first."""

    def __init__(self, engine: "Engine") -> None:
        self.engine = engine
        graph = engine.graph
        devices = range(graph.num_devices)
        self.only = [[d for d in devices if runs[d]] for runs in graph.group_runs.tolist()]
        self.soon: list[list[tuple[int, int]]] = [[] for _ in devices]  # (data ready, op) of ops with one device
        self.now: list[list[int]] = [[] for _ in devices]  # ops of the device whose data was there when it last became free
        self.first: list[_Choice] = [(ABSENT, 0, 0)] * graph.num_devices  # per device, best of its heaps; wrong where stale
        self.stale: set[int] = set()
        self.free_D1 = np.zeros((graph.num_devices, 1), np.int64)
        # Best choice of the table and the devices (bits) on which any of its ops is admissible. A commit elsewhere only makes pairs
        # worse that did not count, so the choice stands until one of these devices is taken or the table changes.
        self.table_choice: _Choice | None = None
        self.table_devices = 0

    def add(self, i: int) -> bool:
        engine = self.engine
        g = engine.graph.group_of[i]
        d = engine.memory.bound[g]
        if d < 0 and len(self.only[g]) == 1:
            d = self.only[g][0]
        if d < 0:
            room = engine.table.add(i, engine.data_ready(i), engine.new_bytes(i))
            if self.table_choice is not None:
                self._compare([engine.table.slot[i]])
            return room
        heappush(self.soon[d], (engine.ready_on(i, d), i))
        self.stale.add(d)
        return True

    def best(self) -> _Choice:
        for d in self.stale:
            self.first[d] = self._first_of(d)
        self.stale.clear()
        choice = min(self.first)
        if self.engine.table.size == 0:
            return choice
        if self.table_choice is None:
            self.table_choice, self.table_devices = (ABSENT, 0, 0), 0
            if self.engine.table.size <= FEW:
                self._compare(range(self.engine.table.size))
            else:
                self._compare_all()
        return min(choice, self.table_choice)

    def _first_of(self, d: int) -> _Choice:
        """The op in the heaps of a device that starts first."""
        soon, now, free = self.soon[d], self.now[d], self.engine.free[d]
        while soon and soon[0][0] <= free:
            heappush(now, heappop(soon)[1])
        if now:
            return free, now[0], d
        return (*soon[0], d) if soon else (ABSENT, 0, 0)

    def _compare_all(self) -> None:
        """Find the choice of the table."""
        table = self.engine.table
        m = table.size
        est_DC = np.maximum(table.ready_DC[:, :m], self.free_D1)
        finish_DC = est_DC + table.k_DC[:, :m]
        start_DC = np.where(finish_DC == finish_DC.min(axis=0), est_DC, ABSENT)
        start_C = start_DC.min(axis=0)
        e = start_C.min()
        first = (start_C == e).nonzero()[0]
        s = first[table.op_C[first].argmin()]
        self.table_choice = int(e), int(table.op_C[s]), int((start_DC[:, s] == e).argmax())
        self.table_devices = sum(1 << d for d in int_list(np.flatnonzero((start_DC < ABSENT).any(axis=1))))

    def _compare(self, slots: Iterable[int]) -> None:
        """Hold the choice of the table against some of its ops; plain Python is quicker for a handful."""
        table, choice, devices = self.engine.table, self.table_choice, self.table_devices
        assert choice is not None
        for s in slots:
            ready, k = table.ready_DC[:, s].tolist(), table.k_DC[:, s].tolist()
            finish = start = ABSENT
            where = admissible = 0
            for d, free in enumerate(self.engine.free):
                e = ready[d] if ready[d] > free else free
                if e + k[d] < finish:
                    finish, start, where = e + k[d], e, d
                    admissible = 1 << d
                elif e + k[d] == finish:
                    admissible |= 1 << d
                    if e < start:
                        start, where = e, d
            devices |= admissible
            choice = min(choice, (start, int(table.op_C[s]), where))
        self.table_choice, self.table_devices = choice, devices

    def committed(self, i: int, d: int) -> bool:
        engine = self.engine
        table, g = engine.table, engine.graph.group_of[i]
        self.free_D1[d, 0] = engine.free[d]
        self.stale.add(d)
        if self.table_devices >> d & 1:
            self.table_choice = None
        if i in table.slot:
            self.table_choice = None
            table.remove(i)
            for j in engine.graph.members[g]:
                if j in table.slot:
                    table.remove(j)
                    heappush(self.soon[d], (engine.ready_on(j, d), j))
        elif self.now[d] and self.now[d][0] == i:
            heappop(self.now[d])
        else:
            heappop(self.soon[d])
        if engine.memory.roomy(d):
            return True
        self.table_choice = None
        return table.block(d)


class FavouriteFirst:
    """m-SCT: as m-ETF, but a device whose last op has a favourite child on the way takes only that child or an urgent op."""

    def __init__(self, engine: "Engine", favourites: Favourites) -> None:
        self.engine, self.favourites = engine, favourites
        self.now = 0
        self.free_D1 = np.zeros((engine.graph.num_devices, 1), np.int64)

    def add(self, i: int) -> bool:
        engine = self.engine
        return engine.table.add(i, engine.data_ready(i), engine.new_bytes(i))

    def best(self) -> _Choice:
        table = self.engine.table
        m = table.size
        ready_DC = table.ready_DC[:, :m]
        e_DC = np.maximum(ready_DC, np.maximum(self.free_D1, self.now))
        awake = self._awake()
        if awake:
            urgency_C = np.where(ready_DC < ABSENT, np.maximum(ready_DC, self.free_D1), -1).max(axis=0)
            for d, (favourite, since) in awake.items():
                row = e_DC[d]
                waits = row >= since
                waits[table.slot[favourite]] = False
                np.maximum(row, urgency_C, out=row, where=waits)
        finish_DC = e_DC + table.k_DC[:, :m]
        start_DC = np.where(finish_DC == finish_DC.min(axis=0), e_DC, ABSENT)
        choice: _Choice = (ABSENT, 0, 0)
        for d, (_, since) in awake.items():
            choice = min(choice, self._candidate(start_DC[d], d, since, urgency_C))
            start_DC[d] = ABSENT
        start_C = start_DC.min(axis=0)
        e = int(start_C.min())
        if e < choice[0] or e == choice[0] < ABSENT:
            first = (start_C == e).nonzero()[0]
            s = first[table.op_C[first].argmin()]
            choice = min(choice, (e, int(table.op_C[s]), int((start_DC[:, s] == e).argmax())))
        return choice

    def _awake(self) -> dict[int, tuple[int, int]]:
        """Device -> (favourite it waits for, end of the favourite's last predecessor)."""
        engine, awake = self.engine, {}
        for d, parent in enumerate(engine.last):
            f = self.favourites.get(parent, -1)
            if (s := engine.table.slot.get(f)) is not None:
                ready = engine.table.ready_DC[:, s].tolist()
                est = [max(pair) for pair in zip(ready, engine.free, strict=True)]
                if ready[d] < ABSENT and est[d] == min(est):
                    awake[d] = (f, max([engine.end[p] for p in engine.graph.predecessors[f]]))
        return awake

    def _candidate(self, start_C: Ints, d: int, since: int, urgency_C: Ints) -> _Choice:
        """Rule E on a device that is awake: urgent ops first, the most urgent of them first."""
        op_C = self.engine.table.op_C
        e = int(start_C.min())
        first = (start_C == e).nonzero()[0]
        if e >= ABSENT:
            return (ABSENT, 0, 0)
        if e >= since:
            urgency = urgency_C[first]
            if urgency.min() <= e:
                first = first[urgency == urgency.min()]
        return e, int(op_C[first].min()), d

    def committed(self, i: int, d: int) -> bool:
        engine = self.engine
        table, g = engine.table, engine.graph.group_of[i]
        self.free_D1[d, 0] = engine.free[d]
        self.now = max(self.now, engine.start[i])
        table.remove(i)
        for j in engine.graph.members[g]:
            if (s := table.slot.get(j)) is not None:
                ready = table.ready_DC[d, s]
                table.ready_DC[:, s] = ABSENT
                table.ready_DC[d, s] = ready
                table.base_C[s] = table.scratch_C[s] = 0
                if ready >= ABSENT:
                    return False
        return table.block(d)
