"""DOMO: momentum in the workers and in the server, coordinated: workers begin, or walk, along the server's momentum.

Workers: v <- bl v + g, z <- z - eta v, from y = x - eta K beta m (pre-fusion), or from x with a further - eta beta m a step (intra-fusion).
Server:  d = sum_i w_i (y - z_i) / (eta K), less beta m in intra-fusion;   m <- bs m + d;   x <- x - alpha eta K m

The server's momentum m lives beside the parameters as buffers of the model. Its step is linear in d, so each worker gives the step that its
own d would make, and the mean over workers is the step: an update carries twice the parameters (the paper's once).

Source: Xu, Huang 2021, arXiv 2102.03970; `local-steps.md` 6. Differs: a worker's own momentum begins anew in every round (the paper's
default). Neutral references: with all momenta 0 it is local SGD; with one step and bl = beta = 0 SGD with momentum bs.
"""

from dataclasses import dataclass
from typing import Literal

from mottle.strategies.local_rounds import AVERAGING, LocalRounds, OwnMethodOptions
from mottle.strategies.options import no_shares, not_above, others_than, refuse


@dataclass(frozen=True, kw_only=True)
class DOMOConfig(OwnMethodOptions):
    """Double momentum over local steps."""

    local_momentum: float = 0.9  # beta_l
    server_momentum: float = 0.9  # beta_s
    fusion: float = 0.5  # beta
    """How far workers walk along the server's momentum; tune in 0.2 to 0.9."""
    alpha: float = 1.0
    """Server rate."""
    variant: Literal["pre", "intra"] = "pre"

    def __post_init__(self) -> None:
        refuse(
            "domo",
            self.faults(),
            not_above(0, alpha=self.alpha),
            no_shares(local_momentum=self.local_momentum, server_momentum=self.server_momentum, fusion=self.fusion),
            others_than(("pre", "intra"), variant=self.variant),
        )

    def build(self) -> LocalRounds:
        momenta = {"local_momentum": self.local_momentum, "server_momentum": self.server_momentum, "fusion": self.fusion}
        method = {"domo": {"lr": self.lr, "alpha": self.alpha, "variant": self.variant, **momenta}}
        return LocalRounds(self, AVERAGING, method=method, companion=0.0)
