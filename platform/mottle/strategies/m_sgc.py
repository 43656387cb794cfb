"""Multiplexed sequential gradient coding: most of a batch is computed once, and coded only as much as protects the rest.

A job's batch is split into chunks of two kinds: D1[i][k], k < W - 1, which worker i computes plainly, one a round; and B groups D2[b] of n
chunks, coded for lambda stragglers. In each of the W - 1 + B rounds of a job a worker has one task of it: a D1 chunk of its own first; then
those of them that were lost when it straggled, or else its coded sum of a D2 group. Rounds have tasks of as many jobs at once.

A round costs a worker the fraction L = (lambda + 1)(W - 1 + B) / (n (B + (W - 1)(lambda + 1))) of a batch, far less than gradient coding
that bears lambda stragglers, for a delay of W - 2 + B steps. Each task is an update of its own; a worker reads as many versions a round.

Source: Krishnan, Ebrahimi, Khisti, ICLR 2023 (arXiv 2211.13802), M-SGC; `heterogeneous.md` 8.2. Differs: what a straggler had sent before
its round was ended is kept.
"""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import ClassVar

from mottle.strategies.bursts import BurstModel, Bursts
from mottle.strategies.codes import Code, Row, chosen_code
from mottle.strategies.schemes import Key, SequentialConfig, Task, Weights
from mottle.strategies.sequential import SequentialCoding

PLAIN, CODED = 1, 2
"""First of a result's name: (PLAIN, worker, k) is D1[worker][k], (CODED, b, worker) that worker's coded sum of D2[b]."""


@dataclass(frozen=True, kw_only=True)
class MSGCConfig(SequentialConfig):
    """Multiplexed sequential gradient coding."""

    name: ClassVar[str] = "m_sgc"

    @property
    def least_workers(self) -> int:
        """Workers without which there is no code."""
        return max(1, self.num_stragglers)

    @property
    def delay(self) -> int:
        """T = W - 2 + B."""
        return self.window - 2 + self.burst

    @property
    def tasks_a_round(self) -> int:
        return self.window - 1 + self.burst

    def scheme(self, num_workers: int) -> "Multiplexed":
        return Multiplexed(self.model, num_workers)

    def build(self) -> SequentialCoding:
        return SequentialCoding(self)


class Multiplexed:
    """See `mottle.strategies.schemes.Scheme`. With lambda = n nothing is coded: the last B rounds of a job are for retries."""

    def __init__(self, model: BurstModel, num_workers: int) -> None:
        self._num_workers = num_workers
        self._num_stragglers = model.num_stragglers
        self._num_plain = model.window - 1
        self._burst = model.burst
        self.delay = model.window - 2 + model.burst
        self._bursts = Bursts(model)
        self._code: Code | None = None
        if model.num_stragglers < num_workers:
            self._code = chosen_code("auto", num_workers, model.num_stragglers, num_workers)
        self.chunk_weights = (self._plain_weight(model),) * (self._num_plain * num_workers) + (1,) * self._num_coded_chunks

    def _plain_weight(self, model: BurstModel) -> int:
        """Size of a D1 chunk over that of a D2 chunk: as much as a worker computes of a coded group."""
        return 1 if self._code is None else max(len(row) for row in self._code.rows)

    @property
    def _num_coded_chunks(self) -> int:
        return 0 if self._code is None else self._burst * self._code.num_chunks

    def plan(self, number: int, results: Mapping[int, Collection[Key]]) -> list[list[Task]]:
        return [self._tasks(number, place, results) for place in range(self._num_workers)]

    def _tasks(self, number: int, place: int, results: Mapping[int, Collection[Key]]) -> list[Task]:
        tasks = []
        for slot in range(self._num_plain + self._burst):
            job = number - slot
            if job in results and (key := self._key(slot, place, results[job])) is not None:
                tasks.append(Task(job, key))
        return tasks

    def _key(self, slot: int, place: int, keys: Collection[Key]) -> Key | None:
        if slot < self._num_plain:
            return (PLAIN, place, slot)
        lost = [(PLAIN, place, k) for k in range(self._num_plain) if (PLAIN, place, k) not in keys]
        if lost:
            return lost[0]
        return None if self._code is None else (CODED, slot - self._num_plain, place)

    def row(self, key: Key) -> Row:
        kind, first, second = key
        if kind == PLAIN:
            return ((first * self._num_plain + second, 1.0),)
        assert self._code is not None
        begin = self._num_workers * self._num_plain + first * self._code.num_chunks
        return tuple((begin + chunk, factor) for chunk, factor in self._code.rows[second])

    def decode(self, keys: Collection[Key]) -> Weights | None:
        plain = [(PLAIN, place, k) for place in range(self._num_workers) for k in range(self._num_plain)]
        if any(key not in keys for key in plain):
            return None
        weights: list[tuple[Key, float]] = [(key, 1.0) for key in plain]
        for group in range(self._burst if self._code is not None else 0):
            decoded = self._decode_group(group, keys)
            if decoded is None:
                return None
            weights += decoded
        return tuple(weights)

    def _decode_group(self, group: int, keys: Collection[Key]) -> list[tuple[Key, float]] | None:
        assert self._code is not None
        decoded = self._code.decode([key[2] for key in keys if key[:2] == (CODED, group)])
        return None if decoded is None else [((CODED, group, place), factor) for place, factor in decoded]

    def missing(self, keys: Collection[Key]) -> list[Key]:
        wanted = [(PLAIN, place, k) for place in range(self._num_workers) for k in range(self._num_plain)]
        for group in range(self._burst if self._code is not None else 0):
            if self._decode_group(group, keys) is None:
                absent = [key for place in range(self._num_workers) if (key := (CODED, group, place)) not in keys]
                wanted += absent[: len(absent) - self._num_stragglers]
        return [key for key in wanted if key not in keys]

    def bears(self, stragglers: AbstractSet[int]) -> bool:
        return self._bursts.bears(stragglers)

    def ended(self, stragglers: AbstractSet[int]) -> None:
        self._bursts.note(stragglers)
