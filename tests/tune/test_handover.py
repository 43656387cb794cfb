"""What a checkpoint keeps for another job: parameters always; slots of an optimizer and state of a strategy where they are of its kind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.actors import live

from mottle.actors.job import Job
from mottle.checkpoint import (
    Manifest,
    WorkerPart,
    folder_of,
    numbers,
    read_manifest,
    write_manifest,
    write_model,
    write_optimizer,
    write_worker,
)
from mottle.core.layout import Range
from mottle.core.protocol import ReplicaId
from mottle.storage import Folder
from mottle.tune.handover import TRIAL_FILE, hand_over, take_up, whole

SGD = {"sgd": {"lr": 0.1, "momentum": 0.9}}


def described(folder: Path, optimizer: Any = SGD, strategy: Any = "sync") -> Job:
    return live.trainer(folder, optimizer=optimizer, strategy=strategy, test_data=live.blobs(20)).job


def save(job: Job, number: int, version: int) -> None:
    """A whole checkpoint of a run with momentum, by hand."""
    run = Folder.at(job.run_dir)
    model = write_model(folder_of(run, number), {"weight": torch.zeros(4, 20), "bias": torch.zeros(4)})
    owned = Range(0, job.layout.size)
    slots = write_optimizer(folder_of(run, number), ReplicaId(0, 0), owned, {"momentum_buffer": torch.ones(job.layout.size)})
    brain = {"strategy": {"rounds": 7}, "samples": 20 * version}
    shape: dict[str, Any] = {"layout_digest": "", "num_shards": 1, "metrics": {}, "log_seq": 0}
    manifest = Manifest(
        number=number, version=(0, version), samples=20 * version, model=model, optimizer=(slots,), brain=brain, **shape
    )  # fmt: skip
    write_manifest(run, manifest)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Tune's folder after version 5 was handed over; the run had checkpoints of versions 2, 5 and 8."""
    job = described(tmp_path)
    for number, version in ((1, 2), (2, 5), (3, 8)):
        save(job, number, version)
    run, kept = Folder.at(job.run_dir), tmp_path / "kept"
    kept.mkdir()
    found = whole(run, 4)
    assert found is not None
    assert (found.number, whole(run, 9)) == (2, None)
    hand_over(job, found, str(kept))
    assert numbers(run) == [2, 3], "what is older than it is deleted"
    return kept


def test_what_is_handed_over_is_readable_and_says_of_which_job(kept: Path) -> None:
    assert json.loads((kept / TRIAL_FILE).read_text()) == {"format": 1, "checkpoint": 2, "strategy": "sync"}
    assert (kept / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("optimizer", "strategy", "slots", "state"),
    [
        ({"SGD": {"lr": 0.5, "momentum": 0.1}}, "sync", 1, {"rounds": 7}),
        ({"sgd": {"lr": 0.5}}, "sync", 0, {"rounds": 7}),
        ({"adam": {"lr": 0.5}}, "sync", 0, {"rounds": 7}),
        (SGD, "async", 1, {}),
        (SGD, {"SYNC": {"quorum": 1}}, 1, {"rounds": 7}),
    ],
    ids=["other values", "no momentum", "other optimizer", "other strategy", "other options"],
)
def test_another_job_takes_what_is_of_its_kind(tmp_path: Path, kept: Path, optimizer: Any, strategy: Any, slots: int, state: Any) -> None:
    job = described(tmp_path / "other", optimizer, strategy)
    manifest = take_up(str(kept), job)
    assert manifest == read_manifest(Folder.at(job.run_dir), 2)
    assert (manifest.version, manifest.samples, len(manifest.optimizer)) == ((0, 5), 100, slots)
    assert manifest.brain["strategy"] == state


@pytest.mark.parametrize(
    ("optimizer", "strategy", "parts"),
    [
        ({"adamw": {"lr": 0.5}}, {"diloco": {"local_steps": 2}}, 1),
        (SGD, {"diloco": {"local_steps": 2}}, 0),
        ({"adamw": {"lr": 0.5}}, {"local_sgd": {"local_steps": 2}}, 0),
    ],
    ids=["other values", "other optimizer", "other strategy"],
)
def test_workers_go_on_with_inner_optimizers_of_their_kind(tmp_path: Path, optimizer: Any, strategy: Any, parts: int) -> None:
    job = described(tmp_path, {"adamw": {"lr": 0.1}}, {"diloco": {"local_steps": 2}})
    save(job, 1, 4)
    run, kept = Folder.at(job.run_dir), tmp_path / "kept"
    kept.mkdir()
    moments = {f"inner.{name}": torch.ones(job.layout.size) for name in ("exp_avg", "exp_avg_sq")}
    part = WorkerPart(0, "workers", write_worker(folder_of(run, 1), 0, {**moments, "inner.step.0": torch.ones(())}))
    write_manifest(run, replace(read_manifest(run, 1), workers=(part,)))
    hand_over(job, read_manifest(run, 1), str(kept))
    taken = take_up(str(kept), described(tmp_path / "other", optimizer, strategy))
    assert (len(taken.workers), len(taken.optimizer)) == (parts, 1 if parts or "diloco" in strategy else 0)
