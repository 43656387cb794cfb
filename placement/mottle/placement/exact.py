"""The exact reference for small graphs: a mixed-integer program solved by HiGHS (specification 2.8).

`parallel` communication, static memory. Practical up to about ten ops on three devices.
"""

from typing import TYPE_CHECKING

import numpy as np

from mottle.placement.errors import UndecidedError
from mottle.placement.graph import ABSENT, Graph
from mottle.placement.placed import NoRoom, Placement, order_by_start

if TYPE_CHECKING:
    from scipy.optimize import LinearConstraint


def solve_exactly(graph: Graph, *, node_limit: int | None = None) -> Placement | NoRoom:
    """The placement of smallest makespan.

    Args:
        node_limit: nodes of the search tree after which the best found so far is returned; None: run to the proof. A count and not a
            time, so that the answer does not depend on the machine.
    Raises:
        UndecidedError: the limit was reached without any solution.
    """
    from scipy.optimize import Bounds, milp  # here, because importing it takes longer than most placements

    program = _Program(graph)
    limit = {} if node_limit is None else {"node_limit": node_limit}
    solution = milp(
        program.goal,
        integrality=program.integrality,
        bounds=Bounds(0.0, program.upper),
        constraints=program.constraints(),
        options={"mip_rel_gap": 0.0, **limit},
    )
    if solution.x is None:
        if solution.status == 2:
            return NoRoom(0, [0] * graph.num_devices)
        raise UndecidedError(f"no placement found within {node_limit} nodes: {solution.message}")
    device = [int(row.argmax()) for row in solution.x[: program.y_end].reshape(graph.n, graph.num_devices)]
    start = [round(value) for value in solution.x[program.y_end : program.y_end + graph.n]]
    return Placement(device, order_by_start(start), start, crowded=True)


class _Program:
    """Rows of the program, built one inequality at a time; columns: y, s, w, o, r, theta."""

    def __init__(self, graph: Graph) -> None:
        n, num_devices, num_tensors = graph.n, graph.num_devices, len(graph.src_of)
        self.graph = graph
        self.pairs = _unordered_pairs(graph)
        self.y_end = n * num_devices
        self.w = self.y_end + n
        self.o = self.w + 1
        self.r = self.o + len(self.pairs)
        self.theta = self.r + num_tensors * num_devices
        size = self.theta + num_devices
        self.goal = np.zeros(size)
        self.goal[self.w] = 1.0
        self.integrality = np.zeros(size)
        self.integrality[: self.y_end] = self.integrality[self.o : self.theta] = 1
        self.upper = np.full(size, np.inf)
        self.upper[: self.y_end] = (graph.k < ABSENT).ravel()
        self.upper[self.o : self.theta] = 1.0
        self.entries: tuple[list[int], list[int], list[float]] = ([], [], [])
        self.low: list[float] = []
        self.high: list[float] = []

    def constraints(self) -> "LinearConstraint":
        from scipy.optimize import LinearConstraint
        from scipy.sparse import coo_array

        self._assign()
        self._precede()
        self._exclude()
        self._remember()
        rows, columns, values = self.entries
        matrix = coo_array((values, (rows, columns)), shape=(len(self.low), len(self.goal)))
        return LinearConstraint(matrix.tocsr(), self.low, self.high)

    def _row(self, terms: list[tuple[float, int]], high: float, low: float = -np.inf) -> None:
        """low <= sum of coefficient * column <= high."""
        for value, column in terms:
            self.entries[0].append(len(self.low))
            self.entries[1].append(column)
            self.entries[2].append(value)
        self.low.append(low)
        self.high.append(high)

    def _y(self, i: int, d: int) -> int:
        return i * self.graph.num_devices + d

    def _end(self, i: int) -> list[tuple[float, int]]:
        """s_i + k_i as terms."""
        return [(1.0, self.y_end + i), *((float(k), self._y(i, d)) for d, k in enumerate(self.graph.k_rows[i]) if k < ABSENT)]

    def _assign(self) -> None:
        graph = self.graph
        for i in range(graph.n):
            self._row([(1.0, self._y(i, d)) for d in range(graph.num_devices)], 1.0, 1.0)
            self._row([*self._end(i), (-1.0, self.w)], 0.0)
        for members in graph.members:
            for j in members[1:]:
                for d in range(graph.num_devices):
                    self._row([(1.0, self._y(members[0], d)), (-1.0, self._y(j, d))], 0.0, 0.0)

    def _precede(self) -> None:
        graph = self.graph
        for t, consumers in enumerate(graph.consumers):
            i = graph.src_of[t]
            for j in consumers:
                self._row([*self._end(i), (-1.0, self.y_end + j)], 0.0)
                for v in range(graph.num_devices):
                    self._row([(1.0, self._y(j, v)), (-1.0, self._y(i, v)), (-1.0, self.r + t * graph.num_devices + v)], 0.0)
                    for u in range(graph.num_devices):
                        c = graph.cost_rows[graph.link_class[u][v]][t]
                        if u != v and c:
                            self._row([*self._end(i), (c, self._y(i, u)), (c, self._y(j, v)), (-1.0, self.y_end + j)], c)

    def _exclude(self) -> None:
        """Two ops on one device do not overlap; o says which goes first."""
        graph = self.graph
        times = [k for row in graph.k_rows for k in row if k < ABSENT]
        horizon = float(sum(max(k for k in row if k < ABSENT) for row in graph.k_rows) + int(graph.cost_max.sum()) + 1) if times else 1.0
        for x, (i, j) in enumerate(self.pairs):
            for d in range(graph.num_devices):
                ki, kj = graph.k_rows[i][d], graph.k_rows[j][d]
                if ki >= ABSENT or kj >= ABSENT:
                    continue
                both = [(horizon, self._y(i, d)), (horizon, self._y(j, d))]
                s_i, s_j, order = self.y_end + i, self.y_end + j, self.o + x
                self._row([(1.0, s_i), (-1.0, s_j), (horizon, order), *both], 3 * horizon - ki)
                self._row([(1.0, s_j), (-1.0, s_i), (-horizon, order), *both], 2 * horizon - kj)

    def _remember(self) -> None:
        """Static memory; sizes in units of the budget, so that bytes do not strain the solver's tolerances."""
        graph = self.graph
        resident = graph.perm + graph.out
        for d in range(graph.num_devices):
            unit = float(max(1, graph.mem[d]))
            terms = [(float(resident[i]) / unit, self._y(i, d)) for i in range(graph.n)]
            terms += [(size / unit, self.r + t * graph.num_devices + d) for t, size in enumerate(graph.bytes_of)]
            self._row([*terms, (1.0, self.theta + d)], graph.mem[d] / unit)
            for i in range(graph.n):
                self._row([(float(graph.temp[i]) / unit, self._y(i, d)), (-1.0, self.theta + d)], 0.0)


def _unordered_pairs(graph: Graph) -> list[tuple[int, int]]:
    """Pairs i < j with no path between them."""
    below = [0] * graph.n  # bit j: j is reachable
    for i in range(graph.n - 1, -1, -1):
        for j in graph.successors[i]:
            below[i] |= below[j] | 1 << j
    return [(i, j) for i in range(graph.n) for j in range(i + 1, graph.n) if not below[i] >> j & 1]
