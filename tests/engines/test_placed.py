"""A model in stages gives the update that the model in one piece gives: gradients, buffers, weights, ties, clipping."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.engines.gang import Gang, one_at_a_time
from torch import Tensor, nn

from mottle.core.errors import ConfigError
from mottle.engines import TorchEngine, layout_of
from mottle.engines.flat import flatten
from mottle.engines.placed import captured_call

SIZE, N = 4, 22  # samples of a micro-batch, and of an order: two whole rounds of two, and a last micro-batch of two


class Tied(nn.Module):
    """An embedding at one end that is the projection at the other, BatchNorm in between, and a weight that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 48)
        self.first, self.norm, self.second = nn.Linear(48, 96), nn.BatchNorm1d(96), nn.Linear(96, 48)
        self.idle = nn.Parameter(torch.ones(5))
        self.project = nn.Linear(48, 30, bias=False)
        self.project.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.second(torch.relu(self.norm(self.first(x))))
        answer: Tensor = self.project(x)
        return answer


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 64), nn.GELU(), nn.Linear(64, 30))


def recurrent() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LSTM(20, 16, batch_first=True), nn.LSTM(16, 16, batch_first=True)
            self.head = nn.Linear(16, 30)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x, _ = self.first(x.unsqueeze(1).expand(-1, 3, -1))
            x, (state, _) = self.second(x)
            return {"logits": self.head(x[:, -1] + state[-1])}

    return Net()


def seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(5)
        return make()

    return build


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
    out = model(batch[0])
    return nn.functional.cross_entropy(out["logits"] if isinstance(out, dict) else out, batch[1])


def weighted(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    weights_N = (batch[1] % 3).float()
    losses_N = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return (losses_N * weights_N).sum() / weights_N.sum().clamp(min=1), weights_N.sum()


def data(make: Callable[[], nn.Module]) -> Callable[[int, int], tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    labels_N = torch.randint(30, (N,), generator=generator)
    inputs = torch.randint(30, (N,), generator=generator) if make is Tied else torch.randn(N, 20, generator=generator)
    return lambda start, stop: (inputs[start:stop], labels_N[start:stop])


def alone(build: Callable[[], nn.Module], loss: Any, fetch: Any, **options: Any) -> tuple[Tensor, float]:
    model = build()
    engine = TorchEngine(model, loss, layout_of(model), "cpu", SIZE, **options)
    engine.load(flatten(build(), engine.layout), 0)
    engine.zero()
    done = engine.accumulate(fetch, 0, N, seed_of_position=lambda x: x, coefficient=0.5)
    return engine.update().clone(), done.weight


@pytest.mark.parametrize(("make", "stages"), [(perceptron, 2), (perceptron, 3), (Tied, 2), (Tied, 3), (recurrent, 2)])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_stages_together_give_the_update_of_the_whole_model(make: Any, stages: int, schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one_at_a_time(monkeypatch)
    build, fetch = seeded(make), data(make)
    wanted_D, weight = alone(build, cross_entropy, fetch)
    gang = Gang(build, cross_entropy, fetch(0, SIZE), size=SIZE, stages=stages, schedule=schedule, microbatches=2)
    for _ in range(2):  # the second order begins as the first one did
        gang.load(flatten(build(), gang.layout))
        assert gang.accumulate(fetch, 0, N, coefficient=0.5) == weight
        torch.testing.assert_close(gang.update(weight, num_shards=2), wanted_D, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activations", ["recompute", "offload"])
def test_activations_that_are_not_kept_change_no_number(activations: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one_at_a_time(monkeypatch)
    build, fetch = seeded(Tied), data(Tied)  # its BatchNorm sees a batch that is computed again once
    wanted_D, weight = alone(build, weighted, fetch)
    gang = Gang(build, weighted, fetch(0, SIZE), size=SIZE, stages=2, activations=activations)
    assert gang.cut.activations == activations
    gang.load(flatten(build(), gang.layout))
    assert gang.accumulate(fetch, 0, N, coefficient=0.5) == weight
    torch.testing.assert_close(gang.update(weight), wanted_D, rtol=1e-6, atol=1e-6)


def test_weights_of_the_loss_and_clipping_of_the_whole_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    one_at_a_time(monkeypatch)
    build, fetch = seeded(Tied), data(Tied)
    wanted_D, weight = alone(build, weighted, fetch, max_grad_norm_per_worker=0.01)
    gang = Gang(build, weighted, fetch(0, SIZE), size=SIZE, stages=3, microbatches=4, max_norm=0.01)
    gang.load(flatten(build(), gang.layout))
    assert gang.accumulate(fetch, 0, N, coefficient=0.5) == weight
    torch.testing.assert_close(gang.update(weight), wanted_D, rtol=1e-5, atol=1e-7)


def test_a_stage_holds_its_own_part_only() -> None:
    build, fetch = seeded(perceptron), data(perceptron)
    gang = Gang(build, cross_entropy, fetch(0, SIZE), size=SIZE, stages=2)
    assert sum(engine.layout.num_params for engine in gang.engines) == gang.layout.num_params
    for engine in gang.engines:
        kept = sum(parameter.numel() for parameter in engine._own.model.parameters())
        assert kept == engine.layout.num_params < gang.layout.num_params


def test_stages_draw_from_streams_of_their_own_and_repeat_them() -> None:
    def build() -> nn.Module:
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(20, 64), nn.Dropout(0.5), nn.Linear(64, 64), nn.Dropout(0.5), nn.Linear(64, 30))

    fetch, updates = data(perceptron), []
    for _ in range(2):
        gang = Gang(build, cross_entropy, fetch(0, SIZE), size=SIZE, stages=2)
        gang.load(flatten(build(), gang.layout))
        updates.append(gang.update(gang.accumulate(fetch, 0, 16)))
    assert torch.equal(*updates)


def test_bfloat16_weights_are_summed_in_float32() -> None:
    def build() -> nn.Module:
        torch.manual_seed(5)
        return perceptron().to(torch.bfloat16)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0].bfloat16()).float(), batch[1])

    fetch = data(perceptron)
    model = build()
    engine = TorchEngine(model, loss, layout_of(model), "cpu", SIZE)
    engine.load(flatten(build(), engine.layout), 0)
    engine.zero()
    engine.accumulate(fetch, 0, 16, seed_of_position=lambda x: x)
    gang = Gang(build, loss, fetch(0, SIZE), size=SIZE, stages=2)
    gang.load(flatten(build(), gang.layout))
    torch.testing.assert_close(gang.update(gang.accumulate(fetch, 0, 16)), engine.update(), rtol=2e-2, atol=2e-2)


# --- what cannot be staged --------------------------------------------------------------------------------------------------------------


def twice(model: nn.Module, batch: Any) -> Tensor:
    return cross_entropy(model, batch) + cross_entropy(model, batch)


def decay(model: nn.Module, batch: Any) -> Tensor:
    return cross_entropy(model, batch) + sum(parameter.square().sum() for parameter in model.parameters())


def inside(model: nn.Module, batch: Any) -> Tensor:
    return model.layers(batch[0]).sum()


def never(model: nn.Module, batch: Any) -> Tensor:
    return torch.ones((), requires_grad=True)


@pytest.mark.parametrize(("loss", "message"), [(inside, "uses 'layers' of the model"), (never, "does not call the model")])
def test_a_loss_that_looks_into_its_model_is_refused_before_anything_is_cut(loss: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        captured_call(perceptron(), loss, data(perceptron)(0, SIZE))


@pytest.mark.parametrize(("loss", "message"), [(decay, "looks at the model's parameters"), (twice, "calls the model more than once")])
def test_a_loss_that_does_more_than_one_call_is_refused_by_the_last_stage(loss: Any, message: str) -> None:
    fetch = data(perceptron)
    gang = Gang(seeded(perceptron), loss, fetch(0, SIZE), size=SIZE, stages=2)
    gang.load(flatten(perceptron(), gang.layout))
    with pytest.raises(ConfigError, match=message):
        gang.accumulate(fetch, 0, SIZE)


def test_a_model_whose_control_flow_depends_on_values_is_refused_with_the_reason() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(20, 30), nn.Linear(20, 30)

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.a(x) if float(x.sum()) > 0 else self.b(x)
            return answer

    with pytest.raises(ConfigError, match="no static graph, so it cannot be cut into stages"):
        Gang(seeded(Branching), cross_entropy, data(perceptron)(0, SIZE), size=SIZE, stages=2)


def test_more_stages_than_places_to_cut_are_refused() -> None:
    with pytest.raises(ConfigError, match="can be cut into 1 stages at most, 2 were asked for"):
        Gang(lambda: nn.Linear(20, 30), cross_entropy, data(perceptron)(0, SIZE), size=SIZE, stages=2)
