"""The process that owns a shared fleet: `mottle.tune.lending.Lending` decides, this carries its orders out.

Workers are made here and live as long as this actor does. To a trial's coordinator they are lent as `mottle.actors.guests.Lent`; whatever
happens there, a worker's process comes back through `_reclaim`, which sees that it is free before anybody else gets it. A coordinator that
is gone for good gives nothing back: its end is seen here, and what was lent to it is taken back. One whose process was lost and is replaced
keeps its workers, which go on computing meanwhile.
"""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray

from mottle.actors import drains, placing
from mottle.actors.guests import Lent
from mottle.actors.job import WorkerGroup
from mottle.actors.machines import Machines
from mottle.actors.reasons import reason_of
from mottle.actors.timers import Timers
from mottle.tune import lending as l
from mottle.tune.shares import Policy
from mottle.tune.usage import FleetUsage, WorkerUsage

FREE_TIMEOUT_S = 10.0
"""Longest time that a worker may take to leave a trial, a micro-batch at most; then it is taken for one that hangs."""
TAKEN = "its machine is taken away"
LOOK_EVERY_S = 0.5
"""While a coordinator's process is being replaced."""


@dataclass
class _Slot:
    """A worker of the fleet and its books."""

    group: WorkerGroup
    actor: Any = None
    node: str = ""
    """Where that is."""
    loan: str = ""
    """The trial that has it and has not let go of it."""
    taken: bool = False
    """The trial's coordinator knows it; before that it could not be asked back."""
    recall: bool | None = None
    """It was asked back, and whether at once."""
    lent_since_ns: int = 0
    lent_ns: int = 0
    computed_ns: int = 0
    """By processes before this one, and by this one at its last return."""
    earlier_ns: int = 0
    """Of `computed_ns`, what earlier processes did."""
    loans: int = 0


class FleetOwner:
    """Owner of a fleet.

    Args:
        groups: what it is made of; `count` of each.
        policy: of the lending.
        stay_s: least time of a loan, unless a trial cannot begin without the worker or is over.
        max_deaths: workers that a trial may lose between two evaluations.
    """

    def __init__(self, groups: tuple[WorkerGroup, ...], policy: Policy, stay_s: float, max_deaths: int) -> None:
        slots = [group for group in groups for _ in range(group.count)]
        self._slots = {f"w{index}": _Slot(group) for index, group in enumerate(slots)}
        self._coordinators: dict[str, Any] = {}
        """By trial, while its run is open."""
        self._faults: dict[str, str] = {}
        self._machine = l.Lending(list(self._slots), policy, stay_ns=round(stay_s * 1e9), max_deaths=max_deaths)
        self._me = ray.get_runtime_context().current_actor
        self._lock = threading.RLock()
        self._standing = threading.Semaphore(0)
        self._lacking: list[str] = []
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self._timers = Timers(lambda _: self._handle(l.AlarmRang()))
        for order in self._machine.start():
            self._obey(order)
        self._machines = Machines(lambda machine: None, self._machine_goes)

    def stand(self) -> str:
        """Wait for all workers; why some could not start, empty if all could."""
        for _ in self._slots:
            self._standing.acquire()
        return "; ".join(self._lacking)

    # --- trials -----------------------------------------------------------------------------------------------------------------------

    def enter(self, trial: str, coordinator: Any, minimum: int, maximum: int) -> None:
        """A trial's run stands and can take workers; they come by themselves."""
        with self._lock:
            self._first_ns = self._first_ns or time.monotonic_ns()
            self._last_ns = None
            self._coordinators[trial] = coordinator
            threading.Thread(target=self._watch, args=(trial, coordinator), name="watch", daemon=True).start()
            self._handle(l.TrialCame(trial, minimum, maximum))

    def reported(self, trial: str, samples: int) -> None:
        """It was evaluated."""
        self._handle(l.TrialReported(trial, samples))

    def wants(self, trial: str, usable: int | None, told_ns: int) -> None:
        """Its last samples are out, and it has something to do for so many workers; None: any number, as before that.

        Args:
            told_ns: on the run's clock, for calls may overtake each other.
        """
        self._handle(l.TrialWants(trial, usable, told_ns))

    def fault(self, trial: str) -> str:
        """Why a trial has to fail; empty if it need not."""
        return self._faults.get(trial, "")

    def over(self, trial: str) -> None:
        """It computes nothing more: its workers are asked back at once."""
        with self._lock:
            self._handle(l.TrialOver(trial))
            if not self._machine.num_trials and self._last_ns is None:
                self._last_ns = time.monotonic_ns()

    def lent_to(self, trial: str) -> list[tuple[Lent, bool | None]]:
        """Whom a trial has, for a coordinator of it that takes over, and whether they were asked back (at once)."""
        with self._lock:
            return [(self._as_lent(name, trial), slot.recall) for name, slot in self._slots.items() if slot.loan == trial]

    def _as_lent(self, name: str, trial: str) -> Lent:
        slot = self._slots[name]
        return Lent(name, slot.actor, slot.group.name, self._me, trial)

    def returned(self, name: str, trial: str, trouble: str = "", over: bool = False) -> None:
        """A coordinator lets go of a worker, or cannot do so any more.

        Args:
            trouble: what the worker failed with.
            over: whether the trial has nothing left to do.
        """
        with self._lock:
            slot = self._slots[name]
            if slot.loan != trial:
                return  # said twice
            slot.loan = ""
            slot.lent_ns += time.monotonic_ns() - slot.lent_since_ns
        threading.Thread(target=self._reclaim, args=(name, trial, trouble, over), name="reclaim", daemon=True).start()

    def _watch(self, trial: str, coordinator: Any) -> None:
        """Until the run is closed or its coordinator gone for good; whoever was not given back by then is taken back.

        A coordinator whose process was lost is waited for: the workers compute meanwhile, and the next process asks `lent_to`.
        """
        while not self._is_over(coordinator, trial):
            time.sleep(LOOK_EVERY_S)
        self.over(trial)
        with self._lock:
            if self._coordinators.get(trial) is coordinator:  # else the trial goes on by another one
                del self._coordinators[trial]
            held = [name for name, slot in self._slots.items() if slot.loan == trial]
        for name in held:
            self.returned(name, trial, over=True)

    def _is_over(self, coordinator: Any, trial: str) -> bool:
        """Wait for the end of a run, or for that of its coordinator's process. Whether nothing will come of it any more."""
        try:
            ray.get(self._ask(coordinator, "until_closed", trial))
        except (ray.exceptions.ActorDiedError, ray.exceptions.RayTaskError):  # the latter: another process cannot go on with it
            return True
        except ray.exceptions.RayError:
            return False
        return True

    # --- orders -----------------------------------------------------------------------------------------------------------------------

    def _handle(self, fact: l.Fact) -> None:
        with self._lock:
            for order in self._machine.handle(fact, now_ns=time.monotonic_ns()):
                self._obey(order)

    def _obey(self, order: l.Order) -> None:
        match order:
            case l.StartWorker(name):
                threading.Thread(target=self._start, args=(name,), name="start", daemon=True).start()
            case l.Lend(name, trial):
                slot = self._slots[name]
                slot.loan, slot.loans, slot.lent_since_ns = trial, slot.loans + 1, time.monotonic_ns()
                slot.taken, slot.recall = False, None
                threading.Thread(target=self._lend, args=(name, trial, self._coordinators.get(trial)), name="lend", daemon=True).start()
            case l.Recall(name, trial, at_once):
                self._slots[name].recall = at_once
                self._ask_back(name, trial)
            case l.FailTrial(trial, reason):
                self._faults[trial] = reason
            case l.SetAlarm(at_ns):
                self._timers.set("stay", max(0, at_ns - time.monotonic_ns()))

    @staticmethod
    def _ask(coordinator: Any, method: str, *arguments: Any) -> Any:
        return coordinator.ask.options(concurrency_group="control").remote(method, *arguments)

    def _ask_back(self, name: str, trial: str) -> None:
        slot = self._slots[name]
        if slot.recall is not None and slot.taken and slot.loan == trial and trial in self._coordinators:
            self._ask(self._coordinators[trial], "send_back", name, trial, slot.recall)

    def _lend(self, name: str, trial: str, coordinator: Any) -> None:
        """Say it until it is heard or of no use; a coordinator that hears it twice takes it once."""
        slot = self._slots[name]
        while slot.loan == trial and not slot.taken:
            if coordinator is None or trial not in self._coordinators:  # its run was closed meanwhile
                self.returned(name, trial, over=True)
                return
            try:
                ray.get(self._ask(coordinator, "take_in", self._as_lent(name, trial)))
            except (ray.exceptions.ActorDiedError, ray.exceptions.RayTaskError):  # it serves no run any more
                self.returned(name, trial, over=True)
                return
            except ray.exceptions.RayError:  # its process was lost; another one takes over
                time.sleep(LOOK_EVERY_S)
                continue
            with self._lock:
                if slot.loan == trial:
                    slot.taken = True
                    self._ask_back(name, trial)

    def _start(self, name: str) -> None:
        slot = self._slots[name]
        actor = placing.make_worker_to_lend(slot.group)
        try:
            slot.node = ray.get(actor.where.remote())["node"]
        except ray.exceptions.RayError as error:
            self._lacking.append(f"{name} ({slot.group.name}): {reason_of(error)}")
            self._handle(l.WorkerLacking(name, reason_of(error)))
        else:
            slot.actor = actor
            self._handle(l.WorkerCame(name))
        self._standing.release()

    def _reclaim(self, name: str, trial: str, trouble: str, over: bool) -> None:
        """See that a worker is free, whatever it is doing; one that is dead or hangs is replaced."""
        slot = self._slots[name]
        actor = slot.actor
        try:
            ray.get(actor.let_go.remote(trial), timeout=FREE_TIMEOUT_S)
            ray.get(actor.settled.remote(), timeout=FREE_TIMEOUT_S)
            ray.get(actor.rest.remote(), timeout=FREE_TIMEOUT_S)
            slot.computed_ns = slot.earlier_ns + ray.get(actor.computed_ns.remote(), timeout=FREE_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            self._end(name, trouble or reason_of(error))
            return
        goes = self._goes(slot.node)
        with self._lock:
            if goes:
                self._end(name, TAKEN, taken=True)
            else:
                self._handle(l.WorkerBack(name, trial, trouble, over))

    def _end(self, name: str, reason: str, *, taken: bool = False) -> None:
        """End a worker's process; another takes its place."""
        slot = self._slots[name]
        ray.kill(slot.actor)
        slot.earlier_ns = slot.computed_ns
        self._handle(l.WorkerLost(name, reason, taken))

    @staticmethod
    def _goes(node: str) -> bool:
        """Whether a machine is to be taken away by now: a trial's coordinator may know it before this process has looked again."""
        try:
            return node in drains.draining()
        except ray.exceptions.RayError:  # the cluster does not answer now; `_machine_goes` will hear of it
            return False

    def _machine_goes(self, node: str, left_s: float | None) -> None:
        """Idle workers move at once; lent ones come back by themselves, for their coordinators look at the machines too."""
        with self._lock:
            for name in [name for name, slot in self._slots.items() if slot.node == node and self._machine.is_idle(name)]:
                self._end(name, TAKEN, taken=True)

    # --- books ------------------------------------------------------------------------------------------------------------------------

    def usage(self) -> FleetUsage:
        """Until now, or until the last trial was over."""
        with self._lock:
            now_ns = time.monotonic_ns()
            if self._first_ns is None:
                return FleetUsage(0.0, ())
            seconds = ((self._last_ns or now_ns) - self._first_ns) / 1e9
            lent = {name: slot.lent_ns + (now_ns - slot.lent_since_ns if slot.loan else 0) for name, slot in self._slots.items()}
            computed = {name: slot.actor.computed_ns.remote() for name, slot in self._slots.items() if slot.actor is not None}
        rows = []
        for name, slot in self._slots.items():
            with suppress(KeyError, ray.exceptions.RayError):  # it has just died, or never stood: what was known of it stays
                slot.computed_ns = slot.earlier_ns + ray.get(computed[name], timeout=FREE_TIMEOUT_S)
            rows.append(WorkerUsage(name, slot.group.name, slot.loans, lent[name] / 1e9, slot.computed_ns / 1e9))
        return FleetUsage(seconds, tuple(rows))
