"""What to try when a greedy placer runs out of memory, and how to place under dynamic accounting (specification 2.11).

A greedy placer fails on some tight instances that are feasible. The ladder first lets it try freely, then with the largest groups
spread beforehand, then with everything bound as m-TOPO would. Under dynamic accounting the static sums that the placers use
over-estimate, so they are given larger and larger budgets and SIM decides.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice

from mottle.placement.graph import Graph
from mottle.placement.judge import run
from mottle.placement.mtopo import fill, uniform_caps
from mottle.placement.placed import MemoryState, NoRoom, Placement, positions

Placer = Callable[[Graph, dict[int, int] | None, Sequence[int] | None], Placement | NoRoom]
"""(graph, groups bound beforehand, budgets) -> placement."""

STRETCHES = ((1, 1), (5, 4), (3, 2), (2, 1), (3, 1), (4, 1), (6, 1), (8, 1))
"""Factors on the budgets under dynamic accounting, as fractions."""


def climb(
    graph: Graph, placer: Placer, *, tries: int | None = None, go: Callable[[], bool] = lambda: True
) -> tuple[Placement | NoRoom, str]:
    """Place with memory; the second value says how, empty when the first try served.

    Args:
        tries: rungs to try, the plain one included; None: all. Under dynamic accounting each rung is tried at every stretch.
        go: asked before every run of the placer but the first: False ends the climb with what was found so far.
    Returns:
        A placement that SIM finds valid, or the last NoRoom.
    """
    if graph.mem_mode == "static":
        return _climb_static(graph, placer, tries, go)
    plain = _best_valid(graph, placer, lambda mem: iter([(None, "")]), go, first=True)
    if isinstance(plain[0], Placement) or tries == 1:
        return plain
    return _best_valid(graph, placer, lambda mem: islice(_bindings(graph, mem), None if tries is None else tries - 1), go, first=False)


def _climb_static(graph: Graph, placer: Placer, tries: int | None, go: Callable[[], bool]) -> tuple[Placement | NoRoom, str]:
    verdict: Placement | NoRoom = NoRoom(0, [0] * graph.num_devices)
    for rung, (bound, how) in enumerate(islice(chain([(None, "")], _bindings(graph, graph.mem)), tries)):
        if rung and not go():
            break
        verdict = placer(graph, bound, None)
        if isinstance(verdict, Placement):
            return verdict, how
    return verdict, ""


_Binding = tuple[dict[int, int] | None, str]


def _best_valid(
    graph: Graph, placer: Placer, bindings: Callable[[Sequence[int]], Iterator[_Binding]], go: Callable[[], bool], *, first: bool
) -> tuple[Placement | NoRoom, str]:
    """Over all stretches, the placement of smallest makespan whose simulated step fits; the first such binding at each stretch."""
    best: tuple[int, Placement, str] | None = None
    verdict: Placement | NoRoom = NoRoom(0, [0] * graph.num_devices)
    for over, under in STRETCHES:
        mem = [m * over // under for m in graph.mem]
        crowded = False
        for bound, how in bindings(mem):
            if not first and not go():
                return (verdict, "") if best is None else best[1:]
            first = False
            placement = placer(graph, bound, mem)
            if isinstance(placement, NoRoom):
                verdict, crowded = placement, True
                continue
            crowded |= placement.crowded
            trace = run(graph, placement.device, positions(placement.order))
            if trace.valid:
                if best is None or trace.makespan < best[0]:
                    stretch = "" if over == under else f"budgets x{over / under:g}"
                    best = (trace.makespan, placement, ", ".join(part for part in (how, stretch) if part))
                break
            verdict = NoRoom(placement.order[-1], trace.peaks)
        if not crowded:
            break  # memory ruled nothing out: larger budgets give the same again
    return (verdict, "") if best is None else best[1:]


def _bindings(graph: Graph, mem: Sequence[int]) -> Iterator[_Binding]:
    """Groups to bind beforehand, in the order of the ladder."""
    count = 1
    while (bound := worst_fit(graph, mem, count)) is not None:
        yield bound, f"{len(bound)} largest groups spread first"
        if count >= graph.num_groups:
            break
        count *= 2
    for caps, name in ((uniform_caps(graph), "uniform"), (mem, "full")):
        device = fill(graph, caps)
        if not isinstance(device, NoRoom):
            yield {g: device[members[0]] for g, members in enumerate(graph.members)}, f"bound as m-TOPO ({name} caps)"


def worst_fit(graph: Graph, mem: Sequence[int], count: int) -> dict[int, int] | None:
    """The `count` groups of largest need (ties: first in canonical order), each on the device with most free bytes; None: no fit."""
    memory = MemoryState(graph, mem=mem)
    largest = sorted(range(graph.num_groups), key=lambda g: (-int(graph.need[g]), g))[:count]
    for g in largest:
        fitting = [d for d in range(graph.num_devices) if graph.group_runs[g, d] and memory.fits(g, d, 0)]
        if not fitting:
            return None
        loads = memory.loads
        memory.bind(g, max(fitting, key=lambda d: (memory.mem[d] - loads[d], -d)))
    return {g: memory.bound[g] for g in largest}
