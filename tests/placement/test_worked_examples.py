"""Every schedule of the specification's section 8.2 and the ten-task table, to the tick."""

from collections.abc import Callable, Mapping
from fractions import Fraction

import pytest

from mottle.placement.favourites import favour_by_lp, favour_critical, solve_favourites
from mottle.placement.heft import heft, upward_ranks
from mottle.placement.judge import run
from mottle.placement.list_fast import list_fast
from mottle.placement.list_plain import list_plain
from mottle.placement.lower_bounds import bounds
from mottle.placement.mtopo import m_topo, uniform_caps
from mottle.placement.placed import NoRoom, Placement
from mottle.placement.plans import simulate
from mottle.placement.problem import Problem


def schedule(problem: Problem, placement: Placement | NoRoom) -> dict[str, str]:
    """Device -> `op[start,end) ...` by SIM, which must agree with what the placer planned."""
    assert isinstance(placement, Placement)
    graph = problem.graph
    place = [placement.order.index(i) for i in range(graph.n)]
    trace = run(graph, placement.device, place)
    assert trace.valid
    assert trace.start.tolist() == placement.start
    rows: dict[str, list[str]] = {device: [] for device in graph.devices}
    for i in placement.order:
        rows[graph.devices[placement.device[i]]].append(f"{graph.names[i]}[{trace.start[i]},{trace.end[i]})")
    return {device: " ".join(ops) for device, ops in rows.items()}


def named(problem: Problem, favourites: Mapping[int, int]) -> dict[str, str]:
    names = problem.graph.names
    return {names[i]: names[j] for i, j in sorted(favourites.items(), key=lambda pair: names[pair[0]])}


both_forms = pytest.mark.parametrize("place", [list_plain, list_fast])


def test_e1_orders_bounds_and_favourites(e1: Problem) -> None:
    assert e1.graph.names == list("abdcfe")
    assert named(e1, favour_critical(e1.graph)) == {"a": "c", "b": "d", "d": "e"}
    assert solve_favourites(e1.graph).makespan == pytest.approx(32 / 3, rel=1e-6)
    limits = bounds(e1)
    assert (limits.critical_path, limits.work, limits.sct, limits.makespan) == (10, 9, 11, 11)


def test_e1_m_topo_and_heft(e1: Problem) -> None:
    assert uniform_caps(e1.graph) == [4, 4]
    assert schedule(e1, m_topo(e1.graph)) == {"D0": "a[0,2) b[2,4) d[4,8) c[8,11)", "D1": "f[6,9) e[10,14)"}
    assert schedule(e1, heft(e1.graph)) == {"D0": "b[0,2) d[3,7) e[7,11)", "D1": "a[0,2) c[2,5) f[5,8)"}


@both_forms
def test_e1_m_etf_takes_what_starts_first_and_m_sct_waits_for_the_favourite(e1: Problem, place: Callable[..., Placement]) -> None:
    etf = {"D0": "a[0,2) c[2,5) d[5,9) e[9,13)", "D1": "b[0,2) f[2,5)"}
    assert schedule(e1, place(e1.graph)) == etf
    assert schedule(e1, place(e1.graph, favour_critical(e1.graph))) == {"D0": "a[0,2) c[2,5) f[5,8)", "D1": "b[0,2) d[3,7) e[7,11)"}
    index = {name: i for i, name in enumerate(e1.graph.names)}
    assert schedule(e1, place(e1.graph, {index["d"]: index["e"]})) == etf


def test_e1_rounding_the_program_at_one_half_gives_a_schedule_of_11(e1: Problem) -> None:
    assert isinstance(placement := list_fast(e1.graph, favour_by_lp(e1.graph)), Placement)
    assert run(e1.graph, placement.device, [placement.order.index(i) for i in range(6)]).makespan == 11


@both_forms
def test_e2_with_nine_bytes_a_device(e2: Callable[[int], Problem], place: Callable[..., Placement]) -> None:
    problem = e2(9)
    graph = problem.graph
    assert graph.names == list("abcfed")
    assert uniform_caps(graph) == [7, 7]
    favourites = favour_critical(graph)
    assert named(problem, favourites) == {"a": "c", "b": "f", "c": "d"}
    assert schedule(problem, m_topo(graph)) == {"D0": "a[0,3) b[3,7) c[7,11) f[11,14)", "D1": "e[4,6) d[12,15)"}
    greedy = {"D0": "a[0,3) c[3,7) e[7,9)", "D1": "b[0,4) f[4,7) d[8,11)"}
    assert schedule(problem, place(graph)) == schedule(problem, place(graph, favourites)) == greedy
    assert schedule(problem, heft(graph)) == {"D0": "a[0,3) c[3,7) d[7,10)", "D1": "b[0,4) f[4,7) e[7,9)"}


@both_forms
def test_e2_with_five_bytes_a_device(e2: Callable[[int], Problem], place: Callable[..., Placement]) -> None:
    problem = e2(5)
    graph = problem.graph
    assert not simulate(problem, dict.fromkeys("abcdef", "D0")).valid
    assert simulate(problem, dict.fromkeys("abcdef", "D0")).static_peaks["D0"] == 9
    assert uniform_caps(graph) == [5, 5]
    assert schedule(problem, m_topo(graph)) == {"D0": "a[0,3) b[3,7)", "D1": "c[4,8) f[8,11) e[11,13) d[13,16)"}
    greedy = {"D0": "a[0,3) c[3,7)", "D1": "b[0,4) f[4,7) e[7,9) d[9,12)"}
    assert schedule(problem, place(graph)) == schedule(problem, place(graph, favour_critical(graph))) == greedy
    assert schedule(problem, heft(graph)) == {"D0": "a[0,3) c[3,7)", "D1": "b[0,4) f[4,7) d[8,11) e[11,13)"}


@both_forms
def test_e3_unequal_devices(e3: Problem, place: Callable[..., Placement]) -> None:
    graph = e3.graph
    assert graph.names == list("bacedf")
    limits = bounds(e3)
    assert (limits.critical_path, limits.work, limits.sct) == (7, 6, None)
    greedy = {"G": "b[0,2) a[2,3) c[3,4) e[4,7)", "C": "d[5,9) f[9,11)"}
    assert schedule(e3, m_topo(graph)) == schedule(e3, place(graph)) == greedy
    favourites = favour_critical(graph)
    assert named(e3, favourites) == {"a": "e", "b": "c", "c": "d", "d": "f"}
    assert schedule(e3, place(graph, favourites)) == {"G": "b[0,2) a[2,3) c[3,4) d[4,6) e[6,9)", "C": "f[7,9)"}
    assert schedule(e3, heft(graph)) == {"G": "b[0,2) c[2,3) a[3,4) d[4,6) e[6,9)", "C": "f[7,9)"}


@pytest.mark.parametrize(
    ("on_gpu", "priority", "makespan", "static", "dynamic"),
    [
        ("abce", "bacedf", 11, [11, 5], [11, 5]),
        ("abcde", "bacdef", 9, [14, 2], [13, 2]),
        ("abcdef", "bacedf", 11, [15, 0], [14, 0]),
    ],
)
def test_e3_memory(e3: Problem, on_gpu: str, priority: str, makespan: int, static: list[int], dynamic: list[int]) -> None:
    result = simulate(e3, {name: "G" if name in on_gpu else "C" for name in "abcdef"}, list(priority))
    assert result.makespan == makespan
    assert list(result.static_peaks.values()) == static
    assert list(result.dynamic_peaks.values()) == dynamic


def test_the_ten_task_table(ten_tasks: Problem) -> None:
    graph = ten_tasks.graph
    ranks = dict(zip(graph.names, upward_ranks(graph), strict=True))
    wanted = [108, 77, 80, 80, 69, Fraction(190, 3), Fraction(128, 3), Fraction(107, 3), Fraction(133, 3), Fraction(44, 3)]
    assert [ranks[f"t{i + 1}"] for i in range(10)] == wanted
    assert schedule(ten_tasks, heft(graph)) == {
        "p1": "t2[27,40) t8[57,62)",
        "p2": "t4[18,26) t6[26,42) t9[56,68) t10[73,80)",
        "p3": "t1[0,9) t3[9,28) t5[28,38) t7[38,49)",
    }
    for place in (list_plain, list_fast):
        assert isinstance(placement := place(graph), Placement)
        assert run(graph, placement.device, [placement.order.index(i) for i in range(10)]).makespan == 76
    assert bounds(ten_tasks).critical_path == 41
