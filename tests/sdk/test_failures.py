"""`max_failures`: what `fit` does when a run is stopped by a failure. Starting and resuming are replaced: only their order matters
here. A shard is really killed in tests/actors/test_resuming.py.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray.train import FailureConfig, RunConfig
from torch import nn
from torch.utils.data import TensorDataset

from mottle.checkpoint import Manifest, folder_of, write_manifest, write_model
from mottle.sdk import Trainer
from mottle.sdk.result import RunFailedError
from mottle.storage import Folder

FAILED = SimpleNamespace(error=RunFailedError("no shard is left"))
ENDED = SimpleNamespace(error=None)


def lost() -> Any:
    raise ray.exceptions.ActorDiedError()


def gone() -> Any:
    raise RunFailedError("the coordinator is gone")


def trainer(folder: Path, max_failures: int, outcomes: list[Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Trainer, list[str]]:
    """A trainer whose runs end as told, one after the other, and the list of what it did."""
    made = Trainer(
        lambda: nn.Linear(2, 1),
        lambda model, batch: model(batch[0]).square().mean(),
        TensorDataset(torch.ones(8, 2)),
        optimizer={"sgd": {"lr": 0.1}},
        batch_size=4,
        until={"epochs": 1},
        strategy="sync",
        run_config=RunConfig(failure_config=FailureConfig(max_failures=max_failures)),
        folder=folder,
    )
    did: list[str] = []
    left = iter(outcomes)

    def begin(what: str) -> Callable[[], Any]:
        def run(**_: Any) -> Any:
            did.append(what)
            outcome = next(left)
            return SimpleNamespace(result=outcome if callable(outcome) else lambda: outcome)

        return run

    monkeypatch.setattr(made, "start", begin("start"))
    monkeypatch.setattr(made, "resume", begin("resume"))
    return made, did


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run's folder with a checkpoint."""
    run = Folder.at(tmp_path)
    model = write_model(folder_of(run, 1), {"weight": torch.zeros(1, 2), "bias": torch.zeros(1)})
    shape: dict[str, Any] = {"layout_digest": "", "num_shards": 1, "optimizer": (), "brain": {}, "metrics": {}, "log_seq": 0}
    write_manifest(run, Manifest(number=1, version=(0, 1), samples=4, model=model, **shape))
    return tmp_path


def test_a_run_without_failure_is_begun_once(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, did = trainer(saved, 3, [ENDED], monkeypatch)
    assert made.fit() is ENDED
    assert did == ["start"]


@pytest.mark.parametrize("failure", [FAILED, lost, gone], ids=["run failed", "coordinator lost", "coordinator gone"])
def test_it_goes_on_from_the_checkpoint_as_often_as_it_may(saved: Path, failure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made, did = trainer(saved, 2, [failure, failure, ENDED], monkeypatch)
    assert made.fit() is ENDED
    assert did == ["start", "resume", "resume"]


def test_once_too_often_raises_the_last_failure(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, did = trainer(saved, 1, [lost, FAILED], monkeypatch)
    with pytest.raises(RunFailedError, match="no shard is left"):
        made.fit()
    assert did == ["start", "resume"]


def test_without_limit_it_goes_on_until_it_ends(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, did = trainer(saved, -1, [FAILED] * 7 + [ENDED], monkeypatch)
    assert made.fit() is ENDED
    assert len(did) == 8


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, did = trainer(tmp_path, 5, [lost], monkeypatch)
    with pytest.raises(RunFailedError, match="the coordinator is lost"):
        made.fit()
    assert did == ["start"]
