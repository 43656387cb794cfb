"""A parameter shard: `mottle.core.shard.Shard` decides, `mottle.vectors.ShardMemory` computes, this carries messages.

Its process serves one run after another; what belongs to one of them is its `Session`.
What each caller sends is taken in its order, one message at a time: small ones by the thread that reads the lines, large ones by Ray's.
"""

import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from mottle import vectors
from mottle.actors import copies, hosts, nearby, transport
from mottle.actors.exchange import Door, Exchange
from mottle.actors.importing import keep_imported
from mottle.actors.lifeline import Lifeline
from mottle.actors.lines import Line, Message
from mottle.actors.logs import Output
from mottle.actors.memory import forget_peak, peak_rss_bytes
from mottle.actors.reports import Reports, RunHandle
from mottle.actors.way import connect, open_door
from mottle.checkpoint import folder_of, write_optimizer
from mottle.core import protocol as p
from mottle.core import shard as sh
from mottle.core.keeping import KeptLog
from mottle.core.takeover import Standing
from mottle.storage import Folder
from mottle.vectors import ShardMemory, ShardSpec

LOOK_EVERY_S = 1.0
"""After so long a call that waits for the end sees that it waits for nobody."""


class Start(NamedTuple):
    """What a replica begins with."""

    values: Any
    """The range at `version`, as `transport.publish` made it."""
    version: p.Version
    slots: Mapping[str, torch.Tensor] | None
    """The optimizer's state to go on from, cut to the range."""


class Fence(NamedTuple):
    """What a replica says to a coordinator that takes over."""

    standing: Standing
    door: Door | None
    """Where it is called."""
    heard_s: float
    """Since the lost coordinator said something last."""
    lost_s: float
    """Since it was found lost; where that was not noticed, since it said something."""


class ParameterShard:
    """A shard's process: `serve` makes it a replica of a run's shard, `rest` ends that.

    Args:
        coordinator: that made it, and with which it ends.
    """

    def __init__(self, coordinator: Any = None) -> None:
        keep_imported()
        torch.set_num_threads(1)
        self._lifeline = Lifeline(coordinator)
        self._output = Output()
        self._session: Session | None = None
        self._charter: torch.Tensor | None = None

    def serve(
        self,
        run_dir: str,
        replica: p.ReplicaId,
        run: RunHandle,
        door: Door | None,
        spec: ShardSpec,
        start: Start | None,
        charter: Any,
    ) -> tuple[Door | None, list[str]]:
        """Hold a range, as `Session` has it. Returns where the replica is called, and what people should know of its lines.

        Args:
            run_dir: where checkpoints and logs go.
            start: None for a newcomer, which is to `take_up` what another replica holds.
            charter: what another coordinator would have to know of the run, as `transport.publish` made it; shard 0 keeps it.
        """
        forget_peak()
        self._charter = None if charter is None else transport.receive(charter)
        self._output.keep(run_dir, log_name(replica), run.log)
        self._session = Session(run_dir, replica, run, door, spec, start, self._lifeline.stir)
        self._lifeline.has_line = door is not None
        return self._session.ready

    # --- another coordinator ----------------------------------------------------------------------------------------------------------

    def epoch(self) -> int | None:
        """Of the coordinator that it obeys; None when it serves no run."""
        return None if self._session is None else self._session.epoch

    def fence(self, epoch: int, door: Door | None) -> Fence:
        """See `Session.fence`."""
        return self._serving.fence(epoch, door)

    def kept(self) -> KeptLog:
        """The log."""
        return self._serving.log

    def charter(self) -> Any:
        """As `transport.publish` makes it; None where it is not kept."""
        return None if self._charter is None else transport.publish(self._charter)

    def where(self) -> hosts.Place:
        return hosts.this_process()

    def meet(self, newcomer: p.ReplicaId, handle: Any) -> None:
        """Know the process of a newcomer to this shard."""
        self._serving.newcomers[newcomer] = handle

    def take_up(self, holding: sh.Holding, numbers: vectors.Holding) -> None:
        """See `Session.take_up`."""
        self._serving.take_up(holding, numbers)

    def meet_donor(self, name: str, pieces: Sequence[copies.Piece]) -> None:
        """Know who offers a model under that name."""
        self._serving.donors[name] = pieces

    @transport.call(group="offers")
    def offered(self, name: str) -> vectors.Offer:
        """See `Session.offered`."""
        return self._serving.offered(name)

    @property
    def _serving(self) -> "Session":
        assert self._session is not None, "this process serves no run at present"
        return self._session

    def can_read(self, shown: nearby.Shown) -> bool:
        """See `nearby.can_read`."""
        return nearby.can_read(shown, hosts.this_process().node)

    @transport.call()
    def push(self, *push: Any) -> tuple[int, Any] | None:
        """See `Session.push`."""
        return self._serving.push(*push)

    @transport.call(answered=False)
    def told(self, told: p.Told, passed: bool = False) -> None:
        """See `Session.told`."""
        self._serving.told(told, passed)

    @transport.call()
    def read(self, reader: str, number: int, fragment: int | None = None) -> Any:
        """See `Session.read`."""
        return self._serving.read(reader, number, fragment)

    @transport.call()
    def read_cut(self, reader: str, number: int, cuts: transport.Cuts) -> Any:
        """See `Session.read_cut`."""
        return self._serving.read_cut(reader, number, cuts)

    def mean(self, name: str) -> Any:
        """See `Session.mean`."""
        return self._serving.mean(name)

    @transport.call(group="watch")
    def until_closed(self, epoch: int) -> None:
        """Answers when the run is over, or has another coordinator; that the call breaks is how one learns of this process's death."""
        session = self._serving
        while session.epoch <= epoch and not session.closed.wait(LOOK_EVERY_S):
            pass

    def rest(self) -> int:
        """Forget the run. Returns the peak resident memory in bytes."""
        if self._session is not None:
            self._session.close()
            self._session = self._charter = None
            self._lifeline.let_go()
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
        lost: called when the line to the coordinator breaks.
    """

    def __init__(
        self,
        run_dir: str,
        replica: p.ReplicaId,
        run: RunHandle,
        door: Door | None,
        spec: ShardSpec,
        start: Start | None,
        lost: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._itemsize = np.dtype(spec.layout.dtype).itemsize
        self._news_fit = (spec.owned.stop - spec.owned.start) * self._itemsize <= transport.INLINE_BYTES
        version = p.Version(0, 0) if start is None else start.version
        self._machine = sh.Shard(replica, spec.owned, version=version, fragments=spec.fragments)
        self._memory: ShardMemory
        if start is not None:
            self._memory = ShardMemory(spec, transport.receive(start.values).clone(), start.version.number, transport.publish)
            if start.slots:
                self._memory.restore_optimizer(start.slots)
        self.newcomers: dict[p.ReplicaId, Any] = {}
        """Handles of the processes that stand for newcomers to this shard."""
        self.donors: dict[str, Sequence[copies.Piece]] = {}
        """Shards of other runs, by the name under which they offer their model."""
        self._offering = threading.Condition()
        self._run = Folder.at(run_dir)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._answers: dict[tuple[str, int, int | None], Any] = {}
        self._cuts: dict[tuple[int, transport.Cuts], list[Any]] = {}
        """Versions divided between the processes of gangs."""
        self._said: list[tuple[int, p.Report]] = []
        """Numbered reports that go up at the end of the turn."""
        self._failed: p.ReplicaLost | None = None
        self._confirm = False
        self._lost = lost
        self._heard_s = self._lost_s = time.monotonic()
        self._lock = threading.RLock()
        self._depth = 0
        self._exchange: Exchange | None = None
        self._reports = Reports(run)
        self.closed = threading.Event()
        self.ready: tuple[Door | None, list[str]] = (None, []) if door is None else self._open_lines(door, run)
        """Where it is called, and what people should know of its lines."""

    def _open_lines(self, door: Door, run: RunHandle) -> tuple[Door | None, list[str]]:
        me, self._exchange = line_name(self._machine.replica), Exchange(self._hear, self._line_broke)
        line, no_line = connect(self._exchange, door, me, "the coordinator")
        self._reports = Reports(run, line)
        own, no_door = open_door(self._exchange, door.key, me)
        return own, [trouble for trouble in (no_line, no_door) if trouble]

    def _line_broke(self, line: Line) -> None:
        if self._reports.over(line):
            self._lost_s = time.monotonic()
            self._lost()

    # --- another coordinator ----------------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Of the coordinator that is obeyed."""
        return self._machine.epoch

    @property
    def log(self) -> KeptLog:
        """As it is now."""
        with self._turn():
            return self._machine.log.copy()

    def fence(self, epoch: int, door: Door | None) -> Fence:
        """Obey no coordinator of a smaller epoch from here on, and talk to the one behind that door."""
        machine, now_s = self._machine, time.monotonic()
        line, _ = connect(self._exchange, door, line_name(machine.replica), "the coordinator")
        with self._turn():
            standing = Standing(machine.replica, machine.epoch, machine.log.stop, machine.next_seq)
            self._handle([sh.Fenced(epoch)])
            self._reports.attach(line)
            return Fence(standing, self.ready[0], now_s - self._heard_s, now_s - max(self._heard_s, self._lost_s))

    def take_up(self, holding: sh.Holding, numbers: vectors.Holding) -> None:
        """Go on from where another replica was.

        Args:
            numbers: with what `transport.publish` made in the place of each tensor.
        """
        with self._turn():
            versions = {wanted: transport.receive(published) for wanted, published in numbers.versions.items()}
            received = replace(_each(transport.receive, numbers), versions=versions)
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
                    case ("told", arguments):
                        self.told(*arguments)
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
        fragment: int | None = None,
    ) -> tuple[int, Any] | None:
        """Take a range of an update or reference; the answer means that it was copied (or refused) and the sender may let go.

        A sender whose newest version is older than the shard's gets that along with the answer, where it is small: the next order will
        most likely be based on it. None for a sender that wants none.

        Raises:
            OSError, ValueError: the sender's memory could not be read.
        """
        payload = self._read(shipped) if isinstance(shipped, transport.Near) else _sent(transport.unship(shipped))
        with self._turn():
            self._handle([sh.Pushed(name, sender, start, stop, samples, compute_ns, payload, weight, fragment)])
            number = self._machine.version.number
            return (number, self._memory.read(number)) if newest is not None and newest < number and self._news_fit else None

    def _read(self, near: transport.Near) -> vectors.Taken:
        """What lies in the sender's memory, as memory of this process; no more of it than a range has in its plain form."""
        most = (self._spec.owned.stop - self._spec.owned.start) * self._itemsize
        nearby.check(near.body, most)
        with self._turn():
            room = self._memory.room(near.body.num_bytes)
        body = room.numpy().view(np.uint8)[: near.body.num_bytes]
        nearby.read(near.body, body)
        return vectors.Taken(replace(near.header, body=body), room)

    def told(self, told: p.Told, passed: bool = False) -> None:
        """What the coordinator says, or a donor passes on."""
        with self._turn():
            if not passed:
                self._heard_s = time.monotonic()
            self._confirm = self._confirm or told.confirm
            self._handle([sh.Heard(told, passed)])

    def read(self, reader: str, number: int, fragment: int | None = None) -> Any:
        """A version, or a fragment of it, as `transport.publish` made it, or the sentence that says why it is not to be had."""
        with self._turn():
            self._handle([sh.ReadAsked(reader, number, fragment)])
            return self._answers.pop((reader, number, fragment), f"version {number} does not exist yet")

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
                if not self._depth:
                    self._speak()

    def _speak(self) -> None:
        if self._failed is not None:
            self._reports.tell([self._failed])
            self._failed = None
        if self._said or self._confirm:
            said, self._said, self._confirm = self._said, [], False
            self._reports.say(self._machine.replica, self._machine.log.stop, said)

    def _handle(self, events: Iterable[sh.ShardEvent]) -> None:
        try:
            for event in events:
                self._obey(self._machine.handle(event))
        except Exception:
            # A shard that failed in the middle of a command no longer holds what the others hold: it must not go on.
            self._failed = p.ReplicaLost(self._machine.replica, traceback.format_exc())
            raise

    def _obey(self, orders: list[sh.ShardOrder]) -> None:
        """Execute orders in sequence; what an answer sets going is executed before the next order."""
        for order in orders:
            match order:
                case sh.StoreRange():
                    stored = self._memory.store(
                        order.name, order.start, order.stop, order.weight, order.payload, order.references, order.fragment
                    )
                    self._obey(self._machine.handle(stored))
                case sh.Run(p.Snapshot(checkpoint)):
                    self._writer.submit(self._save, checkpoint, self._memory.optimizer_state())
                    self._obey(self._machine.handle(sh.Ran(order.command)))
                case sh.Run(p.Offer()):
                    self._obey(self._machine.handle(self._memory.run(order.command)))
                    with self._offering:
                        self._offering.notify_all()
                case sh.Run(p.Fetch(name, source)):
                    threading.Thread(target=self._fetch, args=(name, source), name="fetch", daemon=True).start()
                    self._obey(self._machine.handle(sh.Ran(order.command)))
                case sh.Run(p.Step() | p.Replace() as step):
                    self._obey(self._machine.handle(self._memory.run(step, save=self._machine.wants_saved(step))))
                case sh.Run(command):
                    self._obey(self._machine.handle(self._memory.run(command)))
                case sh.Serve(reader, number, fragment):
                    self._answers[reader, number, fragment] = self._memory.read(number, fragment)
                case sh.Refuse(reader, number, reason, fragment):
                    self._answers[reader, number, fragment] = reason
                case sh.FreeVersions(numbers):
                    self._memory.free(numbers)
                    self._cuts = {key: made for key, made in self._cuts.items() if key[0] not in numbers}
                case sh.SendUp(event, number):
                    self._said.append((number, event))
                case sh.HandOver(newcomer, holding):
                    held = _each(transport.publish, self._memory.holding())
                    self.newcomers[newcomer].take_up.remote(holding, held)
                case sh.PassOn(newcomer, event):
                    self._pass_on(self.newcomers[newcomer], event)

    def offered(self, name: str) -> vectors.Offer:
        """What is offered under that name, once the commands have come to its place.

        Raises:
            TimeoutError: they do not.
        """
        with self._offering:
            self._offering.wait_for(lambda: self._memory.offered(name) is not None, copies.FETCH_TIMEOUT_S)
        if (offer := self._memory.offered(name)) is None:
            raise TimeoutError(f"nothing was offered as {name} within {copies.FETCH_TIMEOUT_S:.0f} s")
        return offer

    def _fetch(self, name: str, source: str) -> None:
        """In a thread of its own: training goes on meanwhile."""
        error, model = "", None
        try:
            model = copies.fetch(source, self.donors.pop(source), self._machine.owned)
            error = self._memory.misfit(model)
        except KeyError:
            error = "a replica that has just come does not know who offers the model; ask again"
        except Exception as trouble:  # whatever it is, the run goes on as it was, and says why
            traceback.print_exc()
            error = f"{type(trouble).__name__}: {trouble}"
        with self._turn():
            if model is not None and not error:
                self._memory.take(name, model)
            self._handle([sh.FetchEnded(name, error)])

    def _pass_on(self, newcomer: Any, event: sh.Pushed | sh.Heard) -> None:
        """Through Ray, which keeps the order of one caller's calls."""
        match event:
            case sh.Heard(told):
                newcomer.told.remote(told, True)
            case sh.Pushed(name, sender, start, stop, samples, compute_ns, payload, weight, fragment):
                shipped, _ = transport.ship(_sent(payload), (stop - start) * self._itemsize)
                newcomer.push.remote(name, sender, start, stop, samples, weight, compute_ns, shipped, None, fragment)

    def _save(self, checkpoint: int, slots: Mapping[str, torch.Tensor]) -> None:
        """In the writer's thread: training goes on meanwhile."""
        replica, owned = self._machine.replica, self._machine.owned
        try:
            saved = asdict(write_optimizer(folder_of(self._run, checkpoint), replica, owned, slots))
            done = p.SnapshotDone(replica, checkpoint, saved)
        except OSError as error:
            done = p.SnapshotDone(replica, checkpoint, error=f"{error}")
        with self._turn():
            self._handle([sh.Saved(done)])


def _sent(payload: Any) -> Any:
    """A payload as it travels: what it lies in is this process's own, and no other process can say that of what it sends."""
    return payload.payload if isinstance(payload, vectors.Taken) else payload


def _each(do: Callable[[Any], Any], numbers: vectors.Holding) -> vectors.Holding:
    """The same with `do` of each tensor in its place; versions were published before."""
    return replace(
        numbers,
        values=do(numbers.values),
        slots={name: do(slot) for name, slot in numbers.slots.items()},
        vectors={name: (do(values), *rest) for name, (values, *rest) in numbers.vectors.items()},
    )


def log_name(replica: p.ReplicaId) -> str:
    """Of a replica, as its log has it."""
    return f"shard{replica.shard}" + (f"-replica{replica.replica}" if replica.replica else "")


def line_name(replica: p.ReplicaId) -> str:
    """Under which a replica calls the coordinator."""
    return f"shard/{replica.shard}/{replica.replica}"
