"""Workers come, go and die while a run goes on; nobody waits for them and nothing is lost. Real processes, real SIGKILL."""

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tests.actors import live

from mottle.actors.fleet import CrewError
from mottle.observe.snapshot import Snapshot
from mottle.sdk import Result, Run, WorkerGroup
from mottle.sdk.result import RunFailedError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

ENDLESS = {"epochs": 10_000}
SLOW_S = 0.001  # a sample: long enough that a worker is nearly always in the middle of its work


def kill(run: Run, worker: str) -> None:
    os.kill(run.processes()[worker], signal.SIGKILL)


def assert_each_sample_once(result: Result) -> None:
    """Every pass but the last, which the test cut short, used each sample once; the last one none twice."""
    assert result.summary is not None
    *whole, _ = result.summary.epochs
    assert whole
    assert all((epoch.missed, epoch.repeated, epoch.rejected) == (0, 0, 0) for epoch in whole)
    assert result.summary.updates.lost == result.summary.updates.duplicated == 0


@pytest.mark.parametrize(
    ("strategy", "options"), [("sync", {"batch_policy": {"adascale": {"per_worker": 4}}}), ("async", {})], ids=["sync", "async"]
)
def test_a_crew_that_loses_one_to_sigkill_lets_another_go_and_takes_up_a_third(
    tmp_path: Path, strategy: str, options: dict[str, Any]
) -> None:
    group = WorkerGroup(count=3, max_count=4, num_cpus=0.5, delay_s=SLOW_S)
    job = live.trainer(tmp_path, strategy=strategy, scaling_config=group, until=ENDLESS, shards=2, **options)
    with live.started(job) as run:
        seen = live.wait_for(run, lambda now: now.samples >= 200, "its second pass")
        told = [event.text.partition(" in the")[0] for event in seen.events if event.kind == "batch"]
        assert told == (["steps of 12 samples"] if options else []), "4 for each of the three, in the place of 20"
        kill(run, "w1")
        lost = live.wait_for(run, lambda now: live.row(now, "w1").state == "killed", "the death of w1")
        live.wait_for(run, lambda now: now.version >= lost.version + 5, "five more versions")

        process = psutil.Process(run.processes()["w0"])
        run.remove_worker("w0")
        left = live.wait_for(run, lambda now: live.row(now, "w0").state == "left", "the leaving of w0")
        process.wait(live.RELEASE_TIMEOUT_S)  # what it held is free for others

        (joined,) = run.add_workers(1)
        live.wait_for(run, lambda now: now.version >= left.version + 5, "five more versions of w2 alone")
        live.wait_for(run, lambda now: live.accepted(now, joined) >= 3, f"three updates of {joined}")
        run.stop("seen enough")
        result = run.result()
    assert_each_sample_once(result)
    assert result.summary is not None
    assert result.summary.stopped == "seen enough"
    reasons = {worker.id: worker.left_reason for worker in result.summary.workers}
    assert reasons["w1"] is not None
    assert reasons["w1"].startswith("died")
    assert (reasons["w0"], reasons["w2"], reasons[joined]) == ("removed", None, None)
    assert result.error is None
    live.assert_replay(job)


def test_a_group_has_no_more_workers_than_it_declares_and_unknown_groups_are_named(tmp_path: Path) -> None:
    job = live.trainer(tmp_path, scaling_config=WorkerGroup(name="only", count=1, max_count=1, num_cpus=0.5), until=ENDLESS)
    with live.started(job) as run:
        with pytest.raises(CrewError, match="group 'only' may have 1 workers, has 1 and was asked for 2 more"):
            run.add_workers(2)
        with pytest.raises(CrewError, match="unknown worker group 'others'; known: only"):
            run.add_workers(1, "others")
        for stranger in ("w7", "worker", "0", ""):
            with pytest.raises(CrewError, match=f"no worker '{stranger}' in the crew; .*known: w0"):
                run.remove_worker(stranger)
        run.stop()


def replaced(snapshot: Snapshot, times: int) -> bool:
    """Whether so many newcomers have taken the place of lost replicas."""
    return sum(event.kind == "replica" for event in snapshot.events) >= times


def test_with_a_replica_of_each_shard_killed_shards_stop_nobody_and_are_replaced(tmp_path: Path) -> None:
    """All replicas hold the same bits, so the model is that of a run that lost nothing, though none is left of those it began with."""
    group = WorkerGroup(count=2, max_count=3, num_cpus=0.5, delay_s=0.03)
    test = live.blobs(50, seed=1)
    job = live.trainer(
        tmp_path, live.perceptron, replicas=1, shards=2, batch_size=10, scaling_config=group, test_data=test, until={"epochs": 12}
    )
    with live.started(job) as run:
        live.wait_for(run, lambda now: now.version >= 3, "its third version")
        live.process_of(job, "shard0").kill()
        live.wait_for(run, lambda now: replaced(now, 1), "the first newcomer")
        run.pause()
        live.wait_for(run, lambda now: not live.computing(now), "quiet: a push that only the next one has would be lost with it")
        live.process_of(job, "shard0-replica1").kill()
        live.wait_for(run, lambda now: replaced(now, 2), "the second newcomer")
        (joined,) = run.add_workers(1)
        live.wait_for(run, lambda now: any(row.id == joined for row in now.workers), f"the arrival of {joined}")
        run.resume()
        live.wait_for_end(run)
        ours = run.parameters()
        result = run.result()
    assert result.error is None
    assert result.summary is not None
    assert result.summary.versions == 120
    assert {worker.id: worker.accepted > 0 for worker in result.summary.workers}[joined]
    theirs = live.reference(job, live.perceptron, lambda model: torch.optim.SGD(model.parameters(), lr=0.1), batch_size=10, epochs=12)
    torch.testing.assert_close(ours, theirs.parameters(), rtol=1e-4, atol=1e-6)


def test_a_lost_shard_without_replica_ends_the_run_with_its_name(tmp_path: Path) -> None:
    job = live.trainer(tmp_path, scaling_config=WorkerGroup(count=2, num_cpus=0.5, delay_s=SLOW_S), until=ENDLESS)
    with live.started(job) as run:
        live.wait_for(run, lambda now: now.version >= 2, "its second version")
        live.process_of(job, "shard0").kill()
        result = run.result()
    assert isinstance(result.error, RunFailedError)
    assert "shard 0 is lost" in str(result.error)
    assert result.summary is not None
    assert "shard 0 is lost" in result.summary.stopped


def test_a_dead_validator_is_made_again_and_the_run_ends_with_its_metrics(tmp_path: Path) -> None:
    job = live.trainer(
        tmp_path,
        test_data=live.blobs(50, seed=1),
        metrics={"accuracy": live.accuracy},
        scaling_config=WorkerGroup(count=1, num_cpus=0.5, delay_s=SLOW_S),
        until={"epochs": 3},
    )
    with live.started(job) as run:
        live.wait_for(run, lambda now: now.version >= 2, "its second version")
        live.process_of(job, "validator").kill()
        result = run.result()
    assert result.error is None
    assert result.metrics is not None
    assert result.metrics["test_accuracy"] > 0.5
