"""What strategies have in common: facts that the brain asks for, options that several have, and how options are checked.

A strategy says for itself only what is different with it.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from mottle.core.errors import ConfigError
from mottle.core.naming import Spec
from mottle.core.protocol import Settings


class Usual:
    """What `core.strategy.Strategy` asks for, as it is with most: one order a worker, epochs that overlap, no trusted data, and the job's
    optimizer on the shards."""

    max_in_flight: int = 1
    barriered: bool = False
    needs_validation: bool = False
    server_optimizer: Settings | None = None
    companion: float | None = None


@dataclass(frozen=True, kw_only=True)
class OrderOptions:
    """Of strategies that order so many samples from whoever is idle."""

    batch_size: int
    """Samples of one order."""
    max_in_flight: int = 1
    """Orders in one worker's hands; 2 hides the round trip at the price of one step of staleness."""

    def faults(self) -> list[str]:
        """What cannot be of these."""
        return [*below(1, batch_size=self.batch_size), *others_than((1, 2), max_in_flight=self.max_in_flight)]


@dataclass(frozen=True, kw_only=True)
class CrewBatchOptions:
    """Of strategies whose step has one batch for the whole crew."""

    batch_size: int
    """Samples of one step, over all workers."""
    rule: Settings | None = None
    """Robust rule in place of the mean: `{phocas: {trim: 2}}`."""
    batch_policy: Spec | None = None
    """What becomes of batch and rate when the crew changes (`batch_policy`); None: nothing."""


# --- checks -----------------------------------------------------------------------------------------------------------------------------


def refuse(strategy: str, *faults: Iterable[str]) -> None:
    """Say everything that is wrong with a configuration at once.

    Args:
        faults: of each check, what is needed and what came; nothing where nothing is wrong.
    Raises:
        ConfigError: anything was.
    """
    if found := [fault for each in faults for fault in each]:
        raise ConfigError(f"{strategy} needs {'; '.join(found)}")


def below(least: float, /, **options: float | None) -> list[str]:
    """Those that are not at least so much; None is an option left out."""
    return [f"{name} >= {least}, got {value}" for name, value in options.items() if value is not None and not value >= least]


def not_above(bound: float, /, **options: float | None) -> list[str]:
    """Those that are not above a bound; None is an option left out."""
    return [f"{name} > {bound}, got {value}" for name, value in options.items() if value is not None and not value > bound]


def no_shares(**options: float) -> list[str]:
    """Those that are not in [0, 1)."""
    return [f"{name} in [0, 1), got {value}" for name, value in options.items() if not 0 <= value < 1]


def deadline_fault(deadline_s: float | None) -> list[str]:
    """What is wrong with the deadline of a round."""
    return unless(deadline_s is None or deadline_s > 0, f"deadline_s > 0, got {deadline_s}; leave it out to wait for all")


def others_than(known: Collection[object], /, **options: object) -> list[str]:
    """Those that have none of these values."""
    *first, last = map(str, known)
    return [f"{name} {', '.join(first)} or {last}, got {value!r}" for name, value in options.items() if value not in known]


def unless(holds: bool, needed: str) -> list[str]:
    """Whatever else is needed, where it does not hold."""
    return [] if holds else [needed]
