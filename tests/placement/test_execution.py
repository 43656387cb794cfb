"""Placed models compute what unplaced ones compute, bit by bit, and copy what the plan says is copied."""

import copy
from typing import Any

import pytest
import torch
from tests.placement.models import FAMILIES, Branching, Recurrent, Residual, Tied, perceptron
from torch import nn

from mottle.core.errors import ConfigError
from mottle.placement import Device, Plan, place
from mottle.placement.execution import HookedModule, PlacedModule, place_model
from mottle.placement.execution.program import Program
from mottle.placement.execution.targets import Target
from mottle.placement.tracing import Capture, capture

THREE = tuple(Device(name, "t4", 1 << 30) for name in ("a", "b", "c"))
HERE = {"a": "cpu", "b": "cpu", "c": "cpu"}
"""Three logical devices on one processor: what passes between them is copied all the same."""


def call(model: nn.Module, example: Any) -> list[torch.Tensor]:
    answer = model(**example) if isinstance(example, dict) else model(example)
    return list(answer.values()) if isinstance(answer, dict) else [answer]


def planned(model: nn.Module, example: Any, algorithm: str = "round-robin", source: Any = None) -> tuple[Capture, Plan]:
    captured = capture(model, example, source=source)
    return captured, place(captured.problem(THREE), algorithm)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("algorithm", ["round-robin", "random", "layer-split"])
def test_training_steps_are_bit_identical_to_the_model_without_placement(family: str, algorithm: str) -> None:
    build, make = FAMILIES[family]
    torch.manual_seed(0)
    model, example = build(), make()
    alone = copy.deepcopy(model)
    captured, plan = planned(model, example, algorithm)
    placed = PlacedModule(model, captured, plan, devices=HERE)
    assert len(plan.devices_used) > 1
    assert placed.program(torch.device("cpu")).moves
    optimizers = [torch.optim.Adam(net.parameters(), 0.01) for net in (alone, placed)]
    for step in range(4):
        results = []
        for net, optimizer in zip((alone, placed), optimizers, strict=True):
            torch.manual_seed(step)  # dropout
            optimizer.zero_grad()
            outputs = call(net, example)
            torch.stack([output.square().mean() for output in outputs]).sum().backward()
            results.append((outputs, [parameter.grad for parameter in net.parameters()]))
            optimizer.step()
        for one, other in zip(*(outputs + gradients for outputs, gradients in results), strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other)
    assert list(alone.state_dict()) == list(placed.state_dict())
    for one, other in zip(alone.state_dict().values(), placed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_uses_the_trained_weights_where_they_are(family: str) -> None:
    build, make = FAMILIES[family]
    torch.manual_seed(1)
    model, example = build(), make()
    alone = copy.deepcopy(model)
    placed = PlacedModule(model, *planned(model, example), devices=HERE)
    for net in (alone, placed):
        torch.manual_seed(2)
        call(net, example)  # BatchNorm's statistics move
        net.eval()
    # with gradients on: without, PyTorch's own TransformerEncoderLayer takes a fused path that rounds differently
    for one, other in zip(call(alone, example), call(placed, example), strict=True):
        assert torch.equal(one, other)
    placed.train()
    alone.train()
    torch.manual_seed(3)
    expected = call(alone, example)
    torch.manual_seed(3)
    assert all(torch.equal(one, other) for one, other in zip(expected, call(placed, example), strict=True))


def test_leaf_modules_of_a_symbolic_trace_run_where_they_were_put() -> None:
    torch.manual_seed(0)
    model, example = Residual(), torch.randn(2, 3, 8, 8)
    alone = copy.deepcopy(model)
    placed = PlacedModule(model, *planned(model, example, source="fx"), devices=HERE)
    for net in (alone, placed):
        torch.manual_seed(5)
        call(net, example)[0].sum().backward()
    for one, other in zip(alone.parameters(), placed.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forward_pass_makes_the_copies_of_the_plan_and_no_others(family: str) -> None:
    build, make = FAMILIES[family]
    model = build().eval()
    captured = capture(model, make())
    plan = place(captured.problem(THREE), "round-robin")
    placed = PlacedModule(model, captured, plan, devices=HERE)
    made = sorted((move.node, move.src, move.dst) for move in placed.program(torch.device("cpu")).moves)
    assert made == sorted((copy.tensor, copy.src, copy.dst) for copy in plan.simulation.transfers)


def test_parameters_keep_their_identity() -> None:
    model = perceptron()
    before = list(model.parameters())
    captured, plan = planned(model, torch.randn(7, 12))
    placed = PlacedModule(model, captured, plan, devices=HERE)
    assert all(one is other for one, other in zip(before, placed.parameters(), strict=True))
    assert placed.device_of == {
        f"{layer}.{kind}": plan.assignment[op]
        for layer, op in ((0, "0/linear"), (2, "2/linear_1"), (4, "4/linear_2"))
        for kind in ("weight", "bias")
    }


def test_values_and_what_is_made_on_the_way_follow_their_ops_to_another_torch_device() -> None:
    # the meta device stands in for an accelerator: mixing it with the processor is an error, as it is with a real one
    model = Tied()
    model.project = nn.Linear(16, 20, bias=False)  # untied: it goes where the embedding does not
    captured = capture(model, torch.randint(0, 20, (2, 6)))
    far: set[str] = set()
    for unit in captured.units:
        if unit.kind == "triu" or unit.id.startswith("layer") or any(flow.producer in far for flow in unit.inputs):
            far.add(unit.id)
    home = {node: "far" if unit.id in far else "near" for unit in captured.units for node in unit.nodes}
    targets = {"near": Target("near", torch.device("cpu")), "far": Target("far", torch.device("meta"))}
    for part in (model.layer, model.project):
        part.to("meta")
    program = Program(captured.traced, home, targets, model, torch.device("meta"))
    assert {move.dst for move in program.moves} == {"far"}
    answer = program(model, (torch.randint(0, 20, (2, 6)),), {})
    assert answer.is_meta
    assert answer.shape == (2, 6, 20)


def test_what_was_not_captured_is_refused() -> None:
    model = perceptron()
    captured, plan = planned(model, torch.randn(7, 12))
    placed = PlacedModule(model, captured, plan, devices=HERE)
    with pytest.raises(
        ConfigError, match=r"was captured as a tensor of shape \(7, 12\) and torch.float32; got a tensor of shape \(8, 12\)"
    ):
        placed(torch.randn(8, 12))
    with pytest.raises(ConfigError, match="does not take the given arguments"):
        placed()
    with pytest.raises(ConfigError, match="stays where its plan put it"):
        placed.to(torch.float64)
    with pytest.raises(ConfigError, match="it was made for another capture"):
        PlacedModule(model, capture(Recurrent(), FAMILIES["recurrent"][1]()), plan, devices=HERE)
    other = nn.Sequential(nn.Linear(11, 24), *list(perceptron().children())[1:])
    with pytest.raises(ConfigError, match=r"is not the one that was captured: parameters \['0.weight'\] differ"):
        PlacedModule(other, captured, plan, devices=HERE)
    with pytest.raises(ConfigError, match="say where it is with devices"):
        PlacedModule(model, captured, plan)
    with pytest.raises(ConfigError, match="not in `devices`"):
        PlacedModule(model, captured, plan, devices={"a": "cpu"})


def test_a_model_without_a_graph_runs_its_own_python_on_its_devices() -> None:
    torch.manual_seed(0)
    model, example = Branching(), torch.randn(2, 4)
    alone = copy.deepcopy(model)
    captured, plan = planned(model, example)
    placed = place_model(model, captured, plan, devices=HERE)
    assert isinstance(placed, HookedModule)
    reached = {unit.id for unit in captured.units}
    assert {name: placed.device_of[name] for name in placed.device_of if name.split(".")[0] in reached} == {
        f"{unit}.{kind}": plan.assignment[unit] for unit in reached - {"input 0"} for kind in ("weight", "bias")
    }
    for inputs in (example, -example, torch.randn(5, 4)):  # both branches, another shape
        assert torch.equal(alone(inputs), placed(inputs))
    alone(example).sum().backward()
    placed(example).sum().backward()
    for one, other in zip(alone.parameters(), placed.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad)
    assert list(alone.state_dict()) == list(placed.state_dict())
    with pytest.raises(ConfigError, match="stays where its plan put it"):
        placed.double()
    with pytest.raises(ConfigError, match="has no graph to run: use place_model"):
        PlacedModule(model, captured, plan, devices=HERE)


class Forked(nn.Module):
    """A sum of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.far(x) + self.near(x) * torch.tensor(2.0)
        answer: torch.Tensor = self.out(y)
        return answer


def test_operands_between_leaf_modules_meet_where_the_first_one_is() -> None:
    model = Forked()
    for part in ("far", "out"):
        getattr(model, part).to("meta")  # stands in for an accelerator: mixing it with the processor is an error
    targets = {"a": Target("a", torch.device("cpu")), "b": Target("b", torch.device("meta"))}
    placed = HookedModule(model, {"far": "b", "out": "b"}, targets, torch.device("meta"))
    assert placed(torch.randn(3, 4)).is_meta
    assert {name for name, device in placed.device_of.items() if device == "b"} == {
        name for name, tensor in placed.state_dict().items() if tensor.is_meta
    }


class Fan(nn.Module):
    """One value with many readers, whose gradients have to be added in some order."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.readers = nn.Linear(8, 8), nn.ModuleList(nn.Linear(8, 8) for _ in range(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y = x
        for reader in self.readers:
            y = y + torch.tanh(reader(x))
        return y


def test_gradients_of_a_value_with_many_readers_differ_by_rounding_alone() -> None:
    torch.manual_seed(0)
    model, example = Fan(), torch.randn(6, 8)
    alone = copy.deepcopy(model)
    placed = PlacedModule(model, *planned(model, example), devices=HERE)
    outputs = [net(example) for net in (alone, placed)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for one, other in zip(alone.parameters(), placed.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert (one.grad - other.grad).norm() <= 1e-6 * one.grad.norm()
