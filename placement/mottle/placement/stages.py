"""Cutting a chain into pipeline stages so that the slowest stage is as fast as possible (specification 4.6).

A pipeline is judged by its bottleneck, the largest load of a stage, and not by the makespan of one step. Units are consecutive layers
or blocks; stages are consecutive runs of units on different devices.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mottle.placement.arrays import Ints, int_list
from mottle.placement.errors import InfeasibleError, ProblemError
from mottle.placement.graph import ABSENT
from mottle.placement.problem import Problem

MOST_ORDERS = 5_040
"""Distinct device orders that are tried (7 unequal devices); beyond that only the order that was given."""
NEVER = ABSENT


@dataclass(frozen=True, eq=False)
class Chain:
    """Units 0..n-1 in chain order, for one microbatch."""

    load: Ints
    """(n, D) ticks of forward and backward on each device; ABSENT where a device cannot run the unit."""
    comm: Ints
    """(n - 1,) ticks to move what passes between unit i and i + 1, forward and backward."""
    resident: Ints
    """(n,) bytes of weights and optimizer state."""
    activations: Ints
    """(n,) bytes that a microbatch in flight keeps."""
    mem: tuple[int, ...]
    """(D,) bytes."""
    entering: Ints | None = None
    """(n,) bytes that a stage which begins at this unit keeps of a microbatch in flight, beside its activations; None: none."""
    once: Ints | None = None
    """(n,) bytes that a unit takes once, however many microbatches are in flight; None: none."""


@dataclass(frozen=True)
class Stage:
    """Units first..last on one device."""

    device: int
    first: int
    last: int


@dataclass(frozen=True)
class Pipeline:
    """Stages in chain order, and the largest load among them in ticks a microbatch."""

    stages: tuple[Stage, ...]
    bottleneck: int


def chain_of(problem: Problem) -> Chain:
    """The ops of a problem as units, when every op feeds just the next one.

    Raises:
        ProblemError: the graph is no chain.
    """
    graph = problem.graph
    for i, children in enumerate(graph.successors):
        wanted = (i + 1,) if i + 1 < graph.n else ()
        if children != wanted:
            fed = [graph.names[j] for j in children]
            raise ProblemError(
                [f"stages need a chain, but op {graph.names[i]!r} feeds {fed}: coarsen the graph first, or use another algorithm"]
            )
    comm = np.zeros(max(0, graph.n - 1), np.int64)
    np.add.at(comm, graph.tensor_src, graph.cost_max)
    return Chain(graph.k, comm, graph.perm, graph.out + graph.temp, tuple(graph.mem))


def partition_chain(chain: Chain, microbatches: int, *, num_stages: int | None = None, order: Sequence[int] | None = None) -> Pipeline:
    """Stages of smallest bottleneck; memory counts the microbatches that 1F1B keeps in flight.

    A stage with r stages from it to the end, itself included, holds min(microbatches, r) sets of activations. Every order of the
    distinct devices is tried, up to `MOST_ORDERS`. Ties: the first order in rank order, then a device rather than skipping it, the
    shortest stage first, the fewest stages.

    Args:
        num_stages: None: as many as are best.
        order: of the devices, the only one that is tried; None: all.
    Raises:
        InfeasibleError: no cut fits.
    Cost: O(n^2 D^2) an order.
    """
    best: Pipeline | None = None
    for each in _device_orders(chain) if order is None else [order]:
        found = _partition_in_order(chain, each, microbatches, num_stages)
        if found is not None and (best is None or found.bottleneck < best.bottleneck):
            best = found
    if best is None:
        total, most = int(chain.resident.sum()), sum(chain.mem)
        reason = (
            f"{total - most} bytes short for the weights alone"
            if total > most
            else "activations and the sizes of single units leave no cut"
        )
        raise InfeasibleError([f"no cut of the chain into stages fits {len(chain.mem)} devices with {most} bytes: {reason}"])
    return best


def _device_orders(chain: Chain) -> list[tuple[int, ...]]:
    """Orders of the devices that differ, equal devices keeping their rank order; the given order alone when there are too many."""
    kinds: dict[tuple[bytes, int], list[int]] = {}
    for d, mem in enumerate(chain.mem):
        kinds.setdefault((chain.load[:, d].tobytes(), mem), []).append(d)
    classes = list(kinds.values())
    orders: list[tuple[int, ...]] = []
    for pattern in _arrangements([len(devices) for devices in classes]):
        if len(orders) == MOST_ORDERS:
            return [tuple(range(len(chain.mem)))]
        queues = [iter(devices) for devices in classes]
        orders.append(tuple(next(queues[c]) for c in pattern))
    return sorted(orders)


def _arrangements(counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every distinct sequence with counts[c] times the letter c."""
    if not any(counts):
        yield ()
    for c, count in enumerate(counts):
        if count:
            rest = [x - (other == c) for other, x in enumerate(counts)]
            for tail in _arrangements(rest):
                yield (c, *tail)


def _partition_in_order(chain: Chain, order: Sequence[int], microbatches: int, num_stages: int | None) -> Pipeline | None:
    """P(i, q, r) of the specification, from the back, then the stages read off from the front."""
    n, num_devices = len(chain.load), len(order)
    total = np.vstack([np.zeros((1, num_devices), np.int64), np.cumsum(np.minimum(chain.load[:, order], NEVER // (n + 1)), axis=0)])
    missing = np.vstack([np.zeros((1, num_devices), np.int64), np.cumsum(chain.load[:, order] >= ABSENT, axis=0)])
    fixed = chain.resident if chain.once is None else chain.resident + chain.once
    resident, activations = (np.concatenate([[0], np.cumsum(sizes)]) for sizes in (fixed, chain.activations))
    entering = np.zeros(n, np.int64) if chain.entering is None else chain.entering
    edge = np.concatenate([[0], chain.comm, [0]])  # edge[i]: before unit i
    # value[q][r][i] and choice[q][r][i]: bottleneck of units i.. on devices q.. in r stages; last unit of the first stage, -1: skip q
    value = np.full((num_devices + 1, num_devices + 1, n + 1), NEVER, np.int64)
    value[:, 0, n] = 0
    choice = np.full(value.shape, -1, np.int64)
    for q in range(num_devices - 1, -1, -1):
        mem = chain.mem[order[q]]
        for r in range(1, num_devices - q + 1):
            flights = min(microbatches, r)
            for i in range(n):
                ends = np.arange(i + 1, n + 1)  # one past the last unit of the stage
                load = total[ends, q] - total[i, q] + edge[i] + edge[ends]
                size = resident[ends] - resident[i] + flights * (activations[ends] - activations[i] + entering[i])
                fits: NDArray[np.bool_] = (size <= mem) & (missing[ends, q] == missing[i, q])
                bottleneck = np.where(fits, np.maximum(load, value[q + 1, r - 1, ends]), NEVER)
                x = int(bottleneck.argmin())
                used, skipped = int(bottleneck[x]), int(value[q + 1, r, i])
                if used < NEVER and used <= skipped:
                    value[q, r, i], choice[q, r, i] = used, i + x
                else:
                    value[q, r, i] = skipped
    r = num_stages or int(value[0, 1:, 0].argmin()) + 1
    if r > num_devices or value[0, r, 0] >= NEVER:
        return None
    bottleneck_of_all, stages, i, q = int(value[0, r, 0]), [], 0, 0
    while i < n:
        last = int_list(choice[q, r])[i]
        if last >= 0:
            stages.append(Stage(order[q], i, last))
            i, r = last + 1, r - 1
        q += 1
    return Pipeline(tuple(stages), bottleneck_of_all)
