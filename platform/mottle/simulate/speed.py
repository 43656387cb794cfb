"""How long a worker takes over a sample: always the same, varying by chance, or as it was once measured.

Nothing here is drawn in sequence: what a worker's k-th piece of work takes is a function of (seed, worker, k), so two strategies that are
compared on one fleet meet the same machines, whatever the order in which they give out work (`heterogeneous.md` 0.3).
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

from mottle.core.errors import ConfigError
from mottle.data.seeds import derive_seed
from mottle.simulate.checked import FieldError, check, number

MOST_S = 100_000
"""A sample that takes longer than a day is a slip of the unit."""

_NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True)
class Lognormal:
    """exp of a normal number: never negative, with a long tail; drawn anew for every piece of work."""

    median_s: float = number(above=0, most=MOST_S)
    sigma: float = number(least=0, most=5)
    """Standard deviation of the logarithm; 0.1 is a machine of its own, 0.5 one that is shared with strangers."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What was measured: from `at_s[i]` on a sample takes `sample_s[i]`; the last value holds to the end."""

    at_s: tuple[float, ...]
    sample_s: tuple[float, ...]

    def __post_init__(self) -> None:
        wrong = list(_trace_faults(self.at_s, self.sample_s))
        if wrong:
            raise FieldError(wrong)


ComputeTime = float | Lognormal | Trace
"""Seconds a sample: a number, or one of the above."""


def _trace_faults(at_s: tuple[float, ...], sample_s: tuple[float, ...]) -> list[tuple[str, str]]:
    if not at_s or len(at_s) != len(sample_s):
        return [("at_s", f"wanted as many times as values and at least one, got {len(at_s)} and {len(sample_s)}")]
    wrong = [("sample_s", f"row {i + 1}: wanted seconds above 0 and at most {MOST_S:,}, got {each!r}") for i, each in _bad(sample_s)]
    if at_s[0] != 0:
        wrong.append(("at_s", f"row 1: wanted 0, where the trace begins, got {at_s[0]!r}"))
    wrong += [("at_s", f"row {i + 2}: wanted a later time than {a!r}, got {b!r}") for i, (a, b) in enumerate(pairwise(at_s)) if not b > a]
    return wrong


def _bad(sample_s: tuple[float, ...]) -> list[tuple[int, float]]:
    return [(i, each) for i, each in enumerate(sample_s) if not 0 < each <= MOST_S]


def check_compute_time(value: object) -> str:
    """What is wrong with a value in the place of a `ComputeTime`; empty when nothing is."""
    if isinstance(value, Lognormal | Trace) or (type(value) in (int, float) and 0 < value <= MOST_S):  # type: ignore[operator]  # a number
        return ""
    return f"wanted seconds above 0 and at most {MOST_S:,}, {{lognormal: ...}} or {{trace: ...}}, got {value!r}"


class Pace:
    """A worker's speed as the simulator asks for it.

    Args:
        time: of a sample.
        seed, slot: whose luck it is.
    """

    def __init__(self, time: ComputeTime, seed: int, slot: int) -> None:
        if message := check_compute_time(time):
            raise ConfigError(f"sample_s: {message}")
        self._time = time
        self._seed = seed
        self._slot = slot

    def sample_s(self, piece: int, now_ns: int) -> tuple[float, int | None]:
        """Seconds a sample of the worker's `piece`-th piece of work, begun now; and until when (ns) that holds, None for ever."""
        time = self._time
        if isinstance(time, Lognormal):
            share = (derive_seed(self._seed, "compute time", self._slot, piece, bits=53) + 0.5) / 2**53
            return time.median_s * math.exp(time.sigma * _NORMAL.inv_cdf(share)), None
        if isinstance(time, Trace):
            row = bisect_right(time.at_s, now_ns / 1e9) - 1
            return time.sample_s[row], round(time.at_s[row + 1] * 1e9) if row + 1 < len(time.at_s) else None
        return time, None
