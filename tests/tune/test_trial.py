"""The trial's shell without Tune: a real run under it, stepped, saved and taken up by hand."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import ray
from fsspec.implementations.local import LocalFileSystem
from ray.train._internal.storage import StorageContext
from safetensors.torch import load_file
from tests.actors import live
from tests.tune import hungry

from mottle.checkpoint import read_manifest
from mottle.core.errors import ConfigError
from mottle.sdk import WorkerGroup
from mottle.sdk.result import RunFailedError
from mottle.storage import Folder
from mottle.tune import trainable
from mottle.tune.going import TrialError
from mottle.tune.trial import Trial, address_of

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(autouse=True)
def _same_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")


def described(folder: Path, loss: Any = live.cross_entropy, **options: Any) -> type[Trial]:
    """One worker, two epochs of 100 samples, measured after each."""
    defaults: dict[str, Any] = {
        "test_data": live.blobs(50, seed=1),
        "metrics": {"accuracy": live.accuracy},
        "evaluate_every": 100,
        "scaling_config": WorkerGroup(count=1, num_cpus=0.5),
        "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.5}},
    }
    return trainable(live.trainer(folder, loss=loss, **{**defaults, **options}))


@contextmanager
def running(kind: type[Trial], folder: Path, config: dict[str, Any], name: str = "trial") -> Iterator[Trial]:
    """A trial as Tune makes it."""
    trial = kind(config, StorageContext(str(folder), "sweep", trial_dir_name=name))
    try:
        yield trial
    finally:
        trial.stop()


def test_every_evaluation_comes_with_its_checkpoint_and_another_job_goes_on_from_it(tmp_path: Path) -> None:
    # A model that comes while another one is being measured is not, so the run must last while the first one is, on a busy machine too.
    slow = WorkerGroup(count=1, num_cpus=0.5, delay_s=0.004)
    kind = described(tmp_path, until={"epochs": 6}, scaling_config=slow)
    with running(kind, tmp_path, {"optimizer.lr": 0.1}) as trial:
        first = trial.train()
        assert (first["samples"], first["workers"], first["done"]) == (20 * first["version"], 1, False)
        kept = Path(trial.save().checkpoint.path)
        last = first
        while not last["done"]:
            last = trial.train()
        assert (last["samples"], last["version"]) == (600, 30)
        at_end = Path(trial.save().checkpoint.path)
        assert trial.train() == {"__duplicate__": True}
    assert set(load_file(kept / "model.safetensors")) == {"weight", "bias"}
    assert json.loads((kept / "manifest.json").read_text())["samples"] == first["samples"]
    assert json.loads((at_end / "manifest.json").read_text())["samples"] == 600
    assert first["test_accuracy"] <= last["test_accuracy"]

    with running(kind, tmp_path, {"optimizer": {"adam": {"lr": 0.01}}, "strategy": "async"}, "other") as other:
        other.restore(str(kept))
        gone_on = other.train()
        assert gone_on["samples"] > first["samples"]
    runs = Folder.at(tmp_path / "sweep" / "other" / "run-000")
    assert read_manifest(runs, 1).optimizer == (), "what another optimizer kept is left behind"


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({"optimizer.lr": 3e38}, {}, r"diverged: test_loss is (nan|inf) after \d+ samples"),
        (
            {"optimizer.lr": 0.1},
            {"loss": hungry.refused},
            "orders in a row came back without an update; the last one: .*does not fit into the memory of cpu",
        ),
    ],
    ids=["diverged", "out of memory"],
)
def test_a_trial_that_cannot_go_on_says_why_and_holds_nothing(
    tmp_path: Path, config: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with running(described(tmp_path, **options), tmp_path, config) as trial, pytest.raises((TrialError, RunFailedError), match=message):
        trial.train()


def test_a_trial_that_is_stopped_leaves_no_process_and_one_that_becomes_another_keeps_them(tmp_path: Path, cold_ray: None) -> None:
    slow = described(tmp_path, until={"epochs": 1000}, scaling_config=WorkerGroup(count=1, num_cpus=0.5, delay_s=0.001))
    with running(slow, tmp_path, {"optimizer.lr": 0.1}) as trial:
        first = trial.train()
        (worker,) = live.shell_processes("TrainingWorker")
        assert trial.reset({"optimizer.lr": 0.2}, StorageContext(str(tmp_path), "sweep", trial_dir_name="next"))
        again = trial.train()
        assert [process.pid for process in live.shell_processes("TrainingWorker")] == [worker.pid]
        assert (first["training_iteration"], again["training_iteration"], again["done"]) == (1, 1, False)
    live.assert_released([worker])


def test_a_trial_takes_over_anothers_model_in_the_run_that_it_has(tmp_path: Path) -> None:
    """As population-based training has it: no process is started for it, and what a live run cannot change is named."""
    crew = WorkerGroup(count=1, num_cpus=0.5, delay_s=0.001)
    kind = described(tmp_path, until={"epochs": 1000}, strategy="async", scaling_config=crew)
    with (
        running(kind, tmp_path, {"optimizer.lr": 0.1}, "winner") as winner,
        running(kind, tmp_path, {"optimizer.lr": 1e-9}, "loser") as loser,
    ):
        assert loser.exploit(None, {"optimizer.lr": 0.1}) == "the run has ended"
        winner.train()
        first = loser.train()
        told = loser.exploit(winner.coordinator(), {"optimizer.lr": 0.1, "codec": "bf16"})
        assert told == "codec cannot be changed while a run goes on"
        assert loser.exploit(winner.coordinator(), {"optimizer.lr": 0.05, "batch_size": 10}) == ""
        assert loser.train()["test_loss"] < 0.9 * first["test_loss"]
        assert runs_of(loser) == ["run-000"]


def runs_of(trial: Trial) -> list[str]:
    """Folders of the runs that it has had."""
    return sorted(folder.name for folder in Path(trial._storage.trial_fs_path).glob("run-*"))


def elsewhere(opened: list[str]) -> pafs.PyFileSystem:
    """A filesystem that is not this machine's to Ray, and notes the names of files that are opened."""

    class Noting(LocalFileSystem):
        def open(self, path: str, *args: Any, **options: Any) -> Any:
            opened.append(Path(path).name)
            return super().open(path, *args, **options)

    return pafs.PyFileSystem(pafs.FSSpecHandler(Noting(skip_instance_cache=True)))


def test_a_token_is_taken_up_from_shard_to_shard_while_its_run_lives_and_from_storage_when_it_is_over(tmp_path: Path) -> None:
    """What Ray Tune does in population-based training: the loser is reset and restored from the winner's checkpoint."""
    crew = WorkerGroup(count=1, num_cpus=0.5, delay_s=0.001)
    kind = described(tmp_path, until={"epochs": 1000}, strategy="async", scaling_config=crew)
    still, config = {"optimizer.lr": 1e-9}, {"optimizer.lr": 1e-9, "optimizer.momentum": 0.25}
    with running(kind, tmp_path, still, "loser") as loser:
        first = loser.train()
        with running(kind, tmp_path, {"optimizer.lr": 0.1}, "winner") as winner:
            winner.train()
            kept = winner.save()
            assert loser.reset(dict(config), loser._storage)
            opened: list[str] = []
            loser.restore(type(kept)(ray.tune.Checkpoint(kept.checkpoint.path, elsewhere(opened)), kept.metrics))
            assert opened == ["trial.json"], "not a byte of the model passes through storage"
            copied = loser.train()
            assert copied["test_loss"] < 0.9 * first["test_loss"]
            assert (copied["training_iteration"], runs_of(loser)) == (2, ["run-000"])
            own = loser.save()
            assert loser.reset(dict(config), loser._storage)
            loser.restore(own)
            assert loser.train()["samples"] > copied["samples"], "it went on where it was"
            assert runs_of(loser) == ["run-000"]
        assert (Path(kept.checkpoint.path) / "model.safetensors").is_file(), "written in the background"
        assert loser.reset(dict(config), loser._storage)
        loser.restore(kept)
        again = loser.train()
        assert runs_of(loser) == ["run-000", "run-001"]
        assert again["test_loss"] < 0.9 * first["test_loss"]


def test_the_driver_is_asked_for_the_crew_and_refuses_what_no_trial_could_be(tmp_path: Path) -> None:
    kind = described(tmp_path)
    assert kind.default_resource_request({"scaling.num_workers": 3}).required_resources == {"CPU": 1.5}
    with pytest.raises(ConfigError, match="did you mean 'lr'"):
        kind.default_resource_request({"optimizer.lrr": 0.1})
    with pytest.raises(ConfigError, match="the space is empty"):
        kind.default_resource_request({})
    for hopeless in ({"optimizer.lr": -1.0}, {"scaling.num_workers": 1000}):
        assert kind.default_resource_request(hopeless).required_resources == {"CPU": 0.001}, "its own trial alone fails"
    large = described(tmp_path, scaling_config=WorkerGroup(count=1, num_cpus=1000))
    with pytest.raises(Exception, match=r"one trial's crew needs 1000 CPU \(the cluster has 16\)"):
        large.default_resource_request({"optimizer.lr": 0.1})


def test_a_folder_of_tunes_storage_has_an_address(tmp_path: Path) -> None:
    assert address_of(Folder.at(tmp_path)) == str(tmp_path)
    assert address_of(Folder(pafs.S3FileSystem(anonymous=True, region="eu-west-1"), "bucket/sweep")) == "s3://bucket/sweep"
    with pytest.raises(ConfigError, match="a mock filesystem has none; give a path"):
        address_of(Folder(pafs.FileSystem.from_uri("mock:///a")[0], "a"))
