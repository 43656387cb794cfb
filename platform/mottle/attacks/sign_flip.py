"""Sign flip and reversed scaled updates.

Source: Xie, Koyejo, Gupta, Zeno (ICML 2019; its code says "bit flip" for the sign of every value) and Zeno++ (ICML 2020, scale 10).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from mottle.attacks.base import Attack, State, Turn
from mottle.attacks.checks import choice, number
from mottle.attacks.moments import column_means
from mottle.attacks.view import Knowledge


@dataclass(frozen=True, kw_only=True)
class SignFlip(Attack):
    """The reversed update, -scale times it.

    With scale 1 and at least as many faulty as honest workers, the mean and every majority rule turn around.
    """

    name: ClassVar[str] = "sign_flip"
    citation: ClassVar[str] = "Xie et al. 2019, arXiv 1805.10032; Xie et al. 2020, arXiv 1903.07020"

    scale: float = 1.0
    """s; 1 is the plain flip, 10 the reversed scaled attack."""
    variant: Literal["own", "copy", "omniscient"] = "own"
    """Whose update is reversed: each worker's own, that of the faulty worker with the smallest id (all send it), or the honest mean."""

    def _problems(self) -> list[str]:
        return number("scale", self.scale, above=0.0) + choice("variant", self.variant, ("own", "copy", "omniscient"))

    @property
    def knowledge(self) -> Knowledge:
        return {"own": Knowledge.OWN, "copy": Knowledge.COLLUDERS, "omniscient": Knowledge.HONEST}[self.variant]

    def _rows(self, turn: Turn, state: State) -> tuple[Tensor, State]:
        if self.variant == "own":
            return turn.own.double() * -self.scale, state
        reversed_D = turn.own[0].double() if self.variant == "copy" else column_means(turn.honest)
        return turn.same_for_all(reversed_D * -self.scale), state
