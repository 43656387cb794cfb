"""What a run leaves behind: Ray's `Result`, with the accounting of where the workers' time went."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import ray.train

from mottle.actors.job import KeepCheckpoints
from mottle.checkpoint import Manifest, folder_of, numbers, read_manifest
from mottle.core.errors import MottleError
from mottle.observe.record import read_run
from mottle.observe.result import RunResult, WorkerAccounting, read_result
from mottle.storage import Folder


class RunFailedError(MottleError, ray.train.TrainingFailedError):
    """The run could not go on. One of Ray Train's errors too, so that code written for its trainers catches it."""


@dataclass(repr=False)
class Result(ray.train.Result):
    """Ray's result of one run.

    - `metrics`: the last value of each, with `samples` and `versions`;
    - `checkpoint`: the newest whole one, None if there is none; its directory holds `model.safetensors`, readable without Mottle;
    - `best_checkpoints`: the whole ones that were kept with the metrics known when they were written, the best last by the
      `CheckpointConfig`'s score, else the newest last;
    - `metrics_dataframe`: one row for each evaluated version;
    - `path` in `filesystem`: the run's folder; `error`: why it could not go on, or None;
    - `summary`: the whole of `result.json`.
    """

    summary: RunResult | None = field(default=None)

    @property
    def accounting(self) -> Mapping[str, WorkerAccounting]:
        """Seconds of each worker, by what became of them."""
        return {} if self.summary is None else self.summary.accounting

    @classmethod
    def of(cls, summary: RunResult, where: str | Folder, keep: KeepCheckpoints | None = None) -> "Result":
        """From the run's own result and what its folder holds.

        Args:
            summary: what `result.json` says, or would say if the folder could be written.
            where: the run's folder: a path, a URI or a Folder.
            keep: by which score the checkpoints are ordered; None orders them by age.
        """
        folder = Folder.at(where)
        saved = [read_manifest(folder, number) for number in numbers(folder)]
        return cls(
            metrics={**summary.metrics, "samples": summary.samples, "versions": summary.versions},
            checkpoint=_checkpoint(folder, saved[-1]) if saved else None,
            best_checkpoints=[(_checkpoint(folder, each), _metrics(each)) for each in _ranked(saved, keep or KeepCheckpoints())],
            error=RunFailedError(summary.stopped) if summary.failed else None,
            path=folder.path,
            metrics_dataframe=_evaluations(folder),
            summary=summary,
            _storage_filesystem=folder.filesystem,
        )

    @classmethod
    def from_path(cls, path: str | os.PathLike[str], storage_filesystem: Any = None) -> "Result":
        """As `ray.train.Result.from_path`: the result of a run that has ended; its checkpoints are ordered by age.

        Args:
            path: of the run's folder, or a URI.
            storage_filesystem: a `pyarrow.fs` filesystem that the path is in; by default the one that the path names.
        Raises:
            MottleError: no run ended there.
        """
        where = os.fspath(path)
        folder = Folder.at(where) if storage_filesystem is None else Folder(storage_filesystem, where.rstrip("/"))
        summary = read_result(folder)
        if summary is None:
            raise MottleError(f"{folder.path} holds no run that has ended: there is no result.json; see `mottle status`")
        return cls.of(summary, folder)


def _evaluations(run: Folder) -> pd.DataFrame:
    """A row for each evaluated version, a column for each metric."""
    try:
        frame: pd.DataFrame = read_run(run).metrics
    except FileNotFoundError:  # nothing of the run could be written
        return pd.DataFrame()
    return frame.pivot_table(index=["version", "samples", "t_s"], columns="name", values="value").reset_index() if len(frame) else frame


def _checkpoint(run: Folder, manifest: Manifest) -> ray.train.Checkpoint:
    where = folder_of(run, manifest.number)
    return ray.train.Checkpoint(where.path, where.filesystem)


def _metrics(manifest: Manifest) -> dict[str, Any]:
    return {**manifest.metrics, "samples": manifest.samples, "version": manifest.version[1], "checkpoint": manifest.number}


def _ranked(saved: list[Manifest], keep: KeepCheckpoints) -> list[Manifest]:
    """The best last; those of which the score is not known first."""
    score = keep.score
    if score is None:
        return saved

    def rank(manifest: Manifest) -> tuple[bool, float, int]:
        value = manifest.metrics.get(score, math.nan)
        known = math.isfinite(value)
        return known, (value if keep.highest else -value) if known else 0.0, manifest.number

    return sorted(saved, key=rank)
