"""Cutting a chain into stages, against brute force."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mottle.placement import Chain, Device, Edge, InfeasibleError, Op, Problem, ProblemError, Stage, chain_of, partition_chain
from mottle.placement.graph import ABSENT

laws = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def chain(load: list[list[int]], comm: list[int], resident: list[int], activations: list[int], mem: list[int]) -> Chain:
    return Chain(np.array(load, np.int64), np.array(comm, np.int64), np.array(resident), np.array(activations), tuple(mem))


def brute_force(c: Chain, microbatches: int) -> int | None:
    """Every order of the devices, every cut."""
    n, num_devices = c.load.shape
    edge = [0, *c.comm.tolist(), 0]
    best: int | None = None
    for r in range(1, min(n, num_devices) + 1):
        for devices in permutations(range(num_devices), r):
            for inner in combinations(range(1, n), r - 1):
                cuts = [0, *inner, n]
                loads = []
                for s, d in enumerate(devices):
                    a, b = cuts[s], cuts[s + 1]
                    size = c.resident[a:b].sum() + min(microbatches, r - s) * c.activations[a:b].sum()
                    if size > c.mem[d] or (c.load[a:b, d] >= ABSENT).any():
                        break
                    loads.append(int(c.load[a:b, d].sum()) + edge[a] + edge[b])
                else:
                    best = max(loads) if best is None else min(best, max(loads))
    return best


@laws
@given(st.data())
def test_the_bottleneck_is_the_best_of_all_cuts_and_orders(data: st.DataObject) -> None:
    n, num_devices = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    ints = lambda high, count: data.draw(st.lists(st.integers(0, high), min_size=count, max_size=count))  # noqa: E731  # a draw, not a function
    load = [[x + 1 if x < 9 else ABSENT for x in ints(9, num_devices)] for _ in range(n)]
    c = chain(load, ints(4, n - 1), ints(5, n), ints(5, n), [x + 5 for x in ints(15, num_devices)])
    microbatches = data.draw(st.integers(1, 4))
    wanted = brute_force(c, microbatches)
    if wanted is None:
        with pytest.raises(InfeasibleError):
            partition_chain(c, microbatches)
        return
    pipeline = partition_chain(c, microbatches)
    assert pipeline.bottleneck == wanted
    assert [unit for stage in pipeline.stages for unit in range(stage.first, stage.last + 1)] == list(range(n))
    assert len({stage.device for stage in pipeline.stages}) == len(pipeline.stages)


def test_ties_take_the_first_device_the_shortest_stage_and_the_fewest_stages() -> None:
    even = chain([[1, 1, 1]] * 4, [0] * 3, [0] * 4, [0] * 4, [9] * 3)
    assert partition_chain(even, 1).stages == (Stage(0, 0, 1), Stage(1, 2, 3))
    single = chain([[5, 5]], [], [0], [0], [9] * 2)
    assert partition_chain(single, 1).stages == (Stage(0, 0, 0),)


def test_the_microbatches_in_flight_need_memory_in_the_early_stages() -> None:
    c = chain([[1, 1]] * 4, [0] * 3, [0] * 4, [2] * 4, [8, 8])
    assert partition_chain(c, 1).stages == (Stage(0, 0, 1), Stage(1, 2, 3))
    narrow = chain([[1, 1]] * 4, [0] * 3, [0] * 4, [2] * 4, [6, 6])
    assert partition_chain(narrow, 4).stages == (Stage(0, 0, 0), Stage(1, 1, 3))
    with pytest.raises(InfeasibleError, match="no cut of the chain into stages fits 2 devices with 6 bytes"):
        partition_chain(chain([[1, 1]] * 4, [0] * 3, [0] * 4, [2] * 4, [3, 3]), 4)


def test_a_problem_that_is_a_chain_gives_its_units_and_any_other_is_refused() -> None:
    devices = (Device("D0", "x", 51), Device("D1", "x", 51))
    ops = (Op("a", 3, 5, 1), Op("b", 4, 6, 2), Op("c", 5, 7, 3))
    units = chain_of(Problem(ops=ops, edges=(Edge("a", "b", 8, 2), Edge("b", "c", 9, 1)), devices=devices))
    assert units.load.tolist() == [[3, 3], [4, 4], [5, 5]]
    assert units.comm.tolist() == [2, 1]
    assert (units.resident.tolist(), units.activations.tolist()) == ([5, 6, 7], [9, 11, 3])
    assert partition_chain(units, 2).bottleneck == 8
    with pytest.raises(ProblemError, match=r"op 'a' feeds \['b', 'c'\]"):
        chain_of(Problem(ops=ops, edges=(Edge("a", "b"), Edge("a", "c"), Edge("b", "c")), devices=devices))
