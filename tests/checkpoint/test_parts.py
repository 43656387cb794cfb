"""Checkpoints on storage: whole or invisible, damage is told, any number of shards reads them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mottle import checkpoint, optim
from mottle.checkpoint.manifest import numbers
from mottle.checkpoint.parts import CheckpointError
from mottle.core.layout import Layout, Range
from mottle.core.protocol import ReplicaId
from mottle.engines.flat import flatten, layout_of, unflatten
from mottle.storage import Folder


def model() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(100, 90), torch.nn.BatchNorm1d(90), torch.nn.Linear(90, 3))


def slots(layout: Layout, owned: Range, seed: int) -> dict[str, torch.Tensor]:
    """Optimizer state of a range after one step of Adam."""
    values = flatten(model(), layout)[owned.start : owned.stop].clone()
    optimizer = optim.build({"adam": {"lr": 0.1}}, values, layout.groups_in(owned))
    optimizer.step(torch.randn(layout.size, generator=torch.Generator().manual_seed(seed))[owned.start : owned.stop].clone())
    return dict(optimizer.state())


def save(run: Folder, number: int, num_shards: int = 2, metrics: dict[str, float] | None = None) -> checkpoint.Manifest:
    """A whole checkpoint of `model`."""
    layout = layout_of(model())
    folder = checkpoint.folder_of(run, number)
    part = checkpoint.write_model(folder, unflatten(flatten(model(), layout), layout))
    ranges = layout.cut(num_shards)
    saved = [checkpoint.write_optimizer(folder, ReplicaId(i, 0), owned, slots(layout, owned, 0)) for i, owned in enumerate(ranges)]
    manifest = checkpoint.Manifest(
        number=number,
        version=(0, 7 * number),
        samples=100 * number,
        layout_digest=layout.digest,
        num_shards=num_shards,
        model=part,
        optimizer=tuple(saved),
        brain={"samples": 100 * number},
        metrics=metrics or {},
        log_seq=5,
    )
    checkpoint.write_manifest(run, manifest)
    return manifest


def test_a_worker_s_part_is_in_the_manifest_and_manifests_without_any_are_read(run: Folder) -> None:
    manifest = save(run, 1)
    state = {"inner.exp_avg": torch.arange(4.0), "inner.step.0": torch.tensor(3.0)}
    part = checkpoint.WorkerPart(3, "gpus", checkpoint.write_worker(checkpoint.folder_of(run, 1), 3, state))
    checkpoint.write_manifest(run, replace(manifest, workers=(part,)))
    (read,) = checkpoint.read_manifest(run, 1).workers
    assert read == part
    found = checkpoint.read_part(checkpoint.folder_of(run, 1), read.saved)
    assert all(torch.equal(found[name], value) for name, value in state.items())
    data = json.loads(checkpoint.folder_of(run, 1).read_text("manifest.json"))
    del data["workers"]
    checkpoint.folder_of(run, 1).write_text("manifest.json", json.dumps(data))
    assert checkpoint.read_manifest(run, 1).workers == ()


@pytest.fixture
def run(tmp_path: Path) -> Folder:
    return Folder.at(tmp_path / "run")


def test_a_manifest_comes_back_as_it_was_written(run: Folder) -> None:
    manifest = save(run, 3)
    assert checkpoint.read_manifest(run, 3) == manifest


def test_the_model_is_readable_without_mottle(run: Folder) -> None:
    save(run, 1)
    tensors = load_file(Path(checkpoint.folder_of(run, 1).path) / "model.safetensors")
    state = model().state_dict()
    assert {name for name in state if state[name].is_floating_point()} == tensors.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in tensors)


def test_the_vector_comes_back_bit_for_bit(run: Folder) -> None:
    manifest = save(run, 1)
    layout = layout_of(model())
    assert torch.equal(checkpoint.read_model(checkpoint.folder_of(run, 1), manifest.model, layout), flatten(model(), layout))


@pytest.mark.parametrize(("old", "new"), [(1, 3), (2, 1), (3, 2), (2, 5)])
def test_optimizer_slots_are_cut_anew_for_other_shards(run: Folder, old: int, new: int) -> None:
    layout = layout_of(model())
    manifest = save(run, 1, num_shards=old)
    read = checkpoint.read_optimizer(checkpoint.folder_of(run, 1), manifest.optimizer, layout.cut(old), layout.cut(new))
    for owned, state in zip(layout.cut(new), read, strict=True):
        wanted = slots(layout, owned, 0)
        assert {name: value.tolist() for name, value in state.items() if name in wanted} == {n: v.tolist() for n, v in wanted.items()}


def damage(folder: Folder, file: str) -> None:
    path = Path(folder.path) / file
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


def test_a_damaged_model_is_told_by_name(run: Folder) -> None:
    manifest = save(run, 1)
    folder = checkpoint.folder_of(run, 1)
    damage(folder, "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        checkpoint.read_model(folder, manifest.model, layout_of(model()))


def test_damaged_slots_are_told_by_name(run: Folder) -> None:
    manifest = save(run, 1)
    folder = checkpoint.folder_of(run, 1)
    damage(folder, "optimizer-00001-0.safetensors")
    ranges = layout_of(model()).cut(2)
    with pytest.raises(CheckpointError, match="optimizer-00001-0"):
        checkpoint.read_optimizer(folder, manifest.optimizer, ranges, ranges)


def test_a_checkpoint_of_another_model_is_refused_by_the_names_that_differ(run: Folder) -> None:
    manifest = save(run, 1)
    other = layout_of(torch.nn.Sequential(torch.nn.Linear(100, 80)))
    with pytest.raises(CheckpointError, match=r"another model: 0\.weight"):
        checkpoint.read_model(checkpoint.folder_of(run, 1), manifest.model, other)


def test_parts_without_a_manifest_are_invisible(run: Folder) -> None:
    save(run, 1)
    layout = layout_of(model())
    checkpoint.write_model(checkpoint.folder_of(run, 2), unflatten(flatten(model(), layout), layout))
    assert checkpoint.latest(run) == 1
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        checkpoint.read_manifest(run, 2)


def test_a_manifest_of_another_format_is_refused(run: Folder) -> None:
    manifest = replace(save(run, 1), format=99)
    checkpoint.write_manifest(run, manifest)
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.read_manifest(run, 1)


def test_a_run_without_checkpoints_has_no_latest(run: Folder) -> None:
    assert checkpoint.latest(run) is None


def test_the_oldest_go_first(run: Folder) -> None:
    for number in (1, 2, 3, 4):
        save(run, number)
    checkpoint.prune(run, keep=2)
    assert numbers(run) == [3, 4]


@pytest.mark.parametrize(("highest", "kept"), [(True, [2, 4]), (False, [1, 4])])
def test_the_best_by_a_metric_stay_and_the_newest_always(run: Folder, highest: bool, kept: list[int]) -> None:
    for number, accuracy in ((1, 0.1), (2, 0.9), (3, 0.5), (4, 0.3)):
        save(run, number, metrics={"accuracy": accuracy})
    checkpoint.prune(run, keep=2, score="accuracy", highest=highest)
    assert numbers(run) == kept


def test_going_on_from_an_older_one_forgets_what_came_after(run: Folder) -> None:
    for number in (1, 2, 3):
        save(run, number)
    checkpoint.forget_after(run, 1)
    assert numbers(run) == [1]
