"""A worker: `mottle.core.worker.Worker` decides, an engine computes, this carries messages.

Its process serves one run after another; what belongs to one of them is its `Session`. `run` is the compute thread; `post` only puts
messages into the mailbox, which the compute thread looks into at every micro-batch boundary.
"""

import gc
import os
import queue
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import ray
import torch

from mottle import strategies
from mottle.actors import transport
from mottle.actors.arithmetic import kind_of_arithmetic
from mottle.actors.bench import Bench
from mottle.actors.exchange import Door, Exchange
from mottle.actors.gang import Gang
from mottle.actors.gang_state import GangState, Patch, patches_in
from mottle.actors.importing import keep_imported
from mottle.actors.job import Job, WorkerGroup, placed_config
from mottle.actors.lifeline import Lifeline
from mottle.actors.lines import Line, Message
from mottle.actors.link import Replica, Shards, ways_to
from mottle.actors.logs import Output
from mottle.actors.memory import forget_peak, peak_rss_bytes
from mottle.actors.reports import Reports, RunHandle
from mottle.actors.slot_state import SlotState, TakeUp, read_taken_up
from mottle.actors.way import Way, connect
from mottle.core import protocol as p
from mottle.core import versions
from mottle.core import worker as w

LOOK_EVERY_S = 1.0
"""After so long a call that waits for the end sees that it waits for nobody."""


NEW = "new"
"""What a process says to a coordinator that takes over when the one before has made it and given it no work yet."""


class Working(NamedTuple):
    """What a worker says to a coordinator that takes over."""

    slot: int
    group: str
    where: Mapping[str, Any]


class TrainingWorker:
    """A worker's process: `connect`, `prepare` and `run` make it a worker of a run's crew, `rest` ends that.

    Args:
        coordinator: that made it, and with which it ends.
    """

    def __init__(self, coordinator: Any = None) -> None:
        keep_imported()
        self._lifeline = Lifeline(coordinator)
        self._output = Output()
        self._working: Working | None = None
        self._worked = False
        """Whether this process has ever been a worker of a crew."""
        self._begun = False
        """Whether it was told to work since it was prepared."""
        self._num_attached = 0
        self._over: Future[int] = Future()
        self._serving = ""
        """Folder of the run that it is prepared for."""
        self._let_go_of = ""
        """Folder of the run that its owner wants it back from."""
        self._mailbox: queue.SimpleQueue[w.WorkerEvent] = queue.SimpleQueue()
        self._exchange: Exchange | None = None
        self._session: Session | None = None
        self._computed_ns = 0
        """Time in which it computed for runs that are over."""

    def where(self) -> dict[str, Any]:
        """Process id, node, device and versions, for the crew's books."""
        context = ray.get_runtime_context()
        device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
        kind = kind_of_arithmetic(gpu=torch.cuda.is_available())
        return {"pid": os.getpid(), "node": context.get_node_id(), "device": device, "kind": kind, "versions": versions.here()}

    def connect(self, slot: int, door: Door | None, shards: Shards, run: RunHandle) -> list[str]:
        """Call the coordinator and the shards. Returns what people should know where one cannot be called.

        Args:
            slot: the worker's number in the crew.
            door: of the coordinator's exchange; None for a run without lines.
        """
        forget_peak()
        self._slot = slot
        self._mailbox = queue.SimpleQueue()
        self._exchange = None if door is None else Exchange(self._hear, self._line_broke)
        me = line_name(slot)
        line, trouble = connect(self._exchange, door, me, "the coordinator")
        self._run, self._door, self._reports = run, door, Reports(run, line)
        self._lifeline.has_line = line is not None
        self._replicas = shards
        self._shards, troubles = ways_to(shards, self._exchange, me)
        return [trouble, *troubles] if trouble else troubles

    def _line_broke(self, line: Line) -> None:
        if self._reports.over(line):
            self._lifeline.stir()

    @transport.call(group="mail")
    def attach(self, door: Door | None) -> tuple[Working, int] | str | None:
        """Talk to the coordinator behind that door, which takes over. Who this worker is, and the number to ask `until_over` with; `NEW`
        for one that was never at work, None for one whose work is over."""
        if self._working is None:
            return None if self._worked else NEW
        if not self._begun:  # whoever prepared it was lost before it could say so
            ray.get_runtime_context().current_actor.run.remote()
        self._num_attached += 1
        self._door = door
        line, _ = connect(self._exchange, door, line_name(self._slot), "the coordinator")
        self._reports.attach(line)
        return self._working, self._num_attached

    @transport.call(group="watch")
    def until_over(self, attached: int) -> int | None:
        """What `run` returns or raises; None for a coordinator in whose place there is another one."""
        while self._num_attached == attached:
            with suppress(TimeoutError):
                return self._over.result(LOOK_EVERY_S)
        return None

    def meet(self, shard: int, newcomer: Replica) -> None:
        """Know a further replica of a shard; answered once no push is under way that leaves it out."""
        ways, _ = ways_to({shard: [newcomer]}, self._exchange, line_name(self._slot))
        self._shards[shard] += ways[shard]
        if self._session is not None:
            self._session.meet(shard, newcomer)

    def _gang(self, job: Job, group: WorkerGroup, taken_up: list[Patch]) -> Gang:
        me = ray.get_runtime_context().current_actor
        return Gang(self._slot, job, group, self._replicas, self._shards, self._door, self._run, me, taken_up)

    @transport.call(group="mail", answered=False)
    def deliver(self, formation: int, stage: int, tag: int, tensors: Any) -> None:
        """What a follower of this worker sent through Ray."""
        assert self._session is not None
        self._session.deliver(formation, stage, tag, tensors)

    def _hear(self, messages: list[Message]) -> None:
        for message in messages:
            match message.body:
                case ("post", (event,)):
                    self._mailbox.put(event)

    @transport.call(group="mail", answered=False)
    def post(self, event: w.WorkerEvent) -> None:
        """Put a message into the mailbox."""
        self._mailbox.put(event)

    @transport.call(group="run")
    def prepare(self, job: Job, group: WorkerGroup, take_up: TakeUp | None = None) -> None:
        """Make the model and open the data, once connected: whoever fails at that never joins.

        Args:
            take_up: what a worker of a run that is resumed goes on from.
        """
        torch.set_num_threads(job.threads_per_worker)
        self._output.keep(job.run_dir, f"w{self._slot}", self._run.log)
        try:
            self._session = Session(
                self._slot,
                job,
                group,
                self._shards,
                self._reports,
                self._mailbox,
                take_up,
                lambda taken_up: self._gang(job, group, taken_up),
            )
            self._session.stand()
            self._over, self._begun = Future(), False
            self._working, self._worked = Working(self._slot, group.name, self.where()), True
            self._serving = job.run_dir
            if self._let_go_of == job.run_dir:
                self._mailbox.put(w.LetGo())
        except Exception:
            traceback.print_exc()
            raise

    @transport.call(group="run")
    def run(self) -> int:
        """Work until dismissed, once prepared; told so again, there is nothing more to do. Returns the peak resident memory in bytes."""
        assert self._session is not None
        if self._begun:
            return self._over.result()
        self._begun = True
        try:
            self._session.run()
            self._over.set_result(peak_rss_bytes())
        except Exception as error:
            traceback.print_exc()  # the coordinator gets the error, this worker's log the whole story
            self._over.set_exception(error)
        finally:
            self._working = None
            if self._exchange is not None:
                self._exchange.close()
            self._output.close()
        return self._over.result()

    @transport.call(group="mail")
    def let_go(self, run_dir: str) -> None:
        """Leave the run in that folder, whoever coordinates it, or not begin with it: for the process's owner."""
        self._let_go_of = run_dir
        if self._serving == run_dir:
            self._mailbox.put(w.LetGo())

    @transport.call(group="run")
    def settled(self) -> None:
        """Answered when the computing thread is free."""

    @transport.call(group="mail")
    def computed_ns(self) -> int:
        """Time in micro-batches, declared delays included, in all runs that it has served."""
        return self._computed_ns + (0 if self._session is None else self._session.computed_ns)

    @transport.call(group="mail")
    def rest(self) -> None:
        """Forget the run; what was still under way to the mailbox has come when this is answered."""
        self._computed_ns = self.computed_ns()
        self._serving = self._let_go_of = ""
        self._session = self._exchange = None
        self._lifeline.let_go()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def line_name(slot: int) -> str:
    """Under which a worker calls the coordinator and the shards."""
    return f"worker/{slot}"


class Session:
    """One worker's part in one job."""

    def __init__(
        self,
        slot: int,
        job: Job,
        group: WorkerGroup,
        shards: Mapping[int, list[Way]],
        reports: Reports,
        mailbox: "queue.SimpleQueue[w.WorkerEvent]",
        take_up: TakeUp | None,
        gang: Callable[[list[Patch]], Gang],
    ) -> None:
        self._reports = reports
        self._mailbox = mailbox
        self._machine = w.Worker(slot)
        ranges = job.layout.cut(len(shards))
        most = strategies.build(job.strategy, job.strategy_defaults).max_in_flight
        self._bench: Bench | Gang
        self._state: SlotState | GangState
        if placed_config(group) is None:
            self._state = state = SlotState(job.run_dir, slot, ranges, most, reports, take_up, fragments=job.fragments)
            self._bench = Bench(slot, job, group, shards, state)
        else:
            self._bench = made = gang(patches_in(read_taken_up(job.run_dir, take_up)))
            self._state = GangState(job.run_dir, slot, job.layout.size, reports, made.begin, made.kept, made.forget)
        self.computed_ns = 0
        """Time in micro-batches, declared delays included."""
        self._travel = ThreadPoolExecutor(max_workers=1, thread_name_prefix="travel")
        """Sends and reads fragments while this thread computes."""

    def stand(self) -> None:
        """Be ready for orders; what followers send finds its way to this session by now."""
        if isinstance(self._bench, Gang):
            self._bench.form()

    def run(self) -> None:
        """Execute what the machine orders until it says `Exit`."""
        orders: deque[w.WorkerOrder] = deque()
        try:
            while True:
                if not orders:
                    orders.extend(self._machine.handle(self._mailbox.get()))
                    continue
                order = orders.popleft()
                if isinstance(order, w.Exit):
                    return
                event = self._execute(order)
                if event is not None:
                    orders.extend(self._machine.handle(event))
        finally:
            self._travel.shutdown(cancel_futures=True)
            self._bench.close()
            self._state.close()

    def _execute(self, order: w.WorkerOrder) -> w.WorkerEvent | None:
        match order:
            case w.Fetch(epoch, start, stop):
                self._bench.prefetch(epoch, start, stop)
            case w.Unfetch(epoch, start, stop):
                self._bench.unfetch(epoch, start, stop)
            case w.Answer(event):
                self._reports.tell([event])
            case w.SaveState():
                self._state.save(order)
            case w.ReadFragment(mix):
                self._travel.submit(self._read_fragment, mix)
            case w.Blend(mix):
                self._plain.blend(mix)
            case w.Push(local=p.LocalSteps(send=int())):
                self._travel.submit(self._deliver, order.work_id, self._plain.parcel(order))
            case w.LoadBase(work_id) | w.ClearAccumulator(work_id) | w.GoOn(work_id) | w.RunPart(work_id) | w.Push(work_id):
                return self._attempt(work_id, lambda: self._work(order))
        return None

    def _attempt(self, work_id: int, do: Callable[[], w.WorkerEvent]) -> w.WorkerEvent:
        """A failure gives the order back with its reason; the worker goes on to the next one."""
        try:
            return do()
        except Exception as error:
            print(traceback.format_exc(), flush=True)  # into this worker's log; the coordinator gets the sentence
            return w.WorkFailed(work_id, f"{type(error).__name__}: {error}")

    def _work(self, order: w.WorkerOrder) -> w.WorkerEvent:
        match order:
            case w.LoadBase(work_id, version, local, fragment):
                if self._state.lineage not in (None, version.lineage):
                    self._travel.submit(_nothing).result()  # what travels yet is of the old line, and of its memory
                self._state.follow(version.lineage)
                if fragment is None:
                    self._bench.load(p.work_holder(work_id), version.number)
                else:
                    self._plain.load_model(p.work_holder(work_id), version.number, fragment)
                return self._clear(work_id, local)
            case w.ClearAccumulator(work_id, local):
                self._bench.rewind()
                return self._clear(work_id, local)
            case w.GoOn(work_id, local):
                return self._clear(work_id, local)
            case w.RunPart():
                began_ns = time.monotonic_ns()
                done = self._bench.compute(order, lambda: self._interrupted(order.work_id))
                self.computed_ns += time.monotonic_ns() - began_ns
                return w.Computed(order.work_id, order.part, order.start + done)
            case w.Push():
                self._bench.push(order)
                return w.PushConfirmed(order.work_id)
        raise AssertionError(order)

    def _clear(self, work_id: int, local: p.LocalSteps | None) -> w.Loaded:
        self._state.begin(work_id)
        self._bench.clear(local)
        return w.Loaded(work_id)

    def meet(self, shard: int, newcomer: Replica) -> None:
        """A further replica of a shard is known; return once no push is under way that leaves it out."""
        self._bench.meet(shard, newcomer)

    def deliver(self, formation: int, stage: int, tag: int, tensors: Any) -> None:
        """What a follower of a gang sent through Ray."""
        assert isinstance(self._bench, Gang)
        self._bench.deliver(formation, stage, tag, tensors)

    @property
    def _plain(self) -> Bench:
        """Gangs send no fragments."""
        assert isinstance(self._bench, Bench)
        return self._bench

    def _deliver(self, work_id: int, send: Callable[[], None]) -> None:
        """In the thread of what travels: push a fragment."""

        def sent() -> w.WorkerEvent:
            send()
            return w.PushConfirmed(work_id)

        self._mailbox.put(self._attempt(work_id, sent))

    def _read_fragment(self, mix: p.Mix) -> None:
        """In the thread of what travels."""
        error = ""
        try:
            self._plain.read_fragment(mix)
        except Exception as trouble:
            print(traceback.format_exc(), flush=True)
            error = f"{type(trouble).__name__}: {trouble}"
        self._mailbox.put(w.FragmentRead(mix.work_id, error))

    def _interrupted(self, work_id: int) -> bool:
        """Look into the mailbox: a new order is only queued here, a cut or an abandonment ends this one."""
        while not self._mailbox.empty():
            for order in self._machine.handle(self._mailbox.get()):
                self._execute(order)
        return self._machine.interrupted(work_id)


def _nothing() -> None:
    """Waits its turn."""
