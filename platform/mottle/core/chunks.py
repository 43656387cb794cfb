"""Samples that several workers compute at once: who owns them, and how they end once however many copies there were.

An ordinary lease belongs to the order that it is part of. Coded computation lends the same samples to several workers, so there the leases
of a *chunk* belong to the strategy's round, and any number of orders may hold copies of it, each with a coefficient. A chunk ends once:

- applied, when the version is published that a combination of updates led to which contains each of its samples once. Every chunk then
  counts for one of the accepted updates, the first that computed it: so what the updates of a step name as their samples adds up to its
  batch. The other copies end with it, discarded or abandoned;
- given back, when the strategy gives the round up: its samples are free again. If every copy that came was refused for its content, the
  samples themselves may be what is wrong with it: then they count as rejected, as those of an ordinary order do (tried once more first).

So a verdict on a copy says nothing about the chunk, and a worker that lies cannot spend anybody's samples.

Knows no member, shard or strategy.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mottle.core.errors import ProtocolError
from mottle.core.leases import NOBODY, ROUND, LeaseBook
from mottle.core.ledger import Order
from mottle.core.protocol import Lease, Part, Version


@dataclass(slots=True)
class _Chunk:
    leases: tuple[Lease, ...]
    base: Version
    fragment: int | None
    """The model that it is for, of several side by side."""
    copies: set[int] = field(default_factory=set)
    """Orders that are neither decided nor ended."""
    sound: int = 0
    """Copies whose update could be looked at."""
    refused: int = 0
    """Copies whose update was refused for its content."""
    counted: bool = False
    """Whether an accepted update counts it."""

    @property
    def samples(self) -> int:
        return sum(map(len, self.leases))


class Chunks:
    """Every chunk that is out, by the number that the strategy gave it."""

    def __init__(self, book: LeaseBook) -> None:
        self._book = book
        self._open: dict[int, _Chunk] = {}

    # --- lending ----------------------------------------------------------------------------------------------------------------------

    def lend(self, chunk: int, samples: int, base: Version, fragment: int | None = None) -> None:
        """Lend `samples` positions of one epoch to the round, to be computed at `base`, or at that fragment of it.

        Raises:
            ProtocolError: the number is in use, or there are not so many free samples; a strategy sees how many there are.
        """
        leases = self._book.lend(ROUND, samples, others=True)
        lent = sum(map(len, leases))
        if chunk in self._open or not lent or lent < samples:
            for lease in leases:
                self._book.give_back(lease)
            raise ProtocolError(f"chunk {chunk} of {samples} samples cannot be lent: {lent} are free, and open are {sorted(self._open)}")
        self._open[chunk] = _Chunk(leases, base, fragment)

    def parts(self, wanted: Iterable[tuple[int, float]]) -> tuple[tuple[Part, ...], Version, int | None]:
        """What an order of these (chunk, coefficient) is made of, the version that it is computed at, and the fragment of that.

        Raises:
            ProtocolError: no chunk, one that is not open, or chunks of different versions or fragments.
        """
        pairs = [(self._known(chunk), coefficient) for chunk, coefficient in wanted]
        bases = {(chunk.base, chunk.fragment) for chunk, _ in pairs}
        if len(bases) != 1:
            raise ProtocolError(f"an order is of chunks of one version and one model, got {list(bases) or 'no chunk'}")
        return tuple(Part(lease, coefficient) for chunk, coefficient in pairs for lease in chunk.leases), *bases.pop()

    def issued(self, work_id: int, chunks: Iterable[int]) -> None:
        """An order holds copies of these."""
        for chunk in chunks:
            self._known(chunk).copies.add(work_id)

    # --- what becomes of copies -------------------------------------------------------------------------------------------------------

    def lost(self, order: Order) -> None:
        """No update will come of the order."""
        self._drop_copies(order)

    def judged(self, order: Order, verdict: str) -> int:
        """An order's update got its verdict. The samples that count for it."""
        chunks = self._drop_copies(order)
        for chunk in chunks:
            chunk.refused += verdict == "rejected"
            chunk.sound += verdict != "rejected"
        if verdict != "accepted":
            return order.used
        counted = [chunk for chunk in chunks if not chunk.counted]
        for chunk in counted:
            chunk.counted = True
        return sum(chunk.samples for chunk in counted)

    def _drop_copies(self, order: Order) -> list[_Chunk]:
        chunks = [self._known(chunk) for chunk in order.chunks]
        for chunk in chunks:
            chunk.copies.remove(order.compute.work_id)
        return chunks

    # --- ending -----------------------------------------------------------------------------------------------------------------------

    def apply(self, chunk: int) -> None:
        """The version with these samples is published."""
        ended = self._end(chunk)
        if not ended.counted:
            raise ProtocolError(f"chunk {chunk} was applied, and no accepted update computed it")
        for lease in ended.leases:
            self._book.spend(lease, len(lease), "applied", worker=NOBODY)

    def give_back(self, chunk: int) -> bool:
        """Nothing was made of these samples. Whether everything that came of them was refused."""
        ended = self._end(chunk)
        refused = ended.refused > 0 and not ended.sound
        for lease in ended.leases:
            if refused:
                self._book.spend(lease, len(lease), "rejected", worker=NOBODY)
            else:
                self._book.give_back(lease)
        return refused

    def give_back_all(self) -> None:
        """Every round is over, whatever came of it; no copy is out."""
        for chunk in list(self._open):
            for lease in self._end(chunk).leases:
                self._book.give_back(lease)

    def _end(self, chunk: int) -> _Chunk:
        ended = self._known(chunk)
        if ended.copies:
            raise ProtocolError(f"chunk {chunk} cannot end while orders {sorted(ended.copies)} compute it")
        return self._open.pop(chunk)

    def _known(self, chunk: int) -> _Chunk:
        if chunk not in self._open:
            raise ProtocolError(f"chunk {chunk} is not open; open are {sorted(self._open)}")
        return self._open[chunk]

    # --- looking ----------------------------------------------------------------------------------------------------------------------

    @property
    def leases(self) -> frozenset[int]:
        """Ids of the leases that rounds own."""
        return frozenset(lease.id for chunk in self._open.values() for lease in chunk.leases)

    @property
    def holds(self) -> Mapping[str, int]:
        """Versions that further copies may have to read: name of the holder -> number. Nothing moves one of several models meanwhile."""
        return {f"chunks/{chunk.base.number}": chunk.base.number for chunk in self._open.values() if chunk.fragment is None}

    def check(self, undecided: Iterable[Order]) -> None:
        """Invariants: a lease is of one chunk, and a chunk knows exactly the undecided orders that hold copies of it."""
        ids = [lease.id for chunk in self._open.values() for lease in chunk.leases]
        assert len(ids) == len(set(ids)), f"a lease is of two chunks: {sorted(ids)}"
        copies: dict[int, set[int]] = {chunk: set() for chunk in self._open}
        for order in undecided:
            for chunk in order.chunks:
                assert chunk in copies, f"order {order.compute.work_id} computes chunk {chunk}, which has ended"
                copies[chunk].add(order.compute.work_id)
            if order.chunks:
                mine = {lease.id for chunk in order.chunks for lease in self._open[chunk].leases}
                assert mine == {part.lease.id for part in order.compute.parts}, f"order {order.compute.work_id} is not what its chunks are"
        assert copies == {number: chunk.copies for number, chunk in self._open.items()}, "a chunk does not know its copies"
