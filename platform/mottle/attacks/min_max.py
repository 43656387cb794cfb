"""Min-Max and Min-Sum: the farthest row that is no more of an outlier than the honest rows are.

Source: Shejwalkar, Houmansadr, "Manipulating the Byzantine", NDSS 2021.

Letters: H honest rows, D coordinates.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mottle.attacks.base import Attack, State, Turn
from mottle.attacks.checks import choice, number
from mottle.attacks.moments import column_means, column_stds, pairwise_squared_distances, projections, squared_distances_to
from mottle.attacks.view import Knowledge, RoundView
from mottle.core.errors import ConfigError


def largest_by_halving(holds: Callable[[float], bool], *, initial: float, tolerance: float) -> float:
    """Largest factor that satisfies a constraint, by steps that halve; at most twice `initial`, 0 if only that is known to hold."""
    factor = step = initial
    best = 0.0
    while abs(best - factor) > tolerance:
        step /= 2
        if holds(factor):
            best = factor
            factor += step
        else:
            factor -= step
    return best


def largest_by_bisection(holds: Callable[[float], bool], *, most: float = 5.0, width: float = 0.01) -> float:
    """Largest factor in [0, most] that satisfies a constraint, from below and within `width`."""
    low, high = 0.0, most
    while high - low >= width:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """The rows mean - factor * direction, with squared distances to the honest rows as a function of the factor.

    norm(mean - x P - H_i)^2 = offsets_i + 2 x slopes_i + x^2 norm2: one pass over the data serves all factors, and the sums over
    coordinates may come from several shards.
    """

    offsets: Tensor
    """norm(H_i - mean)^2."""
    slopes: Tensor
    """(H_i - mean) . P."""
    norm2: float
    """norm(P)^2."""

    def squared_distances(self, factor: float) -> Tensor:
        """Squared distances of the row at a factor to the honest rows; never negative."""
        return (self.offsets + 2 * factor * self.slopes + factor * factor * self.norm2).clamp_min(0)


@dataclass(frozen=True, kw_only=True)
class _Farthest(Attack):
    """What the two attacks share: rows mean - lambda * P, the same for all faulty workers, with the largest lambda that is allowed.

    Lambda 0 is always allowed, because the mean minimises the sum of squared distances.
    """

    citation: ClassVar[str] = "Shejwalkar, Houmansadr 2021, NDSS"

    direction: Literal["std", "unit", "sign"] = "std"
    """P: the standard deviations (ddof 1), the mean at length 1, or its signs."""
    source: Literal["honest", "own"] = "honest"
    """Whose rows stand for the honest ones: theirs, or those that the colluders computed honestly."""
    search: Literal["halving", "bisection"] = "halving"
    """`bisection` is a variant in use: on [0, 5] to a width of 0.01, unsquared distances, strict inequality."""
    initial: float = 10.0
    """First lambda of the halving search and its first step; 10, 30 and 50 are in use. Lambda stays below twice this."""
    tolerance: float = 1e-5
    """Where the halving search ends."""

    def _problems(self) -> list[str]:
        problems = choice("direction", self.direction, ("std", "unit", "sign")) + choice("source", self.source, ("honest", "own"))
        problems += choice("search", self.search, ("halving", "bisection"))
        return problems + number("initial", self.initial, above=0.0) + number("tolerance", self.tolerance, above=0.0)

    @property
    def knowledge(self) -> Knowledge:
        return Knowledge.COLLUDERS if self.source == "own" else Knowledge.HONEST

    def factor(self, view: RoundView) -> float:
        """Lambda of this round."""
        turn = Turn(attack=self.name, view=view, active=torch.ones(view.num_faulty, dtype=torch.bool), generator=None)
        return self._line(turn)[2]

    def _rows(self, turn: Turn, state: State) -> tuple[Tensor, State]:
        mean, direction_D, factor = self._line(turn)
        return turn.same_for_all(mean - factor * direction_D), state

    def _line(self, turn: Turn) -> tuple[Tensor, Tensor, float]:
        known_HD = turn.own if self.source == "own" else turn.honest
        if len(known_HD) < (2 if self.direction == "std" else 1):
            raise ConfigError(f"{self.name} needs at least 2 rows for direction 'std' and 1 otherwise, got {len(known_HD)}")
        mean = column_means(known_HD)
        direction_D = self._direction(known_HD, mean)
        line = Line(
            offsets=squared_distances_to(known_HD, mean),
            slopes=projections(known_HD, mean, direction_D),
            norm2=float(direction_D @ direction_D),
        )
        between_HH = pairwise_squared_distances(known_HD)
        if self.search == "bisection":
            limit = self._limit(between_HH.sqrt())
            return mean, direction_D, largest_by_bisection(lambda x: bool(self._measure(line.squared_distances(x).sqrt()) < limit))
        limit = self._limit(between_HH)
        factor = largest_by_halving(
            lambda x: bool(self._measure(line.squared_distances(x)) <= limit), initial=self.initial, tolerance=self.tolerance
        )
        return mean, direction_D, factor

    def _direction(self, known_HD: Tensor, mean: Tensor) -> Tensor:
        if self.direction == "std":
            return column_stds(known_HD, ddof=1)
        if self.direction == "sign":
            return mean.sign()
        length = torch.linalg.vector_norm(mean)
        return mean / length if length > 0 else mean

    @abstractmethod
    def _measure(self, distances_H: Tensor) -> Tensor:
        """How much of an outlier the row is."""

    @abstractmethod
    def _limit(self, distances_HH: Tensor) -> Tensor:
        """How much of one it may be."""


@dataclass(frozen=True, kw_only=True)
class MinMax(_Farthest):
    """Its largest squared distance to an honest row is at most the largest between two honest rows."""

    name: ClassVar[str] = "min_max"

    def _measure(self, distances_H: Tensor) -> Tensor:
        return distances_H.max()

    def _limit(self, distances_HH: Tensor) -> Tensor:
        return distances_HH.max()


@dataclass(frozen=True, kw_only=True)
class MinSum(_Farthest):
    """Its sum of squared distances to the honest rows is at most that of some honest row."""

    name: ClassVar[str] = "min_sum"

    bound: Literal["max", "min"] = "max"
    """Of which honest row: the one with the largest sum, or, as in the authors' code, the smallest."""

    def _problems(self) -> list[str]:
        return super()._problems() + choice("bound", self.bound, ("max", "min"))

    def _measure(self, distances_H: Tensor) -> Tensor:
        return distances_H.sum()

    def _limit(self, distances_HH: Tensor) -> Tensor:
        sums_H = distances_HH.sum(1)
        return sums_H.max() if self.bound == "max" else sums_H.min()
