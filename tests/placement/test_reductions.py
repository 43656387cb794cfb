"""Recomputation and offload as placement choices (specification 7.5): in the problem, in plans, and in what runs."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.placement.models import FAMILIES, Branching
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mottle.core.errors import ConfigError
from mottle.placement import (
    Device,
    Edge,
    InfeasibleError,
    Link,
    Op,
    Plan,
    Problem,
    ProblemError,
    Reduction,
    Segment,
    capture,
    load_plan,
    place,
    place_file,
    repair,
    replan,
    save_plan,
    save_problem,
    simulate,
)
from mottle.placement.execution import PlacedModule, place_model
from mottle.placement.notebook import plan_html
from mottle.placement.reductions import Means, Reducer
from mottle.placement.tracing.segments import part_into_segments

laws = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

HOST = {"gpu": Link(1, 10**9)}  # with ticks of 1 ns: a tick and one for every byte
SLOW = {"gpu": Link(1, 10**8)}


def step(mem: int, *, hosts: dict[str, Link] | None = None, depth: int = 4, devices: int = 1, comm: int = 1000, size: int = 10) -> Problem:
    """A training step of a chain: f0 to f3 of 10 ticks and bytes, the loss, b3 to b0 of 20; b reads what its f took. Two segments."""
    ops, edges = [Op("x", 1, out=0)], []
    for i in range(depth):
        before = f"f{i - 1}" if i else "x"
        ops += [Op(f"f{i}", 10, 1, out=size, group=f"g{i}"), Op(f"b{i}", 20, out=size, group=f"g{i}")]
        edges.append(Edge(before, f"f{i}", size if i else 0, comm))
        edges.append(Edge(before, f"b{i}", size if i else 0, comm))
        edges.append(Edge(f"b{i + 1}" if i + 1 < depth else "loss", f"b{i}", size, comm, "gradient"))
    ops.append(Op("loss", 1, out=size))
    edges.append(Edge(f"f{depth - 1}", "loss", size, comm))
    half = depth // 2
    segments = [
        Segment(name, tuple((f"f{i}", f"b{i}") for i in part)) for name, part in (("front", range(half)), ("rear", range(half, depth)))
    ]
    return Problem(
        ops=tuple(ops),
        edges=tuple(edges),
        devices=tuple(Device(f"d{d}", "gpu", mem) for d in range(devices)),
        mem_mode="dynamic",
        segments=tuple(segments),
        host_links=hosts or {},
    )


# --- the problem ----------------------------------------------------------------------------------------------------


def test_what_is_recomputed_runs_again_when_the_gradient_comes_and_its_backward_ops_read_from_that() -> None:
    problem = step(1000)
    reducer = Reducer(problem)
    reduced = reducer.apply([Reduction("recompute", "front", problem.segments[0].passes)])
    added = {op.id: op for op in reduced.problem.ops if op.id not in reducer.ops}
    # b1 reads what f0 made; nothing in the segment reads what f1 made, so f1 need not run again
    assert added == {"f0:again": Op("f0:again", 10, out=10, group="g0")}
    edges = {(edge.src, edge.dst): edge.bytes for edge in reduced.problem.edges}
    assert ("f0", "b1") not in edges
    assert edges["f0:again", "b1"] == 10
    assert edges["b2", "f0:again"] == 0  # not before the gradient
    assert [segment.id for segment in reduced.problem.segments] == ["rear"]
    before, after = (_alone(each) for each in (problem, reduced.problem))
    assert (before.makespan, before.end["loss"], after.makespan) == (122, 42, 132)
    assert after.start["f0:again"] == after.end["b2"] == 82
    # at the loss: four weights, f0 to f3, the gradient of the loss; f0 is gone with it recomputed
    assert (before.peaks, after.peaks) == ({"d0": 54}, {"d0": 44})


def test_what_is_offloaded_takes_the_device_twice_and_does_not_wait_on_it() -> None:
    problem = step(1000, hosts=HOST)
    reducer = Reducer(problem)
    reduced = reducer.apply([Reduction("offload", "rear", problem.segments[1].passes)])
    added = {op.id: op for op in reduced.problem.ops if op.id not in reducer.ops}
    # b2 reads f1's output, b3 f2's: 10 bytes each, 1 + 10 ticks a copy
    assert added == {
        name: Op(name, {"gpu": 11}, out=10 if "fetch" in name else 0, group=name[0].replace("f", "g") + name[1])
        for name in ("f2:store", "f2:fetch", "f3:store", "f3:fetch")
    }
    simulation = _alone(reduced.problem)
    assert simulation.makespan == 122 + 4 * 11
    assert simulation.start["f3:fetch"] == simulation.end["loss"]
    assert simulation.peaks == {"d0": 44}  # f1 and f2 are on the host; what came back takes the place of f3


def _alone(problem: Problem) -> Any:
    return simulate(problem, {op.id: "d0" for op in problem.ops})


def test_segments_are_checked() -> None:
    problem = step(1000)
    good = problem.segments[0]
    for segments, wanted in [
        ((Segment("s", (("f0", "nobody"),)),), "names the unknown op 'nobody'"),
        ((good, Segment("other", (("f1", "b0"),))), "names op 'f1' again"),
        ((good, good), "is listed twice"),
        ((Segment("s", (("f0", None),)),), "has no backward op"),
    ]:
        with pytest.raises(ProblemError, match=wanted):
            replace(problem, segments=segments)
    with pytest.raises(ProblemError, match="segments need mem_mode 'dynamic'"):
        replace(problem, mem_mode="static")
    with pytest.raises(ProblemError, match="link of class 'gpu' to its host: lat"):
        replace(problem, host_links={"gpu": Link(-1)})


# --- plans ----------------------------------------------------------------------------------------------------------


def test_auto_recomputes_where_nothing_fits_otherwise_and_no_more_than_it_takes() -> None:
    with pytest.raises(InfeasibleError, match="or recompute or offload outputs"):
        place(step(49), activations="keep")
    plan = place(step(49))
    assert [(each.means, each.segment, each.ticks, each.bytes) for each in plan.reductions] == [("recompute", "front", 10, 10)]
    assert (plan.makespan, plan.simulation.peaks, plan.simulation.valid) == (132, {"d0": 44}, True)
    assert plan.given.ops == step(49).ops
    assert place(step(54)).reductions == ()
    longer = place(step(70, depth=8))  # 98 with all kept; f0 to f2 are enough
    assert [(each.segment, each.bytes) for each in longer.reductions] == [("front", 30)]
    assert longer.simulation.peaks == {"d0": 68}
    with pytest.raises(InfeasibleError, match="not even with 2 segments recomputed or offloaded"):
        place(step(43))  # four weights, and in b3 its output, its gradient, f1 and f2 again


def test_offload_is_taken_where_its_copies_are_quicker_than_running_again() -> None:
    fast = {"gpu": Link(0, 10**10)}
    assert [each.means for each in place(step(49, hosts=fast)).reductions] == ["offload"]
    assert [each.means for each in place(step(49, hosts=SLOW)).reductions] == ["recompute"]
    assert [each.means for each in place(step(49, hosts=SLOW), activations="offload").reductions] == ["offload"]
    assert place(step(49, hosts=fast), activations="recompute").makespan == 132
    with pytest.raises(InfeasibleError):
        place(step(49), activations="offload")  # no way to a host


def test_recomputing_on_one_device_beats_a_split_over_a_slow_link_and_loses_to_one_over_a_fast_link() -> None:
    slow, fast = step(49, devices=2, comm=1000), step(49, devices=2, comm=1)
    assert place(slow, activations="keep").makespan > 1000
    assert (place(slow).makespan, len(place(slow).devices_used)) == (132, 1)
    assert place(fast).reductions == ()
    assert place(fast).makespan == place(fast, activations="keep").makespan < 132


@laws
@given(st.randoms(use_true_random=False))
def test_plans_with_reductions_fit_and_none_is_slower_than_without(rng: Random) -> None:
    problem = step(
        rng.randint(20, 80),
        hosts=rng.choice([None, HOST, SLOW]),
        depth=rng.randint(2, 7),
        devices=rng.randint(1, 3),
        comm=rng.choice([1, 20, 500]),
        size=rng.randint(1, 12),
    )
    plans = {}
    for choice in ("auto", "keep"):
        try:
            plans[choice] = place(problem, activations=choice)  # type: ignore[arg-type]  # a literal
        except InfeasibleError:
            continue
    if "keep" in plans:
        assert plans["auto"].makespan <= plans["keep"].makespan
    if "auto" in plans:
        plan = plans["auto"]
        again = simulate(plan.problem, plan.assignment, plan.priority)
        assert again.valid
        assert again.makespan == plan.makespan
        assert {name: plan.assignment[name] for name in (op.id for op in problem.ops)}.keys() == {op.id for op in problem.ops}
        assert all(each.means == "recompute" or problem.host_links for each in plan.reductions)


def test_a_plan_tells_what_is_recomputed_and_what_that_costs(tmp_path: Path) -> None:
    problem = step(49)
    save_problem(problem, tmp_path / "graph.json")
    report = place_file(tmp_path / "graph.json", out=tmp_path / "plan.json", with_explanation=True)
    rows = [line.split() for line in report.explanation.splitlines()]
    assert ["front", "recomputed", "2", "d0", "10", "10"] in rows
    assert "recomputed to save memory: front; 10 bytes do not wait on their devices, which work 10 ticks" in report.explanation
    assert "recomputed</td>" in plan_html(report.plan)
    read = load_plan(tmp_path / "plan.json")
    assert (read.makespan, read.reductions, read.problem.segments) == (132, report.plan.reductions, report.plan.problem.segments)
    assert load_plan(tmp_path / "plan.json").problem.host_links == {}
    data = json.loads((tmp_path / "plan.json").read_text())
    data["reductions"][0]["means"] = "forget"
    data["reductions"][0]["ops"] = [["f0", "gone"]]
    (tmp_path / "bad.json").write_text(json.dumps(data))
    with pytest.raises(ProblemError, match=r"'means' is one of recompute, offload; got 'forget'[\s\S]*unknown op 'gone'"):
        load_plan(tmp_path / "bad.json")
    data["segments"] = [{"id": "s", "ops": ["f0"]}]
    (tmp_path / "bad.json").write_text(json.dumps(data))
    with pytest.raises(ProblemError, match="'ops' must be a list of pairs"):
        load_plan(tmp_path / "bad.json")


def test_files_carry_segments_and_links_to_hosts(tmp_path: Path) -> None:
    problem = step(49, hosts=HOST)
    save_problem(problem, tmp_path / "graph.json")
    plan = place_file(tmp_path / "graph.json").plan
    assert (plan.given.segments, plan.given.host_links) == (problem.segments, problem.host_links)


def test_a_repair_keeps_what_is_recomputed_and_a_full_replan_decides_anew() -> None:
    plan = place(step(49, devices=2))
    assert plan.reductions
    gone = plan.devices_used[0]
    left = tuple(device for device in plan.problem.devices if device.id != gone)
    repaired = repair(plan, left).plan
    assert (repaired.reductions, repaired.makespan, repaired.simulation.valid) == (plan.reductions, 132, True)
    assert repaired.given.devices == left
    roomy = tuple(device._replace(mem=1000) for device in plan.problem.devices)
    anew = replan(plan, roomy, restart_s=0)
    assert (anew.taken.full_replan, anew.taken.plan.reductions, anew.taken.plan.makespan) == (True, (), 122)


def test_reductions_are_a_choice_of_auto() -> None:
    with pytest.raises(ConfigError, match="activations is one of auto, keep, recompute, offload; got 'forget'"):
        place(step(49), activations="forget")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ConfigError, match="is a choice of algorithm auto; 'heft' keeps them"):
        place(step(49), "heft", activations="recompute")


# --- captured models ------------------------------------------------------------------------------------------------


class Deep(nn.Module):
    """Blocks with dropout, whose inside is wider than what passes between them."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Dropout(0.3), nn.Linear(128, 32), nn.LayerNorm(32)) for _ in range(depth))
        )
        self.head = nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.head(self.blocks(x))
        return answer


DEVICES = [Device("a", "rtx2080", 1 << 40), Device("b", "rtx2080", 1 << 40)]
HERE = {"a": "cpu", "b": "cpu"}
MODELS = {**FAMILIES, "deep": (Deep, lambda: torch.randn(16, 32))}


def test_segments_end_where_little_passes() -> None:
    captured = capture(Deep(), torch.randn(16, 32))
    differentiated = [unit.id for unit in captured.units if unit.cost.has_backward]
    parts = part_into_segments(captured.units, differentiated)
    assert [[name for name, _ in part.passes][-1].split("/")[0] for part in parts[:-1]] == [f"blocks.{i}.4" for i in range(3)]
    every = [name for part in parts for name, _ in part.passes]
    assert len(set(every)) == len(every)


def test_what_writes_memory_that_others_read_is_in_no_segment() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.near, self.far = nn.Linear(4, 4), nn.Linear(4, 4)
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.near(x)
            self.seen.add_(x.detach().mean(0))
            answer: torch.Tensor = self.far(torch.relu(x) + self.seen)
            return answer

    captured = capture(Counting(), torch.randn(3, 4))
    unsteady = [unit for unit in captured.units if not unit.repeatable and unit.kind != "input"]
    assert {unit.kind for unit in unsteady} >= {"add_", "add"} or {"aten::add_", "aten::add"} <= {unit.kind for unit in unsteady}
    listed = {name for segment in captured.problem(DEVICES).segments for name, _ in segment.passes}
    assert not listed & {unit.id for unit in unsteady}


def reduced_plan(model: nn.Module, example: Any, means: Means) -> Plan:
    """Every segment reduced, the ops dealt out to two devices."""
    captured = capture(model, example)
    problem = captured.problem(DEVICES)
    base = place(problem, "layer-split" if isinstance(model, Deep) else "round-robin")
    reducer = Reducer(problem)
    reductions = tuple(reducer.whole(means))
    reduced = reducer.apply(reductions)
    device, order = reduced.extend(base.assignment, base.priority)
    graph = reduced.problem.graph
    assignment = {name: graph.devices[d] for name, d in zip(graph.names, device, strict=True)}
    priority = tuple(graph.names[i] for i in order)
    made = Plan(reduced.problem, assignment, priority, "dealt", simulate(reduced.problem, assignment, priority))
    return replace(made, reductions=reductions, unreduced=problem, captured=captured)


def call(net: nn.Module, example: Any) -> Any:
    return net(**example) if isinstance(example, dict) else net(example)


@pytest.mark.parametrize(
    ("family", "means"),
    [*((family, "recompute") for family in ("residual", "tied", "writes", "deep")), ("tied", "offload"), ("deep", "offload")],
)
def test_training_with_reductions_gives_the_bits_of_the_model_alone(family: str, means: Means) -> None:
    torch.manual_seed(0)
    build, make = MODELS[family]
    model, example = build(), make()
    alone = copy.deepcopy(model)
    placed = reduced_plan(model, example, means).module(model, devices=HERE)
    for net in (alone, placed):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for number in range(2):
            torch.manual_seed(number)
            optimizer.zero_grad()
            sum(leaf.square().sum() for leaf in tree_leaves(call(net, example))).backward()
            optimizer.step()
    for one, other in zip(alone.state_dict().values(), placed.state_dict().values(), strict=True):
        assert torch.equal(one, other)  # BatchNorm's statistics and counts, too
    with torch.no_grad():
        torch.manual_seed(7)
        expected = tree_leaves(call(alone, example))
        torch.manual_seed(7)
        assert all(torch.equal(one, other) for one, other in zip(expected, tree_leaves(call(placed, example)), strict=True))


class _Alive(TorchDispatchMode):
    """Memory that ops made and that is still there."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self.made[storage._cdata] = torch.multiprocessing.reductions.StorageWeakRef(storage), storage.nbytes()
        return result

    def bytes(self) -> int:
        return sum(size for reference, size in self.made.values() if not reference.expired())


def test_after_a_forward_pass_as_much_less_is_there_as_the_plan_says() -> None:
    example = torch.randn(256, 32)
    alive = {}
    for means in (None, "recompute"):
        torch.manual_seed(0)
        model = Deep(6)
        captured = capture(model, example)
        if means is None:
            plan = replace(place(captured.problem(DEVICES[:1]), "single"), captured=captured)
        else:
            problem = captured.problem(DEVICES[:1])
            most = max(place(problem, "single").simulation.peaks.values())
            tight = captured.problem([Device("a", "rtx2080", int(most * 0.6))])
            plan = replace(place(tight, activations="recompute"), captured=captured)
            saved = sum(each.bytes for each in plan.reductions)
        placed = plan.module(model, devices=HERE)
        with _Alive() as watch:
            out = placed(example)
            alive[means] = watch.bytes()
        out.sum().backward()
    assert saved > 0.3 * alive[None]
    assert alive[None] - alive["recompute"] == pytest.approx(saved, rel=0.02)


def test_a_model_that_is_planned_with_too_little_memory_trains_as_it_would_with_enough() -> None:
    torch.manual_seed(0)
    from mottle.placement import plan

    model, example = Deep(6), torch.randn(256, 32)
    roomy = plan(model, example, ["a=rtx2080"])
    need = max(roomy.simulation.peaks.values())
    made = plan(model, example, [f"a=rtx2080:{int(need * 0.6)}"])
    assert made.reductions
    assert made.makespan > roomy.makespan
    with pytest.raises(InfeasibleError):
        plan(model, example, [f"a=rtx2080:{int(need * 0.6)}"], activations="keep")
    alone = copy.deepcopy(model)
    placed = made.module(model, devices=HERE)
    for net in (alone, placed):
        torch.manual_seed(1)
        net(example).square().sum().backward()
    assert all(torch.equal(one.grad, other.grad) for one, other in zip(alone.parameters(), placed.parameters(), strict=True))


def test_what_cannot_be_honoured_is_refused_by_name(tmp_path: Path) -> None:
    model, example = Deep(), torch.randn(16, 32)
    made = reduced_plan(model, example, "recompute")
    captured = made.captured
    assert captured is not None
    first = captured.units[0].id  # an input
    for passes, wanted in [(((first, None),), "must run once"), ((("nobody", None),), "op 'nobody' was not captured")]:
        bad = replace(made, reductions=(Reduction("recompute", "part", passes),))
        with pytest.raises(ConfigError, match=f"the plan wants 'part' recomputed, but op .*{wanted.split()[-1]}"):
            PlacedModule(model, captured, bad, devices=HERE)
    ends = (captured.units[1], captured.units[-1])
    apart = replace(made, reductions=(Reduction("offload", "ends", tuple((unit.id, None) for unit in ends)),))
    with pytest.raises(ConfigError, match=r"does not run in one go: \['ends'\]"):
        PlacedModule(model, captured, apart, devices=HERE).program(torch.device("cpu"))
    watched = Branching()
    seen = capture(watched, torch.randn(2, 4))
    assert seen.problem(DEVICES).segments == ()
    forced = replace(place(seen.problem(DEVICES), "single"), reductions=(Reduction("recompute", "small", ()),))
    with pytest.raises(ConfigError, match="the plan wants 'small' recomputed, which takes a static graph"):
        place_model(watched, seen, forced, devices=HERE)
    save_plan(made, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json").reductions == made.reductions
