"""What Tune is given of a trial, and what of it another job takes: parameters always; slots of an optimizer and state of a strategy where
they are of its kind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.actors import live

from mottle.actors.copies import Source
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
from mottle.checkpoint.manifest import MANIFEST_FILE
from mottle.checkpoint.parts import CheckpointError
from mottle.core.layout import Range
from mottle.core.protocol import ReplicaId
from mottle.storage import Folder
from mottle.tune.handover import FORMAT, TRIAL_FILE, Token, hand_over, read_token, take_up, token_of, whole, write_token
from mottle.tune.keeping import Keeper

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


def token(job: Job, version: int) -> Token:
    return token_of(job, Source("coordinator/1", job.run_dir, 0, job.layout.digest), version)


def given(folder: Path, job: Job, version: int) -> Path:
    """Tune's folder with a token in it."""
    folder.mkdir()
    write_token(token(job, version), str(folder))
    return folder


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Tune's folder after version 5 was handed over; the run had checkpoints of versions 2, 5 and 8."""
    job = described(tmp_path)
    for number, version in ((1, 2), (2, 5), (3, 8)):
        save(job, number, version)
    run, kept = Folder.at(job.run_dir), given(tmp_path / "kept", job, 4)
    found = whole(run, 4, 0)
    assert found is not None
    assert (found.number, whole(run, 9, 0), whole(run, 4, 1)) == (2, None, None)
    hand_over(run, found, Folder.at(kept))
    assert numbers(run) == [2, 3], "what is older than it is deleted"
    return kept


def test_what_is_handed_over_is_readable_and_says_of_which_model(tmp_path: Path, kept: Path) -> None:
    assert read_token(Folder.at(kept)) == token(described(tmp_path), 4)
    assert json.loads((kept / MANIFEST_FILE).read_text())["number"] == 2
    assert (kept / "model.safetensors").is_file()


def test_nothing_is_left_in_a_folder_that_tune_has_deleted(tmp_path: Path) -> None:
    job = described(tmp_path)
    save(job, 1, 2)
    run, gone = Folder.at(job.run_dir), tmp_path / "gone"
    found = whole(run, 1, 0)
    assert found is not None
    hand_over(run, found, Folder.at(gone))
    assert not gone.exists()


def test_durable_copies_follow_as_soon_as_they_are_whole_and_what_never_comes_is_given_up(tmp_path: Path) -> None:
    job = described(tmp_path)
    first, second, third = (given(tmp_path / name, job, version) for name, version in (("a", 2), ("b", 5), ("c", 9)))
    keeper = Keeper(Folder.at(job.run_dir))
    for kept, version in ((first, 2), (second, 5)):
        keeper.keep(version, 0, Folder.at(kept))
    save(job, 1, 2)
    save(job, 2, 6)
    assert keeper.finish(60.0)
    assert [json.loads((kept / MANIFEST_FILE).read_text())["version"] for kept in (first, second)] == [[0, 2], [0, 6]]
    late = Keeper(Folder.at(job.run_dir))
    late.keep(9, 0, Folder.at(third))
    late.close()
    assert [path.name for path in third.iterdir()] == [TRIAL_FILE]


def test_before_its_durable_copy_is_there_a_token_stands_for_what_the_run_has_saved(tmp_path: Path) -> None:
    job = described(tmp_path)
    kept = Folder.at(given(tmp_path / "kept", job, 4))
    assert take_up(kept, read_token(kept), described(tmp_path / "none")) is None
    taken = []
    for number, version in ((1, 3), (2, 5), (3, 8)):
        save(job, number, version)
        manifest = take_up(kept, read_token(kept), described(tmp_path / str(number)))
        assert manifest is not None
        taken.append(manifest.version)
    assert taken == [(0, 3), (0, 5), (0, 5)], "the one before it, then the one that was meant"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, f"there is no {TRIAL_FILE}"),
        (json.dumps({"format": FORMAT + 1}), f"has format {FORMAT + 1}, this Mottle reads {FORMAT}; restore with the Mottle that wrote it"),
        (json.dumps({"format": FORMAT, "version": 3}), "is damaged"),
        ("{", "is damaged"),
        ("[1]", "is damaged"),
    ],
    ids=["nobody's", "newer", "incomplete", "torn", "no mapping"],
)
def test_a_checkpoint_of_nobody_or_of_another_format_is_refused(tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / TRIAL_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=told):
        read_token(Folder.at(tmp_path))


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
    manifest = take_up(Folder.at(kept), read_token(Folder.at(kept)), job)
    assert manifest is not None
    assert manifest == read_manifest(Folder.at(job.run_dir), 2)
    assert (manifest.version, manifest.samples, len(manifest.optimizer)) == ((0, 5), 100, slots)
    assert manifest.brain["strategy"] == state


@pytest.mark.parametrize(("optimizer", "slots", "rounds"), [(SGD, 1, 7), ({"sgd": {"lr": 0.5}}, 0, 0)])
def test_what_a_strategy_kept_on_the_shards_goes_with_its_state_or_not_at_all(
    tmp_path: Path, optimizer: Any, slots: int, rounds: int
) -> None:
    job = described(tmp_path)
    save(job, 1, 4)
    run, kept = Folder.at(job.run_dir), given(tmp_path / "kept", job, 4)
    vectors = {"momentum_buffer": torch.ones(job.layout.size), "kept/good": torch.ones(job.layout.size)}
    part = write_optimizer(folder_of(run, 1), ReplicaId(0, 0), Range(0, job.layout.size), vectors)
    write_manifest(run, replace(read_manifest(run, 1), optimizer=(part,)))
    hand_over(run, read_manifest(run, 1), Folder.at(kept))
    taken = take_up(Folder.at(kept), read_token(Folder.at(kept)), described(tmp_path / "other", optimizer))
    assert taken is not None
    assert (len(taken.optimizer), taken.brain["strategy"]["rounds"]) == (slots, rounds)


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
    run, kept = Folder.at(job.run_dir), given(tmp_path / "kept", job, 4)
    moments = {f"inner.{name}": torch.ones(job.layout.size) for name in ("exp_avg", "exp_avg_sq")}
    part = WorkerPart(0, "workers", write_worker(folder_of(run, 1), 0, {**moments, "inner.step.0": torch.ones(())}))
    write_manifest(run, replace(read_manifest(run, 1), workers=(part,)))
    hand_over(run, read_manifest(run, 1), Folder.at(kept))
    taken = take_up(Folder.at(kept), read_token(Folder.at(kept)), described(tmp_path / "other", optimizer, strategy))
    assert taken is not None
    assert (len(taken.workers), len(taken.optimizer)) == (parts, 1 if parts or "diloco" in strategy else 0)
