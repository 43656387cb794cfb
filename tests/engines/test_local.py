"""Inner steps on an engine's own parameters, against plain PyTorch; and the worked numbers of the specification."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mottle.core.layout import Entry, pack
from mottle.core.protocol import LocalSteps
from mottle.engines import LocalTraining, TorchEngine, flatten, layout_of

# N samples, F features
NUM_SAMPLES, NUM_FEATURES = 24, 6


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scalar(x: float) -> tuple[Tensor, LocalTraining]:
    values = torch.tensor([x], dtype=torch.float64)
    return values, LocalTraining(pack([Entry("x", (1,), "float64")], (), dtype="float64"), values)


def test_the_worked_example_of_the_proximal_solver() -> None:
    values, training = scalar(1.0)
    order = LocalSteps(1, {"sgd": {"lr": 0.1}}, pull=0.5, whole=True)
    path = []
    for _ in range(3):
        training.step(order, values - 4.0, 1.0)
        path.append(values.item())
    assert path == pytest.approx([1.3, 1.555, 1.77175], rel=1e-12)
    assert training.update(order).tolist() == pytest.approx([3 * 1.77175])


def test_an_update_is_the_weight_times_the_way_back_to_the_base() -> None:
    values, training = scalar(1.0)
    order = LocalSteps(2, {"sgd": {"lr": 0.1}})
    training.step(order, torch.tensor([4.0], dtype=torch.float64), 2.0)
    training.step(order, torch.tensor([3.0], dtype=torch.float64), 1.0)
    assert values.tolist() == pytest.approx([0.5])
    assert training.update(order).tolist() == pytest.approx([1.5])
    training.rewind()
    assert (values.tolist(), training.moved, training.weight) == ([1.0], False, 0.0)


def test_samples_that_count_for_nothing_are_no_step_but_their_place_in_the_schedule() -> None:
    values, training = scalar(1.0)
    training = LocalTraining(pack([Entry("x", (1,), "float64")], (), dtype="float64"), values, lambda samples: samples / 10)
    order = LocalSteps(1, {"sgd": {"lr": 0.1}}, advance=10)
    for weight in (0.0, 0.0, 1.0):
        training.step(order, torch.ones(1, dtype=torch.float64), weight)
    assert values.tolist() == pytest.approx([0.8])


def test_a_rate_that_the_user_changed_takes_the_place_of_the_optimizers() -> None:
    values, training = scalar(1.0)
    training.step(LocalSteps(1, {"sgd": {"lr": 0.1}}, lr=0.25), torch.ones(1, dtype=torch.float64), 1.0)
    assert values.tolist() == [0.75]


def model() -> nn.Module:
    """BatchNorm, and parameters of two dtypes: the bfloat16 ones are no views of the flat vector."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(NUM_FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.mse_loss(module(batch[0]).float().squeeze(1), batch[1])


def batch(start: int, stop: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    inputs_NF = torch.randn(NUM_SAMPLES, NUM_FEATURES, generator=generator)
    return inputs_NF[start:stop], inputs_NF.sum(1)[start:stop]


@pytest.mark.parametrize("optimizer", [{"sgd": {"lr": 0.1, "momentum": 0.9}}, {"adamw": {"lr": 0.01}}], ids=["sgd", "adamw"])
def test_inner_steps_of_an_engine_are_those_of_plain_torch_with_its_running_statistics(optimizer: dict[str, Any]) -> None:
    ours, theirs = model(), model()
    layout = layout_of(ours)
    base_D = flatten(ours, layout)
    engine = TorchEngine(ours, loss, layout, "cpu", 4)
    training = LocalTraining(layout, engine.values())
    ((name, options),) = optimizer.items()
    stepper = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name](theirs.parameters(), **options)
    order = LocalSteps(4, optimizer)
    engine.load(base_D, 0)
    engine.zero()
    for start in range(0, NUM_SAMPLES, 4):
        done = engine.accumulate(batch, start, start + 4, seed_of_position=lambda position: position)
        training.step(order, engine.update(), done.weight)
        engine.zero()
        stepper.zero_grad()
        loss(theirs, batch(start, start + 4)).backward()
        stepper.step()
    torch.testing.assert_close(training.update(order), NUM_SAMPLES * (base_D - flatten(theirs, layout)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(engine.values(), flatten(theirs, layout), rtol=1e-6, atol=1e-6)


def test_parameters_that_are_no_views_of_the_flat_vector_follow_it() -> None:
    module = nn.Linear(NUM_FEATURES, 1).to(torch.bfloat16)
    layout = layout_of(module)
    engine = TorchEngine(module, loss, layout, "cpu", 4)
    engine.values().fill_(0.5)
    engine.refresh()
    assert all((parameter == 0.5).all() for parameter in module.parameters())
