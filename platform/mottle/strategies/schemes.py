"""The seam between the machine of sequential gradient coding and its schemes: tasks, results, and the options that all of them have."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from mottle.core.errors import ConfigError
from mottle.core.protocol import Settings
from mottle.strategies.bursts import BurstModel
from mottle.strategies.codes import Row

Key = tuple[int, ...]
"""Name of a result among those of its job; the scheme's."""
Weights = tuple[tuple[Key, float], ...]
"""(result, factor) whose sum is the sum over the whole batch."""


class Task(NamedTuple):
    """One result that a worker computes in a round."""

    job: int
    key: Key


class Scheme(Protocol):
    """Which places of a crew compute what in which round. A job has the number of the round that it begins in."""

    delay: int
    """T: a job is decoded at the end of so many rounds after its own."""
    chunk_weights: tuple[int, ...]
    """How large the chunks of a batch are against each other."""

    def plan(self, number: int, results: Mapping[int, Collection[Key]]) -> list[list[Task]]:
        """Tasks of each place in round `number`, of jobs that are out; `results` is what there is of those."""

    def row(self, key: Key) -> Row:
        """What is computed for a result: (chunk, coefficient)."""

    def decode(self, keys: Collection[Key]) -> Weights | None: ...

    def missing(self, keys: Collection[Key]) -> list[Key]:
        """Results with which these can be decoded; none if they can."""

    def bears(self, stragglers: AbstractSet[int]) -> bool:
        """Whether every job can still be decoded in time if these places are given up in the round at hand."""

    def ended(self, stragglers: AbstractSet[int]) -> None:
        """The round at hand ended, and these were given up."""


@dataclass(frozen=True, kw_only=True)
class SequentialConfig(ABC):
    """Options of sequential gradient coding; see `mottle.strategies.bursts` for what stragglers are taken to be like."""

    batch_size: int
    """Samples of one step, over all workers."""
    burst: int = 1  # B in the paper
    """Rounds in a row in which a straggler is one."""
    window: int = 2  # W in the paper
    """Rounds that `num_stragglers` counts over."""
    num_stragglers: int = 1  # lambda in the paper
    """Workers that may straggle within a window."""
    mu: float = 1.0
    """Whoever takes longer than (1 + mu) times the fastest is a straggler."""
    models: int = 1
    """1: its steps are late by `delay` others; or delay + 1, which are trained in rotation and are late by none."""
    model_settings: tuple[Settings, ...] = ()
    """Of models in rotation what is each one's own: `seed` of its beginning (the job's plus its number, by default), and options of the
    optimizer, such as `lr`."""
    name: ClassVar[str]
    coded: ClassVar[bool] = True
    code: ClassVar[str] = "auto"

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not self.mu > 0:
            raise ConfigError(f"{self.name} needs batch_size >= 1 and mu > 0, got {self.batch_size} and {self.mu}")
        _ = self.model
        object.__setattr__(self, "model_settings", tuple(self.model_settings))
        if problem := self._problem_of_models():
            raise ConfigError(f"{self.name} {problem}")

    def _problem_of_models(self) -> str:
        in_rotation = self.delay + 1
        own: tuple[Any, ...] = self.model_settings
        if type(self.models) is not int or self.models not in (1, in_rotation):
            return f"trains 1 model, or {in_rotation} in rotation: its delay of {self.delay}, and one; got models {self.models!r}"
        if own and (self.models == 1 or len(own) != self.models):
            return f"takes model_settings for each of {in_rotation} models in rotation, got {len(own)} for {self.models}"
        for number, settings in enumerate(own):
            if not isinstance(settings, Mapping):
                return f"takes {{seed: number, lr: rate, ...}} as model_settings of model {number}, got {settings!r}"
            seed, lr = settings.get("seed", 0), settings.get("lr", 0.0)
            if type(seed) is not int or seed < 0:
                return f"takes a whole number of at least 0 as seed of model {number}, got {seed!r}"
            if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 <= lr < math.inf:
                return f"takes a finite number of at least 0 as lr of model {number}, got {lr!r}"
        return ""

    @property
    def in_rotation(self) -> tuple[Settings, ...]:
        """What is each model's own; empty with one model."""
        return () if self.models == 1 else self.model_settings or ({},) * self.models

    @property
    def model(self) -> BurstModel:
        """What stragglers are taken to be like."""
        return BurstModel(burst=self.burst, window=self.window, num_stragglers=self.num_stragglers)

    @property
    @abstractmethod
    def least_workers(self) -> int:
        """Workers without which there is no code."""

    @property
    @abstractmethod
    def delay(self) -> int:
        """Steps by which gradients are late."""

    @property
    @abstractmethod
    def tasks_a_round(self) -> int:
        """Tasks that a worker has in a round, at most."""

    @abstractmethod
    def scheme(self, num_workers: int) -> Scheme:
        """For a crew of that size."""
