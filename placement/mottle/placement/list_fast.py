"""The list engine in `parallel` mode, fast form: the same schedules as `list_plain`, op by op (specification 2.13).

`Engine` keeps what has been committed and what an op would need; which pair comes next is decided by the selections of `list_select`.
"""

from collections.abc import Sequence

from mottle.placement.favourites import Favourites
from mottle.placement.graph import Graph
from mottle.placement.list_select import EarliestStart, FavouriteFirst
from mottle.placement.placed import MemoryState, NoRoom, Placement, order_by_start
from mottle.placement.ready_table import ReadyTable


def list_fast(
    graph: Graph,
    favourites: Favourites | None = None,
    bound: dict[int, int] | None = None,
    mem: Sequence[int] | None = None,
    *,
    reserve: bool = False,
) -> Placement | NoRoom:
    """As `list_plain`, for graphs in `parallel` mode."""
    engine = Engine(graph, MemoryState(graph, bound, mem, reserve=reserve))
    select = EarliestStart(engine) if favourites is None else FavouriteFirst(engine, favourites)
    return engine.run(select)


class Engine:
    """What has been committed, and what is ready."""

    def __init__(self, graph: Graph, memory: MemoryState) -> None:
        self.graph, self.memory = graph, memory
        self.table = ReadyTable(graph, memory)
        self.free = [0] * graph.num_devices  # F
        self.last = [-1] * graph.num_devices
        self.device, self.start, self.end = [-1] * graph.n, [-1] * graph.n, [-1] * graph.n
        self.held = list(memory.reserved)  # bit d: tensor produced on d, on its way there, or counted there beforehand
        self.waiting = [len(parents) for parents in graph.predecessors]

    def run(self, select: "EarliestStart | FavouriteFirst") -> Placement | NoRoom:
        fresh = [i for i, count in enumerate(self.waiting) if count == 0]
        for _ in range(self.graph.n):
            for j in fresh:
                if not select.add(j):
                    return NoRoom(j, self.memory.loads)
            e, i, d = select.best()
            if not self.commit(i, d, e) or not select.committed(i, d):
                return NoRoom(i, self.memory.loads)
            fresh = []
            for j in self.graph.successors[i]:
                self.waiting[j] -= 1
                if self.waiting[j] == 0:
                    fresh.append(j)
        return Placement(self.device, order_by_start(self.start), self.start, self.table.crowded)

    def commit(self, i: int, d: int, e: int) -> bool:
        """Book an op; False when d has no room for it, which only ops with a single device can meet."""
        graph, g, new = self.graph, self.graph.group_of[i], 0
        for t in graph.inputs[i]:
            if not self.held[t] >> d & 1:
                new += graph.bytes_of[t]
                self.held[t] |= 1 << d
                if self.table.size:
                    self.table.received(t, d)
        if not self.memory.fits(g, d, new):
            return False
        self.memory.commit(g, d, new)
        self.device[i], self.start[i] = d, e
        self.end[i] = self.free[d] = e + graph.k_rows[i][d]
        self.last[d] = i
        for t in graph.outputs[i]:
            self.memory.release(t, d, graph.bytes_of[t])
            self.held[t] |= 1 << d
        return True

    def data_ready(self, i: int) -> list[int]:
        """(D,) arrival of the last input."""
        graph, cost = self.graph, self.graph.cost_rows
        ready = [0] * graph.num_devices
        for t in graph.inputs[i]:
            producer = graph.src_of[t]
            end = self.end[producer]
            for d, c in enumerate(graph.link_class[self.device[producer]]):
                arrival = end + cost[c][t]
                if arrival > ready[d]:
                    ready[d] = arrival
        return ready

    def ready_on(self, i: int, d: int) -> int:
        """Arrival of the last input on one device."""
        graph, ready = self.graph, 0
        for t in graph.inputs[i]:
            producer = graph.src_of[t]
            arrival = self.end[producer] + graph.cost_rows[graph.link_class[self.device[producer]][d]][t]
            if arrival > ready:
                ready = arrival
        return ready

    def new_bytes(self, i: int) -> list[int]:
        """(D,) bytes of the inputs that a device does not hold."""
        graph, devices = self.graph, range(self.graph.num_devices)
        new = [0] * graph.num_devices
        for t in graph.inputs[i]:
            size, held = graph.bytes_of[t], self.held[t]
            if size:
                for d in devices:
                    if not held >> d & 1:
                        new[d] += size
        return new
