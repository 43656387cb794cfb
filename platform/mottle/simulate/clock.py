"""A virtual clock in integer nanoseconds: what happens next, in an order that a seed repeats exactly.

Events are ordered by `(time, kind, worker, order of scheduling)`, kinds as in `heterogeneous.md` 10.7, so that at one moment an update that
arrives is heard before a computation ends. What takes no time (messages of the coordinator) is done first, in the order in which it was
sent, before the clock moves on to the next event.
"""

import heapq
from collections import deque
from collections.abc import Callable
from typing import Final

Action = Callable[[], None]

PUSH_ARRIVES: Final = 0
PULL_DONE: Final = 1
COMPUTE_DONE: Final = 2
MESSAGE: Final = 3
TIMER: Final = 4
FAULT: Final = 5

NOBODY: Final = -1
"""In the place of a worker: events that belong to none."""


class Clock:
    """Runs actions at their times."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.num_events = 0
        """Actions run so far."""
        self._heap: list[tuple[int, int, int, int, Action]] = []
        self._soon: deque[Action] = deque()
        self._count = 0

    def at(self, time_ns: int, kind: int, worker: int, action: Action) -> None:
        """Run `action` at that time, which is not before now."""
        self._count += 1
        heapq.heappush(self._heap, (time_ns, kind, worker, self._count, action))

    def soon(self, action: Action) -> None:
        """Run `action` now, after what was asked for before it."""
        self._soon.append(action)

    def step(self) -> bool:
        """Run the next action; whether there was one."""
        if self._soon:
            action = self._soon.popleft()
        elif self._heap:
            self.now_ns, _, _, _, action = heapq.heappop(self._heap)
        else:
            return False
        self.num_events += 1
        action()
        return True

    @property
    def only_timers(self) -> bool:
        """Whether the next event, if there is one at all, is a timer's."""
        return not self._soon and (not self._heap or self._heap[0][1] == TIMER)
