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

from mottle.core.errors import ConfigError
from mottle.core.naming import folded, parse
from mottle.strategies.local_rounds import LocalOptions, LocalRounds


@dataclass(frozen=True, kw_only=True)
class LocalAdaAlterConfig(LocalOptions):
    """Local steps of AdaAlter; the job's optimizer gives the rate alone. No robust rule: half of an update is no pseudo-gradient."""

    lr: float
    """Of the inner steps, before the schedule: the job's."""
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
        LocalOptions.__post_init__(self)
        if not (self.lr > 0 and self.eps2 > 0 and self.initial >= 0 and self.weight_decay >= 0):
            raise ConfigError(
                "local_adaalter needs lr > 0, eps2 > 0, initial >= 0 and weight_decay >= 0, got "
                f"{self.lr}, {self.eps2}, {self.initial} and {self.weight_decay}"
            )
        if self.placeholder not in ("paper", "code"):
            raise ConfigError(f"placeholder is paper or code, got {self.placeholder!r}")
        only_a_rate("local_adaalter", self.optimizer)

    def build(self) -> LocalRounds:
        options = {"lr": self.lr, "eps2": self.eps2, "weight_decay": self.weight_decay, "placeholder": self.placeholder}
        return LocalRounds(self, {"outer_sgd": {"lr": 1.0}}, method={"adaalter": options}, companion=self.initial)


def only_a_rate(strategy: str, optimizer: object) -> None:
    """Refuse an optimizer that says more than a learning rate, where the strategy is one itself.

    Raises:
        ConfigError: with what to do.
    """
    name, options = parse(optimizer, "optimizer")
    if folded(name) != "sgd" or not options.keys() <= {"lr"}:
        raise ConfigError(f"strategy {strategy!r} has an inner optimizer of its own: give optimizer sgd with an lr and nothing else")
