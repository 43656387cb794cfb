"""How the other actors of a run tell its coordinator what happened.

A coordinator's process serves one run after another, so what comes through Ray says which run it is of: words of an earlier one, under
way while the next begins, are not taken for its own. Lines belong to one run by themselves.
"""

from typing import Any, NamedTuple

from mottle.actors.lines import Line
from mottle.actors.way import Way
from mottle.core import protocol as p


class RunHandle(NamedTuple):
    """A coordinator's actor and one of its runs."""

    coordinator: Any
    run: str

    def log(self, name: str, data: bytes) -> None:
        """Send what is to be added to the log of that name."""
        self.coordinator.log.remote(self.run, name, data)


class Reports:
    """A process's way to the coordinator of its run.

    Args:
        line: None where Ray has to carry everything.
    """

    def __init__(self, to: RunHandle, line: Line | None = None) -> None:
        self.to = to
        self._line = line
        self._way = Way(to.coordinator, line)

    def attach(self, line: Line | None) -> None:
        """Another process coordinates the run: talk to that."""
        self._line = line
        self._way = Way(self.to.coordinator, line)

    def over(self, line: Line) -> bool:
        """Whether this is the line that the reports go over."""
        return line is self._line

    def tell(self, events: list[p.Event]) -> None:
        self._way.tell("events", events, self.to.run)

    def say(self, replica: p.ReplicaId, held: int, said: list[tuple[int, p.Report]]) -> None:
        """A shard's numbered reports, with how much of the log it holds."""
        self._way.tell("reports", replica, held, said, self.to.run)
