"""Hosts for the tests of this folder; without root or iproute2 the tests that need them are skipped, with the reason."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mottle.clusters.testbed import Detection, HostSpec, Testbed, missing, tables

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)  # so that `tests.clusters.driver` has one name here and in the workers' processes


@pytest.fixture(scope="session")
def _possible() -> None:
    if lacking := missing():
        pytest.skip(lacking)


@pytest.fixture(scope="session")
def _two_hosts(_possible: None) -> Iterator[Testbed]:
    """Started once, for that takes longer than most tests."""
    specs = [
        HostSpec(name="h1", labels={"ray.io/market-type": "on-demand"}),
        HostSpec(name="h2", labels={"ray.io/market-type": "spot"}),
    ]
    with Testbed(specs, detection=Detection(period_ms=300, timeout_ms=3000)) as bed:
        yield bed


@pytest.fixture
def two_hosts(_two_hosts: Testbed) -> Iterator[Testbed]:
    """`h1` with Ray's head and `h2`, both up before and after the test."""
    yield _two_hosts
    for host, state in _two_hosts.hosts.items():
        _two_hosts.limit(host, rate_mbit=None)
        if state == "killed":
            _two_hosts.start(host)
        elif state == "cut":
            _two_hosts.heal(host)
        elif state == "paused":
            _two_hosts.resume(host)


@pytest.fixture(params=["redis", pytest.param("rocksdb", marks=pytest.mark.soak)])
def durable_hosts(_possible: None, request: pytest.FixtureRequest) -> Iterator[Testbed]:
    """`h1` and `h2` of a Ray of their own whose GCS keeps its tables where they outlive it."""
    if reason := tables.lacking(request.param):
        pytest.skip(reason)
    with Testbed(2, detection=Detection(period_ms=300, timeout_ms=3000), tables=request.param) as bed:
        yield bed


@pytest.fixture
def bare(_possible: None) -> Iterator[Callable[..., Testbed]]:
    """`bare(2)`: hosts without Ray, which take a tenth of a second."""
    made: list[Testbed] = []

    def make(hosts: int | list[HostSpec]) -> Testbed:
        made.append(Testbed(hosts, ray=False))
        return made[-1]

    yield make
    for bed in made:
        bed.down()
