"""Who hears what when: messages, and the links that bytes travel on.

A message of the coordinator takes no time (its bytes are few; `Messages.delay_s` gives it some). A transfer occupies the worker's own link
and, where it has a bandwidth, the server's, each first come, first served, then takes the link's latency. Links are full duplex.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from mottle.simulate.clock import MESSAGE, NOBODY, Action, Clock
from mottle.simulate.fleet import Messages

Alive = Callable[[], bool]


def ns(seconds: float) -> int:
    """Virtual time; a duration is rounded once, when it is made (`heterogeneous.md` 0.3)."""
    return round(seconds * 1e9)


@dataclass(slots=True)
class Link:
    """One direction of a link."""

    bandwidth_bytes_per_s: float | None
    latency_ns: int = 0
    free_ns: int = 0
    """When what was sent so far is through."""
    num_bytes: int = 0

    def send(self, num_bytes: int, now_ns: int) -> int:
        """When the last of these bytes has left the link, but for the latency."""
        self.num_bytes += num_bytes
        begin_ns = now_ns if now_ns > self.free_ns else self.free_ns
        if self.bandwidth_bytes_per_s is not None:
            self.free_ns = begin_ns = begin_ns + ns(num_bytes / self.bandwidth_bytes_per_s)
        return begin_ns


def arrival_ns(num_bytes: int, now_ns: int, own: Link, server: Link) -> int:
    """When a transfer over a worker's and a server's link has arrived; it flows over both at once."""
    return max(own.send(num_bytes, now_ns), server.send(num_bytes, now_ns)) + own.latency_ns


class Post:
    """Delivers. With `Messages.disorder` messages are delayed by chance, overtake one another, come twice, and what a sender had on its way
    when it died arrives or not; without it everything comes in order and at its time.

    Args:
        seed: of delays, repetitions and torn messages; drawn in sequence, since no two strategies send the same messages.
    """

    def __init__(self, clock: Clock, messages: Messages, seed: int) -> None:
        self._clock = clock
        self._delay_ns = (ns(messages.delay_s[0]), ns(messages.delay_s[1]))
        self._repeat = messages.repeat
        self._rng = random.Random(seed) if messages.disorder else None

    def message(self, deliver: Action, alive: Alive | None = None) -> None:
        """Deliver at once, or after a delay by chance."""
        if self._rng is None:
            self._clock.soon(deliver)
        else:
            self._scatter(self._clock.now_ns, MESSAGE, NOBODY, deliver, alive)

    def at(self, time_ns: int, kind: int, worker: int, deliver: Action, alive: Alive | None = None) -> None:
        """Deliver at that time, if the sender lives then; or later, and perhaps although it died, where there is disorder."""
        if self._rng is not None:
            self._scatter(time_ns, kind, worker, deliver, alive)
        elif alive is None:
            self._clock.at(time_ns, kind, worker, deliver)
        else:
            self._clock.at(time_ns, kind, worker, lambda: deliver() if alive() else None)

    def _scatter(self, time_ns: int, kind: int, worker: int, deliver: Action, alive: Alive | None) -> None:
        assert self._rng is not None
        for _ in range(2 if self._rng.random() < self._repeat else 1):
            survives = self._rng.random() < 0.5

            def arrive(survives: bool = survives) -> None:
                if survives or alive is None or alive():
                    deliver()

            self._clock.at(time_ns + self._rng.randint(*self._delay_ns), kind, worker, arrive)
