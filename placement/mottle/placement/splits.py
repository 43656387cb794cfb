"""Contiguous splits: what suits models that are chains, beside the placers of the text.

In a chain only one device works at a time. Then the best a placement can do is to use the fastest devices that hold the model and to cut
where little has to travel, which list schedulers, looking one op ahead, do not see.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mottle.placement.arrays import Ints, int_list, sum_by
from mottle.placement.baselines import layer_split
from mottle.placement.graph import ABSENT, Graph
from mottle.placement.skeleton import LARGEST

MOST_GROUPS = 1_000
"""Above so many groups the cheapest cuts are not looked for: their number of places is squared."""
AT_PEAK, AS_SUMS = (80, 90, 95, 100, 110), (100, 112, 125, 137, 150, 200, 300)
"""Per cent of the budgets that are tried under dynamic accounting: what a group holds at the peak is an estimate, and static sums
over-estimate."""


def splits(graph: Graph, go: Callable[[], bool] = lambda: True) -> Iterator[tuple[str, list[int]]]:
    """(name, device of every op), not all of which run and fit: equal shares of time, and the cheapest cuts in two orders of devices.

    Args:
        go: asked before each search for the cheapest cuts: False ends the splits.
    """
    yield "layer-split", layer_split(graph)
    if graph.num_groups > MOST_GROUPS:
        return
    total = [int(column[column < ABSENT].sum()) for column in graph.k.T]
    by_rank = list(range(graph.num_devices))
    by_speed = sorted(by_rank, key=lambda d: (total[d], d))
    orders = [by_speed] if by_speed == by_rank else [by_speed, by_rank]
    for held, percents in _holdings(graph):
        chain = _Chain(graph, held)
        for order in orders:
            if not go():
                return
            free = chain.cut(order, [LARGEST] * graph.num_devices)
            for percent in percents:
                if not go():
                    return
                home = chain.cut(order, [mem * percent // 100 for mem in graph.mem])
                if home is not None:
                    yield "cheapest cuts", [home[g] for g in graph.group_of]
                if home == free:  # memory rules nothing out any more
                    break


def _holdings(graph: Graph) -> list[tuple[Ints, Sequence[int]]]:
    """(G,) bytes that groups are taken to hold, with the shares of the budgets to try them against."""
    return [(graph.base, (100,))] if graph.mem_mode == "static" else [(held_at_peak(graph), AT_PEAK), (graph.base, AS_SUMS)]


class _Chain:
    """Groups in canonical order as the units of a chain, with what it costs to cut before each."""

    def __init__(self, graph: Graph, held: Ints) -> None:
        # G groups, D devices
        size = graph.num_groups
        absent = np.where(graph.group_runs, 0, 1)
        time_GD = np.zeros((size, graph.num_devices), np.int64)
        np.add.at(time_GD, graph.group, np.where(graph.k < ABSENT, graph.k, 0))
        self.time = np.vstack([np.zeros((1, graph.num_devices), np.int64), np.cumsum(time_GD, axis=0)])
        self.absent = np.vstack([np.zeros((1, graph.num_devices), np.int64), np.cumsum(absent, axis=0)])
        self.base = np.concatenate([[0], np.cumsum(held)])
        self.scratch = int(graph.scratch.max())
        self.cost, self.crossing = self._crossings(graph)

    @staticmethod
    def _crossings(graph: Graph) -> tuple[Ints, Ints]:
        """(G,) ticks and bytes of the tensors that cross the place before each group.

        A tensor that spans most of the chain (the weights' owner is at one end, another user at the other) crosses wherever one cuts.
        """
        size = graph.num_groups
        here = graph.group[graph.tensor_src]
        first, last = here.copy(), here.copy()
        consumer = graph.group[graph.edge_dst]
        np.minimum.at(first, graph.edge_tensor, consumer)
        np.maximum.at(last, graph.edge_tensor, consumer)
        local = (last > first) & (2 * (last - first) <= size)
        steps = []
        for amount in (graph.cost_max, graph.tensor_bytes):
            change = sum_by(first[local] + 1, amount[local], size + 1) - sum_by(last[local] + 1, amount[local], size + 2)[: size + 1]
            steps.append(np.cumsum(change)[:size])
        return steps[0], steps[1]

    def cut(self, order: Sequence[int], cap: Sequence[int]) -> list[int] | None:
        """(G,) devices of the contiguous split of least time plus transfers; None: nothing fits. Devices in the order given."""
        size = len(self.cost)
        best = np.full(size + 1, ABSENT, np.int64)  # of the groups before a place, with the devices so far
        best[0] = 0
        choices = []
        begins = np.arange(size + 1)
        for d in order:
            after, choice = best.copy(), np.full(size + 1, -1, np.int64)
            for end in range(1, size + 1):
                begin = begins[:end]
                need = self.base[end] - self.base[begin] + self.scratch + self.crossing[begin]
                fits = (need <= cap[d]) & (self.absent[end, d] == self.absent[begin, d]) & (best[begin] < ABSENT)
                total = np.where(fits, best[begin] + self.time[end, d] - self.time[begin, d] + self.cost[begin], ABSENT)
                x = int(total.argmin())
                if total[x] < after[end]:
                    after[end], choice[end] = total[x], x
            choices.append(int_list(choice))
            best = after
        return None if best[size] >= ABSENT else _read(order, choices, size)


def held_at_peak(graph: Graph) -> Ints:
    """(G,) bytes of each group that are in use when the whole graph, run op by op in canonical order, uses most.

    In a training step that is the turning point: weights, and the activations that wait for their backward pass.
    """
    freed = np.arange(graph.n)  # place of the last consumer of anything of an op
    np.maximum.at(freed, graph.tensor_src[graph.edge_tensor], graph.edge_dst)
    fed = np.zeros(graph.n, bool)
    fed[graph.tensor_src[graph.edge_tensor]] = True
    freed[~fed | graph.keep] = graph.n
    change = sum_by(np.arange(graph.n), graph.out, graph.n + 2) - sum_by(freed + 1, graph.out, graph.n + 2)
    peak = int((np.cumsum(change)[: graph.n] + graph.temp).argmax())
    places = np.arange(graph.n)
    live = (places <= peak) & (freed >= peak)
    return sum_by(graph.group, graph.perm + np.where(live, graph.out, 0), graph.num_groups)


def _read(order: Sequence[int], choices: Sequence[Sequence[int]], size: int) -> list[int]:
    """Devices from the choices of the last device back to the first."""
    home, end = [0] * size, size
    for d, choice in zip(reversed(order), reversed(choices), strict=True):
        if choice[end] >= 0:
            home[choice[end] : end] = [d] * (end - choice[end])
            end = choice[end]
    return home
