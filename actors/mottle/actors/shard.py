"""A parameter shard: `mottle.core.shard.Shard` decides, `mottle.vectors.ShardMemory` computes, this carries messages.

Its process serves one run after another; what belongs to one of them is its `Session`.
What each caller sends is taken in its order, one message at a time: small ones by the thread that reads the lines, large ones by Ray's.
"""

import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from mottle import vectors
from mottle.actors import hosts, transport
from mottle.actors.exchange import Door, Exchange
from mottle.actors.lines import Message
from mottle.actors.logs import Output
from mottle.actors.memory import forget_peak, peak_rss_bytes
from mottle.actors.reports import Reports, RunHandle
from mottle.actors.way import connect, open_door
from mottle.checkpoint import folder_of, write_optimizer
from mottle.core import protocol as p
from mottle.core import shard as sh
from mottle.storage import Folder
from mottle.vectors import ShardMemory, ShardSpec


class Start(NamedTuple):
    """What a replica begins with."""

    values: Any
    """The range at `version`, as `transport.publish` made it."""
    version: p.Version
    slots: Mapping[str, torch.Tensor] | None
    """The optimizer's state to go on from, cut to the range."""


class ParameterShard:
    """A shard's process: `serve` makes it a replica of a run's shard, `rest` ends that."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._output = Output()
        self._session: Session | None = None

    def serve(
        self, run_dir: str, replica: p.ReplicaId, run: RunHandle, door: Door | None, spec: ShardSpec, start: Start | None
    ) -> tuple[Door | None, list[str]]:
        """Hold a range, as `Session` has it. Returns where the replica is called, and what people should know of its lines.

        Args:
            run_dir: where checkpoints and logs go.
            start: None for a newcomer, which is to `take_up` what another replica holds.
        """
        forget_peak()
        self._output.keep(run_dir, log_name(replica), run.log)
        self._session = Session(run_dir, replica, run, door, spec, start)
        return self._session.ready

    def where(self) -> hosts.Place:
        return hosts.this_process()

    def meet(self, newcomer: p.ReplicaId, handle: Any) -> None:
        """Know the process of a newcomer to this shard."""
        self._serving.newcomers[newcomer] = handle

    def take_up(self, holding: sh.Holding, numbers: vectors.Holding) -> None:
        """See `Session.take_up`."""
        self._serving.take_up(holding, numbers)

    @property
    def _serving(self) -> "Session":
        assert self._session is not None, "this process serves no run at present"
        return self._session

    @transport.call()
    def push(self, *push: Any) -> tuple[int, Any] | None:
        """See `Session.push`."""
        return self._serving.push(*push)

    @transport.call(answered=False)
    def batches(self, batches: list[p.Batch]) -> None:
        """Commands of the coordinator."""
        self._serving.batches(batches)

    @transport.call()
    def read(self, reader: str, number: int) -> Any:
        """See `Session.read`."""
        return self._serving.read(reader, number)

    @transport.call()
    def read_cut(self, reader: str, number: int, cuts: transport.Cuts) -> Any:
        """See `Session.read_cut`."""
        return self._serving.read_cut(reader, number, cuts)

    def mean(self, name: str) -> Any:
        """See `Session.mean`."""
        return self._serving.mean(name)

    @transport.call(group="watch")
    def until_closed(self) -> None:
        """Answers when the run is over; that the call breaks is how the coordinator learns of this process's death."""
        self._serving.closed.wait()

    def rest(self) -> int:
        """Forget the run. Returns the peak resident memory in bytes."""
        if self._session is not None:
            self._session.close()
            self._session = None
            self._output.close()
        return peak_rss_bytes()


class Session:
    """One replica of one shard of one run.

    Args:
        run_dir: where checkpoints go.
        replica: which one.
        run: that is told.
        door: of the coordinator's exchange; None for a run without lines.
        spec: the job's part.
        start: None for a newcomer.
    """

    def __init__(
        self,
        run_dir: str,
        replica: p.ReplicaId,
        run: RunHandle,
        door: Door | None,
        spec: ShardSpec,
        start: Start | None,
    ) -> None:
        self._spec = spec
        self._itemsize = np.dtype(spec.layout.dtype).itemsize
        self._news_fit = (spec.owned.stop - spec.owned.start) * self._itemsize <= transport.INLINE_BYTES
        self._machine = sh.Shard(replica, spec.owned, version=p.Version(0, 0) if start is None else start.version)
        self._memory: ShardMemory
        if start is not None:
            self._memory = ShardMemory(spec, transport.receive(start.values).clone(), start.version.number, transport.publish)
            if start.slots:
                self._memory.restore_optimizer(start.slots)
        self.newcomers: dict[p.ReplicaId, Any] = {}
        """Handles of the processes that stand for newcomers to this shard."""
        self._run = Folder.at(run_dir)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._answers: dict[tuple[str, int], Any] = {}
        self._cuts: dict[tuple[int, transport.Cuts], list[Any]] = {}
        """Versions divided between the processes of gangs."""
        self._up: list[p.Event] = []
        self._lock = threading.RLock()
        self._depth = 0
        self._exchange: Exchange | None = None
        self._reports = Reports(run)
        self.closed = threading.Event()
        self.ready: tuple[Door | None, list[str]] = (None, []) if door is None else self._open_lines(door, run)
        """Where it is called, and what people should know of its lines."""

    def _open_lines(self, door: Door, run: RunHandle) -> tuple[Door | None, list[str]]:
        me, self._exchange = line_name(self._machine.replica), Exchange(self._hear)
        line, no_line = connect(self._exchange, door, me, "the coordinator")
        self._reports = Reports(run, line)
        own, no_door = open_door(self._exchange, door.key, me)
        return own, [trouble for trouble in (no_line, no_door) if trouble]

    def take_up(self, holding: sh.Holding, numbers: vectors.Holding) -> None:
        """Go on from where another replica was.

        Args:
            numbers: with what `transport.publish` made in the place of each tensor.
        """
        with self._turn():
            received = _each(transport.receive, numbers)
            self._memory = ShardMemory.of(self._spec, received, transport.publish)
            self._handle([sh.TakenOver(holding)])

    def close(self) -> None:
        """Hear and write nothing more."""
        self.closed.set()
        if self._exchange is not None:
            self._exchange.close()
        self._writer.shutdown()

    def _hear(self, messages: list[Message]) -> None:
        with self._turn():
            for message in messages:
                match message.body:
                    case ("batches", arguments):
                        self.batches(*arguments)
                    case ("push", arguments):
                        message.answer(self.push(*arguments))
                    case ("read", arguments):
                        message.answer(self.read(*arguments))
                    case ("read_cut", arguments):
                        message.answer(self.read_cut(*arguments))

    def push(
        self,
        name: str,
        sender: int,
        start: int,
        stop: int,
        samples: int,
        weight: float | None,
        compute_ns: int,
        shipped: Any,
        newest: int | None,
    ) -> tuple[int, Any] | None:
        """Take a range of an update or reference; the answer means that it was copied (or refused) and the sender may let go.

        A sender whose newest version is older than the shard's gets that along with the answer, where it is small: the next order will
        most likely be based on it. None for a sender that wants none.
        """
        payload = transport.unship(shipped)
        with self._turn():
            self._handle([sh.Pushed(name, sender, start, stop, samples, compute_ns, payload, weight)])
            number = self._machine.version.number
            return (number, self._memory.read(number)) if newest is not None and newest < number and self._news_fit else None

    def batches(self, batches: list[p.Batch]) -> None:
        """Commands of the coordinator."""
        with self._turn():
            self._handle(map(sh.BatchArrived, batches))

    def read(self, reader: str, number: int) -> Any:
        """A version as `transport.publish` made it, or the sentence that says why it is not to be had."""
        with self._turn():
            self._handle([sh.ReadAsked(reader, number)])
            return self._answers.pop((reader, number), f"version {number} does not exist yet")

    def read_cut(self, reader: str, number: int, cuts: transport.Cuts) -> list[Any] | str:
        """A version divided between the processes of a gang, or the sentence; gangs that want the same share what was made for one."""
        with self._turn():
            published = self.read(reader, number)
            if isinstance(published, str):
                return published
            if (number, cuts) not in self._cuts:
                self._cuts[number, cuts] = transport.publish_cut(published, cuts, self._spec.owned.start)
            return self._cuts[number, cuts]

    def mean(self, name: str) -> Any:
        """A held vector divided by its weight, as `transport.publish` made it."""
        with self._turn():
            return self._memory.mean(name)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One message, or several that came together, at a time; what the coordinator is to know of them goes up in one piece."""
        with self._lock:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._up and not self._depth:
                    up, self._up = self._up, []
                    self._reports.tell(up)

    def _handle(self, events: Iterable[sh.ShardEvent]) -> None:
        try:
            for event in events:
                self._obey(self._machine.handle(event))
        except Exception:
            # A shard that failed in the middle of a command no longer holds what the others hold: it must not go on.
            self._up.append(p.ReplicaLost(self._machine.replica, traceback.format_exc()))
            raise

    def _obey(self, orders: list[sh.ShardOrder]) -> None:
        """Execute orders in sequence; what an answer sets going is executed before the next order."""
        for order in orders:
            match order:
                case sh.StoreRange():
                    stored = self._memory.store(order.name, order.start, order.stop, order.weight, order.payload, order.references)
                    self._obey(self._machine.handle(stored))
                case sh.Run(p.Snapshot(checkpoint)):
                    self._writer.submit(self._save, checkpoint, self._memory.optimizer_state())
                    self._obey(self._machine.handle(sh.Ran(order.command)))
                case sh.Run(command):
                    self._obey(self._machine.handle(self._memory.run(command)))
                case sh.Serve(reader, number):
                    self._answers[reader, number] = self._memory.read(number)
                case sh.Refuse(reader, number, reason):
                    self._answers[reader, number] = reason
                case sh.FreeVersions(numbers):
                    self._memory.free(numbers)
                    self._cuts = {key: made for key, made in self._cuts.items() if key[0] not in numbers}
                case sh.SendUp(event):
                    self._up.append(event)
                case sh.HandOver(newcomer, holding):
                    numbers = _each(transport.publish, self._memory.holding())
                    self.newcomers[newcomer].take_up.remote(holding, numbers)
                case sh.PassOn(newcomer, event):
                    self._pass_on(self.newcomers[newcomer], event)

    def _pass_on(self, newcomer: Any, event: sh.Pushed | sh.BatchArrived) -> None:
        """Through Ray, which keeps the order of one caller's calls."""
        match event:
            case sh.BatchArrived(batch):
                newcomer.batches.remote([batch])
            case sh.Pushed(name, sender, start, stop, samples, compute_ns, payload, weight):
                shipped, _ = transport.ship(payload, (stop - start) * self._itemsize)
                newcomer.push.remote(name, sender, start, stop, samples, weight, compute_ns, shipped, None)

    def _save(self, checkpoint: int, slots: Mapping[str, torch.Tensor]) -> None:
        """In the writer's thread: training goes on meanwhile."""
        replica, owned = self._machine.replica, self._machine.owned
        try:
            saved = asdict(write_optimizer(folder_of(self._run, checkpoint), replica, owned, slots))
            done = p.SnapshotDone(replica, checkpoint, saved)
        except OSError as error:
            done = p.SnapshotDone(replica, checkpoint, error=f"{error}")
        self._reports.tell([done])


def _each(do: Callable[[Any], Any], numbers: vectors.Holding) -> vectors.Holding:
    """The same with `do` of each tensor in its place."""
    return replace(
        numbers,
        values=do(numbers.values),
        slots={name: do(slot) for name, slot in numbers.slots.items()},
        vectors={name: (do(values), weight) for name, (values, weight) in numbers.vectors.items()},
    )


def log_name(replica: p.ReplicaId) -> str:
    """Of a replica, as its log has it."""
    return f"shard{replica.shard}" + (f"-replica{replica.replica}" if replica.replica else "")


def line_name(replica: p.ReplicaId) -> str:
    """Under which a replica calls the coordinator."""
    return f"shard/{replica.shard}/{replica.replica}"
