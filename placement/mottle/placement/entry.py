"""The front door of the placers: problem in, plan out."""

from collections.abc import Callable, Mapping

from mottle.core.errors import ConfigError
from mottle.placement.baselines import best_single, in_canonical_order, layer_split, random_split, round_robin
from mottle.placement.coarsen import COARSENINGS, Coarsening
from mottle.placement.coarsen import coarsen as coarsen_graph
from mottle.placement.errors import InfeasibleError
from mottle.placement.exact import solve_exactly
from mottle.placement.graph import Graph
from mottle.placement.judge import run
from mottle.placement.ladder import climb
from mottle.placement.lower_bounds import memory_faults
from mottle.placement.mtopo import m_topo
from mottle.placement.placed import NoRoom, Placement, positions
from mottle.placement.placers import ListAlgorithm, placer_for
from mottle.placement.plans import Plan, make_plan
from mottle.placement.portfolio import place_auto
from mottle.placement.problem import Problem
from mottle.placement.reductions import ACTIVATIONS, MEANS, Activations

_CATALOGUE = {
    "auto": "portfolio of the placers on three coarsenings, judged by simulation, then local search; never slower than one device",
    "m-topo": "fill the devices in topological order (Baechi)",
    "m-etf": "earliest start first (Hwang et al. 1989; memory by Baechi)",
    "m-sct": "m-ETF that waits for favourite children, chosen along critical paths (Baechi)",
    "m-sct-lp": "m-SCT with favourite children from the linear program (Hanen, Munier 1995)",
    "heft": "highest upward rank first, where it finishes first (Topcuoglu et al. 2002)",
    "exact": "optimum by integer programming; about ten ops on three devices",
    "single": "baseline: the fastest single device that fits",
    "layer-split": "baseline: contiguous shares of equal time",
    "round-robin": "baseline: groups dealt out in turn",
    "random": "baseline: groups by hash",
}
_FIXED: Mapping[str, Callable[[Graph], list[int] | None]] = {
    "single": best_single,
    "layer-split": layer_split,
    "round-robin": round_robin,
    "random": lambda graph: random_split(graph, 0),
}
_LISTS: Mapping[str, ListAlgorithm] = {"m-etf": "m-etf", "m-sct": "m-sct", "m-sct-lp": "m-sct-lp", "heft": "heft"}


def catalogue() -> dict[str, str]:
    """Algorithm name -> what it does, in one line."""
    return dict(_CATALOGUE)


def place(
    problem: Problem,
    algorithm: str = "auto",
    *,
    coarsen: Coarsening | None = None,
    budget_s: float | None = 1.0,
    activations: Activations = "auto",
) -> Plan:
    """Decide which device runs which op, and in which order.

    Where memory is short and the problem says what may be recomputed or offloaded (`Problem.segments`), `auto` weighs that against
    spreading the ops: see `Plan.reductions`. The others leave activations where they are.

    Args:
        algorithm: a name of `catalogue()`.
        coarsen: for `m-topo`, `m-etf`, `m-sct`, `m-sct-lp` and `heft`; None: none. `auto` tries all by itself.
        budget_s: for `auto`: seconds on one slow core, by estimate; 60 is thorough, None evaluates everything.
        activations: for `auto`: `auto` (recomputed or offloaded where that is fastest), `keep` (never), or one of the two.
    Returns:
        A plan that fits, with its simulated step. The same arguments give the same plan, on any machine.
    Raises:
        ConfigError: an unknown name, or a coarsening where it means nothing.
        InfeasibleError: nothing fits (with the bound that is broken and the missing bytes), or the algorithm found nothing that does.
    """
    _check(algorithm, coarsen, budget_s, activations)
    if algorithm == "auto":
        return place_auto(problem, budget_s, [means for means in MEANS if activations in ("auto", means)])
    graph = problem.graph
    if faults := memory_faults(graph):
        raise InfeasibleError(faults)
    rule: Coarsening = coarsen or "none"
    coarse = coarsen_graph(graph, rule)
    placement, how = _place_on(coarse.graph, algorithm)
    if isinstance(placement, NoRoom):
        raise InfeasibleError([_no_room(coarse.graph, algorithm, placement)])
    placement = coarse.expand(placement)
    trace = run(graph, placement.device, positions(placement.order))
    if not trace.valid:
        over = [
            f"{name!r} needs {peak} bytes and has {mem}"
            for name, peak, mem in zip(graph.devices, trace.peaks, graph.mem, strict=True)
            if peak > mem
        ]
        raise InfeasibleError([f"{algorithm} does not fit: {'; '.join(over)}. Try algorithm auto, or add memory"])
    name = algorithm if rule == "none" else f"{algorithm}, {rule}"
    return make_plan(problem, trace, placement.order, name, [how] if how else [])


def _check(algorithm: str, coarsen: str | None, budget_s: float | None, activations: str) -> None:
    if algorithm not in _CATALOGUE:
        raise ConfigError(f"algorithm is one of {', '.join(_CATALOGUE)}; got {algorithm!r}")
    if coarsen is not None and coarsen not in COARSENINGS:
        raise ConfigError(f"coarsen is one of {', '.join(COARSENINGS)}; got {coarsen!r}")
    if coarsen is not None and algorithm not in (*_LISTS, "m-topo"):
        reason = "tries every coarsening by itself" if algorithm == "auto" else "works on the original graph"
        raise ConfigError(f"algorithm {algorithm!r} {reason}: leave `coarsen` out; got {coarsen!r}")
    if activations not in ACTIVATIONS:
        raise ConfigError(f"activations is one of {', '.join(ACTIVATIONS)}; got {activations!r}")
    if algorithm != "auto" and activations in MEANS:
        raise ConfigError(f"activations={activations!r} is a choice of algorithm auto; {algorithm!r} keeps them")
    if budget_s is not None and not budget_s > 0:
        raise ConfigError(f"budget_s must be a positive number of seconds, or None for no limit; got {budget_s}")


def _place_on(graph: Graph, algorithm: str) -> tuple[Placement | NoRoom, str]:
    if algorithm in _LISTS:
        return climb(graph, placer_for(_LISTS[algorithm], graph))
    if algorithm == "m-topo":
        return m_topo(graph), ""
    if algorithm == "exact":
        return solve_exactly(graph), ""
    device = _FIXED[algorithm](graph)
    if device is None or not all(graph.group_runs[g, d] for g, d in zip(graph.group_of, device, strict=True)):
        return NoRoom(0, [0] * graph.num_devices), ""
    return in_canonical_order(graph, device), ""


def _no_room(graph: Graph, algorithm: str, room: NoRoom) -> str:
    if algorithm in _FIXED:
        return f"{algorithm}: some device cannot run or hold what it would be given; try algorithm auto"
    d = max(range(graph.num_devices), key=lambda d: (room.loads[d] - graph.mem[d], -d))
    return (
        f"{algorithm} found no room for op {graph.names[room.op]!r}; the most loaded device, {graph.devices[d]!r}, holds {room.loads[d]} "
        f"of {graph.mem[d]} bytes. Try algorithm auto, a coarser graph, or add memory"
    )
