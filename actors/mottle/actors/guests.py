"""Workers that belong to somebody outside of the run, who lends them to it and asks them back.

A lent worker is made known, prepared and accompanied like one of the run's own. The differences are at its end: it is neither killed nor
kept but given back, whatever it failed with, and its owner sees to its process. A call that ends the loan may come at any moment, also
before the worker has joined; `Guests` is what the coordinator's threads ask at each step whether it is still wanted.

A coordinator that takes over from a lost one asks the owner whom it has lent to the run: whoever is at work in it is taken up again, for it
went on computing meanwhile; all others go back. Their owner waits for it, and takes everybody back only when nobody takes over.
"""

import threading
from typing import Any, NamedTuple


class Lent(NamedTuple):
    """A worker's process on loan."""

    name: str
    """Its owner's name for it."""
    actor: Any
    group: str
    """Of the job's fleet: what the worker is prepared as."""
    owner: Any
    """Actor that is told `returned(name, to, trouble, over)`."""
    to: str
    """Folder of the run that it is lent to, by which its owner tells runs apart."""

    def give_back(self, trouble: str = "", *, over: bool = False) -> None:
        """
        Args:
            trouble: what it failed with.
            over: whether the run has nothing left to do for anybody.
        """
        self.owner.returned.remote(self.name, self.to, trouble, over)


class UnwantedError(Exception):
    """The worker was asked back before it had joined. Not for people."""


class Guests:
    """The lent workers of a run, by slot."""

    def __init__(self) -> None:
        self._lent: dict[int, Lent] = {}
        self._unwanted: set[int] = set()
        self._lock = threading.Lock()

    def add(self, slot: int, lent: Lent) -> None:
        with self._lock:
            self._lent[slot] = lent

    def __contains__(self, slot: int) -> bool:
        with self._lock:
            return slot in self._lent

    def slot_of(self, name: str, to: str) -> int | None:
        """Of the worker that its owner calls so and lent to that run; None if it is not here (any more)."""
        with self._lock:
            return next((slot for slot, lent in self._lent.items() if (lent.name, lent.to) == (name, to)), None)

    def unwant(self, slot: int) -> None:
        """The worker is to go as soon as it can."""
        with self._lock:
            self._unwanted.add(slot)

    def is_wanted(self, slot: int) -> bool:
        """Of any worker; those of the run itself always are."""
        with self._lock:
            return slot not in self._unwanted

    def check(self, slot: int) -> None:
        """Raises: UnwantedError: it should turn back."""
        if not self.is_wanted(slot):
            raise UnwantedError

    def give_back(self, slot: int, trouble: str, *, over: bool) -> None:
        with self._lock:
            lent = self._lent.pop(slot)
        lent.give_back(trouble, over=over)
