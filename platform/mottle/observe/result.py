"""What a run leaves in `result.json`: a tree of frozen dataclasses with a version, checked when it is read.

Fields and their meaning are public: other programs read this file. A field that is added keeps the format number, one
that changes or goes raises it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

import pydantic
from pydantic.dataclasses import dataclass

from mottle.observe.snapshot import UpdateCounts
from mottle.storage.folder import Folder

RESULT_FILE = "result.json"
RESULT_FORMAT = 1

_STRICT = pydantic.ConfigDict(extra="forbid", strict=True)
_ACCOUNTING_SLACK_S = 0.05  # two clocks of one host, read one after the other


class ResultFormatError(ValueError):
    """A `result.json` that is not of the published shape."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EpochResult:
    """How the samples of one pass over the data ended."""

    index: int
    applied: int
    unselected: int
    rejected: int
    missed: int
    """Samples of the pass that were never spent; more than 0 only where the run ended before the pass did: the last one; the one before,
    since a strategy without barriers begins a pass while the tail of the last is still with the workers; and those of which a strategy
    still kept an update."""
    repeated: int
    """Samples spent more than once; anything but 0 is a bug."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class WorkerResult:
    """One worker's stay. Times are seconds since the run began."""

    id: str
    device: str
    joined_s: float
    left_s: float | None
    """None when it stayed to the end."""
    left_reason: str | None
    samples: int
    """Samples of its acknowledged updates, whatever became of them."""
    accepted: int
    rejected: int
    discarded: int
    unselected: int = 0
    quarantines: int = 0
    """Times that it got no work for a while."""
    quarantined_for: str = ""
    """Why, the last time; empty where it was taken back for good."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class WorkerAccounting:
    """Where a worker's time went; the five parts add up to the time it was present."""

    useful_s: float
    """Computing updates that were accepted or left unselected."""
    waiting_s: float
    """Not computing: waiting for work, parameters or others."""
    stale_s: float
    """Computing updates that were discarded."""
    rejected_s: float
    """Computing updates that were rejected."""
    redone_s: float
    """Computing what an earlier loss made necessary again."""

    @property
    def present_s(self) -> float:
        return self.useful_s + self.waiting_s + self.stale_s + self.rejected_s + self.redone_s


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PeakRss:
    """Largest resident memory of one process of each kind, bytes; None where it was not measured."""

    coordinator: int | None = None
    shard: int | None = None
    worker: int | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RunResult:
    """The end of a run in numbers."""

    run: str
    strategy: str
    codec: str
    stopped: str
    """Why it ended, as a sentence."""
    metrics: Mapping[str, float | None]
    """Last values; None where a metric was not a finite number. Names ending in `accuracy` are shares of one."""
    samples: int
    versions: int
    updates: UpdateCounts
    epochs: tuple[EpochResult, ...]
    workers: tuple[WorkerResult, ...]
    accounting: Mapping[str, WorkerAccounting]
    """By worker id."""
    wall_s: float
    peak_rss_bytes: PeakRss = field(default_factory=PeakRss)
    notes: tuple[str, ...] = ()
    failed: bool = False
    """It could not go on; `stopped` says why."""
    format: int = RESULT_FORMAT

    def problems(self) -> list[str]:
        """What contradicts itself in these numbers, as sentences; empty for a run that kept its invariants."""
        return [*self._update_problems(), *self._epoch_problems(), *self._accounting_problems()]

    def _update_problems(self) -> list[str]:
        found = []
        if self.updates.lost:
            found.append(f"{self.updates.lost} acknowledged updates were lost")
        if self.updates.duplicated:
            found.append(f"{self.updates.duplicated} updates were applied more than once")
        for verdict in ("accepted", "unselected", "rejected", "discarded"):
            total, listed = getattr(self.updates, verdict), sum(getattr(worker, verdict) for worker in self.workers)
            if total != listed:
                found.append(f"{total} updates are counted as {verdict}, but the workers' rows add up to {listed}")
        return found

    def _epoch_problems(self) -> list[str]:
        found = [f"epoch {epoch.index} used {epoch.repeated} samples more than once" for epoch in self.epochs if epoch.repeated]
        incomplete = [epoch for epoch in self.epochs if epoch.missed]
        if self.stopped == "samples":
            unfinished = max((epoch.index for epoch in self.epochs), default=0) - 1 - self.updates.in_flight
            incomplete = [epoch for epoch in incomplete if epoch.index < unfinished]
        else:  # two may be open, however far apart: a silent worker's order keeps one open while others pass. Kept updates open more.
            incomplete = incomplete[: max(0, len(incomplete) - 2 - self.updates.in_flight)]
        found += [f"epoch {epoch.index} ended with {epoch.missed} samples unused" for epoch in incomplete]
        return found

    def _accounting_problems(self) -> list[str]:
        found = []
        for worker in self.workers:
            present_s = (self.wall_s if worker.left_s is None else worker.left_s) - worker.joined_s
            if (parts := self.accounting.get(worker.id)) is None:
                found.append(f"worker {worker.id} has no accounting")
            elif abs(parts.present_s - present_s) > max(_ACCOUNTING_SLACK_S, 0.01 * present_s):
                found.append(f"worker {worker.id} was present for {present_s:.2f} s, but its accounting adds up to {parts.present_s:.2f} s")
        strangers = sorted(self.accounting.keys() - {worker.id for worker in self.workers})
        return found + [f"accounting names {id_}, which is not among the workers" for id_ in strangers]


_ADAPTER = pydantic.TypeAdapter(RunResult)


def result_to_json(result: RunResult) -> str:
    """JSON text of at most one value a line; a metric that is not finite becomes null."""
    tree = asdict(result)
    tree["metrics"] = {name: value if value is not None and math.isfinite(value) else None for name, value in result.metrics.items()}
    return json.dumps(tree, indent=1, allow_nan=False) + "\n"


def result_from_json(text: str) -> RunResult:
    """The inverse of `result_to_json`.

    Raises:
        ResultFormatError: naming every field that is missing, unknown or of a wrong type.
    """
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ResultFormatError(f"{RESULT_FILE} is not JSON: {error}") from error
    found = tree.get("format") if isinstance(tree, dict) else None
    if found != RESULT_FORMAT:
        raise ResultFormatError(f"wanted a result of format {RESULT_FORMAT}, got {found!r}; read it with the Mottle that wrote it")
    try:
        return _ADAPTER.validate_json(text)
    except pydantic.ValidationError as error:
        faults = (f"{'.'.join(str(step) for step in fault['loc'])}: {fault['msg']}" for fault in error.errors())
        raise ResultFormatError(f"{RESULT_FILE} does not fit format {RESULT_FORMAT}:\n  " + "\n  ".join(faults)) from error


def write_result(where: str | Path | Folder, result: RunResult) -> None:
    """Writes `result.json` into a run's folder, whole or not at all."""
    Folder.at(where).write_text(RESULT_FILE, result_to_json(result))


def read_result(where: str | Path | Folder) -> RunResult | None:
    """The result of a run; None when it has not ended."""
    folder = Folder.at(where)
    return result_from_json(folder.read_text(RESULT_FILE)) if folder.has(RESULT_FILE) else None


def result_schema() -> dict[str, Any]:
    """JSON Schema of `result.json`."""
    return _ADAPTER.json_schema()
