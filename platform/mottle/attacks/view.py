"""What an attacker sees of one round, and what it may put on the wire.

A `RoundView` holds everything there is; `limited_to` blinds it to a level of knowledge, so that an attack cannot use more than it
declares. In a live job a view with the rows of others is the collusion channel, which exists only when a job asks for it.

Letters: N workers of the round, H honest ones, Q faulty ones, D coordinates. Rows are always in ascending worker id.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from mottle.core.errors import ConfigError

Rule = Callable[[Tensor], Tensor]
"""The defender's rule: (N, D) rows to a (D,) aggregate."""


class Knowledge(IntEnum):
    """How much an attacker knows; each level includes the ones before it."""

    NOTHING = 0
    """Only the shape of an update."""
    OWN = 1
    """Its own data, model and update."""
    COLLUDERS = 2
    """The updates that all colluding faulty workers computed honestly on their own data."""
    HONEST = 3
    """All honest updates of the round: omniscient."""
    RULE = 4
    """The honest updates and the aggregation rule with its parameters."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundView:
    """One round as the attackers may see it.

    Raises:
        ConfigError: ids that are not ascending or not disjoint, rows that do not match the ids or each other.
    """

    num_workers: int
    """n: rows the server waits for, honest and faulty."""
    faulty_ids: tuple[int, ...]
    """Ids of the faulty workers, ascending; part of the experiment's configuration, not knowledge about updates."""
    round: int = 0
    """Round, or base version in an asynchronous job."""
    own: Tensor | None = None
    """What each faulty worker computed by following the protocol."""
    honest: Tensor | None = None
    """The honest updates."""
    honest_ids: tuple[int, ...] | None = None
    """Ids of the honest workers; without it the ids below `num_workers` that are not faulty."""
    rule: Rule | None = None
    """The defender's rule, for attacks that optimise against it."""
    num_coordinates: int | None = None
    """d; taken from the rows when there are any."""
    dtype: torch.dtype | None = None
    """Dtype of an update; taken from the rows when there are any, else float32."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "faulty_ids", tuple(self.faulty_ids))
        if self.honest_ids is None:
            faulty = set(self.faulty_ids)
            object.__setattr__(self, "honest_ids", tuple(i for i in range(self.num_workers) if i not in faulty))
        self._check_ids()
        self._take_shape()
        self._check_rows("own", self.own, len(self.faulty_ids))
        self._check_rows("honest", self.honest, self.num_honest)

    @classmethod
    def split(cls, rows_ND: Tensor, faulty_ids: Sequence[int], *, round: int = 0, rule: Rule | None = None) -> Self:
        """A view of a round in which worker i, faulty or not, computed row i honestly."""
        faulty = sorted(faulty_ids)
        is_faulty_N = torch.zeros(len(rows_ND), dtype=torch.bool, device=rows_ND.device)
        is_faulty_N[faulty] = True
        own_QD, honest_HD = rows_ND[is_faulty_N], rows_ND[~is_faulty_N]
        return cls(num_workers=len(rows_ND), faulty_ids=tuple(faulty), round=round, own=own_QD, honest=honest_HD, rule=rule)

    @property
    def length(self) -> int:
        """d, known once the view exists."""
        assert self.num_coordinates is not None
        return self.num_coordinates

    @property
    def num_faulty(self) -> int:
        """q."""
        return len(self.faulty_ids)

    @property
    def num_honest(self) -> int:
        """h = n - q."""
        return self.num_workers - len(self.faulty_ids)

    @property
    def device(self) -> torch.device:
        """Where the rows live; the CPU when there are none."""
        known = self.own if self.own is not None else self.honest
        return torch.device("cpu") if known is None else known.device

    def assemble(self, faulty_QD: Tensor) -> Tensor:
        """All rows of the round, (N, D), in ascending worker id: the given faulty ones among the honest ones of this view."""
        if self.honest is None:
            raise ConfigError("assembling a round needs honest rows; give the view the honest rows")
        assert self.honest_ids is not None
        ids = torch.tensor(self.faulty_ids + self.honest_ids)
        return torch.cat([faulty_QD, self.honest])[torch.argsort(ids).to(self.device)]

    def limited_to(self, knowledge: Knowledge) -> Self:
        """The same round with everything hidden that lies above a level of knowledge. Own rows stay: each row's owner knows it."""
        return replace(
            self,
            honest=self.honest if knowledge >= Knowledge.HONEST else None,
            rule=self.rule if knowledge >= Knowledge.RULE else None,
            own=self.own if knowledge >= Knowledge.OWN else None,
        )

    def _check_ids(self) -> None:
        assert self.honest_ids is not None
        for name, ids in (("faulty_ids", self.faulty_ids), ("honest_ids", self.honest_ids)):
            if any(a >= b for a, b in pairwise(ids)):
                raise ConfigError(f"{name} must be ascending and without repetition, got {ids}")
        both = set(self.faulty_ids) & set(self.honest_ids)
        if both or len(self.faulty_ids) + len(self.honest_ids) != self.num_workers:
            raise ConfigError(
                f"faulty and honest ids must be disjoint and together num_workers = {self.num_workers}, got {len(self.faulty_ids)} faulty "
                f"and {len(self.honest_ids)} honest, {sorted(both)} in both; give honest_ids when ids do not run from 0"
            )

    def _take_shape(self) -> None:
        for rows in (self.own, self.honest):
            if rows is not None and rows.ndim == 2:
                object.__setattr__(self, "num_coordinates", rows.shape[1])
                object.__setattr__(self, "dtype", rows.dtype)
                break
        if self.num_coordinates is None:
            raise ConfigError("a view needs the length of an update: give own, honest or num_coordinates")
        if self.dtype is None:
            object.__setattr__(self, "dtype", torch.float32)

    def _check_rows(self, name: str, rows: Tensor | None, num_rows: int) -> None:
        if rows is None:
            return
        wanted = (num_rows, self.num_coordinates)
        if tuple(rows.shape) != wanted or rows.dtype != self.dtype or not rows.is_floating_point():
            raise ConfigError(
                f"{name} must be a floating point tensor of shape {wanted} and dtype {self.dtype}, got {tuple(rows.shape)} {rows.dtype}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Message:
    """What one worker sends for one round, as an attack may forge it."""

    worker: int
    """Id under which it is sent."""
    round: int
    """Round, or base version, that the sender claims."""
    payload: object
    """The update: a 1-D tensor from an honest worker, anything at all from a hostile one."""
    count: float
    """Sample count that the sender claims; honest ones are positive integers."""
