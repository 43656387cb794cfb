"""Actors that serve nobody at present: the next run takes them up, which spares it the seconds that a new process needs for its imports.

Nothing is kept unless somebody asks for it (`keeping`), for an idle process holds on to the resources that Ray gave it.
"""

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray

ANSWER_TIMEOUT_S = 5.0


class Reserve:
    """The idle actors that this process made. Every actor here has a method `rest` and takes up another run whenever it is given one."""

    def __init__(self) -> None:
        self.keeping = False
        """Whether actors that are let go wait for another run."""
        self._kinds: dict[Any, tuple[str, str]] = {}
        """By actor id: its role and the options it was made with."""
        self._idle: dict[tuple[str, str], list[Any]] = defaultdict(list)
        self._lock = threading.Lock()

    def get(
        self, role: str, remote: Any, options: dict[str, Any], own: Mapping[str, Any] | None = None, arguments: Sequence[Any] = ()
    ) -> Any:
        """An idle actor of this role made with the same options, else a new one.

        Idle ones of the role with other options end first: they may hold the very resources that the new one needs.

        Args:
            role: one for each class.
            remote: the class, as Ray makes actors of it.
            own: further options of a new one, that make it no other kind.
            arguments: for a new one.
        """
        kind = (role, repr(sorted(options.items())))
        while (idle := self._pop(kind)) is not None:
            if lives(idle):
                return idle
            _kill(idle)
        for other in list(self._idle):
            if other[0] == role and other != kind:
                self._end(other)
        actor = remote.options(**options, **(own or {})).remote(*arguments)
        self._kinds[actor._actor_id] = kind
        return actor

    def _pop(self, kind: tuple[str, str]) -> Any:
        with self._lock:
            return self._idle[kind].pop() if self._idle[kind] else None

    def put(self, actor: Any) -> None:
        """Let an actor go that this reserve gave and that has finished its part in a run."""
        with self._lock:
            kind = self._kinds.get(actor._actor_id)
            if self.keeping and kind is not None:
                self._idle[kind].append(actor)
                return
        ray.kill(actor)

    def clear(self) -> None:
        """End all idle actors, and with them those that they made."""
        for kind in list(self._idle):
            self._end(kind)

    def _end(self, kind: tuple[str, str]) -> None:
        while (actor := self._pop(kind)) is not None:
            _kill(actor)


def _kill(actor: Any) -> None:
    with suppress(ValueError):  # of a Ray that this process has left since
        ray.kill(actor)


def lives(actor: Any) -> bool:
    """Whether an idle actor still answers."""
    try:
        ray.get(actor.rest.remote(), timeout=ANSWER_TIMEOUT_S)
    except (ray.exceptions.RayError, ValueError):  # dead, or of a Ray that this process has left since
        return False
    return True


RESERVE = Reserve()
"""Of this process."""


def let_rest(actor: Any) -> Any:
    """Have an actor forget its run and let it go. Returns what it answered, None of one that is gone or too slow."""
    try:
        answer = ray.get(actor.rest.remote(), timeout=ANSWER_TIMEOUT_S)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
        ray.kill(actor)
        return None
    RESERVE.put(actor)
    return answer
