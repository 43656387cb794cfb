"""SIM, the judge: from (assignment, priority) to start times (specification 1.5). Every reported makespan is SIM's.

`run` chooses between two forms with equal results: the event loop, which knows every mode, and a single pass over the ops for
`parallel` communication under `order` dispatch with a topological priority, where start(i) = max(end of the op before it on its
device, arrival of its inputs) and no event queue is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from mottle.placement.arrays import Ints, int_list
from mottle.placement.events import run_events
from mottle.placement.graph import Graph
from mottle.placement.memory import Transfers, dynamic_peaks, received_copies, static_peaks

Dispatch = Literal["order", "ready"]


@dataclass(frozen=True, eq=False)
class Trace:
    """One simulated step, by op index. `start` and `end` are -1 for ops that never ran."""

    graph: Graph
    device: Ints
    start: Ints
    end: Ints
    transfers: Transfers

    @property
    def deadlock(self) -> bool:
        """Some op never ran: the order of the ops contradicts the graph."""
        return bool((self.end < 0).any())

    @property
    def makespan(self) -> int:
        """Ticks from 0 to the end of the last op that ran."""
        return int(self.end.max())

    @cached_property
    def static_peaks(self) -> list[int]:
        """Bytes per device, static accounting."""
        return int_list(static_peaks(self.graph, self.device))

    @cached_property
    def dynamic_peaks(self) -> list[int]:
        """Bytes per device, dynamic accounting."""
        return int_list(dynamic_peaks(self.graph, self.device, self.start, self.end, self.transfers))

    @property
    def peaks(self) -> list[int]:
        """Bytes per device in the accounting mode of the problem."""
        return self.static_peaks if self.graph.mem_mode == "static" else self.dynamic_peaks

    @property
    def fits(self) -> bool:
        """Every peak is within the budget of its device."""
        return all(peak <= mem for peak, mem in zip(self.peaks, self.graph.mem, strict=True))

    @property
    def valid(self) -> bool:
        """It ran to the end and fits."""
        return not self.deadlock and self.fits


def run(graph: Graph, device: Sequence[int] | Ints, priority: Sequence[int] | Ints | None = None, dispatch: Dispatch = "order") -> Trace:
    """Simulate one step.

    Args:
        device: (n,) device of every op, where the op is present.
        priority: (n,) lower first, ties by canonical position; None: canonical position.
        dispatch: `order`: each device runs its ops strictly by priority; `ready`: an idle device takes its best op with all inputs.
    """
    homes = np.asarray(device, np.int64)
    rank = np.arange(graph.n) if priority is None else np.asarray(priority, np.int64)
    order = np.argsort(rank, kind="stable")
    if dispatch == "order" and graph.comm_mode == "parallel" and is_topological(graph, order):
        start, end = replay_parallel(graph, int_list(homes), int_list(order))
        ends = np.array(end, np.int64)
        return Trace(graph, homes, np.array(start, np.int64), ends, _free_transfers(graph, homes, ends))
    starts, ends, transfers = run_events(graph, int_list(homes), int_list(rank), int_list(order), ready=dispatch == "ready")
    return Trace(graph, homes, starts, ends, transfers)


def is_topological(graph: Graph, order: Ints) -> bool:
    """Whether every producer comes before its consumers in `order`, a permutation of the ops."""
    place = np.empty_like(order)
    place[order] = np.arange(graph.n)
    return bool((place[graph.tensor_src[graph.edge_tensor]] < place[graph.edge_dst]).all())


def replay_parallel(graph: Graph, device: list[int], order: list[int]) -> tuple[list[int], list[int]]:
    """Start and end of every op when transfers never wait; `order` must be topological. One pass, O(edges)."""
    k, inputs, src, cost, link_class = graph.k_rows, graph.inputs, graph.src_of, graph.cost_rows, graph.link_class
    free = [0] * graph.num_devices
    start, end = [0] * graph.n, [0] * graph.n
    for i in order:
        d = device[i]
        begin = free[d]
        for t in inputs[i]:
            producer = src[t]
            arrival = end[producer] + cost[link_class[device[producer]][d]][t]
            if arrival > begin:
                begin = arrival
        start[i] = begin
        free[d] = end[i] = begin + k[i][d]
    return start, end


def _free_transfers(graph: Graph, device: Ints, end: Ints) -> Transfers:
    """The transfers of `parallel` mode: each starts when its producer ends."""
    tensor, dst = np.nonzero(received_copies(graph, device))
    src = device[graph.tensor_src[tensor]]
    begin = end[graph.tensor_src[tensor]]
    finish = begin + graph.cost[np.asarray(graph.link_class)[src, dst], tensor]
    order = np.lexsort((dst, tensor, begin))
    return Transfers(tensor[order], src[order], dst[order], begin[order], finish[order])
