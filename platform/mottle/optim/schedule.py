"""Learning-rate schedules that count samples: a factor on the learning rate as a function of the samples applied so far.

Samples, not updates: with unequal and changing workers the number of updates per epoch means nothing. The count excludes the step that
the factor is for, so the first step asks for 0. A schedule is a pure function; small ones chain into big ones through `then`. No torch,
so a coordinator can ask without importing it.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mottle.core.errors import ConfigError
from mottle.core.naming import construct

Schedule = Callable[[int], float]
"""Samples applied so far -> factor, finite and not negative."""


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Always the same factor."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        _check(self, self.factor >= 0 and math.isfinite(self.factor), "factor must be finite and not negative")

    def __call__(self, samples: int) -> float:
        return self.factor


@dataclass(frozen=True, kw_only=True)
class LinearWarmup:
    """From `start` to 1 over the first `samples`; then `then`, which counts from there."""

    samples: int
    """Length of the warm-up, at least 1."""
    start: float = 0.01
    """Factor of the very first step; not 0, with which that step would be thrown away."""
    then: Schedule = field(default_factory=Constant)
    """What follows, times its own factor: a schedule, or one by name."""

    def __post_init__(self) -> None:
        _check(self, self.samples >= 1 and 0 <= self.start <= 1, "needs samples >= 1 and 0 <= start <= 1")
        object.__setattr__(self, "then", build(self.then))

    def __call__(self, samples: int) -> float:
        if samples >= self.samples:
            return self.then(samples - self.samples)
        return (self.start + (1 - self.start) * samples / self.samples) * self.then(0)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from 1 down to `floor` over `samples`, then `floor` (Loshchilov and Hutter 2017, one cycle, no restart)."""

    samples: int
    """Length of the descent, at least 1."""
    floor: float = 0.0
    """Where it ends, in [0, 1]."""

    def __post_init__(self) -> None:
        _check(self, self.samples >= 1 and 0 <= self.floor <= 1, "needs samples >= 1 and 0 <= floor <= 1")

    def __call__(self, samples: int) -> float:
        done = min(samples / self.samples, 1.0)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class Step:
    """Times `gamma` every `every` samples."""

    every: int
    """Samples between two drops, at least 1."""
    gamma: float = 0.1
    """Factor of each drop, above 0."""

    def __post_init__(self) -> None:
        _check(self, self.every >= 1 and self.gamma > 0 and math.isfinite(self.gamma), "needs every >= 1 and a finite gamma > 0")

    def __call__(self, samples: int) -> float:
        return float(self.gamma ** (samples // self.every))


@dataclass(frozen=True, kw_only=True)
class PiecewiseLinear:
    """Straight lines between points; level before the first and after the last."""

    points: tuple[tuple[int, float], ...]
    """(samples, factor), ascending in samples; at least one."""

    def __post_init__(self) -> None:
        points = tuple((samples, float(factor)) for samples, factor in self.points)
        object.__setattr__(self, "points", points)
        places = [samples for samples, _ in points]
        sound = bool(points) and places == sorted(set(places)) and all(factor >= 0 and math.isfinite(factor) for _, factor in points)
        _check(self, sound, "points are (samples, factor) with samples rising and factors finite and not negative")

    def __call__(self, samples: int) -> float:
        after = bisect_right([place for place, _ in self.points], samples)
        if after in (0, len(self.points)):
            return self.points[min(after, len(self.points) - 1)][1]
        (left, low), (right, high) = self.points[after - 1 : after + 1]
        return low + (high - low) * (samples - left) / (right - left)


@dataclass(frozen=True, kw_only=True)
class Custom:
    """A user's own function of samples, with its answers checked."""

    function: Callable[[int], float]

    def __call__(self, samples: int) -> float:
        factor = float(self.function(samples))
        if not (factor >= 0 and math.isfinite(factor)):
            raise ConfigError(f"a learning-rate schedule gives a finite factor of at least 0, this one gave {factor} at {samples} samples")
        return factor


CATALOGUE: Mapping[str, type[Any]] = {
    "constant": Constant,
    "linear_warmup": LinearWarmup,
    "cosine": Cosine,
    "step": Step,
    "piecewise_linear": PiecewiseLinear,
}


def build(spec: object) -> Schedule:
    """A schedule from its name (`{"cosine": {"samples": 60000}}`), from a function of samples, or `None` for a constant 1.

    Raises:
        ConfigError: unknown name or option (names the nearest), a missing option, or a value out of range.
    """
    if spec is None:
        return Constant()
    if callable(spec):
        ours = isinstance(spec, (*CATALOGUE.values(), Custom))
        return spec if ours else Custom(function=spec)
    made: Schedule = construct(spec, CATALOGUE, "learning-rate schedule")
    return made


def _check(schedule: object, sound: bool, wanted: str) -> None:
    if not sound:
        raise ConfigError(f"{wanted}, got {schedule}")
