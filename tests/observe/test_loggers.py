"""The metric loggers, against the real TensorBoard and against stand-ins with the same signatures for the others."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import create_autospec

import pytest

from mottle.observe import MetricLogger, MissingDependencyError, MlflowLogger, TensorBoardLogger, WandbLogger


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path)
    logger.log({"test_accuracy": 0.5, "test_loss": 2.0}, samples=100)
    logger.log({"test_accuracy": 0.75}, samples=200)
    logger.close()
    events = reader.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("test_accuracy")] == [(100, 0.5), (200, 0.75)]
    assert isinstance(logger, MetricLogger)


class WandbRun:
    """The part of `wandb.Run` that a logger needs."""

    def define_metric(self, name: str, *, step_metric: str | None = None) -> None: ...

    def log(self, data: dict[str, float]) -> None: ...

    def finish(self) -> None: ...


def test_wandb_gets_samples_as_its_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    run = create_autospec(WandbRun, instance=True)
    wandb = ModuleType("wandb")
    wandb.init = lambda **settings: run if settings == {"project": "digits"} else None  # type: ignore[attr-defined]  # a stand-in
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    logger = WandbLogger(project="digits")
    logger.log({"test_accuracy": 0.5}, samples=100)
    logger.close()
    run.define_metric.assert_any_call("*", step_metric="samples")
    run.log.assert_called_once_with({"test_accuracy": 0.5, "samples": 100})
    run.finish.assert_called_once_with()


class MlflowClient:
    """The part of `mlflow.MlflowClient` that a logger needs, in memory."""

    def __init__(self, tracking_uri: str | None = None) -> None:
        self.uri, self.logged, self.experiments, self.ended = tracking_uri, [], {"known": "1"}, []

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        self.experiments[name] = str(len(self.experiments) + 1)
        return self.experiments[name]

    def create_run(self, experiment_id: str, run_name: str | None = None) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(run_id=f"{experiment_id}/{run_name}"))

    def log_metric(self, run_id: str, key: str, value: float, *, step: int) -> None:
        self.logged.append((run_id, key, value, step))

    def set_terminated(self, run_id: str) -> None:
        self.ended.append(run_id)


@pytest.mark.parametrize(("experiment", "run_id"), [("known", "1/r"), ("new", "2/r")])
def test_mlflow_gets_values_at_their_samples(experiment: str, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = ModuleType("mlflow")
    made: list[MlflowClient] = []
    mlflow.MlflowClient = lambda tracking_uri: made.append(MlflowClient(tracking_uri)) or made[0]  # type: ignore[attr-defined]  # a stand-in
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    logger = MlflowLogger(experiment, run_name="r", tracking_uri="file:store")
    logger.log({"test_accuracy": 0.5}, samples=100)
    logger.close()
    assert made[0].uri == "file:store"
    assert made[0].logged == [(run_id, "test_accuracy", 0.5, 100)]
    assert made[0].ended == [run_id]


@pytest.mark.parametrize(
    ("make", "module", "words"),
    [
        (lambda: TensorBoardLogger("unused"), "tensorboard", "TensorBoardLogger needs tensorboard.*run: pip install tensorboard"),
        (lambda: WandbLogger(), "wandb", "WandbLogger needs wandb.*run: pip install wandb"),
        (lambda: MlflowLogger("x"), "mlflow", "MlflowLogger needs mlflow.*run: pip install mlflow"),
    ],
)
def test_a_missing_library_is_named_with_what_to_install(make: object, module: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=words):
        make()  # type: ignore[operator]  # a lambda of the table above
