"""Outer optimizers: the worked numbers of the specification, shards against the whole, and what is kept."""

import pytest
import torch
from torch import Tensor

from mottle.core.errors import ConfigError
from mottle.core.layout import BUFFER_GROUP, GroupRange
from mottle.optim import build_server

SPECS = (
    {"outer_sgd": {"lr": 0.7, "momentum": 0.9, "nesterov": True}},
    {"slow_momentum": {"lr": 0.05, "beta": 0.2, "alpha": 1.0}},
    {"sign_momentum": {"lr": 0.05, "beta1": 0.95, "beta2": 0.98, "weight_decay": 0.1, "eta": 1.0}},
    {"mixing": {}},
)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def whole(length: int) -> list[GroupRange]:
    return [GroupRange(0, length, 0)]


def test_the_worked_example_of_diloco() -> None:
    theta = vector(1.0)
    optimizer = build_server(SPECS[0], theta, whole(1))
    path, buffers = [], []
    for delta in (0.2, 0.1, -0.05):
        optimizer.step(vector(delta), lr=123.0)  # the inner rate, which is none of its business
        path.append(theta.item())
        buffers.append(optimizer.state()["momentum_buffer"].item())
    assert path == pytest.approx([0.734, 0.4876, 0.39534], rel=1e-12)
    assert buffers == pytest.approx([0.2, 0.28, 0.202], rel=1e-12)


def pseudo_gradient() -> Tensor:
    """Of two workers that end at (0.9, -1.8, 0.5) and (0.8, -2.1, 0.5)."""
    return vector(1.0, -2.0, 0.5) - (vector(0.9, -1.8, 0.5) + vector(0.8, -2.1, 0.5)) / 2


@pytest.mark.parametrize(
    ("spec", "params", "momentum"),
    [(SPECS[1], (0.848, -1.92, 0.5), (3.04, -1.6, 0.0)), (SPECS[2], (0.945, -1.94, 0.4975), (0.256, -2.96, 0.0))],
    ids=["slow", "sign"],
)
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_the_worked_examples_of_sign_momentum_and_slowmo(spec, params, momentum, factor: float) -> None:
    x = vector(1.0, -2.0, 0.5)
    optimizer = build_server(spec, x, whole(3))
    optimizer.load_state({"momentum_buffer": vector(0.2, -3.0, 0.0)})
    optimizer.step(pseudo_gradient() / factor, factor=factor)
    torch.testing.assert_close(x, vector(*params), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(optimizer.state()["momentum_buffer"], vector(*momentum), rtol=1e-12, atol=1e-15)


def test_gamma_is_the_rate_that_is_told() -> None:
    first, second = vector(1.0, -2.0, 0.5), vector(1.0, -2.0, 0.5)
    build_server(SPECS[2], first, whole(3)).step(pseudo_gradient(), lr=0.02)
    build_server({"sign_momentum": {**SPECS[2]["sign_momentum"], "lr": 0.02}}, second, whole(3)).step(pseudo_gradient())
    assert torch.equal(first, second)


@pytest.mark.parametrize("spec", SPECS[1:3], ids=["slow", "sign"])
def test_at_a_rate_of_zero_nothing_moves_and_nothing_is_divided_by_it(spec) -> None:
    x = vector(1.0, 2.0)
    optimizer = build_server(spec, x, whole(2))
    optimizer.step(vector(0.0, 0.0), lr=0.0)
    assert x.tolist() == [1.0, 2.0]
    assert optimizer.state() == {}


def test_mixing_moves_by_a_share_to_whole_models() -> None:
    x = vector(0.0, 10.0)
    optimizer = build_server({"mixing": {}}, x, [GroupRange(0, 1, 0), GroupRange(1, 2, BUFFER_GROUP)])
    for model, share, expected in ((1.0, 0.6, 0.6), (1.0, 0.3, 0.72), (0.0, 0.226778684, 0.556719348)):
        optimizer.step(vector(model, 10.0), factor=share)
        assert x.tolist() == pytest.approx([expected, 10.0], rel=1e-8)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_shards_take_the_step_of_the_whole_bit_for_bit_and_go_on_from_what_was_kept(spec) -> None:
    generator = torch.Generator().manual_seed(0)
    start, *directions = (torch.randn(1000, generator=generator) for _ in range(5))
    groups = [GroupRange(0, 300, 0), GroupRange(300, 900, 2), GroupRange(900, 1000, BUFFER_GROUP)]
    one = start.clone()
    optimizer = build_server(spec, one, groups)
    parts = [start[:300].clone(), start[300:].clone()]
    cut = [groups[:1], [GroupRange(0, 600, 2), GroupRange(600, 700, BUFFER_GROUP)]]
    shards = [build_server(spec, part, each) for part, each in zip(parts, cut, strict=True)]
    for number, direction in enumerate(directions):
        optimizer.step(direction.clone(), lr=0.01 * (1 + number), factor=0.5)
        for shard, piece in zip(shards, (direction[:300], direction[300:]), strict=True):
            shard.step(piece.clone(), lr=0.01 * (1 + number), factor=0.5)
        saved = [shard.state() for shard in shards]
        shards = [build_server(spec, part, each) for part, each in zip(parts, cut, strict=True)]
        for shard, state in zip(shards, saved, strict=True):
            shard.load_state(state)
    assert torch.equal(one, torch.cat(parts))
    if "mixing" not in spec:
        torch.testing.assert_close(one[900:], start[900:] - sum(each[900:] for each in directions))


def test_the_state_of_another_optimizer_and_options_that_there_are_not_are_refused() -> None:
    with pytest.raises(ValueError, match="keeps momentum_buffer"):
        build_server(SPECS[2], vector(1.0), whole(1)).load_state({"exp_avg": vector(1.0)})
    with pytest.raises(ConfigError, match="has no option 'beta'; did you mean"):
        build_server({"sign_momentum": {**SPECS[2]["sign_momentum"], "beta": 0.9}}, vector(1.0), whole(1))


def test_any_other_name_is_one_of_torchs() -> None:
    x = vector(1.0)
    build_server({"sgd": {"lr": 0.5}}, x, whole(1)).step(vector(1.0))
    assert x.tolist() == [0.5]
    with pytest.raises(ConfigError, match="unknown optimizer"):
        build_server("outer", x, whole(1))
