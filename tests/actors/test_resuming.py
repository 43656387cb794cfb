"""Going on from a checkpoint of a live run: with an equal fleet bit by bit, with another one to the same model."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import FailureConfig, RunConfig
from tests.actors import live
from torch import Tensor

from mottle.checkpoint import numbers, read_manifest
from mottle.sdk import Run, Trainer, WorkerGroup
from mottle.storage import Folder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def described(folder: Path, **options: Any) -> Trainer:
    """Ten steps with noise on every reading, two moments a coordinate and a schedule; a checkpoint after every third step."""
    return live.trainer(
        folder,
        live.perceptron,
        live.dict_cross_entropy,
        live.Jittered(100),
        optimizer={"adamw": {"lr": 0.01}},
        lr_schedule={"cosine": {"samples": 400}},
        checkpoint_every=60,
        **options,
    )


def end_of(job: Trainer, begin: Callable[[], Run]) -> dict[str, Tensor]:
    with live.started(job, begin) as run:
        live.wait_for_end(run)
        return run.parameters()


def test_a_run_goes_on_where_a_checkpoint_was_taken(tmp_path: Path) -> None:
    job = described(tmp_path)
    whole = end_of(job, job.start)
    first, *later = numbers(Folder.at(tmp_path / "run"))
    assert later

    same = described(tmp_path)
    again = end_of(same, lambda: same.resume(first))
    assert all(torch.equal(again[name], whole[name]) for name in whole)

    smaller = described(tmp_path, shards=3, scaling_config=WorkerGroup(count=1, num_cpus=0.5))
    other = end_of(smaller, lambda: smaller.resume(first))
    torch.testing.assert_close(other, whole, rtol=1e-3, atol=1e-5)


def diloco(folder: Path, workers: int = 2) -> Trainer:
    """Eight rounds of three steps of AdamW; a checkpoint after every second one."""
    return live.trainer(
        folder,
        live.perceptron,
        data=live.blobs(120),
        strategy={"diloco": {"local_steps": 3}},
        optimizer={"adamw": {"lr": 0.01}},
        until={"epochs": 4},
        checkpoint_every=120,
        lease_floor_s=None,
        scaling_config=WorkerGroup(count=workers, num_cpus=0.3),
    )


def test_workers_take_up_the_inner_optimizers_of_those_that_were(tmp_path: Path) -> None:
    job = diloco(tmp_path)
    whole = end_of(job, job.start)
    run = Folder.at(tmp_path / "run")
    first = numbers(run)[0]
    parts = read_manifest(run, first).workers
    assert [(part.slot, part.group, part.saved.file) for part in parts] == [
        (slot, "workers", f"worker-{slot:05d}.safetensors") for slot in (0, 1)
    ]

    same = diloco(tmp_path)
    again = end_of(same, lambda: same.resume(first))
    assert all(torch.equal(again[name], whole[name]) for name in whole)

    larger = diloco(tmp_path, workers=3)
    other = end_of(larger, lambda: larger.resume(first))
    assert not all(torch.equal(other[name], whole[name]) for name in whole), "the third one begins anew, with a share of every round"


def kill_shard_after_a_checkpoint(job: Trainer) -> None:
    """With SIGKILL, as soon as there is something to go on from."""
    while not numbers(Folder.at(job.job.run_dir)):
        time.sleep(0.02)
    live.process_of(job, "shard0").kill()


def test_fit_goes_on_by_itself_when_a_shard_without_replica_is_killed(tmp_path: Path) -> None:
    failures = RunConfig(failure_config=FailureConfig(max_failures=1))
    crew = WorkerGroup(count=2, num_cpus=0.5, delay_s=0.01)
    job = live.trainer(tmp_path, scaling_config=crew, run_config=failures, until={"epochs": 4}, checkpoint_every=40)
    killer = threading.Thread(target=kill_shard_after_a_checkpoint, args=(job,), daemon=True)
    killer.start()
    result = job.fit()
    killer.join()
    assert result.error is None
    live.check(job, result)
    assert result.summary is not None
    assert result.summary.samples == 400
    assert [(epoch.missed, epoch.repeated) for epoch in result.summary.epochs] == [(0, 0)] * 4
    log = (tmp_path / "run" / "logs" / "coordinator.log").read_text()
    assert log.count("coordinator is process") == 2
