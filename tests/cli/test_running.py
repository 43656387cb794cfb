"""A run under the eyes of a terminal, with a run that is none: what Ctrl-C does, what is left at the end."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mottle.cli.answers import Answer, Code
from mottle.cli.running import Interrupts, conduct
from mottle.core.errors import ConfigError
from mottle.observe import RunResult, Snapshot, UpdateCounts
from mottle.sdk.result import RunFailedError


def summary(stopped: str) -> RunResult:
    return RunResult(
        run="fake",
        strategy="sync",
        codec="identity",
        stopped=stopped,
        metrics={},
        samples=10,
        versions=1,
        updates=UpdateCounts(),
        epochs=(),
        workers=(),
        accounting={},
        wall_s=1.0,
    )


class FakeRun:
    """Goes on for some snapshots; what it is asked for is noted."""

    def __init__(self, folder: Path, *, signals: tuple[int, ...] = (), error: str | None = None) -> None:
        self.job = SimpleNamespace(run_dir=str(folder), name="fake", rotation=None)
        self.asked: list[str] = []
        self._signals = signals
        self._error = error
        self._stopped = "samples"

    @property
    def progress(self) -> Snapshot:
        return Snapshot(run="fake", strategy="sync", codec="identity", samples=0, total_samples=10, epoch=0, version=0, wall_s=0.0)

    def watch(self) -> Iterator[Snapshot]:
        for number in range(4):
            for _ in range(self._signals.count(number)):
                signal.raise_signal(signal.SIGINT)
            yield self.progress

    def stop(self, reason: str, *, checkpoint: bool) -> None:
        self.asked.append("stop and save" if checkpoint else "stop")
        self._stopped = reason

    def parameters(self, model: int | None = None) -> dict[str, torch.Tensor]:
        return {"w": torch.arange(3.0)}

    def result(self) -> Any:
        self.asked.append("result")
        return SimpleNamespace(error=None if self._error is None else RuntimeError(self._error), summary=summary(self._stopped))


def conducted(run: FakeRun, **options: Any) -> Answer:
    before = signal.getsignal(signal.SIGINT)
    try:
        return conduct(run, as_json=True, **options)
    finally:
        assert signal.getsignal(signal.SIGINT) is before, "Ctrl-C belongs to others again"


def test_a_run_that_ends_leaves_its_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = FakeRun(tmp_path)
    answer = conducted(run)
    assert answer.code is Code.OK
    assert run.asked == ["result"]
    assert torch.equal(load_file(tmp_path / "model.safetensors")["w"], torch.arange(3.0))
    assert answer.data["model"] == f"{tmp_path}/model.safetensors"
    assert answer.data["result"]["stopped"] == "samples"
    json.dumps(answer.data)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "no report was written: wanted the folder of a run" in shown.err


def test_the_first_ctrl_c_saves_and_ends_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = FakeRun(tmp_path, signals=(1,))
    answer = conducted(run)
    assert answer.code is Code.INTERRUPTED
    assert run.asked == ["stop and save", "result"]
    assert (tmp_path / "model.safetensors").is_file()
    assert "press Ctrl-C again to end at once" in capsys.readouterr().err


def test_the_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, signals=(1, 2))
    with pytest.raises(KeyboardInterrupt):
        conducted(run)
    assert run.asked == ["stop and save"]


def test_ctrl_c_after_the_end_changes_nothing(tmp_path: Path) -> None:
    """The run was over by itself when the stop came: it did not end because of it."""

    class Over(FakeRun):
        def stop(self, reason: str, *, checkpoint: bool) -> None:
            self.asked.append("stop and save")

    assert conducted(Over(tmp_path, signals=(3,))).code is Code.OK


def test_ctrl_c_leaves_a_detached_run_alone(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, signals=(1,))
    answer = conducted(run, leave=True)
    assert answer.code is Code.INTERRUPTED
    assert run.asked == []
    assert answer.data == {"run": str(tmp_path), "state": "live"}


def test_a_run_that_could_not_go_on_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = conducted(FakeRun(tmp_path, error="no shard is left"))
    assert answer.code is Code.FAILED
    assert answer.data["error"] == "no shard is left"
    assert "mottle: the run failed: no shard is left" in capsys.readouterr().err


class Gone(FakeRun):
    """Its coordinator is killed while it is watched."""

    def watch(self) -> Iterator[Snapshot]:
        yield self.progress
        raise RunFailedError("the coordinator is gone: killed")


@pytest.mark.parametrize("kind", [FakeRun, Gone])
def test_a_run_that_failed_goes_on_from_its_checkpoint_while_it_may(
    kind: type[FakeRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attempts = [kind(tmp_path, error="no shard is left") for _ in range(3)]
    following = iter([*attempts[1:], FakeRun(tmp_path)])
    assert conducted(attempts[0], again=lambda: next(following)).code is Code.OK
    assert capsys.readouterr().err.count("it goes on from its newest checkpoint") == 3


def test_a_lost_coordinator_without_a_way_on_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match="the coordinator is gone"):
        conducted(Gone(tmp_path))


class Rotating(FakeRun):
    """Trains two models, of which none or the second is the best."""

    best: int | None = None

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.job.rotation = SimpleNamespace(number=2)

    def parameters(self, model: int | None = None) -> dict[str, torch.Tensor]:
        if model is None and self.best is None:
            raise ConfigError("none of the 2 models was evaluated")
        return {"w": torch.full((3,), float(self.best if model is None else model))}


def test_of_models_in_rotation_each_has_a_file_and_so_has_the_best_if_there_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = conducted(Rotating(tmp_path))
    assert (answer.code, answer.data["model"]) == (Code.OK, None)
    assert "model.safetensors was not written: none of the 2 models was evaluated" in capsys.readouterr().err
    assert [load_file(tmp_path / f"model-{model}.safetensors")["w"][0] for model in (0, 1)] == [0.0, 1.0]
    run = Rotating(tmp_path)
    run.best = 1
    assert conducted(run).data["model"] == f"{tmp_path}/model.safetensors"
    assert load_file(tmp_path / "model.safetensors")["w"][0] == 1.0


def test_a_model_that_cannot_be_written_loses_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    answer = conducted(FakeRun(tmp_path / "file"))
    assert (answer.code, answer.data["model"]) == (Code.OK, None)
    assert "the model could not be written" in capsys.readouterr().err


@pytest.fixture
def foreground() -> Iterator[None]:
    """Interrupts as a command in the foreground has them: a shell's background jobs ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("foreground")
def test_interrupts_count_only_inside() -> None:
    with Interrupts() as interrupts:
        assert not interrupts.asked
        signal.raise_signal(signal.SIGINT)
        assert interrupts.asked
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
