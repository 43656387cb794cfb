"""Metric loggers, one line each: `TensorBoardLogger("runs/tb")`, `WandbLogger(project="digits")`, `MlflowLogger("digits")`.

Each imports its library when it is made, and says what to install when it is missing. The horizontal axis is the
number of samples spent, the one progress measure that means the same for every strategy and crew.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mottle.observe.optional import require


@runtime_checkable
class MetricLogger(Protocol):
    """Anything that takes metrics; a user's own logger needs these two methods."""

    def log(self, metrics: Mapping[str, float], samples: int) -> None:
        """Takes the values measured after `samples` samples."""

    def close(self) -> None:
        """Hands over what is buffered; called once, at the end of a run."""


class TensorBoardLogger:
    """Event files for TensorBoard in a local directory."""

    def __init__(self, directory: str | Path) -> None:
        require("tensorboard", "TensorBoardLogger", "pip install tensorboard")
        writer = require("torch.utils.tensorboard", "TensorBoardLogger", "pip install torch tensorboard")
        self._writer: Any = writer.SummaryWriter(log_dir=str(directory))

    def log(self, metrics: Mapping[str, float], samples: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, global_step=samples)

    def close(self) -> None:
        self._writer.close()


class WandbLogger:
    """A Weights & Biases run; keyword arguments go to `wandb.init` (project, name, mode, ...)."""

    def __init__(self, **settings: Any) -> None:
        wandb = require("wandb", "WandbLogger", "pip install wandb")
        self._run: Any = wandb.init(**settings)
        # An axis of our own and not `step`: W&B drops values whose step is smaller than one it has seen, which a
        # run resumed from a checkpoint sends.
        self._run.define_metric("samples")
        self._run.define_metric("*", step_metric="samples")

    def log(self, metrics: Mapping[str, float], samples: int) -> None:
        self._run.log({**metrics, "samples": samples})

    def close(self) -> None:
        self._run.finish()


class MlflowLogger:
    """An MLflow run of `experiment`, made if it does not exist; touches no global state of MLflow.

    Args:
        experiment: name of the experiment.
        run_name: name of the run; MLflow invents one when it is None.
        tracking_uri: the server or store; MLflow's own setting when it is None.
    """

    def __init__(self, experiment: str, *, run_name: str | None = None, tracking_uri: str | None = None) -> None:
        mlflow = require("mlflow", "MlflowLogger", "pip install mlflow")
        self._client: Any = mlflow.MlflowClient(tracking_uri=tracking_uri)
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found is not None else self._client.create_experiment(experiment)
        self._run_id: str = self._client.create_run(experiment_id, run_name=run_name).info.run_id

    def log(self, metrics: Mapping[str, float], samples: int) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._run_id, name, value, step=samples)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)
