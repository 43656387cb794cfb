"""A parameter shard: `mottle.core.shard.Shard` decides, `mottle.vectors.ShardMemory` computes, this carries messages.

What each caller sends is taken in its order, one message at a time: small ones by the thread that reads the lines, large ones by Ray's.
"""

import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import psutil
import torch

from mottle.actors import transport
from mottle.actors.exchange import Door, Exchange
from mottle.actors.lines import Message
from mottle.actors.logs import Output
from mottle.actors.way import Way, connect, open_door
from mottle.checkpoint import folder_of, write_optimizer
from mottle.core import protocol as p
from mottle.core import shard as sh
from mottle.storage import Folder
from mottle.vectors import ShardMemory, ShardSpec


class ParameterShard:
    """One replica of one shard.

    Args:
        replica: which one.
        spec: the job's part.
        values: the range at `version`, as `transport.publish` made it.
        version: the version that it holds at the start.
        coordinator: handle that takes `events`.
        door: of the coordinator's exchange; None for a run without lines.
        run_dir: where checkpoints go.
        slots: the optimizer's state to go on from, cut to the range.
    """

    def __init__(
        self,
        replica: p.ReplicaId,
        spec: ShardSpec,
        values: Any,
        version: p.Version,
        coordinator: Any,
        door: Door | None,
        run_dir: str,
        slots: Mapping[str, torch.Tensor] | None,
    ) -> None:
        torch.set_num_threads(1)
        self._output = Output()
        self._output.keep(
            run_dir, f"shard{replica.shard}" + (f"-replica{replica.replica}" if replica.replica else ""), coordinator.log.remote
        )
        self._machine = sh.Shard(replica, spec.owned, version=version)
        self._memory = ShardMemory(spec, transport.receive(values).clone(), version.number, transport.publish)
        if slots:
            self._memory.restore_optimizer(slots)
        self._news_fit = (spec.owned.stop - spec.owned.start) * self._memory.values.element_size() <= transport.INLINE_BYTES
        self._run = Folder.at(run_dir)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._answers: dict[tuple[str, int], Any] = {}
        self._up: list[p.Event] = []
        self._lock = threading.RLock()
        self._depth = 0
        self._coordinator = Way(coordinator)
        self._ready: tuple[Door | None, list[str]] = (None, []) if door is None else self._open_lines(door)

    def _open_lines(self, door: Door) -> tuple[Door | None, list[str]]:
        me, exchange = line_name(self._machine.replica), Exchange(self._hear)
        line, no_line = connect(exchange, door, me, "the coordinator")
        self._coordinator = Way(self._coordinator.handle, line)
        own, no_door = open_door(exchange, door.key, me)
        return own, [trouble for trouble in (no_line, no_door) if trouble]

    def ready(self) -> tuple[Door | None, list[str]]:
        """Answered once the shard stands: where it is called, and what people should know of its lines."""
        return self._ready

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

    @transport.call()
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

    @transport.call(answered=False)
    def batches(self, batches: list[p.Batch]) -> None:
        """Commands of the coordinator."""
        with self._turn():
            self._handle(map(sh.BatchArrived, batches))

    @transport.call()
    def read(self, reader: str, number: int) -> Any:
        """A version as `transport.publish` made it, or the sentence that says why it is not to be had."""
        with self._turn():
            self._handle([sh.ReadAsked(reader, number)])
            return self._answers.pop((reader, number), f"version {number} does not exist yet")

    def mean(self, name: str) -> Any:
        """A held vector divided by its weight, as `transport.publish` made it."""
        with self._turn():
            return self._memory.mean(name)

    def peak_rss_bytes(self) -> int:
        return peak_rss_bytes()

    @transport.call(group="watch")
    def until_closed(self) -> None:
        """Never answers: that the call breaks is how the coordinator learns of this process's death."""
        threading.Event().wait()

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
                    self._coordinator.tell("events", up)

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
                case sh.SendUp(event):
                    self._up.append(event)

    def _save(self, checkpoint: int, slots: Mapping[str, torch.Tensor]) -> None:
        """In the writer's thread: training goes on meanwhile."""
        replica, owned = self._machine.replica, self._machine.owned
        try:
            saved = asdict(write_optimizer(folder_of(self._run, checkpoint), replica, owned, slots))
            done = p.SnapshotDone(replica, checkpoint, saved)
        except OSError as error:
            done = p.SnapshotDone(replica, checkpoint, error=f"{error}")
        self._coordinator.tell("events", [done])


def line_name(replica: p.ReplicaId) -> str:
    """Under which a replica calls the coordinator."""
    return f"shard/{replica.shard}/{replica.replica}"


def peak_rss_bytes() -> int:
    """Largest resident memory that this process ever had."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(psutil.Process().memory_info().rss)
