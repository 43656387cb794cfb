"""Shared fixtures. Child processes of tests find the sources through PYTHONPATH."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parent.parent
WARM = ROOT / "tests" / "warm"
SOURCE_ROOTS = [str(ROOT / root) for root in ("platform", "actors", "placement", "tune", "clusters")]
os.environ["PYTHONPATH"] = os.pathsep.join([*SOURCE_ROOTS, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
# How long an example takes says more about the machine than about the code: the suite's own time limit is what counts.
settings.register_profile("mottle", deadline=None)
settings.load_profile("mottle")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray starts workers at 15: on a busy machine they would starve


class Files(LoadScopeScheduling):
    """How two processes share the suite (`make test`): a file is one's, and so are all files about hosts, which share one network."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/clusters" if file.startswith("tests/clusters/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Files:
    return Files(config, log)


def _starts_processes(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(mark) for mark in ("testbed", "ray"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts processes comes first, so that neither process is left alone with the longest file at the end."""
    items.sort(key=lambda item: not _starts_processes(item))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Workers of Ray are forked from a process that has imported what they import (`tests/warm/fork_server.py`): importing was most of what
    tests on live Ray took. With MOTTLE_TEST_COLD=1 they start as they do at a user's."""
    if os.environ.get("MOTTLE_TEST_COLD") or not any(map(_starts_processes, session.items)):
        return
    from mottle.actors.launching import environment

    folder = tempfile.TemporaryDirectory(prefix="mottle-test-")
    address = os.path.join(folder.name, "fork-server")
    # What the C library and OpenMP read when they are loaded cannot be told to a forked process.
    loaded_with = {name: value for name, value in environment()["env_vars"].items() if name != "PYTHONPATH"}
    server = subprocess.Popen([sys.executable, WARM / "fork_server.py", address], stdin=subprocess.PIPE, env={**os.environ, **loaded_with})

    def end() -> None:
        server.communicate()
        folder.cleanup()

    session.config.add_cleanup(end)
    os.environ["MOTTLE_TEST_FORK_SERVER"] = address
    os.environ["PYTHONPATH"] = os.pathsep.join([str(WARM), os.environ["PYTHONPATH"]])


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray for all tests that need one, on which runs take up each other's processes: starting either takes longer than most tests."""
    import ray

    from mottle.sdk import kept_processes
    from mottle.sdk.local import start_local

    if ray.is_initialized():
        ray.shutdown()
    start_local(16)
    with kept_processes():
        yield
    ray.shutdown()


@pytest.fixture
def cold_ray(local_ray: None) -> Iterator[None]:
    """The same Ray, but every run starts its own processes and ends them, as where nobody asks for anything else."""
    from mottle.actors.reserve import RESERVE

    RESERVE.clear()
    RESERVE.keeping = False
    yield
    RESERVE.clear()
    RESERVE.keeping = True
