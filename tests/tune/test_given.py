"""A trainer taken apart into the fields of a job file, and put together again."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle
from tests.actors import live
from torch import nn

from mottle.core.errors import ConfigError
from mottle.optim.schedule import Constant
from mottle.sdk import HealthConfig, Trainer, WorkerGroup
from mottle.tune import given
from mottle.tune.fields import applied
from mottle.tune.given import job_of
from mottle.tune.space import job_with


class Wide(nn.Linear):
    """A model with an argument."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__(live.NUM_FEATURES, live.NUM_CLASSES, bias=bias)


def described(folder: Path, **options: Any) -> Trainer:
    more: dict[str, Any] = {
        "test_data": live.blobs(20, seed=1),
        "metrics": {"accuracy": live.accuracy, "odd name!": live.accuracy},
        "optimizer": {"adam": {"lr": 0.01, "betas": (0.8, 0.9)}},
        "attack": "sign_flip",
        "lease_floor_s": None,
        "health": HealthConfig(rejected=5),
        "seed": 3,
    }
    return live.trainer(folder, **{**more, **options})


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    first = described(tmp_path)
    again = job_of(first).trainer(folder=tmp_path / "again")
    same = ("groups", "strategy", "brain", "seed", "micro_batch_size", "codec", "total_samples", "layout", "loss")
    assert {name: getattr(first.job, name) for name in same} == {name: getattr(again.job, name) for name in same}
    assert list(again.job.metrics) == ["accuracy", "odd name!"]
    assert first.job.optimizer["adam"]["betas"] == tuple(again.job.optimizer["adam"]["betas"])
    assert torch.equal(first._values, again._values)


def test_its_objects_find_their_modules_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "far_away.py").write_text("def twice(number):\n    return 2 * number\n")
    sys.path.insert(0, str(tmp_path))
    try:
        module = importlib.import_module("far_away")
        packed = cloudpickle.dumps(given.Carried({"trainer:loss": module.twice}))
    finally:
        sys.path.remove(str(tmp_path))
    script = "import pickle, sys; carried = pickle.load(sys.stdin.buffer); print(carried['trainer:loss'](21), len(carried))"
    done = subprocess.run([sys.executable, "-c", script], input=packed, capture_output=True, check=True)
    assert done.stdout.split() == [b"42", b"1"]


def test_every_argument_of_a_trainer_is_taken_or_dropped_on_purpose() -> None:
    handled = {*given._SPECS, *given._COUNTS, *given._OTHERS, *given._OBJECTS, *given.DROPPED, "metrics", "until", "health"}
    assert handled == set(inspect.signature(Trainer).parameters)


def test_its_fields_are_searched_like_those_of_a_file(tmp_path: Path) -> None:
    job = job_of(described(tmp_path, model=Wide))
    changed = job_with(job, {"model.bias": False, "optimizer.lr": 0.5, "scaling.num_workers": 1, "until.epochs": 3})
    trainer = changed.trainer(folder=tmp_path / "changed")
    assert "bias" not in dict(trainer.job.model().named_parameters())
    assert trainer.job.optimizer == {"adam": {"lr": 0.5, "betas": [0.8, 0.9]}}
    assert trainer.job.groups[0].count == 1
    assert trainer.job.total_samples == 300


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda folder: 3, "wanted a Trainer, a job file or its path, got int"),
        (lambda folder: live.trainer(folder), "this one measures nothing; give it test_data"),
        (lambda folder: described(folder, lr_schedule=Constant(), scaling_config=WorkerGroup()), "lr_schedule is searched by its name"),
    ],
    ids=["a number", "no test data", "an object"],
)
def test_what_cannot_be_searched_is_refused(tmp_path: Path, wrong: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        job_of(wrong(tmp_path))


def test_a_job_file_is_taken_by_its_path() -> None:
    file = Path(__file__).resolve().parents[2] / "examples" / "digits" / "sync.yaml"
    job = job_of(file)
    assert (job.file, applied(job.data, {"seed": 4})["seed"]) == (file, 4)
