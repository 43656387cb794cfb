"""What no placement can beat: lower bounds on the makespan and necessary conditions on memory (specification 2.9)."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np

from mottle.placement.arrays import Ints, int_list, max_by, sum_by
from mottle.placement.favourites import solve_favourites
from mottle.placement.graph import ABSENT, Graph
from mottle.placement.problem import Problem

SCT_LARGEST = 2_000
"""Above so many ops the SCT relaxation is left out: it takes seconds and rarely beats the other two bounds there."""


@dataclass(frozen=True)
class Bounds:
    """Lower bounds in ticks. `sct` is None where the relaxation says nothing (or was left out): see `sct_reason`."""

    critical_path: int
    work: int
    sct: int | None
    sct_reason: str
    memory_faults: tuple[str, ...]
    """Why nothing can fit, with the bytes that are missing; empty when memory does not forbid a placement."""
    least_devices: int
    """No placement uses fewer devices."""

    @property
    def makespan(self) -> int:
        """The largest of the bounds."""
        return max(self.critical_path, self.work, self.sct or 0)


def bounds(problem: Problem) -> Bounds:
    """LB_cp, LB_work, LB_sct and LB_mem of a problem."""
    graph = problem.graph
    sct, reason = _sct_bound(graph)
    return Bounds(
        critical_path=critical_path(graph),
        work=work_bound(graph),
        sct=sct,
        sct_reason=reason,
        memory_faults=tuple(memory_faults(graph)),
        least_devices=max(1, -(-int(graph.perm.sum()) // max(1, *graph.mem))),
    )


def critical_path(graph: Graph) -> int:
    """Longest path with the fastest time of every op and free communication."""
    return max(tails(graph))


def tails(graph: Graph) -> list[int]:
    """(n,) fewest ticks from the start of an op to the end of the step: the longest path from it, itself included."""
    tail = int_list(graph.k_min)
    for i in range(graph.n - 1, -1, -1):
        if children := graph.successors[i]:
            tail[i] += max([tail[j] for j in children])
    return tail


def work_bound(graph: Graph) -> int:
    """The work cannot be finished sooner however it is cut up: the mean on identical devices, else a linear program."""
    if graph.identical_devices and bool((graph.k < ABSENT).all()):
        return -(-int(graph.k[:, 0].sum()) // graph.num_devices)
    from scipy.optimize import linprog  # here, because importing it takes longer than most placements
    from scipy.sparse import coo_array

    rows, counts = np.unique(graph.k, axis=0, return_counts=True)  # ops with equal times are one divisible op
    row, device = np.nonzero(rows < ABSENT)
    m, size = len(rows), len(row)
    share = np.arange(size)
    scale = float(rows[row, device].max())
    balance = coo_array((np.ones(size), (row, share)), shape=(m, size + 1))
    load = coo_array(
        (
            np.r_[rows[row, device] / scale, np.full(graph.num_devices, -1.0)],
            (np.r_[device, np.arange(graph.num_devices)], np.r_[share, np.full(graph.num_devices, size)]),
        ),
        shape=(graph.num_devices, size + 1),
    )
    cost = np.r_[np.zeros(size), 1.0]
    solution = linprog(cost, A_ub=load.tocsr(), b_ub=np.zeros(graph.num_devices), A_eq=balance.tocsr(), b_eq=counts, method="highs")
    return ceil(float(solution.fun) * scale * (1 - 1e-9) - 1e-6)


def communication_ratio(graph: Graph) -> Fraction:
    """rho of 1.6: the largest transfer over the smallest op."""
    return Fraction(int(graph.cost_max.max(initial=0)), int(graph.k_min.min()))


def _sct_bound(graph: Graph) -> tuple[int | None, str]:
    rho = communication_ratio(graph)
    if rho > 1:
        return None, f"transfers are longer than ops (rho = {float(rho):.3g} > 1)"
    if not (graph.identical_devices and graph.uniform_links and graph.comm_mode == "parallel"):
        return None, "needs identical devices, equal links and parallel communication"
    if graph.n > SCT_LARGEST:
        return None, f"left out above {SCT_LARGEST} ops"
    return ceil(solve_favourites(graph).makespan * (1 - 1e-9) - 1e-6), "valid"  # of large times a float has no last tick


def memory_faults(graph: Graph) -> list[str]:
    """LB_mem, with the missing bytes and what recomputation or offload could give back.

    Static accounting also counts outputs, which stay to the end of the step; in dynamic accounting an output may be gone before
    the next one comes, so only permanent bytes, and the largest single op of a group, are sure.
    """
    static = graph.mem_mode == "static"
    resident = int(graph.perm.sum() + (graph.out.sum() if static else 0))
    total = sum(graph.mem)
    faults = []
    if resident > total:
        what = "permanent and output bytes" if static else "permanent bytes"
        faults.append(
            f"all devices together hold {total} bytes, the {what} of all ops come to {resident}: {resident - total} bytes short"
            + _relief(resident - total, int(graph.out.sum()) if static else 0)
        )
    need = graph.need if static else _least_need(graph)
    best = np.where(graph.group_runs, np.array(graph.mem, np.int64), -1).max(axis=1)
    for g in np.flatnonzero(need > best).tolist():
        short = int(need[g] - best[g])
        faults.append(
            f"group {graph.group_names[g]!r} ({len(graph.members[g])} ops) needs {need[g]} bytes on one device, the largest device that "
            f"runs it has {best[g]}: {short} bytes short" + _relief(short, int(graph.out[list(graph.members[g])].sum()) if static else 0)
        )
    return faults


def _least_need(graph: Graph) -> Ints:
    """(G,) permanent bytes of the group plus its largest op's output and scratch, which are live together."""
    return sum_by(graph.group, graph.perm, graph.num_groups) + max_by(graph.group, graph.out + graph.temp, graph.num_groups)


def _relief(short: int, outputs: int) -> str:
    if outputs == 0:
        return "; recomputation and offload free outputs only, and there are none to free: add memory or devices"
    verdict = "enough" if outputs >= short else f"still {short - outputs} bytes short"
    return f"; recomputation or offload could free at most {outputs} bytes of outputs ({verdict})"
