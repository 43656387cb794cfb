"""The honest baseline, and attacks that carry another attack."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from torch import Tensor

from mottle.attacks.base import Arrival, Attack, State, Turn
from mottle.attacks.view import Knowledge, Message


@dataclass(frozen=True, kw_only=True)
class Honest(Attack):
    """No fault at all: the worker follows the protocol. The baseline of a study, and what a wrapper carries by default."""

    name: ClassVar[str] = "honest"
    citation: ClassVar[str] = "baseline"


@dataclass(frozen=True, kw_only=True)
class Wrapper(Attack):
    """Passes every seam on to the attack it carries, which keeps its own `start`, `message_probability` and state."""

    stage: ClassVar = "message"

    attack: Attack = field(default_factory=Honest)
    """The attack that makes the update."""

    def _problems(self) -> list[str]:
        carried: object = self.attack
        return (
            [] if isinstance(carried, Attack) else [f"attack must be an attack, got {carried!r}; build() makes one from its job file form"]
        )

    @property
    def knowledge(self) -> Knowledge:
        return max(self.attack.knowledge, Knowledge.OWN)

    @property
    def deterministic(self) -> bool:
        return self.attack.deterministic

    def init(self) -> State:
        return self.attack.init()

    def _labels(self, labels: Tensor, round: int, generator: np.random.Generator | None) -> Tensor:
        return self.attack.labels(labels, round=round, generator=generator)

    def _rows(self, turn: Turn, state: State) -> tuple[Tensor, State]:
        return self.attack.step(turn.view, state, generator=turn.generator)

    def _messages(self, message: Message, state: State, generator: np.random.Generator | None) -> list[Message]:
        return self.attack.messages(message, state=state, generator=generator)

    def _ingress(self, rows_NS: Tensor, arrival: Arrival, generator: np.random.Generator | None) -> Tensor:
        return self.attack.ingress(
            rows_NS, round=arrival.round, first=arrival.first, num_coordinates=arrival.num_coordinates, generator=generator
        )
