"""Rows on the line through zero and the honest mean: inner-product manipulation, the scaled negative sum, zero and zero-sum.

Sources: Xie, Koyejo, Gupta, "Fall of Empires", UAI 2019, arXiv 1903.03936; the omniscient fault of arXiv 1802.10116.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mottle.attacks.base import Attack, State, Turn
from mottle.attacks.checks import number
from mottle.attacks.moments import column_means
from mottle.attacks.view import Knowledge


@dataclass(frozen=True, kw_only=True)
class InnerProductManipulation(Attack):
    """Rows -epsilon times the honest mean, so that the aggregate points against the true gradient.

    The mean is broken iff epsilon > h/q. Coordinate-wise medians and trimmed rules fall to small epsilon wherever noise dominates. Krum
    picks a faulty row iff (1 + epsilon)^2 < ((n-3)/(n-2q-1)) V/G, with V the expected squared distance of an honest update from its mean
    and G the squared norm of the mean, so it falls to small epsilon only.
    """

    name: ClassVar[str] = "ipm"
    citation: ClassVar[str] = "Xie et al. 2019, arXiv 1903.03936"

    epsilon: float = 0.1
    """Length of the row in honest means, above 0; 0.1, 1.1 and 2 are in use."""

    def _problems(self) -> list[str]:
        return number("epsilon", self.epsilon, above=0.0)

    @property
    def knowledge(self) -> Knowledge:
        return Knowledge.HONEST

    def _rows(self, turn: Turn, state: State) -> tuple[Tensor, State]:
        return turn.same_for_all(column_means(turn.honest) * -self.epsilon), state


@dataclass(frozen=True, kw_only=True)
class Omniscient(Attack):
    """Rows -scale times the sum of the honest updates.

    The authors' code sums the faulty ones too. In float32 choose `scale` so that scale times the norm of the sum stays below 3e38; beyond,
    the row is infinite and a gate takes it.
    """

    name: ClassVar[str] = "omniscient"
    citation: ClassVar[str] = "Xie et al. 2018, arXiv 1802.10116"
    passes_gate: ClassVar[str] = "if no overflow"

    scale: float = 1e10
    """s, above 0; 1e10 to 1e20 are in use."""

    def _problems(self) -> list[str]:
        return number("scale", self.scale, above=0.0)

    @property
    def knowledge(self) -> Knowledge:
        return Knowledge.HONEST

    def _rows(self, turn: Turn, state: State) -> tuple[Tensor, State]:
        return turn.same_for_all(column_means(turn.honest) * (-self.scale * len(turn.honest))), state


@dataclass(frozen=True, kw_only=True)
class Zero(Attack):
    """Rows of zeros: training slows by h/n, and rules that favour small norms keep them."""

    name: ClassVar[str] = "zero"
    citation: ClassVar[str] = "lazy worker; no paper"

    @property
    def knowledge(self) -> Knowledge:
        return Knowledge.NOTHING

    def _rows(self, turn: Turn, state: State) -> tuple[Tensor, State]:
        return torch.zeros(turn.view.num_faulty, turn.view.length, dtype=turn.view.dtype, device=turn.view.device), state


@dataclass(frozen=True, kw_only=True)
class ZeroSum(Attack):
    """Rows -1/q times the sum of the honest updates, so that the plain mean is zero: inner-product manipulation with epsilon h/q."""

    name: ClassVar[str] = "zero_sum"
    citation: ClassVar[str] = "Xie et al. 2019, arXiv 1903.03936, at its breakdown point for the mean"

    @property
    def knowledge(self) -> Knowledge:
        return Knowledge.HONEST

    def _rows(self, turn: Turn, state: State) -> tuple[Tensor, State]:
        return turn.same_for_all(column_means(turn.honest) * (-turn.view.num_honest / turn.view.num_faulty)), state
