"""Cutting a captured model into stages: the bottleneck, memory, what must stay together, what travels."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mottle.core.errors import ConfigError
from mottle.placement import DEVICE_CLASSES, InfeasibleError, Link, capture
from mottle.placement.staging import Cut, Member, StageProgram, cut_stages
from mottle.placement.tracing import Capture, Times

FAST = Member(DEVICE_CLASSES["a10g"])
SLOW = Member(DEVICE_CLASSES["t4"])


def layers(depth: int = 8, width: int = 512) -> nn.Module:
    return nn.Sequential(*(part for _ in range(depth) for part in (nn.Linear(width, width), nn.ReLU())), nn.Linear(width, 10))


@pytest.fixture(scope="module")
def chain() -> Capture:
    return capture(layers().train(), torch.empty(256, 512))


def weights_of(captured: Capture, cut: Cut, stage: int) -> int:
    return sum(unit.state.trainable for unit in captured.units if cut.stage_of[unit.id] == stage)


def test_equal_members_get_equal_shares(chain: Capture) -> None:
    cut = cut_stages(chain, [FAST] * 4, 4, link=Link())
    assert cut.members == (0, 1, 2, 3)
    totals = [forward + backward for forward, backward in cut.times_ns]
    assert max(totals) < 0.3 * sum(totals)
    assert cut.sent == (256 * 512 * 4,) * 3


def test_a_faster_member_gets_more_and_every_stage_learns_something(chain: Capture) -> None:
    cut = cut_stages(chain, [SLOW, FAST], 4)
    share = {member: weights_of(chain, cut, stage) for stage, member in enumerate(cut.members)}
    assert share[1] > 2 * share[0] > 0


def test_measured_times_go_before_rates(chain: Capture) -> None:
    even = cut_stages(chain, [FAST, FAST], 4)
    slowed = replace(FAST, measured={unit.id: Times(1e9, 1e9) for unit in chain.units})
    cut = cut_stages(chain, [slowed, FAST], 4)
    share = {member: weights_of(chain, cut, stage) for stage, member in enumerate(cut.members)}
    assert share[0] < weights_of(chain, even, 0)


def test_memory_counts_weights_gradients_and_what_is_in_flight(chain: Capture) -> None:
    one = 512 * 512 * 4
    small = replace(FAST, mem=8 * 3 * one)
    cut = cut_stages(chain, [small, replace(FAST, mem=20 * 3 * one)], 1)
    assert 3 * weights_of(chain, cut, cut.members.index(0)) <= small.mem
    with pytest.raises(InfeasibleError, match="short for the weights alone"):
        cut_stages(chain, [replace(FAST, mem=one)] * 2, 1)


def test_where_memory_is_short_activations_are_computed_again(chain: Capture) -> None:
    one, layer = 512 * 512 * 4, 256 * 512 * 4
    roomy, tight = (replace(FAST, mem=4 * 3 * one + share * layer) for share in (60, 10))
    assert cut_stages(chain, [roomy] * 2, 8).activations == "keep"
    cut = cut_stages(chain, [tight] * 2, 8)
    assert cut.activations == "recompute"
    kept = cut_stages(chain, [FAST] * 2, 8, activations="keep")
    assert sum(back for _, back in cut.times_ns) > sum(back for _, back in kept.times_ns)
    with pytest.raises(InfeasibleError):
        cut_stages(chain, [tight] * 2, 8, activations="keep")


def test_what_is_written_in_place_is_not_parted_from_its_readers() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.register_buffer("seen", torch.zeros(8))

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            self.seen += x.detach().mean(0)
            answer: Tensor = self.c(self.b(x) + self.seen)
            return answer

    captured = capture(Counting().train(), torch.empty(4, 8))
    cut = cut_stages(captured, [FAST, FAST], 2)
    readers = {cut.stage_of[unit.id] for unit in captured.units if "add" in unit.kind}
    assert len(readers) == 1
    with pytest.raises(ConfigError, match="can be cut into 2 stages at most, 3 were asked for"):
        cut_stages(captured, [FAST] * 3, 2)


def test_values_that_skip_a_stage_are_handed_on() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            first = self.layers[0](x)
            x = first
            for layer in self.layers[1:]:
                x = torch.tanh(layer(x))
            return (x + first) * scale

    model = Skip().train()
    example = (torch.randn(5, 16), torch.tensor(3.0))
    captured = capture(model, example)
    cut = cut_stages(captured, [FAST] * 3, 2)
    programs = [StageProgram(captured, cut, stage, model, torch.device("cpu")) for stage in range(3)]
    assert len(programs[1].takes.nodes) == 2 or len(programs[2].takes.nodes) == 2
    assert programs[2].inputs == ("scale",)
    taken: list[Tensor] = []
    for program in programs:
        taken = program(model, taken, program.bind(model, example, {}))
    torch.testing.assert_close(taken, model(*example), rtol=0, atol=0)


def test_evaluation_mode_has_no_stages(chain: Capture) -> None:
    with pytest.raises(ConfigError, match="capture the model in training mode"):
        cut_stages(capture(layers().eval(), torch.empty(2, 512)), [FAST] * 2, 2)
