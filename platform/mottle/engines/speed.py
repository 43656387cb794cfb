"""Samples a second against batch size, on one device: where more at a time gains no more, and where memory ends.

Sizes are tried in powers of two, each until its time is steady or its share of the budget is spent. A batch of b samples takes
overhead + b * sample_s; the two are fitted by least squares to relative errors. Whoever measures hands in the clock and what computes.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from mottle.core.errors import ConfigError
from mottle.engines.memory import is_out_of_memory

ENOUGH = 0.9
"""Share of the best rate at which a batch size counts as saturating the device."""
REPEATS = 3
"""Batches of one size; the quickest counts, for what disturbs a measurement only makes it longer."""


@dataclass(frozen=True, kw_only=True)
class SpeedCurve:
    """What one device does with one model.

    Attributes:
        seconds: of a batch, by its size, ascending.
        memory_limit: largest size that fitted, where the next one did not; None where memory never ran out.
    """

    seconds: tuple[tuple[int, float], ...]
    memory_limit: int | None = None

    @property
    def rates(self) -> tuple[tuple[int, float], ...]:
        """Samples a second, by batch size."""
        return tuple((size, size / seconds) for size, seconds in self.seconds)

    @property
    def saturation(self) -> int:
        """Smallest size that comes to 90 % of the best rate."""
        best = max(rate for _, rate in self.rates)
        return next(size for size, rate in self.rates if rate >= ENOUGH * best)

    @property
    def best(self) -> float:
        """Seconds a sample at the saturating size: what a worker with well chosen micro-batches takes."""
        return dict(self.seconds)[self.saturation] / self.saturation

    @property
    def line(self) -> tuple[float, float]:
        """(overhead, time of a sample) in seconds, both at least 0; weights 1 / time^2, so that small batches count as much as large."""
        weights = [1 / seconds**2 for _, seconds in self.seconds]
        total = sum(weights)
        mean_b = sum(w * size for w, (size, _) in zip(weights, self.seconds, strict=True)) / total
        mean_t = sum(w * seconds for w, (_, seconds) in zip(weights, self.seconds, strict=True)) / total
        spread = sum(w * (size - mean_b) ** 2 for w, (size, _) in zip(weights, self.seconds, strict=True))
        if not spread:
            return 0.0, mean_t / mean_b
        slope = sum(w * (size - mean_b) * (seconds - mean_t) for w, (size, seconds) in zip(weights, self.seconds, strict=True)) / spread
        overhead = mean_t - slope * mean_b
        return (overhead, slope) if slope > 0 and overhead > 0 else (0.0, mean_t / mean_b)

    def as_dict(self) -> dict[str, Any]:
        """As JSON types."""
        overhead_s, sample_s = self.line
        return {**asdict(self), "saturation": self.saturation, "overhead_s": overhead_s, "sample_s": sample_s, "best_sample_s": self.best}

    @classmethod
    def of(cls, saved: Any) -> "SpeedCurve":
        """What `as_dict` made.

        Raises:
            ConfigError: it is nothing of the kind.
        """
        try:
            seconds = tuple((int(size), float(each)) for size, each in saved["seconds"])
            limit = saved.get("memory_limit")
        except (TypeError, KeyError, ValueError) as error:
            raise ConfigError(f"wanted a measured curve with seconds by batch size, got {saved!r}") from error
        if not seconds or any(size < 1 or not each > 0 for size, each in seconds):
            raise ConfigError(f"wanted batch sizes from 1 and times above 0, got {seconds!r}")
        return cls(seconds=seconds, memory_limit=limit if limit is None else int(limit))


def measure(compute: Callable[[int], None], *, most: int, budget_s: float, clock: Callable[[], float]) -> SpeedCurve:
    """Time batches of 1, 2, 4, ... samples, up to `most`.

    Args:
        compute: forward and backward of that many samples, to the end: on an accelerator it waits for it.
        budget_s: no further size is begun after that.
        clock: seconds.
    Raises:
        ConfigError: not even one sample fits.
    """
    began, size = clock(), 1
    measured: list[tuple[int, float]] = []
    while size <= most and (not measured or clock() - began < budget_s):
        try:
            compute(size)  # the first one of a size may compile, or grow the allocator's pool
            measured.append((size, min(_timed(compute, size, clock) for _ in range(REPEATS))))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if not measured:
                raise ConfigError("a single sample does not fit into this device's memory") from error
            return SpeedCurve(seconds=tuple(measured), memory_limit=measured[-1][0])
        size *= 2
    return SpeedCurve(seconds=tuple(measured))


def _timed(compute: Callable[[int], None], size: int, clock: Callable[[], float]) -> float:
    began = clock()
    compute(size)
    return max(1e-9, clock() - began)
