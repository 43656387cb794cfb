"""Count inflation: a false sample count beside any update, to own a mean that weighs by samples.

A count above what was handed out, or not a positive integer, invalidates the message; otherwise a robust rule caps its worth.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mottle.attacks.base import State
from mottle.attacks.checks import number
from mottle.attacks.view import Message
from mottle.attacks.wrapper import Wrapper


@dataclass(frozen=True, kw_only=True)
class CountInflation(Wrapper):
    """The worker claims `factor` times its true count, or `claim`, beside the update of the attack it carries."""

    name: ClassVar[str] = "count_inflation"
    citation: ClassVar[str] = "common practice; no paper"
    passes_gate: ClassVar[str] = "yes, capped"

    factor: float = 1000.0
    """Multiplies the true count; a whole product is claimed as an integer."""
    claim: float | None = None
    """Claimed whatever the true count is, say 1, 10**9, 0, -1, 2.5 or NaN."""

    def _problems(self) -> list[str]:
        problems = super()._problems() + number("factor", self.factor)
        if self.claim is not None and (isinstance(self.claim, bool) or not isinstance(self.claim, int | float)):
            problems.append(f"claim must be a number or nothing, got {self.claim!r}")
        return problems

    def claimed(self, count: float) -> float:
        """The count that is claimed in place of a true one."""
        if self.claim is not None:
            return self.claim
        product = count * self.factor
        return int(product) if product == product // 1 else product

    def _messages(self, message: Message, state: State, generator: np.random.Generator | None) -> list[Message]:
        sent = super()._messages(message, state, generator)
        return [replace(each, count=self.claimed(each.count)) for each in sent]
