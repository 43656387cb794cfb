"""Sybil: one attacker under many names, so that the true number of faulty rows exceeds the declared one.

Rules with a budget lose their guarantee beyond it; Zeno with b at least the effective number, and Zeno++, still train.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from mottle.attacks.base import State, Turn
from mottle.attacks.checks import flag, whole
from mottle.attacks.view import RoundView
from mottle.attacks.wrapper import Wrapper


@dataclass(frozen=True, kw_only=True)
class Sybil(Wrapper):
    """Each faulty worker registers `identities` workers, which take part in the round with the attack that it carries.

    Its rows, (Q * identities, D), are those of `expand(view)`: ascending identity, the original ids first. The carried attack sees the
    expanded round, in which all identities of an attacker hold its update, and reckons with the effective numbers n + q (m - 1) and q m.
    In a live job the identities join as workers of their own, and each sends the row of the carried attack.
    """

    name: ClassVar[str] = "sybil"
    citation: ClassVar[str] = "common practice; no paper"
    passes_gate: ClassVar[str] = "as the attack it carries"

    identities: int = 2
    """m, names of each attacker, its own included."""
    identical: bool = True
    """Whether all identities of an attacker send its first one's row: zero mutual distances, the hardest case for Krum."""

    def _problems(self) -> list[str]:
        return super()._problems() + whole("identities", self.identities, least=1) + flag("identical", self.identical)

    def names(self, view: RoundView) -> dict[int, tuple[int, ...]]:
        """Identities of each attacker: its own id, then fresh ones above all ids of the round."""
        fresh = 1 + max((view.num_workers - 1, *view.faulty_ids, *(view.honest_ids or ())))
        extra = self.identities - 1
        return {worker: (worker, *range(fresh + k * extra, fresh + (k + 1) * extra)) for k, worker in enumerate(view.faulty_ids)}

    def expand(self, view: RoundView) -> RoundView:
        """The round with all identities in it."""
        extra = self.identities - 1
        faulty_ids = tuple(sorted(name for names in self.names(view).values() for name in names))
        own_QD = None if view.own is None else torch.cat([view.own, view.own.repeat_interleave(extra, dim=0)])
        return replace(view, num_workers=view.num_workers + extra * view.num_faulty, faulty_ids=faulty_ids, own=own_QD)

    def _rows(self, turn: Turn, state: State) -> tuple[Tensor, State]:
        rows_QD, state = self.attack.step(self.expand(turn.view), state, generator=turn.generator)
        if self.identical:
            first_QD = rows_QD[: turn.view.num_faulty]
            rows_QD = torch.cat([first_QD, first_QD.repeat_interleave(self.identities - 1, dim=0)])
        return rows_QD, state
