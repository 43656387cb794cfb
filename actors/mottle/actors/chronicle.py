"""The record of a run while it happens: the event log, the tables of the run's folder, and what the display sees.

The brain's thread only hands facts over; a writer thread turns them into rows and touches storage, so slow or full storage never holds up
training. Everything shown is read from the brain's own books.
"""

import math
import os
import queue
import socket
import threading
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from mottle.actors.job import Job, Resumption
from mottle.core import protocol as p
from mottle.core import wire
from mottle.core.brain import Brain
from mottle.core.members import Member
from mottle.observe.events import EventLog, last_event
from mottle.observe.heartbeat import EVERY_S, HEARTBEAT_FILE, Heartbeat, write_heartbeat
from mottle.observe.record import RunRecord
from mottle.observe.result import EpochResult, PeakRss, RunResult, WorkerAccounting, WorkerResult, write_result
from mottle.observe.snapshot import EVENT_KINDS, RunEvent, Snapshot, WorkerRow
from mottle.storage import Folder

FLUSH_EVERY_S = 1.0
SPEED_WINDOW_S = 5.0
EVENTS_SHOWN = 200


class _Seen(NamedTuple):
    """An event and what it led to."""

    seq: int
    now_ns: int
    event: p.Event
    commands: list[p.Command]
    measured: bool
    """Whether it brings metrics that were not heard before."""


_REMEMBERED = (
    "first_seq", "_seq", "reports", "failure", "_notes", "_metrics", "_notices", "_num_notices", "_recent", "_places", "_samples_of",
    "_awaited", "_finished",
)  # fmt: skip
"""Fields that an event may change."""


class Chronicle:
    """One run's record.

    Args:
        job: for names and the run's folder.
        brain: whose books are shown.
        notes: standing remarks for whoever watches.
        resumption: for a run that goes on: what was recorded after its checkpoint is dropped.
        memory: what the chronicle of a lost coordinator had in mind, to go on from; the record on storage is as far as it is.
    """

    def __init__(
        self, job: Job, brain: Brain, notes: list[str], resumption: Resumption | None = None, memory: Mapping[str, Any] | None = None
    ) -> None:
        self._job = job
        self._brain = brain
        self._notes = tuple(notes)
        self.reports: list[dict[str, float]] = []
        """One merged dict of metrics for each evaluation."""
        self.failure = ""
        """Why the run could not go on."""
        self._storage: tuple[RunRecord, EventLog] | None = None
        """Opened by the writer's thread where a lost coordinator's is gone on with."""
        if memory is None:
            self._storage = self._open_resumed(resumption)
        self._metrics: dict[str, float] = {}
        self._notices: deque[RunEvent] = deque(maxlen=EVENTS_SHOWN)
        self._num_notices = 0
        self._recent: dict[int, deque[tuple[int, int]]] = defaultdict(deque)
        self.first_seq = self._seq = 0 if resumption is None else resumption.log_seq + 1
        self._places: dict[int, int] = {}
        self._samples_of: dict[int, int] = {}
        """Samples spent when the evaluation of a version was asked for: it answers later."""
        self._awaited: set[int] = set()
        """Versions whose evaluation was asked for and has not come."""
        self.safe: Callable[[], float] = lambda: math.inf
        """Number of the first event that may yet be lost with its coordinator: it is not recorded, nor what comes after it."""
        self.recorded = self._seq
        """Number of the first event that is not on storage."""
        self._drained = self._seq
        self._due: deque[_Seen] = deque()
        self._finished = ""
        self._trouble = ""
        self._beat_s = -EVERY_S
        self._inbox: queue.SimpleQueue[_Seen] = queue.SimpleQueue()
        self._ended = threading.Event()
        for name, value in (memory or {}).items():
            setattr(self, name, value)
        self._writer = threading.Thread(target=self._write, name="chronicle", daemon=True)
        self._writer.start()

    @property
    def metrics(self) -> dict[str, float]:
        """Latest values."""
        return dict(self._metrics)

    def note(self, text: str) -> None:
        """A standing remark for whoever watches."""
        self._notes = (*self._notes, text)

    def place_of(self, checkpoint: int) -> int:
        """Number of the event at which the checkpoint was taken: what the log says later is not part of it."""
        return self._places[checkpoint]

    def memory(self) -> dict[str, Any]:
        """What another one must have in mind to go on from here, beside what is on storage."""
        return {name: getattr(self, name) for name in _REMEMBERED}

    # --- in ---------------------------------------------------------------------------------------------------------------------------

    def saw(self, event: p.Event, commands: list[p.Command], now_ns: int) -> None:
        """An event that the brain took and what it answered."""
        measured = False
        if isinstance(event, p.Evaluated) and not event.trusted and event.version.number in self._awaited:  # else it was heard before
            self._awaited.discard(event.version.number)
            self._metrics.update(event.metrics)
            if measured := bool(event.metrics):
                self.reports.append(
                    {
                        **event.metrics,
                        "samples": self._samples_of.get(event.version.number, 0),
                        "version": event.version.number,
                        "time_s": now_ns / 1e9,
                    }
                )
        for command in commands:
            match command:
                case p.Verdict(worker=worker, samples=samples, verdict=verdict) if verdict != "discarded":
                    self._recent[worker].append((now_ns, samples))
                case p.Notice(kind, text, slot):
                    known: Any = kind if kind in EVENT_KINDS else "warning"
                    self._notices.append(RunEvent(t_s=now_ns / 1e9, kind=known, text=text, worker=_name(slot)))
                    self._num_notices += 1
                case p.Evaluate(version, trusted=False):
                    self._samples_of.setdefault(version.number, self._brain.samples)
                    self._awaited.add(version.number)
                case p.SaveModel(checkpoint):
                    self._places[checkpoint] = self._seq
                case p.Finished(reason, failed):
                    self._finished = reason
                    self.failure = reason if failed else ""
        self._inbox.put(_Seen(self._seq, now_ns, event, commands, measured))
        self._seq += 1

    def broke(self, text: str, now_ns: int) -> None:
        """A bug of ours ends the run: whoever watches is told why."""
        self.failure = text
        self._notices.append(RunEvent(t_s=now_ns / 1e9, kind="warning", text=text))
        self._num_notices += 1

    # --- storage ----------------------------------------------------------------------------------------------------------------------

    def _open_resumed(self, resumption: Resumption | None) -> tuple[RunRecord, EventLog]:
        if resumption is None:
            return RunRecord(self._job.run_dir), EventLog(self._job.run_dir)
        record = RunRecord(self._job.run_dir, resume_at_s=resumption.brain["now_ns"] / 1e9)
        return record, EventLog(self._job.run_dir, resume_after=resumption.log_seq)

    def _open_again(self) -> tuple[RunRecord, EventLog]:
        """Go on where a lost coordinator's record ends: its log is written last, so the tables may be ahead of that, and what they have
        beyond it is told anew."""
        last = last_event(self._job.run_dir)
        record = RunRecord(self._job.run_dir, resume_at_s=-1.0 if last is None else last.now_ns / 1e9)
        self.recorded = self.first_seq if last is None else last.seq + 1
        return record, EventLog(self._job.run_dir)

    def _write(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(FLUSH_EVERY_S)  # nothing comes after that
            try:
                if self._storage is None:
                    self._storage = self._open_again()
                self._drain(self._storage, all_of_it=ended)
            except OSError as error:
                self._told_trouble(error)
                continue
            except Exception as error:
                # A bug of ours: training goes on, but whoever watches must know that the record has a hole.
                traceback.print_exc()
                self.note(f"an event could not be recorded ({type(error).__name__}: {error})")
                continue
            try:
                record, log = self._storage
                drained = self._drained
                record.flush()
                log.flush()
                self.recorded = max(drained, self.recorded)
                self._beat()
                self._trouble = ""
            except OSError as error:
                self._told_trouble(error)

    def _told_trouble(self, error: OSError) -> None:
        self._trouble = f"the record cannot be written ({error}); training goes on and it is tried again"

    def _beat(self) -> None:
        """Leave a sign of life, now and then."""
        if time.monotonic() - self._beat_s >= EVERY_S:
            beat = Heartbeat(unix_s=time.time(), every_s=EVERY_S, host=socket.gethostname(), pid=os.getpid())
            write_heartbeat(Folder.at(self._job.run_dir), beat)
            self._beat_s = time.monotonic()

    def _drain(self, storage: tuple[RunRecord, EventLog], *, all_of_it: bool) -> None:
        """Turn what arrived within a flush interval into rows, all at once: a thread that woke for each would hold up the brain's. What may
        yet be lost with the coordinator waits."""
        with suppress(queue.Empty):
            while True:
                self._due.append(self._inbox.get_nowait())
        safe = self.safe()
        while self._due and (all_of_it or self._due[0].seq < safe):
            seen = self._due.popleft()
            if seen.seq >= self.recorded:
                self._note(*storage, seen)
            self._drained = seen.seq + 1

    def _note(self, record: RunRecord, log: EventLog, seen: "_Seen") -> None:
        seq, now_ns, event, commands, measured = seen
        t_s = now_ns / 1e9
        log.append(seq, now_ns, type(event).__name__, wire.encode(event))
        if measured:
            assert isinstance(event, p.Evaluated)
            record.measured(
                t_s=t_s, samples=self._samples_of.get(event.version.number, 0), version=event.version.number, values=event.metrics
            )
        for command in commands:
            if isinstance(command, p.Verdict):
                worker = _name(command.worker)
                assert worker is not None
                verdict: Any = command.verdict
                record.decided(
                    t_s=t_s,
                    work_id=command.work_id,
                    worker=worker,
                    samples=command.samples,
                    staleness=command.staleness,
                    verdict=verdict,
                    reason=command.reason,
                    score=command.score,
                )
                record.delivered(t_s=t_s, worker=worker, samples=command.samples)
            elif isinstance(command, p.Notice):
                known: Any = command.kind if command.kind in EVENT_KINDS else "warning"
                record.noticed(RunEvent(t_s=t_s, kind=known, text=command.text, worker=_name(command.worker)))

    def finish(self, now_ns: int, peaks: Mapping[str, list[int]]) -> RunResult:
        """Write what is left, join the tables, write `result.json`. A folder that cannot be written loses the record, not the result."""
        self._ended.set()
        self._writer.join()
        result = self.result(now_ns, peaks)
        try:
            for part in self._storage or self._open_again():
                part.compact()
            write_result(self._job.run_dir, result)
            folder = Folder.at(self._job.run_dir)
            if folder.has(HEARTBEAT_FILE):  # what has ended lives no more
                folder.remove(HEARTBEAT_FILE)
        except OSError as error:
            self.note(f"the record could not be finished: {error}")
            result = replace(result, notes=self._notes)
        return result

    # --- views ------------------------------------------------------------------------------------------------------------------------

    def snapshot(self, now_ns: int) -> Snapshot:
        """The run as the display shows it."""
        epochs = self._brain.book.epochs
        return Snapshot(
            run=self._job.name,
            strategy=strategy_name(self._job),
            codec=_spec_name(self._job.codec),
            samples=self._brain.samples,
            total_samples=self._job.total_samples,
            epoch=epochs[-1].index if epochs else 0,
            version=self._brain.version.number,
            wall_s=now_ns / 1e9,
            metrics=dict(self._metrics),
            workers=tuple(self._row(member, now_ns) for member in self._brain.members.all),
            events=tuple(self._notices),
            events_before=self._num_notices - len(self._notices),
            updates=self._brain.ledger.counts,
            notes=(*self._notes, self._trouble) if self._trouble else self._notes,
        )

    def _row(self, member: Member, now_ns: int) -> WorkerRow:
        recent = self._recent[member.slot]
        while recent and now_ns - recent[0][0] > SPEED_WINDOW_S * 1e9:
            recent.popleft()
        window_s = min(SPEED_WINDOW_S, max(1e-3, (now_ns - member.joined_ns) / 1e9))
        here = member.state != "left"
        judged = sum(member.verdicts.values())
        return WorkerRow(
            id=f"w{member.slot}",
            device=member.device,
            state=self._state(member),
            samples=member.samples,
            samples_per_s=sum(samples for _, samples in recent) / window_s if here else 0.0,
            staleness=member.staleness if judged else None,
            why=member.why,
            **member.verdicts,
        )

    def _state(self, member: Member) -> str:
        if member.state == "left":
            return "killed" if member.left_reason.startswith("died") else "left"
        if member.state in ("leaving", "overdue", "quarantined", "probation"):
            return member.state
        if self._brain.settings.get("paused"):
            return "paused"
        return "computing" if member.orders else "waiting"

    def result(self, now_ns: int, peaks: Mapping[str, list[int]]) -> RunResult:
        """The run in numbers, as `result.json` keeps it."""
        brain = self._brain
        return RunResult(
            run=self._job.name,
            strategy=strategy_name(self._job),
            codec=_spec_name(self._job.codec),
            stopped=self.failure or self._finished or "closed before it had finished",
            failed=bool(self.failure),
            metrics=dict(self._metrics),
            samples=brain.samples,
            versions=brain.version.number,
            updates=brain.ledger.counts,
            epochs=tuple(
                EpochResult(
                    index=epoch.index,
                    applied=epoch.applied,
                    unselected=epoch.unselected,
                    rejected=epoch.rejected,
                    missed=epoch.missed,
                    repeated=epoch.repeated,
                )
                for epoch in brain.book.epochs
            ),
            workers=tuple(_worker_result(member) for member in brain.members.all),
            accounting={f"w{member.slot}": _accounting(member, now_ns) for member in brain.members.all},
            wall_s=now_ns / 1e9,
            notes=self._notes,
            peak_rss_bytes=PeakRss(**{role: max(values) for role, values in peaks.items() if values}),
        )


def strategy_name(job: Job) -> str:
    """The strategy's name as the job gives it."""
    return _spec_name(job.strategy)


def _spec_name(spec: Mapping[str, Any] | str) -> str:
    return spec if isinstance(spec, str) else next(iter(spec))


def _name(slot: int | None) -> str | None:
    return None if slot is None else f"w{slot}"


def _seconds(at_ns: int) -> float:
    """To a microsecond: no two events have the same time, but all that comes before training begins is at 0 to people."""
    return round(at_ns / 1e9, 6)


def _worker_result(member: Member) -> WorkerResult:
    return WorkerResult(
        id=f"w{member.slot}",
        device=member.device,
        joined_s=_seconds(member.joined_ns),
        left_s=None if member.left_ns is None else _seconds(member.left_ns),
        left_reason=member.left_reason or None,
        samples=member.samples,
        quarantines=member.quarantines,
        quarantined_for=member.why,
        **member.verdicts,
    )


def _accounting(member: Member, now_ns: int) -> WorkerAccounting:
    """Compute time by what became of it; the rest of the time present is waiting. What a worker reports is cut to the time it was here."""
    present_ns = (now_ns if member.left_ns is None else member.left_ns) - member.joined_ns
    spent_ns = sum(member.compute_ns.values())
    share = min(1.0, present_ns / spent_ns) if spent_ns else 0.0
    parts = {f"{what}_s": ns * share / 1e9 for what, ns in member.compute_ns.items()}
    return WorkerAccounting(waiting_s=max(0.0, present_ns / 1e9 - sum(parts.values())), **parts)
