"""What a simulation counts while it runs: each worker's time, updates and bytes, and how the run came along."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mottle.core import protocol as p

MOST_KEPT = 200_000
"""Spans, about 30 MB of them: more than anybody looks at."""

Doing = Literal["pull", "compute", "push", "pause"]


class Span(NamedTuple):
    """What a worker did from when to when."""

    slot: int
    doing: Doing
    start_ns: int
    stop_ns: int
    work_id: int


class Judged(NamedTuple):
    """An update's end."""

    slot: int
    now_ns: int
    verdict: str
    reason: str
    staleness: int
    work_id: int
    samples: int


class Mark(NamedTuple):
    """Something that a person wants to see in the picture: who came, who went."""

    now_ns: int
    kind: str
    text: str


class Point(NamedTuple):
    """One evaluation."""

    now_ns: int
    samples: int
    version: int
    metrics: Mapping[str, float]


@dataclass(slots=True)
class WorkerTally:
    """One worker. Times in nanoseconds of the virtual clock."""

    name: str
    group: str
    price_per_hour: float
    joined_ns: int
    left_ns: int | None = None
    why_left: str = ""
    compute_ns: int = 0
    samples: int = 0
    """Of its updates that were accepted or left unselected."""
    staleness_sum: int = 0
    """Of the same updates."""
    verdicts: dict[str, int] = field(default_factory=lambda: {"accepted": 0, "unselected": 0, "rejected": 0, "discarded": 0})


@dataclass
class Tally:
    """Counts of a run. With `trace` the spans and verdicts are kept too, until there are `MOST_KEPT` of either."""

    trace: bool = False
    workers: dict[int, WorkerTally] = field(default_factory=dict)
    num_versions: int = 0
    points: list[Point] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)

    def span(self, slot: int, doing: Doing, start_ns: int, stop_ns: int, work_id: int) -> None:
        """Keep it, where spans are kept."""
        if self.trace and stop_ns > start_ns and len(self.spans) < MOST_KEPT:
            self.spans.append(Span(slot, doing, start_ns, stop_ns, work_id))

    def note(self, command: p.Command, now_ns: int) -> None:
        """Count a command of the brain."""
        match command:
            case p.Verdict():
                self._judge(command, now_ns)
            case p.Published():
                self.num_versions += 1
            case p.Notice(kind, text) if kind not in ("joined", "checkpoint"):
                self.marks.append(Mark(now_ns, kind, text))

    def _judge(self, verdict: p.Verdict, now_ns: int) -> None:
        worker = self.workers.get(verdict.worker)
        if worker is None:
            return  # of a run that this one goes on from
        worker.verdicts[verdict.verdict] += 1
        if verdict.verdict in ("accepted", "unselected"):
            worker.samples += verdict.samples
            worker.staleness_sum += verdict.staleness
        if self.trace and len(self.judged) < MOST_KEPT:
            self.judged.append(
                Judged(verdict.worker, now_ns, verdict.verdict, verdict.reason, verdict.staleness, verdict.work_id, verdict.samples)
            )
