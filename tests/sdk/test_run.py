"""A live run as its user sees it: how it ends, what it says meanwhile, what it refuses."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import ray.train
from ray.train import CheckpointConfig, RunConfig
from safetensors.torch import load_file
from tests.actors import live
from torch import Tensor, nn

from mottle.core.errors import ConfigError, MottleError
from mottle.sdk import WorkerGroup

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def broken_metric(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    raise LookupError("no such class in the test data")


def test_a_run_ends_when_its_metric_is_good_enough_and_its_result_is_rays(tmp_path: Path) -> None:
    job = live.trainer(
        tmp_path,
        strategy="async",
        test_data=live.blobs(100, seed=1),
        metrics={"accuracy": live.accuracy},
        until={"metric": {"test_accuracy": 0.9}, "epochs": 1000},
        evaluate_every=20,
        checkpoint_every=40,
        run_config=RunConfig(
            checkpoint_config=CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="test_loss", checkpoint_score_order="min")
        ),
    )
    result = live.fit(job)
    assert result.checkpoint is not None
    assert result.best_checkpoints is not None
    with result.checkpoint.as_directory() as directory:
        assert set(load_file(Path(directory) / "model.safetensors")) == {"weight", "bias"}
    assert 1 <= len(result.best_checkpoints) <= 2
    assert max(metrics["samples"] for _, metrics in result.best_checkpoints) <= result.metrics["samples"]
    assert result.checkpoint.path in [checkpoint.path for checkpoint, _ in result.best_checkpoints]
    assert isinstance(result, ray.train.Result)
    assert result.summary is not None
    assert result.summary.stopped == "target test_accuracy >= 0.9"
    assert result.metrics is not None
    assert result.metrics["test_accuracy"] >= 0.9
    assert result.metrics["samples"] < 100_000
    frame = result.metrics_dataframe
    assert frame is not None
    assert {"version", "samples", "test_accuracy", "test_loss"} <= set(frame.columns)
    assert list(frame["samples"]) == sorted(frame["samples"])
    assert math.isclose(sum(result.accounting["w0"].__dict__.values()), result.summary.wall_s, abs_tol=0.1)


def test_fedbuff_for_some_seconds_with_a_metric_that_fails_and_questions_that_are_refused(tmp_path: Path) -> None:
    job = live.trainer(
        tmp_path,
        strategy={"fedbuff": {"buffer_size": 4}},
        scaling_config=WorkerGroup(count=2, max_count=2, num_cpus=0.5, delay_s=0.0005),
        test_data=live.blobs(100, seed=1),
        metrics={"broken": broken_metric},
        until={"seconds": 2.0},
    )
    with live.started(job) as run:
        shown = live.wait_for(run, lambda now: now.version >= 1, "its first version")
        assert shown.total_samples is None
        assert "w1" in run._repr_html_()
        with pytest.raises(ConfigError, match="no setting 'rate'"):
            run.set(lr=0.1, rate=0.5)
        result = run.result()
    assert result.summary is not None
    assert result.summary.stopped == "time"
    assert 2.0 <= result.summary.wall_s < 60.0
    counts = result.summary.updates
    assert result.summary.versions == counts.accepted // 4
    assert counts.in_flight < 4
    logs = {path.name: path.read_text() for path in (tmp_path / "run" / "logs").glob("*.log")}
    assert {"coordinator.log", "shard0.log", "validator.log", "w0.log", "w1.log"} == set(logs)
    assert all(f"{name.removesuffix('.log')} is process" in text for name, text in logs.items())
    assert "Traceback" in logs["validator.log"]
    assert "LookupError: no such class in the test data" in logs["validator.log"]
    texts = [event.text for event in run.progress.events]
    assert any("could not be evaluated: LookupError: no such class in the test data" in text for text in texts)
    assert run.finished
    with pytest.raises(MottleError, match="the run is over"):
        run.pause()
