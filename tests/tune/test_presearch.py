"""The simulator as a cheap fidelity: which points of a space are worth running."""

from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.tune.experiment import Experiment
from ray.tune.search import SearchGenerator
from tests.tune import small

from mottle.core.errors import ConfigError
from mottle.sdk import jobfile
from mottle.tune.presearch import Forecast, Given, Simulate, forecast, points, presearch, ranked

HOW = Simulate(candidates=6, sample_s=0.001)


@pytest.fixture
def job(tmp_path: Path) -> Any:
    return jobfile.read(small.job_file(tmp_path))


def test_points_are_drawn_by_seed_and_grids_are_gone_through() -> None:
    space = {"optimizer.lr": tune.loguniform(1e-3, 1.0), "batch_size": tune.grid_search([10, 20]), "until": {"epochs": 1}}
    first, again = (list(points(space, 5, seed)) for seed in (0, 0))
    assert first == again
    assert [each["batch_size"] for each in first] == [10, 20, 10, 20, 10]
    assert first[0]["optimizer.lr"] != next(points(space, 1, 1))["optimizer.lr"]
    assert all(each["until"] == {"epochs": 1} for each in first)


def test_the_declared_fleet_decides_how_long_a_point_takes(job: Any) -> None:
    """300 samples in batches of 20, each sample 1 ms and its delay; two workers at a time."""
    fast, slow = (
        forecast(job, {"fleet": {"workers": {"delay_s": delay_s, "count": 2}}, "strategy": "sync"}, "test_accuracy", HOW)
        for delay_s in (0.001, 0.009)
    )
    assert (fast.seconds, slow.seconds) == (pytest.approx(0.3, rel=1e-6), pytest.approx(1.5, rel=1e-6))
    assert fast.score == slow.score, "the same steps"


def test_the_first_to_reach_the_target_is_the_best(job: Any) -> None:
    space = {"fleet.workers.delay_s": tune.grid_search([0.02, 0.005, 0.01]), "optimizer.lr": tune.grid_search([0.05, 1e-9])}
    found = presearch(job, space, 2, metric="test_accuracy", mode="max", how=Simulate(candidates=6, sample_s=0.001, target=0.5))
    assert [(each.values["fleet.workers.delay_s"], each.values["optimizer.lr"], each.reached) for each in found] == [
        (0.005, 0.05, True),
        (0.01, 0.05, True),
    ]


def test_without_a_target_the_metric_decides_and_what_cannot_be_is_left_out(job: Any) -> None:
    space = {"optimizer.lr": tune.grid_search([-1.0, 1e-9, 0.05])}
    found = presearch(job, space, 9, metric="test_loss", mode="min", how=Simulate(candidates=3, sample_s=0.001))
    assert [each.values["optimizer.lr"] for each in found] == [0.05, 1e-9]
    with pytest.raises(ConfigError, match=r"none of 1 points could be simulated; the last one: .*Invalid learning rate"):
        presearch(job, {"optimizer.lr": -1.0}, 1, metric="test_loss", mode="min", how=Simulate(candidates=1))
    with pytest.raises(ConfigError, match="a target is reached from below"):
        presearch(job, space, 1, metric="test_loss", mode="min", how=Simulate(target=0.1))


def test_ranks_put_what_is_not_finite_last() -> None:
    given = [Forecast({}, 1.0, reached=False, score=score) for score in (float("nan"), 0.5, None, 0.9)]
    given.append(Forecast({}, 9.0, reached=True, score=0.9))
    assert [each.score for each in ranked(given, "max")][:3] == [0.9, 0.9, 0.5]
    assert ranked(given, "max")[0].reached
    assert [each.score for each in ranked(given[:4], "min")][:2] == [0.5, 0.9]


class Nothing(tune.Trainable):
    def step(self) -> dict[str, float]:
        return {}


def test_ray_tune_runs_the_points_that_it_is_given_and_no_others(tmp_path: Path) -> None:
    """Among them a choice whose values have options, and a grid; an interrupted sweep goes on where it was."""
    strategies = ["sync", {"async": {"max_staleness": 8}}]
    chosen = [{"batch_size": 20, "strategy": each, "until": {"epochs": 1}} for each in strategies]
    space = {"batch_size": tune.grid_search([10, 20]), "strategy": tune.choice(strategies), "until": {"epochs": 1}}
    proposed = SearchGenerator(Given(chosen))
    proposed.add_configurations([Experiment("points", Nothing, config=space, num_samples=2, storage_path=str(tmp_path))])
    assert proposed.next_trial().config == chosen[0]
    proposed.searcher.save(str(tmp_path / "searcher"))
    restored = Given([])
    restored.restore(str(tmp_path / "searcher"))
    assert restored.suggest("b") == proposed.next_trial().config == chosen[1]
    assert proposed.next_trial() is None
    assert proposed.is_finished()
