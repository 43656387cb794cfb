"""Selective repetition: gradient coding over time. Whoever was missed too much in a job's round computes it again B rounds later.

Every job is coded for s stragglers, with s only about a B / (W - 1 + B) part of lambda, the workers that may straggle in a window of W
rounds: where more were missing in a job's round, enough of them repeat it B rounds later, in the place of that round's own job. So a worker
computes (s + 1) / n of a batch a round, less than gradient coding that bears lambda stragglers at once, for a delay of B steps.

Source: Krishnan, Ebrahimi, Khisti, ICLR 2023 (arXiv 2211.13802), SR-SGC; `heterogeneous.md` 8.1. Differs: nothing is repeated that can be
decoded already, which a fractional code often can with fewer than n - s results.
"""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import ClassVar

from mottle.core.errors import ConfigError
from mottle.strategies.bursts import BurstModel, Bursts
from mottle.strategies.codes import Code, Row, chosen_code
from mottle.strategies.schemes import Key, SequentialConfig, Task, Weights
from mottle.strategies.sequential import SequentialCoding


@dataclass(frozen=True, kw_only=True)
class SRSGCConfig(SequentialConfig):
    """Sequential gradient coding with selective repetition."""

    name: ClassVar[str] = "sr_sgc"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.window - 1) % self.burst:
            raise ConfigError(f"sr_sgc needs a window of a multiple of burst, and one, got burst {self.burst} and window {self.window}")

    @property
    def code_stragglers(self) -> int:
        """s, that each job's code bears by itself: ceil(B lambda / (W - 1 + B))."""
        return -(-self.burst * self.num_stragglers // (self.window - 1 + self.burst))

    @property
    def least_workers(self) -> int:
        """Workers without which there is no code."""
        return max(self.num_stragglers, self.code_stragglers + 1)

    @property
    def delay(self) -> int:
        """T = B."""
        return self.burst

    @property
    def tasks_a_round(self) -> int:
        return 1

    def scheme(self, num_workers: int) -> "SelectiveRepetition":
        return SelectiveRepetition(self.model, num_workers, self.code_stragglers)

    def build(self) -> SequentialCoding:
        return SequentialCoding(self)


class SelectiveRepetition:
    """See `mottle.strategies.schemes.Scheme`. A result is named by the place of the crew whose coded sum it is.

    Args:
        num_stragglers: s, of each job's code.
    """

    def __init__(self, model: BurstModel, num_workers: int, num_stragglers: int) -> None:
        self.delay = model.burst
        self._num_workers = num_workers
        self._num_stragglers = num_stragglers
        self._code: Code = chosen_code("auto", num_workers, num_stragglers, num_workers)
        self.chunk_weights = (1,) * self._code.num_chunks
        self._bursts = Bursts(model)
        self._repeating: set[int] = set()
        """Places that repeat an older job in the round at hand."""

    def plan(self, number: int, results: Mapping[int, Collection[Key]]) -> list[list[Task]]:
        older = number - self.delay
        self._repeating = {place for (place,) in self.missing(results[older])} if older in results else set()
        jobs = [older if place in self._repeating else number for place in range(self._num_workers)]
        return [[Task(job, (place,))] if job in results else [] for place, job in enumerate(jobs)]

    def row(self, key: Key) -> Row:
        (place,) = key
        return self._code.rows[place]

    def decode(self, keys: Collection[Key]) -> Weights | None:
        decoded = self._code.decode([place for (place,) in keys])
        return None if decoded is None else tuple(((place,), factor) for place, factor in decoded)

    def missing(self, keys: Collection[Key]) -> list[Key]:
        if self.decode(keys) is not None:
            return []
        absent: list[Key] = [(place,) for place in range(self._num_workers) if (place,) not in keys]
        return absent[: self._num_workers - self._num_stragglers - len(keys)]

    def bears(self, stragglers: AbstractSet[int]) -> bool:
        return self._bursts.bears(stragglers)

    def ended(self, stragglers: AbstractSet[int]) -> None:
        harmless = len(stragglers) <= self._num_stragglers and not self._repeating
        self._bursts.note(frozenset() if harmless else stragglers)
