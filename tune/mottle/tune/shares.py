"""How large a crew each trial should have: policies, as pure functions of what is known of the trials.

Workers are dealt out one after the other, each to the trial that the policy finds the most urgent, above everybody's minimum and up to
everybody's maximum. Ties go to whoever has more workers already, then to whoever came first: so that nobody moves without a gain.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mottle.core.errors import ConfigError
from mottle.core.naming import construct

Point = tuple[float, float]
"""(mean crew, samples per second) between two reports of a trial."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """One trial that is let in."""

    trial: str
    minimum: int
    maximum: int
    holds: int = 0
    evaluations: int = 0
    points: Sequence[Point] = ()


Urgency = Callable[[Demand, int], float]
"""How much a trial with a crew of that size should have the next worker."""


@dataclass(frozen=True, kw_only=True)
class Equal:
    """Everybody the same."""

    def urgency(self, demand: Demand, size: int) -> float:
        return 1.0 / size


@dataclass(frozen=True, kw_only=True)
class Halving:
    """In proportion to what successive halving would have spent on a trial: `reduction` times as much for each rung that it has passed.

    Fewer and fewer trials pass, so those that do take over the workers of those that were stopped, and the whole fleet works on the best.
    Source: Misra et al. 2021 (RubberBand), where the crew of a trial grows from one stage of successive halving to the next.
    """

    reduction: float = 4.0
    """Of the scheduler; Ray's ASHA has 4."""
    grace: int = 1
    """Evaluations before the first rung."""

    def __post_init__(self) -> None:
        if not (self.reduction > 1 and self.grace >= 1):
            raise ConfigError(f"halving needs reduction > 1 and grace >= 1, got {self.reduction} and {self.grace}")

    def urgency(self, demand: Demand, size: int) -> float:
        passed = 0 if demand.evaluations < self.grace else 1 + int(math.log(demand.evaluations / self.grace, self.reduction) + 1e-9)
        return float(self.reduction**passed) / size


@dataclass(frozen=True, kw_only=True)
class Marginal:
    """To whom it speeds up most: the gain of the next worker over the trial's own speed with one, estimated from its reports.

    Seconds per sample and worker are taken to grow in a line with the crew, n / T(n) = a + b (n - 1), fitted by least squares with b >= 0:
    so gains shrink, and dealing out one by one is optimal. A trial of which nothing is known is taken to scale perfectly. Gains are
    compared by tenths: less is noise.
    Source: Peng et al. 2018 (Optimus), section 4.2, where a fitted speed model decides who gets the next worker.
    """

    def urgency(self, demand: Demand, size: int) -> float:
        growth = _growth(demand.points)
        return round(_speedup(growth, size + 1) - _speedup(growth, size), 1) + 0.01 / size  # equal gains: whoever has less


def _speedup(growth: float, size: int) -> float:
    return size / (1.0 + growth * (size - 1))


def _growth(points: Sequence[Point]) -> float:
    """b / a of the fit; 0 where the reports were all with much the same crew."""
    line = [(crew - 1.0, crew / rate) for crew, rate in points if crew > 0 and rate > 0]
    if not line:
        return 0.0
    mean_x, mean_y = (sum(each[axis] for each in line) / len(line) for axis in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in line)
    if spread < 0.25:
        return 0.0
    slope = max(0.0, sum((x - mean_x) * (y - mean_y) for x, y in line) / spread)
    base = mean_y - slope * mean_x
    return slope / base if base > 0 else math.inf


Policy = Equal | Halving | Marginal
POLICIES: Mapping[str, type[Policy]] = {"equal": Equal, "halving": Halving, "marginal": Marginal}


def policy_of(spec: Mapping[str, Any] | str | Policy) -> Policy:
    """A policy by name, alone or with options: `{"halving": {"reduction": 3}}`.

    Raises:
        ConfigError: there is none of that name, with the nearest; or no such option.
    """
    return spec if isinstance(spec, Equal | Halving | Marginal) else construct(spec, POLICIES, "policy")


@dataclass(slots=True)
class _Share:
    demand: Demand
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = self.demand.minimum


def sizes(policy: Policy, demands: Sequence[Demand], num_workers: int) -> dict[str, int]:
    """The crew of each trial.

    Args:
        demands: of the trials that are let in, in the order in which they came; their minima fit.
        num_workers: that there are to deal out.
    """
    shares = [_Share(demand) for demand in demands]
    left = num_workers - sum(share.size for share in shares)
    assert left >= 0, f"minima of {num_workers - left} workers do not fit into {num_workers}"
    for _ in range(left):
        wanting = [share for share in shares if share.size < share.demand.maximum]
        if not wanting:
            break
        # max takes the first of equals
        most = max(wanting, key=lambda share: (policy.urgency(share.demand, share.size), share.demand.holds > share.size))
        most.size += 1
    return {share.demand.trial: share.size for share in shares}
