"""The list engine behind m-ETF and m-SCT, plain form (specification 2.4): every rule spelt out, every communication mode.

Repeatedly commit the (op, device) pair that can start first, among the pairs with which the op would finish first. ETF is by Hwang,
Chow, Anger and Lee, SIAM J. Comput. 18(2), 1989; the memory rules and SCT's awake devices follow Baechi (SoCC 2020). For `parallel`
communication `list_fast` gives the same schedules in a fraction of the time; tests hold the two against each other.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mottle.placement.favourites import Favourites
from mottle.placement.graph import Graph
from mottle.placement.placed import MemoryState, NoRoom, Placement, order_by_start


class _Copy(NamedTuple):
    tensor: int
    src: int
    start: int
    end: int


class _Channels:
    """Arrivals that are settled, and from when each channel is free, in the communication mode of the graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.arrival: dict[tuple[int, int], int] = {}  # (tensor, device) -> tick
        self.link_free: dict[tuple[int, int], int] = {}  # L
        self.device_free = [0] * graph.num_devices  # H

    def copies(self, missing: list[tuple[int, int, int]], d: int) -> list[_Copy]:
        """When the tensors (ready, tensor, source) that d lacks would travel; nothing is booked."""
        mode, link_free, device_free = self.graph.comm_mode, dict[int, int](), dict[int, int]()
        copies = []
        for ready, t, u in sorted(missing):
            start = ready
            if mode == "link":
                start = max(ready, link_free.get(u, self.link_free.get((u, d), 0)))
            elif mode == "device":
                start = max(ready, device_free.get(u, self.device_free[u]), device_free.get(d, self.device_free[d]))
            end = start + self.graph.cost_rows[self.graph.link_class[u][d]][t]
            link_free[u] = device_free[u] = device_free[d] = end
            copies.append(_Copy(t, u, start, end))
        return copies

    def book(self, copies: list[_Copy], d: int) -> None:
        for t, u, _, end in copies:
            self.arrival[t, d] = end
            self.link_free[u, d] = end
            self.device_free[u] = self.device_free[d] = end


class _Awake(NamedTuple):
    """A device kept for the favourite child of its last op."""

    favourite: int
    since: int
    """Tf: all predecessors of the favourite have ended."""


class _Engine:
    def __init__(self, graph: Graph, favourites: Favourites | None, memory: MemoryState) -> None:
        self.graph, self.favourites, self.memory = graph, favourites, memory
        self.channels = _Channels(graph)
        self.free = [0] * graph.num_devices  # F
        self.last = [-1] * graph.num_devices
        self.now = 0
        self.device, self.start, self.end = [-1] * graph.n, [-1] * graph.n, [-1] * graph.n
        self.waiting = [len(parents) for parents in graph.predecessors]
        self.ready = {i for i, count in enumerate(self.waiting) if count == 0}
        self.inputs_at: list[dict[int, tuple[int, int]]] = [{} for _ in graph.devices]  # device -> op -> (data ready, new bytes)
        self.crowded = False

    def run(self) -> Placement | NoRoom:
        while self.ready:
            est = {i: self.earliest_starts(i) for i in sorted(self.ready)}
            awake = self.awake_devices(est) if self.favourites is not None else {}
            choice = self.choose(est, awake)
            if choice is None:
                return NoRoom(min(self.ready), self.memory.loads)
            self.commit(*choice)
        return Placement(self.device, order_by_start(self.start), self.start, self.crowded)

    def missing(self, i: int, d: int) -> tuple[int, list[tuple[int, int, int]]]:
        """(latest input that is settled, inputs still to be sent as (ready, tensor, source))."""
        settled, missing = 0, []
        for t in self.graph.inputs[i]:
            producer = self.graph.src_of[t]
            u = self.device[producer]
            if u == d:
                settled = max(settled, self.end[producer])
            elif (t, d) in self.channels.arrival:
                settled = max(settled, self.channels.arrival[t, d])
            else:
                missing.append((self.end[producer], t, u))
        return settled, missing

    def earliest_starts(self, i: int) -> dict[int, int]:
        """est(i, d) for the feasible devices."""
        g, est = self.graph.group_of[i], {}
        for d in range(self.graph.num_devices):
            if not self.graph.group_runs[g, d] or self.memory.bound[g] not in (-1, d):
                continue
            if i not in self.inputs_at[d]:
                settled, missing = self.missing(i, d)
                ready = max([settled, *(copy.end for copy in self.channels.copies(missing, d))])
                self.inputs_at[d][i] = ready, self.new_bytes(missing, d)
            ready, new = self.inputs_at[d][i]
            if self.memory.fits(g, d, new):
                est[d] = max(ready, self.free[d])
            else:
                self.crowded = True
        return est

    def forget(self, copies: list[_Copy], d: int) -> None:
        """Copies were booked to a device: what was worked out with its channels, or without these tensors, no longer holds."""
        if not copies:
            return
        if self.graph.comm_mode == "device":  # the channel of each sender serves every device
            for known in self.inputs_at:
                known.clear()
        else:
            self.inputs_at[d].clear()

    def new_bytes(self, missing: list[tuple[int, int, int]], d: int) -> int:
        """Bytes of missing inputs that are not counted on d yet."""
        return sum(self.graph.bytes_of[t] for _, t, _ in missing if not self.memory.reserved[t] >> d & 1)

    def awake_devices(self, est: Mapping[int, dict[int, int]]) -> dict[int, _Awake]:
        assert self.favourites is not None
        awake = {}
        for d, parent in enumerate(self.last):
            f = self.favourites.get(parent, -1)
            if f in est and d in est[f] and est[f][d] == min(est[f].values()):
                awake[d] = _Awake(f, max(self.end[p] for p in self.graph.predecessors[f]))
        return awake

    def choose(self, est: Mapping[int, dict[int, int]], awake: Mapping[int, _Awake]) -> tuple[int, int, int] | None:
        """The pair to commit with its start, by rules C to F."""
        best: dict[int, tuple[int, int, int, int]] = {}  # device -> (e, class, urgency, op)
        for i, row in est.items():
            if not row:
                continue
            urgency = max(row.values())
            starts = {d: self.start_on(i, d, e, urgency, awake) for d, e in row.items()}
            finish = min(e + self.graph.k_rows[i][d] for d, e in starts.items())
            for d, e in starts.items():
                if e + self.graph.k_rows[i][d] == finish:
                    key = (e, 0, 0, i)
                    if d in awake and e >= awake[d].since:
                        key = (e, 0, urgency, i) if urgency <= e else (e, 1, 0, i)
                    best[d] = min(best.get(d, key), key)
        if not best:
            return None
        e, i, d = min((e, i, d) for d, (e, _, _, i) in best.items())
        return i, d, e

    def start_on(self, i: int, d: int, e: int, urgency: int, awake: Mapping[int, _Awake]) -> int:
        """e(i, d): m-SCT never goes back in time, and lets a device that is awake take only its favourite or an urgent op."""
        if self.favourites is None:
            return e
        e = max(e, self.now)
        if d in awake and i != awake[d].favourite and e >= awake[d].since:
            e = max(e, urgency)
        return e

    def commit(self, i: int, d: int, e: int) -> None:
        _, missing = self.missing(i, d)
        copies = self.channels.copies(missing, d)
        self.channels.book(copies, d)
        self.memory.commit(self.graph.group_of[i], d, self.new_bytes(missing, d))
        for t in self.graph.outputs[i]:
            self.memory.release(t, d, self.graph.bytes_of[t])
        self.device[i], self.start[i] = d, e
        self.end[i] = self.free[d] = e + self.graph.k_rows[i][d]
        self.last[d] = i
        self.now = max(self.now, e)
        self.forget(copies, d)
        self.ready.remove(i)
        for j in self.graph.successors[i]:
            self.waiting[j] -= 1
            if self.waiting[j] == 0:
                self.ready.add(j)


def list_plain(
    graph: Graph,
    favourites: Favourites | None = None,
    bound: dict[int, int] | None = None,
    mem: Sequence[int] | None = None,
    *,
    reserve: bool = False,
) -> Placement | NoRoom:
    """Place by earliest start.

    Args:
        favourites: op -> favourite child gives m-SCT; None gives m-ETF.
        bound: group -> device, reserved from the beginning.
        mem: (D,) bytes, in place of the devices' own budgets.
        reserve: see `MemoryState`.
    Returns:
        A placement that fits `mem` in static accounting, or the op for which no room was found.
    Cost: O(n |R| D indegree) with |R| ready ops.
    """
    return _Engine(graph, favourites, MemoryState(graph, bound, mem, reserve=reserve)).run()
