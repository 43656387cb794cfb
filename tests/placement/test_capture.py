"""Capture: graphs of small models with the sizes and the work that arithmetic says they have."""

from typing import Any

import pytest
import torch
from tests.placement.models import FAMILIES, Branching, Recurrent, Residual, Tied, Writes, perceptron
from torch import Tensor, nn

from mottle.core.errors import ConfigError
from mottle.placement import Device, Link, place, simulate
from mottle.placement.tracing import DEVICE_CLASSES, Capture, DeviceClass, Times, Unit, capture, declare, measure, parse_bytes, parse_shapes
from mottle.placement.tracing.costs import Work

TWO = (Device("g", "t4", 1 << 30), Device("c", "cpu-8", 1 << 30))


def units(captured: Capture) -> dict[str, Unit]:
    return {unit.id: unit for unit in captured.units}


def test_a_perceptron_is_a_chain_with_the_flops_and_bytes_of_its_layers() -> None:
    found = units(capture(perceptron(), torch.randn(7, 12)))
    assert list(found)[1:] == ["0/linear", "1/relu", "2/linear_1", "3/gelu", "4/linear_2"]
    assert found[next(iter(found))].kind == "input"
    first, second = found["0/linear"], found["2/linear_1"]
    assert first.cost.forward == Work({"matmul": 2 * 7 * 12 * 24}, 4 * (7 * 12 + 12 * 24 + 24 + 7 * 24))
    assert first.cost.backward.flops == {"matmul": 2 * 7 * 12 * 24}  # the input wants no gradient
    assert second.cost.backward.flops == {"matmul": 2 * 2 * 7 * 24 * 24}
    assert (first.state.trainable, first.state.trainable_values, first.out) == (4 * (12 * 24 + 24), 12 * 24 + 24, 4 * 7 * 24)
    assert [(flow.producer, flow.bytes, flow.saved, flow.differentiable) for flow in second.inputs] == [("1/relu", 4 * 7 * 24, True, True)]
    assert found["1/relu"].cost.saves_outputs
    assert not found["3/gelu"].cost.saves_outputs


def test_convolution_and_recurrence_have_the_flops_of_the_textbook() -> None:
    block = units(capture(Residual(), torch.randn(2, 3, 8, 8)))
    (conv,) = (unit for name, unit in block.items() if name.startswith("conv2/"))
    assert conv.cost.forward.flops == {"convolution": 2 * 2 * 8 * 8 * 8 * (8 * 3 * 3)}
    lstm = units(capture(Recurrent(), FAMILIES["recurrent"][1]()))["first/lstm"]
    assert lstm.cost.forward.flops == {"matmul": 2 * 2 * 5 * 4 * 8 * (6 + 8)}
    assert lstm.cost.backward.flops == {"matmul": 2 * lstm.cost.forward.flops["matmul"]}


def test_in_place_ops_whose_memory_nobody_looks_at_again_do_not_tie_a_network_together() -> None:
    found = capture(Residual(), torch.randn(2, 3, 8, 8)).units
    assert all(unit.group is None for unit in found)
    assert {unit.kind for unit in found} >= {"add", "relu", "batch_norm"}
    assert not {"add_", "relu_"} & {unit.kind for unit in found}


def test_writes_through_a_view_stay_in_place_and_keep_their_readers_together() -> None:
    found = capture(Writes(), torch.randn(3, 4)).units
    (fill,) = (unit for unit in found if unit.kind == "fill_")
    together = {unit.kind for unit in found if unit.group == fill.group}
    assert together >= {"mul", "fill_", "linear", "add"}


def test_tied_weights_are_one_group_and_count_once() -> None:
    captured = capture(Tied(), torch.randint(0, 20, (2, 6)))
    found = units(captured)
    (embed,) = (unit for unit in captured.units if unit.kind == "embedding")
    (project,) = (unit for name, unit in found.items() if name.startswith("project/"))
    assert embed.group == project.group is not None
    assert (embed.state.trainable, project.state.trainable) == (4 * 20 * 16, 0)
    assert sum(unit.state.trainable for unit in captured.units) == sum(4 * p.numel() for p in Tied().parameters())


def test_a_buffer_that_several_ops_only_read_travels_instead_of_tying_them() -> None:
    captured = capture(Tied(), torch.randint(0, 20, (2, 6)))
    (scale,) = (unit for unit in captured.units if unit.id.endswith("scale"))
    assert scale.state.frozen == 4
    readers = [unit for unit in captured.units if any(flow.producer == scale.id for flow in unit.inputs)]
    assert len(readers) == 2


def test_batch_norms_buffers_are_its_own() -> None:
    (norm,) = (unit for unit in capture(Residual(), torch.randn(2, 3, 8, 8)).units if unit.id.startswith("norm1/"))
    assert (norm.state.trainable, norm.state.frozen) == (2 * 8 * 4, 2 * 8 * 4 + 8)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_becomes_problems_that_can_be_placed(family: str) -> None:
    build, example = FAMILIES[family]
    captured = capture(build(), example())
    assert (captured.source, captured.reasons) == ("export", ())
    for graph in ("joint", "forward", "inference"):
        problem = captured.problem(TWO, graph=graph, default_link=Link(1, 10**10))
        plan = place(problem, "round-robin")
        assert plan.simulation.valid
        for op in problem.ops:
            if op.id.endswith(":backward"):
                assert plan.assignment[op.id] == plan.assignment[op.id.removesuffix(":backward")]


def test_a_joint_graph_runs_backward_passes_against_the_flow_and_updates_last() -> None:
    problem = capture(perceptron(), torch.randn(7, 12)).problem(TWO[:1])
    trace = simulate(problem, dict.fromkeys([op.id for op in problem.ops], "g"))
    start = trace.start
    assert start["4/linear_2"] < start["loss"] < start["4/linear_2:backward"] < start["2/linear_1:backward"] < start["0/linear:backward"]
    assert start["2/linear_1:backward"] < start["2/linear_1:update"]
    assert len(start) == 6 + 1 + 5 + 3  # forward with the input, loss, backward without it, updates


def test_resident_bytes_follow_the_optimizer_and_the_width_of_the_weights() -> None:
    def resident(optimizer: Any, dtype: torch.dtype) -> int:
        captured = capture(nn.Linear(10, 10, bias=False).to(dtype), torch.randn(2, 10).to(dtype))
        return sum(op.perm for op in captured.problem(TWO, optimizer=optimizer).ops)

    weights = 100
    assert [resident(name, torch.float32) // weights for name in ("sgd", "momentum", "adam")] == [8, 12, 16]
    assert resident("adam", torch.bfloat16) // weights == 2 + 2 + 4 + 4 + 4  # weight, gradient, master copy, two slots


def test_nothing_is_computed_and_meta_models_will_do() -> None:
    with torch.device("meta"):
        huge = nn.Sequential(nn.Linear(100_000, 100_000), nn.Linear(100_000, 10))
    captured = capture(huge, parse_shapes(["64x100000"]))
    assert sum(unit.state.trainable for unit in captured.units) > 4 * 10**10
    model = Residual()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    capture(model, torch.randn(2, 3, 8, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_model_in_evaluation_mode_has_an_inference_graph_only() -> None:
    captured = capture(Residual().eval(), torch.randn(2, 3, 8, 8))
    problem = captured.problem(TWO)
    assert not any(":" in op.id for op in problem.ops)
    assert sum(op.perm for op in problem.ops) == sum(t.nbytes for t in Residual().state_dict().values()) - 8 * 2  # nobody counts batches
    with pytest.raises(ConfigError, match=r"needs a model in training mode.*call train"):
        captured.problem(TWO, graph="joint")


def test_symbolic_tracing_gives_leaf_modules_of_the_same_size() -> None:
    by_export, by_fx = (capture(Residual(), torch.randn(2, 3, 8, 8), source=source) for source in ("export", "fx"))
    assert by_fx.source == "fx"
    for part in ("trainable", "frozen"):
        assert sum(getattr(u.state, part) for u in by_fx.units) == sum(getattr(u.state, part) for u in by_export.units)
    flops = [sum(sum(u.cost.forward.flops.values()) for u in captured.units) for captured in (by_export, by_fx)]
    assert flops[0] == flops[1] > 0


class Unexportable(nn.Module):
    """Nothing but symbolic tracing, which runs no values, gets through this."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        if isinstance(y, Tensor):
            raise RuntimeError("this tensor was seen by Python")
        return y


def test_the_second_source_says_why_the_first_would_not_do() -> None:
    captured = capture(Unexportable(), torch.randn(2, 4))
    assert captured.source == "fx"
    assert captured.reasons == ("export: RuntimeError: this tensor was seen by Python",)


def test_control_flow_on_values_is_watched_while_a_copy_runs() -> None:
    model = Branching()
    before = torch.random.get_rng_state()
    captured = capture(model, -torch.ones(2, 4))
    assert captured.source == "modules"
    assert [reason.partition(":")[0] for reason in captured.reasons] == ["export", "fx", "modules on fake tensors"]
    assert [unit.id for unit in captured.units] == ["input 0", "small", "out"]  # the branch that the example takes
    assert captured.outputs == ("out",)
    (flow,) = units(captured)["out"].inputs
    assert (flow.producer, flow.bytes, flow.saved) == ("small", 2 * 4 * 4, True)  # through the ReLU in between
    assert units(captured)["small"].cost.forward.flops == {"matmul": 2 * 2 * 4 * 4}
    assert torch.equal(before, torch.random.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with pytest.raises(ConfigError, match=r"has no static graph: export: .*data-dependent"):
        capture(model, torch.randn(2, 4), source="export")
    with torch.device("meta"):
        empty = Branching()
    with pytest.raises(ConfigError, match=r"to watch it run it needs real parameters and inputs: build it on the CPU"):
        capture(empty, torch.randn(2, 4))


def test_watching_sees_the_sizes_and_work_that_tracing_sees() -> None:
    for build, example in (FAMILIES["residual"], FAMILIES["tied"], FAMILIES["perceptron"]):
        model, inputs = build(), example()
        traced, watched = capture(model, inputs), capture(model, inputs, source="modules")
        assert watched.reasons == ()
        for part in ("trainable", "trainable_values", "frozen"):
            assert sum(getattr(u.state, part) for u in watched.units) == sum(getattr(u.state, part) for u in traced.units)
        flops = [sum(sum(u.cost.forward.flops.values()) for u in found.units) for found in (traced, watched)]
        assert flops[0] == flops[1]
        assert place(watched.problem(TWO, default_link=Link(1, 10**10)), "round-robin").simulation.valid


def test_wrong_calls_are_told() -> None:
    with pytest.raises(ConfigError, match="does not take the given arguments: missing a required argument: 'temperature'"):
        capture(Recurrent(), torch.randn(2, 5, 6))
    with pytest.raises(ConfigError, match="an example is a tensor, a tuple"):
        capture(perceptron(), "7x12")
    with pytest.raises(ConfigError, match="call the model once"):
        capture(nn.LazyLinear(3), torch.randn(2, 4))
    captured = capture(perceptron(), torch.randn(7, 12))
    with pytest.raises(ConfigError, match="did you mean 'a100-40gb'"):
        captured.problem([Device("d", "a100-40g", 10)])
    with pytest.raises(ConfigError, match="graph 'joined' is unknown; did you mean 'joint'"):
        captured.problem(TWO, graph="joined")


def test_times_are_the_roofline_and_measured_ones_win() -> None:
    kind = DeviceClass(flops_per_s={"float32": 1e12}, bytes_per_s=1e11, mem=1 << 30, overhead_ns=5_000)
    assert kind.time_ns(Work({"matmul": 3 * 10**9}, 1000), "float32") == pytest.approx(4e6 + 5_000)  # 3 GFLOP at 0.75 TFLOP/s
    assert kind.time_ns(Work({}, 15 * 10**7), "bfloat16") == pytest.approx(2e6 + 5_000)
    assert kind.time_ns(Work(), "float32") == 0
    captured = capture(perceptron(), torch.randn(7, 12))
    problem = captured.problem(TWO, graph="joint", measured={"t4": {"0/linear": Times(70_000, 90_000)}}, tick_ns=100)
    times = {op.id: op.time for op in problem.ops}
    assert times["0/linear"]["t4"] == 700
    assert times["0/linear:backward"]["t4"] == 900


def test_shapes_and_devices_are_written_as_text() -> None:
    example = parse_shapes(["8x3", "mask=8x3:bool", "scale=scalar:float64"])
    assert [(tuple(t.shape), t.dtype) for t in (*example.args, *example.kwargs.values())] == [
        ((8, 3), torch.float32),
        ((8, 3), torch.bool),
        ((), torch.float64),
    ]
    for text, message in (("8,3", "AxBxC"), ("8x3:int46", "did you mean 'int64'")):
        with pytest.raises(ConfigError, match=message):
            parse_shapes([text])
    with pytest.raises(ConfigError, match="positional inputs first"):
        parse_shapes(["a=8", "8"])
    assert declare("box=cpu-8:1.5Gi") == Device("box", "cpu-8", 3 << 29)
    assert declare("g=T4") == Device("g", "t4", DEVICE_CLASSES["t4"].budget)
    assert [parse_bytes(text) for text in ("7", "2K", "2KiB", "3MB", "1Gi")] == [7, 2000, 2048, 3_000_000, 1 << 30]
    for text, message in (
        ("t4", "name=class"),
        ("g=a10", "did you mean 'a10g'"),
        ("g=t4:lots", "a size is written"),
        ("g=t4:0", "positive"),
    ):
        with pytest.raises(ConfigError, match=message):
            declare(text)


@pytest.mark.parametrize("family", FAMILIES)
def test_distinct_ops_are_measured_once_each_and_equal_ones_share_the_time(family: str) -> None:
    build, example = FAMILIES[family]
    captured = capture(build(), example())
    readings = iter(range(0, 10**9, 700))
    times = measure(captured, repeats=3, warm_up=1, clock_ns=lambda: next(readings))
    writers = {unit.id for unit in captured.units if unit.kind.endswith("_") or "add_" in " ".join(unit.nodes)}
    assert {unit.id for unit in captured.units} - times.keys() <= writers
    for unit in captured.units:
        if unit.id in times and unit.cost.forward.traffic:
            assert times[unit.id].forward % 700 == 0 < times[unit.id].forward
            assert (times[unit.id].backward > 0) == unit.cost.has_backward
    assert next(readings) // 700 <= 2 * 2 * 4 * len(captured.units) + 1  # two readings a run, four runs a pass, two passes


def test_measured_times_are_those_of_this_machine() -> None:
    model = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 8))
    times = measure(capture(model, torch.randn(256, 512)))
    assert times["0/linear"].forward > times["1/linear_1"].forward > 0  # 64 times the work
    by_fx = measure(capture(Residual(), torch.randn(2, 3, 8, 8), source="fx"), repeats=1)
    assert by_fx["conv2/conv2"].backward > 0
    with pytest.raises(ConfigError, match="leave its times to the roofline"):
        measure(capture(Branching(), torch.randn(2, 4)))
