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
from mottle.core.fragments import Fragments
from mottle.core.keeping import KeptLog, Outbox
from mottle.core.layout import BLOCK, Range
from mottle.core.messages import message

# --- facts that the driver brings -------------------------------------------------------------------------------------------------------


@message
class Pushed:
    """Coordinates [start, stop) of vector `name` have arrived from `sender`; `payload` is the driver's handle of the encoded range.

    They are the layout's; of an update of one fragment, the fragment's own.
    """

    name: str
    sender: int
    start: int
    stop: int
    samples: int
    compute_ns: int
    payload: Any
    weight: float | None = None
    fragment: int | None = None


@message
class RangeStored:
    """Answer to `StoreRange`. `dots` are with the references that the order listed."""

    name: str
    start: int
    stop: int
    finite: bool
    norm2: int
    dots: tuple[tuple[str, int], ...] = ()
    fault: str = ""


@message
class Heard:
    """The coordinator has said this; `passed` on by a donor, which had obeyed it."""

    told: p.Told
    passed: bool = False


@message
class Fenced:
    """A new coordinator takes over: from here on nobody of a smaller epoch is obeyed."""

    epoch: int


@message
class Saved:
    """A snapshot's part is on storage, or could not be written."""

    done: p.SnapshotDone


@message
class Ran:
    """Answer to `Run`: `values` of a measurement. A snapshot is answered when it is taken; `SnapshotDone` follows when it is on storage."""

    command: p.ShardCommand
    values: tuple[int, ...] = ()


@message
class ReadAsked:
    """`reader` wants version `number`, or one fragment of it."""

    reader: str
    number: int
    fragment: int | None = None


@message
class TakenOver:
    """A newcomer has been handed what its donor held; what was passed on since comes after this, in the donor's order."""

    holding: "Holding"


@message
class FetchEnded:
    """What a `Fetch` was to get is held as `name`, or `error` says why not. However long it takes, other facts go on."""

    name: str
    error: str = ""


ShardEvent = Pushed | RangeStored | Heard | Fenced | Saved | Ran | ReadAsked | TakenOver | FetchEnded

NOBODY = -2
"""Sender of messages that do not say who sent them."""

# --- orders to the driver ---------------------------------------------------------------------------------------------------------------


@message
class StoreRange:
    """Decode, check and copy the payload into own memory; answer `RangeStored` with norm and inner products over the parameters."""

    name: str
    start: int
    stop: int
    weight: float
    """What the sum is divided by to give a mean."""
    payload: Any
    references: tuple[str, ...]
    fragment: int | None = None


@message
class Run:
    """Execute one command of a batch and answer `Ran`. Before a step or a replacement save the version that it replaces, if the machine
    `wants_saved` it then. A fetch is answered when it has begun; `FetchEnded` follows."""

    command: p.ShardCommand


@message
class Serve:
    reader: str
    number: int
    fragment: int | None = None


@message
class Refuse:
    reader: str
    number: int
    reason: str
    fragment: int | None = None


@message
class FreeVersions:
    numbers: tuple[int, ...]


@message
class SendUp:
    """Tell the coordinator, which knows what it has heard by the number."""

    event: p.Report
    number: int = field(default=0, compare=False)


@message
class HandOver:
    """Give a newcomer a copy of every version kept, the optimizer's slots, every vector held, and `holding`; it answers `TakenOver`."""

    newcomer: p.ReplicaId
    holding: "Holding"


@message
class PassOn:
    """Give a newcomer this fact, after all that it was given before."""

    newcomer: p.ReplicaId
    event: Pushed | Heard


ShardOrder = StoreRange | Run | Serve | Refuse | FreeVersions | SendUp | HandOver | PassOn


@dataclass(slots=True)
class _Vector:
    """A vector on its way in, or held."""

    sender: int
    samples: int
    compute_ns: int
    weight: float | None
    fragment: int | None
    ranges: dict[tuple[int, int], RangeStored | None] = field(default_factory=dict)
    receipt: p.Receipt | None = None


@message
class KnownVector:
    """A vector as `Holding` has it."""

    name: str
    sender: int
    samples: int
    compute_ns: int
    weight: float | None
    fragment: int | None
    parts: tuple[RangeStored, ...]
    receipt: p.Receipt | None
    """Once all of its ranges are stored."""


@message
class KeptVersion:
    """A version as `Holding` has it."""

    number: int
    moved: int | None
    """The fragment that the step to it moved."""
    unread: tuple[str, ...]
    """Holders that have yet to read it."""


@message
class Holding:
    """What a replica knows at a place of the command order, for another one to go on from."""

    version: p.Version
    epoch: int
    next_seq: int
    floor: int
    kept: tuple[KeptVersion, ...]
    """The newest version and older ones, ascending: a newcomer may be the only one left when somebody comes for them."""
    vectors: tuple[KnownVector, ...]
    log: KeptLog
    since: tuple[tuple[int, int], ...] = ()
    """Of models side by side: (model, the version of its last step)."""


_MOST_RIVALS = 256  # messages; a worker pushes one or two a shard


class Shard:
    """One replica.

    Args:
        replica: which one.
        owned: the coordinates that this shard holds; may be empty.
        version: number of the version it starts with.
        fragments: of the model, where they are stepped apart.
        max_vectors: vectors it will hold at once; a further one is refused, so that nobody can exhaust its memory.
        logged: whether the coordinator keeps a log, so that what was said to it may be asked for again.
    """

    def __init__(
        self,
        replica: p.ReplicaId,
        owned: Range,
        *,
        version: p.Version,
        fragments: Fragments | None = None,
        max_vectors: int = 4096,
        logged: bool = True,
    ) -> None:
        self.replica = replica
        self.owned = owned
        self.version = version
        self._owned: dict[int | None, Range] = {None: owned}
        if fragments is not None:
            self._owned |= {each: fragments.owned(each, owned) for each in range(len(fragments))}
        self._moved: dict[int, int | None] = {version.number: None}
        """What the step to each kept version moved."""
        self._apart = fragments is not None and fragments.apart
        self._since: dict[int, int] = {}
        """Of models side by side: the version since which each is as it is, where it is not as at the beginning."""
        self._max_vectors = max_vectors
        self.epoch = 0
        self.next_seq = 0
        self._early: dict[int, tuple[p.Batch, int]] = {}
        """Batches that cannot be run yet, with the log that must be held before."""
        self.log = KeptLog()
        self._outbox = Outbox(replica, keeping=logged)
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
        self._is_read = False
        """Whether anybody has ever come here for a version: of a shard's replicas they all read the primary."""
        self._waiting: list[ReadAsked] = []
        self._newcomers: dict[p.ReplicaId, int] = {}
        """Who is given everything that comes in, and the first batch that is passed on."""
        self._handlers: dict[type, Callable[[Any], list[ShardOrder]]] = {
            Pushed: self._on_pushed,
            RangeStored: self._on_range_stored,
            Heard: self._on_heard,
            Fenced: self._on_fenced,
            Saved: self._on_saved,
            Ran: self._on_ran,
            ReadAsked: self._on_read,
            TakenOver: self._on_taken_over,
            FetchEnded: lambda e: [self._say(p.Fetched(self.replica, e.name, e.error))],
        }

    def handle(self, event: ShardEvent) -> list[ShardOrder]:
        """Take one fact; return what the driver must do, in order."""
        return self._handlers[type(event)](event)

    # --- vectors in -------------------------------------------------------------------------------------------------------------------

    def _on_pushed(self, event: Pushed) -> list[ShardOrder]:
        if malformed := _malformed(event):
            return [self._say(_malformed_receipt(self.replica, event, malformed))]
        vector = self._vectors.get(event.name)
        if vector is not None and vector.sender != event.sender and p.work_id_of(event.name) is not None:
            return self._contest(event, vector.sender)
        if vector is None:
            if len(self._vectors) >= self._max_vectors:
                return [self._fault(event, f"the shard holds {self._max_vectors} vectors already")]
            vector = _Vector(event.sender, event.samples, event.compute_ns, event.weight, event.fragment)
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
        references = () if is_reference or not self._references else self.references
        weight = float(event.samples) if event.weight is None else event.weight
        order = StoreRange(event.name, event.start, event.stop, weight, event.payload, references, event.fragment)
        return [*self._pass_on(event), order] if self._newcomers else [order]

    def _contest(self, event: Pushed, holder: int) -> list[ShardOrder]:
        """Another one holds a vector of that name, and may be the liar: what the second one sends waits until it is known whose it is."""
        rivals = self._rivals.setdefault(event.name, [])
        if sum(map(len, self._rivals.values())) >= _MOST_RIVALS:
            return [self._fault(event, f"{_MOST_RIVALS} pushes wait already for a word on whose name they are under")]
        known = any(rival.sender == event.sender for rival in rivals)
        rivals.append(event)
        return [] if known else [self._say(p.Contested(self.replica, event.name, (holder, event.sender)))]

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

    def owned_of(self, fragment: int | None) -> Range:
        """What the shard holds of a fragment, in its own coordinates; of the layout for None."""
        return self._owned[fragment]

    def _misfit(self, event: Pushed, vector: _Vector) -> str:
        if not self._knows(event.fragment):
            return f"there is no fragment {event.fragment!r:.40}"
        owned = self._owned[event.fragment]
        if p.work_id_of(event.name) is None and not (event.sender == p.VALIDATOR and event.name.startswith(p.REFERENCE)):
            return f"a worker may push updates of its orders only, and no vector named {event.name!r}"
        if not owned.start <= event.start <= event.stop <= owned.stop or (event.start == event.stop and owned.start < owned.stop):
            return f"range [{event.start}, {event.stop}) is not inside [{owned.start}, {owned.stop})"
        if (event.start - owned.start) % BLOCK:
            return f"range starts at {event.start}, not at a multiple of {BLOCK}"
        if vector.ranges and any(event.start < stop and start < event.stop for start, stop in vector.ranges):
            return f"range [{event.start}, {event.stop}) overlaps one that has arrived"
        known = (vector.sender, vector.samples, vector.weight, vector.fragment)
        if (event.sender, event.samples, event.weight, event.fragment) != known:
            return "its ranges disagree on sender, samples, weight or fragment"
        return ""

    def _knows(self, fragment: object) -> bool:
        return fragment is None or (type(fragment) is int and fragment in self._owned)

    def _fault(self, event: Pushed, reason: str) -> SendUp:
        return self._say(p.Receipt(self.replica, event.name, event.sender, event.samples, False, 0, fault=reason))

    def _on_range_stored(self, event: RangeStored) -> list[ShardOrder]:
        vector = self._vectors.get(event.name)
        if vector is None:
            return []  # dropped meanwhile
        vector.ranges[event.start, event.stop] = event
        stored = [part for part in vector.ranges.values() if part is not None]
        whole = sum([part.stop - part.start for part in stored]) == self._owned[vector.fragment].size
        if not whole or len(stored) < len(vector.ranges):
            return []
        finite, norm2, dots, fault = _measured(stored)
        about, spent_ns, weight = (self.replica, event.name, vector.sender, vector.samples), vector.compute_ns, vector.weight
        vector.receipt = p.Receipt(*about, finite, norm2, dots, spent_ns, weight, fault, vector.fragment)
        return [self._say(vector.receipt)]

    @property
    def references(self) -> tuple[str, ...]:
        """Reference vectors that are held whole; arriving updates are measured against them."""
        return tuple(name for name, vector in self._references.items() if vector.receipt is not None)

    @property
    def held(self) -> tuple[str, ...]:
        """Names of all vectors that are held, whole or in part."""
        return tuple(self._vectors)

    # --- the coordinator --------------------------------------------------------------------------------------------------------------

    def _say(self, event: p.Report) -> SendUp:
        return SendUp(event, self._outbox.put(event))

    def _on_fenced(self, event: Fenced) -> list[ShardOrder]:
        self._fence(event.epoch)
        return []

    def _fence(self, epoch: int) -> None:
        """What a replaced coordinator said last and cannot be run yet, the new one says again if it knows of it."""
        if epoch > self.epoch:
            self.epoch = epoch
            self._early.clear()
            self.log.forget_early()

    def _note_page(self, epoch: int, page: p.Page) -> list[ShardOrder]:
        return [order for new in self.log.add(page) for order in self._pass_on(Heard(p.Told(epoch, page=new), passed=True))]

    def _on_heard(self, event: Heard) -> list[ShardOrder]:
        told = event.told
        if not event.passed:
            if told.epoch < self.epoch:
                return []  # a coordinator that was replaced
            self._fence(told.epoch)
        orders = [] if told.page is None else self._note_page(told.epoch, told.page)
        if told.heard and self.log.stop >= told.log_stop:  # else what shows that they were heard may yet be lost
            self._outbox.heard(told.heard)
        if told.base is not None:
            self.log.rest_on(told.base)
        for batch in told.batches:
            if batch.seq >= self.next_seq:  # else it is said twice
                self._early[batch.seq] = batch, told.log_stop
        orders += self._run_what_can_be()
        if told.again:
            orders += [SendUp(event, number) for number, event in self._outbox.kept]
        return orders

    def _run_what_can_be(self) -> list[ShardOrder]:
        orders: list[ShardOrder] = []
        while self.next_seq in self._early and self._early[self.next_seq][1] <= self.log.stop:
            following, log_stop = self._early.pop(self.next_seq)
            self.next_seq += 1
            if self._newcomers:
                orders += self._pass_on(Heard(p.Told(self.epoch, log_stop, (following,)), passed=True))
            for command in following.commands:
                orders.append(Run(command))
                if isinstance(command, p.Adopt) and command.donor == self.replica:
                    self._newcomers[command.newcomer] = self.next_seq
        return orders

    def _on_saved(self, event: Saved) -> list[ShardOrder]:
        return [self._say(event.done)]

    def _pass_on(self, event: Pushed | Heard) -> list[ShardOrder]:
        return [PassOn(newcomer, event) for newcomer in self._newcomers]

    def _on_ran(self, event: Ran) -> list[ShardOrder]:
        match event.command:
            case p.Step() | p.Replace() as step:
                return self._stepped(step)
            case p.Drop(names):
                self._forget(names)
                return [order for name in names for push in self._evicting.pop(name, ()) for order in self._on_pushed(push)]
            case p.Award() as award:
                return self._awarded(award)
            case p.Measure(request) | p.Distances(request) | p.RuleStatistics(request):
                return [self._say(p.Measured(self.replica, request, event.values))]
            case p.Adopt(donor, newcomer) if donor == self.replica:
                return [HandOver(newcomer, self._holding_for(newcomer))]
            case p.Sync(newcomer) if newcomer == self.replica:
                return [self._say(p.ReplicaSynced(newcomer))]
            case p.Wean(newcomer):
                self._newcomers.pop(newcomer, None)
        return []

    # --- newcomers --------------------------------------------------------------------------------------------------------------------

    def _holding_for(self, newcomer: p.ReplicaId) -> Holding:
        vectors = tuple(map(_known, self._vectors.items()))
        kept = tuple(KeptVersion(each, self._moved.get(each), tuple(sorted(self._unread.get(each, ())))) for each in sorted(self._kept))
        since = tuple(self._since.items())
        return Holding(self.version, self.epoch, self._newcomers[newcomer], self._floor, kept, vectors, self.log.copy(), since)

    def _on_taken_over(self, event: TakenOver) -> list[ShardOrder]:
        holding = event.holding
        self.version, self._floor, self._kept = holding.version, holding.floor, {each.number for each in holding.kept}
        self._moved = {each.number: each.moved for each in holding.kept}
        self._since = dict(holding.since)
        self._unread = {each.number: set(each.unread) for each in holding.kept}
        self._holding = {name: each.number for each in holding.kept for name in each.unread}
        self.epoch, self.next_seq = max(self.epoch, holding.epoch), holding.next_seq
        self.log = holding.log.copy()
        self._early = {seq: early for seq, early in self._early.items() if seq >= self.next_seq}
        for known in holding.vectors:
            vector = self._vectors[known.name] = _Vector(known.sender, known.samples, known.compute_ns, known.weight, known.fragment)
            vector.ranges = {(part.start, part.stop): part for part in known.parts}
            vector.receipt = None if known.receipt is None else replace(known.receipt, replica=self.replica)
            if known.name.startswith(p.REFERENCE):
                self._references[known.name] = vector
        receipts = [vector.receipt for vector in self._vectors.values() if vector.receipt is not None]
        return [*map(self._say, receipts), self._say(p.ReplicaReady(self.replica))]

    # --- steps ------------------------------------------------------------------------------------------------------------------------

    def wants_saved(self, step: p.Step | p.Replace) -> bool:
        """Whether somebody may still read the version that a step, which is about to be run, replaces.

        A copy of every version is a good part of what a backup costs, and nobody reads it. So a backup saves none where it replaces the
        version that was published when the step was told and nobody was said to hold any, as between two synchronous rounds. Should the
        primary die before an order has read that was given while such a step was under way, the order comes back. Where fragments are
        stepped apart workers read when it suits them. Of models side by side only the validator reads all, which is said: who reads one
        reads it as it is.
        """
        reads_at_will = isinstance(step, p.Step) and step.fragment is not None
        if step.floor < self.version.number or (not self._apart and (self._is_read or reads_at_will)):
            return True
        told = {name for _, names in step.holds for name in names}
        return bool((self._holding.keys() | told) - set(step.released))

    def _stepped(self, step: p.Step | p.Replace) -> list[ShardOrder]:
        unsaved = () if self.wants_saved(step) else (self.version.number,)
        self.version = step.version
        self._floor = step.floor
        self._moved[step.version.number] = moved = step.fragment if isinstance(step, p.Step) else None
        if self._apart:
            self._since |= dict.fromkeys(self._models if moved is None else (moved,), step.version.number)
        self._kept.add(step.version.number)
        self._kept.difference_update(unsaved)
        self._note_holders(step)
        self._forget(step.drop)
        waiting, self._waiting = self._waiting, []
        served = [order for read in waiting for order in self._on_read(read)] if waiting else []
        return [self._say(p.Stepped(self.replica, step.version)), *served, *self._free(unsaved)]

    def _forget(self, names: tuple[str, ...]) -> None:
        for name in names:
            self._vectors.pop(name, None)
            if self._rivals:
                self._rivals.pop(name, None)
            if self._references:
                self._references.pop(name, None)

    def _note_holders(self, step: p.Step | p.Replace) -> None:
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
        self._is_read = True
        if event.number > self.version.number:
            self._waiting.append(event)
            return []
        if reason := self._why_not(event.number, event.fragment):
            return [Refuse(event.reader, event.number, reason, event.fragment)]
        serve = Serve(event.reader, event.number, event.fragment)
        if self._apart and event.fragment is not None:
            return [serve]  # it is as it was then, so nothing had to be kept for this reader
        self._has_read.setdefault(event.number, set()).add(event.reader)
        if self._holding.get(event.reader) != event.number:
            return [serve]
        del self._holding[event.reader]
        self._unread[event.number].discard(event.reader)
        return [serve, *self._free()] if event.number < self._floor else [serve]

    @property
    def _models(self) -> list[int]:
        return [each for each in self._owned if each is not None]

    def _why_not(self, number: int, fragment: int | None) -> str:
        """Why it cannot be read; empty if it can. Of older versions only the fragment that moved is kept by itself; of several models any
        that is still what it was then."""
        if self._apart and fragment is not None and self._knows(fragment):
            last = self._since.get(fragment, 0)
            return "" if number >= last else f"model {fragment} of version {number} is gone, it has moved to version {last}"
        if number not in self._kept:
            return f"version {number} is gone, the newest is {self.version.number}"
        if not self._knows(fragment):
            return f"there is no fragment {fragment!r:.40}"
        kept = fragment is None or number == self.version.number or fragment == self._moved.get(number)
        return "" if kept else f"fragment {fragment} of version {number} is gone, the newest is {self.version.number}"

    def _free(self, unsaved: tuple[int, ...] = ()) -> list[ShardOrder]:
        """Forget versions below the floor that nobody has still to read, and those that were not saved."""
        gone = (*unsaved, *sorted([number for number in self._kept if number < self._floor and not self._unread.get(number)]))
        for number in gone:
            self._kept.discard(number)
            self._moved.pop(number, None)
            self._has_read.pop(number, None)
            self._unread.pop(number, None)
        return [FreeVersions(gone)] if gone else []

    # --- invariants -------------------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        assert self.version.number in self._kept
        assert all(number >= self._floor or self._unread.get(number) for number in self._kept), f"useless versions {self._kept}"
        assert all(seq >= self.next_seq for seq in self._early)


def _measured(stored: list[RangeStored]) -> tuple[bool, int, tuple[tuple[str, int], ...], str]:
    """What the parts of a vector say together: whether all are finite, the squared norm, inner products that all have, the first fault."""
    if len(stored) == 1 and not stored[0].dots:
        return stored[0].finite, stored[0].norm2, (), stored[0].fault
    shared = set.intersection(*({name for name, _ in part.dots} for part in stored)) if stored[0].dots else ()
    dots = tuple((name, sum(dict(part.dots)[name] for part in stored)) for name in sorted(shared))
    fault = next((part.fault for part in stored if part.fault), "")
    return all(part.finite for part in stored), sum(part.norm2 for part in stored), dots, fault


def _malformed(event: Any) -> str:
    """Why nothing in the message can be relied on: it says things of the wrong kind, and senders are not trusted to say anything else."""
    if not isinstance(event.name, str):
        return "the name of its vector is none"
    if not type(event.sender) is type(event.start) is type(event.stop) is type(event.compute_ns) is int:
        return "sender, range and time are whole numbers"
    if not _is_number(event.samples) or not (event.weight is None or _is_number(event.weight)):
        return "samples and weight are numbers"
    return ""


def _is_number(claim: Any) -> bool:
    """Whether it is one that fits double precision; NaN does, and is refused by whoever knows what was asked for."""
    return type(claim) is float or (type(claim) is int and abs(claim) < 1 << 1000)


def _malformed_receipt(replica: p.ReplicaId, event: Pushed, reason: str) -> p.Receipt:
    """What the coordinator hears of a message of which it had better hear no more."""
    name = event.name if isinstance(event.name, str) else ""
    sender = event.sender if type(event.sender) is int else NOBODY
    return p.Receipt(replica, name, sender, 0, False, 0, fault=reason)


def _known(item: tuple[str, _Vector]) -> KnownVector:
    """A driver stores a range in the turn in which it came, so none is half-way."""
    name, vector = item
    parts = tuple(part for part in vector.ranges.values() if part is not None)
    assert len(parts) == len(vector.ranges), f"a range of {name} is being stored"
    return KnownVector(name, vector.sender, vector.samples, vector.compute_ns, vector.weight, vector.fragment, parts, vector.receipt)
