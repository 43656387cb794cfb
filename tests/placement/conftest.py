"""The worked problems of the specification, section 8.2, and the ten-task table of 2.7."""

from collections.abc import Callable

import pytest

from mottle.placement.problem import CommMode, Device, Edge, Op, Problem

TEN_TASKS = """
t1 14 16 9; t2 13 19 18; t3 11 13 19; t4 13 8 17; t5 12 13 10; t6 13 16 9; t7 7 15 11; t8 5 11 14; t9 18 12 20; t10 21 7 16
"""
TEN_EDGES = "1-2:18 1-3:12 1-4:9 1-5:11 1-6:14 2-8:19 2-9:16 3-7:23 4-8:27 4-9:23 5-9:13 6-8:15 7-10:17 8-10:11 9-10:13"


def twins(mem: int, count: int = 2) -> tuple[Device, ...]:
    return tuple(Device(f"D{d}", "x", mem) for d in range(count))


@pytest.fixture
def e1() -> Problem:
    """m-SCT beats m-ETF."""
    ops = tuple(Op(name, int(time), 1) for name, time in zip("abcdef", "223443", strict=True))
    comm = [("a", "c", 1), ("a", "d", 1), ("b", "d", 2), ("b", "f", 2), ("d", "e", 2)]
    return Problem(ops=ops, edges=tuple(Edge(src, dst, 0, ticks) for src, dst, ticks in comm), devices=twins(100))


@pytest.fixture
def e2() -> Callable[[int], Problem]:
    """Memory: the problem for a budget."""
    rows = [("a", 3, 3), ("b", 4, 1), ("c", 4, 2), ("d", 3, 1), ("e", 2, 1), ("f", 3, 1)]

    def build(mem: int) -> Problem:
        ops = tuple(Op(name, time, perm) for name, time, perm in rows)
        return Problem(ops=ops, edges=tuple(Edge(pair[0], pair[1], 0, 1) for pair in ("ac", "ae", "cd", "bf")), devices=twins(mem))

    return build


@pytest.fixture
def e3() -> Problem:
    """Unequal devices."""
    rows = [("a", 1, 4, 1), ("b", 2, 8, 2), ("c", 1, 4, 2), ("d", 2, 4, 2), ("e", 3, 3, 1), ("f", 2, 2, 1)]
    ops = tuple(Op(name, {"gpu": gpu, "cpu": cpu}, perm) for name, gpu, cpu, perm in rows)
    comm = [("b", "c", 1), ("c", "d", 1), ("a", "e", 3), ("d", "f", 1)]
    devices = (Device("G", "gpu", 100), Device("C", "cpu", 100))
    return Problem(ops=ops, edges=tuple(Edge(src, dst, ticks, ticks) for src, dst, ticks in comm), devices=devices)


@pytest.fixture
def e4() -> Callable[[CommMode], Problem]:
    """Communication modes: the problem for a mode."""
    tensors = [("a", 4, "cd"), ("b", 2, "cd"), ("c", 3, "e"), ("d", 1, "e")]

    def build(mode: CommMode) -> Problem:
        ops = tuple(Op(name, int(time), 1) for name, time in zip("abcde", "23221", strict=True))
        edges = tuple(Edge(src, dst, size, size) for src, size, consumers in tensors for dst in consumers)
        return Problem(ops=ops, edges=edges, devices=twins(100, 3), comm_mode=mode)

    return build


@pytest.fixture
def ten_tasks() -> Problem:
    """The table that every HEFT implementation is checked against; three device classes."""
    rows = [row.split() for row in TEN_TASKS.strip().split(";")]
    ops = tuple(Op(name, {f"p{d + 1}": int(time) for d, time in enumerate(times)}) for name, *times in rows)
    edges = []
    for text in TEN_EDGES.split():
        pair, ticks = text.split(":")
        src, dst = pair.split("-")
        edges.append(Edge(f"t{src}", f"t{dst}", 0, int(ticks), pair))
    return Problem(ops=ops, edges=tuple(edges), devices=tuple(Device(f"p{d}", f"p{d}", 1000) for d in (1, 2, 3)))
