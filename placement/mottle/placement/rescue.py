"""`auto` where memory is short: candidates that were left out for their memory, with segments recomputed or offloaded (7.5; 2.11, rung 4).

Recomputation costs time and saves memory, so it is worth a try also where something fits without: the whole model on the fastest device,
with a forward pass more, often beats a split over slow links.
"""

from collections.abc import Callable, Collection, Iterator

from mottle.placement.baselines import in_canonical_order
from mottle.placement.budget import Budget
from mottle.placement.contest import Contest
from mottle.placement.judge import run
from mottle.placement.placed import Placement
from mottle.placement.plans import Candidate
from mottle.placement.problem import Problem
from mottle.placement.reductions import Means
from mottle.placement.relief import Relief, Relieved

Compare = Callable[[Problem, Budget], Contest]
"""The portfolio without reductions."""
LATER_US = 500_000
"""Budget of the portfolio on the problem with everything reduced, when nothing fits otherwise and the budget is spent."""


def rescue(contest: Contest, means: Collection[Means], compare: Compare) -> None:
    """Candidates that hold too much, each with the reductions it needs; the fastest becomes the contest's best if it is faster."""
    contest.rescued = True
    relief = Relief(contest.problem, contest.budget, means)
    for makespan, name, placement in _too_large(contest):
        if contest.best is not None and makespan >= contest.best[0][0]:
            break  # reductions only make it longer
        if contest.best is not None and not relief.affordable:
            contest.notes.append(f"skipped for lack of time: {name} with reductions")
            break
        found = relief.fit(placement, below=None if contest.best is None else contest.best[0][0])
        if found is None:
            contest.rows.append(Candidate(f"{name}, reduced", None, len(set(placement.device)), "reduced"))
        else:
            contest.take(f"{name}, reduced", found)
    if contest.best is None:
        _place_reduced(contest, relief, means, compare)


def _too_large(contest: Contest) -> Iterator[tuple[int, str, Placement]]:
    """(makespan, name, placement) of candidates that run but do not fit, the fastest first, each once."""
    seen = set[tuple[int, ...]]()
    for makespan, name, placement in sorted([*_crowded_singles(contest), *contest.crowded], key=lambda row: row[0]):
        if (key := tuple(placement.device)) not in seen:
            seen.add(key)
            yield makespan, name, placement


def _crowded_singles(contest: Contest) -> Iterator[tuple[int, str, Placement]]:
    """All ops on one device; of devices that are alike the first."""
    graph, seen = contest.graph, set[tuple[bytes, int]]()
    for d, name in enumerate(graph.devices):
        kind = graph.k[:, d].tobytes(), graph.mem[d]
        if kind not in seen and graph.group_runs[:, d].all():
            seen.add(kind)
            trace = run(graph, [d] * graph.n)
            if not trace.fits:
                yield trace.makespan, f"single {name}", in_canonical_order(graph, [d] * graph.n)


def _place_reduced(contest: Contest, relief: Relief, means: Collection[Means], compare: Compare) -> None:
    """Everything reduced and placed anew; then only what that placement needs."""
    for each in means:
        if each == "offload" and not any(device.kind in contest.problem.host_links for device in contest.problem.devices):
            continue
        whole = relief.whole(each)
        left_us = max(contest.budget.left_us, LATER_US)
        inner = compare(whole, Budget(left_us / 1e6))
        contest.rows += [row._replace(name=f"{row.name}, all {each}", judged_on="reduced") for row in inner.rows]
        if inner.best is None:
            contest.last_words = inner.last_words or contest.last_words
            continue
        _, name, placement, trace = inner.best
        found = relief.fit(_of_given(contest, whole, placement))
        if found is None:
            device_of = {op: whole.graph.devices[d] for op, d in zip(whole.graph.names, placement.device, strict=True)}
            found = Relieved(whole, placement, trace, relief.gauged(each, device_of))
        contest.take(f"{name}, reduced", found)
        return


def _of_given(contest: Contest, whole: Problem, placement: Placement) -> Placement:
    """The placement without the ops that reductions added."""
    graph = contest.graph
    at = {name: i for i, name in enumerate(whole.graph.names)}
    mine = {at[name]: i for i, name in enumerate(graph.names)}
    order = [mine[i] for i in placement.order if i in mine]
    return Placement([placement.device[at[name]] for name in graph.names], order, [placement.start[at[name]] for name in graph.names])
