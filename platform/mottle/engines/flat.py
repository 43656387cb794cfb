"""From a model to its flat layout, and between its tensors and the flat vector."""

from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from mottle.core.errors import ConfigError
from mottle.core.layout import Entry, FlatDtype, Layout, Slice, pack
from mottle.core.naming import suggestion

_TRAINABLE = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def layout_of(model: nn.Module, param_groups: Sequence[Sequence[str]] = ()) -> Layout:
    """Where each tensor of a model lies; see `mottle.core.layout` for which do and how they combine.

    Args:
        model: on any device, "meta" too.
        param_groups: shell patterns of parameter names (`OptimizerSpec.group_patterns`): the parameters that the first entry matches are
            group 1, those of the second group 2, ...; the first match wins, and what none matches is group 0.
    Returns:
        Its dtype is float64 when a trainable parameter is, else float32 (which holds float16 and bfloat16 exactly).
    Raises:
        ConfigError: no trainable parameter, a pattern that matches none, or something that cannot be held flat, with what to do.
    """
    names = _names(model)
    trainable = {name: param for name, param in model.named_parameters() if param.requires_grad}
    floating = {name: buffer for name, buffer in _persistent_buffers(model) if buffer.is_floating_point()}
    dtype: FlatDtype = "float64" if any(param.dtype == torch.float64 for param in trainable.values()) else "float32"
    if problems := [*_misfits(trainable), *_lossy(floating, dtype), *_cumulative(model)]:
        raise ConfigError(f"the model cannot be trained as it is: {'; '.join(problems)}")
    groups = _groups(names, trainable, param_groups)
    travelling = {id(tensor): name for name, tensor in (trainable | floating).items()}
    return pack(
        [Entry(name, tuple(param.shape), dtype_name(param.dtype), groups[name]) for name, param in trainable.items()],
        [Entry(name, tuple(buffer.shape), dtype_name(buffer.dtype)) for name, buffer in floating.items()],
        aliases={
            alias: travelling[key]
            for key, all_names in names.items()
            if key in travelling
            for alias in all_names
            if alias != travelling[key]
        },
        dtype=dtype,
    )


@torch.no_grad()
def flatten(model: nn.Module, layout: Layout) -> Tensor:
    """The model's tensors as one flat vector of `layout.dtype` on the CPU, shape (size,); zeros in the gap.

    Raises:
        ConfigError: the layout is of another model.
    """
    flat = torch.zeros(layout.size, dtype=getattr(torch, layout.dtype))
    for piece, tensor in tensors_of(model, layout):
        view_of(flat, piece).copy_(tensor)
    return flat


def unflatten(flat: Tensor, layout: Layout) -> dict[str, Tensor]:
    """The tensors by name, aliases too, in their own shapes and dtypes; views of `flat` where dtypes agree."""
    tensors = {piece.name: view_of(flat, piece).to(getattr(torch, piece.dtype)) for piece in layout.slices}
    return tensors | {alias: tensors[name] for alias, name in layout.aliases.items()}


def view_of(flat: Tensor, piece: Slice) -> Tensor:
    """The piece's coordinates in its own shape."""
    return flat[piece.start : piece.stop].view(piece.shape)


def tensors_of(model: nn.Module, layout: Layout) -> list[tuple[Slice, Tensor]]:
    """Each slice with the model's tensor of that name.

    Raises:
        ConfigError: the layout is of another model; names the differences.
    """
    tensors: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    wrong = [piece.name for piece in layout.slices if not _fits(tensors.get(piece.name), piece)]
    extra = {name for name, param in model.named_parameters() if param.requires_grad} - {piece.name for piece in layout.slices}
    if wrong or extra:
        raise ConfigError(f"the layout is of another model: {', '.join(sorted({*wrong, *extra})[:5])} differ; make it anew with layout_of")
    return [(piece, tensors[piece.name]) for piece in layout.slices]


def dtype_name(dtype: torch.dtype) -> str:
    """`"float32"` for `torch.float32`, as layouts write it."""
    return str(dtype).removeprefix("torch.")


def _fits(tensor: Tensor | None, piece: Slice) -> bool:
    return tensor is not None and tuple(tensor.shape) == piece.shape and dtype_name(tensor.dtype) == piece.dtype


def _names(model: nn.Module) -> dict[int, list[str]]:
    """All names of every parameter and buffer, by the identity of the tensor."""
    names: dict[int, list[str]] = {}
    for source in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in source:
            names.setdefault(id(tensor), []).append(name)
    return names


def _persistent_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers that belong to the model's state dictionary, each once."""
    for name, buffer in model.named_buffers():
        path, _, key = name.rpartition(".")
        if key not in model.get_submodule(path)._non_persistent_buffers_set:
            yield name, buffer


def _misfits(trainable: dict[str, nn.Parameter]) -> Iterator[str]:
    """Parameters that a flat vector cannot hold."""
    homes = Counter(param.data_ptr() for param in trainable.values() if not isinstance(param, nn.UninitializedParameter) and param.numel())
    for name, param in trainable.items():
        if isinstance(param, nn.UninitializedParameter):
            yield f"{name} has no shape yet (run one batch through the model first)"
        elif param.dtype not in _TRAINABLE:
            yield f"{name} is {dtype_name(param.dtype)} (trainable parameters are real: {', '.join(map(dtype_name, _TRAINABLE))})"
        elif param.numel() and param.data_ptr() and homes[param.data_ptr()] > 1:
            yield f"{name} shares memory with another parameter (tie them by assigning the same Parameter object)"


def _lossy(floating: dict[str, Tensor], dtype: FlatDtype) -> Iterator[str]:
    """Buffers that would be rounded on their way."""
    for name, buffer in floating.items():
        if buffer.dtype == torch.float64 and dtype == "float32":
            yield (
                f"buffer {name} is float64 among float32 parameters and would be rounded (make it float32, or register it with "
                "persistent=False)"
            )


def _cumulative(model: nn.Module) -> Iterator[str]:
    """Running statistics whose next value depends on a count that stays local."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats and module.momentum is None:
            yield (
                f"{name or 'the model'} is {type(module).__name__} with momentum=None: a cumulative average needs the number of batches "
                "behind each value, which differs from worker to worker (give it a momentum such as 0.1)"
            )


def _groups(names: dict[int, list[str]], trainable: dict[str, nn.Parameter], patterns: Sequence[Sequence[str]]) -> dict[str, int]:
    """Group number by canonical name; a tied parameter may be claimed by any of its names."""
    groups: dict[str, int] = dict.fromkeys(trainable, 0)
    for number, group in reversed(list(enumerate(patterns, start=1))):
        for pattern in group:
            matched = [name for name, param in trainable.items() if any(fnmatchcase(each, pattern) for each in names[id(param)])]
            if not matched:
                raise ConfigError(f"parameter group {number}: {pattern!r} matches no trainable parameter; {suggestion(pattern, trainable)}")
            groups.update(dict.fromkeys(matched, number))
    return groups
