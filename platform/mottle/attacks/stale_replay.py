"""Stale replay: a worker that sends what it sent before.

A synchronous server rejects the true label by its round. An asynchronous one uses its own record of the base version, so the false label
takes a fresh fetch; then the staleness cannot be seen, and only tests of content (Zeno++, Kardam) can react.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mottle.attacks.base import Attack, State, Turn
from mottle.attacks.checks import choice, whole
from mottle.attacks.view import Message


@dataclass(frozen=True, kw_only=True, eq=False)
class StaleState:
    """What each worker remembers, by its id."""

    history: dict[int, tuple[tuple[int, Tensor], ...]] = field(default_factory=dict)
    """Its own updates with their versions, oldest first; none older than the next replay needs."""
    sent_versions: dict[int, int] = field(default_factory=dict)
    """The version of the update that it sent last."""


@dataclass(frozen=True, kw_only=True)
class StaleReplay(Attack):
    """The worker resends its own update of `lag` versions ago, or the last one before; until it has one, it is honest."""

    name: ClassVar[str] = "stale_replay"
    citation: ClassVar[str] = "common practice; no paper"

    lag: int = 1
    """Versions between the update that is sent and the current one."""
    claim: Literal["true", "newest"] = "true"
    """The base version on the label of the message."""

    def _problems(self) -> list[str]:
        return whole("lag", self.lag, least=1) + choice("claim", self.claim, ("true", "newest"))

    def init(self) -> StaleState:
        return StaleState()

    def _rows(self, turn: Turn, state: State) -> tuple[Tensor, State]:
        history, sent_versions = dict(state.history), dict(state.sent_versions)
        rows = []
        for worker, own_D, active in zip(turn.view.faulty_ids, turn.own, turn.active.tolist(), strict=True):
            past = (*history.get(worker, ()), (turn.view.round, own_D.clone()))
            old_enough = [i for i, (version, _) in enumerate(past) if version <= turn.view.round - self.lag]
            history[worker] = past[old_enough[-1] :] if old_enough else past
            version, row_D = history[worker][0] if old_enough and active else past[-1]
            sent_versions[worker] = version
            rows.append(row_D)
        return torch.stack(rows), StaleState(history=history, sent_versions=sent_versions)

    def _messages(self, message: Message, state: State, generator: np.random.Generator | None) -> list[Message]:
        sent = None if state is None else state.sent_versions.get(message.worker)
        return [message if self.claim == "newest" or sent in (None, message.round) else replace(message, round=sent)]
