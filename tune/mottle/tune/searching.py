"""Searchers and schedulers by the names that a space file has for them, each with the options that matter here; all are Ray Tune's own.

TPE with HyperBand stands for BOHB, whose packages nobody keeps up any more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, HyperBandScheduler, MedianStoppingRule
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.sample import Domain

from mottle.core.errors import ConfigError
from mottle.core.naming import construct
from mottle.observe.optional import require
from mottle.tune.population import PopulationBasedTraining


@dataclass(frozen=True, kw_only=True)
class Random:
    """Draws, and every point of a grid."""

    def build(self, seed: int) -> Any:
        return BasicVariantGenerator(random_state=seed)


@dataclass(frozen=True, kw_only=True)
class Tpe:
    """Optuna's tree-structured Parzen estimators (Bergstra et al. 2011)."""

    def build(self, seed: int) -> Any:
        require("optuna", "the search tpe", 'pip install "mottle[tune]"')
        from ray.tune.search.optuna import OptunaSearch

        return OptunaSearch(seed=seed)


@dataclass(frozen=True, kw_only=True)
class Fifo:
    """Every trial runs to its end."""

    def build(self, space: Mapping[str, Any]) -> Any:
        return FIFOScheduler()  # type: ignore[no-untyped-call]  # Ray leaves it unannotated


@dataclass(frozen=True, kw_only=True)
class Asha:
    """Asynchronous successive halving (Li et al. 2020)."""

    max_evaluations: int = 100
    """A trial ends after so many."""
    grace: int = 1
    """No trial is stopped before so many."""
    reduction: float = 4.0
    """One of so many trials goes on beyond a rung."""

    def build(self, space: Mapping[str, Any]) -> Any:
        return ASHAScheduler(max_t=self.max_evaluations, grace_period=self.grace, reduction_factor=self.reduction)


@dataclass(frozen=True, kw_only=True)
class HyperBand:
    """Successive halving in brackets (Li et al. 2018)."""

    max_evaluations: int = 81
    reduction: float = 3.0

    def build(self, space: Mapping[str, Any]) -> Any:
        return HyperBandScheduler(max_t=self.max_evaluations, reduction_factor=self.reduction)


@dataclass(frozen=True, kw_only=True)
class Median:
    """Stops what is worse than the median of the others' running means (Golovin et al. 2017)."""

    grace: int = 1
    min_trials: int = 3

    def build(self, space: Mapping[str, Any]) -> Any:
        return MedianStoppingRule(time_attr="training_iteration", grace_period=self.grace, min_samples_required=self.min_trials)


@dataclass(frozen=True, kw_only=True)
class Pbt:
    """Population-based training (Jaderberg et al. 2017): the worst copy the best and change what is searched."""

    every: int = 2
    """Evaluations between two copies."""
    quantile: float = 0.25
    """Share of the trials that copies, and that is copied."""
    resample: float = 0.25
    """Chance that a value is drawn anew and not changed by a fifth."""

    def build(self, space: Mapping[str, Any]) -> Any:
        mutations = _mutations(space)
        if not mutations:
            raise ConfigError("pbt changes what is searched, and the space has neither ranges nor choices")
        return PopulationBasedTraining(
            time_attr="training_iteration",
            perturbation_interval=self.every,
            quantile_fraction=self.quantile,
            resample_probability=self.resample,
            hyperparam_mutations=mutations,
        )


SEARCHES: Mapping[str, type[Any]] = {"random": Random, "tpe": Tpe}
SCHEDULERS: Mapping[str, type[Any]] = {"fifo": Fifo, "asha": Asha, "hyperband": HyperBand, "median": Median, "pbt": Pbt}


def search_of(spec: Any, seed: int) -> Any:
    """Ray's searcher.

    Raises:
        ConfigError: a name or option that there is not.
    """
    return construct(spec, SEARCHES, "search").build(seed)


def scheduler_of(spec: Any, space: Mapping[str, Any]) -> Any:
    """Ray's scheduler.

    Args:
        space: what population-based training may change.
    Raises:
        ConfigError: a name, option or value that cannot be.
    """
    try:
        return construct(spec, SCHEDULERS, "scheduler").build(space)
    except ConfigError:
        raise
    except (AssertionError, ValueError, TypeError) as error:  # how Ray's own classes refuse a value
        raise ConfigError(f"scheduler: {error}") from error


def _mutations(space: Mapping[str, Any]) -> dict[str, Any]:
    """Everything of a space that has more than one value."""
    found: dict[str, Any] = {}
    for key, value in space.items():
        if isinstance(value, Domain):
            found[key] = value
        elif isinstance(value, Mapping) and "grid_search" in value:
            found[key] = list(value["grid_search"])
        elif isinstance(value, Mapping) and (inner := _mutations(value)):
            found[key] = inner
    return found
