"""Local search: move groups off the critical chain while that helps (specification 2.12).

Each trial keeps the priority and moves one group. Under `parallel` communication and static memory a trial re-simulates only from the
first moved op on, and stops as soon as some op starts too late for any improvement; both change nothing in the outcome.
"""

from collections.abc import Collection, Iterator
from heapq import heapify, heappop
from typing import NamedTuple

import numpy as np

from mottle.placement.arrays import int_list
from mottle.placement.graph import Graph
from mottle.placement.judge import run
from mottle.placement.lower_bounds import tails
from mottle.placement.placed import Placement
from mottle.placement.static_ledger import StaticLedger

TRIAL_EFFORT, CHAIN_EFFORT = 0.5, 2.0
"""Work of a trial, which is cut short on average, and of finding the critical chain, in whole simulations."""


class Searched(NamedTuple):
    """Outcome of a search: the placement, its makespan, and the simulations spent."""

    placement: Placement
    makespan: int
    trials: int
    finished: bool
    """No move improves any more; False: the budget ended first."""


def local_search(
    graph: Graph,
    placement: Placement,
    *,
    trials: int | None = None,
    effort: float | None = None,
    movable: Collection[int] | None = None,
) -> Searched:
    """Improve a valid placement: the first single move that helps, again and again.

    Args:
        trials: simulations to spend; None: 2 n.
        effort: work to spend, in whole simulations (`TRIAL_EFFORT`, `CHAIN_EFFORT`); None: no such limit.
        movable: groups that may move; None: all.
    """
    most = 2 * graph.n if trials is None else trials
    left = float("inf") if effort is None else effort
    quick = graph.comm_mode == "parallel" and graph.mem_mode == "static"
    judge = _Replay(graph, placement) if quick else _Rerun(graph, placement)
    spent, improved = 0, True
    while improved:
        improved = False
        left -= CHAIN_EFFORT
        for g, d in _moves(graph, judge, movable):
            if spent == most or left <= 0:
                return Searched(judge.placement(), judge.makespan, spent, finished=False)
            spent += 1
            left -= TRIAL_EFFORT
            if judge.accepts(g, d):
                improved = True
                break
    return Searched(judge.placement(), judge.makespan, spent, finished=True)


def _moves(graph: Graph, judge: "_Replay | _Rerun", movable: Collection[int] | None) -> Iterator[tuple[int, int]]:
    """(group, device) to try next: groups by time on the critical chain, most first; the judge must not change in between."""
    spent: dict[int, int] = {}
    group_of = graph.group_of
    for i in critical_chain(graph, judge):
        g = group_of[i]
        if movable is None or g in movable:
            spent[g] = spent.get(g, 0) + judge.end[i] - judge.start[i]
    queue = [(-time, g) for g, time in spent.items()]
    heapify(queue)  # not sorted: the first few usually suffice
    while queue:
        _, g = heappop(queue)
        home = judge.device[graph.members[g][0]]
        for d in range(graph.num_devices):
            if d != home and graph.group_runs[g, d]:
                yield g, d


def critical_chain(graph: Graph, judge: "_Replay | _Rerun") -> list[int]:
    """Ops of the chain that the makespan hangs on, last first."""
    device, start, end, src, inputs = judge.device, judge.start, judge.end, graph.src_of, graph.inputs
    before = [-1] * graph.n  # the op that its device ran before
    latest = [-1] * graph.num_devices
    for op in judge.order:
        before[op], latest[device[op]] = latest[device[op]], op
    nobody = graph.n
    i = end.index(max(end))
    chain = []
    while i >= 0:
        chain.append(i)
        begin, d, awaited = start[i], device[i], nobody
        for t in inputs[i]:
            producer = src[t]
            if producer < awaited and begin == (end[producer] if device[producer] == d else judge.arrival(t, d)):
                awaited = producer
        if awaited < nobody:
            i = awaited
        else:
            i = before[i] if before[i] >= 0 and end[before[i]] == begin else -1
    return chain


class _Rerun:
    """Judges a trial by the whole simulation; any mode."""

    def __init__(self, graph: Graph, placement: Placement) -> None:
        self.graph = graph
        self.device, self.order = list(placement.device), list(placement.order)
        self.priority = np.empty(graph.n, np.int64)
        self.priority[self.order] = np.arange(graph.n)
        self._read(self.device)

    def _read(self, device: list[int]) -> None:
        self.trace = run(self.graph, device, self.priority)
        self.device, self.makespan = device, self.trace.makespan
        self.start, self.end = int_list(self.trace.start), int_list(self.trace.end)
        rows = self.trace.transfers
        self.arrivals = dict(zip(zip(int_list(rows.tensor), int_list(rows.dst), strict=True), int_list(rows.end), strict=True))

    def accepts(self, g: int, d: int) -> bool:
        device = list(self.device)
        for i in self.graph.members[g]:
            device[i] = d
        trace = run(self.graph, device, self.priority)
        if trace.makespan >= self.makespan or not trace.valid:
            return False
        self._read(device)
        return True

    def arrival(self, t: int, d: int) -> int:
        return self.arrivals[t, d]

    def placement(self) -> Placement:
        return Placement(self.device, self.order, self.start)


class _Replay:
    """Judges a trial by replaying the ops from the first moved one on; `parallel`, static memory."""

    def __init__(self, graph: Graph, placement: Placement) -> None:
        self.graph = graph
        self.ledger = StaticLedger(graph, list(placement.device))
        self.device, self.order = self.ledger.device, list(placement.order)
        self.place = [0] * graph.n
        for position, i in enumerate(self.order):
            self.place[i] = position
        self.tail = tails(graph)
        self.start, self.end = [0] * graph.n, [0] * graph.n
        self.makespan = 1 << 62
        assert self._replay(0)

    def _free_before(self, position: int) -> list[int]:
        """(D,) when each device is done with the ops before a position, none of which has moved."""
        free = [0] * self.graph.num_devices
        wanted = set(range(self.graph.num_devices))
        for x in range(position - 1, -1, -1):
            i = self.order[x]
            if (d := self.device[i]) in wanted:
                wanted.discard(d)
                free[d] = self.end[i]
                if not wanted:
                    break
        return free

    def _replay(self, position: int) -> bool:
        """Simulate from a position on; keeps the result and returns True when it is faster than before."""
        graph, device, tail, best = self.graph, self.device, self.tail, self.makespan
        k, inputs, src, cost, link_class = graph.k_rows, graph.inputs, graph.src_of, graph.cost_rows, graph.link_class
        free = self._free_before(position)
        start, end = self.start.copy(), self.end.copy()
        for i in self.order[position:]:
            d = device[i]
            begin = free[d]
            for t in inputs[i]:
                producer = src[t]
                arrival = end[producer] + cost[link_class[device[producer]][d]][t]
                if arrival > begin:
                    begin = arrival
            if begin + tail[i] >= best:
                return False
            start[i] = begin
            free[d] = end[i] = begin + k[i][d]
        if max(end) >= best:
            return False
        self.start, self.end, self.makespan = start, end, max(end)
        return True

    def accepts(self, g: int, d: int) -> bool:
        home = self.ledger.move(g, d)
        first = min([self.place[i] for i in self.graph.members[g]])
        if self.ledger.fits(home) and self.ledger.fits(d) and self._replay(first):
            return True
        self.ledger.move(g, home)
        return False

    def arrival(self, t: int, d: int) -> int:
        producer = self.graph.src_of[t]
        return self.end[producer] + self.graph.cost_rows[self.graph.link_class[self.device[producer]][d]][t]

    def placement(self) -> Placement:
        return Placement(self.device, self.order, self.start)
