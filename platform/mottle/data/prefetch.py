"""Loads what comes next in a background thread, while the model computes.

A worker asks for its next ranges with `request` and takes them, in any order, with `take`. At most `depth` ranges are waiting or
loaded, so memory is bounded. The thread is one per prefetcher, and ends with `close`, with the `with` block, or with the prefetcher
itself: it knows only the shelf below, never the prefetcher.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

CLOSE_TIMEOUT_S: Final = 30.0


class Prefetcher(Generic[Key, Value]):
    """A bounded shelf of values that one background thread fills.

    Args:
        load: key -> value, run in the background thread; `Loader.load` with `Positions` as keys.
        depth: ranges waiting or loaded at most, at least 1. Two keep a thread busy: one in hand, one to come.
    """

    def __init__(self, load: Callable[[Key], Value], *, depth: int = 2) -> None:
        if depth < 1:
            raise ValueError(f"needs a depth of at least 1, got {depth}")
        self._shelf = _Shelf(load)
        self._depth = depth
        self._thread = threading.Thread(target=self._shelf.run, name="mottle-prefetch", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._shelf.close)

    def request(self, key: Key) -> bool:
        """Load `key` soon. False if the shelf is full (nothing is changed; `take` will load it); True also if it is here already."""
        return self._shelf.request(key, self._depth)

    def take(self, key: Key) -> Value:
        """The value of `key`, taken off the shelf; loaded next, and waited for, if it was not requested.

        Raises:
            RuntimeError: closed before its load began.
            Exception: whatever `load` raised, with a note that says for which key. The next `take` of that key tries again.
        """
        try:
            return self._shelf.take(key).result()
        except CancelledError:
            raise RuntimeError(f"the prefetcher was closed, {key} will not be loaded; make a new one") from None

    def discard(self, key: Key) -> None:
        """Forget `key`, loaded or not: its lease went back. Unknown keys are ignored."""
        self._shelf.discard(key)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Drop everything and end the thread, after the load it is in. Closing twice is fine.

        Raises:
            TimeoutError: that load took longer than `timeout_s`; the thread ends when it does.
        """
        self._shelf.close()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"loading {self._shelf.loading} did not end within {timeout_s} s; the dataset may hang")

    def __enter__(self) -> "Prefetcher[Key, Value]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Shelf(Generic[Key, Value]):
    """Keys in the order to load, and the futures of all; shared by the caller and the thread under one condition."""

    def __init__(self, load: Callable[[Key], Value]) -> None:
        self._load = load
        self._changed = threading.Condition()
        self._futures: dict[Key, Future[Value]] = {}
        self._waiting: OrderedDict[Key, Future[Value]] = OrderedDict()
        self._closed = False
        self.loading: Key | None = None

    def request(self, key: Key, depth: int) -> bool:
        with self._changed:
            self._refuse_if_closed(key)
            if key not in self._futures:
                if len(self._futures) >= depth:
                    return False
                self._add(key)
            return True

    def take(self, key: Key) -> Future[Value]:
        with self._changed:
            self._refuse_if_closed(key)
            if key not in self._futures:
                self._add(key)
            if key in self._waiting:  # somebody waits for it now: it goes first
                self._waiting.move_to_end(key, last=False)
            return self._futures.pop(key)

    def discard(self, key: Key) -> None:
        with self._changed:
            self._futures.pop(key, None)
            self._waiting.pop(key, None)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for future in self._waiting.values():
                future.cancel()
            self._waiting.clear()
            self._futures.clear()
            self._changed.notify_all()

    def run(self) -> None:
        while self._load_next():
            pass

    def _load_next(self) -> bool:
        """Wait for a key and load it; False once closed. A function of its own, so that no value outlives its turn here."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return False
            key, future = self._waiting.popitem(last=False)
            self.loading = key
        try:
            future.set_result(self._load(key))
        except BaseException as error:
            error.add_note(f"while loading {key}")
            future.set_exception(error)
        finally:
            self.loading = None
        return True

    def _add(self, key: Key) -> None:
        self._futures[key] = self._waiting[key] = Future()
        self._changed.notify_all()

    def _refuse_if_closed(self, key: Key) -> None:
        if self._closed:
            raise RuntimeError(f"the prefetcher is closed, {key} will not be loaded; make a new one")
