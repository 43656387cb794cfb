"""Fewer and larger messages where there are many: a message waits a moment for company if another one has just gone.

A call between actors costs about a millisecond of processor time on both sides together, whatever it carries. Where messages come rarely
each goes at once; where they come by the hundred a second, those of an interval go together, in order.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")

INTERVAL_S = 0.003
"""Longest wait for company: short against a step that would be worth training, long against the call that it saves."""


class Outbox(Generic[Item]):
    """Sends items in the order in which they were put, at most once in an interval.

    Args:
        send: called with one or more items, by one thread at a time.
        interval_s: time between two sendings, in seconds.
    """

    def __init__(self, send: Callable[[list[Item]], None], interval_s: float = INTERVAL_S) -> None:
        self._send = send
        self._interval_s = interval_s
        self._items: list[Item] = []
        self._next_s = 0.0
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="outbox", daemon=True).start()

    def put(self, items: Sequence[Item]) -> None:
        """Send now if the interval since the last sending is over, else when it is."""
        if not items:
            return
        with self._changed:
            alone = not self._items
            self._items += items
            if time.monotonic() >= self._next_s:
                self._flush()
            elif alone:
                self._changed.notify()

    def _flush(self) -> None:
        items, self._items = self._items, []
        self._next_s = time.monotonic() + self._interval_s
        self._send(items)

    def _run(self) -> None:
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._items)
                left_s = self._next_s - time.monotonic()
                if left_s > 0:
                    self._changed.wait(left_s)
                elif self._items:
                    self._flush()
