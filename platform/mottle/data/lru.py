"""A small least-recently-used cache of decoded blocks and open files.

It belongs to one process: pickled, it arrives empty, so what holds one can travel without its contents.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Lru(Generic[Key, Value]):
    """At most `capacity` values; a value is made under a lock, so two threads never decode the same block twice."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a cache needs room for at least one value, got capacity {capacity}")
        self.capacity = capacity
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of `key`, made now if it is not here; the least recently used one leaves before a new one is made."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            while len(self._values) >= self.capacity:  # before, not after: the peak stays at `capacity` values
                self._values.popitem(last=False)
            value = self._values[key] = make()
            return value

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self) -> tuple[Any, ...]:
        return Lru, (self.capacity,)
