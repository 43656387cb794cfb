"""A virtual clock in integer nanoseconds: what happens next, in an order that a seed repeats exactly."""

import heapq
from collections.abc import Callable

Action = Callable[[], None]


class Clock:
    """Runs actions at their times; ties go by the order in which they were scheduled."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._heap: list[tuple[int, int, Action]] = []
        self._count = 0

    def after(self, delay_ns: int, action: Action) -> None:
        """Run `action` in `delay_ns` >= 0 from now."""
        heapq.heappush(self._heap, (self.now_ns + delay_ns, self._count, action))
        self._count += 1

    def step(self) -> bool:
        """Run the next action; whether there was one."""
        if not self._heap:
            return False
        self.now_ns, _, action = heapq.heappop(self._heap)
        action()
        return True
