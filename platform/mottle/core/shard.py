"""One replica of a shard, as a pure machine: receives, deduplicates, orders, steps, publishes, forgets. On opaque payload handles.

The driver (a Ray actor, the simulator) owns the numbers. It feeds facts in, executes the orders that come back *in order*, and feeds the
result of each order back in before it executes the next one. Every replica runs the same batches in the same order, so all replicas of a
shard hold the same bits.

Knows no worker's state, no lease and no strategy.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from mottle.core import protocol as p
from mottle.core.layout import BLOCK, Range

# --- facts that the driver brings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pushed:
    """Coordinates [start, stop) of vector `name` have arrived from `sender`; `payload` is the driver's handle of the encoded range."""

    name: str
    sender: int
    start: int
    stop: int
    samples: int
    compute_ns: int
    payload: Any
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class RangeStored:
    """Answer to `StoreRange`. `dots` are with the references that the order listed."""

    name: str
    start: int
    stop: int
    finite: bool
    norm2: int
    dots: tuple[tuple[str, int], ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class BatchArrived:
    batch: p.Batch


@dataclass(frozen=True, slots=True)
class Ran:
    """Answer to `Run`: `values` of a measurement. A snapshot is answered when it is taken; `SnapshotDone` follows when it is on storage."""

    command: p.ShardCommand
    values: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadAsked:
    """`reader` wants version `number`."""

    reader: str
    number: int


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A newcomer has been handed what its donor held; what was passed on since comes after this, in the donor's order."""

    holding: "Holding"


ShardEvent = Pushed | RangeStored | BatchArrived | Ran | ReadAsked | TakenOver

NOBODY = -2
"""Sender of messages that do not say who sent them."""

# --- orders to the driver ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoreRange:
    """Decode, check and copy the payload into own memory; answer `RangeStored` with norm and inner products over the parameters."""

    name: str
    start: int
    stop: int
    weight: float
    """What the sum is divided by to give a mean."""
    payload: Any
    references: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Execute one command of a batch and answer `Ran`. Before a step, save version `number - 1`: somebody may still read it."""

    command: p.ShardCommand


@dataclass(frozen=True, slots=True)
class Serve:
    reader: str
    number: int


@dataclass(frozen=True, slots=True)
class Refuse:
    reader: str
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class FreeVersions:
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SendUp:
    """Tell the coordinator."""

    event: p.Receipt | p.Contested | p.Measured | p.Stepped | p.ReplicaReady | p.ReplicaSynced


@dataclass(frozen=True, slots=True)
class HandOver:
    """Give a newcomer a copy of the newest version, the optimizer's slots, every vector held, and `holding`; it answers `TakenOver`."""

    newcomer: p.ReplicaId
    holding: "Holding"


@dataclass(frozen=True, slots=True)
class PassOn:
    """Give a newcomer this fact, after all that it was given before."""

    newcomer: p.ReplicaId
    event: Pushed | BatchArrived


ShardOrder = StoreRange | Run | Serve | Refuse | FreeVersions | SendUp | HandOver | PassOn


@dataclass(slots=True)
class _Vector:
    """A vector on its way in, or held."""

    sender: int
    samples: int
    compute_ns: int
    weight: float | None
    ranges: dict[tuple[int, int], RangeStored | None] = field(default_factory=dict)
    receipt: p.Receipt | None = None


@dataclass(frozen=True, slots=True)
class KnownVector:
    """A vector as `Holding` has it."""

    name: str
    sender: int
    samples: int
    compute_ns: int
    weight: float | None
    parts: tuple[RangeStored, ...]
    receipt: p.Receipt | None
    """Once all of its ranges are stored."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What a replica knows at a place of the command order, for another one to go on from."""

    version: p.Version
    epoch: int
    next_seq: int
    floor: int
    vectors: tuple[KnownVector, ...]


_MOST_RIVALS = 256  # messages; a worker pushes one or two a shard


class Shard:
    """One replica.

    Args:
        replica: which one.
        owned: the coordinates that this shard holds; may be empty.
        version: number of the version it starts with.
        max_vectors: vectors it will hold at once; a further one is refused, so that nobody can exhaust its memory.
    """

    def __init__(self, replica: p.ReplicaId, owned: Range, *, version: p.Version, max_vectors: int = 4096) -> None:
        self.replica = replica
        self.owned = owned
        self.version = version
        self._max_vectors = max_vectors
        self._epoch = 0
        self._next_seq = 0
        self._early: dict[int, p.Batch] = {}
        self._vectors: dict[str, _Vector] = {}
        self._references: dict[str, _Vector] = {}
        """Those of them that are references, whole or in part."""
        self._rivals: dict[str, list[Pushed]] = {}
        """Pushes under the name of a vector that another sender holds."""
        self._evicting: dict[str, list[Pushed]] = {}
        """Pushes of the rightful sender, until what is in their place has been dropped."""
        self._kept: set[int] = {version.number}
        self._unread: dict[int, set[str]] = {}
        """Version -> holders that have yet to read it."""
        self._holding: dict[str, int] = {}
        """The same by holder."""
        self._has_read: dict[int, set[str]] = {}
        self._floor = version.number
        self._waiting: list[ReadAsked] = []
        self._newcomers: dict[p.ReplicaId, int] = {}
        """Who is given everything that comes in, and the first batch that is passed on."""
        self._handlers: dict[type, Callable[[Any], list[ShardOrder]]] = {
            Pushed: self._on_pushed,
            RangeStored: self._on_range_stored,
            BatchArrived: self._on_batch,
            Ran: self._on_ran,
            ReadAsked: self._on_read,
            TakenOver: self._on_taken_over,
        }

    def handle(self, event: ShardEvent) -> list[ShardOrder]:
        """Take one fact; return what the driver must do, in order."""
        return self._handlers[type(event)](event)

    # --- vectors in -------------------------------------------------------------------------------------------------------------------

    def _on_pushed(self, event: Pushed) -> list[ShardOrder]:
        if malformed := _malformed(event):
            return [_malformed_receipt(self.replica, event, malformed)]
        vector = self._vectors.get(event.name)
        if vector is not None and vector.sender != event.sender and p.work_id_of(event.name) is not None:
            return self._contest(event, vector.sender)
        if vector is None:
            if len(self._vectors) >= self._max_vectors:
                return [self._fault(event, f"the shard holds {self._max_vectors} vectors already")]
            vector = _Vector(event.sender, event.samples, event.compute_ns, event.weight)
        if (event.start, event.stop) in vector.ranges:
            return []  # said twice
        fault = self._misfit(event, vector)
        if fault:
            return [self._fault(event, fault)]
        self._vectors[event.name] = vector
        vector.ranges[event.start, event.stop] = None
        is_reference = event.name.startswith(p.REFERENCE)
        if is_reference:
            self._references[event.name] = vector
        references = () if is_reference else self.references
        weight = float(event.samples) if event.weight is None else event.weight
        order = StoreRange(event.name, event.start, event.stop, weight, event.payload, references)
        return [*self._pass_on(event), order]

    def _contest(self, event: Pushed, holder: int) -> list[ShardOrder]:
        """Another one holds a vector of that name, and may be the liar: what the second one sends waits until it is known whose it is."""
        rivals = self._rivals.setdefault(event.name, [])
        if sum(map(len, self._rivals.values())) >= _MOST_RIVALS:
            return [self._fault(event, f"{_MOST_RIVALS} pushes wait already for a word on whose name they are under")]
        known = any(rival.sender == event.sender for rival in rivals)
        rivals.append(event)
        return [] if known else [SendUp(p.Contested(self.replica, event.name, (holder, event.sender)))]

    def _awarded(self, award: p.Award) -> list[ShardOrder]:
        vector = self._vectors.get(award.name)
        if vector is not None and vector.sender == award.sender:
            self._rivals.pop(award.name, None)
            return []
        rightful = [rival for rival in self._rivals.pop(award.name, ()) if rival.sender == award.sender]
        if vector is None:
            return [order for push in rightful for order in self._on_pushed(push)]
        self._evicting[award.name] = rightful
        return [Run(p.Drop((award.name,)))]

    def _misfit(self, event: Pushed, vector: _Vector) -> str:
        owned = self.owned
        if p.work_id_of(event.name) is None and not (event.sender == p.VALIDATOR and event.name.startswith(p.REFERENCE)):
            return f"a worker may push updates of its orders only, and no vector named {event.name!r}"
        if not owned.start <= event.start <= event.stop <= owned.stop or (event.start == event.stop and owned.start < owned.stop):
            return f"range [{event.start}, {event.stop}) is not inside [{owned.start}, {owned.stop})"
        if (event.start - owned.start) % BLOCK:
            return f"range starts at {event.start}, not at a multiple of {BLOCK}"
        if any(event.start < stop and start < event.stop for start, stop in vector.ranges):
            return f"range [{event.start}, {event.stop}) overlaps one that has arrived"
        if (event.sender, event.samples, event.weight) != (vector.sender, vector.samples, vector.weight):
            return "its ranges disagree on sender, samples or weight"
        return ""

    def _fault(self, event: Pushed, reason: str) -> SendUp:
        return SendUp(p.Receipt(self.replica, event.name, event.sender, event.samples, False, 0, fault=reason))

    def _on_range_stored(self, event: RangeStored) -> list[ShardOrder]:
        vector = self._vectors.get(event.name)
        if vector is None:
            return []  # dropped meanwhile
        vector.ranges[event.start, event.stop] = event
        stored = [part for part in vector.ranges.values() if part is not None]
        whole = sum([part.stop - part.start for part in stored]) == self.owned.stop - self.owned.start
        if not whole or len(stored) < len(vector.ranges):
            return []
        shared = set.intersection(*({name for name, _ in part.dots} for part in stored)) if stored[0].dots else ()
        dots = tuple((name, sum(dict(part.dots)[name] for part in stored)) for name in sorted(shared))
        vector.receipt = p.Receipt(
            self.replica,
            event.name,
            vector.sender,
            vector.samples,
            all(part.finite for part in stored),
            sum(part.norm2 for part in stored),
            dots,
            vector.compute_ns,
            vector.weight,
            next((part.fault for part in stored if part.fault), ""),
        )
        return [SendUp(vector.receipt)]

    @property
    def references(self) -> tuple[str, ...]:
        """Reference vectors that are held whole; arriving updates are measured against them."""
        return tuple(name for name, vector in self._references.items() if vector.receipt is not None)

    @property
    def held(self) -> tuple[str, ...]:
        """Names of all vectors that are held, whole or in part."""
        return tuple(self._vectors)

    # --- batches ----------------------------------------------------------------------------------------------------------------------

    def _on_batch(self, event: BatchArrived) -> list[ShardOrder]:
        batch = event.batch
        if batch.epoch < self._epoch:
            return []  # a coordinator that was replaced
        if batch.epoch > self._epoch:
            self._epoch, self._next_seq, self._early = batch.epoch, 0, {}
        if batch.seq < self._next_seq:
            return []  # said twice
        self._early[batch.seq] = batch
        orders: list[ShardOrder] = []
        while self._next_seq in self._early:
            following = self._early.pop(self._next_seq)
            self._next_seq += 1
            orders += self._pass_on(BatchArrived(following))
            for command in following.commands:
                orders.append(Run(command))
                if isinstance(command, p.Adopt) and command.donor == self.replica:
                    self._newcomers[command.newcomer] = self._next_seq
        return orders

    def _pass_on(self, event: Pushed | BatchArrived) -> list[ShardOrder]:
        return [PassOn(newcomer, event) for newcomer in self._newcomers]

    def _on_ran(self, event: Ran) -> list[ShardOrder]:
        match event.command:
            case p.Step() as step:
                return self._stepped(step)
            case p.Drop(names):
                self._forget(names)
                return [order for name in names for push in self._evicting.pop(name, ()) for order in self._on_pushed(push)]
            case p.Award() as award:
                return self._awarded(award)
            case p.Measure(request) | p.Distances(request) | p.RuleStatistics(request):
                return [SendUp(p.Measured(self.replica, request, event.values))]
            case p.Adopt(donor, newcomer) if donor == self.replica:
                return [HandOver(newcomer, self._holding_for(newcomer))]
            case p.Sync(newcomer) if newcomer == self.replica:
                return [SendUp(p.ReplicaSynced(newcomer))]
            case p.Wean(newcomer):
                self._newcomers.pop(newcomer, None)
        return []

    # --- newcomers --------------------------------------------------------------------------------------------------------------------

    def _holding_for(self, newcomer: p.ReplicaId) -> Holding:
        return Holding(self.version, self._epoch, self._newcomers[newcomer], self._floor, tuple(map(_known, self._vectors.items())))

    def _on_taken_over(self, event: TakenOver) -> list[ShardOrder]:
        holding = event.holding
        self.version, self._floor, self._kept = holding.version, holding.floor, {holding.version.number}
        self._epoch, self._next_seq = holding.epoch, holding.next_seq
        for known in holding.vectors:
            vector = self._vectors[known.name] = _Vector(known.sender, known.samples, known.compute_ns, known.weight)
            vector.ranges = {(part.start, part.stop): part for part in known.parts}
            vector.receipt = None if known.receipt is None else replace(known.receipt, replica=self.replica)
            if known.name.startswith(p.REFERENCE):
                self._references[known.name] = vector
        receipts = [vector.receipt for vector in self._vectors.values() if vector.receipt is not None]
        return [*map(SendUp, receipts), SendUp(p.ReplicaReady(self.replica))]

    # --- steps ------------------------------------------------------------------------------------------------------------------------

    def _stepped(self, step: p.Step) -> list[ShardOrder]:
        self.version = step.version
        self._floor = step.floor
        self._kept.add(step.version.number)
        self._note_holders(step)
        self._forget(step.drop)
        waiting, self._waiting = self._waiting, []
        served = [order for read in waiting for order in self._on_read(read)]
        return [SendUp(p.Stepped(self.replica, step.version)), *served, *self._free()]

    def _forget(self, names: tuple[str, ...]) -> None:
        for name in names:
            self._vectors.pop(name, None)
            self._rivals.pop(name, None)
            if self._references:
                self._references.pop(name, None)

    def _note_holders(self, step: p.Step) -> None:
        for name in step.released:
            number = self._holding.pop(name, None)
            if number is not None:
                self._unread[number].discard(name)
        for number, names in step.holds:
            if number not in self._kept:
                continue
            has_read, unread = self._has_read.get(number, ()), self._unread.setdefault(number, set())
            for name in names:
                if name not in has_read:
                    unread.add(name)
                    self._holding[name] = number

    # --- versions out -----------------------------------------------------------------------------------------------------------------

    def _on_read(self, event: ReadAsked) -> list[ShardOrder]:
        if event.number > self.version.number:
            self._waiting.append(event)
            return []
        if event.number not in self._kept:
            return [Refuse(event.reader, event.number, f"version {event.number} is gone, the newest is {self.version.number}")]
        self._has_read.setdefault(event.number, set()).add(event.reader)
        if self._holding.get(event.reader) == event.number:
            del self._holding[event.reader]
            self._unread[event.number].discard(event.reader)
        return [Serve(event.reader, event.number), *self._free()]

    def _free(self) -> list[ShardOrder]:
        """Forget versions below the floor that nobody has still to read."""
        gone = tuple(sorted(number for number in self._kept if number < self._floor and not self._unread.get(number)))
        for number in gone:
            self._kept.discard(number)
            self._has_read.pop(number, None)
            self._unread.pop(number, None)
        return [FreeVersions(gone)] if gone else []

    # --- invariants -------------------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        assert self.version.number in self._kept
        assert all(number >= self._floor or self._unread.get(number) for number in self._kept), f"useless versions {self._kept}"
        assert all(seq > self._next_seq for seq in self._early)


def _malformed(event: Any) -> str:
    """Why nothing in the message can be relied on: it says things of the wrong kind, and senders are not trusted to say anything else."""
    if not isinstance(event.name, str):
        return "the name of its vector is none"
    if not all(type(each) is int for each in (event.sender, event.start, event.stop, event.compute_ns)):
        return "sender, range and time are whole numbers"
    if not _is_number(event.samples) or not (event.weight is None or _is_number(event.weight)):
        return "samples and weight are numbers"
    return ""


def _is_number(claim: Any) -> bool:
    """Whether it is one that fits double precision; NaN does, and is refused by whoever knows what was asked for."""
    return type(claim) is float or (type(claim) is int and abs(claim) < 1 << 1000)


def _malformed_receipt(replica: p.ReplicaId, event: Pushed, reason: str) -> SendUp:
    """What the coordinator hears of a message of which it had better hear no more."""
    name = event.name if isinstance(event.name, str) else ""
    sender = event.sender if type(event.sender) is int else NOBODY
    return SendUp(p.Receipt(replica, name, sender, 0, False, 0, fault=reason))


def _known(item: tuple[str, _Vector]) -> KnownVector:
    """A driver stores a range in the turn in which it came, so none is half-way."""
    name, vector = item
    parts = tuple(part for part in vector.ranges.values() if part is not None)
    assert len(parts) == len(vector.ranges), f"a range of {name} is being stored"
    return KnownVector(name, vector.sender, vector.samples, vector.compute_ns, vector.weight, parts, vector.receipt)
