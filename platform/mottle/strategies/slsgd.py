"""SLSGD: rounds of local SGD over some of the workers, trimmed against a few that are poisoned, and mixed with the model before.

x <- (1 - alpha) x + alpha A,   A the mean, or the coordinate-wise trimmed mean, of the participants' models

A trimmed mean of models is the model minus that of the pseudo-gradients, so this is local SGD with a rule and an outer rate alpha.

Source: Xie, Koyejo, Gupta, ECML-PKDD 2019, arXiv 1903.06996; `asynchronous.md` B3. Differs: participants take turns by slot, not by drawn
permutations. Neutral reference: with alpha 1, no trim and all workers it is local SGD.
"""

from dataclasses import dataclass

from mottle.strategies.local_rounds import LocalRounds, RobustLocalOptions
from mottle.strategies.options import refuse, unless


@dataclass(frozen=True, kw_only=True)
class SLSGDConfig(RobustLocalOptions):
    """Trimmed, mixed local SGD."""

    alpha: float = 1.0
    """Share of the new model, in (0, 1]."""
    trim: int = 0  # b
    """Models left out at each end of every coordinate; at least the number of poisoned participants."""
    participants: int | None = None  # k
    """Workers of a round; None for all."""

    def __post_init__(self) -> None:
        enough = self.participants is None or self.participants >= max(1, 2 * self.trim + 1)
        refuse(
            "slsgd",
            self.faults(),
            unless(0 < self.alpha <= 1, f"0 < alpha <= 1, got {self.alpha}"),
            unless(self.trim >= 0 and enough, f"0 <= 2 trim < participants, got trim {self.trim} and {self.participants} participants"),
            unless(not self.trim or self.rule is None, "either trim or a rule: it trims by itself"),
        )

    def build(self) -> LocalRounds:
        rule = {"trimmed_mean": {"trim": self.trim}} if self.trim else self.rule
        return LocalRounds(self, {"outer_sgd": {"lr": self.alpha}}, rule=rule, participants=self.participants)
