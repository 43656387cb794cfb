"""A Gaussian policy over the settings of a run's rounds, which learns from a reward a round: the agent of Auto-FedRL.

A setting k with the range [lo, hi] has the value u_k (hi - lo) + (lo + hi) / 2, so the middle of the range is 0; on a logarithmic scale it
is lo (hi / lo)^(u_k + 1/2), and the geometric middle is 0. Each round draws
u ~ N(mean, precision^-1). With the rewards r of the last `window` rounds, in which u was tried, and their mean rbar, the policy takes one
Adam step up the gradient of sum (r - rbar) log P(u); the mean stays in [-0.5, 0.5], the ranges.

The precision is F F^T and F is what is learnt, so that it stays positive. Draws come from the seed and the number of the round.

Source: Guo et al. 2022, Auto-FedRL, arXiv 2203.06338; `federated.md` 2. Differs: all terms of the window's sum are taken, where the
published code keeps the last one; values stay inside their ranges, for one rate beyond can end a run that the mean of the policy would not;
the logarithmic scale is ours. Aggregation weights are not among the settings: they are tied to a fixed crew.
"""

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# K settings

PRECISION = 85**0.5
"""Of every setting, to begin with."""
BETAS = (0.7, 0.7)
EPSILON = 1e-8
"""Adam's, and what a loss near 0 is kept from."""
HALF = 0.5
"""Bound of the mean: the ends of a range."""

Floats = NDArray[np.float64]


def reward(before: float, after: float) -> float:
    """Relative improvement of a loss: r = 1 - after / before."""
    return 1.0 - after / (before + EPSILON)


def advantages(rewards: list[float]) -> list[float]:
    """What each is above their mean; they sum to 0."""
    mean = sum(rewards) / len(rewards)
    return [each - mean for each in rewards]


@dataclass(slots=True)
class _Adam:
    """Ascent on one array."""

    shape: tuple[int, ...]
    first: Floats = field(init=False)
    second: Floats = field(init=False)
    num_steps: int = 0

    def __post_init__(self) -> None:
        self.first, self.second = np.zeros(self.shape), np.zeros(self.shape)

    def step(self, gradient: Floats, rate: float) -> Floats:
        """By how much the array moves."""
        self.num_steps += 1
        self.first = BETAS[0] * self.first + (1 - BETAS[0]) * gradient
        self.second = BETAS[1] * self.second + (1 - BETAS[1]) * gradient**2
        first, second = (moment / (1 - beta**self.num_steps) for moment, beta in zip((self.first, self.second), BETAS, strict=True))
        moved: Floats = rate * first / (np.sqrt(second) + EPSILON)
        return moved


class SettingPolicy:
    """The policy.

    Args:
        ranges: of the settings, by name; low below high.
        log: those on a logarithmic scale.
        window: rounds that it learns from.
        rate: of its Adam steps.
        seed: of its draws.
    """

    def __init__(
        self, ranges: Mapping[str, tuple[float, float]], *, window: int, rate: float, seed: int, log: Collection[str] = ()
    ) -> None:
        self._ranges, self._log = dict(ranges), frozenset(log)
        self._rate, self._seed = rate, seed
        num = len(self._ranges)
        self.mean_K: Floats = np.zeros(num)
        self.factor_KK: Floats = np.eye(num) * PRECISION**0.5
        """F; the precision is F F^T."""
        self._of_mean, self._of_factor = _Adam((num,)), _Adam((num, num))
        self._tried: deque[tuple[Floats, float]] = deque(maxlen=window)
        """(u, reward) of the last rounds."""

    def draw(self, number: int) -> Floats:
        """u of round `number`."""
        noise_K = np.random.default_rng([self._seed, number]).standard_normal(len(self._ranges))
        drawn: Floats = self.mean_K + np.linalg.solve(self.factor_KK.T, noise_K)
        return drawn

    def values(self, u_K: Floats) -> dict[str, float]:
        """The settings that a draw means; one beyond a range is at its end."""
        bounded = np.clip(u_K, -HALF, HALF)
        return {name: self._value(name, float(u)) for u, name in zip(bounded, self._ranges, strict=True)}

    def _value(self, name: str, u: float) -> float:
        low, high = self._ranges[name]
        return low * (high / low) ** (u + HALF) if name in self._log else u * (high - low) + (low + high) / 2

    def learn(self, u_K: Floats, gained: float) -> None:
        """A round that tried `u_K` has gained that much."""
        self._tried.append((u_K, gained))
        away = advantages([each for _, each in self._tried])
        if not any(away):
            return  # nothing tells one round from another
        mean_K, factor_KK = np.zeros_like(self.mean_K), np.zeros_like(self.factor_KK)
        inverse_KK = np.linalg.inv(self.factor_KK).T
        for (tried_K, _), advantage in zip(self._tried, away, strict=True):
            off_K = tried_K - self.mean_K
            mean_K += advantage * (self.factor_KK @ (self.factor_KK.T @ off_K))
            factor_KK += advantage * (inverse_KK - np.outer(off_K, off_K) @ self.factor_KK)
        self.mean_K = np.clip(self.mean_K + self._of_mean.step(mean_K, self._rate), -HALF, HALF)
        self.factor_KK = self.factor_KK + self._of_factor.step(factor_KK, self._rate)

    # --- checkpoints ------------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """As JSON types."""
        adams = [(each.first.tolist(), each.second.tolist(), each.num_steps) for each in (self._of_mean, self._of_factor)]
        return {
            "settings": list(self._ranges),
            "log": sorted(self._log),
            "mean": self.mean_K.tolist(),
            "factor": self.factor_KK.tolist(),
            "adam": adams,
            "tried": [[u_K.tolist(), gained] for u_K, gained in self._tried],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take it up; that of a policy over other settings or scales means nothing to this one."""
        if (state["settings"], state["log"]) != (list(self._ranges), sorted(self._log)):
            return
        self.mean_K, self.factor_KK = np.array(state["mean"]), np.array(state["factor"])
        for adam, (first, second, num_steps) in zip((self._of_mean, self._of_factor), state["adam"], strict=True):
            adam.first, adam.second, adam.num_steps = np.array(first), np.array(second), num_steps
        self._tried.extend((np.array(u_K), gained) for u_K, gained in state["tried"])
