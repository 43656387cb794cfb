"""NaN and infinities, as overflow, broken hardware and vandals send them.

A gated rule drops such rows and spends one unit of budget each; the plain mean passes them on.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mottle.attacks.base import Attack, State, Turn
from mottle.attacks.checks import choice, whole
from mottle.attacks.view import Knowledge
from mottle.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class NonFinite(Attack):
    """Rows that are not finite."""

    name: ClassVar[str] = "non_finite"
    citation: ClassVar[str] = "common practice; no paper"
    passes_gate: ClassVar[str] = "no"

    kind: Literal["nan", "inf", "single", "mixed"] = "nan"
    """All NaN; all +inf; one NaN in an otherwise honest row; +inf and -inf in turn from row to row (their sum is NaN)."""
    coordinate: int = 0
    """Where the NaN of kind `single` is."""

    def _problems(self) -> list[str]:
        return choice("kind", self.kind, ("nan", "inf", "single", "mixed")) + whole("coordinate", self.coordinate, least=0)

    @property
    def knowledge(self) -> Knowledge:
        # Mixed signs need to know one's place among the colluders, hence their channel.
        return {"single": Knowledge.OWN, "mixed": Knowledge.COLLUDERS}.get(self.kind, Knowledge.NOTHING)

    def _rows(self, turn: Turn, state: State) -> tuple[Tensor, State]:
        if self.kind == "single":
            return self._with_one_nan(turn.own.clone()), state
        shape = (turn.view.num_faulty, turn.view.length)
        rows_QD = torch.full(shape, torch.nan if self.kind == "nan" else torch.inf, dtype=turn.view.dtype, device=turn.view.device)
        if self.kind == "mixed":
            rows_QD[1::2] = -torch.inf
        return rows_QD, state

    def _with_one_nan(self, rows_QD: Tensor) -> Tensor:
        if self.coordinate >= rows_QD.shape[1]:
            raise ConfigError(f"non_finite: coordinate {self.coordinate} lies outside an update of length {rows_QD.shape[1]}; lower it")
        rows_QD[:, self.coordinate] = torch.nan
        return rows_QD
