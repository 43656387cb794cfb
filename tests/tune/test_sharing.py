"""Trials that share a fleet on a live Ray: workers move between them and no process is started for it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import tune
from ray.train._internal.storage import StorageContext
from ray.tune.schedulers import ASHAScheduler
from tests.actors import live
from tests.tune import hungry, small
from tests.tune.test_trial import described, running

from mottle.actors.fleet import CrewError
from mottle.actors.reserve import RESERVE
from mottle.core.errors import ConfigError
from mottle.sdk import WorkerGroup
from mottle.tune import Arbiter, Tuner, trainable
from mottle.tune.going import TrialError
from mottle.tune.trial import Trial

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")


CREW = {"scaling_config": WorkerGroup(count=2, num_cpus=0.5, delay_s=0.001), "strategy": "async", "until": {"epochs": 1000}}


@pytest.fixture(scope="module")
def fleet(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arbiter]:
    """Two workers for all tests; nobody else has any meanwhile."""
    RESERVE.clear()
    live.assert_released()
    job = live.trainer(tmp_path_factory.mktemp("fleet"), test_data=live.blobs(50, seed=1), **CREW)
    with Arbiter(job, stay_s=0.0) as fleet:
        yield fleet
        lent = live.shell_processes("TrainingWorker")
    _, alive = psutil.wait_procs(lent, timeout=live.RELEASE_TIMEOUT_S)
    assert not alive, "the fleet's workers end with it"


def workers() -> set[int]:
    return {process.pid for process in live.shell_processes("TrainingWorker")}


def sharing(kind: type[Trial], fleet: Arbiter) -> type[Trial]:
    return type("Sharing", (kind,), {"loan": fleet.loan})


def step_until(trial: Trial, num_workers: int) -> dict[str, Any]:
    """Results until one says that so many workers are there."""
    while (result := trial.train())["workers"] != num_workers:
        pass
    return result


def joined_after(trial: Trial, what: float) -> float:
    """Seconds from a moment of `time.monotonic` to the last worker that joined the trial's run."""
    assert trial._going is not None
    until = time.monotonic() + 10
    while sum(row.state not in ("left", "killed") for row in trial._going.run.progress.workers) < 2:
        assert time.monotonic() < until, "nobody came"
        time.sleep(0.01)
    return time.monotonic() - what


def test_workers_go_from_trial_to_trial_within_a_second_and_stay_the_same_processes(tmp_path: Path, fleet: Arbiter) -> None:
    kind, before = sharing(described(tmp_path, **CREW), fleet), workers()
    assert len(before) == 2
    with running(kind, tmp_path, {"optimizer.lr": 0.1}, "first") as first:
        assert step_until(first, 2)["done"] is False
        with running(kind, tmp_path, {"optimizer.lr": 0.2}, "second") as second:
            assert second.train()["workers"] == 1
            step_until(first, 1)
            stopped_at = time.monotonic()
        assert joined_after(first, stopped_at) < 1.0
        assert first.train()["workers"] == 2
        assert first.reset({"optimizer.lr": 0.4}, StorageContext(str(tmp_path), "sweep", trial_dir_name="third"))
        step_until(first, 2)
    assert workers() == before
    usage = fleet.usage()
    assert [worker.group for worker in usage.workers] == ["workers", "workers"]
    assert all(worker.trials >= 2 for worker in usage.workers)
    assert 0 < usage.busy <= usage.lent <= 1
    assert "fleet busy" in str(usage)


@pytest.mark.skipif(not hungry.can_bound(), reason="needs the right to bound the memory of a group of processes")
def test_a_trial_whose_workers_the_kernel_kills_for_their_memory_fails_and_the_fleet_is_whole_again(tmp_path: Path, fleet: Arbiter) -> None:
    told = "2 workers failed in it since its last evaluation; the last one: its worker died: .*memory"
    kind = sharing(described(tmp_path / "hungry", loss=hungry.killed, **CREW), fleet)
    try:
        with running(kind, tmp_path, {"optimizer.lr": 0.1}, "dies") as dies, pytest.raises(TrialError, match=told):
            dies.train()
    finally:
        hungry.clear()
    with running(sharing(described(tmp_path, **CREW), fleet), tmp_path, {"optimizer.lr": 0.1}, "goes on") as trial:
        step_until(trial, 2)


def test_a_trial_whose_workers_fail_fails_and_those_that_are_killed_are_replaced(tmp_path: Path, fleet: Arbiter) -> None:
    missing = described(tmp_path / "missing", model=live.NeedsADevice, **CREW)
    with (
        running(sharing(missing, fleet), tmp_path, {"optimizer.lr": 0.1}, "fails") as fails,
        pytest.raises(Exception, match="no such device"),
    ):
        fails.train()
    fine = sharing(described(tmp_path, **CREW), fleet)
    with running(fine, tmp_path, {"optimizer.lr": 0.1}, "goes on") as trial:
        step_until(trial, 2)
        (victim, other) = sorted(workers())
        os.kill(victim, signal.SIGKILL)
        step_until(trial, 1)
        step_until(trial, 2)
        assert len(workers()) == 2
        assert other in workers()
        assert trial._going is not None
        ray.kill(trial._going.run.coordinator)
        with pytest.raises(Exception, match="coordinator is gone"):
            trial.train()
    with running(fine, tmp_path, {"optimizer.lr": 0.1}, "after") as trial:
        assert step_until(trial, 2)["workers"] == 2
        assert other in workers(), "what the coordinator had that is gone for good goes on elsewhere"


def test_a_coordinator_that_is_replaced_keeps_what_was_lent_to_its_trial_and_gives_it_back(tmp_path: Path, fleet: Arbiter) -> None:
    kind, before = sharing(described(tmp_path, **CREW), fleet), workers()
    with running(kind, tmp_path, {"optimizer.lr": 0.1}, "first") as first:
        step_until(first, 2)
        assert first._going is not None
        os.kill(first._going.run.places()["coordinator"].pid, signal.SIGKILL)
        assert first.train()["workers"] == 2
        run = first._going.run.progress
        assert [event.kind for event in run.events].count("coordinator") == 1
        assert [row.id for row in run.workers] == ["w0", "w1"], "nobody left and came again"
        with running(kind, tmp_path, {"optimizer.lr": 0.2}, "second") as second:
            assert second.train()["workers"] == 1
            step_until(first, 1)
        step_until(first, 2)
    assert workers() == before
    with running(kind, tmp_path, {"optimizer.lr": 0.3}, "third") as third:
        step_until(third, 2)


def test_a_sweep_shares_a_fleet_and_what_fails_fails_alone(tmp_path: Path, fleet: Arbiter) -> None:
    job = small.job_file(tmp_path)
    crew = "{count: 2, num_cpus: 0.5, delay_s: 0.001}"
    job.write_text(small.JOB.replace("strategy: sync", "strategy: async").replace("{count: 1, num_cpus: 0.5, delay_s: 0.002}", crew))
    before, loans = workers(), sum(worker.trials for worker in fleet.usage().workers)
    grid = Tuner(
        trainable(job, fleet),
        param_space={"optimizer.lr": tune.grid_search([0.1, 0.01, 3e38]), "scaling.max_workers": 2},
        tune_config=tune.TuneConfig(
            metric="test_loss",
            mode="min",
            scheduler=ASHAScheduler(max_t=3, grace_period=1, reduction_factor=2),
            reuse_actors=True,
        ),
        run_config=small.run_config(tmp_path),
    ).fit()
    told = {result.config["optimizer.lr"]: str(result.error) for result in grid}
    assert "diverged: test_loss is" in told[3e38]
    assert [told[0.1], told[0.01]] == ["None", "None"]
    assert max(result.metrics["samples"] for result in grid if result.error is None) == 300
    assert workers() == before
    assert sum(worker.trials for worker in fleet.usage().workers) >= loans + 3


def test_a_fleet_that_is_too_small_or_another_one_is_refused(tmp_path: Path, fleet: Arbiter) -> None:
    job = small.job_file(tmp_path)
    with pytest.raises(CrewError, match="a trial needs 2 workers and the fleet has 1; lower min_workers or declare more workers"):
        Arbiter(job, min_workers=2)
    with pytest.raises(ConfigError, match="1 <= min_workers <= max_workers, got 1 and 0"):
        Arbiter(job, max_workers=0)
    with pytest.raises(ConfigError, match="the fleet has not started"):
        trainable(job, Arbiter(job))
    large = live.trainer(tmp_path, test_data=live.blobs(50), scaling_config=WorkerGroup(count=1, num_cpus=1000))
    with pytest.raises(CrewError, match=r"the fleet needs 1000 CPU \(the cluster has 16\)"):
        Arbiter(large).start()
    kind = sharing(described(tmp_path, **CREW), fleet)
    assert kind.default_resource_request({"optimizer.lr": 0.1}).required_resources == {"memory": 1}
    with pytest.raises(ConfigError, match="did you mean 'lr'"):
        kind.default_resource_request({"optimizer.lrr": 0.1})
    for hopeless in ({"scaling.min_workers": 3}, {"scaling": {"max_workers": 0}}):
        assert kind.default_resource_request(hopeless).required_resources == {"memory": 1}, "its own trial alone fails"
    with running(kind, tmp_path, {"scaling.min_workers": 3}) as trial, pytest.raises(CrewError, match="the fleet has 2"):
        trial.train()
    with running(kind, tmp_path, {"fleet.workers.count": 3}) as trial, pytest.raises(ConfigError, match="trials share one fleet"):
        trial.train()
    with pytest.raises(ConfigError, match="another fleet than the one that trials are to share"):
        trainable(live.trainer(tmp_path, test_data=live.blobs(50)), fleet)
