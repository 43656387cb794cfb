"""From a model to its layout and back: order, tying, groups, buffers, and models that are refused."""

import pytest
import torch
from torch import nn

from mottle.core.errors import ConfigError
from mottle.core.layout import BLOCK
from mottle.engines import flatten, layout_of, unflatten


class Tied(nn.Module):
    """An embedding that is the output matrix too, a frozen tensor, and buffers of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embed.weight
        self.register_buffer("cache", torch.ones(5), persistent=False)


def test_parameters_in_their_order_then_persistent_floating_buffers() -> None:
    layout = layout_of(Tied())
    assert [(piece.name, piece.shape, piece.start) for piece in layout.slices] == [
        ("embed.weight", (7, 4), 0),
        ("norm.weight", (4,), 28),
        ("norm.bias", (4,), 32),
        ("head.bias", (7,), 36),
        ("norm.running_mean", (4,), BLOCK),
        ("norm.running_var", (4,), BLOCK + 4),
    ]
    assert layout.aliases == {"head.weight": "embed.weight"}
    assert (layout.num_params, layout.dtype) == (43, "float32")


def test_flattened_and_loaded_into_another_model_the_state_is_the_same() -> None:
    torch.manual_seed(0)
    one, other = Tied(), Tied()
    layout = layout_of(one)
    flat = flatten(one, layout)
    assert flat.shape == (layout.size,)
    assert not flat[layout.num_params : layout.tail_start].any()
    missing = other.load_state_dict(unflatten(flat, layout), strict=False)
    assert missing.missing_keys == ["frozen"]  # torch itself fills in num_batches_tracked
    assert missing.unexpected_keys == []
    assert torch.equal(other.head.weight, one.embed.weight)
    assert torch.equal(flatten(other, layout), flat)


@pytest.mark.parametrize(
    ("dtypes", "flat"),
    [
        ((torch.float32, torch.float32), "float32"),
        ((torch.bfloat16, torch.float16), "float32"),
        ((torch.float32, torch.float64), "float64"),
    ],
)
def test_the_flat_dtype_holds_every_parameter_exactly(dtypes: tuple[torch.dtype, torch.dtype], flat: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4).to(dtypes[0]), nn.Linear(4, 2).to(dtypes[1]))
    layout = layout_of(model)
    assert layout.dtype == flat
    back = unflatten(flatten(model, layout), layout)
    assert all(torch.equal(back[name], param) and back[name].dtype == param.dtype for name, param in model.named_parameters())


def test_a_model_on_the_meta_device_has_a_layout() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(1000, 1000), nn.Linear(1000, 1000))
    assert layout_of(model).num_params == 2 * 1001 * 1000


def test_groups_by_pattern_the_first_match_wins_and_tied_names_count() -> None:
    layout = layout_of(Tied(), [["*.bias"], ["norm.*", "head.weight"]])
    assert {piece.name: piece.group for piece in layout.parameters} == {
        "embed.weight": 2,
        "norm.weight": 2,
        "norm.bias": 1,
        "head.bias": 1,
    }


def test_a_pattern_that_matches_nothing_brings_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"group 2: 'head.biass' matches no trainable parameter; did you mean 'head.bias'"):
        layout_of(Tied(), [["norm.*"], ["head.biass"]])


def frozen_model() -> nn.Module:
    return nn.Linear(2, 2).requires_grad_(False)


def aliased_model() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight.data = model[0].weight.data
    return model


def float64_statistics() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False))
    model[1].double()
    return model


def complex_model() -> nn.Module:
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    return model


def cumulative_instance_norm() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 2, 1), nn.InstanceNorm1d(2, momentum=None, track_running_stats=True))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (frozen_model(), "no trainable parameter"),
        (nn.ReLU(), "no trainable parameter"),
        (nn.LazyLinear(3), "weight has no shape yet .*; bias has no shape yet"),
        (complex_model(), "weight is complex64"),
        (aliased_model(), "0.weight shares memory with another parameter .*; 1.weight shares"),
        (float64_statistics(), "buffer 1.running_mean is float64 among float32 parameters"),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, momentum=None)), "1 is BatchNorm1d with momentum=None: a cumulative average"),
        (cumulative_instance_norm(), "1 is InstanceNorm1d with momentum=None"),
    ],
)
def test_a_model_that_cannot_be_held_flat_is_refused_with_what_to_do(model: nn.Module, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        layout_of(model)


def test_batchnorm_without_statistics_has_no_tail_and_needs_no_momentum() -> None:
    layout = layout_of(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, momentum=None, track_running_stats=False)))
    assert layout.buffers == ()


@pytest.mark.parametrize("other", [nn.Linear(3, 3), nn.Linear(2, 2).double(), nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2, bias=False)])
def test_a_layout_of_another_model_is_refused(other: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"the layout is of another model: .*(weight|bias)"):
        flatten(other, layout_of(nn.Linear(2, 2)))
    with pytest.raises(ConfigError, match="the layout is of another model"):
        flatten(nn.Linear(2, 2), layout_of(other))
