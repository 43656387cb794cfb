"""The collusion channel: what omniscient attackers of a study see of the others' updates. It exists only when a job asks for it.

Every worker, honest or not, leaves a copy of its mean update here before it pushes. In a synchronous job a colluder waits until everybody
of the round has; without rounds it sees the newest update of each. A study's instrument: it costs one more copy of every update.
"""

import threading
from dataclasses import dataclass
from typing import Any

import ray
from torch import Tensor

from mottle.actors import transport
from mottle.actors.children import child
from mottle.actors.lifeline import Lifeline

PATIENCE_S = 5.0
"""A colluder waits so long for the round's updates, then goes on with those that are there: somebody may have died."""


@dataclass(frozen=True)
class Seen:
    """A round as colluders see it; rows as `transport.publish` made them, in ascending slot."""

    honest: dict[int, Any]
    faulty: dict[int, Any]


class Channel:
    """One job's channel.

    Args:
        coordinator: with which it ends.
        rounds: whether the job is synchronous, so that the updates of a base version belong together.
    """

    def __init__(self, coordinator: Any = None, *, rounds: bool) -> None:
        self._lifeline = Lifeline(coordinator)
        self._rounds = rounds
        self._is_faulty: dict[int, bool] = {}
        self._newest: dict[int, tuple[int, Any]] = {}
        """Slot -> (base version, mean update)."""
        self._changed = threading.Condition()

    def join(self, slot: int, faulty: bool) -> None:
        with self._changed:
            self._is_faulty[slot] = faulty

    def leave(self, slot: int) -> None:
        """A worker is gone: nobody waits for its updates any more."""
        with self._changed:
            self._is_faulty.pop(slot, None)
            self._newest.pop(slot, None)
            self._changed.notify_all()

    def deposit(self, slot: int, base: int, mean: Any) -> None:
        """A worker's own honest update, before it is pushed."""
        with self._changed:
            self._newest[slot] = (base, mean)
            self._changed.notify_all()

    @transport.call(group="looking")
    def look(self, base: int) -> Seen:
        """Updates of the round at `base`, or the newest ones where there are no rounds."""
        with self._changed:
            self._changed.wait_for(lambda: self._complete(base), PATIENCE_S)
            rows = {slot: mean for slot, (at, mean) in sorted(self._newest.items()) if at == base or not self._rounds}
            return Seen(
                {slot: mean for slot, mean in rows.items() if not self._is_faulty.get(slot, True)},
                {slot: mean for slot, mean in rows.items() if self._is_faulty.get(slot, False)},
            )

    def _complete(self, base: int) -> bool:
        if not self._rounds:
            return any(not faulty and slot in self._newest for slot, faulty in self._is_faulty.items())
        return all(slot in self._newest and self._newest[slot][0] >= base for slot in self._is_faulty)


def open_channel(*, rounds: bool) -> Any:
    """The channel's actor."""
    remote: Any = ray.remote
    options, (coordinator,) = child("channel")
    return remote(num_cpus=0, concurrency_groups={"looking": 64}, **options)(Channel).remote(coordinator, rounds=rounds)


def rows_of(seen: dict[int, Any]) -> list[Tensor]:
    """The updates, in ascending slot."""
    return [transport.receive(seen[slot]).clone() for slot in sorted(seen)]
