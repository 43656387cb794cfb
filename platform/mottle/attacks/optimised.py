"""Attacks whose factor is fitted to the defender's own rule.

Source: the line searches of the byzfl and ByzantineMomentum libraries.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mottle.attacks.base import Attack, State, Turn
from mottle.attacks.checks import choice, number, whole
from mottle.attacks.line_search import maximise_forward, maximise_swinging
from mottle.attacks.moments import column_means, column_stds
from mottle.attacks.view import Knowledge, RoundView
from mottle.core.errors import ConfigError

SEARCHES = {"forward": maximise_forward, "swinging": maximise_swinging}


@dataclass(frozen=True, kw_only=True)
class Optimised(Attack):
    """Rows mean - factor * std ("alie") or -factor * mean ("ipm") of the honest updates, with the factor that moves the rule farthest.

    The factor is searched for norm(rule(rows) - mean), with the rule of the view applied to all rows of the round in ascending worker id.
    """

    name: ClassVar[str] = "optimised"
    citation: ClassVar[str] = "line searches in public code: LPD-EPFL/byzfl, LPD-EPFL/ByzantineMomentum"

    family: Literal["alie", "ipm"] = "ipm"
    """The line on which the rows lie."""
    search: Literal["forward", "swinging"] = "forward"
    """How the search contracts; `swinging` goes with evaluations 16 and first_step 1."""
    evaluations: int = 20
    """Times that the rule is applied in a round."""
    initial: float = 0.0
    """First factor tried."""
    first_step: float = 10.0
    """First step of the factor; it doubles while that helps."""
    ratio: float = 0.8
    """Contraction of the step."""

    def _problems(self) -> list[str]:
        problems = choice("family", self.family, ("alie", "ipm")) + choice("search", self.search, tuple(SEARCHES))
        problems += whole("evaluations", self.evaluations, least=1) + number("initial", self.initial, least=0.0)
        problems += number("first_step", self.first_step, above=0.0) + number("ratio", self.ratio, above=0.0)
        if not problems and self.ratio >= 1.0:
            problems.append(f"ratio must be below 1, got {self.ratio!r}")
        return problems

    @property
    def knowledge(self) -> Knowledge:
        return Knowledge.RULE

    def factor(self, view: RoundView) -> float:
        """The factor of this round."""
        turn = Turn(attack=self.name, view=view, active=torch.ones(view.num_faulty, dtype=torch.bool), generator=None)
        return self._search(turn, *self._line(turn))

    def _rows(self, turn: Turn, state: State) -> tuple[Tensor, State]:
        base_D, direction_D = self._line(turn)
        return turn.same_for_all(base_D - self._search(turn, base_D, direction_D) * direction_D), state

    def _line(self, turn: Turn) -> tuple[Tensor, Tensor]:
        """Row at factor 0, and what each unit of the factor takes away from it."""
        mean = column_means(turn.honest)
        if self.family == "ipm":
            return torch.zeros_like(mean), mean
        if turn.view.num_honest < 2:
            raise ConfigError("optimised alie needs at least 2 honest updates for their standard deviation, got 1; use family 'ipm'")
        return mean, column_stds(turn.honest, ddof=1)

    def _search(self, turn: Turn, base_D: Tensor, direction_D: Tensor) -> float:
        rule, mean = turn.rule, column_means(turn.honest)

        def damage(factor: float) -> float:
            rows_ND = turn.view.assemble(turn.same_for_all(base_D - factor * direction_D))
            return float(torch.linalg.vector_norm(rule(rows_ND).double() - mean))

        return SEARCHES[self.search](damage, start=self.initial, step=self.first_step, ratio=self.ratio, evaluations=self.evaluations)
