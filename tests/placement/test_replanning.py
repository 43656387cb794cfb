"""Repair against a full replan: the cheaper one over the horizon, weights fetched from where they are."""

import pytest

from mottle.core.errors import ConfigError
from mottle.placement import Device, Edge, Link, Op, Problem, place, replan
from mottle.placement.judge import run
from mottle.placement.plans import make_plan
from mottle.placement.replanning import migration_s

SECOND = 1_000_000_000


def twins(names: str, mem: int = 100) -> tuple[Device, ...]:
    return tuple(Device(name, "x", mem) for name in names)


def chains(devices: tuple[Device, ...], link: Link) -> Problem:
    """Four ops that wait for nobody, of a tenth of a second and ten bytes of weights."""
    ops = tuple(Op(name, SECOND // 10, 10) for name in "pqrs")
    return Problem(ops=ops, edges=(Edge("p", "q", 0),), devices=devices, default_link=link, tick_ns=1)


def test_weights_come_from_where_they_were_and_over_the_default_link_where_that_is_gone() -> None:
    problem = Problem(
        ops=(Op("a", 1, 30), Op("b", 1, 60)),
        edges=(),
        devices=twins("ABC"),
        default_link=Link(0, 10),
        links={("A", "C"): Link(0, 30)},
    )
    plan = place(problem, "single")
    assert set(plan.assignment.values()) == {"A"}

    def on(problem: Problem, **homes: str) -> float:
        names = problem.graph.names
        trace = run(problem.graph, [problem.graph.devices.index(homes[name]) for name in names])
        return migration_s(plan, make_plan(problem, trace, list(range(len(names))), "by hand"))

    assert on(problem, a="A", b="A") == 0
    assert on(problem, a="C", b="C") == 3  # 90 bytes at 30 a second
    assert on(problem, a="B", b="C") == 3  # 30 at 10 and 60 at 30, side by side
    assert on(problem.with_devices(twins("BC")), a="B", b="C") == 6  # A is gone


def test_a_joining_device_is_used_if_the_horizon_pays_for_the_move() -> None:
    plan = place(chains(twins("A"), Link(0, 10)))
    two = twins("AB")
    soon = replan(plan, two, horizon=2)
    assert soon.taken.plan.devices_used == ("A",)
    assert not soon.taken.moved
    later = replan(plan, two, horizon=200)
    assert later.taken.plan.devices_used == ("A", "B")
    assert later.taken.full_replan
    assert later.full_s is not None
    assert later.repair_s is not None
    assert later.full_s < 0.95 * later.repair_s
    assert later.repair_s == pytest.approx(200 * 0.4)
    assert "everything was placed anew" in later.taken.plan.notes[0]


def test_nothing_that_changes_nothing_costs_a_restart() -> None:
    plan = place(chains(twins("AB"), Link(0, 10)))
    same = replan(plan, twins("AB"), horizon=10, restart_s=100.0)
    assert not same.taken.moved
    assert same.repair_s == pytest.approx(10 * plan.makespan / SECOND)


def test_a_lost_device_is_repaired_around() -> None:
    plan = place(chains(twins("AB"), Link(0, 1000)))
    made = replan(plan, twins("B"))
    assert set(made.taken.plan.assignment.values()) == {"B"}
    assert made.taken.moved == {name for name, device in plan.assignment.items() if device == "A"}


@pytest.mark.parametrize("wrong", [{"horizon": 0}, {"restart_s": -1.0}])
def test_a_horizon_or_restart_that_means_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="wanted a horizon"):
        replan(place(chains(twins("A"), Link())), twins("A"), **wrong)  # type: ignore[arg-type]


def test_a_device_that_is_lost_while_weights_move_is_no_source_of_them() -> None:
    """The first loss sends weights to B; before they are there B is lost, too: they come from the shards, and C keeps what it has."""
    plan = place(chains(twins("ABC"), Link(0, 10)), "round-robin")
    first = replan(plan, twins("ABC")[1:], horizon=1)
    assert set(first.taken.plan.assignment.values()) == {"B", "C"}
    second = replan(first.taken.plan, twins("ABC")[2:], horizon=1)
    assert set(second.taken.plan.assignment.values()) == {"C"}
    assert second.taken.moved == {name for name, device in first.taken.plan.assignment.items() if device == "B"}
    assert migration_s(first.taken.plan, second.taken.plan) == len(second.taken.moved)  # ten bytes each, at ten a second
