"""DSP's stale schedule: how late gradients are, equality with plain SGD and with its own replay, bounded queues, convergence."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mottle.core.errors import ConfigError
from mottle.placement.staging.stale import StaleConfig, train_stale


def stages(count: int) -> list[nn.Module]:
    torch.manual_seed(3)
    return [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(count - 1)] + [nn.Linear(6, 3)]


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 6, generator=generator), torch.randint(3, (4,), generator=generator)) for _ in range(count)]


def loss(out: Tensor, labels: Any) -> Tensor:
    return nn.functional.cross_entropy(out, labels)


def parameters(made: list[nn.Module]) -> list[Tensor]:
    return [parameter.detach().clone() for stage in made for parameter in stage.parameters()]


def test_staleness_adds_up_the_slots_from_a_stage_on() -> None:
    assert StaleConfig(lr=0.1, forward_slots=(1, 1)).staleness == (4, 2, 0)
    assert StaleConfig(lr=0.1, forward_slots=(2, 0, 1), gradient_slots=(1, 3, 0)).staleness == (7, 4, 1, 0)
    assert StaleConfig(lr=0.1, forward_slots=()).staleness == (0,)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_slots_it_is_synchronous_sgd_bit_for_bit(count: int, momentum: float) -> None:
    ours, given = stages(count), batches(12)
    model = nn.Sequential(*copy.deepcopy(ours))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=momentum)
    theirs = []
    for x, labels in given:
        optimizer.zero_grad()
        value = loss(model(x), labels)
        value.backward()
        optimizer.step()
        theirs.append(float(value.detach()))
    run = train_stale(ours, loss, given, StaleConfig(lr=0.2, momentum=momentum, forward_slots=(0,) * (count - 1)))
    assert run.losses == theirs
    assert all(torch.equal(a, b) for a, b in zip(parameters(ours), model.parameters(), strict=True))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=3), st.integers(1, 9))
def test_threads_give_the_bits_of_the_replay_and_queues_keep_their_bounds(slots: list[tuple[int, int]], count: int) -> None:
    config = StaleConfig(lr=0.1, momentum=0.5, forward_slots=tuple(p for p, _ in slots), gradient_slots=tuple(q for _, q in slots))
    ours = stages(len(slots) + 1)
    again = copy.deepcopy(ours)
    run = train_stale(ours, loss, batches(count), config)
    replayed = train_stale(again, loss, batches(count), config, threads=False)
    assert run.losses == replayed.losses
    assert all(torch.equal(a, b) for a, b in zip(parameters(ours), parameters(again), strict=True))
    for (kind, k), most in run.most_waiting.items():
        assert most <= max(1, slots[k][0 if kind == "forward" else 1])


class Times(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.factor * x
        return answer


@pytest.mark.parametrize(("count", "first", "last"), [(1, 1.1, 1.1), (2, 1.276, 1.26), (3, 1.24324, 1.234), (4, None, 1.210174)])
def test_the_worked_example_of_the_specification(count: int, first: float | None, last: float) -> None:
    """Two factors that begin at 1, losses (y - target)^2 / 2: the first stage's update is two ticks behind the last one's."""
    given = [(1.0, 2.0), (2.0, 3.0), (1.0, 1.0), (3.0, 4.0)][:count]
    made: list[nn.Module] = [Times(1.0), Times(1.0)]
    config = StaleConfig(lr=0.1, forward_slots=(1,))
    train_stale(made, lambda out, y: 0.5 * (out - y).square(), [(torch.tensor(x), torch.tensor(y)) for x, y in given], config)
    found = [made[k].factor.item() for k in range(2)]  # type: ignore[union-attr, operator]
    assert found[1] == pytest.approx(last, rel=1e-6)
    assert first is None or found[0] == pytest.approx(first, rel=1e-6)


def test_the_gradient_of_a_stage_is_late_by_its_staleness() -> None:
    """A product of two scalars: x0 is updated with x1 of then and the input of m_0 steps ago."""
    inputs = [1.0, 2.0, 4.0, 8.0, 16.0]
    made: list[nn.Module] = [Times(1.0), Times(3.0)]
    config = StaleConfig(lr=0.001, forward_slots=(1,))
    assert config.staleness == (2, 0)
    train_stale(made, lambda out, _: out.sum(), [(torch.tensor([x]), None) for x in inputs], config)
    first, second = [1.0], [3.0]  # after so many updates
    for j, x in enumerate(inputs):
        forward = first[max(0, j - 2)]
        first.append(first[j] - 0.001 * second[j] * x)
        second.append(second[j] - 0.001 * forward * x)
    assert [made[k].factor.item() for k in range(2)] == pytest.approx([first[-1], second[-1]], rel=1e-6)  # type: ignore[union-attr, operator]


def test_a_quadratic_is_learnt_at_the_rate_that_its_staleness_allows() -> None:
    generator = torch.Generator().manual_seed(2)
    truth = torch.randn(4, generator=generator)
    first, last = nn.Linear(4, 1, bias=False), nn.Identity()
    with torch.no_grad():
        first.weight.zero_()
    x_N4 = torch.eye(4)
    given = [(x_N4, x_N4 @ truth)] * 400
    config = StaleConfig(lr=0.5 / (0.5 * 7), forward_slots=(3,))  # the curvature of the mean of four squares is 1/2
    run = train_stale([first, last], lambda out, y: (out[:, 0] - y).square().mean(), given, config)
    assert run.losses[-1] < 1e-4 * run.losses[0]


def test_an_error_of_a_stage_ends_all_of_them() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise OSError("no such device")

    with pytest.raises(OSError, match="no such device"):
        train_stale([nn.Linear(6, 6), Broken()], loss, batches(3), StaleConfig(lr=0.1, forward_slots=(1,)))


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"momentum": 1.0}, {"forward_slots": (-1,)}, {"gradient_slots": (1, 1)}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="wanted a rate above 0"):
        StaleConfig(**{"lr": 0.1, "forward_slots": (1,), **wrong})


def test_slots_that_do_not_go_with_the_stages_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 stages have 2 queues"):
        train_stale(stages(3), loss, batches(1), StaleConfig(lr=0.1, forward_slots=(1,)))
