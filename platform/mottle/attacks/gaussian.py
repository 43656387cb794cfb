"""Gaussian noise.

Source: the faults of Xie, Koyejo, Gupta, arXiv 1802.10116 and 1805.10032. Plain means fail; every robust rule with enough budget survives.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mottle.attacks.base import Attack, State, Turn
from mottle.attacks.checks import choice, number
from mottle.attacks.view import Knowledge


@dataclass(frozen=True, kw_only=True)
class Gaussian(Attack):
    """Normal noise, mean + sigma N(0, I), in place of an update or on top of it, independent for each faulty worker.

    Draw order: one `standard_normal((q, d))` a round, rows in ascending faulty id.
    """

    name: ClassVar[str] = "gaussian"
    citation: ClassVar[str] = "Xie et al. 2018, arXiv 1802.10116"

    sigma: float = 200.0
    """Standard deviation (not variance)."""
    mean: float = 0.0
    """Added to every coordinate; 0.1 with sigma 0.1 is a variant in use."""
    mode: Literal["replace", "additive"] = "replace"
    """`additive` keeps the worker's own update under the noise."""

    def _problems(self) -> list[str]:
        problems = number("sigma", self.sigma, least=0.0) + number("mean", self.mean)
        return problems + choice("mode", self.mode, ("replace", "additive"))

    @property
    def knowledge(self) -> Knowledge:
        return Knowledge.OWN if self.mode == "additive" else Knowledge.NOTHING

    @property
    def deterministic(self) -> bool:
        return False

    def _rows(self, turn: Turn, state: State) -> tuple[Tensor, State]:
        noise_QD = turn.dice.standard_normal((turn.view.num_faulty, turn.view.length))
        rows_QD = torch.from_numpy(noise_QD).to(turn.view.device) * self.sigma + self.mean
        return (rows_QD + turn.own if self.mode == "additive" else rows_QD), state
