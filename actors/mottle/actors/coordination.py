"""One run at its coordinator: `mottle.core.brain.Brain` decides, this carries its orders out.

Everything that happens is an event given to the brain under one lock; what comes back is obeyed in order. Calls to other actors are sent
and never waited for, so no slow actor holds up the others.
"""

import os
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import ray

from mottle import strategies
from mottle.actors import copies, placing, transport
from mottle.actors.charter import Charter, charter_of
from mottle.actors.chronicle import Chronicle
from mottle.actors.collusion import open_channel
from mottle.actors.exchange import Door, Exchange
from mottle.actors.fleet import START_TIMEOUT_S, CrewError, Fleet, barriered, joined
from mottle.actors.gauges import Gauges
from mottle.actors.guests import Lent
from mottle.actors.hiring import ask_autoscaler, wishes
from mottle.actors.hosts import Place, this_process
from mottle.actors.job import Job, Resumption
from mottle.actors.lines import Line, Message
from mottle.actors.logbook import Logbook, page_of
from mottle.actors.logs import LogFiles
from mottle.actors.machines import Machines
from mottle.actors.memory import peak_rss_bytes
from mottle.actors.reasons import reason_of
from mottle.actors.reports import RunHandle
from mottle.actors.reserve import RESERVE
from mottle.actors.shard import log_name
from mottle.actors.timers import Timers
from mottle.actors.way import open_door
from mottle.actors.worker import Working
from mottle.aggregation.decisions.rulebook import Rules
from mottle.checkpoint import Manifest, Saved, WorkerPart, folder_of, prune, write_manifest
from mottle.core import protocol as p
from mottle.core import worker as w
from mottle.core.brain import Brain
from mottle.core.journal import Entry, Journal, Reported
from mottle.core.naming import suggestion
from mottle.core.strategy import Strategy
from mottle.core.takeover import Takeover
from mottle.observe.result import RunResult
from mottle.observe.snapshot import Snapshot
from mottle.storage import Folder

GAUGES_EVERY_S = 2.0
SAFE_TIMEOUT_S = 10.0
"""So long somebody waits for the shards to hold the log; a replica that takes longer is about to be found dead."""
FLUSH = "log/flush"
"""The logbook's own timer."""


class Found(NamedTuple):
    """The processes of a run that a coordinator takes over, as they answered."""

    replicas: Mapping[p.ReplicaId, tuple[Any, Door | None]]
    """Handle, and where it is called."""
    workers: Mapping[int, tuple[Any, Working, int]]
    """Handle, what it says of itself, number of the attachment."""
    promised: Mapping[int, str]
    """Groups of workers that were on their way."""
    guests: Mapping[int, Lent]
    """Those of the workers that somebody lends to the run."""
    validator: Any
    base: p.Base
    """That the log rests on."""
    heard_s: float
    """Since the lost coordinator said something last."""
    lost_s: float
    """Since it was found lost."""


class Left(NamedTuple):
    """What a coordinator leaves behind, as of a place in the log."""

    brain: Brain
    journal: Journal
    memory: Mapping[str, Any]
    """Of the chronicle."""


class Session:
    """One run.

    Args:
        job: what to do.
        notes: sentences that whoever watches the run should see.
        resumption: for a run that goes on from a checkpoint.
        run: handle for the other actors.
        left: what a lost coordinator leaves behind, to go on from.
        exchange: where its processes have called.
    """

    def __init__(
        self,
        job: Job,
        notes: list[str],
        resumption: Resumption | None,
        run: RunHandle,
        left: "Left | None" = None,
        exchange: Exchange | None = None,
    ) -> None:
        self._logs = LogFiles(job.run_dir)
        self._job = job
        self._handle = run
        self._resumption = resumption
        if left is None:
            self._brain = brain_of(job)
            if resumption is not None:
                self._brain.restore(resumption.brain)
            self._chronicle = Chronicle(job, self._brain, notes, resumption)
            journal = Journal()
        else:
            self._brain, journal = left.brain, left.journal
            self._chronicle = Chronicle(job, self._brain, notes, memory=left.memory)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._earlier_ns = 0 if resumption is None else int(resumption.brain["now_ns"])
        self._began_ns: int | None = None
        self._last_ns = self._earlier_ns
        self._timers = Timers(self._rang)
        self._fleet: Fleet | None = None
        self._exchange = exchange or Exchange(self.hear, self.lost)
        self._closed = threading.Event()
        self._usable: int | None = None
        """Workers that the lender was told to have use for; None: any number."""
        self._machines: Machines | None = None
        chronicle = self._chronicle
        self._logbook = Logbook(
            self._brain,
            journal,
            self._changed,
            tell=self._tell_shards,
            later=partial(self._timers.set, FLUSH),
            freeze=lambda: Left(self._brain, journal, chronicle.memory()),
            recorded=lambda: chronicle.recorded - chronicle.first_seq,
        )
        self._first_base = self._make_first_base() if left is None else None
        chronicle.safe = lambda: chronicle.first_seq + self._logbook.safe

    def _make_first_base(self) -> p.Base | None:
        try:
            return self._logbook.base()
        except Exception as error:  # a strategy of the user's own may hold what cannot be pickled
            self._chronicle.note(f"a lost coordinator will end the run, for its state cannot be saved ({type(error).__name__}: {error})")
            return None

    def note(self, text: str) -> None:
        """A standing remark for whoever watches."""
        self._chronicle.note(text)

    # --- life -------------------------------------------------------------------------------------------------------------------------

    def start(self, values: Any) -> None:
        """Create shards, validator and workers; begin when the crew that the job starts with is there.

        Args:
            values: the flat vector to begin with, as `transport.publish` made it.
        Raises:
            CrewError: the workers did not come in time, or one of them could not start.
        """
        if self._job.collusion:
            self._job = replace(self._job, channel=open_channel(rounds=barriered(self._job)))
        door, trouble = let_call(self._exchange)
        if trouble:
            self._chronicle.note(trouble)
        fleet = self._make_fleet(door)
        try:
            self._begin(fleet, values)
        except BaseException:
            fleet.kill()
            raise

    def _begin(self, fleet: Fleet, values: Any) -> None:
        version, slots = p.Version(0, 0), None
        if self._resumption is not None:
            version, slots = p.Version(*self._resumption.version), self._resumption.slots
            fleet.next_slot = self._brain.members.next_slot
            fleet.parts = list(self._resumption.workers)
        for group in self._job.own_groups:  # first, for their processes take the longest to start
            fleet.add_workers(group.count, group.name)
        fleet.parts.clear()  # whoever joins later begins anew
        fleet.make_shards(sorted(self._brain.shards.live), transport.receive(values), version, slots)
        with self._lock:
            self._tell_shards(self._brain.shards.listeners, p.Told(self._brain.shards.epoch, base=self._first_base))
            self._logbook.open()
        if self._job.lent_crew:
            threading.Thread(target=self._train_with_guests, args=(version,), name="begin", daemon=True).start()
        else:
            self._wait_for_crew(sum(group.count for group in self._job.own_groups))
            self._train(version)

    def _train(self, version: p.Version) -> None:
        self._began_ns = time.monotonic_ns()
        self.events([p.Started(version)])
        self._wait_until_safe()
        self._watch()

    def _train_with_guests(self, version: p.Version) -> None:
        """Once so many have joined; how long that takes is their owner's affair."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._brain.crew) >= self._job.lent_crew or self._closed.is_set() or self._brain.stopping)
        if not self._closed.is_set():
            self._train(version)

    def go_on(self, takeover: Takeover, epoch: int, found: "Found", door: Door | None, listen: Callable[[], None]) -> None:
        """Take the run over from a lost coordinator, when its log has been replayed (`mottle.actors.comeback`).

        Args:
            epoch: that all replicas have been told.
            found: the processes of the run.
            door: of this session's exchange, which they have called.
            listen: lets others speak to this session.
        """
        with self._lock:  # nobody is heard before the brain has heard of the takeover
            listen()
            self._take_up(takeover, epoch, found, door)
        self._wait_until_safe()
        self._watch()

    def _watch(self) -> None:
        """Look at the run, and at the cluster's machines, from now on."""
        assert self._fleet is not None
        threading.Thread(target=self._show_gauges, name="gauges", daemon=True).start()
        self._machines = Machines(self._fleet.machine_came, self._fleet.machine_goes)
        if (wished := wishes(self._job.own_groups))[0]:
            ask_autoscaler(*wished)

    def _take_up(self, takeover: Takeover, epoch: int, found: "Found", door: Door | None) -> None:
        fleet, brain = self._make_fleet(door), self._brain
        fleet.replicas.adopt(epoch, found.replicas, brain.replicas - brain.shards.live)
        fleet.adopt_workers(found.workers, found.promised, found.guests)
        fleet.next_slot = max([brain.members.next_slot, *(slot + 1 for slot in fleet.workers)])
        if found.validator is not None:
            fleet.adopt_validator(found.validator)
        self._last_ns = brain.now_ns
        self._earlier_ns = brain.now_ns + round(found.heard_s * 1e9)
        self._began_ns = time.monotonic_ns()
        for replica, told in takeover.words(epoch, found.base, page_of):
            self._tell_shards([replica], replace(told, confirm=True))
        self._logbook.open()
        groups = {group.name: group for group in self._job.groups}
        workers = {slot: joined(slot, working.where, groups[working.group]) for slot, (_, working, _) in found.workers.items()}
        missed = takeover.missed(workers, {}) if brain.finished is None else []
        self.events([p.TookOver(epoch, round(found.lost_s * 1e9)), *missed])

    def replay(self, takeover: Takeover, entries: Iterable[Entry]) -> None:
        """Live through the log of a lost coordinator, up to its end."""
        takeover.replay(entries, lambda entry, commands: self._chronicle.saw(entry.event, commands, entry.now_ns))

    def _make_fleet(self, door: Door | None) -> Fleet:
        self._fleet = Fleet(
            self._job,
            self._handle,
            self._exchange,
            door,
            tell=lambda event: self.events([event]),
            note=self._chronicle.note,
            over=lambda: self._brain.finished is not None,
            charter=charter_of(Charter(self._job, self._handle.run, RESERVE.keeping)),
        )
        return self._fleet

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
            finished = self._changed.wait_for(lambda: self._brain.finished is not None, timeout_s)
        if finished:
            self._wait_until_safe()
        return finished

    def close(self) -> RunResult:
        """Let every actor of the run go and finish the record."""
        self._wait_until_safe()
        now_ns = self._now_ns()
        with self._changed:
            self._closed.set()
            self._changed.notify_all()
        self._timers.close()
        if self._machines is not None:
            self._machines.close()
            if wishes(self._job.own_groups)[0]:
                ask_autoscaler([], [])
        self._exchange.close()
        peaks: dict[str, list[int]] = {"coordinator": [peak_rss_bytes()]}
        if self._fleet is not None:
            self._fleet.close()
            peaks |= self._fleet.peak_bytes
        result = self._chronicle.finish(now_ns, peaks)
        self._logs.close()
        return result

    # --- events and orders ------------------------------------------------------------------------------------------------------------

    def hear(self, messages: list[Message]) -> None:
        """What came over the lines, all at once."""
        heard: list[tuple[p.Event, Reported | None]] = []
        with self._lock:
            for message in messages:
                match message.body:
                    case ("events", (events, _)):
                        heard += [(event, None) for event in events]
                    case ("reports", (replica, held, said, _)):
                        heard += self._unheard(replica, held, said)
            self._take_all(heard)

    def lost(self, line: Line) -> None:
        """A line broke."""
        if self._fleet is not None:
            self._fleet.lose_line(line)

    def events(self, events: list[p.Event]) -> None:
        """Facts from workers, validator, timers and people."""
        self._take_all([(event, None) for event in events])

    def reported(self, replica: p.ReplicaId, held: int, said: list[tuple[int, p.Report]]) -> None:
        """What a shard has to say, each with its number, and how much of the log it holds."""
        with self._lock:
            self._take_all(self._unheard(replica, held, said))

    def _unheard(self, replica: p.ReplicaId, held: int, said: list[tuple[int, p.Report]]) -> list[tuple[p.Event, Reported | None]]:
        self._logbook.held(replica, held)
        numbered = [(event, Reported(replica, number)) for number, event in said]
        return [(event, reported) for event, reported in numbered if not self._logbook.journal.knows(reported)]

    def _take_all(self, heard: list[tuple[p.Event, Reported | None]]) -> None:
        """Have the brain decide, send the log with what the shards are told, then obey the rest."""
        with self._changed:
            commands: list[p.Command] = []
            for event, reported in heard:
                self._guard(event, lambda event=event, reported=reported: commands.extend(self._take(event, reported)))  # type: ignore[misc]
            self._logbook.send(commands)
            for command in commands:
                self._guard(command, partial(self._obey, command))
            if self._job.lent_crew:
                self._let_go_of_spare()
            self._changed.notify_all()

    def _let_go_of_spare(self) -> None:
        """When the last samples are out, guests that have nothing left to do go back, and no more are sent than there is work for."""
        usable = self._brain.usable
        if usable == self._usable or self._brain.finished is not None or self._fleet is None:
            return
        self._usable = usable
        self._job.lender.wants.remote(self._job.run_dir, usable, self._brain.now_ns)
        if usable is not None:
            spare = [slot for slot in self._brain.unoccupied if slot in self._fleet.guests and self._fleet.guests.is_wanted(slot)]
            for slot in spare:
                self._fleet.guests.unwant(slot)
            self.events([p.RemoveAsked(slot) for slot in spare])

    def _guard(self, about: object, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:  # a bug of ours: the run ends and says so, for nobody waits for an answer to an event
            traceback.print_exc()
            text = f"internal error at {about}: {type(error).__name__}: {error}"
            self._brain.finished = text
            self._chronicle.broke(text, self._now_ns())

    def _take(self, event: p.Event, reported: Reported | None) -> list[p.Command]:
        now_ns = self._now_ns()
        if isinstance(event, p.ReplicaLost) and self._fleet is not None:
            self._fleet.replicas.lose(event.replica)
        commands = self._brain.handle(event, now_ns=now_ns)
        self._logbook.note(Entry(now_ns, event, reported))
        self._chronicle.saw(event, commands, now_ns)
        return commands

    def _tell_shards(self, replicas: Sequence[p.ReplicaId], told: p.Told) -> None:
        assert self._fleet is not None
        for replica in replicas:
            if replica in self._fleet.replicas.ways:
                self._fleet.replicas.ways[replica].tell("told", told)

    def _rang(self, timer: str) -> None:
        if timer != FLUSH:
            self.events([p.TimerFired(timer)])
            return
        with self._lock:
            self._logbook.flush()

    def _wait_until_safe(self) -> bool:
        """Wait until no death can undo what has happened so far. Whether it is so."""
        with self._changed:
            return self._logbook.wait(SAFE_TIMEOUT_S)

    def _obey(self, command: p.Command) -> None:
        assert self._fleet is not None
        epoch = self._brain.shards.epoch
        match command:
            case p.Compute(worker=slot):
                self._post(slot, w.Ordered(command, epoch))
            case p.Cut(slot, work_id):
                self._post(slot, w.CutAsked(work_id, epoch))
            case p.Abandon(slot, work_id):
                self._post(slot, w.AbandonAsked(work_id, epoch))
            case p.Dismiss(slot):
                self._post(slot, w.DismissAsked(epoch))
            case p.Mix(worker=slot):
                self._post(slot, w.MixAsked(command, epoch))
            case p.SaveSlot(slot, checkpoint, before):
                self._post(slot, w.SaveAsked(checkpoint, before, epoch))
            case p.Reattach(slot, _, orders, cut):
                self._post(slot, w.Attached(epoch, orders, cut))
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
            case p.Retire(replica):
                self._fleet.replicas.lose(replica)
            case p.SetTimer(name, at_ns):
                self._timers.set(name, max(0, at_ns - self._now_ns()))

    def _post(self, slot: int, event: w.WorkerEvent) -> None:
        assert self._fleet is not None
        if slot in self._fleet.ways:  # else it died with the last coordinator, and its leaving is on the way
            self._fleet.ways[slot].tell("post", event)

    def _write_manifest(self, order: p.SaveCheckpoint) -> None:
        """Make a checkpoint visible, then let go of those that are not kept."""
        self._wait_until_safe()
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
            models=1 if job.rotation is None else job.rotation.number,
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
        self._wait_until_safe()

    def _now_ns(self) -> int:
        """The run's clock: it stands until training begins, goes on where a resumed run was, and no two events have the same time."""
        now_ns = self._earlier_ns + (0 if self._began_ns is None else time.monotonic_ns() - self._began_ns)
        self._last_ns = max(now_ns, self._last_ns + 1)
        return self._last_ns

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
        self._wait_until_safe()

    def take_in(self, lent: Lent) -> None:
        """Have a worker of somebody else's in the crew; one that comes too late, or to an earlier run of this process, goes back.

        Whoever does not know whether this was heard may say it again.
        """
        assert self._fleet is not None
        if self._closed.is_set() or lent.to != self._job.run_dir:
            lent.give_back(over=True)
        elif self._fleet.guests.slot_of(lent.name, lent.to) is None:
            self._fleet.take_in(lent)

    def send_back(self, name: str, to: str, at_once: bool) -> None:
        """Let a worker that was lent to a run go, when it has finished what it has in hand or at once; nothing if it has gone."""
        assert self._fleet is not None
        slot = self._fleet.guests.slot_of(name, to)
        if slot is not None:
            self._fleet.guests.unwant(slot)
            self.events([p.RemoveAsked(slot, at_once)])

    def source(self) -> copies.Source:
        """By what others can ask for the model later."""
        name = ray.get_runtime_context().get_actor_name() or ""
        return copies.Source(name, self._job.run_dir, self._brain.version.lineage, self._job.layout.digest)

    def offer(self, name: str, wanted: copies.Source | None = None) -> copies.Offered:
        """Have the shards keep a copy of the model as it is, for another run, until it is withdrawn.

        Args:
            wanted: what it has to be, if not any.
        Raises:
            CopyError: the run is over, or its model is another one.
        """
        assert self._fleet is not None
        if self._brain.finished is not None:
            raise copies.CopyError(f"it has ended: {self._brain.finished}")
        with self._lock:
            replacing = "it takes over another model just now" if self._brain.replacing else ""
            if wanted is not None and (trouble := copies.gone(wanted, self._job.run_dir, self._brain.version.lineage) or replacing):
                raise copies.CopyError(trouble)
            ranges = self._job.layout.cut(self._job.brain.num_shards)
            by_shard = self._fleet.replicas.by_shard()
            self.events([p.OfferAsked(name)])
        pieces = [copies.Piece(owned, [replica.handle for replica in by_shard[shard]]) for shard, owned in enumerate(ranges)]
        return copies.Offered(self._job.run_dir, self._job.layout.digest, pieces)

    def withdraw(self, name: str) -> None:
        self.events([p.OfferOver(name)])

    def copy_from(self, donor: Any, settings: dict[str, Any]) -> None:
        """Put the model of another run, as it is now, in the place of this one's, and change settings with it.

        Args:
            donor: the other run's coordinator, or the `Source` of a model that it had.
        Raises:
            CopyError: says why not; nothing has changed then.
        """
        assert self._fleet is not None
        name = secrets.token_hex(8)
        wanted = donor if isinstance(donor, copies.Source) else None
        control = (donor if wanted is None else placing.find_coordinator(wanted.coordinator)).ask.options(concurrency_group="control")
        try:
            offered: copies.Offered = ray.get(control.remote("offer", name, wanted), timeout=copies.FETCH_TIMEOUT_S)
            if trouble := copies.refusal(offered, self._job.layout.digest, self._job.run_dir):
                raise copies.CopyError(trouble)
            replicas = self._fleet.replicas
            ray.get([replicas.handles[each].meet_donor.remote(name, offered.pieces) for each in sorted(self._brain.shards.live)])
            self._replace(name, settings)
        except ray.exceptions.RayError as error:
            raise copies.CopyError(f"the other run could not offer its model: {reason_of(error)}") from error
        finally:
            control.remote("withdraw", name)

    def _replace(self, name: str, settings: dict[str, Any]) -> None:
        before = self._brain.version.lineage
        self.events([p.ReplaceAsked(name, settings)])
        with self._changed:
            self._changed.wait_for(lambda: not self._brain.replacing or self._brain.finished is not None or self._closed.is_set())
            if self._brain.version.lineage == before:
                raise copies.CopyError(self._brain.why_not_replaced or f"the run ended before: {self._brain.finished}")
        self._wait_until_safe()

    def until_closed(self, run_dir: str) -> None:
        """Answers when the run in that folder is closed; that the call breaks is how others learn that its coordinator is gone."""
        if self._job.run_dir == run_dir:
            self._closed.wait()

    def configure(self, settings: dict[str, Any]) -> None:
        """Change `lr`, `paused`, ... from here on; answered when no death can undo it."""
        self.events([p.Configured(settings)])
        self._wait_until_safe()

    def stop(self, reason: str, checkpoint: bool) -> None:
        """Lend nothing more and end with what is out; with a checkpoint of the end, if that is wanted."""
        self.events([p.StopAsked(reason, checkpoint)])
        self._wait_until_safe()

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


def brain_of(job: Job) -> Brain:
    """The brain that a run begins with."""

    def build(spec: Any, defaults: Mapping[str, Any] = job.strategy_defaults) -> Strategy:  # and not the job, for the log's base holds it
        return strategies.build(spec, defaults)

    return Brain(job.brain, build(job.strategy), rules=Rules(), build=build)


def let_call(exchange: Exchange) -> tuple[Door | None, str]:
    """Let shards and workers call: the door, and what people should know where there is none."""
    if os.environ.get("RAY_USE_TLS") == "1":  # whoever wants Ray's traffic encrypted wants this one no less
        return None, "Ray encrypts its traffic (RAY_USE_TLS), which direct lines do not: all messages go through Ray"
    return open_door(exchange, secrets.token_bytes(32), "the coordinator")
