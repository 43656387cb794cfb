"""A line to all shards: reading one version into an engine, pushing one vector in ranges."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple, Protocol

import numpy as np
import ray
import torch
from torch import Tensor

from mottle.actors import hosts, nearby, transport
from mottle.actors.exchange import Door, Exchange
from mottle.actors.way import Way, connect
from mottle.core.errors import MottleError
from mottle.core.fragments import Fragments
from mottle.core.layout import Range

CALLS = 16
"""Shards called at the same time: behind a firewall each call takes its time to fail."""

KEPT = 2
"""Versions that came along with the answers to pushes: the next order, and one already given, are based on no others."""


class VersionGoneError(MottleError):
    """A shard no longer has the version."""


class PushLostError(MottleError):
    """A vector was pushed to replicas that are all gone."""


class Replica(NamedTuple):
    """A replica of a shard, for those who want to reach it."""

    handle: Any
    door: Door | None = None


Shards = Mapping[int, list[Replica]]
"""The live replicas of each shard, primary first."""


def ways_to(shards: Shards, exchange: Exchange | None, me: str) -> tuple[dict[int, list[Way]], list[str]]:
    """Lines to all replicas that can be had, and what people should know of the others."""
    wanted = [(shard, replica, f"shard {shard}") for shard, replicas in shards.items() for replica in replicas]
    with ThreadPoolExecutor(CALLS, thread_name_prefix="calling") as pool:
        found = list(pool.map(lambda each: connect(exchange, each[1].door, me, each[2]), wanted))
    ways: dict[int, list[Way]] = {shard: [] for shard in shards}
    for (shard, replica, _), (line, _) in zip(wanted, found, strict=True):
        ways[shard].append(Way(replica.handle, line))
    return ways, [trouble for _, trouble in found if trouble]


class Loads(Protocol):
    """Takes ranges of a flat vector, as an engine does."""

    def load(self, flat_piece: Tensor, start: int) -> None: ...


class ShardLink:
    """What one process knows of the shards.

    Args:
        shards: ways to the live replicas of each shard, primary first; those found dead are taken off the lists.
        ranges: coordinates of each shard.
        fragments: of the model, where they are sent apart.
        itemsize: bytes of a coordinate.
        sender: slot of the worker, or `VALIDATOR`.
        wants_news: whether the answer to a push may bring the newest version along; saves a worker a question for each order.
    """

    def __init__(
        self,
        shards: Mapping[int, list[Way]],
        ranges: tuple[Range, ...],
        itemsize: int,
        sender: int,
        *,
        wants_news: bool = False,
        fragments: Fragments | None = None,
    ) -> None:
        self._shards = shards
        self._ranges = ranges
        self._itemsize = itemsize
        self._num_bytes = [(owned.stop - owned.start) * itemsize for owned in ranges]
        self._fragments = fragments
        self._sender = sender
        self._wants_news = wants_news
        self._shelf = nearby.Shelf(hosts.this_process().node)
        self._pushing = threading.Lock()
        self._news: dict[int, dict[int, Any]] = {}
        """Version number -> shard -> its range, as `transport.publish` made it."""

    def load(self, engine: Loads, reader: str, number: int) -> None:
        """Copy version `number` from every shard into the engine.

        Raises:
            VersionGoneError: a shard refused.
            ray.exceptions.RayActorError: no replica of a shard lives.
        """
        here = self._news.get(number, {})
        asked = {
            shard: self._ask(shard, "read", reader, number)
            for shard, owned in enumerate(self._ranges)
            if owned.start < owned.stop and shard not in here
        }
        for shard, published in here.items():
            engine.load(transport.receive(published), self._ranges[shard].start)
        for shard, answer in asked.items():
            engine.load(self._piece(shard, answer, reader, number), self._ranges[shard].start)

    def load_fragment(self, engine: Loads, reader: str, number: int, fragment: int) -> None:
        """Copy one of several models that lie side by side into the engine, whose layout it has.

        Raises:
            As `load`.
        """
        for owned, piece in self._pieces(reader, number, fragment):
            engine.load(piece, owned.start)

    def read_fragment(self, reader: str, number: int, fragment: int) -> Tensor:
        """A fragment of a version from all shards, in its own coordinates.

        Raises:
            As `load`.
        """
        return torch.cat([piece for _, piece in self._pieces(reader, number, fragment)])

    def _pieces(self, reader: str, number: int, fragment: int) -> Iterator[tuple[Range, Tensor]]:
        """What each shard holds of a fragment, and its values there; all are asked at once."""
        spaces = self.spaces(fragment)
        asked = {shard: self._ask(shard, "read", reader, number, fragment) for shard, owned in enumerate(spaces) if owned.size}
        for shard, answer in asked.items():
            yield spaces[shard], self._piece(shard, answer, reader, number, fragment)

    def spaces(self, fragment: int | None) -> tuple[Range, ...]:
        """What each shard holds of a fragment, in its coordinates; of the layout for None."""
        if fragment is None:
            return self._ranges
        assert self._fragments is not None, "this model has no fragments"
        return tuple(self._fragments.owned(fragment, owned) for owned in self._ranges)

    def read_cut(self, reader: str, number: int, cuts: Sequence[transport.Cuts]) -> list[list[Any]]:
        """Version `number` for several processes, of which each wants ranges of its own; one reading to the shards.

        Args:
            cuts: by shard, by process: coordinates.
        Returns:
            By process, by shard: its coordinates one after the other, as `transport.publish` made them; None of a shard that none wants.
        Raises:
            As `load`.
        """
        here = self._news.get(number, {})
        asked = {
            shard: self._ask(shard, "read_cut", reader, number, wanted)
            for shard, wanted in enumerate(cuts)
            if any(wanted) and shard not in here
        }
        parts = {shard: transport.publish_cut(whole, cuts[shard], self._ranges[shard].start) for shard, whole in here.items()}
        for shard, answer in asked.items():
            parts[shard] = self._answered(shard, answer, "read_cut", reader, number, cuts[shard])
        nothing = [None] * len(cuts[0])
        return [list(each) for each in zip(*(parts.get(shard, nothing) for shard in range(len(cuts))), strict=True)]

    def _ask(self, shard: int, method: str, *arguments: Any) -> Callable[[], Any]:
        return self._ask_replica(self._shards[shard][0], shard, method, *arguments)

    def _ask_replica(self, replica: Way, shard: int, method: str, *arguments: Any) -> Callable[[], Any]:
        return replica.ask(method, *arguments, large=self._num_bytes[shard] > transport.INLINE_BYTES)

    def _answered(self, shard: int, answer: Callable[[], Any], method: str, *arguments: Any) -> Any:
        """What the first replica answers to a question about a version, or the next one where that is dead or does not have it."""
        while True:
            try:
                published = answer()
                return self._from_others(shard, published, method, *arguments) if isinstance(published, str) else published
            except ray.exceptions.ActorDiedError:
                answer = self._next(shard, method, *arguments)

    def _from_others(self, shard: int, refusal: str, method: str, *arguments: Any) -> Any:
        """The same question to the other replicas: on a host that is going down the first may live on and be behind, lost to all but us.

        Raises:
            VersionGoneError: none of them has the version either.
        """
        for replica in self._shards[shard][1:]:
            with suppress(ray.exceptions.RayActorError):
                published = self._ask_replica(replica, shard, method, *arguments)()
                if not isinstance(published, str):
                    return published
        raise VersionGoneError(refusal)

    def _next(self, shard: int, method: str, *arguments: Any) -> Callable[[], Any]:
        """The same question to the next replica; the error at hand is raised again where there is none."""
        replicas = self._shards[shard]
        if len(replicas) == 1:
            raise  # called where an error is at hand
        del replicas[0]
        return self._ask(shard, method, *arguments)

    def _piece(self, shard: int, answer: Callable[[], Any], reader: str, number: int, *wanted: int) -> Tensor:
        """A shard's range of a version; of another replica where one dies after it has answered, too."""
        while True:
            published = self._answered(shard, answer, "read", reader, number, *wanted)
            try:
                return transport.receive(published)
            except ray.exceptions.OwnerDiedError:
                answer = self._next(shard, "read", reader, number, *wanted)

    def means(self, name: str) -> list[tuple[int, Tensor]]:
        """(first coordinate, values) of every shard's range of a held vector, divided by its weight.

        Raises:
            ray.exceptions.RayTaskError: a shard no longer holds it.
        """
        asked = {
            shard: self._shards[shard][0].ask("mean", name, large=True)
            for shard, owned in enumerate(self._ranges)
            if owned.start < owned.stop
        }
        return [(self._ranges[shard].start, transport.receive(answer())) for shard, answer in asked.items()]

    def push(
        self,
        name: str,
        encode: Callable[[int, Range], Any],
        *,
        sender: int | None = None,
        samples: int,
        weight: float | None = None,
        compute_ns: int = 0,
        pieces: Sequence[tuple[int, Range]] | None = None,
        fragment: int | None = None,
    ) -> None:
        """Send every replica its range of a vector; return when each has copied it.

        Args:
            encode: payload of a shard's range, or of a part of it.
            pieces: (shard, coordinates) that this process sends; None is every shard's whole range.
            fragment: what the vector is of; ranges are in its coordinates then, and no news come back.
            sender: under whose name; None is the caller's own.
        Raises:
            PushLostError: every replica of a shard that is known here died under it.
        """
        sender = self._sender if sender is None else sender
        newest = max(self._news, default=-1) if self._wants_news and fragment is None else None
        answers = []
        with self._pushing, ExitStack() as shown:
            for shard, part in enumerate(self.spaces(fragment)) if pieces is None else pieces:
                for replica, shipped, large in self._shipped(shard, encode(shard, part), part.size * self._itemsize, shown):
                    push = (name, sender, part.start, part.stop, samples, weight, compute_ns, shipped, newest, fragment)
                    answers.append((shard, replica, replica.ask("push", *push, large=large)))
            taken = {shard for shard, replica, answer in answers if self._confirm(shard, replica, answer)}
        if lost := sorted({shard for shard, _, _ in answers} - taken):
            raise PushLostError(f"no replica of shard {', '.join(map(str, lost))} that was known here lives to have taken the update")

    def _shipped(self, shard: int, payload: Any, num_bytes: int, shown: ExitStack) -> list[tuple[Way, Any, bool]]:
        """How a payload goes to each replica: a large one is shown to those on this host until `shown` is closed, and shipped to others."""
        replicas = list(self._shards[shard])
        rows = transport.rows_of(payload) if num_bytes > transport.INLINE_BYTES else None
        near = [] if rows is None else [replica for replica in replicas if self._is_near(replica)]
        shipped: list[tuple[Way, Any, bool]] = []
        if rows is not None and near:
            there = transport.Near(rows[0], shown.enter_context(self._shelf.show(rows[1])))
            shipped = [(replica, there, True) for replica in near]
        if others := [replica for replica in replicas if replica not in near]:
            sent = transport.ship(payload, num_bytes)
            shipped += [(replica, *sent) for replica in others]
        return shipped

    def _is_near(self, replica: Way) -> bool:
        """Whether it can read what is shown to it; asked once."""
        if replica.near is None:
            with self._shelf.show([np.zeros(1, np.uint8)]) as shown, suppress(ray.exceptions.RayActorError):
                replica.near = replica.ask("can_read", shown, large=True)()
        return bool(replica.near)

    def await_push(self) -> None:
        """Return once a push that is under way now is through."""
        with self._pushing:
            pass

    def _confirm(self, shard: int, replica: Way, answer: Callable[[], Any]) -> bool:
        """Wait until a replica has copied what was pushed to it. Whether it has.

        One that died has nothing to confirm: the coordinator learns of it by itself and waits for the others.
        """
        try:
            if (news := answer()) is not None:
                self._remember(shard, *news)
            return True
        except ray.exceptions.RayActorError as error:
            print(f"a shard died under a push: {error}", flush=True)
            if len(self._shards[shard]) > 1:
                self._shards[shard].remove(replica)
            return False

    def _remember(self, shard: int, number: int, published: Any) -> None:
        self._news.setdefault(number, {})[shard] = published
        for old in sorted(self._news)[:-KEPT]:
            del self._news[old]
