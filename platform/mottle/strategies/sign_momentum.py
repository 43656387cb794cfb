"""Distributed sign momentum (DSM): any optimizer locally, and a Lion-like step of the sign of a momentum globally.

d = (x - xbar) / gamma;   u = beta1 m + (1 - beta1) d
x <- (1 - lam eta gamma) x - eta gamma sign(u);   m <- beta2 m + (1 - beta2) d,   gamma the rate of the round's last inner step

The parameters that workers reached are dropped, only d survives. A coordinate moves by eta gamma in a round, though its inner steps may
have moved it by local_steps times gamma: tune eta between 1 and local_steps. Weight decay twice, in the inner optimizer and here, is meant.

Source: Yu et al. 2024, arXiv 2411.17866; `local-steps.md` 3. Neutral reference: Lion with one worker, one local step and plain SGD.
"""

from dataclasses import dataclass

from mottle.strategies.local_rounds import LocalRounds, RobustLocalOptions
from mottle.strategies.options import below, not_above, refuse, unless


@dataclass(frozen=True, kw_only=True)
class SignMomentumConfig(RobustLocalOptions):
    """Sign momentum over local steps."""

    lr: float
    """Of the inner steps, before the schedule: the job's. Where parameter groups have rates of their own, gamma is still this one."""
    local_steps: int = 12  # tau
    """Inner steps of a round."""
    eta: float = 1.0
    """Global step size, in units of gamma."""
    beta1: float = 0.95
    beta2: float = 0.98
    weight_decay: float = 0.1  # lam
    """Global, beside the inner optimizer's own."""

    def __post_init__(self) -> None:
        refuse(
            "sign_momentum",
            self.faults(),
            not_above(0, lr=self.lr, eta=self.eta),
            below(0, weight_decay=self.weight_decay),
            unless(0 <= self.beta1 <= 1 and 0 <= self.beta2 <= 1, f"beta1 and beta2 in [0, 1], got {self.beta1} and {self.beta2}"),
        )

    def build(self) -> LocalRounds:
        options = {"beta1": self.beta1, "beta2": self.beta2, "weight_decay": self.weight_decay, "eta": self.eta}
        return LocalRounds(self, {"sign_momentum": {"lr": self.lr, **options}}, rule=self.rule)
