"""REPAIR: what need not move stays, what must move finds room, and a replan takes over when it does not."""

from random import Random

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mottle.placement import Device, Edge, InfeasibleError, Op, Problem, ProblemError, place, repair, simulate
from mottle.placement.generate import SmallShape, block_problem, small_problem
from mottle.placement.problem import COMM_MODES, MEM_MODES

laws = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
shapes = st.builds(
    SmallShape,
    ops=st.just((1, 12)),
    devices=st.just((2, 4)),
    share=st.sampled_from([None, (0.6, 1.2)]),
    unequal=st.booleans(),
    groups=st.booleans(),
    outputs=st.booleans(),
    comm_mode=st.sampled_from(COMM_MODES),
    mem_mode=st.sampled_from(MEM_MODES),
)


@laws
@given(st.randoms(use_true_random=False), shapes)
def test_only_displaced_groups_move_and_the_result_fits(rng: Random, shape: SmallShape) -> None:
    problem = small_problem(rng, shape)
    lost = rng.choice(problem.devices)
    rest = tuple(device for device in problem.devices if device is not lost)
    try:
        plan = place(problem)
        result = repair(plan, rest)
    except (InfeasibleError, ProblemError):
        assume(False)
        raise
    assert simulate(result.plan.problem, result.plan.assignment, result.plan.priority).valid
    assert result.plan.problem.devices == rest
    on_lost = {name for name, device in plan.assignment.items() if device == lost.id}
    assert on_lost <= result.displaced
    assert on_lost <= result.moved <= result.displaced
    if result.full_replan:
        assert result.displaced == set(plan.assignment)
    elif shape.mem_mode == "static" and shape.share is None:
        groups = {op.id: op.group for op in problem.ops}
        with_mates = {name for name in plan.assignment if name in on_lost or groups[name] in {groups[x] for x in on_lost} - {None}}
        assert result.displaced == with_mates


@laws
@given(st.randoms(use_true_random=False), shapes)
def test_without_a_change_the_old_plan_comes_back(rng: Random, shape: SmallShape) -> None:
    problem = small_problem(rng, shape)
    try:
        plan = place(problem)
    except InfeasibleError:
        assume(False)
        raise
    result = repair(plan, problem.devices)
    assert (result.plan.assignment, result.plan.priority, result.plan.makespan) == (plan.assignment, plan.priority, plan.makespan)
    assert result.displaced == result.moved == frozenset()


def test_a_join_moves_nothing() -> None:
    problem = Problem(ops=(Op("a", 5), Op("b", 5)), devices=(Device("D0", "x", 10),))
    result = repair(place(problem), (Device("new", "x", 10), *problem.devices))
    assert result.plan.assignment == {"a": "D0", "b": "D0"}
    assert not result.moved


def test_a_device_that_shrank_sheds_the_least_time_per_byte_first() -> None:
    ops = (Op("quick", 1, 6), Op("slow", 50, 6), Op("free", 3))
    problem = Problem(ops=ops, devices=(Device("D0", "x", 12), Device("D1", "x", 12)))
    plan = place(problem)
    piled = simulate(problem, dict.fromkeys(("quick", "slow", "free"), "D0"))
    plan = type(plan)(problem, dict.fromkeys(("quick", "slow", "free"), "D0"), ("slow", "free", "quick"), "by hand", piled)
    result = repair(plan, (Device("D0", "x", 8), Device("D1", "x", 12)))
    assert result.displaced == {"quick"}
    assert result.plan.assignment == {"quick": "D1", "slow": "D0", "free": "D0"}


def test_too_little_room_around_what_stays_displaces_more_and_at_last_replans() -> None:
    # D1 keeps 6 + 6 of 13 bytes, D2 9 of 13: the 7 of the lost device fit only after something large gives way
    ops = (Op("a", 9, 7), Op("b", 9, 6), Op("c", 9, 6), Op("d", 9, 7))
    three = tuple(Device(f"D{d}", "x", 13) for d in range(3))
    problem = Problem(ops=ops, devices=three)
    assignment = {"a": "D0", "b": "D1", "c": "D1", "d": "D2"}
    plan = type(place(problem))(problem, assignment, ("a", "b", "c", "d"), "by hand", simulate(problem, assignment))
    result = repair(plan, three[1:])
    assert result.plan.simulation.valid
    assert result.plan.assignment["a"] != "D0"
    assert len(result.moved) >= 2
    with pytest.raises(InfeasibleError, match="13 bytes short"):
        repair(plan, three[1:2])
    with pytest.raises(ProblemError, match="at least one device"):
        repair(plan, ())


def test_an_op_that_only_the_lost_device_ran_cannot_be_repaired() -> None:
    problem = Problem(
        ops=(Op("a", {"tpu": 1}), Op("b", 1)), edges=(Edge("a", "b"),), devices=(Device("t", "tpu", 9), Device("g", "gpu", 9))
    )
    with pytest.raises(ProblemError, match="op 'a' runs on no device"):
        repair(place(problem), problem.devices[1:])


def test_repairing_a_larger_graph_moves_little_and_stays_near_a_full_replan() -> None:
    problem = block_problem(Random(5), 8, 8, weights=False, branches=8, share=0.5)
    plan = place(problem)
    result = repair(plan, problem.devices[1:])
    fresh = place(problem.with_devices(problem.devices[1:]))
    assert not result.full_replan
    assert len(result.moved) < 0.3 * len(problem.ops)
    assert result.plan.makespan <= 1.3 * fresh.makespan


def test_room_that_copies_will_take_is_not_given_away() -> None:
    # "b" must receive 6 bytes of "a": were they not counted before "c" is placed, "c" would go beside it, where it starts sooner
    ops = (Op("a", 5, 2), Op("b", 5, 2), Op("c", 4, 3))
    three = tuple(Device(f"D{d}", "x", mem) for d, mem in enumerate((12, 10, 9)))
    problem = Problem(ops=ops, edges=(Edge("a", "b", 6, 1),), devices=three)
    assignment = {"a": "D0", "b": "D1", "c": "D2"}
    plan = type(place(problem))(problem, assignment, ("a", "c", "b"), "by hand", simulate(problem, assignment))
    result = repair(plan, three[:2])
    assert not result.full_replan
    assert (result.displaced, result.plan.assignment["c"]) == ({"c"}, "D0")


def test_losing_a_device_of_a_full_fleet_is_repaired_and_not_planned_anew() -> None:
    problem = block_problem(Random(0), 40, 8, weights=False, speeds=(1000, 500, 2000, 1500), share=0.165)
    plan = place(problem)
    assert max(plan.simulation.peaks.values()) > 0.95 * problem.devices[0].mem
    result = repair(plan, problem.devices[1:])
    assert not result.full_replan
    assert len(result.moved) < 0.3 * len(problem.ops)
