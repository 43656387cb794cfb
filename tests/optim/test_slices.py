"""Stepping ranges is stepping the model: bit for bit, for any number of shards, any optimizer, any grouping."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from mottle.core.errors import ConfigError
from mottle.core.layout import Entry, GroupRange, Layout, pack
from mottle.optim import build, clip_factor, cut, join, read
from mottle.optim import slices as slices_module
from mottle.optim.catalogue import ELEMENTWISE, REFUSED
from mottle.optim.groups import in_rotation
from mottle.optim.slices import SliceOptimizer

SHAPES = {"a.weight": (37, 91), "a.bias": (37,), "b.weight": (53, 101, 3), "b.bias": (5,), "scale": ()}
SHARDS = (1, 2, 3, 7)
NUM_STEPS = 4

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ELEMENTWISE),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", {"momentum": 0.9, "dampening": 0.5, "maximize": True}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.01, "betas": [0.8, 0.99]}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("NAdam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
]


def layout_with(groups: Mapping[str, int] | None = None, buffers: Sequence[Entry] = ()) -> Layout:
    return pack([Entry(name, shape, "float32", (groups or {}).get(name, 0)) for name, shape in SHAPES.items()], buffers)


def random_vectors(layout: Layout, num: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Vectors of the layout; zeros in the gap, as real ones."""
    generator = torch.Generator().manual_seed(seed)
    vectors = [torch.randn(layout.size, generator=generator, dtype=dtype) for _ in range(num)]
    for vector in vectors:
        vector[layout.num_params : layout.tail_start] = 0
    return vectors


class Sharded:
    """A flat vector held by several shards, each with its own optimizer."""

    def __init__(self, spec: object, layout: Layout, start: Tensor, num_shards: int) -> None:
        self.ranges = layout.cut(num_shards)
        self.parts = [start[piece.start : piece.stop].clone() for piece in self.ranges]
        self.optimizers: list[SliceOptimizer] = [
            build(spec, part, layout.groups_in(piece)) for part, piece in zip(self.parts, self.ranges, strict=True)
        ]

    def step(self, direction: Tensor, lr: float | None = None, factor: float = 1.0) -> None:
        for optimizer, piece in zip(self.optimizers, self.ranges, strict=True):
            optimizer.step(direction[piece.start : piece.stop].clone(), lr, factor)

    def vector(self) -> Tensor:
        return torch.cat(self.parts)

    def state(self) -> dict[str, Tensor]:
        return join([optimizer.state() for optimizer in self.optimizers], self.ranges)

    def load(self, state: Mapping[str, Tensor]) -> None:
        for optimizer, piece in zip(self.optimizers, self.ranges, strict=True):
            optimizer.load_state(cut(state, piece))


class Whole:
    """The neutral reference: plain torch on the unsharded model."""

    def __init__(
        self, name: str, options: dict[str, Any], layout: Layout, start: Tensor, group_options: Sequence[dict[str, Any]] = ()
    ) -> None:
        self.layout = layout
        self.tensors = [start[piece.start : piece.stop].reshape(piece.shape).clone() for piece in layout.parameters]
        groups: list[dict[str, Any]] = [{"params": [], **own} for own in ({}, *group_options)]
        for piece, tensor in zip(layout.parameters, self.tensors, strict=True):
            groups[piece.group]["params"].append(tensor)
        self.optimizer = ELEMENTWISE[name](groups, **options)

    def step(self, direction: Tensor, max_norm: float = math.inf) -> None:
        for piece, tensor in zip(self.layout.parameters, self.tensors, strict=True):
            tensor.grad = direction[piece.start : piece.stop].reshape(piece.shape).clone()
        if max_norm < math.inf:
            torch.nn.utils.clip_grad_norm_(self.tensors, max_norm)
        self.optimizer.step()

    def vector(self) -> Tensor:
        return torch.cat([tensor.reshape(-1) for tensor in self.tensors])


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pieces in every range, with borders that suit no vector unit."""
    monkeypatch.setattr(slices_module, "PIECE", 1237)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda value: str(value))
def test_a_sharded_step_is_the_unsharded_step_bit_for_bit(name: str, options: dict[str, Any]) -> None:
    layout = layout_with()
    start, *directions = random_vectors(layout, 1 + NUM_STEPS)
    whole = Whole(name, {"lr": 0.03, **options}, layout, start)
    sharded = {num: Sharded({name: {"lr": 0.03, **options}}, layout, start, num) for num in SHARDS}
    for direction in directions:
        whole.step(direction)
        for num, each in sharded.items():
            each.step(direction)
            assert torch.equal(each.vector(), whole.vector()), f"{num} shards"
    assert not torch.equal(whole.vector(), start)


def test_float64_steps_are_bit_identical_too() -> None:
    layout = layout_with()
    start, *directions = random_vectors(layout, 1 + NUM_STEPS, dtype=torch.float64)
    whole, sharded = Whole("Adam", {}, layout, start), Sharded("adam", layout, start, 3)
    for direction in directions:
        whole.step(direction)
        sharded.step(direction)
    assert torch.equal(sharded.vector(), whole.vector())


@pytest.mark.parametrize("num_shards", SHARDS)
@pytest.mark.parametrize("name", ["SGD", "AdamW", "NAdam", "ASGD"])
def test_groups_step_with_their_own_options(name: str, num_shards: int) -> None:
    layout = layout_with({"a.bias": 1, "b.bias": 1, "scale": 2})
    start, *directions = random_vectors(layout, 1 + NUM_STEPS)
    own: list[dict[str, Any]] = [{"weight_decay": 0.0}, {"lr": 0.5, "weight_decay": 0.3}]
    options = {"lr": 0.1, "weight_decay": 0.2}
    spec = {name: {**options, "param_groups": [{"params": ["*.bias"], **own[0]}, {"params": "scale", **own[1]}]}}
    whole, sharded = Whole(name, options, layout, start, own), Sharded(spec, layout, start, num_shards)
    for direction in directions:
        whole.step(direction)
        sharded.step(direction)
    assert torch.equal(sharded.vector(), whole.vector())


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda value: str(value))
@pytest.mark.parametrize(("before", "after"), [(1, 4), (3, 2), (5, 1)])
def test_state_cut_along_other_borders_goes_on_bit_for_bit(name: str, options: dict[str, Any], before: int, after: int) -> None:
    layout = layout_with({"b.bias": 1, "scale": 2})
    spec = {name: {**options, "param_groups": [{"params": ["b.bias"], "lr": 0.5}, {"params": ["scale"], "maximize": True}]}}
    start, *directions = random_vectors(layout, 1 + NUM_STEPS)
    unbroken, first = Sharded(spec, layout, start, 1), Sharded(spec, layout, start, before)
    for direction in directions[:2]:
        unbroken.step(direction)
        first.step(direction)
    second = Sharded(spec, layout, first.vector(), after)
    second.load(first.state())
    for direction in directions[2:]:
        unbroken.step(direction)
        second.step(direction)
    assert torch.equal(second.vector(), unbroken.vector())
    left, right = second.state(), unbroken.state()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_state_is_flat_by_coordinate_and_scalars_are_named_by_group() -> None:
    layout = layout_with({"scale": 1})
    start, direction = random_vectors(layout, 2)
    sharded = Sharded({"adam": {"param_groups": [{"params": ["scale"]}]}}, layout, start, 3)
    sharded.step(direction)
    state = sharded.state()
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "exp_avg": (layout.size,),
        "exp_avg_sq": (layout.size,),
        "step.0": (),
        "step.1": (),
    }
    assert torch.equal(state["exp_avg"], torch.zeros_like(direction).lerp(direction, 1 - 0.9))


def test_a_copy_of_state_does_not_follow_later_steps() -> None:
    layout = layout_with()
    start, *directions = random_vectors(layout, 3)
    sharded = Sharded({"sgd": {"momentum": 0.9}}, layout, start, 1)
    sharded.step(directions[0])
    kept = sharded.state()
    sharded.step(directions[1])
    assert torch.equal(kept["momentum_buffer"], directions[0])


def test_state_that_was_loaded_is_left_alone_by_later_steps() -> None:
    params = torch.zeros(9)
    optimizer = build({"sgd": {"momentum": 0.9}}, params, [GroupRange(0, 9, 0)])
    saved = {"momentum_buffer": torch.ones(9)}
    optimizer.load_state(saved)
    optimizer.step(torch.ones(9))
    assert torch.equal(saved["momentum_buffer"], torch.ones(9))


def test_an_empty_state_starts_afresh() -> None:
    layout = layout_with()
    start, *directions = random_vectors(layout, 3)
    sharded = Sharded("adagrad", layout, start, 2)
    sharded.step(directions[0])
    sharded.load({})
    fresh = Sharded("adagrad", layout, sharded.vector(), 2)
    for each in (sharded, fresh):
        each.step(directions[1])
    assert torch.equal(sharded.vector(), fresh.vector())


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"momentum_buffer": torch.zeros(9)}, r"Adam keeps \['exp_avg', 'exp_avg_sq', 'step.0'\], got \['momentum_buffer'\]"),
        ({"exp_avg": torch.zeros(9)}, r"got \['exp_avg'\]"),
        ({"exp_avg": torch.zeros(9), "exp_avg_sq": torch.zeros(8), "step.0": torch.ones(())}, r"'exp_avg_sq' has shape \(8,\)"),
    ],
)
def test_foreign_or_misfitting_state_is_refused(state: dict[str, Tensor], message: str) -> None:
    optimizer = build("adam", torch.zeros(9), [GroupRange(0, 9, 0)])
    with pytest.raises(ValueError, match=message):
        optimizer.load_state(state)


@pytest.mark.parametrize("num_shards", SHARDS)
@pytest.mark.parametrize("spec", [{"sgd": {"lr": 0.1, "momentum": 0.9}}, "adam"])
def test_the_buffer_tail_is_averaged_whatever_the_optimizer(num_shards: int, spec: object) -> None:
    layout = layout_with(buffers=[Entry("mean", (4100,), "float32"), Entry("var", (3,), "float32")])
    start, *directions = random_vectors(layout, 3)
    sharded = Sharded(spec, layout, start, num_shards)
    for direction in directions:
        sharded.step(direction, lr=0.01, factor=0.25)
    tail = slice(layout.tail_start, layout.size)
    assert torch.equal(sharded.vector()[tail], start[tail] - directions[0][tail] - directions[1][tail])
    assert not torch.equal(sharded.vector()[: layout.num_params], start[: layout.num_params])


def test_the_gap_before_the_tail_is_touched_by_nobody() -> None:
    layout = layout_with(buffers=[Entry("mean", (1,), "float32")])
    sharded = Sharded("adamw", layout, torch.ones(layout.size), 3)
    sharded.step(torch.ones(layout.size))
    gap = sharded.vector()[layout.num_params : layout.tail_start]
    assert torch.equal(gap, torch.ones_like(gap))
    assert layout.num_params < layout.tail_start


@pytest.mark.parametrize("num_shards", SHARDS)
def test_clipping_by_partial_norms_is_clipping_of_the_whole(num_shards: int) -> None:
    layout = layout_with()
    start, *directions = random_vectors(layout, 1 + NUM_STEPS)
    whole, sharded = Whole("SGD", {"lr": 0.1}, layout, start), Sharded({"sgd": {"lr": 0.1}}, layout, start, num_shards)
    for direction in directions:
        whole.step(direction, max_norm=3.0)
        partial = [float(direction[piece.start : piece.stop].double().square().sum()) for piece in sharded.ranges]
        sharded.step(direction, factor=clip_factor(partial, 3.0))
    torch.testing.assert_close(sharded.vector(), whole.vector(), rtol=1e-6, atol=1e-7)


def test_a_learning_rate_from_outside_keeps_the_groups_in_proportion() -> None:
    layout = layout_with({"scale": 1})
    start = torch.zeros(layout.size)
    sharded = Sharded({"sgd": {"lr": 0.1, "param_groups": [{"params": ["scale"], "lr": 0.4}]}}, layout, start, 2)
    sharded.step(torch.ones(layout.size), lr=0.25)
    moved = sharded.vector()
    assert set(moved[:-1].tolist()) == {-0.25}
    assert moved[-1].item() == -1.0
    sharded.step(torch.ones(layout.size))
    torch.testing.assert_close(sharded.vector()[-1], torch.tensor(-1.4))


@pytest.mark.parametrize(("spec", "lr"), [({"sgd": {"lr": 0.25}}, 0.25), ("adam", 1e-3), ("adadelta", 1.0)])
def test_the_base_learning_rate_is_the_users_or_torchs(spec: object, lr: float) -> None:
    assert build(spec, torch.zeros(3), [GroupRange(0, 3, 0)]).base_lr == lr
    assert build(spec, torch.zeros(0), []).base_lr == lr


def test_a_direction_is_left_alone_unless_a_factor_is_asked_for() -> None:
    direction = torch.ones(9)
    optimizer = build({"adamw": {"weight_decay": 0.5}}, torch.ones(9), [GroupRange(0, 9, 0)])
    optimizer.step(direction)
    assert torch.equal(direction, torch.ones(9))
    optimizer.step(direction, factor=0.5)
    assert torch.equal(direction, torch.full((9,), 0.5))


def test_fused_kernels_on_request_agree_to_rounding() -> None:
    layout = layout_with()
    start, *directions = random_vectors(layout, 1 + NUM_STEPS)
    whole, fused = Whole("Adam", {}, layout, start), Sharded({"adam": {"fused": True}}, layout, start, 3)
    for direction in directions:
        whole.step(direction)
        fused.step(direction)
    torch.testing.assert_close(fused.vector(), whole.vector(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("direction", [torch.zeros(8), torch.zeros(9, dtype=torch.float64), torch.zeros(9, 1)])
def test_a_misfitting_direction_is_refused_and_moves_nothing(direction: Tensor) -> None:
    params = torch.ones(9)
    optimizer = build("sgd", params, [GroupRange(0, 9, 0)])
    with pytest.raises(ValueError, match="a direction has the shape, dtype and device of its range"):
        optimizer.step(direction)
    assert torch.equal(params, torch.ones(9))


@pytest.mark.parametrize("name", REFUSED)
def test_optimizers_that_look_across_coordinates_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"optimizer {name} cannot run on slices of a model: .*; use "):
        build(name.lower(), torch.zeros(3), [GroupRange(0, 3, 0)])


def test_every_optimizer_of_torch_is_either_offered_or_refused() -> None:
    offered = {name for name, each in vars(torch.optim).items() if isinstance(each, type) and issubclass(each, torch.optim.Optimizer)}
    assert offered - {"Optimizer"} == {*ELEMENTWISE, *REFUSED}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("adm", "unknown optimizer 'adm'; did you mean 'Adam'"),
        ({"adam": {"learning_rate": 0.1}}, "Adam has no option 'learning_rate'"),
        ({"adam": {"bettas": 0.1}}, "did you mean 'betas'"),
        ({"sgd": {"foreach": True}}, "SGD has no option 'foreach' here"),
        ({"sgd": {"lr": -1.0}}, "SGD: Invalid learning rate: -1.0"),
        ({"sgd": {"lr": "fast"}}, "SGD: "),
        ({"sgd": {"param_groups": [{"params": ["a"], "momentun": 1}]}}, "did you mean 'momentum'"),
        ({"sgd": {"param_groups": [{"lr": 1}]}}, r"a parameter group is \{params"),
        ({"sgd": {"param_groups": "a"}}, "param_groups is a list"),
        ({"sgd": {"lr": 0.0, "param_groups": [{"params": ["a"], "lr": 0.5}]}}, "give lr a value above 0"),
        ({"a": {}, "b": {}}, "optimizer is named as"),
    ],
)
def test_mistakes_in_a_spec_are_named(spec: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(spec, torch.zeros(4), [GroupRange(0, 2, 0), GroupRange(2, 4, 1)] if "param_groups" in str(spec) else [GroupRange(0, 4, 0)])


def test_a_group_that_the_spec_does_not_describe_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"parameter groups \[1\] unknown to optimizer 'sgd'"):
        build("sgd", torch.zeros(4), [GroupRange(0, 4, 1)])


@pytest.mark.parametrize("group_ranges", [[], [GroupRange(0, 4, -1)]])
def test_a_shard_without_parameters_works_and_keeps_no_state(group_ranges: list[GroupRange]) -> None:
    params = torch.zeros(4 if group_ranges else 0)
    optimizer = build("adam", params, group_ranges)
    optimizer.step(torch.ones_like(params), lr=0.1, factor=0.5)
    assert optimizer.state() == {}
    assert torch.equal(params, -torch.ones_like(params))
    optimizer.load_state({"exp_avg": torch.zeros_like(params), "exp_avg_sq": torch.zeros_like(params), "step.0": torch.ones(())})


def test_states_that_do_not_fit_their_ranges_do_not_join() -> None:
    layout = layout_with()
    ranges = layout.cut(2)
    with pytest.raises(ValueError, match=r"'m' has shape \(3,\)"):
        join([{"m": torch.zeros(3)}, {}], ranges)


def test_reading_a_spec_gives_patterns_to_the_layout_and_options_to_the_optimizer() -> None:
    spec = read({"adamw": {"lr": 0.1, "param_groups": [{"params": ["*.bias", "norm*"], "weight_decay": 0.0}]}})
    assert (spec.name, spec.group_patterns) == ("adamw", (("*.bias", "norm*"),))
    assert spec.options_of(0) == {"lr": 0.1}
    assert spec.options_of(1) == {"lr": 0.1, "weight_decay": 0.0}
    assert read(spec) is spec


def test_models_in_rotation_have_parameter_groups_of_their_own_whose_rates_keep_their_proportion() -> None:
    groups = [{"params": ["*.bias"], "lr": 0.4, "weight_decay": 0.0}]
    spec = read(in_rotation({"sgd": {"lr": 0.1, "weight_decay": 0.5, "param_groups": groups}}, [{}, {"lr": 0.05, "momentum": 0.9}]))
    assert spec.group_patterns == (("0.*",), ("1.*",), ("0.*.bias",), ("1.*.bias",))
    assert [spec.options_of(group) for group in range(1, 5)] == [
        {"lr": 0.1, "weight_decay": 0.5},
        {"lr": 0.05, "weight_decay": 0.5, "momentum": 0.9},
        {"lr": 0.4, "weight_decay": 0.0},
        {"lr": 0.2, "weight_decay": 0.0, "momentum": 0.9},
    ]
    with pytest.raises(ConfigError, match="parameter group 1 has its own lr"):
        in_rotation({"sgd": {"param_groups": groups}}, [{"lr": 0.1}, {}])
