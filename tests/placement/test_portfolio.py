"""auto, its parts and its lessons: coarsening, memory ladder, local search, exact search, what is said when nothing fits."""

from collections.abc import Callable
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mottle.placement.coarsen as coarsen_module
import mottle.placement.local_search as search_module
from mottle.core.errors import ConfigError
from mottle.placement import catalogue, place, simulate
from mottle.placement.branch import branch_and_bound
from mottle.placement.coarsen import coarsen, coplace, fuse
from mottle.placement.errors import InfeasibleError, UndecidedError
from mottle.placement.exact import solve_exactly
from mottle.placement.generate import SmallShape, block_problem, layered_problem, small_problem
from mottle.placement.graph import Graph
from mottle.placement.heft import heft
from mottle.placement.judge import run
from mottle.placement.ladder import climb, worst_fit
from mottle.placement.list_fast import list_fast
from mottle.placement.local_search import local_search
from mottle.placement.memory import static_peaks
from mottle.placement.mtopo import fill
from mottle.placement.placed import NoRoom, Placement
from mottle.placement.placers import placer_for
from mottle.placement.problem import Device, Edge, MemMode, Op, Problem
from mottle.placement.splits import splits
from mottle.placement.static_ledger import StaticLedger

laws = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def devices(count: int, mem: int) -> tuple[Device, ...]:
    return tuple(Device(f"D{d}", "x", mem) for d in range(count))


# --- worked examples under auto -------------------------------------------------------------------------------------


def test_auto_finds_the_optimum_of_every_worked_example(e1: Problem, e2: Callable[[int], Problem], e3: Problem, ten_tasks: Problem) -> None:
    assert [place(problem).makespan for problem in (e1, e2(9), e2(5), e3, ten_tasks)] == [11, 10, 11, 7, 73]


def test_the_integer_program_and_branch_and_bound_agree(e1: Problem, e2: Callable[[int], Problem], e3: Problem) -> None:
    problems = [e1, e2(9), e2(5), e3]
    for seed in range(12):
        rng = Random(seed)
        shape = SmallShape(ops=(4, 6), share=rng.choice([None, (0.5, 0.8)]), unequal=seed % 2 == 0, groups=seed % 3 == 0, outputs=True)
        problems.append(small_problem(rng, shape))
    for problem in problems:
        assert_optima_agree(problem)


@settings(max_examples=10, deadline=None)
@given(
    st.randoms(use_true_random=False),
    st.builds(
        SmallShape,
        ops=st.just((2, 5)),
        devices=st.just((1, 3)),
        share=st.sampled_from([None, (0.5, 0.9)]),
        unequal=st.booleans(),
        groups=st.booleans(),
        outputs=st.booleans(),
    ),
)
def test_two_ways_to_the_optimum_agree_on_whatever_comes(rng: Random, shape: SmallShape) -> None:
    assert_optima_agree(small_problem(rng, shape))


def assert_optima_agree(problem: Problem) -> None:
    """Integer program and branch and bound."""
    graph, program, tree = problem.graph, solve_exactly(problem.graph), branch_and_bound(problem.graph)
    assert tree.finished
    if isinstance(program, NoRoom):
        assert tree.placement is None
    else:
        assert tree.placement is not None
        assert makespan(graph, program) == makespan(graph, tree.placement) == max(s + k for s, k in run_times(graph, tree.placement))


def makespan(graph: Graph, placement: Placement) -> int:
    trace = run(graph, placement.device, [placement.order.index(i) for i in range(graph.n)])
    assert trace.valid
    return trace.makespan


def run_times(graph: Graph, placement: Placement) -> list[tuple[int, int]]:
    return [(s, graph.k_rows[i][d]) for i, (s, d) in enumerate(zip(placement.start, placement.device, strict=True))]


def test_exact_search_stops_at_its_limits(ten_tasks: Problem) -> None:
    stopped = branch_and_bound(ten_tasks.graph, node_limit=50)
    assert (stopped.nodes, stopped.finished) == (50, False)
    assert branch_and_bound(ten_tasks.graph, below=73).placement is None
    with pytest.raises(UndecidedError, match="within 0 nodes"):
        solve_exactly(small_problem(Random(0), SmallShape(ops=(8, 8), share=(0.5, 0.5), outputs=True)).graph, node_limit=0)


# --- coarsening -----------------------------------------------------------------------------------------------------


def diamond(comm: int) -> Problem:
    """a feeds b and c, both feed d."""
    ops = tuple(Op(name, 10, perm) for name, perm in zip("abcd", (1, 2, 4, 8), strict=True))
    edges = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]
    return Problem(ops=ops, edges=tuple(Edge(src, dst, 3, comm) for src, dst in edges), devices=devices(2, 100))


def groups(problem: Problem, rule: str, cap: int = 50) -> list[str]:
    graph = problem.graph
    root = coplace(graph, rule, cap)  # type: ignore[arg-type]  # a rule by name
    return sorted("".join(sorted(graph.names[i] for i in range(graph.n) if root[i] == r)) for r in set(root))


def test_the_guarded_rule_keeps_branches_apart_unless_communication_dominates() -> None:
    assert groups(diamond(9), "guarded") == ["a", "b", "c", "d"]
    assert groups(diamond(10), "guarded") == ["a", "bcd"]
    assert groups(diamond(9), "paper") == ["a", "bcd"]
    # a fits nowhere else: b 2 + 3 out, c 4 + 3 out, d 8
    assert groups(diamond(10), "guarded", cap=19) in (["a", "bd", "c"], ["a", "b", "cd"])
    chain = Problem(ops=diamond(0).ops[:2], edges=(Edge("a", "b", 3, 0),), devices=devices(2, 100))
    assert groups(chain, "guarded") == ["ab"]


def test_coplacement_never_joins_ops_that_no_device_runs_together() -> None:
    ops = (Op("a", 1, pin=("D0",)), Op("b", 1, pin=("D1",)))
    assert groups(Problem(ops=ops, edges=(Edge("a", "b", 0, 9),), devices=devices(2, 100)), "paper") == ["a", "b"]


def test_fusion_sums_time_and_memory_and_leaves_what_could_make_a_cycle() -> None:
    problem = diamond(10)
    graph = problem.graph
    fused = fuse(graph, [0] * 4)  # everything in one group; a -> d paths through b and c
    assert fused.graph.n == 1
    assert (fused.graph.k_rows, fused.graph.perm.tolist(), fused.graph.out.tolist()) == ([(40, 40)], [15], [9])
    index = {name: i for i, name in enumerate(graph.names)}
    partial = [0 if name in "ad" else index[name] + 1 for name in graph.names]
    assert fuse(graph, partial).graph.n == 4  # a and d stay two nodes of one group: b and c lie between them
    assert fuse(graph, partial).graph.num_groups == 3
    pair = fuse(graph, [0 if name in "ab" else index[name] + 1 for name in graph.names]).graph
    assert sorted(pair.names) == ["a", "c", "d"]
    assert pair.tensor_names == ["a/a", "b/b", "c/c"]


# --- the lessons of specification 6.4 ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_raw_greedy_is_slower_than_one_device_on_operator_graphs_and_guarded_coarsening_repairs_it(seed: int) -> None:
    problem = block_problem(Random(seed), 4, 4, branches=1, share=2)
    alone = place(problem, "single").makespan
    for algorithm in ("m-etf", "m-sct", "heft"):
        assert place(problem, algorithm).makespan > 1.5 * alone
        assert place(problem, algorithm, coarsen="guarded").makespan <= alone
    assert place(problem).makespan <= alone


@pytest.mark.parametrize("seed", range(3))
def test_on_layer_graphs_the_guarded_rule_keeps_the_parallelism_that_the_paper_rule_destroys(seed: int) -> None:
    problem = block_problem(Random(seed), 8, 4, weights=False, share=2)
    alone = place(problem, "single").makespan
    for algorithm in ("m-etf", "m-sct", "heft"):
        raw, guarded, paper = (place(problem, algorithm, coarsen=rule).makespan for rule in ("none", "guarded", "paper"))
        assert guarded <= 1.02 * raw < 0.4 * alone
        assert paper >= 0.9 * alone
    assert coarsen(problem.graph, "paper").graph.n < coarsen(problem.graph, "guarded").graph.n < problem.graph.n


# --- memory ---------------------------------------------------------------------------------------------------------


def test_the_memory_ladder_spreads_the_largest_groups_first() -> None:
    # m-ETF puts the small ops, ready first by time, on both devices; then neither has room for the large one.
    ops = (Op("s1", 9, 3), Op("s2", 8, 3), Op("large", 1, 8))
    graph = Problem(ops=ops, devices=devices(2, 9)).graph
    plain = placer_for("m-etf", graph)
    assert isinstance(plain(graph, None, None), NoRoom)
    placement, how = climb(graph, plain)
    assert isinstance(placement, Placement)
    assert how == "1 largest groups spread first"
    assert isinstance(climb(graph, plain, tries=1)[0], NoRoom)
    index = graph.names.index("large")
    assert worst_fit(graph, graph.mem, 1) == {index: 0}
    assert worst_fit(graph, [7, 7], 1) is None


def test_dynamic_accounting_stretches_the_budgets_and_simulation_decides() -> None:
    # A chain of large outputs, each freed at once: 4 x 30 bytes by static sums, 60 at any moment.
    ops = tuple(Op(f"n{i}", 1) for i in range(5))
    edges = tuple(Edge(f"n{i}", f"n{i + 1}", 30, 5) for i in range(4))
    tight = {"ops": ops, "edges": edges, "devices": devices(1, 60)}
    with pytest.raises(InfeasibleError):
        place(Problem(**tight))
    plan = place(Problem(**tight, mem_mode="dynamic"), "m-etf")
    assert plan.simulation.peaks == {"D0": 60}
    assert plan.notes == ("budgets x2",)


def test_memory_that_cannot_suffice_names_the_bound_the_bytes_and_what_could_help() -> None:
    ops = (Op("a", 1, 60, out=30), Op("b", 1, 60))
    with pytest.raises(InfeasibleError) as caught:
        place(Problem(ops=ops, edges=(Edge("a", "b"),), devices=devices(2, 70)))
    assert caught.value.reasons == (
        "all devices together hold 140 bytes, the permanent and output bytes of all ops come to 150: 10 bytes short; recomputation or "
        "offload could free at most 30 bytes of outputs (enough)",
        "group 'a' (1 ops) needs 90 bytes on one device, the largest device that runs it has 70: 20 bytes short; recomputation or offload "
        "could free at most 30 bytes of outputs (enough)",
    )
    with pytest.raises(
        InfeasibleError, match="the permanent bytes of all ops come to 120: 20 bytes short; recomputation and offload free outputs"
    ):
        place(Problem(ops=ops, devices=devices(2, 50), mem_mode="dynamic"))


def test_a_packing_that_does_not_exist_is_reported_with_the_most_loaded_device() -> None:
    ops = tuple(Op(name, 1, 6) for name in "abc")
    with pytest.raises(InfeasibleError, match=r"proven: no placement fits[\s\S]*'D0', holds 6 of 9 bytes"):
        place(Problem(ops=ops, devices=devices(2, 9)))
    with pytest.raises(InfeasibleError, match="heft found no room for op 'c'"):
        place(Problem(ops=ops, devices=devices(2, 9)), "heft")
    with pytest.raises(InfeasibleError, match="round-robin does not fit: 'D0' needs 12 bytes and has 9"):
        place(Problem(ops=ops, devices=devices(2, 9)), "round-robin")


def test_m_topo_leaves_a_device_for_good_and_cannot_go_back() -> None:
    graph = Problem(ops=(Op("a", 9, 5), Op("b", 8, 6), Op("c", 7, 4)), devices=devices(2, 10)).graph
    assert fill(graph, [9, 9]) == NoRoom(2, [5, 6])  # c would fit on D0
    assert fill(graph, [9, 10]) == [0, 1, 1]


@laws
@given(st.randoms(use_true_random=False), st.booleans(), st.booleans())
def test_the_ledger_equals_the_static_peaks_after_any_moves(rng: Random, unequal: bool, grouped: bool) -> None:
    graph = small_problem(rng, SmallShape(ops=(1, 12), devices=(2, 4), unequal=unequal, groups=grouped, outputs=True)).graph
    home = [rng.randrange(graph.num_devices) for _ in graph.members]
    ledger = StaticLedger(graph, [home[g] for g in graph.group_of])
    for _ in range(6):
        assert [ledger.peak(d) for d in range(graph.num_devices)] == static_peaks(graph, np.array(ledger.device)).tolist()
        ledger.move(rng.randrange(graph.num_groups), rng.randrange(graph.num_devices))


# --- local search ---------------------------------------------------------------------------------------------------


@laws
@given(st.randoms(use_true_random=False), st.booleans(), st.booleans(), st.sampled_from([None, (0.4, 0.9)]))
def test_replaying_a_part_decides_as_the_whole_simulation(
    rng: Random, unequal: bool, grouped: bool, share: tuple[float, float] | None
) -> None:
    shape = SmallShape(ops=(2, 14), devices=(2, 4), unequal=unequal, groups=grouped, share=share, outputs=True)
    graph = small_problem(rng, shape).graph
    start = list_fast(graph)
    if isinstance(start, NoRoom):
        return
    quick = local_search(graph, start)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_module, "_Replay", search_module._Rerun)
        slow = local_search(graph, start)
    assert quick == slow
    assert quick.makespan == makespan(graph, quick.placement) <= makespan(graph, start)


def test_local_search_moves_only_what_it_may_and_counts_its_trials() -> None:
    graph = Problem(ops=tuple(Op(name, 5) for name in "abcd"), devices=devices(2, 10)).graph
    piled = Placement([0] * 4, [0, 1, 2, 3], [0, 5, 10, 15])
    assert local_search(graph, piled).makespan == 10
    assert local_search(graph, piled, movable={3}).makespan == 15
    stopped = local_search(graph, piled, trials=1)
    assert (stopped.trials, stopped.makespan, stopped.finished) == (1, 15, False)


# --- the portfolio --------------------------------------------------------------------------------------------------


def test_up_to_2000_ops_the_whole_list_is_evaluated_in_the_order_of_the_text() -> None:
    plan = place(block_problem(Random(1), 6, 3, weights=False, share=2))
    lists = [f"{algorithm}, {rule}" for rule in ("none", "guarded", "paper") for algorithm in ("m-etf", "m-sct", "heft")]
    names = [candidate.name for candidate in plan.candidates]
    assert names[:11] == ["single d0", "m-topo", *lists]
    assert all(name.startswith(("layer-split, ", "cheapest cuts, ")) for name in names[11:-2])
    assert names[-2:] == ["round-robin", "random"]
    assert {candidate.judged_on for candidate in plan.candidates} == {"original"}
    assert plan.makespan <= min(candidate.makespan or 1 << 60 for candidate in plan.candidates)


def test_a_large_graph_is_ranked_on_its_coarse_form_and_the_answer_names_what_was_skipped() -> None:
    problem = layered_problem(Random(0), 2400, 4, speeds=(1000, 500), share=1)
    plan = place(problem, budget_s=0.2)
    assert {"skipped for lack of time: m-sct, none", "skipped for lack of time: m-etf, paper"} <= set(plan.notes)
    ranked = sorted((c for c in plan.candidates if c.judged_on == "guarded"), key=lambda c: c.makespan or 0)
    assert {c.name for c in ranked[:2]} < {c.name for c in plan.candidates if c.judged_on == "original"}
    assert plan.simulation.valid
    assert plan.makespan <= place(problem, "single").makespan
    more = place(problem, budget_s=20)
    assert not any("skipped" in note for note in more.notes)
    assert more.makespan <= plan.makespan
    assert more.makespan <= min(place(problem, name, coarsen=rule).makespan for name in ("heft", "m-sct") for rule in ("none", "paper"))


@pytest.mark.parametrize("mirrored", [False, True], ids=["wide fork", "backward pass"])
def test_a_large_graph_that_fusing_does_no_good_is_placed_no_worse_than_by_heft_as_it_is(mirrored: bool) -> None:
    half, rng = 1_050, Random(3)
    ops = tuple(Op(f"n{i}", rng.randint(1, 100), 1) for i in range(2 * half))
    names = [op.id for op in ops]
    if mirrored:
        pairs = {*pairwise(names), *((names[i], names[-1 - i]) for i in range(half))}
    else:
        pairs = {edge for name in names[1:-1] for edge in ((names[0], name), (name, names[-1]))}
    edges = tuple(Edge(src, dst, 1, 0 if mirrored else 20) for src, dst in sorted(pairs))
    problem = Problem(ops=ops, edges=edges, devices=devices(4, 1 << 20))
    assert place(problem).makespan <= place(problem, "heft").makespan


@pytest.mark.parametrize("mem_mode", ["static", "dynamic"])
def test_the_ladder_asks_before_every_run_but_the_first(mem_mode: MemMode) -> None:
    ops = tuple(Op(f"n{i}", 1, 2) for i in range(8))
    graph = Problem(ops=ops, devices=devices(2, 100), mem_mode=mem_mode).graph
    runs, asked = [], []

    def placer(graph: Graph, bound: object, mem: object) -> NoRoom:
        runs.append(bound)
        return NoRoom(0, [0, 0])

    def go() -> bool:
        asked.append(len(runs))
        return len(runs) < 3

    assert isinstance(climb(graph, placer, go=go)[0], NoRoom)
    assert (len(runs), asked[:3]) == (3, [1, 2, 3])


def test_where_transfers_contend_auto_is_no_worse_than_ops_dealt_out_in_turn() -> None:
    for seed in range(60):
        shape = SmallShape(ops=(3, 6), unequal=seed % 2 == 0, comm_mode=("link", "device")[seed // 2 % 2], share=(0.5, 1.0))
        problem = small_problem(Random(seed), shape)
        for name in ("round-robin", "random"):
            try:
                dealt = place(problem, name)
            except InfeasibleError:
                continue
            assert place(problem).makespan <= dealt.makespan


def test_an_op_with_very_many_inputs_is_fused_with_some_of_them_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ops = tuple(Op(f"n{i:02}", 10, 1) for i in range(41))
    problem = Problem(ops=ops, edges=tuple(Edge(op.id, "n40", 1, 50) for op in ops[:40]), devices=devices(2, 1 << 20))
    whole = coarsen(problem.graph, "guarded")
    monkeypatch.setattr(coarsen_module, "MOST_MOVES", 2)
    some = coarsen(problem.graph, "guarded")
    assert whole.graph.n == 1
    assert 1 < some.graph.n < 41
    assert some.graph.num_groups == 1  # the rest stays together, as ops of their own
    assert place(problem).makespan <= 410


def test_contending_transfers_make_placers_slow_enough_to_be_skipped() -> None:
    wide = layered_problem(Random(0), 300, 4, width=60, share=1)
    plan = place(
        Problem(**{k: v for k, v in vars(wide).items() if k not in ("_skeleton", "graph", "comm_mode")}, comm_mode="link"), budget_s=0.05
    )
    assert plan.simulation.valid
    assert any(note.startswith("skipped for lack of time: m-") for note in plan.notes)


def test_names_and_options_are_checked() -> None:
    problem = Problem(ops=(Op("a", 1),), devices=devices(1, 1))
    assert set(catalogue()) > {"auto", "m-topo", "m-etf", "m-sct", "heft", "exact", "single"}
    for options, wanted in [
        ({"algorithm": "magic"}, "algorithm is one of auto,"),
        ({"algorithm": "heft", "coarsen": "fine"}, "coarsen is one of none, guarded, paper"),
        ({"coarsen": "paper"}, "tries every coarsening by itself"),
        ({"algorithm": "exact", "coarsen": "paper"}, "works on the original graph"),
        ({"budget_s": 0}, "budget_s must be a positive number"),
        ({"budget_s": float("nan")}, "budget_s must be a positive number"),
    ]:
        with pytest.raises(ConfigError, match=wanted):
            place(problem, **options)  # type: ignore[arg-type]  # the mistakes under test


@pytest.mark.parametrize("algorithm", ["m-etf", "heft"])
def test_one_op_on_one_device(algorithm: str) -> None:
    plan = place(Problem(ops=(Op("only", 3, 2, 1),), devices=devices(1, 3)), algorithm)
    assert (plan.makespan, plan.simulation.peaks) == (3, {"D0": 3})
    assert heft(plan.problem.graph) == Placement([0], [0], [0])


def test_baselines_deal_out_ops_as_defined() -> None:
    ops = tuple(Op(f"n{i}", time) for i, time in enumerate([4, 3, 2, 1]))
    edges = tuple(Edge(f"n{i}", f"n{i + 1}") for i in range(3))
    problem = Problem(ops=ops, edges=edges, devices=devices(2, 10))
    # half of 10 is passed inside n1, which is more than half after the cut at 5
    assert list(place(problem, "layer-split").assignment.values()) == ["D0", "D1", "D1", "D1"]
    assert list(place(problem, "round-robin").assignment.values()) == ["D0", "D1", "D0", "D1"]
    assert set(place(problem, "random").assignment.values()) <= {"D0", "D1"}
    assert simulate(problem, dict.fromkeys(["n0", "n1", "n2", "n3"], "D0")).makespan == place(problem, "single").makespan == 10


# --- contiguous splits ----------------------------------------------------------------------------------------------


@laws
@given(st.randoms(use_true_random=False), st.integers(1, 7))
def test_the_cheapest_cuts_of_a_chain_are_the_best_of_all_contiguous_splits(rng: Random, size: int) -> None:
    ops = tuple(Op(f"n{i}", {"x": rng.randint(1, 9), "y": rng.randint(1, 9)}, rng.randint(1, 5)) for i in range(size))
    edges = tuple(Edge(f"n{i}", f"n{i + 1}", rng.randint(0, 4), rng.randint(0, 6)) for i in range(size - 1))
    problem = Problem(ops=ops, edges=edges, devices=(Device("a", "x", 14), Device("b", "y", 14)))
    graph = problem.graph

    def makespan(cut: int, order: tuple[int, int]) -> int | None:
        trace = run(graph, [order[0]] * cut + [order[1]] * (size - cut))
        return trace.makespan if trace.valid else None

    valid = [trace.makespan for name, device in splits(graph) if name == "cheapest cuts" and (trace := run(graph, device)).valid]
    slower_first = int(graph.k[:, 0].sum()) > int(graph.k[:, 1].sum())
    orders = [(1, 0), (0, 1)] if slower_first else [(0, 1)]
    tried = [value for cut in range(size + 1) for order in orders if (value := makespan(cut, order)) is not None]
    assert min(valid, default=None) == min(tried, default=None)


def test_auto_is_never_slower_than_a_contiguous_split() -> None:
    for seed in range(8):
        problem = small_problem(Random(seed), SmallShape(ops=(5, 9), devices=(2, 3), unequal=seed % 2 == 0, comm_mode="device"))
        makespans = [trace.makespan for _, device in splits(problem.graph) if (trace := run(problem.graph, device)).valid]
        assert place(problem).makespan <= min(makespans)
