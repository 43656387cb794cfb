"""The event loop of SIM (specification 1.5), for every communication mode and dispatch rule.

Everything that ends at a moment is completed before anything starts; then new transfers in key order; then ops, devices in
rank order. Transfers of one device pair compete for the same resources, so only the pair's first request can start; and a pair is
looked at again only when it got a first request or one of its resources was released. That keeps a scan short and changes nothing.
"""

from bisect import insort
from collections.abc import Callable
from heapq import heappop, heappush

import numpy as np

from mottle.placement.arrays import Ints
from mottle.placement.graph import Graph
from mottle.placement.memory import Transfers
from mottle.placement.problem import CommMode

_Pair = tuple[int, int]
_Resource = int | _Pair  # a device, or a directed pair of devices
_Request = tuple[int, int, int, int]  # (moment, best priority of the consumers, tensor, destination): the key of 1.5, step 2


def run_events(graph: Graph, device: list[int], priority: list[int], order: list[int], *, ready: bool) -> tuple[Ints, Ints, Transfers]:
    """(start, end, transfers); start and end are -1 for ops that never ran.

    Args:
        priority: (n,) lower first; ties by canonical position.
        order: the ops sorted by (priority, canonical position).
        ready: dispatch rule `ready` in place of `order`.
    """
    loop = _Loop(graph, device, priority, order, ready=ready)
    loop.run()
    done = sorted(loop.done, key=lambda row: (row[3], row[0], row[2]))
    columns = np.array(done, np.int64).reshape(-1, 5).T
    return np.array(loop.start, np.int64), np.array(loop.end, np.int64), Transfers(*columns)


class _Loop:
    def __init__(self, graph: Graph, device: list[int], priority: list[int], order: list[int], *, ready: bool) -> None:
        self.graph, self.device, self.priority = graph, device, priority
        self.now = 0
        self.start, self.end = [-1] * graph.n, [-1] * graph.n
        self.missing = [len(tensors) for tensors in graph.inputs]
        self.pending: list[tuple[int, int, int]] = []  # (end, op, -1) or (end, tensor, destination)
        self.wire = _Wire(graph, device)
        self.done: list[tuple[int, int, int, int, int]] = []  # tensor, src, dst, start, end
        self.dispatch: _InOrder | _Ready = (_Ready if ready else _InOrder)(graph.num_devices, device, order)
        self.idle = [True] * graph.num_devices

    def run(self) -> None:
        for i, count in enumerate(self.missing):
            if count == 0:
                self.dispatch.arrived(i)
        self.start_ops()
        while self.pending:
            self.now = self.pending[0][0]
            while self.pending and self.pending[0][0] == self.now:  # again when a transfer of length 0 was started
                self.complete()
                self.start_transfers()
            self.start_ops()

    def complete(self) -> None:
        graph, now, pending = self.graph, self.now, self.pending
        ended = []
        while pending and pending[0][0] == now:
            _, which, destination = heappop(pending)
            if destination < 0:
                self.idle[self.device[which]] = True
                ended.append(which)
            else:
                self.wire.release(self.device[graph.src_of[which]], destination)
                self.receive(which, destination)
        for i in ended:
            for t in graph.outputs[i]:
                self.request(t)
                self.receive(t, self.device[i])

    def request(self, t: int) -> None:
        home = self.device[self.graph.src_of[t]]
        best: dict[int, int] = {}
        for j in self.graph.consumers[t]:
            d = self.device[j]
            if d != home:
                best[d] = min(best.get(d, self.priority[j]), self.priority[j])
        for d, p in best.items():
            self.wire.add(home, (self.now, p, t, d))

    def receive(self, t: int, d: int) -> None:
        for j in self.graph.consumers[t]:
            if self.device[j] == d:
                self.missing[j] -= 1
                if self.missing[j] == 0:
                    self.dispatch.arrived(j)

    def start_transfers(self) -> None:
        for u, v, t in self.wire.startable():
            end = self.now + self.graph.cost_rows[self.graph.link_class[u][v]][t]
            heappush(self.pending, (end, t, v))
            self.done.append((t, u, v, self.now, end))

    def start_ops(self) -> None:
        for d, idle in enumerate(self.idle):
            if idle and (i := self.dispatch.take(d, self.missing)) is not None:
                self.idle[d] = False
                self.start[i] = self.now
                self.end[i] = self.now + self.graph.k_rows[i][d]
                heappush(self.pending, (self.end[i], i, -1))


class _InOrder:
    """Each device runs its ops strictly in priority order."""

    def __init__(self, num_devices: int, device: list[int], order: list[int]) -> None:
        self.queue: list[list[int]] = [[] for _ in range(num_devices)]
        for i in reversed(order):
            self.queue[device[i]].append(i)

    def arrived(self, i: int) -> None:
        """Nothing to note: `take` looks at the head of the queue only."""

    def take(self, d: int, missing: list[int]) -> int | None:
        queue = self.queue[d]
        return queue.pop() if queue and missing[queue[-1]] == 0 else None


class _Ready:
    """An idle device takes its best op whose inputs are all present."""

    def __init__(self, num_devices: int, device: list[int], order: list[int]) -> None:
        self.device = device
        self.place = [0] * len(order)
        for position, i in enumerate(order):
            self.place[i] = position
        self.queue: list[list[tuple[int, int]]] = [[] for _ in range(num_devices)]

    def arrived(self, i: int) -> None:
        heappush(self.queue[self.device[i]], (self.place[i], i))

    def take(self, d: int, missing: list[int]) -> int | None:
        return heappop(self.queue[d])[1] if self.queue[d] else None


# What a transfer u -> v keeps to itself while it runs.
_RESOURCES: dict[CommMode, Callable[[_Pair], tuple[_Resource, ...]]] = {
    "parallel": lambda pair: (),
    "link": lambda pair: (pair,),
    "device": lambda pair: pair,
}


class _Wire:
    """Requests that wait, and which resources are busy, in the communication mode of the problem."""

    def __init__(self, graph: Graph, device: list[int]) -> None:
        self.mode = graph.comm_mode
        self.resources = _RESOURCES[graph.comm_mode]
        self.waiting: dict[_Pair, list[_Request]] = {}
        self.partners: list[set[_Pair]] = [set() for _ in range(graph.num_devices)]  # pairs with requests, by end
        self.busy: set[_Resource] = set()
        self.dirty: set[_Pair] = set()

    def add(self, u: int, request: _Request) -> None:
        pair = (u, request[3])
        queue = self.waiting.setdefault(pair, [])
        insort(queue, request, key=lambda key: tuple(-part for part in key))  # best last, so that taking it is a pop
        for end in pair:
            self.partners[end].add(pair)
        self.dirty.add(pair)

    def release(self, u: int, v: int) -> None:
        if self.mode == "parallel":
            return
        resources = self.resources((u, v))
        self.busy.difference_update(resources)
        if self.mode == "link":
            self.dirty.add((u, v))
        else:
            self.dirty |= self.partners[u] | self.partners[v]

    def startable(self) -> list[tuple[int, int, int]]:
        """Requests that start now, as (src, dst, tensor), taken in key order; their resources are busy from here on."""
        heads = sorted((self.waiting[pair][-1], pair) for pair in self.dirty if self.waiting.get(pair))
        self.dirty.clear()
        taken = []
        while heads:
            later = []
            for request, pair in heads:
                resources = self.resources(pair)
                if self.busy.isdisjoint(resources):
                    self.busy.update(resources)
                    taken.append((pair[0], pair[1], request[2]))
                    queue = self.waiting[pair]
                    queue.pop()
                    if queue and self.mode == "parallel":
                        later.append((queue[-1], pair))
                    elif not queue:
                        for end in pair:
                            self.partners[end].discard(pair)
            heads = later  # parallel mode only: nothing is ever busy, the rest of each queue starts as well
        return taken
