"""Problem files and everything that can be wrong with them."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mottle.placement import place
from mottle.placement.errors import ProblemError
from mottle.placement.generate import SmallShape, small_problem
from mottle.placement.graph import ABSENT
from mottle.placement.pg1 import dump_problem, load_file, load_problem, parse_file, save_problem
from mottle.placement.problem import COMM_MODES, MEM_MODES, Device, Edge, Link, Op, Problem

DEVICES = (Device("D0", "x", 100), Device("D1", "x", 100))


def problems_of(*ops: Op, edges: tuple[Edge, ...] = (), devices: tuple[Device, ...] = DEVICES, **options: Any) -> str:
    with pytest.raises(ProblemError) as caught:
        Problem(ops=ops, edges=edges, devices=devices, **options)
    return "\n".join(caught.value.problems)


A, B, C = Op("a", 1), Op("b", 1), Op("c", 1)


def test_a_cycle_is_named() -> None:
    message = problems_of(A, B, C, Op("d", 1), edges=(Edge("d", "a"), Edge("a", "b"), Edge("b", "c"), Edge("c", "a")))
    assert message == "the graph has a cycle: 'a' -> 'b' -> 'c' -> 'a'; unroll loops before placement"
    assert "'a' -> 'a'" in problems_of(A, edges=(Edge("a", "a"),))
    assert "'b' -> 'c' -> 'b'" in problems_of(A, B, C, edges=(Edge("b", "c"), Edge("c", "b"), Edge("b", "a")))


def test_a_long_cycle_is_found_quickly_and_cut_short() -> None:
    chain = tuple(Edge(f"n{i}", f"n{(i + 1) % 3000}") for i in range(3000))
    assert "-> ... (3000 ops)" in problems_of(*(Op(f"n{i}", 1) for i in range(3000)), edges=chain)


@pytest.mark.parametrize(
    ("ops", "edges", "wanted"),
    [
        ((), (), "wanted at least one op, got none"),
        ((A, B, A, A), (), "op 'a' is listed more than once"),
        ((Op("a", -3),), (), "op 'a': time must be an integer of at least 0; got -3"),
        ((Op("a", float("nan")),), (), "op 'a': time must be finite; got nan"),  # type: ignore[arg-type]  # the mistake under test
        ((Op("a", float("inf")),), (), "op 'a': time must be finite; got inf"),  # type: ignore[arg-type]  # the mistake under test
        ((Op("a", 1.5),), (), "op 'a': time must be an integer (ticks or bytes); got 1.5"),  # type: ignore[arg-type]  # the mistake under test
        ((Op("a", {"x": -1, "y": 2}),), (), "op 'a': time on class 'x' must be an integer of at least 0; got -1"),
        ((Op("a", {}),), (), "op 'a': its time names no device class"),
        ((Op("a", {"tpu": 1}),), (), "op 'a' runs on no device: its times and pins leave none of D0, D1"),
        ((Op("a", 1, -1, -2, -3),), (), "perm must be"),
        ((Op("a", 1, pin=("D7",)),), (), "op 'a' is pinned to the unknown device 'D7'"),
        ((Op("a", 1, pin=()),), (), "op 'a' is pinned to no device at all"),
        ((A,), (Edge("a", "z"),), "edge 'a' -> 'z' names the unknown op 'z'"),
        ((A, B), (Edge("a", "b", -1),), "edge 'a' -> 'b': bytes must be an integer of at least 0; got -1"),
        ((A, B), (Edge("a", "b", 1, -1),), "edge 'a' -> 'b': comm must be"),
        ((A, B), (Edge("a", "b"), Edge("a", "b")), "op 'b' lists tensor 'a' of op 'a' twice"),
        ((A, B, C), (Edge("a", "b", 1), Edge("a", "c", 2)), "tensor 'a' of op 'a' has two sizes"),
        ((Op("a", 2**61),), (), "beyond 2**60: use a longer tick"),
        ((Op("a", 1, 2**61),), (), "beyond 2**60"),
        (
            (Op("a", 1, group="g", pin=("D0",)), Op("b", 1, group="g", pin=("D1",))),
            (),
            "group 'g' cannot be kept together, no device runs all of its ops: 'a' on ['D0']; 'b' on ['D1']",
        ),
    ],
)
def test_malformed_ops_and_edges(ops: tuple[Op, ...], edges: tuple[Edge, ...], wanted: str) -> None:
    assert wanted in problems_of(*ops, edges=edges)


def test_malformed_devices_and_links() -> None:
    assert "wanted at least one device, got none" in problems_of(A, devices=())
    assert "device 'D0' is listed twice" in problems_of(A, devices=(DEVICES[0], DEVICES[0]))
    assert "device 'd': mem must be an integer of at least 0; got -1" in problems_of(A, devices=(Device("d", "x", -1),))
    assert "device 'd': speed_pm must be an integer of at least 1; got 0" in problems_of(A, devices=(Device("d", "x", 1, 0),))
    message = problems_of(A, links={("D0", "D9"): Link(-1, 0), ("D1", "D1"): Link()})
    for wanted in ("unknown device 'D9'", "D0 -> D9: lat", "D0 -> D9: Bps", "joins a device to itself"):
        assert wanted in message
    assert "comm_mode is one of parallel, link, device; got 'fast'" in problems_of(A, comm_mode="fast")
    assert "mem_mode is one of static, dynamic; got 3" in problems_of(A, mem_mode=3)
    assert "tick_ns" in problems_of(A, tick_ns=0)


def test_all_mistakes_are_reported_at_once_and_a_flood_is_counted() -> None:
    assert problems_of(Op("a", -1, -1), Op("b", 1, pin=("q",)), devices=()).count("\n") == 3
    with pytest.raises(ProblemError, match="and 10 more"):
        Problem(ops=tuple(Op(f"n{i}", -1) for i in range(30)), devices=DEVICES)


def test_compute_times_follow_speed_class_and_pin() -> None:
    devices = (Device("slow", "x", 1, 300), Device("fast", "y", 1, 2000))
    ops = (Op("a", 10), Op("b", {"y": 7}), Op("c", 0), Op("d", 3, pin=("fast",)))
    graph = Problem(ops=ops, devices=devices).graph
    rows = dict(zip(graph.names, graph.k_rows, strict=True))
    assert rows == {"a": (34, 5), "b": (ABSENT, 7), "c": (1, 1), "d": (ABSENT, 2)}


def test_communication_is_exact_beyond_64_bits() -> None:
    size = 10**15
    edges = (Edge("a", "b", size), Edge("a", "c", 0, None, "control"), Edge("b", "c", 5, 3))
    links = {("D1", "D0"): Link(2, None)}
    graph = Problem(ops=(A, B, C), edges=edges, devices=DEVICES, default_link=Link(7, 3), links=links, tick_ns=10**9).graph
    there, back = graph.link_class[0][1], graph.link_class[1][0]
    costs = dict(zip(graph.tensor_names, zip(graph.cost_rows[there], graph.cost_rows[back], strict=True), strict=True))
    assert costs == {"a": (7 + -(-size // 3), 2), "control": (7, 2), "b": (3, 3)}


def test_a_step_that_could_outlast_the_numbers_is_refused() -> None:
    """Each transfer would do by itself; a schedule that makes them one after the other would not."""
    ops = tuple(Op(name, 1) for name in "abc")
    edges = (Edge("a", "b", 2**59), Edge("b", "c", 2**59))
    slow = {"ops": ops, "edges": edges, "devices": (Device("d", "x", 1 << 62), Device("e", "x", 1 << 62)), "default_link": Link(1, 10**9)}
    with pytest.raises(ProblemError, match=r"all transfers together come to 1152921504606846978 ticks, beyond 2\*\*60"):
        place(Problem(**slow, tick_ns=1))  # type: ignore[arg-type]  # fields as a dict
    assert place(Problem(**slow, tick_ns=2)).makespan == 3  # type: ignore[arg-type]


def test_a_new_device_list_keeps_the_ops_and_drops_links_of_lost_devices() -> None:
    problem = Problem(ops=(A, B), edges=(Edge("a", "b", 8),), devices=DEVICES, links={("D0", "D1"): Link(9)})
    later = problem.with_devices((DEVICES[0], Device("D2", "x", 5)))
    assert later.skeleton is problem.skeleton
    assert later.links == {}
    with pytest.raises(ProblemError, match="op 'p' runs on no device"):
        Problem(ops=(Op("p", 1, pin=("D1",)),), devices=DEVICES).with_devices(DEVICES[:1])


def test_a_problem_with_other_ops_is_checked_and_indexed_anew() -> None:
    problem = Problem(ops=(A, B), devices=DEVICES)
    longer = replace(problem, ops=[A, B, C])  # type: ignore[arg-type]  # a list is taken, too
    assert longer.graph.names == ["a", "b", "c"]
    assert longer.ops == (A, B, C)
    with pytest.raises(ProblemError, match="unknown op 'z'"):
        replace(problem, edges=(Edge("a", "z"),))


FULL = {
    "ops": [
        {"id": "a", "time": 3, "perm": 1, "temp": 2},
        {"id": "b", "time": {"x": 4.0}, "perm": 0, "temp": 0, "out": 9, "keep": True, "group": "g", "pin": ["D0"]},
    ],
    "edges": [{"src": "a", "dst": "b", "bytes": 4, "comm": 2, "tensor": "t"}],
    "devices": [{"id": "D0", "class": "x", "mem": 50}, {"id": "D1", "class": "y", "mem": 60, "speed_pm": 500}],
    "links": {"default": {"lat": 1, "Bps": None}, "pairs": [{"src": "D0", "dst": "D1", "lat": 2, "Bps": 1e9}]},
    "tick_ns": 1000,
    "comm_mode": "link",
    "mem_mode": "dynamic",
    "assignment": {"a": "D1", "b": "D0"},
    "priority": ["a", "b"],
    "comment": "unknown keys are ignored",
}


def test_a_file_holds_problem_and_placement(tmp_path: Path) -> None:
    path = tmp_path / "full.json"
    path.write_text(json.dumps(FULL))
    file = load_file(path)
    assert file.assignment == {"a": "D1", "b": "D0"}
    assert file.priority == ["a", "b"]
    assert file.problem == Problem(
        ops=(Op("a", 3, 1, 2), Op("b", {"x": 4}, 0, 0, 9, True, "g", ("D0",))),
        edges=(Edge("a", "b", 4, 2, "t"),),
        devices=(Device("D0", "x", 50), Device("D1", "y", 60, 500)),
        default_link=Link(1),
        links={("D0", "D1"): Link(2, 10**9)},
        tick_ns=1000,
        comm_mode="link",
        mem_mode="dynamic",
    )


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"ops": {}}, "'ops' must be a list of objects; got dict"),
        ({"ops": [3]}, r"ops\[0\] must be an object; got int"),
        ({"ops": [{"id": 3, "time": 1}]}, r"ops\[0\]: 'id' must be a string; got 3"),
        ({"ops": [{"id": "a"}]}, "op 'a' lacks 'time'"),
        ({"ops": [{"id": "a", "time": "3"}]}, "got '3'"),
        ({"ops": [{"id": "a", "time": True}]}, "got True"),
        ({"ops": [{"id": "a", "time": 1, "tmep": 4}]}, "unknown key 'tmep': did you mean 'temp'"),
        ({"ops": [{"id": "a", "time": 1, "pin": "D0"}]}, "pin must be a list of device ids"),
        ({"ops": [{"id": "a", "time": 1, "group": 1}]}, "group must be a string"),
        ({"ops": [{"id": "a", "time": 1, "keep": 1}]}, "keep must be true or false"),
        ({"devices": []}, "wanted at least one device"),
        ({"devices": [{"id": "D0", "class": "x"}]}, "lacks 'mem'"),
        ({"edges": [{"src": "a", "tensor": 4}]}, "'dst' must be a string; got None"),
        ({"links": []}, "'links' must be an object"),
        ({"links": {"default": 3}}, "links.default must be an object"),
        ({"links": {"pairs": [{"src": "D0", "dst": "D1"}] * 2}}, "is listed twice"),
        ({"assignment": {"a": "D0"}}, "assignment puts no device under op 'b'"),
        ({"assignment": ["a"]}, "assignment must map op ids to device ids; got list"),
        ({"priority": "ab"}, "priority must be a list"),
        ({"priority": {"a": float("nan"), "b": 1}}, "priority of op 'a' must be a finite number"),
        ({"priority": ["a"]}, "priority does not mention op 'b'"),
    ],
)
def test_malformed_files(change: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ProblemError, match=wanted):
        parse_file(FULL | change)


def test_text_that_is_no_problem_at_all(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    for text, wanted in [
        ("{", "is no JSON text"),
        ("[]", "holds a JSON object; got list"),
        ('{"ops": [], "ops": []}', "key 'ops' appears twice"),
    ]:
        path.write_text(text)
        with pytest.raises(ProblemError, match=wanted):
            load_problem(path)
    path.write_text("{}")
    with pytest.raises(ProblemError, match="lacks 'ops'"):
        load_problem(path)


shapes = st.builds(
    SmallShape,
    ops=st.just((1, 9)),
    devices=st.just((1, 4)),
    unequal=st.booleans(),
    groups=st.booleans(),
    outputs=st.booleans(),
    comm_mode=st.sampled_from(COMM_MODES),
    mem_mode=st.sampled_from(MEM_MODES),
)


laws = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@laws
@given(st.randoms(use_true_random=False), shapes)
def test_reading_what_was_written_gives_an_equal_problem(rng: Random, shape: SmallShape) -> None:
    problem = small_problem(rng, shape)
    assert parse_file(json.loads(json.dumps(dump_problem(problem)))).problem == problem


def test_the_file_has_one_line_an_op(tmp_path: Path, e1: Problem) -> None:
    save_problem(e1, tmp_path / "e1.json")
    assert load_problem(tmp_path / "e1.json") == e1
    assert '\n  {"id": "a", "time": 2, "perm": 1, "temp": 0},\n' in (tmp_path / "e1.json").read_text()
