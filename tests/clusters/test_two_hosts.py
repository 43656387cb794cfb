"""Kills on two hosts, where an object dies with its owner for real: the run goes on and every sample is used exactly once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.clusters.conftest import ROOT

from mottle.clusters.joining import Joined, look
from mottle.clusters.testbed import HostSpec, Testbed
from mottle.core import versions

pytestmark = [pytest.mark.testbed, pytest.mark.ray]
Snapshot = dict[str, Any]
ENDLESS = {"epochs": 10_000}
PATIENCE_S = 90.0


class Driver:
    """The test's end of `tests.clusters.driver`."""

    def __init__(self, bed: Testbed, description: dict[str, Any], log: Path) -> None:
        self._log = log
        with log.open("w") as stderr:
            self.process = bed.popen(
                bed.head,
                [sys.executable, "-m", "tests.clusters.driver", json.dumps(description)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=ROOT,
            )
        assert self._answer() == "started"

    def ask(self, method: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the driver ended:\n{self._log.read_text()[-4000:]}"
        return json.loads(line)

    def wait_for(self, condition: Callable[[Snapshot], bool], what: str) -> Snapshot:
        deadline = time.monotonic() + PATIENCE_S
        while not condition(snapshot := self.ask("snapshot")):
            assert time.monotonic() < deadline, f"waited for {what}: {snapshot}"
        return dict(snapshot)


@contextmanager
def driven(bed: Testbed, folder: Path, **description: Any) -> Iterator[Driver]:
    """A run with its driver on the head's host."""
    driver = Driver(bed, {"folder": str(folder), **description}, folder / f"driver-{description.get('how', 'start')}.log")
    try:
        yield driver
    finally:
        driver.process.kill()
        driver.process.communicate()


def on(host: str, count: int, **options: Any) -> dict[str, Any]:
    """A worker group whose workers are on that host."""
    return {"name": host, "count": count, "max_count": count, "num_cpus": 0.5, "resources": {host: 0.001}, **options}


def row(snapshot: Snapshot, worker: str) -> dict[str, Any]:
    return next((each for each in snapshot["workers"] if each["id"] == worker), {"state": "unknown", "accepted": 0})


def assert_each_sample_once(ended: dict[str, Any]) -> None:
    """Every pass but the last, which the test cut short, used each sample once; lost and duplicated updates the driver has looked for."""
    assert ended["error"] == ""
    *whole, last = ended["epochs"]
    assert whole
    assert all((epoch["missed"], epoch["repeated"], epoch["rejected"]) == (0, 0, 0) for epoch in whole)
    assert last["repeated"] == 0


def wait_sent(bed: Testbed, host: str, num_bytes: int) -> None:
    """Wait until the host has sent so many bytes from now on."""
    deadline = time.monotonic() + PATIENCE_S
    until = bed.sent_bytes(host) + num_bytes
    while bed.sent_bytes(host) < until:
        assert time.monotonic() < deadline, f"{host} sends nothing"
        time.sleep(0.005)


@pytest.mark.parametrize("strategy", ["async", pytest.param("sync", marks=pytest.mark.soak)])
def test_a_worker_killed_in_the_middle_of_its_push_and_then_its_whole_host(two_hosts: Testbed, tmp_path: Path, strategy: str) -> None:
    """An update of 3.4 MB takes 2.7 s on the line; the worker dies when a third of it has crossed."""
    groups = [on("h1", 1), on("h2", 2)]
    with driven(two_hosts, tmp_path, groups=groups, strategy=strategy, until=ENDLESS) as run:
        run.wait_for(lambda now: all(row(now, worker)["accepted"] for worker in ("w0", "w1", "w2")), "an update of each")
        two_hosts.limit("h2", rate_mbit=10)
        wait_sent(two_hosts, "h2", 1_200_000)
        os.kill(run.ask("processes")["w1"], signal.SIGKILL)
        two_hosts.limit("h2", rate_mbit=None)
        lost = run.wait_for(lambda now: row(now, "w1")["state"] == "killed", "the death of w1")
        lost = run.wait_for(lambda now: now["version"] >= lost["version"] + 3, "three versions without w1")
        assert row(lost, "w2")["state"] != "killed"

        two_hosts.kill("h2")
        lost = run.wait_for(lambda now: row(now, "w2")["state"] == "killed", "the death of w2 with its host")
        run.wait_for(lambda now: now["samples"] >= lost["samples"] + 200, "two more passes on h1 alone")

        two_hosts.start("h2")  # a machine that comes is used as far as its group may grow
        run.wait_for(lambda now: any(row(now, each)["accepted"] >= 2 for each in ("w3", "w4")), "updates from the host that came back")
        run.ask("stop")
        assert_each_sample_once(run.ask("end", False))


def test_a_killed_primary_loses_no_acknowledged_update_and_its_backup_on_another_host_is_read(two_hosts: Testbed, tmp_path: Path) -> None:
    """The run's model is the one of plain PyTorch, which nothing was lost of."""
    with driven(two_hosts, tmp_path, groups=[on("h1", 1), on("h2", 1)], replicas=1, until={"epochs": 8}) as run:
        run.wait_for(lambda now: now["version"] >= 3, "its third version")
        primary, backup = (shard_on(two_hosts, host) for host in ("h1", "h2"))
        primary.kill()
        run.wait_for(lambda now: any("replica of shard" in event["text"] for event in now["events"]), "the loss of the primary")
        ended = run.ask("end", True)
        backup.wait(20)
    assert ended["error"] == ""
    assert [(epoch["applied"], epoch["missed"], epoch["repeated"]) for epoch in ended["epochs"]] == [(100, 0, 0)] * 8
    assert ended["gap"] < 1e-4


def test_a_worker_whose_stages_are_on_two_hosts_loses_one_and_goes_on(two_hosts: Testbed, tmp_path: Path) -> None:
    """Each stage is on a host of its own, activations cross the line between, and the model is the one of plain PyTorch."""
    gang = {"count": 1, "num_cpus": 0.5, "engine": {"placed": {"stages": 2, "hosts": "apart", "microbatches": 2}}}
    options = {"model": "perceptron", "micro_batch_size": 5, "lease_floor_s": None}
    with driven(two_hosts, tmp_path, groups=[gang], until={"epochs": 8}, **options) as run:
        run.wait_for(lambda now: row(now, "w0")["accepted"] >= 3, "three updates of the gang")
        leader = run.ask("processes")["w0"]
        (here,) = (host for host in ("h1", "h2") if leader in two_hosts.pids(host))
        (follower,) = (pid for host in ("h1", "h2") if host != here for pid in two_hosts.pids(host) if is_follower(pid))
        before = two_hosts.sent_bytes(here)
        os.kill(follower, signal.SIGKILL)
        ended = run.ask("end", True)
    assert ended["error"] == ""
    assert [(epoch["applied"], epoch["missed"], epoch["repeated"]) for epoch in ended["epochs"]] == [(100, 0, 0)] * 8
    assert ended["gap"] < 1e-4
    assert two_hosts.sent_bytes(here) > before


def is_follower(pid: int) -> bool:
    return psutil.Process(pid).cmdline()[:1] != [] and psutil.Process(pid).cmdline()[0].startswith("ray::Follower")


def test_a_restart_of_rays_gcs_stops_nobody_and_a_death_meanwhile_is_found_out(durable_hosts: Testbed, tmp_path: Path) -> None:
    """Everybody trains on without a GCS, not a worker but the killed one is lost, and the next one can join."""
    options = {"model": "perceptron", "strategy": "async", "replicas": 1}
    with driven(durable_hosts, tmp_path, groups=[on("h1", 1, max_count=2), on("h2", 2)], until=ENDLESS, **options) as run:
        run.wait_for(lambda now: all(row(now, worker)["accepted"] for worker in ("w0", "w1", "w2")), "an update of each")
        before, coordinator = run.ask("processes"), run.ask("coordinator")
        with durable_hosts.without_gcs():
            os.kill(before["w1"], signal.SIGKILL)
            start = run.ask("snapshot")
            run.wait_for(lambda now: now["version"] >= start["version"] + 100, "a hundred versions without a GCS")
        run.wait_for(lambda now: row(now, "w1")["state"] == "killed", "the death of w1")
        (joined,) = run.ask("add", 1, "h1")
        run.wait_for(lambda now: row(now, joined)["accepted"] >= 2, "two updates of the one that joined")
        after = run.ask("processes")
        assert ({name: after[name] for name in ("w0", "w2")}, run.ask("coordinator")) == (
            {name: before[name] for name in ("w0", "w2")},
            coordinator,
        )
        run.ask("stop")
        assert_each_sample_once(run.ask("end", False))


@pytest.mark.parametrize("fault", ["kill", pytest.param("cut", marks=pytest.mark.soak)])
def test_the_host_of_the_coordinator_is_lost_and_a_detached_run_goes_on_elsewhere(two_hosts: Testbed, tmp_path: Path, fault: str) -> None:
    """The coordinator and a shard's primary are on that host. Cut off, they live on, and what they do counts for nothing."""
    two_hosts.join(HostSpec(name="h3"))
    try:
        options = {"groups": [on("h1", 1), on("h2", 1)], "model": "perceptron", "strategy": "async", "replicas": 1, "until": ENDLESS}
        with driven(two_hosts, tmp_path, leave="h3", how="attach", **options) as run:
            run.wait_for(lambda now: all(row(now, worker)["accepted"] for worker in ("w0", "w1")), "an update of each")
            before, coordinator = run.ask("processes"), run.ask("coordinator")
            assert coordinator in two_hosts.pids("h3")
            getattr(two_hosts, fault)("h3")
            began_s = time.monotonic()
            back = run.wait_for(lambda now: any(event["kind"] == "coordinator" for event in now["events"]), "another coordinator")
            run.wait_for(lambda now: now["version"] >= back["version"] + 20, "twenty more versions")
            print(f"went on {time.monotonic() - began_s:.1f} s after its host was lost")
            assert run.ask("processes") == before
            assert (coordinator in two_hosts.pids("h3")) == (fault == "cut"), "the other side does not know yet"
            if fault == "cut":
                two_hosts.heal("h3")
                healed = run.ask("snapshot")
                run.wait_for(lambda now: now["version"] >= healed["version"] + 20, "twenty more versions when all hear of each other again")
            run.ask("stop")
            assert_each_sample_once(run.ask("end", False))
    finally:
        two_hosts.leave("h3")


def shard_on(bed: Testbed, host: str) -> psutil.Process:
    """The one shard's process of that host."""
    found = [psutil.Process(pid) for pid in bed.pids(host)]
    (shard,) = [process for process in found if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ParameterShard")]
    return shard


def test_a_process_that_cannot_use_the_cluster_is_told_why(two_hosts: Testbed, tmp_path: Path) -> None:
    inside, right = tuple(two_hosts.command("h1", [])), two_hosts.environment("h1")
    address = two_hosts.ray_address
    assert look(address, right, inside) == Joined({two_hosts.address(host): versions.here() for host in ("h1", "h2")}, ())
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    (refused,) = look(address, {**right, "RAY_AUTH_TOKEN_PATH": str(wrong)}, inside).faults
    assert f"the cluster has another token than RAY_AUTH_TOKEN_PATH, {wrong}; copy ~/.ray/auth_token" in refused
    (missing,) = look(address, {**right, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "nothing")}, inside).faults
    assert f"RAY_AUTH_TOKEN_PATH is {tmp_path / 'nothing'}, which cannot be read" in missing
    (nobody,) = look(f"{two_hosts.address('h2')}:6379", right, inside).faults
    assert "nobody answers as Ray's head at" in nobody


def test_a_run_goes_on_without_the_minority_of_a_partition_whose_workers_join_as_new_ones_when_it_heals(
    two_hosts: Testbed, tmp_path: Path
) -> None:
    """A backup is on the host that is cut off: nothing is acknowledged before Ray has declared that host dead, and everything after."""
    options = {"model": "perceptron", "strategy": "async", "replicas": 1}
    with driven(two_hosts, tmp_path, groups=[on("h1", 1), on("h2", 2)], until=ENDLESS, **options) as run:
        run.wait_for(lambda now: all(row(now, worker)["accepted"] for worker in ("w0", "w1", "w2")), "an update of each")
        minority = run.ask("processes")["w1"]
        two_hosts.cut("h2")
        assert two_hosts.alive("-h2", timeout_s=60) == ["h1"]
        lost = run.wait_for(lambda now: all(row(now, worker)["state"] == "killed" for worker in ("w1", "w2")), "the loss of w1 and w2")
        run.wait_for(lambda now: now["version"] >= lost["version"] + 20, "twenty versions of the majority")
        assert minority in two_hosts.pids("h2"), "the other side does not know yet"
        two_hosts.heal("h2")
        assert two_hosts.alive() == ["h1", "h2"]
        assert minority not in two_hosts.pids("h2")
        run.wait_for(lambda now: all(row(now, worker)["accepted"] >= 2 for worker in ("w3", "w4")), "updates of new workers on h2")
        run.ask("stop")
        assert_each_sample_once(run.ask("end", False))


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """A disk of its own below that folder; what is given fills it."""

    def fill() -> None:
        free = os.statvfs(folder)
        with (folder / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_bsize)

    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)], check=True)
    try:
        yield fill
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_further_host_is_used_and_goes_on_with_a_full_disk_and_leaves(two_hosts: Testbed, tmp_path: Path) -> None:
    options = {"model": "perceptron", "strategy": "async", "until": ENDLESS}
    with (
        driven(two_hosts, tmp_path, groups=[on("h1", 1), on("h4", 0, max_count=1)], **options) as run,
        small_disk(two_hosts.folder / "h4") as fill,
    ):
        run.wait_for(lambda now: row(now, "w0")["accepted"], "an update")
        two_hosts.join(HostSpec(name="h4", num_cpus=1))
        began_s = time.monotonic()
        assert two_hosts.alive() == ["h1", "h2", "h4"]
        run.wait_for(lambda now: row(now, "w1")["accepted"], "an update from the host that came")
        print(f"used {time.monotonic() - began_s:.1f} s after it had joined")
        fill()
        before = row(run.ask("snapshot"), "w1")
        run.wait_for(lambda now: row(now, "w1")["accepted"] >= before["accepted"] + 50, "fifty more with a full disk")
        run.ask("stop")
        assert_each_sample_once(run.ask("end", False))
        two_hosts.leave("h4")
    assert two_hosts.alive() == ["h1", "h2"]
