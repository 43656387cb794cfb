"""Moving a collated batch to a device, whatever it is made of."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def to_device(batch: Any, device: torch.device) -> Any:
    """Every tensor in tuples, named tuples, lists and mappings, moved; what has a `to` of its own (a `BatchEncoding`) uses it.

    Anything else is left as it is. Copies overlap with computing where the batch lies in pinned memory.
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(each, device) for each in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(each, device) for each in batch)
    if callable(getattr(batch, "to", None)):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(each, device) for key, each in batch.items()}
    return batch
