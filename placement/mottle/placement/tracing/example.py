"""Example inputs of a model: what `capture` is given, and how calls are brought into one form.

Only shapes and dtypes matter: a capture computes nothing.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mottle.core.errors import ConfigError
from mottle.core.naming import suggestion

_SHAPE = re.compile(r"^(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:x\d+)*|scalar)(?::(?P<dtype>\w+))?$")
_NAMES = ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool", "complex64")
_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in _NAMES}


class Example(NamedTuple):
    """Arguments of one call of the model."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def as_example(value: Any) -> Example:
    """A tensor is the only argument, a tuple or list the positional ones, a mapping the keyword ones."""
    if isinstance(value, Example):
        return value
    if isinstance(value, Mapping):
        return Example((), dict(value))
    if isinstance(value, tuple | list):
        return Example(tuple(value), {})
    if isinstance(value, Tensor):
        return Example((value,), {})
    raise ConfigError(
        f"an example is a tensor, a tuple of positional or a dict of keyword arguments of the model; got {type(value).__name__}"
    )


def canonical(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Example:
    """The same call with whatever can be positional as such, so that `model(x, y=1)` and `model(x, 1)` are one.

    Raises:
        ConfigError: the model's `forward` does not take these arguments.
    """
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ConfigError(f"{type(model).__name__}.forward{signature} does not take the given arguments: {error}") from None
    return Example(bound.args, dict(bound.kwargs))


def parse_shapes(texts: Sequence[str]) -> Example:
    """Inputs written as text: `8x3x224x224`, `8x128:int64`, `mask=8x128:bool`, `scalar:float32`; the dtype defaults to float32.

    Tensors on the meta device, which have a shape and no memory.

    Raises:
        ConfigError: a text of another form, an unknown dtype, or a positional input after a named one.
    """
    args: list[Tensor] = []
    kwargs: dict[str, Tensor] = {}
    for text in texts:
        found = _SHAPE.match(text)
        if found is None:
            raise ConfigError(f"an input is written as [name=]AxBxC[:dtype], for example ids=8x128:int64; got {text!r}")
        dtype = found["dtype"] or "float32"
        if dtype not in _DTYPES:
            raise ConfigError(f"input {text!r}: unknown dtype {dtype!r}; {suggestion(dtype, _DTYPES)}")
        shape = () if found["shape"] == "scalar" else tuple(int(size) for size in found["shape"].split("x"))
        tensor = torch.empty(shape, dtype=_DTYPES[dtype], device="meta")
        if found["name"]:
            kwargs[found["name"]] = tensor
        elif kwargs:
            raise ConfigError(f"input {text!r} has no name but follows a named one: list positional inputs first")
        else:
            args.append(tensor)
    return Example(tuple(args), kwargs)


def described(value: Any) -> str:
    """A tensor by shape and dtype, anything else by type, for messages."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    return f"{type(value).__name__} {value!r:.40}"
