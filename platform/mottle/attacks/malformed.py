"""Messages that break the protocol: wrong shape, dtype, label or number of copies.

The server must not raise out of its loop because of one: it marks the row invalid, counts it and answers. The first valid message of a
worker in a round wins; later ones are ignored.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mottle.attacks.base import Attack, State
from mottle.attacks.checks import choice
from mottle.attacks.view import Knowledge, Message
from mottle.core.errors import ConfigError

PAYLOADS: dict[str, Callable[[Tensor], object]] = {
    "short": lambda update_D: update_D[:-1].clone(),
    "long": lambda update_D: torch.cat([update_D, update_D.new_zeros(1)]),
    # Two rows where the length allows it: the right number of values in the wrong shape.
    "matrix": lambda update_D: update_D.reshape(2 if len(update_D) % 2 == 0 else 1, -1).clone(),
    "integer": lambda update_D: torch.ones_like(update_D, dtype=torch.int64),
    "complex": lambda update_D: torch.complex(update_D.float(), torch.zeros_like(update_D, dtype=torch.float32)),
    "object": lambda update_D: np.array([{"value": i} for i in range(len(update_D))], dtype=object),
    "empty": lambda update_D: update_D[:0].clone(),
    # A server that broadcasts would take it for a whole update.
    "scalar": lambda update_D: update_D.new_ones(()),
    # The right shape with its halves exchanged, as from a wrong order of layers or shards: only a checksum of the layout can tell.
    "permuted": lambda update_D: update_D.roll(len(update_D) // 2),
}
LABELS = ("duplicate", "other_round", "foreign")


@dataclass(frozen=True, kw_only=True)
class Malformed(Attack):
    """One kind of malformed message. On tensors its rows are the workers' own updates: what is wrong shows on the wire only."""

    name: ClassVar[str] = "malformed"
    citation: ClassVar[str] = "common practice; no paper"
    stage: ClassVar = "message"
    passes_gate: ClassVar[str] = "no, but for kind permuted"

    kind: str = "short"
    """Payload: short (d-1), long (d+1), matrix (2-D, right size), integer, complex, object, empty, scalar, permuted. Label: duplicate (a
    second, reversed update for the same worker and round), other_round (labelled with the next one), foreign (under the next worker's id).
    """

    def _problems(self) -> list[str]:
        return choice("kind", self.kind, (*PAYLOADS, *LABELS))

    @property
    def knowledge(self) -> Knowledge:
        return Knowledge.OWN

    def _messages(self, message: Message, state: State, generator: np.random.Generator | None) -> list[Message]:
        if self.kind == "other_round":
            return [replace(message, round=message.round + 1)]
        if self.kind == "foreign":
            return [replace(message, worker=message.worker + 1)]
        update_D = message.payload
        if not isinstance(update_D, Tensor) or update_D.ndim != 1:
            raise ConfigError(f"malformed starts from a 1-D tensor, got {type(update_D).__name__}; apply it to a well-formed message")
        if self.kind == "duplicate":
            return [message, replace(message, payload=-update_D)]
        return [replace(message, payload=PAYLOADS[self.kind](update_D))]
