"""SIM: the worked schedule E4 in every mode, dispatch rules, memory events, and its laws on random placements."""

from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mottle.placement.errors import ProblemError
from mottle.placement.events import run_events
from mottle.placement.generate import SmallShape, small_problem
from mottle.placement.graph import Graph
from mottle.placement.judge import Trace, run
from mottle.placement.memory import Transfers
from mottle.placement.plans import simulate
from mottle.placement.problem import COMM_MODES, CommMode, Device, Edge, Op, Problem

E4_ASSIGNMENT = {"a": "D0", "b": "D0", "c": "D1", "e": "D1", "d": "D2"}
E4_TRANSFERS = {
    "parallel": ["a D1 2 6", "a D2 2 6", "b D1 5 7", "b D2 5 7", "d D1 9 10"],
    "link": ["a D1 2 6", "a D2 2 6", "b D1 6 8", "b D2 6 8", "d D1 10 11"],
    "device": ["a D1 2 6", "a D2 6 10", "b D1 10 12", "b D2 12 14", "d D1 16 17"],
}
E4_STARTS = {"parallel": (7, 7, 10, 11), "link": (8, 8, 11, 12), "device": (12, 14, 17, 18)}


@pytest.mark.parametrize("mode", COMM_MODES)
def test_e4_runs_to_the_tick_in_every_communication_mode(e4: Callable[[CommMode], Problem], mode: CommMode) -> None:
    result = simulate(e4(mode), E4_ASSIGNMENT, list("abcde"))
    assert (result.start["c"], result.start["d"], result.start["e"], result.makespan) == E4_STARTS[mode]
    assert [f"{t.tensor} {t.dst} {t.start} {t.end}" for t in result.transfers] == E4_TRANSFERS[mode]
    assert result.static_peaks == {"D0": 8, "D1": 12, "D2": 8}
    assert result.dynamic_peaks == {"D0": 8, "D1": 11, "D2": 8}


def two_devices(ops: list[Op], edges: list[Edge], **options: object) -> Problem:
    devices = (Device("D0", "x", 100), Device("D1", "x", 100))
    return Problem(ops=tuple(ops), edges=tuple(edges), devices=devices, **options)  # type: ignore[arg-type]  # keyword arguments by name


def test_ready_dispatch_passes_an_op_that_waits_and_order_dispatch_does_not() -> None:
    problem = two_devices([Op("a", 2), Op("b", 1), Op("c", 5)], [Edge("a", "b", 0, 10)])
    assignment, priority = {"a": "D0", "b": "D1", "c": "D1"}, ["a", "b", "c"]
    assert simulate(problem, assignment, priority).start == {"a": 0, "b": 12, "c": 13}
    assert simulate(problem, assignment, priority, dispatch="ready").start == {"a": 0, "b": 12, "c": 0}


def test_an_order_against_the_graph_is_a_deadlock_and_not_valid() -> None:
    problem = two_devices([Op("a", 2), Op("b", 1)], [Edge("a", "b")])
    result = simulate(problem, {"a": "D0", "b": "D0"}, ["b", "a"])
    assert result.deadlock
    assert not result.valid
    assert result.start == {"a": -1, "b": -1}


def test_equal_priorities_fall_back_to_canonical_order() -> None:
    problem = two_devices([Op("z", 1), Op("y", 3)], [])
    assert simulate(problem, {"z": "D0", "y": "D0"}, {"z": 1.5, "y": 1.5}).start == {"y": 0, "z": 3}
    assert simulate(problem, {"z": "D0", "y": "D0"}, {"z": 1, "y": 1.5}).start == {"z": 0, "y": 1}


def test_a_transfer_of_length_zero_arrives_in_the_same_tick_even_on_a_busy_channel() -> None:
    ops, edges = [Op("a", 1), Op("b", 1), Op("c", 1)], [Edge("a", "b", 0, 0, "t1"), Edge("a", "c", 0, 0, "t2")]
    for mode in COMM_MODES:
        result = simulate(two_devices(ops, edges, comm_mode=mode), {"a": "D0", "b": "D1", "c": "D1"})
        assert (result.start["b"], result.start["c"]) == (1, 2)


def test_dynamic_memory_frees_an_output_after_its_last_use_and_never_one_that_is_kept() -> None:
    ops = [Op("a", 1), Op("b", 1), Op("c", 1)]
    edges = [Edge("a", "b", 5), Edge("b", "c", 7)]
    on_one = {"a": "D0", "b": "D0", "c": "D0"}
    assert simulate(two_devices(ops, edges), on_one).dynamic_peaks["D0"] == 12
    # c allocates nothing; with scratch the free of a at tick 2 comes before the allocation of c at tick 2
    assert simulate(two_devices([*ops[:2], Op("c", 1, 0, 6)], edges), on_one).dynamic_peaks["D0"] == 13
    kept = [Op("a", 1, keep=True), ops[1], Op("c", 1, 0, 6)]
    assert simulate(two_devices(kept, edges), on_one).dynamic_peaks["D0"] == 18
    # across devices: the output of a leaves D0 when the transfer ends, its copy leaves D1 when b ends
    across = simulate(two_devices([*ops[:2], Op("c", 1, 0, 6)], edges), {"a": "D0", "b": "D1", "c": "D1"})
    assert across.dynamic_peaks == {"D0": 5, "D1": 13}
    assert across.static_peaks == {"D0": 5, "D1": 18}


def test_results_without_a_consumer_persist() -> None:
    problem = two_devices([Op("a", 1, out=9), Op("b", 1, out=8)], [])
    assert simulate(problem, {"a": "D0", "b": "D0"}).dynamic_peaks["D0"] == 17


def test_malformed_placements_are_refused_with_every_mistake() -> None:
    problem = two_devices([Op("a", 1, pin=("D0",)), Op("b", 1, group="g"), Op("c", 1, group="g")], [])
    with pytest.raises(ProblemError, match="unknown op 'q'") as caught:
        simulate(problem, {"a": "D9", "b": "D0", "q": "D0"}, ["a", "b", "b"])
    assert len(caught.value.problems) == 5
    with pytest.raises(ProblemError, match=r"'a' is assigned to 'D1'[\s\S]*'g' is split"):
        simulate(problem, {"a": "D1", "b": "D0", "c": "D1"})


def random_trace(rng: Random, shape: SmallShape, dispatch: str = "order") -> Trace:
    graph = small_problem(rng, shape).graph
    home = [rng.choice([d for d in range(graph.num_devices) if runs[d]]) for runs in graph.group_runs]
    return run(graph, [home[g] for g in graph.group_of], random_order(rng, graph), dispatch)  # type: ignore[arg-type]  # a dispatch


def random_order(rng: Random, graph: Graph) -> list[int]:
    """A random topological priority."""
    ready, waiting, place = [], [len(p) for p in graph.predecessors], [0] * graph.n
    ready = [i for i in range(graph.n) if waiting[i] == 0]
    for position in range(graph.n):
        i = ready.pop(rng.randrange(len(ready)))
        place[i] = position
        for j in graph.successors[i]:
            waiting[j] -= 1
            if waiting[j] == 0:
                ready.append(j)
    return place


def rows_of(transfers: Transfers, *columns: int) -> list[tuple[int, ...]]:
    return list(zip(*(transfers[column].tolist() for column in columns), strict=True))


shapes = st.builds(
    SmallShape,
    ops=st.just((1, 12)),
    devices=st.just((1, 4)),
    unequal=st.booleans(),
    groups=st.booleans(),
    outputs=st.booleans(),
    comm_mode=st.sampled_from(COMM_MODES),
)


laws = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@laws
@given(st.randoms(use_true_random=False), shapes, st.sampled_from(["order", "ready"]))
def test_nothing_starts_before_its_inputs_and_nothing_overlaps(rng: Random, shape: SmallShape, dispatch: str) -> None:
    trace = random_trace(rng, shape, dispatch)
    graph, end, device = trace.graph, trace.end.tolist(), trace.device.tolist()
    arrival = {(t, v): e for t, v, e in rows_of(trace.transfers, 0, 2, 4)}
    assert not trace.deadlock
    busy: dict[object, list[tuple[int, int]]] = {}
    for i, s in enumerate(trace.start.tolist()):
        for t in graph.inputs[i]:
            p = graph.src_of[t]
            assert s >= (end[p] if device[p] == device[i] else arrival[t, device[i]])
        assert end[i] - s == graph.k_rows[i][device[i]]
        busy.setdefault(("op", device[i]), []).append((s, end[i]))
    for t, u, v, s, e in rows_of(trace.transfers, 0, 1, 2, 3, 4):
        assert s >= end[graph.src_of[t]]
        assert e - s == graph.cost_rows[graph.link_class[u][v]][t]
        for resource in {"parallel": (), "link": ((u, v),), "device": (u, v)}[graph.comm_mode]:
            busy.setdefault(resource, []).append((s, e))
    for intervals in busy.values():
        intervals.sort()
        assert all(first[1] <= second[0] for first, second in pairwise(intervals))


@laws
@given(st.randoms(use_true_random=False), shapes)
def test_every_dynamic_peak_is_at_most_the_static_one(rng: Random, shape: SmallShape) -> None:
    trace = random_trace(rng, shape)
    assert all(dynamic <= static for dynamic, static in zip(trace.dynamic_peaks, trace.static_peaks, strict=True))


@laws
@given(st.randoms(use_true_random=False), shapes)
def test_contention_never_makes_a_fixed_order_faster(rng: Random, shape: SmallShape) -> None:
    spans = {}
    state = rng.getstate()
    for mode in COMM_MODES:
        rng.setstate(state)
        spans[mode] = random_trace(rng, SmallShape(**{**shape.__dict__, "comm_mode": mode})).makespan
    assert spans["parallel"] <= min(spans["link"], spans["device"])


@laws
@given(st.randoms(use_true_random=False), shapes)
def test_the_single_pass_equals_the_event_loop(rng: Random, shape: SmallShape) -> None:
    graph = small_problem(rng, SmallShape(**{**shape.__dict__, "comm_mode": "parallel"})).graph
    device = [rng.choice([d for d in range(graph.num_devices) if row[d] < 1 << 60]) for row in graph.k_rows]
    place = random_order(rng, graph)
    quick = run(graph, device, place)
    start, end, transfers = run_events(graph, device, place, sorted(range(graph.n), key=place.__getitem__), ready=False)
    assert (quick.start.tolist(), quick.end.tolist()) == (start.tolist(), end.tolist())
    assert [column.tolist() for column in quick.transfers] == [column.tolist() for column in transfers]
