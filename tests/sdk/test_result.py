"""`Result` as Ray's users know it, read from a folder that was written by hand: no Ray cluster here."""

import math
from dataclasses import replace
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import ray.train
import torch

from mottle.actors.job import KeepCheckpoints
from mottle.checkpoint import Manifest, folder_of, write_manifest, write_model
from mottle.core.errors import MottleError
from mottle.observe.record import RunRecord
from mottle.observe.result import RunResult, write_result
from mottle.observe.snapshot import UpdateCounts
from mottle.sdk import Result
from mottle.sdk.result import RunFailedError
from mottle.storage import Folder

SUMMARY = RunResult(
    run="run",
    strategy="sync",
    codec="identity",
    stopped="samples",
    metrics={"test_loss": 0.25},
    samples=12,
    versions=3,
    updates=UpdateCounts(),
    epochs=(),
    workers=(),
    accounting={},
    wall_s=1.0,
)


def save(run: Folder, number: int, loss: float) -> None:
    model = write_model(folder_of(run, number), {"weight": torch.full((2,), float(number))})
    write_manifest(
        run,
        Manifest(
            number=number,
            version=(0, number),
            samples=4 * number,
            layout_digest="",
            num_shards=1,
            model=model,
            optimizer=(),
            brain={},
            metrics={"test_loss": loss},
            log_seq=number,
        ),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An ended run with three checkpoints, of which the second is the best and the first has no score."""
    run = Folder.at(tmp_path / "run")
    for number, loss in ((1, math.nan), (2, 0.125), (3, 0.25)):
        save(run, number, loss)
    record = RunRecord(run)
    for number in (1, 2, 3):
        record.measured(t_s=float(number), samples=4 * number, version=number, values={"test_loss": 1.0 / number, "test_accuracy": 0.5})
    record.compact()
    write_result(run, SUMMARY)
    return tmp_path / "run"


def test_the_checkpoint_is_the_newest_one_as_rays_class(folder: Path) -> None:
    checkpoint = Result.of(SUMMARY, str(folder)).checkpoint
    assert isinstance(checkpoint, ray.train.Checkpoint)
    with checkpoint.as_directory() as directory:
        assert (Path(directory) / "model.safetensors").is_file()
    assert checkpoint.path == f"{folder}/checkpoints/000003"


@pytest.mark.parametrize(
    ("keep", "order"),
    [
        (KeepCheckpoints(), [1, 2, 3]),
        (KeepCheckpoints(score="test_loss", highest=False), [1, 3, 2]),
        (KeepCheckpoints(score="test_loss"), [1, 2, 3]),
    ],
    ids=["by age", "lowest loss", "highest loss"],
)
def test_the_best_checkpoints_come_with_their_metrics_the_best_last(folder: Path, keep: KeepCheckpoints, order: list[int]) -> None:
    best = Result.of(SUMMARY, str(folder), keep).best_checkpoints
    assert best is not None
    assert [metrics["checkpoint"] for _, metrics in best] == order
    assert [checkpoint.path.rsplit("/", 1)[-1] for checkpoint, _ in best] == [f"{number:06d}" for number in order]
    assert best[-1][1]["samples"] == 4 * order[-1]


def test_what_ray_offers_on_a_result_works(folder: Path) -> None:
    result = Result.from_path(folder)
    assert isinstance(result, ray.train.Result)
    best = result.get_best_checkpoint("samples", "max")
    assert best is not None
    assert best.path.endswith("000003")
    assert (result.path, result.filesystem.type_name, result.error) == (str(folder), "local", None)
    assert result.metrics == {"test_loss": 0.25, "samples": 12, "versions": 3}
    frame = result.metrics_dataframe
    assert frame is not None
    assert frame[["version", "samples", "test_accuracy"]].values.tolist() == [[1, 4, 0.5], [2, 8, 0.5], [3, 12, 0.5]]
    assert "checkpoints/000003" in repr(result)


def test_a_folder_may_be_a_uri_or_lie_in_a_given_filesystem(folder: Path) -> None:
    for found in (
        Result.from_path(folder.as_uri()),
        Result.from_path("run", pafs.SubTreeFileSystem(str(folder.parent), pafs.LocalFileSystem())),
    ):
        assert found.summary == SUMMARY
        assert found.checkpoint is not None
        with found.checkpoint.as_directory() as directory:
            assert (Path(directory) / "manifest.json").is_file()


def test_a_run_that_could_not_go_on_has_an_error_that_rays_users_catch(folder: Path) -> None:
    write_result(folder, replace(SUMMARY, failed=True, stopped="shard 0 is lost"))
    error = Result.from_path(folder).error
    assert isinstance(error, RunFailedError)
    assert isinstance(error, ray.train.TrainingFailedError)
    assert str(error) == "shard 0 is lost"


def test_a_run_without_checkpoints_or_of_which_nothing_could_be_written_has_a_result(tmp_path: Path) -> None:
    result = Result.of(SUMMARY, str(tmp_path / "nowhere"))
    assert (result.checkpoint, result.best_checkpoints) == (None, [])
    assert result.metrics_dataframe is not None
    assert result.metrics_dataframe.empty


def test_a_folder_without_an_ended_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(MottleError, match=r"holds no run that has ended: there is no result\.json"):
        Result.from_path(tmp_path)
