"""Sweeps with Ray Tune's own tuner, schedulers and searchers on a live Ray: as small as each of them shows something."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler, MedianStoppingRule, PopulationBasedTraining
from ray.tune.search.optuna import OptunaSearch
from safetensors.torch import load_file
from tests.actors import live
from tests.tune import small

from mottle.tune import Tuner, trainable

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cold_ray", "quiet_tune")]

# OptunaSearch says through the `warnings` of Optuna that some of what it uses may still change.
IGNORED = "ignore:.*experimental.*"


@pytest.fixture
def quiet_tune(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune's older reporter, which at `verbose=0` says nothing."""
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")


def samples(result: Any) -> list[int]:
    """Of each evaluation that Tune was told of."""
    return list(result.metrics_dataframe["samples"])


def saved_samples(checkpoint: Any) -> int:
    return int(json.loads(Path(checkpoint.path, "manifest.json").read_text())["samples"])


@pytest.mark.filterwarnings(IGNORED)
def test_asha_stops_what_optuna_proposes_and_every_result_has_its_checkpoint(tmp_path: Path) -> None:
    searcher = OptunaSearch(seed=0, points_to_evaluate=[{"optimizer.lr": 0.1}, {"optimizer.lr": 1e-6}])
    grid = Tuner(
        trainable(small.job_file(tmp_path)),
        param_space={"optimizer.lr": tune.loguniform(1e-6, 1.0)},
        tune_config=tune.TuneConfig(
            metric="test_loss",
            mode="min",
            search_alg=searcher,
            scheduler=ASHAScheduler(max_t=3, grace_period=1, reduction_factor=2),
            num_samples=3,
            max_concurrent_trials=1,
            reuse_actors=True,
        ),
        run_config=small.run_config(tmp_path),
    ).fit()
    assert (len(grid), grid.num_errors) == (3, 0)
    by_lr = {result.config["optimizer.lr"]: result for result in grid}
    assert samples(by_lr[0.1]) == [100, 200, 300]
    assert samples(by_lr[1e-6]) == [100], "stopped at the first rung"
    for result in grid:
        assert [saved_samples(checkpoint) for checkpoint, _ in result.best_checkpoints] == samples(result)
        assert set(load_file(Path(result.checkpoint.path, "model.safetensors"))) == {"weight", "bias"}
    assert grid.get_best_result().config["optimizer.lr"] != 1e-6
    live.assert_released()


class UntilCopied(tune.Stopper):
    """Ends a sweep when every trial is better than it was at first, the one that cannot learn too. Keeps what processes were seen."""

    def __init__(self) -> None:
        self.losses: dict[str, list[float]] = {}
        self.pids: dict[str, set[int]] = {kind: set() for kind in live.SHELLS}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.losses.setdefault(trial_id, []).append(result["test_loss"])
        self.pids.setdefault("trial", set()).add(result["pid"])
        for kind in live.SHELLS:
            self.pids[kind] |= {process.pid for process in live.shell_processes(kind)}
        return False

    def stop_all(self) -> bool:
        return len(self.losses) == 2 and all(told[-1] < 0.9 * told[0] for told in self.losses.values())

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune writes it down with the sweep


def test_rays_own_population_based_training_copies_from_shard_to_shard_and_no_process_starts_for_it(tmp_path: Path) -> None:
    """One of the two hardly moves by itself; it takes over the other's model, and a neighbour of its learning rate."""
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=1,
        quantile_fraction=0.5,
        resample_probability=0.0,
        hyperparam_mutations={"optimizer.lr": [1e-9, 0.01, 0.02]},
    )
    seen = UntilCopied()
    grid = tune.Tuner(
        trainable(small.job_file(tmp_path)),
        param_space={"optimizer.lr": tune.grid_search([0.02, 1e-9]), "until.epochs": 10_000, "strategy": "async"},
        tune_config=tune.TuneConfig(metric="test_loss", mode="min", scheduler=scheduler, reuse_actors=True, max_concurrent_trials=2),
        run_config=small.run_config(tmp_path, stop=seen),
    ).fit()
    assert grid.num_errors == 0
    assert scheduler._num_perturbations >= 1
    assert {kind: len(pids) for kind, pids in seen.pids.items()} == {**dict.fromkeys(live.SHELLS, 2), "trial": 2}
    assert [path.name for path in (tmp_path / small.NAME).glob("*/run-*")] == ["run-000"] * 2, "and no run begins anew"
    assert all(saved_samples(result.checkpoint) > 0 for result in grid), "durable copies follow"


def test_trials_that_cannot_be_or_diverge_fail_alone(tmp_path: Path) -> None:
    grid = tune.Tuner(
        trainable(small.job_file(tmp_path)),
        param_space={"optimizer.lr": tune.grid_search([0.1, 3e38, -1.0]), "until.epochs": 1},
        tune_config=tune.TuneConfig(metric="test_accuracy", mode="max", max_concurrent_trials=1, reuse_actors=True),
        run_config=small.run_config(tmp_path),
    ).fit()
    told = {result.config["optimizer.lr"]: str(result.error) for result in grid}
    assert "Invalid learning rate: -1.0" in told[-1.0]
    assert "diverged: test_loss is" in told[3e38]
    assert told[0.1] == "None"
    assert grid.get_best_result().config["optimizer.lr"] == 0.1


def test_a_wrong_name_or_metric_ends_the_sweep_before_any_trial(tmp_path: Path) -> None:
    kind = trainable(small.job_file(tmp_path))
    with pytest.raises(ValueError, match="did you mean 'lr'"):
        tune.Tuner(kind, param_space={"optimizer.lrr": tune.uniform(0.1, 1.0)}, run_config=small.run_config(tmp_path)).fit()
    assert not list((tmp_path / small.NAME).glob("*/result.json"))
    with pytest.raises(ValueError, match="does not report 'accuracy'; did you mean 'test_accuracy'"):
        Tuner(
            kind,
            param_space={"optimizer.lr": tune.uniform(0.1, 1.0)},
            tune_config=tune.TuneConfig(metric="accuracy", mode="max"),
            run_config=small.run_config(tmp_path),
        )


def test_a_sweep_goes_on_after_its_driver_was_killed(tmp_path: Path) -> None:
    job = small.job_file(tmp_path)
    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "TUNE_GLOBAL_CHECKPOINT_S": "0"}
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.tune.small", str(job), str(tmp_path), address],
        stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment, start_new_session=True,
    )  # fmt: skip
    assert driver.stdout is not None
    assert any(line.strip() == small.SAVED for line in driver.stdout), "it ended before its first checkpoint"
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    live.assert_released()

    (told,) = (tmp_path / small.NAME).glob("*/result.json")
    assert 1 <= len(told.read_text().splitlines()) < 4, "killed in the middle"
    (after,) = tune.Tuner.restore(str(tmp_path / small.NAME), trainable(job)).fit()
    assert after.error is None
    assert after.metrics["samples"] == 400
    assert after.metrics["training_iteration"] >= 4, "one that was measured and not yet saved may have come again"
    (resumed,) = (tmp_path / small.NAME).glob("*/run-001/result.json")
    assert json.loads(resumed.read_text())["samples"] == 400


@pytest.mark.soak
@pytest.mark.filterwarnings(IGNORED)
@pytest.mark.parametrize(
    "scheduler",
    [HyperBandScheduler(max_t=3, reduction_factor=3), MedianStoppingRule(grace_period=1, min_samples_required=1)],
    ids=["hyperband with tpe", "median"],
)
def test_the_other_schedulers_pause_stop_and_finish(tmp_path: Path, scheduler: Any) -> None:
    grid = Tuner(
        small.job_file(tmp_path),
        param_space={"optimizer": {"sgd": {"lr": tune.loguniform(1e-4, 1.0)}}, "until.epochs": 3},
        tune_config=tune.TuneConfig(metric="test_loss", mode="min", scheduler=scheduler, search_alg=OptunaSearch(seed=0), num_samples=3),
        run_config=small.run_config(tmp_path),
    ).fit()
    assert (len(grid), grid.num_errors) == (3, 0)
    assert all(result.metrics["samples"] >= 100 for result in grid)
