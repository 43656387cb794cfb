"""Timers of the brain: one thread that calls back at the times asked for."""

import heapq
import threading
import time
from collections.abc import Callable


class Timers:
    """Calls `ring(name)` when a timer is due, from a thread of its own."""

    def __init__(self, ring: Callable[[str], None]) -> None:
        self._ring = ring
        self._heap: list[tuple[int, str]] = []
        self._changed = threading.Condition()
        self._closed = False
        threading.Thread(target=self._run, name="timers", daemon=True).start()

    def set(self, name: str, delay_ns: int) -> None:
        with self._changed:
            heapq.heappush(self._heap, (time.monotonic_ns() + delay_ns, name))
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                wait_ns = self._heap[0][0] - time.monotonic_ns() if self._heap else None
                if wait_ns is None or wait_ns > 0:
                    self._changed.wait(None if wait_ns is None else wait_ns / 1e9)
                    continue
                _, name = heapq.heappop(self._heap)
            self._ring(name)
