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


class Hearer(tune.Callback):
    """Every result, by trial. (Tune's own files may lose a line when a trial is paused: they are fetched anew from storage.)"""

    def __init__(self) -> None:
        self.results: dict[str, list[dict[str, Any]]] = {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        self.results.setdefault(trial.trial_id, []).append(dict(result))


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


def test_population_based_training_copies_the_better_trial(tmp_path: Path) -> None:
    """Both begin far from good; the one that hardly moves takes over the other's model and a neighbour of its learning rate."""
    heard = Hearer()
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=1,
        quantile_fraction=0.5,
        resample_probability=0.0,
        hyperparam_mutations={"optimizer.lr": [1e-5, 0.01, 0.02]},
        synch=True,
    )
    grid = tune.Tuner(
        trainable(small.job_file(tmp_path)),
        param_space={"optimizer.lr": tune.grid_search([0.02, 1e-5])},
        tune_config=tune.TuneConfig(metric="test_loss", mode="min", scheduler=scheduler, reuse_actors=True),
        run_config=small.run_config(tmp_path, stop={"training_iteration": 2}, callbacks=[heard]),
    ).fit()
    assert grid.num_errors == 0
    assert [[result["samples"] for result in results] for results in heard.results.values()] == [[100, 200]] * 2
    assert all(result.config["optimizer.lr"] >= 0.01 for result in grid), "the bad one was given a neighbour of the good one's"
    losses = [[result["test_loss"] for result in results] for results in heard.results.values()]
    assert max(second for _, second in losses) < min(first for first, _ in losses), "and its model"
    assert [saved_samples(result.checkpoint) for result in grid] == [200, 200]


def test_trials_that_cannot_be_or_diverge_fail_alone(tmp_path: Path) -> None:
    grid = tune.Tuner(
        trainable(small.job_file(tmp_path)),
        param_space={"optimizer.lr": tune.grid_search([-1.0, 3e38, 0.1]), "until.epochs": 1},
        tune_config=tune.TuneConfig(metric="test_accuracy", mode="max", max_concurrent_trials=2),
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
    assert after.metrics["training_iteration"] == 4, "every sample counts once, before and after"
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
