"""Where a captured model is parted for recomputation and offload: runs of its ops, between places where little passes.

If everything were recomputed, what crosses the places would wait for the backward pass, and one run at a time would be back in memory.
Places are chosen so that the sum of both is least (Chen, Xu, Zhang, Guestrin 2016, "Training deep nets with sublinear memory cost",
whose algorithm 3 also searches over the size of the largest run).
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from mottle.placement.arrays import Ints, int_list
from mottle.placement.problem import Segment
from mottle.placement.tracing.units import Unit

SIZES = 12
"""Sizes of the largest run that are tried, each half of the one before."""


def part_into_segments(units: Sequence[Unit], backward: Collection[str]) -> tuple[Segment, ...]:
    """Runs of units that may be computed again, named after their first unit.

    Args:
        units: of the capture, in the order they run in.
        backward: units that have a backward op, called `unit:backward`.
    """
    found = []
    crossing = _crossing(units)
    kept = _kept(units, backward)
    for run in _runs(units):
        for part in _parts(run, kept, crossing):
            members = [units[x] for x in part]
            if any(unit.id in backward for unit in members) and len(members) > 1:
                passes = tuple((unit.id, f"{unit.id}:backward" if unit.id in backward else None) for unit in members)
                found.append(Segment(members[0].id, passes))
    return tuple(found)


def _runs(units: Sequence[Unit]) -> Iterator[list[int]]:
    """Places of units without one between them that must not run again; inputs and constants, which do not run, are passed over."""
    run: list[int] = []
    for x, unit in enumerate(units):
        if unit.repeatable:
            run.append(x)
        elif unit.inputs:
            yield run
            run = []
    yield run


def _kept(units: Sequence[Unit], backward: Collection[str]) -> list[int]:
    """Bytes that each unit makes and a backward pass reads."""
    read = {flow.producer for unit in units if unit.id in backward for flow in unit.inputs if flow.saved}
    return [
        (unit.out if unit.id in read or (unit.cost.saves_outputs and unit.id in backward) else 0)
        + (unit.cost.saved_inside if unit.id in backward else 0)
        for unit in units
    ]


def _crossing(units: Sequence[Unit]) -> list[int]:
    """Bytes that units make and later ones take, behind each unit."""
    place = {unit.id: x for x, unit in enumerate(units)}
    last: dict[tuple[int, str], int] = defaultdict(int)
    size: dict[tuple[int, str], int] = {}
    for x, unit in enumerate(units):
        for flow in unit.inputs:
            key = place[flow.producer], flow.node
            last[key], size[key] = max(last[key], x), flow.bytes
    change = [0] * (len(units) + 1)
    for (producer, _), x in last.items():
        change[producer] += size[producer, _]
        change[x] -= size[producer, _]
    return int_list(np.cumsum(change)[: len(units)])


def _parts(run: Sequence[int], kept: Sequence[int], crossing: Sequence[int]) -> list[list[int]]:
    """The run in parts: least bytes for everything that crosses and the largest part."""
    if not run:
        return []
    held = np.concatenate([[0], np.cumsum([kept[x] for x in run])]).astype(np.int64)
    cost = np.array([crossing[x] for x in run], np.int64)
    best: tuple[int, list[int]] | None = None
    for step in range(SIZES):
        limit = int(held[-1]) >> step
        ends = _cut(held, cost, limit)
        starts = [0, *ends[:-1]]
        total = int(sum(cost[end - 1] for end in ends[:-1])) + max(int(held[b] - held[a]) for a, b in zip(starts, ends, strict=True))
        if best is None or total < best[0]:
            best = total, ends
    assert best is not None, "at least one size is tried"
    return [list(run[a:b]) for a, b in zip([0, *best[1][:-1]], best[1], strict=True)]


def _cut(held: Ints, cost: Ints, limit: int) -> list[int]:
    """Ends of the parts, none of which keeps more than `limit` (single units apart), with the least bytes crossing."""
    size = len(cost)
    least = np.zeros(size + 1, np.int64)  # crossing bytes of the cuts before a place
    before = [0] * (size + 1)
    low = 0
    for end in range(1, size + 1):
        while low < end - 1 and held[end] - held[low] > limit:
            low += 1
        x = low + int(least[low:end].argmin())
        before[end] = x
        least[end] = least[x] + (cost[end - 1] if end < size else 0)
    ends = [size]
    while before[ends[0]] > 0:
        ends.insert(0, before[ends[0]])
    return ends
