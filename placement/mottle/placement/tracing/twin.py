"""A copy of a model without memory: the same modules over fake tensors, which have shapes, dtypes and strides only.

The twin is what gets traced and costed, so a capture neither touches the model's weights nor needs room for them; a model on the meta
device or built under a `FakeTensorMode` will do.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils import _pytree as pytree

from mottle.core.errors import ConfigError


def fake_mode() -> FakeTensorMode:
    """The mode that a twin and its inputs share. Constants that a model makes in `forward` may be real."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def fake_like(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    """A fake CPU tensor of the same shape, strides, dtype and need of a gradient."""
    with mode:
        fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    return fake.requires_grad_(tensor.requires_grad)


def fake_tree(value: Any, mode: FakeTensorMode) -> Any:
    """Every tensor of nested tuples, lists and dicts as a fake one."""
    return pytree.tree_map(lambda leaf: fake_like(leaf.detach(), mode) if isinstance(leaf, Tensor) else leaf, value)


def twin_of(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """The twin; tied parameters stay tied.

    Models of Hugging Face's transformers lose their key-value cache: it is of no use in a step of training, and no tracer takes it.

    Raises:
        ConfigError: a parameter has no shape yet, or the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise ConfigError(f"{name} has no shape yet: call the model once before capturing it")
        if tensor.layout is not torch.strided:
            raise ConfigError(f"{name} is a {tensor.layout} tensor; capture knows strided ones only")
        fake = fake_like(tensor.detach(), mode)
        memo[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:  # copying runs any code of the user's modules
        raise ConfigError(f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}); give it a __deepcopy__") from error
    config: Any = getattr(twin, "config", None)
    if getattr(config, "use_cache", False) is True:
        config.use_cache = False
    return twin
