"""How stages hand each other tensors. The shell gives a gang its channel; engines know no sockets."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Form(NamedTuple):
    """A tensor that is about to come."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Channel(Protocol):
    """One stage's end. What two stages send each other under one tag comes in the order in which it was sent.

    Every call raises what its transport raises when the gang is torn apart; the step at hand is lost then, and the channel with it.
    """

    def send(self, stage: int, tag: int, tensors: Sequence[Tensor]) -> None:
        """Begin to send; tensors on any device, which must not change before `settle`."""

    def expect(self, stage: int, tag: int, forms: Sequence[Form]) -> Callable[[], list[Tensor]]:
        """Make room for tensors that will come. What is returned waits for them; they lie in the host's memory."""

    def settle(self) -> None:
        """Return once everything that was sent has gone."""
