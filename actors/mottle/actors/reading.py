"""Reading one version from all shards into an engine."""

from collections.abc import Mapping
from typing import Any

import ray
from torch import Tensor

from mottle.actors import transport
from mottle.core.errors import MottleError
from mottle.core.layout import Range
from mottle.engines import Engine


class VersionGoneError(MottleError):
    """A shard no longer has the version."""


def load_version(engine: Engine, shards: Mapping[int, list[Any]], ranges: tuple[Range, ...], reader: str, number: int) -> None:
    """Copy version `number` from every shard into the engine.

    Args:
        shards: handles of the replicas of each shard; the first one that lives is asked, and those found dead are taken off the list.
    Raises:
        VersionGoneError: a shard refused.
        ray.exceptions.RayActorError: no replica of a shard lives.
    """
    asked = {shard: shards[shard][0].read.remote(reader, number) for shard, owned in enumerate(ranges) if owned.start < owned.stop}
    for shard, reference in asked.items():
        engine.load(_piece(shards[shard], reference, reader, number), ranges[shard].start)


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
