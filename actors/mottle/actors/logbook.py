"""The log of a run's coordinator on its way to the shards: `mottle.core.journal.Journal` decides, this packs, sends and waits.

Everything here is called under the session's lock, but for `wait`.
"""

import pickle
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from ray import cloudpickle

from mottle.core import protocol as p
from mottle.core.brain import Brain
from mottle.core.journal import Entry, Journal

FLUSH_NS = 50_000_000
"""After so long entries travel that found nothing to travel with."""
CONFIRM_S = 0.5
"""Shards say how much of the log they hold along with what they have to say; after this long without that they are asked."""
BASE_EVERY = 20_000
"""Entries from one base to the next: about a second of replay."""

ORDERS = (p.Compute, p.Cut, p.Abandon, p.Dismiss, p.Reattach)
"""Commands that the log should reach the shards before: nothing is lost if it does not, but work is done again."""


class Logbook:
    """Writes, sends and bases the log.

    Args:
        tell: gives replicas a message.
        later: calls back after so many nanoseconds.
        freeze: what a base consists of, as of now.
        recorded: how many entries are on storage, which a base may make superfluous.
    """

    def __init__(
        self,
        brain: Brain,
        journal: Journal,
        changed: threading.Condition,
        *,
        tell: Callable[[Sequence[p.ReplicaId], p.Told], None],
        later: Callable[[int], None],
        freeze: Callable[[], object],
        recorded: Callable[[], int],
    ) -> None:
        self.journal = journal
        self._brain = brain
        self._changed = changed
        self._tell = tell
        self._later = later
        self._freeze = freeze
        self._recorded = recorded
        self._open = False
        self._flushing = False
        self._asked_s, self._asked_stop = 0.0, 0
        self._waiting = 0
        self._base: p.Base | None = None
        """That waits until the replicas and the record are as far."""
        self._base_at = journal.stop
        self._may_base = True

    def open(self) -> None:
        """The shards stand and have what the log rests on: send what has gathered, and what comes from here on."""
        self._open = True
        self._send([])

    # --- in ---------------------------------------------------------------------------------------------------------------------------

    def held(self, replica: p.ReplicaId, stop: int) -> None:
        """A replica says how much of the log it holds."""
        self.journal.held(replica, stop)

    def note(self, entry: Entry) -> None:
        self.journal.note(entry)

    @property
    def safe(self) -> int:
        """Entries that no death can lose which leaves the shards whole; all of them when there is nobody left to hold them."""
        live = self._brain.shards.live
        return self.journal.safe(live) if live else self.journal.stop

    # --- out --------------------------------------------------------------------------------------------------------------------------

    def send(self, commands: Iterable[p.Command]) -> None:
        """Send what the shards are told, with the log that led to it; the log alone if orders follow it, or a while later."""
        if not self._open:
            return
        batches, urgent = [], self._waiting > 0 and self.journal.sent < self.journal.stop
        for command in commands:
            if isinstance(command, p.Batch):
                batches.append(command)
            urgent = urgent or isinstance(command, ORDERS)
        if batches or urgent:
            self._send(batches)
        elif not self._flushing and self.journal.sent < self.journal.stop:
            self._flushing = True
            self._later(FLUSH_NS)

    def flush(self) -> None:
        """The while is over."""
        self._flushing = False
        self._send([])
        if self.safe < self.journal.stop and not self._flushing:  # until they have said that they hold it
            self._flushing = True
            self._later(round(CONFIRM_S * 1e9))

    def _send(self, batches: Sequence[p.Batch]) -> None:
        first, entries = self.journal.take()
        stop, shards = self.journal.stop, self._brain.shards
        page = page_of(first, entries) if entries else None
        groups: dict[int, list[p.ReplicaId]] = defaultdict(list)
        """By how many of the batches, the last ones, go to them."""
        for replica in shards.listeners:
            groups[sum(batch.seq >= shards.first_seq(replica) for batch in batches)].append(replica)
        confirm, base = self._wants_confirmation(), self._base_to_send()
        for number, replicas in groups.items():
            if number or page is not None or base is not None or confirm:
                told = tuple(batches[len(batches) - number :])
                self._tell(replicas, p.Told(shards.epoch, stop, told, page, self.journal.heard, base, confirm=confirm))

    def _wants_confirmation(self) -> bool:
        now_s, stop = time.monotonic(), self.journal.stop
        asked_just_now = now_s - self._asked_s < CONFIRM_S and (not self._waiting or self._asked_stop == stop)
        if self.safe >= stop or asked_just_now:
            return False
        self._asked_s, self._asked_stop = now_s, stop
        return True

    # --- bases ------------------------------------------------------------------------------------------------------------------------

    def base(self) -> p.Base:
        """What the log up to now can be replaced by."""
        return p.Base(self.journal.stop, cloudpickle.dumps(self._freeze()))  # type: ignore[no-untyped-call]  # Ray leaves it unannotated

    def _base_to_send(self) -> p.Base | None:
        if self._base is not None and min(self.safe, self._recorded()) >= self._base.at:
            base, self._base = self._base, None
            return base
        if self._base is None and self._may_base and self.journal.stop - self._base_at >= BASE_EVERY:
            try:
                self._base, self._base_at = self.base(), self.journal.stop
            except Exception as error:  # a strategy of the user's own may hold what cannot be pickled: then the log is kept whole
                self._may_base = False
                print(f"the log is kept whole, for the coordinator's state cannot be saved: {type(error).__name__}: {error}", flush=True)
        return None

    # --- waiting ----------------------------------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> bool:
        """Wait, with the lock held once, until all that is in the log now is safe. Whether it is."""
        stop = self.journal.stop
        if self.safe >= stop or not self._open:
            return self._open
        self._waiting += 1
        try:
            self._send([])
            return self._changed.wait_for(lambda: self.safe >= stop, timeout_s)
        finally:
            self._waiting -= 1


def page_of(first: int, entries: tuple[Entry, ...]) -> p.Page:
    """Entries as the shards keep them."""
    return p.Page(first, first + len(entries), pickle.dumps(entries, protocol=5))


def entries_of(page: p.Page, start: int) -> tuple[Entry, ...]:
    """The entries of a page, from number `start` on."""
    entries: tuple[Entry, ...] = pickle.loads(page.content)
    return entries[max(0, start - page.first) :]
