"""Which host holds which shard."""

import pytest

from mottle.actors.hosts import Host, apart, spread
from mottle.core.protocol import ReplicaId

HOME, NEXT, SPOT = Host("home", True), Host("next", True), Host("spot", False)
REPLICAS = [ReplicaId(shard, replica) for shard in range(3) for replica in range(2)]


def test_primaries_spread_over_the_hosts_that_stay_and_backups_lie_on_another() -> None:
    places = spread(REPLICAS, [HOME, NEXT, SPOT])
    assert [places[ReplicaId(shard, 0)] for shard in range(3)] == ["home", "next", "home"]
    assert [places[ReplicaId(shard, 1)] for shard in range(3)] == ["next", "home", "next"]


def test_where_one_host_stays_the_backups_go_to_those_that_may_be_taken_away() -> None:
    places = spread(REPLICAS, [HOME, SPOT, Host("spot2", False)])
    assert {places[ReplicaId(shard, 0)] for shard in range(3)} == {"home"}
    assert [places[ReplicaId(shard, 1)] for shard in range(3)] == ["spot", "spot2", "spot"]


@pytest.mark.parametrize("host", [HOME, SPOT])
def test_on_one_host_everything_lies_there(host: Host) -> None:
    assert set(spread(REPLICAS, [host]).values()) == {host.id}


def test_among_hosts_that_may_all_be_taken_away_no_backup_lies_beside_its_primary() -> None:
    places = spread(REPLICAS, [SPOT, Host("spot2", False)])
    assert all(places[ReplicaId(shard, 0)] != places[ReplicaId(shard, 1)] for shard in range(3))


def test_who_must_stay_keeps_off_hosts_that_may_be_taken_away_unless_there_are_no_others() -> None:
    assert apart((), [SPOT, HOME, NEXT]) == "home"
    assert apart((), [HOME, NEXT]) == "home"
    assert apart((), [SPOT, Host("spot2", False)]) == "spot"
