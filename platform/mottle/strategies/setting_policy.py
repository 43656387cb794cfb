"""A Gaussian policy over the settings of a run's rounds, which learns from a reward a round: the agent of Auto-FedRL.

A setting k with the range [lo, hi] has the value u_k (hi - lo) + (lo + hi) / 2, so the middle of the range is 0; on a logarithmic scale it
is lo (hi / lo)^(u_k + 1/2), and the geometric middle is 0. Each round draws
u ~ N(mean, precision^-1). With the rewards r of the last `window` rounds, in which u was tried, and their mean rbar, the policy takes one
Adam step up the gradient of sum (r - rbar) log P(u); the mean stays in [-0.5, 0.5], the ranges.

The precision is F F^T and F is what is learnt, so that it stays positive. Draws come from the seed and the number of the round.

What has ruined the model is not tried again, nor what is like it: a draw is taken only if the nearest of the settings that were tried did
no harm, and drawn again otherwise. That is the set of SafeOpt (Sui et al. 2015), in which a point is safe that is close to safe ones, with
the data in the place of a known Lipschitz constant, and so without its guarantee: a boundary is found by crossing it now and then, which
costs a round that is undone (`round_guard.py`).

Source: Guo et al. 2022, Auto-FedRL, arXiv 2203.06338; `federated.md` 2. Differs: all terms of the window's sum are taken, where the
published code keeps the last one; values stay inside their ranges, for one rate beyond can end a run that the mean of the policy would not;
rewards end at -1, or one ruinous round would outweigh the window; what was ruinous is known, see above; the logarithmic scale is ours.
Aggregation weights are not among the settings: they are tied to a fixed crew.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping
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
RUIN = -1.0
"""The least reward: of a round that doubled the loss, or did worse."""
REMEMBERED = 64
"""Settings of each kind, harmless and ruinous, that are remembered: what is ruinous changes as the model does."""
CANDIDATES = 32
"""Draws of which one is taken: the first that is safe, or the one that comes nearest to it."""

Floats = NDArray[np.float64]


def reward(before: float, after: float) -> float:
    """Relative improvement of a loss: r = 1 - after / before, at least -1; 0 where there is no number to compare with."""
    if not math.isfinite(after):
        return RUIN
    return max(RUIN, 1.0 - after / (before + EPSILON)) if math.isfinite(before) else 0.0


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
        self._harmless: deque[Floats] = deque(maxlen=REMEMBERED)
        self._ruinous: deque[Floats] = deque(maxlen=REMEMBERED)

    def draw(self, number: int, attempt: int = 0) -> Floats:
        """u of round `number`, which an earlier attempt at it may have come to nothing of."""
        random = np.random.default_rng([self._seed, number, attempt])
        best_K, best = self.mean_K, -math.inf
        for _ in range(CANDIDATES):
            drawn_K: Floats = self.mean_K + np.linalg.solve(self.factor_KK.T, random.standard_normal(len(self._ranges)))
            if (margin := self._margin(drawn_K)) >= 0:
                return drawn_K
            if margin > best:
                best_K, best = drawn_K, margin
        return best_K

    def _margin(self, u_K: Floats) -> float:
        """By how much the nearest ruinous settings are farther than the nearest harmless ones; without any of these, negative."""
        if not self._ruinous:
            return math.inf
        diagonal = math.sqrt(len(self._ranges))
        return _nearest(u_K, self._ruinous, diagonal) - _nearest(u_K, self._harmless, 2 * diagonal)

    def values(self, u_K: Floats) -> dict[str, float]:
        """The settings that a draw means."""
        return {name: self._value(name, float(u)) for u, name in zip(_inside(u_K), self._ranges, strict=True)}

    def _value(self, name: str, u: float) -> float:
        low, high = self._ranges[name]
        return low * (high / low) ** (u + HALF) if name in self._log else u * (high - low) + (low + high) / 2

    def ruined(self, u_K: Floats) -> None:
        """A round that tried `u_K` was undone, or nothing of it could be used."""
        self._ruinous.append(_inside(u_K))
        self._learn(u_K, RUIN)

    def learn(self, u_K: Floats, gained: float) -> None:
        """A round that tried `u_K` has gained that much."""
        self._harmless.append(_inside(u_K))
        self._learn(u_K, gained)

    def _learn(self, u_K: Floats, gained: float) -> None:
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
            "harmless": [u_K.tolist() for u_K in self._harmless],
            "ruinous": [u_K.tolist() for u_K in self._ruinous],
        }

    def restore(self, state: Mapping[str, Any]) -> bool:
        """Take it up; that of a policy over other settings or scales means nothing to this one. Whether it was taken."""
        if (state["settings"], state["log"]) != (list(self._ranges), sorted(self._log)):
            return False
        self.mean_K, self.factor_KK = np.array(state["mean"]), np.array(state["factor"])
        for adam, (first, second, num_steps) in zip((self._of_mean, self._of_factor), state["adam"], strict=True):
            adam.first, adam.second, adam.num_steps = np.array(first), np.array(second), num_steps
        self._tried.extend((np.array(u_K), gained) for u_K, gained in state["tried"])
        self._harmless.extend(map(np.array, state["harmless"]))
        self._ruinous.extend(map(np.array, state["ruinous"]))
        return True


def _inside(u_K: Floats) -> Floats:
    """What is tried of a draw: one beyond a range is at its end."""
    inside_K: Floats = np.clip(u_K, -HALF, HALF)
    return inside_K


def _nearest(u_K: Floats, known: Iterable[Floats], otherwise: float) -> float:
    """Distance of what is tried of a draw from the nearest one known."""
    return min((float(np.linalg.norm(_inside(u_K) - each_K)) for each_K in known), default=otherwise)
