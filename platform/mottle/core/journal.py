"""The log of the brain's events on its way to the shards, which keep it for the day on which the coordinator is lost.

The same events at the same times give the same brain and the same commands, so the log is all that another coordinator needs. What may
leave the coordinator before the events that led to it are safe with the shards, and why:

- batches: each travels with the log that led to it, and no replica runs it without;
- orders to workers: numbers of lost orders are never given again, and a new coordinator tells every worker which of its orders are open;
- questions to the validator: they are asked again, and have no effect but their answers;
- what is shown at the moment: it is told anew by the events, which shards repeat until the log shows that they were heard.

What stays (the record on storage, a checkpoint's manifest, the end of the run, the answer to a user who changed something) waits until its
event is safe. So the log needs no message of its own while steps are taken: pages ride with batches, answers say what is held.
Knows no brain, clock or wire.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from mottle.core.protocol import Event, ReplicaId


class Reported(NamedTuple):
    """Number of a replica's report, by which it is told from one said again."""

    replica: ReplicaId
    number: int


class Entry(NamedTuple):
    """One event that the brain took, and when by the run's clock."""

    now_ns: int
    event: Event
    reported: Reported | None = None
    """Of what a shard said."""


@dataclass(slots=True)
class _Heard:
    """Numbers of one replica's reports that are in the log."""

    upto: int = 0
    beyond: set[int] = field(default_factory=set)
    """Those that overtook others."""

    def add(self, number: int) -> None:
        self.beyond.add(number)
        while self.upto + 1 in self.beyond:
            self.upto += 1
            self.beyond.discard(self.upto)


class Journal:
    """The coordinator's end of the log."""

    def __init__(self) -> None:
        self.stop = 0
        """Number of entries so far."""
        self._unsent: list[Entry] = []
        self._heard: dict[ReplicaId, _Heard] = {}
        self._held: dict[ReplicaId, int] = {}

    # --- writing ----------------------------------------------------------------------------------------------------------------------

    def note(self, entry: Entry) -> None:
        """Write an entry."""
        self.recall(entry)
        self._unsent.append(entry)

    def recall(self, entry: Entry) -> None:
        """Go past an entry that the shards hold already."""
        self.stop += 1
        if entry.reported is not None:
            self._heard.setdefault(entry.reported.replica, _Heard()).add(entry.reported.number)

    def knows(self, reported: Reported) -> bool:
        """Whether a report is in the log already."""
        heard = self._heard.get(reported.replica)
        return heard is not None and (reported.number <= heard.upto or reported.number in heard.beyond)

    # --- sending ----------------------------------------------------------------------------------------------------------------------

    @property
    def sent(self) -> int:
        """Entries that `take` has given."""
        return self.stop - len(self._unsent)

    def take(self) -> tuple[int, tuple[Entry, ...]]:
        """The entries since the last call, and the number of the first one."""
        first, entries = self.sent, tuple(self._unsent)
        self._unsent = []
        return first, entries

    @property
    def heard(self) -> tuple[tuple[ReplicaId, int], ...]:
        """How many of each replica's reports, counted without a gap, are in the log."""
        return tuple((replica, heard.upto) for replica, heard in sorted(self._heard.items()))

    # --- keeping ----------------------------------------------------------------------------------------------------------------------

    def held(self, replica: ReplicaId, stop: int) -> None:
        """A replica says that it holds the log so far."""
        self._held[replica] = max(stop, self._held.get(replica, 0))

    def safe(self, live: Iterable[ReplicaId]) -> int:
        """Entries that every live replica holds, so that no death that leaves the shards whole can lose them."""
        return min((self._held.get(replica, 0) for replica in live), default=0)
