"""What a new coordinator does where another one was lost: the same in the simulator and on live processes.

1. *Fence.* Every replica is told the new epoch, above all earlier ones, and obeys no smaller one from then on; it says where it stands.
2. *Replay.* The longest log there is, from its base on, gives the brain back, and with it every batch that any replica may have run: none
   runs a batch whose log it does not hold, and logs differ in their length alone.
3. *Catch up.* The brain hears `TookOver` and what happened to processes meanwhile. Every replica gets the part of the log and the batches
   that it lacks, and repeats the reports of which the log knows nothing. Workers are told which orders are open, timers are set again, the
   validator is asked again (`Brain._on_took_over`).

From there on it is as if the coordinator had only been slow. A takeover that is cut short by another death is begun anew by the next one.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from mottle.core import protocol as p
from mottle.core.brain import Brain
from mottle.core.errors import MottleError
from mottle.core.journal import Entry, Journal

ATTEMPTS = 10
"""Takeovers in a row that nothing but another one follows: whatever ends the coordinator then would end the next one too."""


class TakeoverError(MottleError):
    """Nobody can go on from what is left."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a replica stands when it has been fenced."""

    replica: p.ReplicaId
    epoch: int
    """Before that."""
    log_stop: int
    next_seq: int


def longest(standings: Iterable[Standing]) -> Standing:
    """Whose log to go on from."""
    return max(standings, key=lambda standing: (standing.log_stop, standing.replica))


@dataclass
class Takeover:
    """One takeover, from the brain as its base has it.

    Args:
        brain, journal: what the base held, or what a run begins with.
        standings: of all replicas that answered.
    """

    brain: Brain
    journal: Journal
    standings: Collection[Standing]
    entries: list[Entry] = field(default_factory=list)
    """Replayed, from number `first` on."""
    batches: dict[int, p.Batch] = field(default_factory=dict)
    """That they led to, by number."""

    def __post_init__(self) -> None:
        self.first = self.journal.stop

    def replay(self, entries: Iterable[Entry], each: Callable[[Entry, list[p.Command]], None] = lambda entry, commands: None) -> None:
        """Give the log from the base on to the brain; what it says is known to the world already.

        Raises:
            TakeoverError: one coordinator after the other was lost at once.
        """
        for entry in entries:
            commands = self.brain.handle(entry.event, now_ns=entry.now_ns)
            self.journal.recall(entry)
            self.entries.append(entry)
            self.batches |= {command.seq: command for command in commands if isinstance(command, p.Batch)}
            each(entry, commands)
        if len(self.entries) >= ATTEMPTS and all(isinstance(entry.event, p.TookOver) for entry in self.entries[-ATTEMPTS:]):
            raise TakeoverError(f"the coordinator was lost {ATTEMPTS} times in a row as soon as it was back; its log says of what it died")

    def missed(self, workers: Mapping[int, p.Joined], died: Mapping[int, str]) -> list[p.Event]:
        """What happened to processes while nobody listened, as far as it shows now.

        Args:
            workers: those who live, as they would say it.
            died: why others no longer do, where that is known.
        """
        brain = self.brain
        here = [member.slot for member in brain.members.all if member.state != "left"]
        gone = [p.Left(slot, died.get(slot, "died while the coordinator was lost"), died=True) for slot in here if slot not in workers]
        came = [workers[slot] for slot in sorted(workers) if brain.members.known(slot) is None]
        reached = {standing.replica for standing in self.standings if self._can_catch_up(standing)}
        lost = [p.ReplicaLost(replica, "died while the coordinator was lost") for replica in sorted(brain.replicas - reached)]
        return [*lost, *gone, *came]

    def _can_catch_up(self, standing: Standing) -> bool:
        """Whether what it lacks is in the replayed log, or comes to it from its donor."""
        shards = self.brain.shards
        if standing.replica not in shards.listeners:
            return True
        needs_log = standing.replica in shards.live
        needs_seq = max(standing.next_seq, shards.first_seq(standing.replica))
        return (standing.log_stop >= self.first or not needs_log) and (needs_seq >= min(self.batches, default=0) or not self.batches)

    def words(self, epoch: int, base: p.Base, page_of: Callable[[int, tuple[Entry, ...]], p.Page]) -> list[tuple[p.ReplicaId, p.Told]]:
        """What the new coordinator says first, and to whom: what each lacks, and that it is to repeat what the log does not show.

        A newcomer whose donor has handed over is asked to repeat as well, though all else comes to it from the donor: that it is ready may
        have been said to nobody.
        """
        said = []
        for standing in self.standings:
            if standing.replica in self.brain.shards.listeners:
                first, entries, batches = self.lacking(standing)
                page = page_of(first, entries) if entries else None
                told = p.Told(epoch, self.journal.stop, batches, page, self.journal.heard, base, again=True)
            elif standing.replica in self.brain.replicas:
                told = p.Told(epoch, again=True)
            else:
                continue
            said.append((standing.replica, told))
        return said

    def lacking(self, standing: Standing) -> tuple[int, tuple[Entry, ...], tuple[p.Batch, ...]]:
        """(first entry, entries, batches) of the replayed log that a replica does not have, and does not get from a donor."""
        first = max(standing.log_stop, self.first)
        since = max(standing.next_seq, self.brain.shards.first_seq(standing.replica))
        batches = tuple(batch for seq, batch in sorted(self.batches.items()) if seq >= since)
        return first, tuple(self.entries[first - self.first :]), batches
