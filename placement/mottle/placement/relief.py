"""Which segments to recompute or offload so that a placement fits (specification 7.5; the fourth rung of the memory ladder, 2.11).

Given a placement with over-full devices: on each of these the options with the fewest ticks a byte, until SIM finds that it fits; then
whatever turns out not to be needed is taken back, the most expensive first.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from mottle.placement.budget import Budget, reduce_us
from mottle.placement.judge import Trace, run
from mottle.placement.placed import Placement, positions
from mottle.placement.problem import Problem
from mottle.placement.reductions import MEANS, Means, Reducer, Reduction


class Relieved(NamedTuple):
    """A placement that fits with reductions."""

    problem: Problem
    """With the reductions in it."""
    placement: Placement
    trace: Trace
    reductions: tuple[Reduction, ...]


class _Option(NamedTuple):
    price: Fraction
    """Ticks a byte."""
    rank: tuple[int, int]
    """Recompute before offload, then by place in the graph."""
    reduction: Reduction


class Relief:
    """Tries reductions on placements of one problem.

    Args:
        budget: what is tried is charged to it.
    """

    def __init__(self, problem: Problem, budget: Budget, means: Collection[Means] = MEANS) -> None:
        self.reducer, self.budget, self.means = Reducer(problem), budget, means
        self.cost_us = reduce_us(problem.graph)

    @property
    def affordable(self) -> bool:
        """The budget has room for at least a try and a correction."""
        return self.budget.affords(2 * self.cost_us)

    def fit(self, placement: Placement, *, below: int | None = None) -> Relieved | None:
        """The placement with as many reductions as it takes.

        Args:
            placement: of the whole problem, in a topological order; over-full devices or not.
            below: longest step of any interest, in ticks; None: any.
        Returns:
            None: what there is to reduce does not suffice, or the step gets too long.
        """
        graph = self.reducer.problem.graph
        device_of = {name: graph.devices[d] for name, d in zip(graph.names, placement.device, strict=True)}
        order = [graph.names[i] for i in placement.order]
        options = self._options(device_of)
        chosen: list[_Option] = []
        while True:
            found = self._try(device_of, order, chosen)
            if found.trace.deadlock or (below is not None and found.trace.makespan >= below):
                return None
            if found.trace.fits:
                return self._pruned(device_of, order, chosen, found)
            if not self._take(found.trace, options, chosen):
                return None

    def whole(self, means: Means) -> Problem:
        """The problem with every segment reduced one way: the least memory there is."""
        self.budget.spend(self.cost_us)
        return self.reducer.apply(self.reducer.whole(means)).problem

    def gauged(self, means: Means, device_of: Mapping[str, str]) -> tuple[Reduction, ...]:
        """The reductions of `whole`, with what they save and cost on these devices."""
        return tuple(self.reducer.gauged(each, device_of) for each in self.reducer.whole(means))

    def _options(self, device_of: Mapping[str, str]) -> dict[str, list[_Option]]:
        """Device -> what can be done there, the best last."""
        found: dict[str, list[_Option]] = {}
        for device, parts in self.reducer.parts(device_of).items():
            listed = []
            for x, part in enumerate(parts):
                for means in self.means:
                    reduction = self.reducer.gauged(Reduction(means, part.id, part.passes), device_of)
                    if reduction.bytes > 0:
                        listed.append(_Option(Fraction(reduction.ticks, reduction.bytes), (MEANS.index(means), x), reduction))
            found[device] = sorted(listed, key=lambda option: (option.price, option.rank), reverse=True)
        return found

    def _take(self, trace: Trace, options: Mapping[str, list[_Option]], chosen: list[_Option]) -> bool:
        """More options for every device that holds too much; False when one has none left."""
        for name, peak, mem in zip(trace.graph.devices, trace.peaks, trace.graph.mem, strict=True):
            excess, queue = peak - mem, options.get(name, [])
            while excess > 0:
                if not queue:
                    return False
                option = queue.pop()
                if not any(_overlap(option.reduction, other.reduction) for other in chosen):
                    chosen.append(option)
                    excess -= option.reduction.bytes
        return True

    def _pruned(self, device_of: Mapping[str, str], order: Sequence[str], chosen: list[_Option], found: Relieved) -> Relieved:
        for option in sorted(chosen, key=lambda option: (option.price, option.rank), reverse=True):
            if not self.affordable:
                break
            fewer = [other for other in chosen if other is not option]
            shorter = self._try(device_of, order, fewer)
            if shorter.trace.valid and shorter.trace.makespan <= found.trace.makespan:
                chosen, found = fewer, shorter
        return found

    def _try(self, device_of: Mapping[str, str], order: Sequence[str], chosen: Iterable[_Option]) -> Relieved:
        self.budget.spend(self.cost_us)
        reductions = tuple(option.reduction for option in chosen)
        reduced = self.reducer.apply(reductions)
        device, sequence = reduced.extend(device_of, order)
        trace = run(reduced.problem.graph, device, positions(sequence))
        return Relieved(reduced.problem, Placement(device, sequence, trace.start.tolist()), trace, reductions)


def _overlap(one: Reduction, other: Reduction) -> bool:
    return one.segment == other.segment and one.passes[0] in other.passes
