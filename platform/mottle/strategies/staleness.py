"""How much a stale update counts: s(delta) with s(0) = 1, never growing.

Sources: Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", arXiv 1903.03934, section 5; `asynchronous.md` B2. The last two are
those of Kardam, `asynchronous.md` B4.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

from mottle.core.errors import ConfigError
from mottle.core.naming import Spec, configured, lookup, parse


class StalenessWeight(Protocol):
    def __call__(self, staleness: int) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Constant:
    """s = 1."""

    def __call__(self, staleness: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """s = (delta + 1)^(-a)."""

    a: float = 0.5

    def __post_init__(self) -> None:
        if self.a < 0:
            raise ConfigError(f"polynomial staleness needs a >= 0, got {self.a}")

    def __call__(self, staleness: int) -> float:
        return float((staleness + 1) ** -self.a)


@dataclass(frozen=True, kw_only=True)
class Hinge:
    """s = 1 up to staleness b, then 1 / (a * (delta - b) + 1)."""

    a: float = 10.0
    b: float = 4.0

    def __post_init__(self) -> None:
        if self.a < 0 or self.b < 0:
            raise ConfigError(f"hinge staleness needs a >= 0 and b >= 0, got a={self.a} and b={self.b}")

    def __call__(self, staleness: int) -> float:
        return 1.0 if staleness <= self.b else 1.0 / (self.a * (staleness - self.b) + 1.0)


@dataclass(frozen=True, kw_only=True)
class Exponential:
    """s = exp(-a delta); Kardam's dampening."""

    a: float = 0.2

    def __post_init__(self) -> None:
        if self.a < 0:
            raise ConfigError(f"exponential staleness needs a >= 0, got {self.a}")

    def __call__(self, staleness: int) -> float:
        return math.exp(-self.a * staleness)


@dataclass(frozen=True, kw_only=True)
class Inverse:
    """s = 1 / (1 + delta)."""

    def __call__(self, staleness: int) -> float:
        return 1.0 / (1 + staleness)


WEIGHTS: dict[str, Any] = {
    "constant": Constant,
    "polynomial": Polynomial,
    "hinge": Hinge,
    "exponential": Exponential,
    "inverse": Inverse,
}


def staleness_weight(spec: Spec) -> StalenessWeight:
    """Build from `"constant"` or `{"polynomial": {"a": 0.5}}`.

    Raises:
        ConfigError: unknown name or option.
    """
    name, options = parse(spec, "staleness weight")
    weight: StalenessWeight = configured(lookup(name, WEIGHTS, "staleness weight"), options, f"staleness weight {name}")
    return weight
