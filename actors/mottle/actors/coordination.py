"""One run at its coordinator: `mottle.core.brain.Brain` decides, this carries its orders out.

Everything that happens is an event given to the brain under one lock; what comes back is obeyed in order. Calls to other actors are sent
and never waited for, so no slow actor holds up the others.
"""

import os
import secrets
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import ray

from mottle import strategies
from mottle.actors import transport
from mottle.actors.chronicle import Chronicle
from mottle.actors.exchange import Door, Exchange
from mottle.actors.fleet import START_TIMEOUT_S, CrewError, Fleet
from mottle.actors.gauges import Gauges
from mottle.actors.hosts import Place, this_process
from mottle.actors.job import Job, Resumption
from mottle.actors.lines import Line, Message
from mottle.actors.logs import LogFiles
from mottle.actors.memory import peak_rss_bytes
from mottle.actors.reports import RunHandle
from mottle.actors.shard import log_name
from mottle.actors.timers import Timers
from mottle.actors.way import open_door
from mottle.aggregation.decisions.rulebook import Rules
from mottle.checkpoint import Manifest, Saved, WorkerPart, folder_of, prune, write_manifest
from mottle.core import protocol as p
from mottle.core import worker as w
from mottle.core.brain import Brain
from mottle.core.naming import suggestion
from mottle.observe.result import RunResult
from mottle.observe.snapshot import Snapshot
from mottle.storage import Folder

GAUGES_EVERY_S = 2.0


class Session:
    """One run.

    Args:
        job: what to do.
        notes: sentences that whoever watches the run should see.
        resumption: for a run that goes on from a checkpoint.
        run: handle for the other actors.
    """

    def __init__(self, job: Job, notes: list[str], resumption: Resumption | None, run: RunHandle) -> None:
        self._logs = LogFiles(job.run_dir)
        self._job = job
        self._handle = run
        self._brain = Brain(job.brain, strategies.build(job.strategy, job.strategy_defaults), rules=Rules())
        self._resumption = resumption
        if resumption is not None:
            self._brain.restore(resumption.brain)
        self._chronicle = Chronicle(job, self._brain, notes, resumption)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._began_ns: int | None = None
        self._timers = Timers(lambda name: self.events([p.TimerFired(name)]))
        self._fleet: Fleet | None = None
        self._exchange = Exchange(self._hear, self._lost)
        self._closed = threading.Event()

    # --- life -------------------------------------------------------------------------------------------------------------------------

    def start(self, values: Any) -> None:
        """Create shards, validator and workers; begin when the crew that the job starts with is there.

        Args:
            values: the flat vector to begin with, as `transport.publish` made it.
        Raises:
            CrewError: the workers did not come in time, or one of them could not start.
        """
        self._fleet = Fleet(
            self._job,
            self._handle,
            self._exchange,
            self._open(),
            tell=lambda event: self.events([event]),
            note=self._chronicle.note,
            over=lambda: self._brain.finished is not None,
        )
        version, slots = p.Version(0, 0), None
        if self._resumption is not None:
            version, slots = p.Version(*self._resumption.version), self._resumption.slots
            self._fleet.next_slot = self._brain.members.next_slot
            self._fleet.parts = list(self._resumption.workers)
        for group in self._job.groups:  # first, for their processes take the longest to start
            self._fleet.add_workers(group.count, group.name)
        self._fleet.parts.clear()  # whoever joins later begins anew
        self._fleet.make_shards(sorted(self._brain.shards.live), transport.receive(values), version, slots)
        self._wait_for_crew(sum(group.count for group in self._job.groups))
        self._began_ns = time.monotonic_ns()
        self.events([p.Started(version)])
        threading.Thread(target=self._show_gauges, name="gauges", daemon=True).start()

    def _open(self) -> Door | None:
        """Let shards and workers call."""
        if os.environ.get("RAY_USE_TLS") == "1":  # whoever wants Ray's traffic encrypted wants this one no less
            self._chronicle.note("Ray encrypts its traffic (RAY_USE_TLS), which direct lines do not: all messages go through Ray")
            return None
        door, trouble = open_door(self._exchange, secrets.token_bytes(32), "the coordinator")
        if trouble:
            self._chronicle.note(trouble)
        return door

    def _wait_for_crew(self, wanted: int) -> None:
        def failed() -> list[str]:
            assert self._fleet is not None
            return [f"worker {slot} died: {reason}" for slot, reason in sorted(self._fleet.lost_workers.items())]

        with self._changed:
            self._changed.wait_for(lambda: len(self._brain.crew) >= wanted or failed(), START_TIMEOUT_S)
            if failed():
                raise CrewError(f"the crew could not start: {'; '.join(failed())}")
            if len(self._brain.crew) < wanted:
                raise CrewError(
                    f"{len(self._brain.crew)} of {wanted} workers came within {START_TIMEOUT_S:.0f} s; "
                    "ask for fewer workers or resources, or see what the cluster is busy with"
                )

    def _show_gauges(self) -> None:
        """In a thread of its own, until the run is closed."""
        gauges = Gauges(self._job.name)
        while not self._closed.wait(GAUGES_EVERY_S):
            gauges.show(self.snapshot())

    def wait(self, timeout_s: float) -> bool:
        """Whether the run has finished, at the latest after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._brain.finished is not None, timeout_s)

    def close(self) -> RunResult:
        """Let every actor of the run go and finish the record."""
        now_ns = self._now_ns()
        self._closed.set()
        self._timers.close()
        self._exchange.close()
        peaks: dict[str, list[int]] = {"coordinator": [peak_rss_bytes()]}
        if self._fleet is not None:
            self._fleet.close()
            peaks |= self._fleet.peak_bytes
        result = self._chronicle.finish(now_ns, peaks)
        self._logs.close()
        return result

    # --- events and orders ------------------------------------------------------------------------------------------------------------

    def _hear(self, messages: list[Message]) -> None:
        self.events([event for message in messages for event in message.body[1][0]])

    def _lost(self, line: Line) -> None:
        if self._fleet is not None:
            self._fleet.lose_line(line)

    def events(self, events: list[p.Event]) -> None:
        """Facts from shards, workers, validator and timers."""
        with self._changed:
            batches: list[p.Batch] = []
            for event in events:
                try:
                    batches += self._take(event)
                except Exception as error:  # a bug of ours: the run ends and says so, for nobody waits for an answer to an event
                    traceback.print_exc()
                    text = f"internal error at {event}: {type(error).__name__}: {error}"
                    self._brain.finished = text
                    self._chronicle.broke(text, self._now_ns())
            self._send(batches)
            self._changed.notify_all()

    def _send(self, batches: list[p.Batch]) -> None:
        going: dict[p.ReplicaId, list[p.Batch]] = defaultdict(list)
        for batch in batches:
            for replica in self._brain.shards.recipients(batch):
                going[replica].append(batch)
        for replica, told in going.items():
            assert self._fleet is not None
            self._fleet.replicas.ways[replica].tell("batches", told)

    def _take(self, event: p.Event) -> list[p.Batch]:
        """Have the brain decide and obey it; what it tells the shards is returned, for what several events give goes in one message."""
        now_ns = self._now_ns()
        if isinstance(event, p.ReplicaLost) and self._fleet is not None:
            self._fleet.replicas.lose(event.replica)
        commands = self._brain.handle(event, now_ns=now_ns)
        self._chronicle.saw(event, commands, now_ns)
        batches = [command for command in commands if isinstance(command, p.Batch)]
        for command in commands:
            self._obey(command)
        return batches

    def _obey(self, command: p.Command) -> None:
        assert self._fleet is not None
        match command:
            case p.Compute(worker=slot):
                self._post(slot, w.Ordered(command))
            case p.Cut(slot, work_id):
                self._post(slot, w.CutAsked(work_id))
            case p.Abandon(slot, work_id):
                self._post(slot, w.AbandonAsked(work_id))
            case p.Dismiss(slot):
                self._post(slot, w.DismissAsked())
            case p.SaveSlot(slot, checkpoint, before):
                self._post(slot, w.SaveAsked(checkpoint, before))
            case p.Refresh():
                self._fleet.ask_validator("refresh", command)
            case p.Score():
                self._fleet.ask_validator("score", command)
            case p.Evaluate():
                self._fleet.ask_validator("evaluate", command)
            case p.SaveModel():
                self._fleet.ask_validator("save_model", command)
            case p.SaveCheckpoint():
                threading.Thread(target=self._write_manifest, args=(command,), name="manifest", daemon=True).start()
            case p.ForgetCheckpoint(number):
                threading.Thread(target=self._forget_checkpoint, args=(number,), name="forget", daemon=True).start()
            case p.MakeReplica(replica):
                self._fleet.replicas.call_newcomer(replica)
            case p.Introduce(replica):
                self._fleet.introduce(replica)
            case p.PlanWanted(measured):
                threading.Thread(target=self._plan, args=(measured,), name="planner", daemon=True).start()
            case p.SetTimer(name, at_ns):
                self._timers.set(name, max(0, at_ns - self._now_ns()))

    def _post(self, slot: int, event: w.WorkerEvent) -> None:
        assert self._fleet is not None
        self._fleet.ways[slot].tell("post", event)

    def _write_manifest(self, order: p.SaveCheckpoint) -> None:
        """Make a checkpoint visible, then let go of those that are not kept."""
        job, run = self._job, Folder.at(self._job.run_dir)
        manifest = Manifest(
            number=order.checkpoint,
            version=(order.version.lineage, order.version.number),
            samples=order.samples,
            layout_digest=job.layout.digest,
            num_shards=job.brain.num_shards,
            model=Saved(**order.model),
            optimizer=tuple(Saved(**part) for part in order.shards),
            brain=order.state,
            metrics=self._chronicle.metrics,
            log_seq=self._chronicle.place_of(order.checkpoint),
            workers=tuple(WorkerPart(part["slot"], part["group"], Saved(**part["saved"])) for part in order.workers),
        )
        error = ""
        try:
            write_manifest(run, manifest)
        except OSError as trouble:
            error = str(trouble)
        self.events([p.CheckpointWritten(order.checkpoint, error)])
        try:
            prune(run, keep=job.keep.count, score=job.keep.score, highest=job.keep.highest)
        except OSError as trouble:
            print(
                f"a checkpoint that is not kept any more could not be deleted, it is tried again after the next one: {trouble}", flush=True
            )

    def _plan(self, measured: Mapping[str, Any]) -> None:
        """Training goes on meanwhile, and if nothing comes of it."""
        if self._job.planner is None:
            return
        try:
            planned = self._job.planner(measured)
        except Exception as error:
            traceback.print_exc()
            self._chronicle.note(f"no plan could be made, the strategy stays as it is ({type(error).__name__}: {error})")
            return
        self._chronicle.note(planned.why)
        self.events([planned])

    def _forget_checkpoint(self, number: int) -> None:
        try:
            folder_of(Folder.at(self._job.run_dir), number).remove_all()
        except OSError as trouble:
            print(f"what there is of checkpoint {number} could not be deleted: {trouble}", flush=True)

    def log(self, name: str, data: bytes) -> None:
        """Output of a process that does not see the run's folder."""
        self._logs.add(name, data)

    def checkpoint(self) -> None:
        """Save as soon as a step is complete; training goes on meanwhile."""
        self.events([p.CheckpointAsked()])

    def _now_ns(self) -> int:
        """The run's clock: it stands until training begins, and goes on where a resumed run was."""
        earlier_ns = 0 if self._resumption is None else self._resumption.brain["now_ns"]
        return int(earlier_ns) + (0 if self._began_ns is None else time.monotonic_ns() - self._began_ns)

    # --- what people ask --------------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        with self._lock:
            return self._chronicle.snapshot(self._now_ns())

    def reports(self, after: int) -> list[dict[str, float]]:
        """Metrics of the evaluations from number `after` on."""
        with self._lock:
            return self._chronicle.reports[after:]

    def job(self) -> Job:
        """What is being run, for somebody who finds a detached run again."""
        return self._job

    def add_workers(self, count: int, group: str) -> list[int]:
        """Start workers while the run goes on; nobody waits for them."""
        assert self._fleet is not None
        return self._fleet.add_workers(count, group)

    def remove_worker(self, worker: str) -> None:
        """Let a worker go when it has finished what it has in hand.

        Raises:
            CrewError: nobody of that id is here.
        """
        with self._lock:
            here = {f"w{member.slot}": member.slot for member in self._brain.members.all if member.state != "left"}
        if worker not in here:
            raise CrewError(f"no worker {worker!r} in the crew; {suggestion(worker, here) if here else 'it is empty'}")
        self.events([p.RemoveAsked(here[worker])])

    def configure(self, settings: dict[str, Any]) -> None:
        """Change `lr`, `paused`, ... from here on."""
        self.events([p.Configured(settings)])

    def stop(self, reason: str, checkpoint: bool) -> None:
        """Lend nothing more and end with what is out; with a checkpoint of the end, if that is wanted."""
        self.events([p.StopAsked(reason, checkpoint)])

    def places(self) -> dict[str, Place]:
        """Where every process of the run is: `coordinator`, workers by id, live replicas by the name of their log."""
        assert self._fleet is not None
        with self._lock:
            workers = {member.slot: member.group for member in self._brain.members.all if member.state != "left"}
            replicas = sorted(self._brain.shards.live)
        asked = {log_name(replica): ("", self._fleet.replicas.handles[replica].where.remote()) for replica in replicas}
        asked |= {f"w{slot}": (group, self._fleet.workers[slot].where.remote()) for slot, group in workers.items()}
        here = {"coordinator": this_process()}
        for name, (group, answer) in asked.items():
            try:
                found = ray.get(answer)
            except ray.exceptions.RayActorError:
                continue  # it has just died, and its leaving is on the way
            here[name] = Place(found["pid"], found["node"], group) if isinstance(found, dict) else found
        return here

    def newest(self) -> tuple[int, list[Any]]:
        """The newest published version: its number and the ranges of the shards, in order, as `transport.publish` made them.

        Asked for by its number, so that all ranges are of one model; should it be replaced on the way, the next one is asked for.
        """
        assert self._fleet is not None
        while True:
            number = self._brain.version.number
            primaries = [self._fleet.replicas.handles[self._brain.shards.primary(shard)] for shard in range(self._job.brain.num_shards)]
            ranges = ray.get([primary.read.remote("user", number) for primary in primaries])
            if not any(isinstance(each, str) for each in ranges):
                return number, ranges
