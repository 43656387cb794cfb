"""Reading one version from all shards into an engine."""

from collections.abc import Mapping
from typing import Any

import ray

from mottle.actors import transport
from mottle.core.errors import MottleError
from mottle.core.layout import Range
from mottle.engines import Engine


class VersionGoneError(MottleError):
    """A shard no longer has the version."""


def load_version(engine: Engine, shards: Mapping[int, Any], ranges: tuple[Range, ...], reader: str, number: int) -> None:
    """Copy version `number` from the primary of every shard into the engine.

    Raises:
        VersionGoneError: a shard refused.
        ray.exceptions.RayActorError: a shard died.
    """
    asked = {shard: shards[shard].read.remote(reader, number) for shard, owned in enumerate(ranges) if owned.start < owned.stop}
    for shard, reference in asked.items():
        published = ray.get(reference)
        if isinstance(published, str):
            raise VersionGoneError(published)
        engine.load(transport.receive(published), ranges[shard].start)
