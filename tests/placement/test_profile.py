"""Times of ops in their place: every op, there and back, and the loss; nothing of the model is another afterwards."""

import itertools

import pytest
import torch
from tests.placement.models import FAMILIES, Branching, perceptron
from torch import Tensor, nn

from mottle.core.errors import ConfigError
from mottle.placement.tracing import Times, capture, profile
from mottle.placement.tracing.example import as_example


def mean_of(answer: object) -> Tensor:
    first = next(iter(answer.values())) if isinstance(answer, dict) else answer[0] if isinstance(answer, tuple) else answer
    assert isinstance(first, Tensor)
    return first.float().square().mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_op_of_a_model_gets_its_time_there_and_back(family: str) -> None:
    build, example = FAMILIES[family]
    model = build().train()
    captured = capture(model, example())
    ticks = itertools.count(0, 10)
    found = profile(captured, model, as_example(example()), mean_of, repeats=3, warm_up=1, in_flight=2, clock_ns=lambda: next(ticks))
    assert set(found.units) == {unit.id for unit in captured.units}
    assert found.loss.forward == 10  # two readings
    for unit in captured.units:
        computed = [name for name in unit.nodes if unit.kind != "input"]
        assert found.units[unit.id].forward <= 10 * len(computed)
    learners = [unit.id for unit in captured.units if unit.state.trainable]
    assert any(found.units[name].backward > 0 for name in learners)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_clock_is_read_once_behind_every_node_of_the_way_back() -> None:
    """A linear layer is a product and two sums into gradients that are there; ReLU is one node."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).train()
    captured = capture(model, torch.randn(3, 4))
    ticks = itertools.count(0, 10)
    found = profile(captured, model, as_example(torch.randn(3, 4)), mean_of, repeats=2, warm_up=0, clock_ns=lambda: next(ticks))
    backward = {name: times.backward for name, times in found.units.items()}
    assert backward["1/relu"] == 10
    assert backward["0/linear"] == backward["2/linear_1"] >= 30
    assert found.loss == Times(10, 20)  # the mean and the square


def test_gradients_that_are_there_stay_and_the_real_clock_sees_the_larger_op() -> None:
    model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 4)).train()
    before = [torch.full_like(parameter, 7.0) for parameter in model.parameters()]
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        parameter.grad = gradient
    x = torch.randn(128, 256)
    found = profile(capture(model, x), model, as_example(x), mean_of, repeats=4)
    assert found.units["0/linear"].forward > found.units["1/linear_1"].forward > 0
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        assert parameter.grad is gradient
        assert bool((gradient == 7).all())


def test_what_cannot_be_profiled_is_told() -> None:
    with pytest.raises(ConfigError, match="leave its times to the roofline"):
        profile(capture(Branching(), torch.randn(2, 4)), Branching(), as_example(torch.randn(2, 4)), mean_of)
    model = perceptron().eval()
    with pytest.raises(ConfigError, match="capture the model in training mode"):
        profile(capture(model, torch.randn(7, 12)), model, as_example(torch.randn(7, 12)), mean_of)
