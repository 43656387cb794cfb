"""Replacing the model of a run that goes on: by one of another run, as population-based training does it, and renewing its strategy.

What is to come is fetched by every replica while training goes on; only when all hold it, at a place where no step is under way, does the
run break with what it has in hand: orders are abandoned and undecided updates discarded, for they belong to another lineage, and their
samples are free again. The version that follows has the next lineage and the next number. Should a replica not get its range, nothing has
changed. A change of the strategy's settings is the same break without a new model. Going back to a version that the shards have retained is
the same with nothing to fetch; it comes before whatever else is wanted, for what follows would be the loss of what was retained.

Knows no strategy: `Brain` puts a fresh one in the place of the old one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mottle.core import protocol as p
from mottle.core.effects import Effects
from mottle.core.shards import ShardMap

FETCHED = "fetched/"
"""Names of fetched models begin so."""


@dataclass(slots=True)
class Replacement:
    """One that is asked for. Without a name only settings change."""

    name: str
    settings: Mapping[str, Any]
    retained: bool = False
    """The shards hold it, as one of this run's own versions."""
    answers: dict[p.ReplicaId, str] = field(default_factory=dict)


class Replacing:
    """Replacements in the order in which they were asked for, one at a time."""

    def __init__(self, shards: ShardMap, effects: Effects) -> None:
        self._shards = shards
        self._effects = effects
        self._waiting: list[tuple[p.ReplaceAsked | None, Mapping[str, Any]]] = []
        self._pending: Replacement | None = None
        self._back: Replacement | None = None
        self._num_fetched = 0
        self.under_way: Replacement | None = None
        """The shards were told: nothing is lent until they have made the version."""

    @property
    def busy(self) -> bool:
        """Whether one is wanted."""
        return bool(self._waiting or self._pending or self._back or self.under_way)

    @property
    def reverting(self) -> bool:
        """Whether the run is to go back to a version of its own."""
        return self._back is not None

    @property
    def fetching(self) -> bool:
        """Whether replicas hold, or are getting, what a newcomer's donor could not hand over."""
        return self._pending is not None and bool(self._pending.name)

    def ask(self, event: p.ReplaceAsked) -> None:
        self._waiting.append((event, event.settings))

    def renew(self, settings: Mapping[str, Any]) -> None:
        """Settings that only a fresh strategy can take up."""
        self._waiting.append((None, settings))

    def revert(self, name: str) -> None:
        """Go back to what the shards retain as `name`."""
        self._back = Replacement(name, {}, retained=True)

    def begin(self, *, may_fetch: bool) -> bool:
        """Take up the next one, if none is under way. Whether one was.

        Args:
            may_fetch: whether every replica can be told, and no newcomer is being handed what another one holds.
        """
        if self._pending is not None or self.under_way is not None or not self._waiting:
            return False
        event, settings = self._waiting[0]
        if event is not None and not may_fetch:
            return False
        del self._waiting[0]
        if event is None:
            self._pending = Replacement("", settings)
            return True
        self._num_fetched += 1
        self._pending = Replacement(f"{FETCHED}{self._num_fetched}", settings)
        self._shards.tell(p.Fetch(self._pending.name, event.source))
        return True

    def fetched(self, event: p.Fetched) -> None:
        if self._pending is not None and event.name == self._pending.name:
            self._pending.answers[event.replica] = event.error

    def cancel(self) -> str | None:
        """Want no other model any more. The name of what was being fetched, which may be empty; None if nothing was pending."""
        self._waiting.clear()
        pending, self._pending = self._pending, None
        return None if pending is None else pending.name

    def take_failed(self) -> tuple[str, str] | None:
        """(name, reason) of one that cannot be."""
        pending = self._pending
        error = "" if pending is None else next((each for each in pending.answers.values() if each), "")
        if pending is None or not error:
            return None
        self._pending = None
        return pending.name, error

    @property
    def ready(self) -> Replacement | None:
        """One that only waits for its place."""
        if self._back is not None:
            return self._back
        pending = self._pending
        if pending is None or (pending.name and not self._shards.covered_by(set(pending.answers))):
            return None
        return pending

    def start(self) -> Replacement:
        """Its place has come."""
        if self._back is not None:
            self.under_way, self._back = self._back, None
            return self.under_way
        assert self._pending is not None
        self.under_way, self._pending = self._pending, None
        return self.under_way

    def end(self) -> Replacement:
        """It is done."""
        assert self.under_way is not None
        done, self.under_way = self.under_way, None
        return done
