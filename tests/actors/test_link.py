"""Reading a version when replicas of a shard have died."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import ray
import torch
from tests.actors import live

from mottle.actors.link import ShardLink, VersionGoneError
from mottle.actors.way import Way
from mottle.core.layout import BLOCK, Range
from mottle.engines import TorchEngine, layout_of

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable"),  # pytest undoes the same filter of `transport`
]

ITEMSIZE = 4
RANGES = (Range(0, BLOCK), Range(BLOCK, 6404))


def replica(answer: Any) -> Any:
    """An actor that answers every reading alike."""

    class Replica:
        def read(self, reader: str, number: int) -> Any:
            return answer

    remote: Any = ray.remote(num_cpus=0)(Replica)
    return remote.remote()


@pytest.fixture
def engine() -> TorchEngine:
    model = live.perceptron()
    return TorchEngine(model, live.cross_entropy, layout_of(model), "cpu", 1)


@pytest.fixture
def actors() -> Any:
    """Makes replicas and lets them go."""
    made: list[Way] = []

    def make(answer: Any) -> Way:
        made.append(Way(replica(answer)))
        return made[-1]

    yield make
    for way in made:
        ray.kill(way.handle)


def dead(way: Way) -> Way:
    ray.kill(way.handle)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(way.handle.read.remote("probe", 0))
    return way


def test_the_next_replica_is_asked_and_the_dead_one_forgotten(engine: TorchEngine, actors: Callable[[Any], Way]) -> None:
    values = np.arange(6404, dtype=np.float32)
    first, second = (values[owned.start : owned.stop] for owned in RANGES)
    shards = {0: [dead(actors(first)), actors(first)], 1: [actors(second)]}
    ShardLink(shards, RANGES, ITEMSIZE, 0).load(engine, "work/0", 3)
    assert torch.equal(torch.cat([tensor.flatten() for tensor in engine.tensors().values()]), torch.from_numpy(values))
    assert [len(replicas) for replicas in shards.values()] == [1, 1]


def test_a_replica_that_lives_on_and_is_behind_is_passed_over_and_stays_known(engine: TorchEngine, actors: Callable[[Any], Way]) -> None:
    """On a host that goes down: the coordinator has lost it, and it still answers."""
    values = np.arange(6404, dtype=np.float32)
    first, second = (values[owned.start : owned.stop] for owned in RANGES)
    shards = {0: [actors("version 3 does not exist yet"), dead(actors(first)), actors(first)], 1: [actors(second)]}
    ShardLink(shards, RANGES, ITEMSIZE, 0).load(engine, "work/0", 3)
    assert torch.equal(torch.cat([tensor.flatten() for tensor in engine.tensors().values()]), torch.from_numpy(values))
    assert [len(replicas) for replicas in shards.values()] == [3, 1], "updates are pushed to all of them as before"


def test_a_shard_without_a_living_replica_is_an_error(engine: TorchEngine, actors: Callable[[Any], Way]) -> None:
    values = np.zeros(BLOCK, dtype=np.float32)
    shards = {0: [dead(actors(values)), dead(actors(values))], 1: [actors(np.zeros(6404 - BLOCK, dtype=np.float32))]}
    with pytest.raises(ray.exceptions.RayActorError):
        ShardLink(shards, RANGES, ITEMSIZE, 0).load(engine, "work/0", 3)


def test_a_version_that_is_gone_is_told_in_the_shards_words(engine: TorchEngine, actors: Callable[[Any], Way]) -> None:
    gone = actors("version 3 is gone, the newest is 7")
    with pytest.raises(VersionGoneError, match="version 3 is gone, the newest is 7"):
        ShardLink({0: [gone], 1: [gone]}, RANGES, ITEMSIZE, 0).load(engine, "work/0", 3)
