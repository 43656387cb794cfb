"""A line to all shards: reading one version into an engine, pushing one vector in ranges."""

from collections.abc import Callable, Mapping
from typing import Any

import ray
from torch import Tensor

from mottle.actors import transport
from mottle.core.errors import MottleError
from mottle.core.layout import Range
from mottle.engines import Engine

KEPT = 2
"""Versions that came along with the answers to pushes: the next order, and one already given, are based on no others."""


class VersionGoneError(MottleError):
    """A shard no longer has the version."""


class ShardLink:
    """What one process knows of the shards.

    Args:
        shards: handles of the live replicas of each shard, primary first; those found dead are taken off the lists.
        ranges: coordinates of each shard.
        sender: slot of the worker, or `VALIDATOR`.
        wants_news: whether the answer to a push may bring the newest version along; saves a worker a question for each order.
    """

    def __init__(self, shards: Mapping[int, list[Any]], ranges: tuple[Range, ...], sender: int, *, wants_news: bool = False) -> None:
        self._shards = shards
        self._ranges = ranges
        self._sender = sender
        self._wants_news = wants_news
        self._news: dict[int, dict[int, Any]] = {}
        """Version number -> shard -> its range, as `transport.publish` made it."""

    def load(self, engine: Engine, reader: str, number: int) -> None:
        """Copy version `number` from every shard into the engine.

        Raises:
            VersionGoneError: a shard refused.
            ray.exceptions.RayActorError: no replica of a shard lives.
        """
        here = self._news.get(number, {})
        asked = {
            shard: self._shards[shard][0].read.remote(reader, number)
            for shard, owned in enumerate(self._ranges)
            if owned.start < owned.stop and shard not in here
        }
        for shard, published in here.items():
            engine.load(transport.receive(published), self._ranges[shard].start)
        for shard, reference in asked.items():
            engine.load(_piece(self._shards[shard], reference, reader, number), self._ranges[shard].start)

    def means(self, name: str) -> list[tuple[int, Tensor]]:
        """(first coordinate, values) of every shard's range of a held vector, divided by its weight.

        Raises:
            ray.exceptions.RayTaskError: a shard no longer holds it.
        """
        asked = {shard: self._shards[shard][0].mean.remote(name) for shard, owned in enumerate(self._ranges) if owned.start < owned.stop}
        return [(self._ranges[shard].start, transport.receive(ray.get(answer))) for shard, answer in asked.items()]

    def push(
        self,
        name: str,
        encode: Callable[[int, Range], Any],
        *,
        sender: int | None = None,
        samples: int,
        weight: float | None = None,
        compute_ns: int = 0,
        itemsize: int,
    ) -> None:
        """Send every replica its range of a vector; return when each has copied it.

        Args:
            encode: payload of a shard's range.
            sender: under whose name; None is the caller's own.
            itemsize: bytes of a coordinate before encoding.
        """
        sender = self._sender if sender is None else sender
        newest = max(self._news, default=-1) if self._wants_news else None
        calls = []
        for shard, owned in enumerate(self._ranges):
            shipped = transport.ship(encode(shard, owned), (owned.stop - owned.start) * itemsize)
            calls += [
                (shard, replica.push.remote(name, sender, owned.start, owned.stop, samples, weight, compute_ns, shipped, newest))
                for replica in self._shards[shard]
            ]
        for shard, call in calls:
            if (news := transport.confirm(call)) is not None:
                self._remember(shard, *news)

    def _remember(self, shard: int, number: int, published: Any) -> None:
        self._news.setdefault(number, {})[shard] = published
        for old in sorted(self._news)[:-KEPT]:
            del self._news[old]


def _piece(replicas: list[Any], reference: Any, reader: str, number: int) -> Tensor:
    """The answer of the first replica, or of the next one where that has died, be it after it had answered."""
    while True:
        try:
            published = ray.get(reference)
            if isinstance(published, str):
                raise VersionGoneError(published)
            return transport.receive(published)
        except (ray.exceptions.ActorDiedError, ray.exceptions.OwnerDiedError):
            if len(replicas) == 1:
                raise
            del replicas[0]
            reference = replicas[0].read.remote(reader, number)
