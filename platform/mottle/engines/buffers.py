"""A model's buffers, put back to what they were: before a micro-batch that failed, or before an evaluation."""

import torch
from torch import Tensor, nn


class Buffers:
    """All buffers of a model, with room for one saved copy (their bytes once more; no allocation when saving).

    A forward pass may change a buffer in place (BatchNorm) or put another tensor under its name; both are undone by `restore`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places = [(module, key) for module in model.modules() for key, buffer in module._buffers.items() if buffer is not None]
        self._tensors = self._current()
        self._saved = [tensor.clone() for tensor in self._tensors]

    @torch.no_grad()
    def save(self) -> None:
        """Remember every buffer as it is now."""
        current = self._current()
        self._saved = [
            saved.copy_(tensor) if saved.shape == tensor.shape and saved.dtype == tensor.dtype else tensor.clone()
            for saved, tensor in zip(self._saved, current, strict=True)
        ]
        self._tensors = current

    @torch.no_grad()
    def restore(self) -> None:
        """Make every buffer what it was when last saved."""
        for (module, key), tensor, saved in zip(self._places, self._tensors, self._saved, strict=True):
            module._buffers[key] = tensor.copy_(saved)

    def _current(self) -> list[Tensor]:
        return [buffer for module, key in self._places if (buffer := module._buffers[key]) is not None]
