"""The file that `mottle tune` takes: what it becomes, and what is refused with its place."""

import json
from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler, MedianStoppingRule, PopulationBasedTraining
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Categorical, Float, Integer

from mottle.sdk import jobfile
from mottle.sdk.schema import JobFileError
from mottle.tune import spacefile

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
SOUND: dict[str, Any] = {"space": {"optimizer.lr": {"loguniform": [0.01, 1.0]}}, "metric": "test_loss", "mode": "min"}


def read(tmp_path: Path, **changes: Any) -> spacefile.SpaceFile:
    file = tmp_path / "space.yaml"
    file.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in {**SOUND, **changes}.items()))
    return spacefile.read(file)


def refused(tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(JobFileError) as caught:
        read(tmp_path, **changes)
    return str(caught.value)


def test_ranges_choices_and_grids_become_those_of_ray(tmp_path: Path) -> None:
    space = {
        "optimizer.lr": {"loguniform": [0.01, 1.0]},
        "fleet": {"slow": {"count": {"randint": [1, 4]}}},
        "strategy": {"choice": ["sync", {"async": {"max_staleness": 8}}]},
        "batch_size": {"grid": [16, 32]},
        "until": {"epochs": 2},
    }
    made = read(tmp_path, space=space).space
    assert isinstance(made["optimizer.lr"], Float)
    assert (made["optimizer.lr"].lower, made["optimizer.lr"].upper) == (0.01, 1.0)
    assert isinstance(made["fleet"]["slow"]["count"], Integer)
    assert isinstance(made["strategy"], Categorical)
    assert made["strategy"].categories == ["sync", {"async": {"max_staleness": 8}}]
    assert made["batch_size"] == {"grid_search": [16, 32]}
    assert made["until"] == {"epochs": 2}


@pytest.mark.filterwarnings("ignore:.*experimental.*")
@pytest.mark.parametrize(
    ("scheduler", "kind"),
    [
        ({"asha": {"max_evaluations": 9, "grace": 2}}, ASHAScheduler),
        ("hyperband", HyperBandScheduler),
        ("median", MedianStoppingRule),
        ({"pbt": {"every": 3}}, PopulationBasedTraining),
    ],
)
def test_schedulers_and_searchers_are_rays(tmp_path: Path, scheduler: Any, kind: type) -> None:
    config = read(tmp_path, scheduler=scheduler, search="tpe", trials=5, concurrent=2).tune_config()
    assert isinstance(config.scheduler, kind)
    assert isinstance(config.search_alg, OptunaSearch)
    assert (config.metric, config.mode, config.num_samples, config.max_concurrent_trials) == ("test_loss", "min", 5, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spaces": {}}, "space.yaml:4: spaces: unknown key 'spaces'; did you mean 'space'?"),
        ({"space": {}}, "space: Dictionary should have at least 1 item"),
        ({"mode": "best"}, "space.yaml:3: mode: wanted 'max' or 'min', got 'best'"),
        ({"trials": 0}, "trials: wanted"),
        ({"search": "tpee"}, "search: unknown search 'tpee'; did you mean 'tpe'?"),
        ({"scheduler": {"asha": {"graze": 1}}}, "has no option 'graze'; did you mean 'grace'?"),
        ({"scheduler": {"pbt": {"quantile": 0.9}}}, "scheduler: "),
        ({"fidelity": "simulat"}, ":4: fidelity: unknown fidelity 'simulat'; did you mean 'simulate'?"),
        ({"fidelity": {"simulate": {"target": 0.5}}}, "a target is reached from below"),
        ({"fidelity": "simulate", "search": "tpe"}, "there is nothing to search by 'tpe'"),
        ({"fidelity": {"simulate": {"candidates": 3}}, "trials": 4}, "3 candidates are fewer than the 4 trials"),
        ({"share": "equaly"}, ":4: share: unknown policy 'equaly'; did you mean 'equal'?"),
        ({"scheduler": "pbt", "space": {"seed": 3}}, "pbt changes what is searched, and the space has neither ranges nor choices"),
        ({"space": {"optimizer.lr": {"logunifrom": [1, 2]}}}, ":1: space.optimizer.lr: unknown range 'logunifrom'; did you mean"),
        ({"space": {"optimizer.lr": {"uniform": [1]}}}, "uniform takes a list of 2 numbers, got [1]"),
        ({"space": {"optimizer.lr": {"uniform": [1, "a"]}}}, "uniform takes numbers"),
        ({"space": {"optimizer.lr": {"uniform": [2, 1]}}}, "goes from a lower to a higher number"),
        ({"space": {"optimizer.lr": {"loguniform": [-1, 1]}}}, "loguniform: "),
        ({"space": {"optimizer.lr": {"choice": []}}}, "choice takes a list of values, got []"),
        ({"space": {"seed": {"grid": [1, 2]}}, "search": "tpe"}, "a grid is gone through by the search `random`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refused(tmp_path, **changes)


def test_values_from_the_command_line_win(tmp_path: Path) -> None:
    read(tmp_path)
    assert spacefile.read(tmp_path / "space.yaml", ("trials=7", "scheduler.asha.grace=2")).shape.trials == 7


def test_the_job_is_asked_about_every_choice_and_the_metrics(tmp_path: Path) -> None:
    job = jobfile.read(DIGITS / "async.yaml")
    assert read(tmp_path).check(job).spec.optimizer == {"sgd": {"lr": 0.01, "momentum": 0.5}}
    share = {"space": {"scaling.max_workers": {"choice": [1, 2]}}, "share": "halving"}
    assert read(tmp_path, **share).check(job) is not None, "a trial's share, although the fleet has two groups"
    for changes, message in (
        ({"space": {"optimizer.lrr": 1.0}}, "space.yaml: optimizer.sgd.lrr: optimizer SGD has no option 'lrr' here; did you mean 'lr'?"),
        ({"metric": "loss"}, "space.yaml:2: metric: the job does not report 'loss'; did you mean 'test_loss'?"),
        ({"stop": {"test_accuracc": 0.9}}, "stop.test_accuracc: the job does not report"),
    ):
        with pytest.raises(JobFileError) as caught:
            read(tmp_path, **changes).check(job)
        assert message in str(caught.value)


def test_the_example_is_sound() -> None:
    spacefile.read(DIGITS / "space.yaml").check(jobfile.read(DIGITS / "async.yaml"))
