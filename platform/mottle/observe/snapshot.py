"""What a user sees of a run at one moment, as plain frozen data.

The display, the notebook view and the plain log lines are functions of these classes and of nothing else: whoever
watches a run (the live shell, an attached notebook, the simulator, a test) builds a `Snapshot` and hands it over.
All times are seconds since the run began; all sample counts are exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from mottle.core.ledger import UpdateCounts as UpdateCounts

EventKind = Literal[
    "joined",
    "left",
    "killed",
    "rejected_streak",
    "overdue",
    "back",
    "straggler",
    "quarantined",
    "probation",
    "readmitted",
    "corruption",
    "draining",
    "checkpoint",
    "replica",
    "coordinator",
    "replaced",
    "undone",
    "configured",
    "planned",
    "batch",
    "warning",
    "finished",
]
EVENT_KINDS: tuple[str, ...] = get_args(EventKind)

Verdict = Literal["accepted", "unselected", "rejected", "discarded"]
VERDICTS: tuple[str, ...] = get_args(Verdict)


@dataclass(frozen=True, kw_only=True)
class WorkerRow:
    """One worker: its present state and its totals so far."""

    id: str
    device: str
    state: str
    """One word: joining, computing, waiting, overdue, paused, quarantined, probation, leaving, left, killed; other words are shown as they
    are."""
    samples: int
    samples_per_s: float
    """Recent speed, not the mean of the run."""
    staleness: float | None
    """Versions between the base of its latest update and the version it met; None before the first."""
    accepted: int = 0
    unselected: int = 0
    rejected: int = 0
    discarded: int = 0
    why: str = ""
    """What it is kept from work for, in quarantine and on probation."""


@dataclass(frozen=True, kw_only=True)
class RunEvent:
    """One thing that happened, told in one line."""

    t_s: float
    kind: EventKind
    text: str
    worker: str | None = None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A run at one moment."""

    run: str
    strategy: str
    codec: str
    samples: int
    """Samples spent for good: applied, unselected or rejected."""
    total_samples: int | None
    """Where the run will stop; None when it stops by time or by a metric."""
    epoch: int
    """Pass over the data, from 0."""
    version: int
    wall_s: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Latest values; names ending in `accuracy` are shares of one."""
    workers: tuple[WorkerRow, ...] = ()
    events: tuple[RunEvent, ...] = ()
    """In order. A long run may carry only the latest ones: see `events_before`."""
    events_before: int = 0
    """Events that happened before the first of `events` and are no longer carried."""
    updates: UpdateCounts = field(default_factory=UpdateCounts)
    notes: tuple[str, ...] = ()
    """Standing remarks the user must see, such as a rule without a gate."""
