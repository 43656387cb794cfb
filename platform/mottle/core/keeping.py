"""What a replica keeps for the day on which the coordinator is lost: the coordinator's log, and what it was told last itself.

The log is kept in pages as they came, and rests on a base that makes the pages before it superfluous. A report is kept until the log that
is held here shows that it was heard. Knows neither what an entry nor what a base says.
"""

from collections import deque
from dataclasses import dataclass, field, replace

from mottle.core.protocol import Base, Page, ReplicaId, Report


@dataclass(slots=True)
class KeptLog:
    """Entries [start, stop) of the log, without a gap, and the base under them."""

    base: Base | None = None
    pages: list[Page] = field(default_factory=list)
    stop: int = 0
    _early: dict[int, Page] = field(default_factory=dict)
    """Pages by their first entry, that came before the one in front of them."""

    @property
    def start(self) -> int:
        """The first entry that is here itself."""
        return self.pages[0].first if self.pages else self.stop

    def add(self, page: Page | None) -> list[Page]:
        """Take a page; one that was there before is nothing new. The pages that go on where the log ended."""
        if page is not None and page.stop > self.stop:
            self._early[page.first] = page
        new = []
        while (following := self._early.pop(self.stop, None)) is not None:
            self.pages.append(following)
            self.stop = following.stop
            new.append(following)
        return new

    def rest_on(self, base: Base | None) -> None:
        """Let go of pages that a base makes superfluous, if all of them are here."""
        if base is None or base.at > self.stop or (self.base is not None and base.at <= self.base.at):
            return
        self.base = base
        self.pages = [page for page in self.pages if page.stop > base.at]

    def forget_early(self) -> None:
        """What does not go on where the log ends was said by a coordinator that is replaced."""
        self._early.clear()

    def copy(self) -> "KeptLog":
        return replace(self, pages=list(self.pages), _early={})


class Outbox:
    """Reports of a replica, numbered from 1, until they are known to be in the log.

    Args:
        keeping: whether anybody will say so.
    """

    def __init__(self, replica: ReplicaId, *, keeping: bool) -> None:
        self._replica = replica
        self._keeping = keeping
        self._last = 0
        self.kept: deque[tuple[int, Report]] = deque()
        """(number, report), oldest first."""

    def put(self, report: Report) -> int:
        """Number of a report that is about to be sent."""
        self._last += 1
        if self._keeping:
            self.kept.append((self._last, report))
        return self._last

    def heard(self, numbers: tuple[tuple[ReplicaId, int], ...]) -> None:
        """Every replica's reports up to these numbers are in the log."""
        upto = dict(numbers).get(self._replica, 0)
        while self.kept and self.kept[0][0] <= upto:
            self.kept.popleft()
