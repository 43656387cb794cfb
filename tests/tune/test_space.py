"""A search space is tried on paper: every choice of every field, before any trial."""

from pathlib import Path
from typing import Any

import pytest
from ray import tune

from mottle.core.errors import ConfigError
from mottle.sdk import jobfile
from mottle.sdk.jobfile import JobFile
from mottle.sdk.schema import JobFileError
from mottle.tune.space import check, check_metric, job_with, probes, reported

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


@pytest.fixture(scope="module")
def job() -> JobFile:
    return jobfile.read(DIGITS / "async.yaml")


def test_each_field_is_varied_while_the_others_stand_still() -> None:
    space = {
        "optimizer.lr": tune.loguniform(1e-3, 1.0),
        "strategy": tune.choice(["sync", "async"]),
        "fleet": {"fast": {"count": tune.randint(1, 5)}},
        "batch_size": tune.grid_search([16, 32, 64]),
        "seed": 7,
        "shards": tune.sample_from(lambda spec: 2),
    }
    first, *others = probes(space)
    assert first == {"optimizer.lr": 1e-3, "strategy": "sync", "fleet": {"fast": {"count": 1}}, "batch_size": 16, "seed": 7}
    changed = [
        {"optimizer.lr": 1.0},
        {"strategy": "async"},
        {"fleet": {"fast": {"count": 4}}},
        {"batch_size": 32},
        {"batch_size": 64},
    ]
    assert others == [{**first, **each} for each in changed]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (None, "the space is empty"),
        ({}, "the space is empty"),
        ({"optimizer.lr": tune.grid_search([])}, "optimizer.lr has no value to choose from"),
        ({"fleet": {"fast": {"count": tune.choice([])}}}, "fleet.fast.count has no value to choose from"),
    ],
)
def test_a_space_without_values_is_refused(job: JobFile, space: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(job, space)


def test_a_sound_space_gives_the_job_of_its_first_point(job: JobFile) -> None:
    space = {"optimizer.lr": tune.loguniform(1e-3, 1.0), "strategy": tune.choice(["sync", {"async": {"max_staleness": 3}}])}
    first = check(job, space)
    assert first.spec.optimizer == {"sgd": {"lr": 1e-3, "momentum": 0.5}}
    assert first.spec.strategy == "sync"
    assert job.spec.strategy != "sync"


def test_everything_wrong_is_told_at_once_with_the_nearest_names(job: JobFile) -> None:
    space = {
        "optimizer.lrr": tune.uniform(0.1, 1.0),
        "strategy": tune.choice(["async", "asink"]),
        "batch_size": tune.choice([32, 0]),
        "untill.epochs": 3.0,
    }
    with pytest.raises(JobFileError) as caught:
        check(job, space)
    told = str(caught.value)
    assert "did you mean 'until'?" in told
    assert "got 0" in told
    space.pop("untill.epochs")
    with pytest.raises(JobFileError) as caught:
        check(job, space)
    assert "did you mean 'lr'?" in str(caught.value)
    assert "did you mean 'async'?" in str(caught.value)
    assert len(str(caught.value).splitlines()) == len(set(str(caught.value).splitlines()))


def test_a_wrong_name_can_be_told_from_a_wrong_value(job: JobFile) -> None:
    for values, unknown in (
        ({"optimizer.lrr": 1.0}, True),
        ({"until.epoch": 1.0}, True),
        ({"optimizer.lr": -1.0}, False),
        ({"shards": 0}, False),
    ):
        with pytest.raises(JobFileError) as caught:
            job_with(job, values)
        assert [fault.unknown for fault in caught.value.faults] == [unknown], values


def test_options_of_several_choices_lie_side_by_side(job: JobFile) -> None:
    space = {
        "optimizer": tune.choice(["sgd", "adam"]),
        "optimizer.sgd.momentum": tune.uniform(0.0, 0.9),
        "optimizer.adam.eps": tune.loguniform(1e-9, 1e-7),
    }
    check(job, space)
    assert job_with(job, {"optimizer": "adam", "optimizer.sgd.momentum": 0.5, "optimizer.adam.eps": 1e-8}).spec.optimizer == {
        "adam": {"eps": 1e-8}
    }


def test_only_what_is_reported_can_be_compared(job: JobFile) -> None:
    assert reported(job) == ["test_loss", "test_accuracy"]
    for metric in (None, "test_accuracy", "samples", "training_iteration"):
        check_metric(job, metric)
    with pytest.raises(ConfigError, match=r"does not report 'accuracy'; did you mean 'test_accuracy'\? known: test_accuracy, test_loss"):
        check_metric(job, "accuracy")
