"""What a host of the testbed is like, and how soon a lost one is noticed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mottle.core.errors import ConfigError

_NAME = re.compile(r"[a-z][a-z0-9]{0,7}")


@dataclass(frozen=True, kw_only=True)
class HostSpec:
    """One host."""

    name: str
    """Up to 8 small letters and digits."""
    num_cpus: int = 2
    """That Ray counts."""
    cpus: float | None = None
    """Processors' time that the host really gets, such as 0.25; None for no limit."""
    rate_mbit: float | None = None
    """Of its link, in each direction; None for no limit."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom ones for Ray; each host has one of its own name besides."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """For Ray's label selectors."""
    object_store_mb: int = 200
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables of its processes."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"a host's name is 1 to 8 small letters and digits, a letter first, got {self.name!r}")
        for name, value in (("cpus", self.cpus), ("rate_mbit", self.rate_mbit)):
            if value is not None and not value > 0:
                raise ConfigError(f"{name} of host {self.name!r} must be above 0, got {value}; leave it out for no limit")

    def ray_resources(self) -> dict[str, float]:
        return {self.name: 1.0, **self.resources}


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How Ray's head finds out that a host is gone.

    A killed host refuses connections and is declared dead after about `period_ms * failures`; a cut one is silent and takes about
    `(period_ms + timeout_ms) * failures`. Ray's own values (3 s, 10 s, 5) take 16 s for the first; a cluster with spot machines wants less.
    """

    period_ms: int = 500
    timeout_ms: int = 1000
    failures: int = 4

    def environment(self) -> dict[str, Any]:
        return {
            "RAY_health_check_initial_delay_ms": str(self.period_ms),
            "RAY_health_check_period_ms": str(self.period_ms),
            "RAY_health_check_timeout_ms": str(self.timeout_ms),
            "RAY_health_check_failure_threshold": str(self.failures),
        }

    @property
    def longest_s(self) -> float:
        """After which a silent host is surely declared dead, with room for a busy machine."""
        return 2 * (self.period_ms + self.timeout_ms) * self.failures / 1000 + 5.0
