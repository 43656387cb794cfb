"""Who is killed; a run that parts of are killed of is in tests/cli/test_chaos.py."""

import random

import pytest

from mottle.actors.hosts import Place
from mottle.core.errors import ConfigError
from mottle.sdk.chaos import Chaos, candidates, choose

HOME, OTHER = "home", "other"
PLACES = {
    "coordinator": Place(1, HOME),
    "shard0": Place(2, HOME),
    "shard0-replica2": Place(3, OTHER),
    "shard1": Place(4, HOME),
    "w0": Place(5, HOME, "fast"),
    "w7": Place(6, OTHER, "slow"),
}


@pytest.mark.parametrize(
    ("kind", "who"),
    [("workers", ["w0", "w7"]), ("shards", ["shard0", "shard0-replica2"]), ("coordinator", ["coordinator"]), ("nodes", [OTHER])],
)
def test_those_whose_death_a_run_survives_may_be_killed(kind: str, who: list[str]) -> None:
    assert candidates(kind, PLACES, HOME) == who


def test_the_last_worker_and_the_last_replica_and_the_own_host_are_spared() -> None:
    rest = {name: PLACES[name] for name in ("coordinator", "shard0", "shard1", "w0")}
    assert [candidates(kind, rest, HOME) for kind in ("workers", "shards", "nodes")] == [[], [], []]
    assert choose(("workers", "shards"), rest, HOME, random.Random(0)) is None


def test_a_host_with_the_last_replica_of_a_shard_is_spared() -> None:
    """Its other replica has just died, and a newcomer is on its way."""
    rest = {name: place for name, place in PLACES.items() if name != "shard0"}
    assert candidates("nodes", rest, HOME) == []
    assert candidates("nodes", {**rest, "shard0-replica3": Place(8, HOME)}, HOME) == [OTHER]


def test_a_seed_repeats_its_victims_and_every_kind_has_its_turn() -> None:
    kinds = ("workers", "shards", "nodes")
    first, second = ([choose(kinds, PLACES, HOME, dice) for _ in range(30)] for dice in (random.Random(3), random.Random(3)))
    assert first == second
    assert {chosen[0] for chosen in first if chosen} == set(kinds)


@pytest.mark.parametrize(
    ("kinds", "every_s", "message"),
    [
        (["worker"], 1.0, "one or more of workers, shards, coordinator, nodes; .*did you mean 'workers'"),
        ([], 1.0, "got none"),
        (["workers"], 0.0, "above 0 seconds, got 0"),
    ],
)
def test_what_cannot_be_is_refused(kinds: list[str], every_s: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Chaos(kinds, every_s, seed=0)
