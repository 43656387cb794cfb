"""Local AdaAlter: AdaGrad whose denominator is shared as seldom as the parameters are.

x <- x - eta (g / sqrt(h + k eps2) + wd x);   A <- A + g g;   after H steps x and A become the means over workers, and h is A

h stays as it was at the beginning of the round, the same on all workers; `k eps2` (k counts the steps of a round) stands in for the squared
gradients that it lacks. A lives beside the parameters as buffers of the model, so an exchange carries twice their size.

Source: Xie, Koyejo, Gupta, Lin 2019, arXiv 1911.09030; `local-steps.md` 2. Differs: the synchronous warm-up (`warmup_rounds`) accumulates
means of squares, as the paper; the authors' code accumulates squares of means there. Neutral reference: with local_steps 1 and placeholder
`code` it is synchronous AdaAlter.
"""

from dataclasses import dataclass
from typing import Literal

from mottle.strategies.local_rounds import AVERAGING, LocalRounds, OwnMethodOptions
from mottle.strategies.options import below, not_above, others_than, refuse


@dataclass(frozen=True, kw_only=True)
class LocalAdaAlterConfig(OwnMethodOptions):
    """Local steps of AdaAlter."""

    local_steps: int = 4
    """Inner steps of a round; 4 to 16 in the paper."""
    eps2: float = 1.0
    """Added to the denominator's square."""
    initial: float = 0.0  # b0^2
    """What the accumulators begin with; the paper's code has 0 and eps2 1."""
    weight_decay: float = 0.0
    placeholder: Literal["paper", "code"] = "paper"
    """`paper`: eps2 times the step of the round; `code`: eps2 once."""

    def __post_init__(self) -> None:
        refuse(
            "local_adaalter",
            self.faults(),
            not_above(0, eps2=self.eps2),
            below(0, initial=self.initial, weight_decay=self.weight_decay),
            others_than(("paper", "code"), placeholder=self.placeholder),
        )

    def build(self) -> LocalRounds:
        options = {"lr": self.lr, "eps2": self.eps2, "weight_decay": self.weight_decay, "placeholder": self.placeholder}
        return LocalRounds(self, AVERAGING, method={"adaalter": options}, companion=self.initial)
