"""The coordinator of a simulation that may be lost: its log on the shards, its death, and the takeover by another one.

The rules are `mottle.core.journal` and `mottle.core.takeover`; this carries pages and times.
"""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain

import cloudpickle

from mottle.core import protocol as p
from mottle.core.brain import Brain
from mottle.core.journal import Entry, Journal, Reported
from mottle.core.shard import Fenced, Heard
from mottle.core.takeover import Standing, Takeover, longest
from mottle.simulate.clock import MESSAGE, NOBODY, TIMER, Clock
from mottle.simulate.hosts import Hosts
from mottle.simulate.network import Alive, ns

FLUSH_NS = ns(0.02)
"""After so long entries travel that found no batch or order to travel with."""
BASE_EVERY = 20_000
"""Entries from one base to the next."""
NOBODY_LEFT = "the coordinator is lost, and with it every replica that held its log"


class Recovery:
    """What a lost coordinator leaves behind, and how another one takes over.

    Args:
        brain: as the run begins.
        took_over: given the takeover when the log has been replayed, its epoch and how long nobody was heard; has the brain hear of it.
        hopeless: called when there is no log left.
        base_every: entries from one base to the next.
    """

    def __init__(
        self,
        brain: Brain,
        hosts: Hosts,
        clock: Clock,
        *,
        took_over: Callable[[Takeover, int, int], None],
        hopeless: Callable[[], None],
        base_every: int = BASE_EVERY,
    ) -> None:
        self.brain = brain
        self.journal = Journal()
        self.lost_ns: int | None = None
        """Since when there is no coordinator."""
        self.num_takeovers = 0
        self.incarnation = 0
        """Grows with every death: what one has set going means nothing to the next."""
        self._hosts = hosts
        self._clock = clock
        self._took_over = took_over
        self._hopeless = hopeless
        self._base_every = base_every
        self._flushing = False
        for host in hosts.all.values():
            host.machine.handle(Heard(p.Told(0, base=self._freeze())))
        self._base: p.Base | None = None
        """That is not with the shards yet."""
        self._base_at = 0

    def _freeze(self) -> p.Base:
        return p.Base(self.journal.stop, cloudpickle.dumps((self.brain, self.journal)))

    # --- the log ----------------------------------------------------------------------------------------------------------------------

    def hears(self, reported: Reported | None, held: int) -> bool:
        """Whether there is anybody to take a fact who has not heard it before."""
        if self.lost_ns is not None:
            return False
        if reported is None:
            return True
        self.journal.held(reported.replica, held)
        return not self.journal.knows(reported)

    def note(self, entry: Entry, commands: Iterable[p.Command]) -> None:
        """Log an event; what the shards are told of it travels with the log."""
        self.journal.note(entry)
        batches = tuple(command for command in commands if isinstance(command, p.Batch))
        if batches or any(isinstance(command, p.Compute | p.Cut | p.Abandon | p.Reattach) for command in commands):
            self._send(batches)
        elif not self._flushing:
            self._flushing = True
            self._clock.at(self._clock.now_ns + FLUSH_NS, TIMER, NOBODY, partial(self._flush, self.incarnation))

    def _flush(self, incarnation: int) -> None:
        if incarnation == self.incarnation and self.lost_ns is None:
            self._flushing = False
            self._send(())

    def _send(self, batches: tuple[p.Batch, ...]) -> None:
        first, entries = self.journal.take()
        page = p.Page(first, self.journal.stop, entries) if entries else None
        base = self._base_to_send()
        for replica in self.brain.shards.listeners:
            mine = tuple(batch for batch in batches if replica in self.brain.shards.recipients(batch))
            told = p.Told(self.brain.shards.epoch, self.journal.stop, mine, page, self.journal.heard, base)
            self._hosts.told(told, [replica], self.speaks(self.incarnation))

    def _base_to_send(self) -> p.Base | None:
        if self._base is not None and self.journal.safe(self.brain.shards.live) >= self._base.at:
            base, self._base = self._base, None
            return base
        if self._base is None and self.journal.stop - self._base_at >= self._base_every:
            self._base, self._base_at = self._freeze(), self.journal.stop
        return None

    def speaks(self, incarnation: int) -> Alive:
        """Whether that coordinator lives; what it had on its way when it died arrives or not."""
        return lambda: incarnation == self.incarnation

    # --- death and takeover -----------------------------------------------------------------------------------------------------------

    def lose(self, back_ns: int) -> None:
        """The coordinator is gone; another one stands `back_ns` later."""
        self.incarnation += 1
        self.lost_ns = self._clock.now_ns if self.lost_ns is None else self.lost_ns
        self._clock.at(self._clock.now_ns + back_ns, MESSAGE, NOBODY, partial(self._fence, self.incarnation))

    def _fence(self, incarnation: int) -> None:
        """Let nobody obey the lost one from here on, and see where all stand."""
        if incarnation != self.incarnation:
            return
        machines = [host.machine for host in self._hosts.all.values() if host.alive]
        epoch = 1 + max((machine.epoch for machine in machines), default=0)
        standings = []
        for machine in machines:
            standings.append(Standing(machine.replica, machine.epoch, machine.log.stop, machine.next_seq))
            machine.handle(Fenced(epoch))
        # A moment passes in which more may die.
        self._clock.at(self._clock.now_ns + ns(0.001), MESSAGE, NOBODY, partial(self._replay, incarnation, epoch, standings))

    def _replay(self, incarnation: int, epoch: int, standings: list[Standing]) -> None:
        if incarnation != self.incarnation:
            return
        standings = [standing for standing in standings if self._hosts.all[standing.replica].alive]
        logs = [standing for standing in standings if self._hosts.all[standing.replica].machine.log.base is not None]
        if not logs:
            self._hopeless()
            return
        log = self._hosts.all[longest(logs).replica].machine.log
        assert log.base is not None
        self.brain, self.journal = cloudpickle.loads(log.base.content)
        takeover = Takeover(self.brain, self.journal, standings)
        takeover.replay(chain.from_iterable(_entries(page, log.base.at) for page in log.pages))
        assert self.lost_ns is not None
        absent_ns, self.lost_ns = self._clock.now_ns - self.lost_ns, None
        self._base, self._base_at, self._flushing = None, self.journal.stop, False
        self.num_takeovers += 1
        for replica, told in takeover.words(epoch, log.base, lambda first, entries: p.Page(first, first + len(entries), entries)):
            self._hosts.told(told, [replica], self.speaks(self.incarnation))
        self._took_over(takeover, epoch, absent_ns)


def _entries(page: p.Page, start: int) -> Iterable[Entry]:
    """Those of a page from number `start` on."""
    entries: tuple[Entry, ...] = page.content[max(0, start - page.first) :]
    return entries
