"""Inner steps on an engine's own parameters, against plain PyTorch; and the worked numbers of the specification."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mottle.compression.bf16 import narrowed
from mottle.core.errors import ConfigError
from mottle.core.fragments import Fragments
from mottle.core.layout import Entry, Range, pack
from mottle.core.protocol import LocalSteps
from mottle.engines import LocalTraining, TorchEngine, add_companions, flatten, layout_of
from mottle.engines.companions import companions

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
    training.start(order)
    for _ in range(3):
        training.step(order, values - 4.0, 1.0)
        path.append(values.item())
    assert path == pytest.approx([1.3, 1.555, 1.77175], rel=1e-12)
    assert training.update(order).tolist() == pytest.approx([3 * 1.77175])


def test_an_update_is_the_weight_times_the_way_back_to_the_base() -> None:
    values, training = scalar(1.0)
    order = LocalSteps(2, {"sgd": {"lr": 0.1}})
    training.start(order)
    training.step(order, torch.tensor([4.0], dtype=torch.float64), 2.0)
    training.step(order, torch.tensor([3.0], dtype=torch.float64), 1.0)
    assert values.tolist() == pytest.approx([0.5])
    assert training.update(order).tolist() == pytest.approx([1.5])
    training.rewind()
    training.start(order)
    assert (values.tolist(), training.weight) == ([1.0], 0.0)


def test_a_fragment_that_came_in_bfloat16_is_what_the_next_pseudo_gradient_is_measured_from() -> None:
    values = torch.tensor([1.0, 1.001])  # the second is none of bfloat16's numbers
    training = LocalTraining(pack([Entry("x", (2,), "float32")], ()), values, None, Fragments(((Range(0, 2),),), narrow=True))
    order = LocalSteps(1, {"sgd": {"lr": 0.5}}, send=0)
    training.start(order)
    assert values.tolist() == [1.0, 1.0]
    training.step(order, torch.tensor([1.0, 1.0]), 1.0)
    assert training.update(order).tolist() == [0.5, 0.5]
    training.mix(0, narrowed(torch.tensor([3.0, 3.001])), 0.5)
    assert values.tolist() == [1.75, 1.75]
    assert training.update(order).tolist() == [1.25, 1.25]


def test_samples_that_count_for_nothing_are_no_step_but_their_place_in_the_schedule() -> None:
    values, training = scalar(1.0)
    training = LocalTraining(pack([Entry("x", (1,), "float64")], (), dtype="float64"), values, lambda samples: samples / 10)
    order = LocalSteps(1, {"sgd": {"lr": 0.1}}, advance=10)
    training.start(order)
    for weight in (0.0, 0.0, 1.0):
        training.step(order, torch.ones(1, dtype=torch.float64), weight)
    assert values.tolist() == pytest.approx([0.8])


def test_a_rate_that_the_user_changed_takes_the_place_of_the_optimizers() -> None:
    values, training = scalar(1.0)
    order = LocalSteps(1, {"sgd": {"lr": 0.1}}, lr=0.25)
    training.start(order)
    training.step(order, torch.ones(1, dtype=torch.float64), 1.0)
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
    training.start(order)
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


# --- a second vector --------------------------------------------------------------------------------------------------------------------


def test_companions_are_buffers_that_travel_and_leave_the_model_as_it_was() -> None:
    plain, module = model(), add_companions(model(), 0.5)
    pairs = companions(layout_of(module))
    assert [piece.name for piece, _ in pairs] == [name for name, _ in plain.named_parameters()]
    assert all(beside.shape == piece.shape and beside.kind == "buffer" for piece, beside in pairs)
    assert all((module.get_buffer(beside.name) == 0.5).all() for _, beside in pairs)
    torch.testing.assert_close(loss(module, batch(0, 8)), loss(plain, batch(0, 8)))
    with pytest.raises(ConfigError, match="add_companions"):
        companions(layout_of(plain))


def test_adaalter_on_an_engine_accumulates_squares_beside_the_parameters() -> None:
    module = add_companions(nn.Linear(NUM_FEATURES, 1), 0.5)
    layout = layout_of(module)
    base_D = flatten(module, layout)
    engine = TorchEngine(module, loss, layout, "cpu", 4)
    training = LocalTraining(layout, engine.values())
    order = LocalSteps(4, {"adaalter": {"lr": 0.1, "eps2": 1.0, "weight_decay": 0.0, "placeholder": "paper"}}, 2)
    engine.load(base_D, 0)
    training.start(order)
    engine.zero()
    (weight, beside), *_ = companions(layout)
    x, squares = base_D[: weight.stop].clone(), torch.full((weight.size,), 0.5)
    for number, start in enumerate((0, 4), start=1):
        done = engine.accumulate(batch, start, start + 4, seed_of_position=lambda position: position)
        gradient = engine.update()[: weight.stop] / done.weight
        x -= 0.1 * gradient / (0.5 + number) ** 0.5
        squares += gradient**2
        training.step(order, engine.update(), done.weight)
        engine.zero()
    torch.testing.assert_close(engine.values()[: weight.stop], x)
    torch.testing.assert_close(training.update(order)[beside.start : beside.stop], 8 * (0.5 - squares))


def walk(training: LocalTraining, values: Tensor, order: LocalSteps, orders: int) -> None:
    """Rounds of two steps each on a parabola."""
    for _ in range(orders):
        training.start(order)
        for _ in range(2):
            training.step(order, values - 4.0, 1.0)


@pytest.mark.parametrize("optimizer", [{"sgd": {"lr": 0.1, "momentum": 0.9}}, {"adamw": {"lr": 0.1}}], ids=str)
def test_inner_steps_go_on_bit_by_bit_from_what_another_worker_kept(optimizer: Any) -> None:
    order = LocalSteps(1, optimizer)
    values, training = scalar(1.0)
    walk(training, values, order, 2)
    kept, place = training.state(), values.clone()
    walk(training, values, order, 2)
    again, other = scalar(place.item())
    other.take_up(kept)
    assert other.state().keys() == kept.keys(), "asked before its first order it says what it was given"
    walk(other, again, order, 2)
    assert torch.equal(again, values)
    assert all(name.startswith("inner.") and value.device.type == "cpu" for name, value in kept.items())


def test_only_methods_with_a_state_keep_one_and_another_methods_is_refused() -> None:
    values, training = scalar(1.0)
    walk(training, values, LocalSteps(1, {"sgd": {"lr": 0.1}}), 1)
    assert training.state() == {}
    walk(training, values, LocalSteps(1, {"adamw": {"lr": 0.1}}, fresh=True), 1)
    assert training.state() == {}, "it begins anew in every order"
    _, other = scalar(1.0)
    other.take_up({"inner.momentum_buffer": torch.ones(1, dtype=torch.float64)})
    with pytest.raises(ValueError, match="was it saved with another optimizer"):
        other.start(LocalSteps(1, {"adamw": {"lr": 0.1}}))
