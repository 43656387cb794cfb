"""One run on virtual time: the very brain, shards and workers of the live system, with a clock, links and a fault script in place of Ray.

Every decision comes from the three machines; this only carries messages and time. What a fleet's faults and a seed do is repeated bit for
bit by the same fleet, seed and strategy.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mottle.core import protocol as p
from mottle.core import worker as w
from mottle.core.assessments import reader
from mottle.core.brain import Brain
from mottle.core.journal import Entry, Reported
from mottle.core.takeover import Takeover
from mottle.data.seeds import derive_seed
from mottle.simulate.clock import FAULT, MESSAGE, NOBODY, TIMER, Clock
from mottle.simulate.collecting import rare_collections
from mottle.simulate.crew import Crew
from mottle.simulate.faults import Fault
from mottle.simulate.fleet import Fleet, Workers
from mottle.simulate.hosts import Base, Hosts, Side, ring_ns
from mottle.simulate.network import Link, Post, ns
from mottle.simulate.numbers import Numbers
from mottle.simulate.recovery import BASE_EVERY, NOBODY_LEFT, Recovery
from mottle.simulate.tally import Mark, Point, Tally

DESERTED = "every worker is gone"
START = p.Version(0, 0)


class Simulation:
    """One run.

    Args:
        brain: the machine that decides, with its strategy; or one that has taken up the state of a checkpoint.
        fleet: machines, network, faults.
        numbers: what shards and workers hold.
        micro_batch: samples between two looks of a worker at its mailbox; None: a whole order.
        version: that the shards hold at the start.
        seed: of everything that is drawn; the fleet's own if None.
        trace: keep spans and verdicts for the timeline.
        checks: check every machine's invariants after every event, for tests; slow on large fleets.
        planner: answers strategies that ask for a plan, at once; without it they get no answer.
        on_event: called after every event of the brain with its commands.
        base_every: entries after which the log of a coordinator that may be lost gets a new base.
    """

    def __init__(
        self,
        brain: Brain,
        fleet: Fleet,
        numbers: Numbers,
        *,
        micro_batch: int | None = None,
        version: p.Version = START,
        seed: int | None = None,
        trace: bool = False,
        checks: bool = False,
        planner: Callable[[Mapping[str, Any]], p.Planned] | None = None,
        on_event: Callable[[p.Event, list[p.Command]], None] | None = None,
        base_every: int = BASE_EVERY,
    ) -> None:
        self.brain = brain
        self.fleet = fleet
        self.numbers = numbers
        self.clock = Clock()
        self.tally = Tally(trace=trace)
        self.fired: list[Fault] = []
        self.finished: p.Finished | None = None
        self.deserted = False
        """Every worker is gone and none will come."""
        self.num_brain_events = 0
        self._checks = checks
        self._planner = planner
        self._on_event = on_event
        self._version = version
        self._started = False
        seed = fleet.seed if seed is None else seed
        logged = any(fault.kind == "lose_coordinator" for fault in fleet.faults)
        self._post = post = Post(self.clock, fleet.messages, derive_seed(seed, "messages"))
        self.hosts = Hosts(
            brain.shards.live,
            version,
            numbers,
            fleet.servers,
            self.clock,
            post,
            tell=self.tell,
            step_ns=self._step_ns,
            logged=logged,
            checks=checks,
        )
        self.recovery: Recovery | None = None
        """In a run whose coordinator may be lost."""
        if logged:
            self.recovery = Recovery(
                brain, self.hosts, self.clock, took_over=self._take_over, hopeless=self._give_up, base_every=base_every
            )
        self._answers: dict[p.Evaluate | p.SaveModel, p.Event | None] = {}
        """Of the validator: None for what it is at."""
        self.crew = Crew(
            self.hosts,
            numbers,
            self.clock,
            post,
            self.tally,
            primaries=lambda: self.primaries,
            tell=self.tell,
            micro_batch=micro_batch,
            ring=fleet.exchange == "ring",
            save_ns=ns(fleet.servers.save_s),
            seed=seed,
            checks=checks,
        )
        self._validator = Side(p.VALIDATOR, lambda: True, Link(None), Link(None))
        self._found_dead: set[p.ReplicaId] = set()
        self.primaries = self._find_primaries()
        self._slots: dict[str, int] = {}
        self._first_slot = brain.members.next_slot
        self._joined: dict[str, int] = {}
        self._machines: dict[int, str] = {}
        self._by_samples = [fault for fault in fleet.faults if fault.at_samples is not None]
        self._joins_to_come = sum(fault.kind in ("join", "rejoin") for fault in fleet.faults)
        self._obeying = self._handlers()

    # --- running ----------------------------------------------------------------------------------------------------------------------

    @property
    def num_events(self) -> int:
        """Facts that the brain, the shards and the workers have taken."""
        return self.num_brain_events + self.hosts.num_facts + self.crew.num_facts

    def run(self, until: Callable[[], bool] | None = None, *, max_steps: int | None = None) -> "Simulation":
        """Go on until the brain has finished, nothing moves, or `until` holds, which is asked before every step of the clock.

        Raises:
            AssertionError: it took more than `max_steps` steps.
        """
        with rare_collections():
            self.start()
            self._go_on(until, max_steps)
        if self.finished is not None or self.deserted:
            self.crew.settle()
        return self

    def _go_on(self, until: Callable[[], bool] | None, max_steps: int | None) -> None:
        step, crew, clock = self.clock.step, self.crew, self.clock
        while self.finished is None and not (crew.num_alive == 0 and self._over()) and not (until is not None and until()):
            if max_steps is not None and clock.num_events >= max_steps:
                raise AssertionError(f"the run did not end within {max_steps} steps of the clock")
            if not step():
                break

    def start(self) -> None:
        """Let the workers join and training begin; done by `run` as well."""
        if self._started:
            return
        self._started = True
        for fault in self.fleet.faults:
            if fault.at_s is not None:
                self.clock.at(ns(fault.at_s), FAULT, NOBODY, partial(self._fire, fault))
        for group in self.fleet.workers:
            for _ in range(group.count):
                self.join(group)
        self.tell(p.Started(self._version))

    def _over(self) -> bool:
        """Whether nobody is left to work, and what their last words set going has come to rest."""
        self.deserted = self._joins_to_come == 0 and self.clock.only_timers
        return self.deserted

    # --- the coordinator --------------------------------------------------------------------------------------------------------------

    def tell(self, event: p.Event, reported: Reported | None = None, held: int = 0) -> None:
        """Have the brain take a fact, now, and obey it.

        Args:
            reported: number of a shard's report.
            held: how much of the log that shard had then.
        """
        recovery = self.recovery
        if self.finished is not None or (recovery is not None and not recovery.hears(reported, held)):
            return
        self.num_brain_events += 1
        if isinstance(event, p.Evaluated) and event.metrics and not event.trusted:
            self.tally.points.append(Point(self.clock.now_ns, self.brain.samples, event.version.number, dict(event.metrics)))
        commands = self.brain.handle(event, now_ns=self.clock.now_ns)
        if self._checks:
            self.brain.check()
        if self._on_event is not None:
            self._on_event(event, commands)
        if recovery is not None:
            recovery.note(Entry(self.clock.now_ns, event, reported), commands)
        for command in commands:
            self._obeying[type(command)](command)
        if self._by_samples:
            self._fire_due()

    def _handlers(self) -> dict[type, Callable[[Any], None]]:
        """What each command of the brain does."""
        servers, later, post = self.fleet.servers, self._later, self._post_to

        def note(command: p.Command) -> None:
            self.tally.note(command, self.clock.now_ns)

        def finish(command: p.Finished) -> None:
            self.finished = command

        return {
            p.Compute: lambda c: post(c.worker, w.Ordered(c, self._epoch)),
            p.Cut: lambda c: post(c.worker, w.CutAsked(c.work_id, self._epoch)),
            p.Abandon: lambda c: post(c.worker, w.AbandonAsked(c.work_id, self._epoch)),
            p.Mix: lambda c: post(c.worker, w.MixAsked(c, self._epoch)),
            p.SaveSlot: lambda c: post(c.worker, w.SaveAsked(c.checkpoint, c.before, self._epoch)),
            p.Dismiss: lambda c: post(c.worker, w.DismissAsked(self._epoch)),
            p.Reattach: lambda c: post(c.worker, w.Attached(c.epoch, c.orders, c.cut)),
            p.Batch: self._tell_shards,
            p.MakeReplica: lambda c: later(ns(servers.start_s), partial(self._made, c.replica)),
            p.Introduce: self._introduce,
            p.Retire: self._retire,
            p.Refresh: self._refresh,
            p.Evaluate: self._ask_once,
            p.SaveModel: self._ask_once,
            p.SetTimer: self._set_timer,
            p.SaveCheckpoint: lambda c: later(ns(servers.save_s), partial(self.tell, p.CheckpointWritten(c.checkpoint))),
            p.ForgetCheckpoint: lambda c: None,  # nothing was written
            p.Finished: finish,
            p.PlanWanted: self._plan,
            p.Verdict: note,
            p.Published: note,
            p.Notice: note,
        }

    @property
    def _epoch(self) -> int:
        return self.brain.shards.epoch

    def _tell_shards(self, batch: p.Batch) -> None:
        if self.recovery is None:  # else it has gone with the log
            self.hosts.told(p.Told(self._epoch, batches=(batch,)), self.brain.shards.recipients(batch))

    def _introduce(self, order: p.Introduce) -> None:
        replica = order.replica
        self.hosts.introduce(replica, partial(self._post.message, partial(self.tell, p.ReplicaKnown(replica))))

    def _plan(self, order: p.PlanWanted) -> None:
        if self._planner is not None:
            self._post.message(partial(self.tell, self._planner(order.measured)))

    def _retire(self, order: p.Retire) -> None:
        self.hosts.lose(order.replica)
        self.primaries = self._find_primaries()
        self.hosts.found_dead(order.replica)

    def _set_timer(self, order: p.SetTimer) -> None:
        incarnation = 0 if self.recovery is None else self.recovery.incarnation
        self.clock.at(max(order.at_ns, self.clock.now_ns), TIMER, NOBODY, partial(self._ring, order.name, incarnation))

    def _post_to(self, slot: int, event: w.WorkerEvent) -> None:
        self.crew.send(slot, event, None if self.recovery is None else self.recovery.speaks(self.recovery.incarnation))

    def _ring(self, name: str, incarnation: int) -> None:
        """A timer is due, if the coordinator that set it lives."""
        if self.recovery is None or incarnation == self.recovery.incarnation:
            self.tell(p.TimerFired(name))

    def _take_over(self, takeover: Takeover, epoch: int, absent_ns: int) -> None:
        """Another coordinator goes on where the log ends."""
        self.brain = takeover.brain
        workers = {slot: p.Joined(slot, group=worker.group.name) for slot, worker in self.crew.all.items() if worker.alive}
        for event in (p.TookOver(epoch, absent_ns), *takeover.missed(workers, {})):
            self.tell(event)
        if not self.brain.started:
            self.tell(p.Started(self._version))
        self.primaries = self._find_primaries()

    def _give_up(self) -> None:
        self.finished = p.Finished(NOBODY_LEFT, failed=True)

    def _find_primaries(self) -> tuple[p.ReplicaId, ...]:
        """Of every shard that has a living replica, the one that readers ask."""
        live = self.brain.shards.live - self._found_dead
        return tuple(min(replica for replica in live if replica.shard == shard) for shard in sorted({each.shard for each in live}))

    def _made(self, replica: p.ReplicaId) -> None:
        """The process for a newcomer stands."""
        if replica not in self.hosts.all:  # messages may come twice
            self.hosts.add(replica, known=False)
        self.tell(p.ReplicaCame(replica))

    def _step_ns(self, fragment: int | None) -> int:
        """From an order to step, a fragment or everything, until the version is there."""
        own_ns = ns(self.fleet.servers.step_s)
        if self.fleet.exchange == "servers":
            return own_ns
        links = [Link(each.group.bandwidth_bytes_per_s, ns(each.group.latency_s)) for each in self.crew.all.values() if each.alive]
        num_bytes = sum(self.numbers.version_bytes(shard, fragment) for shard in range(len(self.numbers.ranges)))
        return own_ns + ring_ns(len(links), num_bytes, links)

    # --- the validator ----------------------------------------------------------------------------------------------------------------

    def _refresh(self, order: p.Refresh) -> None:
        duration_ns = ns(order.num_samples * self.fleet.validator.sample_s)

        def push(base: Base) -> None:
            shipment = self.numbers.reference(order, base)
            self.hosts.push(order.name, self._validator, 1, 0, shipment, through)

        def through() -> None:
            if not self.hosts.hold(order.name):
                self.tell(p.RefreshFailed(order.name, "no replica of a shard lived to take it"))

        failed = partial(self._post.message, partial(self.tell, p.RefreshFailed(order.name, "a shard did not answer")))
        self._read(order.name, order.version, lambda base: self._later(duration_ns, partial(push, base)), failed)

    def _ask_once(self, order: p.Evaluate | p.SaveModel) -> None:
        """What it is asked again it answers from memory, or when it has an answer."""
        if order not in self._answers:
            self._answers[order] = None
            (self._evaluate if isinstance(order, p.Evaluate) else self._save)(order)  # type: ignore[arg-type]  # each its own
        elif (answer := self._answers[order]) is not None:
            self._post.message(partial(self.tell, answer))

    def _answer(self, order: p.Evaluate | p.SaveModel, event: p.Event) -> None:
        self._answers[order] = event
        self.tell(event)

    def _evaluate(self, order: p.Evaluate) -> None:
        trusted = order.trusted

        def measured(base: Base) -> None:
            metrics = {"loss": self.numbers.trusted_loss(base)} if trusted else self.numbers.evaluate(base)
            self._answer(order, p.Evaluated(order.version, metrics, trusted=trusted))

        duration_ns = ns(self.fleet.validator.evaluation_s)
        failed = partial(self._answer, order, p.Evaluated(order.version, error="a shard did not answer", trusted=trusted))
        read_failed = partial(self._post.message, failed)
        name = reader(order.version) if trusted else "evaluate"
        self._read(name, order.version, lambda base: self._later(duration_ns, partial(measured, base)), read_failed)

    def _save(self, order: p.SaveModel) -> None:
        def saved(base: Base) -> None:
            self._later(ns(self.fleet.servers.save_s), partial(self._answer, order, p.ModelSaved(order.checkpoint)))

        failed = partial(self._answer, order, p.ModelSaved(order.checkpoint, error="a shard did not answer"))
        self._read(f"checkpoint/{order.checkpoint}", order.version, saved, partial(self._post.message, failed))

    def _read(self, reader: str, version: p.Version, then: Callable[[Base], None], failed: Callable[[], None]) -> None:
        self.hosts.read(reader, version.number, self.primaries, self._validator, then, failed)

    def _later(self, delay_ns: int, action: Callable[[], None]) -> None:
        if delay_ns:
            self._post.at(self.clock.now_ns + delay_ns, MESSAGE, NOBODY, action)
        else:
            self._post.message(action)

    # --- comings and goings -----------------------------------------------------------------------------------------------------------

    def join(self, group: Workers, machine: str = "") -> int:
        """A worker of that group joins now; its slot.

        Args:
            machine: that it is on, one of its own if empty.
        """
        slot = self._first_slot + len(self._slots)
        index = self._joined.get(group.name, 0)
        self._joined[group.name] = index + 1
        name = f"{group.name}-{index}"
        self._slots[name] = slot
        self.crew.join(slot, name, group)
        if self._started and self.clock.now_ns:
            self.tally.marks.append(Mark(self.clock.now_ns, "joined", f"{name} joined"))
        self._machines[slot] = machine or name
        self.tell(p.Joined(slot, group=group.name, host=self._machines[slot], kind="simulated"))
        return slot

    def crash(self, slot: int) -> None:
        """A worker dies; the brain hears of it `detect_s` later."""
        self.crew.crash(slot)
        self.clock.at(self.clock.now_ns + ns(self.fleet.detect_s), MESSAGE, slot, partial(self.tell, p.Left(slot, "crashed", died=True)))

    def lose_replica(self, replica: p.ReplicaId) -> None:
        """A shard's process dies; the brain hears of it `detect_s` later."""
        self.hosts.lose(replica)
        self.clock.at(self.clock.now_ns + ns(self.fleet.detect_s), MESSAGE, NOBODY, partial(self.found_lost, replica))

    def lose_coordinator(self) -> None:
        """The coordinator's process dies; another one stands when that is found out and its process has started."""
        assert self.recovery is not None, "the fleet's faults do not say that the coordinator may be lost"
        self.tally.marks.append(Mark(self.clock.now_ns, "lost", "the coordinator is lost"))
        self.recovery.lose(ns(self.fleet.detect_s) + ns(self.fleet.servers.start_s))

    def found_lost(self, replica: p.ReplicaId) -> None:
        """The brain hears that a shard's process has died."""
        self._found_dead.add(replica)
        self.tell(p.ReplicaLost(replica, "crashed"))
        self.primaries = self._find_primaries()
        self.hosts.found_dead(replica)

    def _fire_due(self) -> None:
        due = [fault for fault in self._by_samples if fault.at_samples is not None and self.brain.samples >= fault.at_samples]
        self._by_samples = [fault for fault in self._by_samples if fault not in due]
        for fault in due:
            self._fire(fault)

    def _fire(self, fault: Fault) -> None:
        self.fired.append(fault)
        slot = self._slots.get(fault.worker or "", NOBODY)
        duration_ns = None if fault.for_s is None else ns(fault.for_s)
        match fault.kind:
            case "join":
                self._joins_to_come -= 1
                self.join(self.fleet.group(fault.group or ""))
            case "rejoin":
                self._joins_to_come -= 1
                if slot != NOBODY and not self.crew.all[slot].alive:
                    self.join(self.crew.all[slot].group, self._machines[slot])
            case "checkpoint":
                self.tell(p.CheckpointAsked())
            case "lose_replica":
                replica = p.ReplicaId(fault.shard or 0, fault.replica or 0)
                if replica in self.hosts.all and self.hosts.all[replica].alive:
                    self.lose_replica(replica)
            case "lose_coordinator":
                self.lose_coordinator()
            case _ if slot == NOBODY or not self.crew.all[slot].alive:
                return  # a worker that has not joined yet, or is gone already
            case "crash":
                self.crash(slot)
            case "leave" | "recall":
                self.tell(p.RemoveAsked(slot, at_once=fault.kind == "recall"))
            case "drain":
                self._drain(slot, duration_ns or 0)
            case "pause" if duration_ns is not None:
                self.tally.marks.append(Mark(self.clock.now_ns, "paused", f"{fault.worker} stands still for {fault.for_s:g} s"))
                self.crew.pause(slot, duration_ns)
            case "slow" if fault.factor is not None:
                self._slow(slot, fault.factor, duration_ns)

    def _drain(self, slot: int, left_ns: int) -> None:
        """The machine of a worker is taken away after that time."""
        self.tell(p.HostDraining(self._machines[slot], left_ns))
        self.clock.at(self.clock.now_ns + left_ns, FAULT, NOBODY, partial(self._taken_away, slot))

    def _taken_away(self, slot: int) -> None:
        if self.crew.all[slot].alive:
            self.crash(slot)

    def _slow(self, slot: int, factor: float, duration_ns: int | None) -> None:
        self.tally.marks.append(Mark(self.clock.now_ns, "slowed", f"{self.crew.all[slot].name} takes {factor:g} times as long"))
        self.crew.slow(slot, factor)
        if duration_ns is not None:
            self.clock.at(self.clock.now_ns + duration_ns, FAULT, NOBODY, partial(self.crew.recover, slot, factor))
