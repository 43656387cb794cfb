"""What a run leaves behind: Ray's `Result`, with the accounting of where the workers' time went."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
import ray.train

from mottle.observe.record import read_run
from mottle.observe.result import RunResult, WorkerAccounting


@dataclass(repr=False)
class Result(ray.train.Result):
    """`metrics`, `checkpoint`, `error`, `path`, `metrics_dataframe` as Ray's; `summary` is the whole of `result.json`."""

    summary: RunResult | None = field(default=None)

    @property
    def accounting(self) -> Mapping[str, WorkerAccounting]:
        """Seconds of each worker, by what became of them."""
        return {} if self.summary is None else self.summary.accounting

    @classmethod
    def of(cls, summary: RunResult, path: str, error: Exception | None = None) -> "Result":
        """From the run's own result and its folder, a path or a URI."""
        frame: pd.DataFrame = read_run(path).metrics
        wide = frame.pivot_table(index=["version", "samples", "t_s"], columns="name", values="value").reset_index() if len(frame) else frame
        return cls(
            metrics={**summary.metrics, "samples": summary.samples, "versions": summary.versions},
            checkpoint=None,
            error=error,
            path=path,
            metrics_dataframe=wide,
            summary=summary,
        )
