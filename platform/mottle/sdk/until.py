"""When a run ends: after epochs, samples or seconds, or when a metric is good enough; the first of them to come."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mottle.core.errors import ConfigError
from mottle.core.naming import configured


@dataclass(frozen=True, kw_only=True)
class Until:
    """Limits of a run; at least one."""

    epochs: float | None = None
    """Passes over the training data; a fraction ends within one."""
    samples: int | None = None
    """Samples spent."""
    seconds: float | None = None
    """Time since training began."""
    metric: Mapping[str, float] | None = None
    """`{test_accuracy: 0.97}`: stop when the metric reaches that value."""

    def __post_init__(self) -> None:
        limits = {"epochs": self.epochs, "samples": self.samples, "seconds": self.seconds}
        if all(value is None for value in limits.values()) and not self.metric:
            raise ConfigError("until needs epochs, samples, seconds or a metric, got none of them")
        for name, value in limits.items():
            if value is not None and not value > 0:
                raise ConfigError(f"until.{name} must be above 0, got {value}")
        if self.metric is not None and len(self.metric) != 1:
            raise ConfigError(f"until.metric names one metric and its value, got {dict(self.metric)!r}")

    @classmethod
    def of(cls, value: Any) -> "Until":
        """From an `Until` or a mapping of its fields."""
        if isinstance(value, Until):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"until is a mapping such as {{epochs: 5}}, got {value!r}")
        return configured(cls, value, "until")

    def max_samples(self, num_positions: int) -> int | None:
        """The limit in samples, for a data epoch of that many; None if only time or a metric ends the run."""
        limits = [self.samples, None if self.epochs is None else max(1, round(self.epochs * num_positions))]
        given = [limit for limit in limits if limit is not None]
        return min(given) if given else None

    def twentieth(self, num_positions: int) -> int:
        """A twentieth of the run, in samples; of twenty epochs where only time or a metric ends it."""
        return max(1, (self.max_samples(num_positions) or 20 * num_positions) // 20)
