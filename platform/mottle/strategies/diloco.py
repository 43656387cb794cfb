"""DiLoCo: many local steps (of AdamW, usually), then one step of SGD with Nesterov momentum on the mean pseudo-gradient.

D = sum_i w_i (x - x_{i,H});   buf <- mu buf + D (D itself in the first round);   x <- x - eta (D + mu buf)

Source: Douillard et al. 2023, arXiv 2311.08105; hyperparameters of OpenDiLoCo, arXiv 2407.07852; `local-steps.md` 4. Neutral references:
with outer rate 1 and no momentum it is local SGD, so with one worker the inner optimizer.
"""

from dataclasses import dataclass

from mottle.strategies.local_rounds import LocalRounds, RobustLocalOptions
from mottle.strategies.options import no_shares, not_above, refuse


@dataclass(frozen=True, kw_only=True)
class DiLoCoConfig(RobustLocalOptions):
    """Local steps under an outer optimizer."""

    local_steps: int = 500
    """Inner steps of a round; 50 to 500 in the papers."""
    outer_lr: float = 0.7
    outer_momentum: float = 0.9
    """mu, in [0, 1); Nesterov's."""

    def __post_init__(self) -> None:
        refuse("diloco", self.faults(), not_above(0, outer_lr=self.outer_lr), no_shares(outer_momentum=self.outer_momentum))

    def build(self) -> LocalRounds:
        momentum = {"momentum": self.outer_momentum, "nesterov": True} if self.outer_momentum else {}
        return LocalRounds(self, {"outer_sgd": {"lr": self.outer_lr, **momentum}}, rule=self.rule)
