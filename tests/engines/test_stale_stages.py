"""DSP between processes: the numbers of the same rule in one process, and of plain SGD where nothing is late."""

from typing import Any

import pytest
import torch
from tests.engines.gang import Gang, one_at_a_time
from tests.engines.test_placed import Tied, cross_entropy, seeded
from torch import Tensor, nn

from mottle.core.errors import ConfigError
from mottle.core.protocol import LocalSteps
from mottle.engines import LocalTraining
from mottle.engines.flat import flatten
from mottle.engines.placed import MicroBatch, StageEngine
from mottle.placement.staging import StaleConfig, train_stale

LR, MOMENTUM, SIZE = 0.05, 0.5, 4
ORDER = LocalSteps(batch=SIZE, optimizer={"sgd": {"lr": LR, "momentum": MOMENTUM}}, steps=1)


def three_stages() -> nn.Module:
    """With dropout, which a pass that is run again draws as before."""
    return nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(SIZE, 20, generator=generator), torch.randint(10, (SIZE,), generator=generator)) for _ in range(count)]


def trained(gang: Gang, given: list[tuple[Tensor, Tensor]], every: int = 1) -> tuple[Tensor, list[Any]]:
    """The model after inner steps behind every so many micro-batches, and what the stages said."""
    start_D = flatten(seeded(three_stages)(), gang.layout)
    gang.load(start_D)

    def run(engine: StageEngine) -> Any:
        local = LocalTraining(engine.layout, engine.values())
        local.start(ORDER)

        def step(weight: float) -> None:
            local.step(ORDER, engine.update(weight, everywhere=True), weight)
            engine.zero()

        pieces = [MicroBatch(x, x + SIZE, lambda low, high: given[low], x, 1.0, (x + 1) % every == 0) for x in range(len(given))]
        return engine.train_stale(pieces, step)

    said = gang.each(run)
    after_D = start_D.clone()
    for engine in gang.engines:
        for whole, here in engine.places:
            after_D[whole.start : whole.stop] = engine.values()[here.start : here.stop]
    return after_D, said


@pytest.mark.parametrize("slots", [0, 1, 2])
def test_stages_in_processes_give_the_numbers_of_the_same_rule_in_one(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one_at_a_time(monkeypatch)
    given = batches(9)
    gang = Gang(seeded(three_stages), cross_entropy, given[0], size=SIZE, stages=3, schedule="dsp", slots=slots)
    ours_D, said = trained(gang, given)

    model = seeded(three_stages)()
    layers = list(model.children())  # type: ignore[arg-type]
    stages = [nn.Sequential(*layers[:2]), nn.Sequential(*layers[2:4]), nn.Sequential(*layers[4:])]
    config = StaleConfig(lr=LR, momentum=MOMENTUM, forward_slots=(slots, slots))
    run = train_stale(stages, lambda out, labels: nn.functional.cross_entropy(out, labels), given, config, threads=False)
    torch.testing.assert_close(ours_D, flatten(model, gang.layout), rtol=1e-5, atol=1e-6)
    assert [each.weight for each in said] == [SIZE * 9.0] * 3
    assert said[-1].loss_sum == pytest.approx(SIZE * sum(run.losses), rel=1e-5)
    plain = seeded(three_stages)()
    optimizer = torch.optim.SGD(plain.parameters(), LR, momentum=MOMENTUM)
    for features, labels in given:
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(features), labels).backward()
        optimizer.step()
    is_plain = torch.allclose(ours_D, flatten(plain, gang.layout), rtol=1e-5, atol=1e-6)
    assert is_plain == (slots == 0)


def test_a_step_of_several_micro_batches_is_taken_behind_the_last_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    one_at_a_time(monkeypatch)
    given = batches(6)
    gang = Gang(seeded(three_stages), cross_entropy, given[0], size=SIZE, stages=2, schedule="dsp", slots=0)
    ours_D, _ = trained(gang, given, every=3)
    plain = seeded(three_stages)()
    optimizer = torch.optim.SGD(plain.parameters(), LR, momentum=MOMENTUM)
    for first in (0, 3):
        optimizer.zero_grad()
        for features, labels in given[first : first + 3]:
            (nn.functional.cross_entropy(plain(features), labels) / 3).backward()
        optimizer.step()
    torch.testing.assert_close(ours_D, flatten(plain, gang.layout), rtol=1e-5, atol=1e-6)


def test_what_every_stage_would_have_to_know_of_the_others_is_refused() -> None:
    batch = (torch.zeros(SIZE, dtype=torch.int64), torch.zeros(SIZE, dtype=torch.int64))
    tied = Gang(seeded(Tied), cross_entropy, batch, size=SIZE, stages=2, schedule="dsp")
    with pytest.raises(ConfigError, match=r"'embed.weight' is in several: take 1f1b, or untie it"):
        tied.engines[0].train_stale([], lambda weight: None)
    clipped = Gang(seeded(three_stages), cross_entropy, batches(1)[0], size=SIZE, stages=2, schedule="dsp", max_norm=1.0)
    with pytest.raises(ConfigError, match="no norm of a gradient is known to clip by"):
        clipped.engines[0].train_stale([], lambda weight: None)
