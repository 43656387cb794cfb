"""Local SGD: workers take H steps of the job's optimizer each, then their models are averaged.

x <- sum_i w_i x_{i,H}, w_i the worker's share of the samples.

Source: McMahan et al. 2017 (FedAvg), arXiv 1602.05629; Stich 2018, arXiv 1805.09767; `local-steps.md` 1. Neutral references: with
local_steps 1 and plain SGD it is synchronous SGD, with one worker the base optimizer for any number of local steps.
"""

from dataclasses import dataclass

from mottle.strategies.local_rounds import AVERAGING, LocalRounds, RobustLocalOptions
from mottle.strategies.options import refuse


@dataclass(frozen=True, kw_only=True)
class LocalSGDConfig(RobustLocalOptions):
    """Periodic averaging."""

    def __post_init__(self) -> None:
        refuse("local_sgd", self.faults())

    def build(self) -> LocalRounds:
        return LocalRounds(self, AVERAGING, rule=self.rule)
