"""SlowMo: local steps, then one step of momentum on the pseudo-gradient over the inner learning rate.

m <- beta m + (x - xbar) / gamma;   x <- x - alpha gamma m,   gamma the learning rate of the round's last inner step

Source: Wang, Tantia, Ballas, Rabbat 2019, arXiv 1910.00643, as compared in arXiv 2411.17866; `local-steps.md` 3. Neutral reference: with
beta 0 and alpha 1 it is local SGD.
"""

from dataclasses import dataclass

from mottle.strategies.local_rounds import LocalRounds, RobustLocalOptions
from mottle.strategies.options import no_shares, not_above, refuse


@dataclass(frozen=True, kw_only=True)
class SlowMoConfig(RobustLocalOptions):
    """Slow momentum over local steps."""

    lr: float
    """Of the inner steps, before the schedule: the job's. Where parameter groups have rates of their own, gamma is still this one."""
    local_steps: int = 12  # tau
    """Inner steps of a round."""
    beta: float = 0.2
    """Slow momentum, in [0, 1)."""
    alpha: float = 1.0
    """Slow learning rate."""

    def __post_init__(self) -> None:
        refuse("slowmo", self.faults(), not_above(0, lr=self.lr, alpha=self.alpha), no_shares(beta=self.beta))

    def build(self) -> LocalRounds:
        return LocalRounds(self, {"slow_momentum": {"lr": self.lr, "beta": self.beta, "alpha": self.alpha}}, rule=self.rule)
