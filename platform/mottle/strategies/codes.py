"""Gradient codes: who computes which chunks of a batch, and how their sums are found again when some of the crew are missing.

A batch is split into chunks with gradient sums g_j. Worker i sends the coded sum w_i = sum over j of C[i, j] g_j. From the coded sums of
enough survivors the batch's sum is recovered as sum over i of a_i w_i, with a such that a C[survivors] = (1, ..., 1). Either code here
recovers it whichever `num_stragglers` of the workers are missing.

Workers are places 0 .. n-1 of a crew, chunks 0 .. `num_chunks` - 1. Pure: no tensor, no crew, no order.

Source: Tandon, Lei, Dimakis, Karampatziakis, "Gradient Coding", ICML 2017 (arXiv 1612.03301); `heterogeneous.md` 7.
"""

from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import combinations, islice
from math import comb
from typing import Protocol

import numpy as np
import numpy.typing as npt

# N workers, S stragglers, K survivors
Matrix = npt.NDArray[np.float64]
Row = tuple[tuple[int, float], ...]
"""(chunk, coefficient) of what one worker computes, ascending chunk."""
Decoding = tuple[tuple[int, float], ...]
"""(worker, a_i) of the survivors that are needed, ascending worker."""

DRAWS = 8
"""Random cyclic codes that are compared; how well one is conditioned is a matter of luck."""
TRIED = 64
"""Sets of survivors that a code is judged by, where there are more."""
USABLE = 100.0
"""Factor on rounding errors that a code may have to be chosen by itself: five digits of a float32 are left."""
LARGEST = 16
"""Workers beyond which no random cyclic code is usable, nor worth comparing with others: conditioning grows with the crew."""


class Code(Protocol):
    """One assignment of chunks to a crew of a certain size."""

    num_chunks: int
    rows: tuple[Row, ...]
    """By worker."""

    def decode(self, survivors: Collection[int]) -> Decoding | None:
        """How their coded sums add up to the batch's; None where they do not suffice."""


class Fractional:
    """Fractional repetition: chunks are computed by a group of workers each, as plain sums; one survivor a group is all that is needed.

    All coefficients are 1, so the decoded sum is the plain one bit for bit. Groups have `num_stragglers` + 1 workers, and where the crew is
    no multiple of that, some have more. The specification's s + 1 parts of a block, which nobody separates, are one chunk here.

    Args:
        num_workers: at least num_stragglers + 1.
        num_stragglers: s in the paper.
        most_chunks: with fewer chunks groups are larger.
    """

    def __init__(self, num_workers: int, num_stragglers: int, *, most_chunks: int | None = None) -> None:
        whole_groups = num_workers // (num_stragglers + 1)
        self.num_chunks = whole_groups if most_chunks is None else min(whole_groups, most_chunks)
        self.rows: tuple[Row, ...] = tuple(((worker * self.num_chunks // num_workers, 1.0),) for worker in range(num_workers))

    def decode(self, survivors: Collection[int]) -> Decoding | None:
        first: dict[int, int] = {}
        for worker in sorted(survivors):
            ((chunk, _),) = self.rows[worker]
            first.setdefault(chunk, worker)
        return tuple((worker, 1.0) for worker in sorted(first.values())) if len(first) == self.num_chunks else None


class Cyclic:
    """The random cyclic code: worker i computes chunks i, i+1, ..., i+s (modulo n), which works for every n > s.

    Its coefficients are real numbers, so a decoded sum carries more rounding than a plain one: see `amplification`.

    Args:
        matrix_NN: C; row i has its s + 1 non-zeros in the columns from i on. `cyclic` draws one.
        num_stragglers: s in the paper.
    """

    def __init__(self, matrix_NN: Matrix, num_stragglers: int) -> None:
        self.matrix_NN = matrix_NN
        self.num_chunks = len(matrix_NN)
        self.num_needed = len(matrix_NN) - num_stragglers
        self.rows: tuple[Row, ...] = tuple(tuple((int(j), float(row[j])) for j in np.flatnonzero(row)) for row in matrix_NN)
        self._decoded: dict[tuple[int, ...], Decoding] = {}

    def decode(self, survivors: Collection[int]) -> Decoding | None:
        if len(survivors) < self.num_needed:
            return None
        chosen = tuple(sorted(survivors)[: self.num_needed])
        if chosen not in self._decoded:
            self._decoded[chosen] = tuple(zip(chosen, map(float, self._solve(chosen)), strict=True))
        return self._decoded[chosen]

    def _solve(self, chosen: tuple[int, ...]) -> Matrix:
        """a of a C[chosen] = 1, by least squares in float64."""
        solution_K, *_ = np.linalg.lstsq(self.matrix_NN[list(chosen)].T, np.ones(self.num_chunks), rcond=None)
        return np.asarray(solution_K, dtype=np.float64)

    @property
    def amplification(self) -> float:
        """Largest factor by which rounding errors of coded sums grow in a decoded one: max over survivors and j of sum_i |a_i C[i, j]|."""
        worst = 0.0
        for chosen in _survivor_sets(self.num_chunks, self.num_needed):
            shares_KN = np.abs(self._solve(chosen))[:, None] * np.abs(self.matrix_NN[list(chosen)])
            worst = max(worst, float(shares_KN.sum(0).max()))
        return worst


@lru_cache(maxsize=64)
def cyclic(num_workers: int, num_stragglers: int) -> Cyclic:
    """The best conditioned of some random cyclic codes; the same for the same numbers.

    H, shape (s, n), has standard normal columns and a last one that makes each row add up to 0; the rows of C are in its null space.
    """
    num_draws = DRAWS if num_stragglers and num_workers <= LARGEST else 1
    drawn = [Cyclic(_draw(num_workers, num_stragglers, seed), num_stragglers) for seed in range(num_draws)]
    return min(drawn, key=lambda code: code.amplification) if num_draws > 1 else drawn[0]


def _draw(num_workers: int, num_stragglers: int, seed: int) -> Matrix:
    free_SN = np.random.default_rng([num_workers, num_stragglers, seed]).standard_normal((num_stragglers, num_workers - 1))
    null_SN = np.hstack([free_SN, -free_SN.sum(axis=1, keepdims=True)])
    matrix_NN = np.eye(num_workers)
    for worker in range(num_workers):
        others = [(worker + step) % num_workers for step in range(1, num_stragglers + 1)]
        matrix_NN[worker, others] = np.linalg.solve(null_SN[:, others], -null_SN[:, worker])
    return matrix_NN


def _survivor_sets(num_workers: int, num_needed: int) -> Iterator[tuple[int, ...]]:
    """All of them, or as many random ones."""
    if comb(num_workers, num_needed) <= TRIED:
        return combinations(range(num_workers), num_needed)
    generator = np.random.default_rng(num_workers)
    drawn = (generator.choice(num_workers, num_needed, replace=False) for _ in range(TRIED))
    return islice((tuple(sorted(map(int, each))) for each in drawn), TRIED)


def chosen_code(name: str, num_workers: int, num_stragglers: int, batch: int) -> Code:
    """The code of that name for a crew and a batch.

    Args:
        name: `fractional`, `cyclic`, or `auto`: cyclic, which then computes less, where the crew is no multiple of num_stragglers + 1 and
            rounding errors stay small; else fractional.
        num_workers: more than num_stragglers.
        batch: samples; one that is too small for a chunk a worker (the last of an epoch) is always split fractionally.
    """
    even = num_workers % (num_stragglers + 1) == 0
    wanted = name == "cyclic" or (name == "auto" and not even and num_workers <= LARGEST)
    if wanted and batch >= num_workers:
        code = cyclic(num_workers, num_stragglers)
        if name == "cyclic" or code.amplification <= USABLE:
            return code
    return Fractional(num_workers, num_stragglers, most_chunks=batch)
