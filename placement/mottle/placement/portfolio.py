"""`auto`: try the placers on several coarsenings, let SIM judge, improve the winner (specification 2.10).

The answer is never slower than the best single device that fits. A budget is spent by estimates, not by a clock (`estimate_us`): the
same problem and budget give the same plan on every machine.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import product

import numpy as np

from mottle.placement.baselines import best_single, in_canonical_order, random_split, round_robin
from mottle.placement.branch import branch_and_bound
from mottle.placement.budget import Budget, affordable_effort, coarsen_us, cut_us, estimate_us, sim_us
from mottle.placement.coarsen import COARSENINGS, Coarse, Coarsening, coarsen
from mottle.placement.contest import Contest
from mottle.placement.errors import InfeasibleError, UndecidedError
from mottle.placement.exact import solve_exactly
from mottle.placement.graph import Graph
from mottle.placement.judge import run
from mottle.placement.ladder import climb
from mottle.placement.local_search import CHAIN_EFFORT, TRIAL_EFFORT, local_search
from mottle.placement.lower_bounds import memory_faults
from mottle.placement.mtopo import m_topo
from mottle.placement.placed import NoRoom, Placement, positions
from mottle.placement.placers import ListAlgorithm, placer_for
from mottle.placement.plans import Candidate, Plan, make_plan
from mottle.placement.problem import Problem
from mottle.placement.reductions import MEANS, Means
from mottle.placement.rescue import rescue
from mottle.placement.splits import splits

WHOLE_LIST_NODES = 2_000
"""Up to so many ops every candidate is evaluated within any budget."""
MILP_GROUPS, MILP_OPS, MILP_NODES = 10, 30, 20_000
"""Largest problem that is handed to the integer program when no list placer finds room, and the nodes its search may visit."""
BRANCH_OPS = 12
"""Largest problem whose plan is improved by branch and bound."""
BRANCH_NODES, BRANCH_NODE_US = 20_000, 25
"""Most schedules that are looked at to improve a plan of a few ops, and microseconds for each."""
FOR_RESCUE = 0.4
"""Share of the budget that is kept for placements with recomputation or offload, where there is something to choose."""
LISTS: tuple[ListAlgorithm, ...] = ("m-etf", "m-sct", "heft")
RANKED = ("m-topo", *LISTS)
"""Order of the text, which breaks ties."""
LAST = 1_000
"""Position of candidates that come after all of the text's."""
BY_COST: tuple[ListAlgorithm, ...] = ("heft", "m-etf", "m-sct")
"""Large graphs: in this order, while the budget lasts; the first always."""


def place_auto(problem: Problem, budget_s: float | None = 1.0, means: Collection[Means] = MEANS) -> Plan:
    """The best of the portfolio.

    Args:
        budget_s: seconds on one slow core, by estimate; None evaluates the whole list and searches to the end.
        means: what may be done about activations where memory is short.
    Raises:
        InfeasibleError: nothing fits, or nothing that fits was found.
    """
    if faults := memory_faults(problem.graph):
        raise InfeasibleError(faults)
    budget = Budget(budget_s)
    if not problem.segments or not means:
        return _finish(compare(problem, budget))
    with budget.aside(FOR_RESCUE):
        contest = compare(problem, budget, patient=False)
    rescue(contest, means, compare)
    if contest.best is None:
        rescued, contest = contest, compare(problem, Budget(budget_s))
        contest.rescued, contest.notes = True, [*rescued.notes, *contest.notes]
    return _finish(contest)


def compare(problem: Problem, budget: Budget, *, patient: bool = True) -> Contest:
    """All candidates that the budget affords, judged.

    Args:
        patient: while nothing fits, go beyond the budget.
    """
    contest = Contest(problem, budget, patient=patient)
    _try_single(contest)
    if problem.graph.num_devices == 1 and contest.best is not None:
        contest.notes.append("there is one device, which is busy all the time in any order")
    elif budget.unlimited or problem.graph.n <= WHOLE_LIST_NODES:
        _try_whole_list(contest)
    else:
        _try_coarse(contest)
    return contest


def _try_single(contest: Contest) -> None:
    """The best single device that fits."""
    device = best_single(contest.graph)
    if device is None:
        contest.rows.append(Candidate("single", None, 1, "original"))
    else:
        contest.judge(f"single {contest.graph.devices[device[0]]}", in_canonical_order(contest.graph, device))


def _try_whole_list(contest: Contest) -> None:
    tight = contest.best is None  # no single device holds the model
    filled = m_topo(contest.graph)
    if isinstance(filled, NoRoom):
        contest.gave_up("m-topo", filled, contest.graph, "original")
    else:
        contest.judge("m-topo", filled)
    seen = _different_coarsenings(contest)
    runs = list(product(seen, LISTS))
    room = False
    if contest.graph.comm_mode != "parallel":  # some will be too slow: the cheapest first, each on every graph
        runs.sort(key=lambda run: BY_COST.index(run[1]))
    if tight:  # what is quick first: with something that fits, the ladder of the others need not be climbed whatever it takes
        runs.remove(("none", BY_COST[0]))
        with contest.budget.aside(0.6):
            room = _try_list(contest, "none", seen["none"], BY_COST[0], patient=False)
        with contest.budget.aside(0.25):
            _try_splits(contest, "none", seen["none"])
    for rule, algorithm in runs:
        room |= _try_list(contest, rule, seen[rule], algorithm, patient=contest.desperate)
    if not room:
        _try_exact(contest)
    for rule, coarse in seen.items():
        if not tight or rule != "none":
            _try_splits(contest, rule, coarse)
    _try_dealt(contest)


def _different_coarsenings(contest: Contest) -> dict[Coarsening, Coarse]:
    seen: dict[Coarsening, Coarse] = {}
    for rule in COARSENINGS:
        coarse = coarsen(contest.graph, rule)
        contest.budget.spend(coarsen_us(contest.graph) if rule != "none" else 0)
        if any(_same(coarse, other) for other in seen.values()):
            contest.notes.append(f"{rule}: the same graph as with a rule before it")
        else:
            seen[rule] = coarse
    return seen


def _try_splits(contest: Contest, rule: Coarsening, coarse: Coarse) -> None:
    """Contiguous splits of one coarsening. The text's portfolio has none; they come last, so that they win no tie."""
    for name, device in _runnable_splits(coarse.graph, _meter_cuts(contest, coarse, rule)):
        contest.judge(f"{name}, {rule}", coarse.expand(in_canonical_order(coarse.graph, device)), LAST + len(contest.rows))


def _try_dealt(contest: Contest) -> None:
    """Groups dealt out without looking at anything: where transfers contend, even that may beat a placer that does not foresee it."""
    for name, device in (("round-robin", round_robin(contest.graph)), ("random", random_split(contest.graph, 0))):
        if _runs(contest.graph, device):
            contest.judge(name, in_canonical_order(contest.graph, device), LAST + len(contest.rows))


def _runs(graph: Graph, device: list[int]) -> bool:
    return all(graph.group_runs[g, d] for g, d in zip(graph.group_of, device, strict=True))


def _meter_cuts(contest: Contest, coarse: Coarse, rule: Coarsening) -> Callable[[], bool]:
    """As `_meter`, for contiguous splits, with a note when the budget ends them."""
    may_run = _meter(contest, 2 * cut_us(coarse.graph), patient=contest.desperate)

    def may_cut() -> bool:
        if may_run():
            return True
        contest.notes.append(f"skipped for lack of time: contiguous splits, {rule}")
        return False

    return may_cut


def _runnable_splits(graph: Graph, go: Callable[[], bool]) -> Iterator[tuple[str, list[int]]]:
    """Each split once, those left out that put an op where it cannot run."""
    seen = set[tuple[int, ...]]()
    for name, device in splits(graph, go):
        if tuple(device) not in seen and _runs(graph, device):
            seen.add(tuple(device))
            yield name, device


def _try_list(contest: Contest, rule: Coarsening, coarse: Coarse, algorithm: ListAlgorithm, *, patient: bool) -> bool:
    """One placer on one coarsening; True when it found room (or was skipped: too slow, as only contending transfers make it here).

    Args:
        patient: it may climb the memory ladder to its end, whatever that takes.
    """
    name = f"{algorithm}, {rule}"
    cost_us = estimate_us(algorithm, coarse.graph)
    contends = contest.graph.comm_mode != "parallel"
    if contends and contest.best is not None and not contest.budget.affords(cost_us):
        contest.notes.append(f"skipped for lack of time: {name}")
        return True
    contest.budget.spend(cost_us)
    placement, how = climb(coarse.graph, placer_for(algorithm, coarse.graph), go=_meter(contest, cost_us, patient=patient))
    if how:
        contest.notes.append(f"{name}: {how}")
    if isinstance(placement, NoRoom):
        contest.gave_up(name, placement, coarse.graph, "original")
        return False
    of_text = 3 + len(LISTS) * COARSENINGS.index(rule) + LISTS.index(algorithm)  # after the single device and m-TOPO
    return contest.judge(name, coarse.expand(placement), of_text)


def _meter(contest: Contest, cost_us: float, *, patient: bool = False) -> Callable[[], bool]:
    """Whether a placer may run once more; if so it is charged. (Half: higher up on the ladder most runs soon end without room.)

    Args:
        patient: it may, whatever it takes: nothing fits so far.
    """

    def may_run() -> bool:
        if not patient and not contest.budget.affords(cost_us / 2):
            return False
        contest.budget.spend(cost_us / 2)
        return True

    return may_run


def _same(one: Coarse, other: Coarse) -> bool:
    return one.node_of == other.node_of and np.array_equal(one.graph.group, other.graph.group)


def _try_coarse(contest: Contest) -> None:
    """Large graphs: rank the candidates on the guarded-coarsened graph, judge the best two on the original."""
    rest: dict[Coarsening, Coarse] = {"none": coarsen(contest.graph, "none")}
    with contest.budget.aside(0.5):
        found = _try_on(contest, BY_COST[0], "none", rest)
    coarsening_us = coarsen_us(contest.graph) + 4 * sim_us(contest.graph)
    if contest.best is not None and not contest.budget.affords(coarsening_us):
        contest.notes.append("skipped for lack of time: coarsening")
        return
    contest.budget.spend(coarsening_us)
    coarse = coarsen(contest.graph, "guarded")
    ranking = _Ranking(contest, coarse)
    ranking.add("m-topo", m_topo(coarse.graph))
    for algorithm in BY_COST:
        cost_us = estimate_us(algorithm, coarse.graph)
        if algorithm != BY_COST[0] and not contest.budget.affords(cost_us):
            contest.notes.append(f"skipped for lack of time: {algorithm}, guarded")
            continue
        contest.budget.spend(cost_us)
        ranking.add(algorithm, climb(coarse.graph, placer_for(algorithm, coarse.graph), tries=1)[0])
    if not found and not ranking.found(*BY_COST):
        ranking.climb(BY_COST[0])
    for name, device in _runnable_splits(coarse.graph, _meter_cuts(contest, coarse, "guarded")):
        if run(coarse.graph, device).valid:
            ranking.add(name, in_canonical_order(coarse.graph, device))
    ranking.judge_best()
    if contest.best is not None:
        _try_rest(contest, rest)
    if contest.best is None:  # fused nodes may be too large to pack: the original ops are the last resort, whatever it takes
        _try_whole_list(contest)


def _try_rest(contest: Contest, coarse_by: dict[Coarsening, Coarse]) -> None:
    """What else of the whole list the budget affords, the cheapest first."""
    if contest.budget.affords(2 * sim_us(contest.graph)) and not isinstance(filled := m_topo(contest.graph), NoRoom):
        contest.judge("m-topo", filled, LAST)
    if contest.budget.affords(4 * sim_us(contest.graph)):
        _try_dealt(contest)
    rules: tuple[Coarsening, ...] = ("none", "paper")
    for algorithm, rule in list(product(BY_COST, rules))[1:]:
        _try_on(contest, algorithm, rule, coarse_by)


def _try_on(contest: Contest, algorithm: ListAlgorithm, rule: Coarsening, coarse_by: dict[Coarsening, Coarse]) -> bool:
    """One placer on one coarsening of a large graph, up the memory ladder as far as the budget goes; True when it found room.

    The text leaves all but the guarded rule out of a budget. But where fusing does no good (wide forks, backward passes that mirror a
    chain) HEFT on the graph as it is was up to twice as fast, and takes a fraction of a second: it comes before everything else.

    Args:
        coarse_by: coarsenings so far.
    """
    graph = contest.graph
    making_us = 0.0 if rule in coarse_by else coarsen_us(graph)
    if not contest.budget.affords(making_us + estimate_us(algorithm, graph) + sim_us(graph)):
        contest.notes.append(f"skipped for lack of time: {algorithm}, {rule}")
        return False
    coarse = coarse_by[rule] = coarse_by.get(rule) or coarsen(graph, rule)
    cost_us = estimate_us(algorithm, coarse.graph) + sim_us(coarse.graph)
    contest.budget.spend(making_us + cost_us)
    placement, how = climb(coarse.graph, placer_for(algorithm, coarse.graph), go=_meter(contest, cost_us))
    if how:
        contest.notes.append(f"{algorithm}, {rule}: {how}")
    if isinstance(placement, NoRoom):
        contest.gave_up(f"{algorithm}, {rule}", placement, coarse.graph, "original")
        return False
    return contest.judge(f"{algorithm}, {rule}", coarse.expand(placement), LAST + len(contest.rows))


class _Ranking:
    """Placements of the coarsened graph, by SIM on that graph."""

    def __init__(self, contest: Contest, coarse: Coarse) -> None:
        self.contest, self.coarse = contest, coarse
        self.rows: list[tuple[tuple[int, int, int], str, Placement]] = []

    def add(self, algorithm: str, placement: Placement | NoRoom) -> None:
        name = f"{algorithm}, guarded"
        if isinstance(placement, NoRoom):
            self.contest.gave_up(name, placement, self.coarse.graph, "guarded")
            return
        makespan = run(self.coarse.graph, placement.device, positions(placement.order)).makespan
        used = len(set(placement.device))
        self.contest.rows.append(Candidate(name, makespan, used, "guarded"))
        position = RANKED.index(algorithm) if algorithm in RANKED else LAST
        self.rows.append(((makespan, used, position), name, placement))

    def found(self, *algorithms: str) -> bool:
        return any(name.startswith(algorithms) for _, name, _ in self.rows)

    def climb(self, algorithm: ListAlgorithm) -> None:
        """No list placer found room at once: up the ladder, as far as the budget goes, or to the end when nothing fits so far."""
        graph, budget = self.coarse.graph, self.contest.budget
        nothing = self.contest.best is None and not self.rows
        tries = None if nothing else 1 + int(max(0.0, budget.left_us) // estimate_us(algorithm, graph))
        placement, how = climb(graph, placer_for(algorithm, graph), tries=tries)
        if tries is not None:
            budget.spend((tries - 1) * estimate_us(algorithm, graph))
        self.contest.notes.append(f"{algorithm}, guarded: {how or 'no room, memory ladder included'}")
        self.add(algorithm, placement)

    def judge_best(self) -> None:
        """The best two on the original graph; more when one of them turns out not to fit there."""
        valid = 0
        for (*_, position), name, placement in sorted(self.rows, key=lambda row: row[0]):
            if valid < 2:
                valid += self.contest.judge(name, self.coarse.expand(placement), 2 + position)  # after the single device


def _try_exact(contest: Contest) -> None:
    """The last rung: a proof, where the problem is small enough for one."""
    graph = contest.graph
    if graph.num_groups > MILP_GROUPS or graph.n > MILP_OPS:
        return
    try:
        placement = solve_exactly(graph, node_limit=MILP_NODES)
    except UndecidedError as error:
        contest.notes.append(str(error))
        return
    if isinstance(placement, NoRoom):
        contest.proven = graph.mem_mode == "static"  # the program counts static sums
    else:
        contest.judge("exact", placement)


def _finish(contest: Contest) -> Plan:
    if contest.best is None:
        raise InfeasibleError(_why_nothing_fits(contest))
    _, name, placement, trace = contest.best
    given, relieved = contest.problem, contest.relieved
    if relieved is not None:
        contest = replace(contest, problem=relieved.problem)
    for improve in (_search_locally, _search_all):
        better = improve(contest, placement, trace.makespan)
        if better is not None:
            suffix, placement = better
            name = f"{name}, {suffix}"
            trace = run(contest.graph, placement.device, positions(placement.order))
    plan = replace(make_plan(contest.problem, trace, placement.order, name, contest.notes), candidates=tuple(contest.rows))
    if relieved is None:
        return plan
    place = given.skeleton.position
    return replace(plan, reductions=tuple(sorted(relieved.reductions, key=lambda each: place[each.ops[0]])), unreduced=given)


def _search_locally(contest: Contest, placement: Placement, makespan: int) -> tuple[str, Placement] | None:
    """Local search as far as the budget goes."""
    graph = contest.graph
    if graph.num_devices == 1:
        return None
    effort = affordable_effort(graph, contest.budget.left_us)
    if effort <= CHAIN_EFFORT:
        contest.notes.append("skipped for lack of time: local search")
        return None
    searched = local_search(graph, placement, effort=effort)
    contest.budget.spend((4 + searched.trials * TRIAL_EFFORT) * sim_us(graph))
    if not searched.finished:
        contest.notes.append(f"local search stopped after {searched.trials} of at most {2 * graph.n} simulations")
    return ("local search", searched.placement) if searched.makespan < makespan else None


def _search_all(contest: Contest, placement: Placement, makespan: int) -> tuple[str, Placement] | None:
    """A few ops: look for anything better at all. The portfolio of the text ends before this step, which can only shorten a plan."""
    graph = contest.graph
    if graph.n > BRANCH_OPS or graph.comm_mode != "parallel" or graph.mem_mode != "static":
        return None
    nodes = int(min(BRANCH_NODES, max(0.0, contest.budget.left_us) // BRANCH_NODE_US))
    explored = branch_and_bound(graph, below=makespan, node_limit=nodes)
    if explored.finished:
        contest.notes.append("optimal: every schedule was covered")
    return None if explored.placement is None else ("branch and bound", explored.placement)


def _why_nothing_fits(contest: Contest) -> list[str]:
    graph = contest.graph
    verdict = "proven: no placement fits" if contest.proven else "no placement that fits was found"
    lines = [f"{verdict}, though no single bound forbids one: groups do not pack into the devices"]
    if contest.last_words is not None:
        name, loads = contest.last_words
        d = max(range(graph.num_devices), key=lambda d: (loads[d] - graph.mem[d], -d))
        lines.append(
            f"the last try found no room for op {name!r}; the most loaded device, {graph.devices[d]!r}, holds {loads[d]} of {graph.mem[d]} "
            "bytes"
        )
    if contest.rescued:
        lines.append(f"not even with {len(contest.problem.segments)} segments recomputed or offloaded: add memory or devices")
        return lines
    return [*lines, "add memory or devices, split the largest groups, or recompute or offload outputs"]
