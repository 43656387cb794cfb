"""The coordinator's process is killed while a run goes on: another one takes over by itself. Real processes, real SIGKILL."""

import os
import signal
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from tests.actors import live
from torch import nn

from mottle.observe.snapshot import Snapshot
from mottle.sdk import Run, WorkerGroup

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def kill_coordinator(run: Run) -> None:
    psutil.Process(run.places()["coordinator"].pid).kill()


def comebacks(now: Snapshot) -> int:
    """How often another one has taken over."""
    return sum(event.kind == "coordinator" for event in now.events)


def test_a_killed_coordinator_is_replaced_and_not_a_bit_of_the_model_is_another(tmp_path: Path) -> None:
    group = WorkerGroup(count=2, max_count=3, num_cpus=0.5, delay_s=0.01)
    job = live.trainer(
        tmp_path, live.perceptron, replicas=1, shards=2, batch_size=10, scaling_config=group, test_data=live.blobs(50, seed=1),
        until={"epochs": 12}, evaluate_every=200, checkpoint_every=300, lease_floor_s=None,
    )  # fmt: skip
    with live.started(job) as run:
        for times in (1, 2):
            before = live.wait_for(run, lambda now, times=times: now.version >= 20 * times, "some versions")
            kill_coordinator(run)
            live.wait_for(run, lambda now, times=times: comebacks(now) == times, "another coordinator")
            live.wait_for(run, lambda now, before=before: now.version >= before.version + 5, "five more versions")
        live.wait_for_end(run)
        ours = run.parameters()
        result = run.result()
    assert result.error is None
    assert result.summary is not None
    assert result.summary.versions == 120
    assert result.summary.updates.lost == result.summary.updates.duplicated == 0
    assert all(worker.left_reason is None for worker in result.summary.workers), "nobody had to leave"
    live.assert_replay(job)
    theirs = live.reference(job, live.perceptron, lambda model: torch.optim.SGD(model.parameters(), lr=0.1), batch_size=10, epochs=12)
    torch.testing.assert_close(ours, theirs.parameters(), rtol=1e-4, atol=1e-6)


def test_what_dies_while_there_is_no_coordinator_is_found_out_by_the_next_one(tmp_path: Path) -> None:
    group = WorkerGroup(count=3, max_count=3, num_cpus=0.5, delay_s=0.001)
    job = live.trainer(tmp_path, strategy="async", replicas=1, scaling_config=group, until={"epochs": 10_000})
    with live.started(job) as run:
        live.wait_for(run, lambda now: now.samples >= 200, "its second pass")
        places = run.places()
        for victim in [psutil.Process(places[name].pid) for name in ("coordinator", "w1", "shard0")]:
            victim.kill()
        back = live.wait_for(run, lambda now: comebacks(now) == 1, "another coordinator")
        assert live.row(back, "w1").state == "killed"
        assert [event.text for event in back.events if "a replica of shard 0 is lost" in event.text]
        live.wait_for(run, lambda now: any(event.kind == "replica" for event in now.events), "a newcomer in the place of shard 0")
        (joined,) = run.add_workers(1)
        run.set(lr=0.05)
        live.wait_for(run, lambda now: live.accepted(now, joined) >= 3, f"three updates of {joined}")
        run.stop("seen enough")
        result = run.result()
    assert result.error is None
    assert result.summary is not None
    assert result.summary.stopped == "seen enough"
    *whole, _ = result.summary.epochs
    assert all((epoch.missed, epoch.repeated, epoch.rejected) == (0, 0, 0) for epoch in whole)
    assert result.summary.updates.lost == result.summary.updates.duplicated == 0
    live.assert_replay(job)


def fatal(victim: Path) -> nn.Module:
    """A model whose making kills a process, once: the one whose id is in the file."""
    if victim.exists():
        pid = int(victim.read_text())
        victim.unlink()
        os.kill(pid, signal.SIGKILL)
    return live.perceptron()


def test_a_worker_that_was_prepared_when_the_coordinator_died_works_for_the_next_one(tmp_path: Path) -> None:
    group, victim = WorkerGroup(count=1, max_count=2, num_cpus=0.5, delay_s=0.001), tmp_path / "victim"
    job = live.trainer(
        tmp_path / "run", partial(fatal, victim), strategy="async", replicas=1, scaling_config=group, until={"epochs": 10_000}
    )  # fmt: skip
    with live.started(job) as run:
        live.wait_for(run, lambda now: now.version >= 3, "three versions")
        written = tmp_path / "written"
        written.write_text(str(run.places()["coordinator"].pid))
        written.rename(victim)
        (joined,) = run.add_workers(1)
        live.wait_for(run, lambda now: comebacks(now) == 1, "another coordinator")
        live.wait_for(run, lambda now: live.accepted(now, joined) >= 3, f"three updates of {joined}")
        run.stop("seen enough")
        result = run.result()
    assert result.error is None
    assert result.summary is not None
    assert [worker.left_reason for worker in result.summary.workers] == [None, None], "nobody had to leave"
