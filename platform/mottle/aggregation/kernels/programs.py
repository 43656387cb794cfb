"""What is computed at one coordinate, as a straight line of elementary operations: one description, run in several ways.

The same list of operations is interpreted with torch on blocks of columns and printed as C++. Every operation is a single correctly rounded
one of IEEE arithmetic, in the dtype of the rows, so both give the same bits at every position, block and thread.

Letters: n rows, k values kept, e = n - k left out, s_l the l-th smallest value.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from mottle.aggregation.decisions.base import ColumnPlan, Floats
from mottle.aggregation.kernels.networks import Need, selection

MAX_NETWORK_ROWS = 128
"""Above it a network has thousands of comparators and a library sort of small blocks is no slower."""

Kind = Literal["min", "max", "add", "sub", "mul", "div", "above", "equal", "both", "pick"]


class Step(NamedTuple):
    """`target = kind(operands)`. `above` (a > b), `equal` and `both` give masks; `pick` is operand 1 where the mask is set, else 2."""

    kind: Kind
    target: int
    operands: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """Registers 0..n-1 are the rows; with `presorted` n..2n-1 are their sorted values; then weights, constants and results."""

    num_rows: int
    presorted: bool
    weights: tuple[int, ...]
    constants: tuple[tuple[int, float], ...]
    steps: tuple[Step, ...]
    result: int
    watched: tuple[int, ...]
    """Where one of these overflows although the rows are finite, the column must be computed in a wider type."""

    def numbers(self, weights: Floats | None) -> dict[int, float]:
        """Registers that hold one number: constants, and the rows' weights where it has any."""
        numbers = dict(self.constants)
        if self.weights:
            assert weights is not None
            numbers |= dict(zip(self.weights, weights.tolist(), strict=True))
        return numbers

    def last_uses(self) -> dict[int, int]:
        """For each register the position of the last step that reads it."""
        return {operand: position for position, step in enumerate(self.steps) for operand in step.operands}


_MASKS = frozenset({"above", "equal", "both"})


@lru_cache(maxsize=256)
def slots_of(program: Program) -> tuple[dict[int, tuple[bool, int]], int, int]:
    """For each computed register a buffer (is it a mask, which one), taken again once its value is dead; and how many of either.

    The buffer of a result is never that of an operand of the same step.
    """
    last_use = program.last_uses()
    keep = {program.result, *program.watched}
    slots: dict[int, tuple[bool, int]] = {}
    spare: dict[bool, list[int]] = {False: [], True: []}
    count = {False: 0, True: 0}
    for position, (kind, target, operands) in enumerate(program.steps):
        is_mask = kind in _MASKS
        if not spare[is_mask]:
            spare[is_mask].append(count[is_mask])
            count[is_mask] += 1
        slots[target] = is_mask, spare[is_mask].pop()
        for operand in set(operands):
            if operand in slots and last_use[operand] == position and operand not in keep:
                dead_is_mask, slot = slots[operand]
                spare[dead_is_mask].append(slot)
    return slots, count[False], count[True]


class _Writer:
    """Appends steps; every result has a register of its own, and what was computed before is not computed again."""

    def __init__(self, num_rows: int, *, presorted: bool, weighted: bool) -> None:
        self.rows = list(range(num_rows))
        self.sorted_inputs = list(range(num_rows, 2 * num_rows)) if presorted else []
        self._next = num_rows * (2 if presorted else 1)
        self.weights = [self._new() for _ in range(num_rows)] if weighted else []
        self.constants: dict[float, int] = {}
        self.steps: list[Step] = []
        self._done: dict[tuple[Kind, tuple[int, ...]], int] = {}

    def _new(self) -> int:
        self._next += 1
        return self._next - 1

    def const(self, value: float) -> int:
        if value not in self.constants:
            self.constants[value] = self._new()
        return self.constants[value]

    def do(self, kind: Kind, *operands: int) -> int:
        if (kind, operands) not in self._done:
            self.steps.append(Step(kind, self._new(), operands))
            self._done[kind, operands] = self.steps[-1].target
        return self._done[kind, operands]

    def sum(self, terms: Sequence[int]) -> int:
        """Sum in a balanced tree: short chains for the processor, and a smaller rounding error than one after the other."""
        while len(terms) > 1:
            paired = [self.do("add", *pair) for pair in zip(terms[::2], terms[1::2], strict=False)]
            terms = paired + ([terms[-1]] if len(terms) % 2 else [])
        return terms[0]

    def ranks(self, needs: Sequence[Need]) -> list[int]:
        """Registers of the sorted values, as far as they are needed."""
        if self.sorted_inputs:
            return self.sorted_inputs
        wires = list(self.rows)
        for (low, high), wants_low, wants_high in selection(needs):
            pair = wires[low], wires[high]
            if wants_low:
                wires[low] = self.do("min", *pair)
            if wants_high:
                wires[high] = self.do("max", *pair)
        return wires

    def finish(self, result: int, watched: Sequence[int]) -> Program:
        num_rows = len(self.rows)
        constants = tuple((register, value) for value, register in self.constants.items())
        return Program(num_rows, bool(self.sorted_inputs), tuple(self.weights), constants, tuple(self.steps), result, (result, *watched))


@lru_cache(maxsize=256)
def column_program(plan: ColumnPlan, num_rows: int, *, weighted: bool = False) -> Program:
    """The program of a plan on so many rows, with a weight for each or equal ones.

    Weights do not enter the median; nor do they decide what is kept, only how the kept values are averaged.
    """
    weighted = weighted and plan.kind != "median"
    write = _Writer(num_rows, presorted=num_rows > MAX_NETWORK_ROWS, weighted=weighted)
    if plan.kind == "median":
        return _median(write, num_rows)
    if plan.kind == "trimmed_mean":
        return _trimmed_mean(write, num_rows, plan.drop)
    return _near(write, num_rows, plan)


def _middle(num_rows: int) -> tuple[int, int]:
    return (num_rows - 1) // 2, num_rows // 2


def _median(write: _Writer, num_rows: int) -> Program:
    low, high = _middle(num_rows)
    ranks = write.ranks(["rank" if low <= rank <= high else "none" for rank in range(num_rows)])
    if low == high:
        return write.finish(ranks[low], ())
    return write.finish(write.do("mul", write.do("add", ranks[low], ranks[high]), write.const(0.5)), ())


def _trimmed_mean(write: _Writer, num_rows: int, trim: int) -> Program:
    kept = range(trim, num_rows - trim)
    if not write.weights:
        ranks = write.ranks(["bag" if rank in kept else "none" for rank in range(num_rows)])
        return write.finish(_mean(write, [ranks[rank] for rank in kept]), ())
    ranks = write.ranks(["rank" if rank in (kept[0], kept[-1]) else "none" for rank in range(num_rows)])
    first = write.const(float(trim))
    return write.finish(_weighted_mean(write, ranks[kept[0]], ranks[kept[-1]], first, len(kept)), ())


def _mean(write: _Writer, terms: Sequence[int]) -> int:
    return write.do("div", write.sum(terms), write.const(float(len(terms)))) if len(terms) > 1 else terms[0]


def _near(write: _Writer, num_rows: int, plan: ColumnPlan) -> Program:
    """Values closest to a centre c: a window of k sorted values that starts at rank L = number of l < e with 2c > s_l + s_(l+k)."""
    kept = num_rows - plan.drop
    ranks = write.ranks(_needs_near(num_rows, plan, weighted=bool(write.weights)))
    twice_center = _twice_center(write, num_rows, plan, ranks)
    shifts = [write.do("above", twice_center, write.do("add", ranks[low], ranks[low + kept])) for low in range(plan.drop)]
    if write.weights:
        result = _weighted_window(write, ranks, shifts, kept)
    else:
        result = write.do("div", _window_sum(write, ranks, shifts, kept), write.const(float(kept)))
    return write.finish(result, (twice_center,))


def _needs_near(num_rows: int, plan: ColumnPlan, *, weighted: bool) -> list[Need]:
    drop, kept = plan.drop, num_rows - plan.drop
    if plan.kind == "near_median" and 2 * drop >= num_rows:
        return ["rank"] * num_rows
    needs: list[Need] = ["rank" if rank < drop or rank >= kept else "bag" for rank in range(num_rows)]
    if plan.kind == "near_median":
        for rank in _middle(num_rows):
            needs[rank] = "rank"
    if weighted:  # the window's edges are read as well
        needs[drop] = needs[kept - 1] = "rank"
    return needs


def _twice_center(write: _Writer, num_rows: int, plan: ColumnPlan, ranks: Sequence[int]) -> int:
    if plan.kind == "near_median":
        low, high = _middle(num_rows)
        return write.do("add", ranks[low], ranks[high])
    center = _mean(write, ranks[plan.drop : num_rows - plan.drop])
    return write.do("add", center, center)


def _window_sum(write: _Writer, ranks: Sequence[int], shifts: Sequence[int], kept: int) -> int:
    """Sum of the k values of the window. It holds exactly one rank of each class modulo k, the later the more shifts there are.

    The ranks that are always in it are summed apart: a trimmed mean as centre has summed the same ones.
    """
    values = list(ranks[:kept])
    for low, shift in enumerate(shifts):
        values[low % kept] = write.do("pick", shift, ranks[low + kept], values[low % kept])
    picked, always = values[: len(shifts)], values[len(shifts) :]
    return write.sum([write.sum(part) for part in (always, picked) if part])


def _weighted_window(write: _Writer, ranks: Sequence[int], shifts: Sequence[int], kept: int) -> int:
    lowest, highest, one, zero = ranks[0], ranks[kept - 1], write.const(1.0), write.const(0.0)
    for low, shift in enumerate(shifts):
        lowest = write.do("pick", shift, ranks[low + 1], lowest)
        highest = write.do("pick", shift, ranks[low + kept], highest)
    first = write.sum([write.do("pick", shift, one, zero) for shift in shifts])
    return _weighted_mean(write, lowest, highest, first, kept)


def _weighted_mean(write: _Writer, lowest: int, highest: int, first: int, kept: int) -> int:
    """Mean by weight of the ranks first .. first+kept-1, whose smallest and largest values are given.

    Rows that hold an edge value may be more than the kept ranks that hold it: c rows share k ranks, each with weight * k / c. Between the
    edges every row counts in full. Where both edges are one value the result is that value.
    """
    one, zero = write.const(1.0), write.const(0.0)
    above = [write.do("above", row, lowest) for row in write.rows]
    below = [write.do("above", highest, row) for row in write.rows]
    inner = [write.do("pick", write.do("both", *sides), weight, zero) for *sides, weight in zip(above, below, write.weights, strict=True)]
    num_rows = write.const(float(len(write.rows)))
    num_above = write.sum([write.do("pick", each, one, zero) for each in above])
    num_below = write.sum([write.do("pick", each, one, zero) for each in below])
    low_ranks = write.do("sub", write.do("sub", num_rows, num_above), first)
    high_ranks = write.do("add", write.do("sub", write.const(float(kept)), num_below), first)
    low_weight = _edge_weight(write, lowest, low_ranks)
    high_weight = _edge_weight(write, highest, high_ranks)
    inner_sum = write.sum([write.do("mul", weight, row) for weight, row in zip(inner, write.rows, strict=True)])
    edges = write.do("add", write.do("mul", low_weight, lowest), write.do("mul", high_weight, highest))
    total = write.do("add", write.sum(inner), write.do("add", low_weight, high_weight))
    mean = write.do("div", write.do("add", inner_sum, edges), total)
    return write.do("pick", write.do("equal", lowest, highest), lowest, mean)


def _edge_weight(write: _Writer, edge: int, ranks: int) -> int:
    """Weight of all rows at an edge value times the share of them that is kept."""
    one, zero = write.const(1.0), write.const(0.0)
    at_edge = [write.do("equal", row, edge) for row in write.rows]
    weight = write.sum([write.do("pick", each, own, zero) for each, own in zip(at_edge, write.weights, strict=True)])
    rows = write.sum([write.do("pick", each, one, zero) for each in at_edge])
    return write.do("div", write.do("mul", weight, ranks), rows)
