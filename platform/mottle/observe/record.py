"""A run's folder: what happened, as tables, and how it ended.

| file | one row |
| --- | --- |
| `timeline` | an update and what was decided about it |
| `metrics` | one value of one metric of one published version |
| `throughput` | samples a worker had acknowledged since its last row |
| `notices` | one event a user was told of |
| `result.json` | how the run ended (`mottle.observe.result`) |
| `events` | the coordinator's log (`mottle.observe.events`) |

Each table is a folder of numbered Arrow segments while the run lives and one parquet file after it
(`mottle.observe.segments`). Times are seconds since the run began.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyarrow as pa
import pyarrow.compute as pc

from mottle.observe.events import EVENTS
from mottle.observe.result import RESULT_FILE, RunResult, read_result
from mottle.observe.segments import SegmentedTable, read_table
from mottle.observe.snapshot import VERDICTS, EventKind, RunEvent, Verdict
from mottle.storage.folder import Folder

if TYPE_CHECKING:
    import pandas as pd  # 0.3 s and 50 MB, which whoever records can do without


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in columns.items()])


TIMELINE = _schema(
    t_s=pa.float64(),
    work_id=pa.string(),
    worker=pa.string(),
    samples=pa.int64(),
    staleness=pa.int64(),
    verdict=pa.string(),
    reason=pa.string(),
    score=pa.float64(),
)
METRICS = _schema(t_s=pa.float64(), samples=pa.int64(), version=pa.int64(), name=pa.string(), value=pa.float64())
THROUGHPUT = _schema(t_s=pa.float64(), worker=pa.string(), samples=pa.int64())
NOTICES = _schema(t_s=pa.float64(), kind=pa.string(), worker=pa.string(), text=pa.string())
TABLES = {"timeline": TIMELINE, "metrics": METRICS, "throughput": THROUGHPUT, "notices": NOTICES}


class RunRecord:
    """The writing side of the tables. Adding a row touches no storage; `flush` does.

    Args:
        where: the run's folder: a path, a URI or a Folder.
        resume_at_s: the moment of the checkpoint a run goes on from; later rows of the earlier life are dropped, for
            what they tell was undone.
    """

    def __init__(self, where: str | Path | Folder, *, resume_at_s: float | None = None) -> None:
        folder = Folder.at(where)
        self._tables = {name: SegmentedTable(folder, name, schema) for name, schema in TABLES.items()}
        if resume_at_s is not None:
            for table in self._tables.values():
                table.compact(keep=lambda rows: rows.filter(pc.field("t_s") <= resume_at_s))

    def decided(
        self,
        *,
        t_s: float,
        work_id: str | int,
        worker: str,
        samples: int,
        staleness: int,
        verdict: Verdict,
        reason: str,
        score: float | None = None,
    ) -> None:
        """One acknowledged update got its verdict."""
        if verdict not in VERDICTS:
            raise ValueError(f"wanted a verdict of {', '.join(VERDICTS)}; got {verdict!r}")
        self._tables["timeline"].append((t_s, str(work_id), worker, samples, staleness, verdict, reason, score))

    def measured(self, *, t_s: float, samples: int, version: int, values: Mapping[str, float]) -> None:
        """A version was evaluated after `samples` samples; values that are not finite are kept as they are."""
        for name, value in values.items():
            self._tables["metrics"].append((t_s, samples, version, name, value))

    def delivered(self, *, t_s: float, worker: str, samples: int) -> None:
        """`worker` had this many samples acknowledged since its last such row."""
        self._tables["throughput"].append((t_s, worker, samples))

    def noticed(self, event: RunEvent) -> None:
        """The user was told of an event."""
        self._tables["notices"].append((event.t_s, event.kind, event.worker, event.text))

    def flush(self) -> None:
        """Writes what is pending, one segment a table; on OSError it stays pending for the next call."""
        for table in self._tables.values():
            table.flush()

    def compact(self) -> None:
        """Joins every table into one parquet file; at the end of a run."""
        for table in self._tables.values():
            table.compact()


@dataclass(frozen=True)
class RunData:
    """Everything recorded of one run; the frames have the columns of `TABLES`, in the order of time."""

    name: str
    result: RunResult | None
    """None while the run lives, and for one that was killed."""
    timeline: "pd.DataFrame"
    metrics: "pd.DataFrame"
    throughput: "pd.DataFrame"
    notices: tuple[RunEvent, ...]

    @property
    def wall_s(self) -> float:
        """Length of the run; of what is known of it when it has no result."""
        if self.result is not None:
            return self.result.wall_s
        ends = (float(frame["t_s"].max()) for frame in (self.timeline, self.metrics, self.throughput) if len(frame))
        return max([*ends, *(event.t_s for event in self.notices)], default=0.0)

    @property
    def workers(self) -> list[str]:
        """Ids in the order of their joining; of their first trace when there is no result."""
        if self.result is not None:
            return [worker.id for worker in sorted(self.result.workers, key=lambda worker: worker.joined_s)]
        seen = [event.worker for event in self.notices if event.worker is not None]
        return list(dict.fromkeys([*seen, *self.throughput["worker"], *self.timeline["worker"]]))


def holds_run(where: str | Path | Folder) -> bool:
    """Whether something was recorded there: a run that lives, was killed or has ended."""
    folder = Folder.at(where)
    return folder.has(RESULT_FILE) or folder.has(f"{EVENTS}.parquet") or EVENTS in folder.folders()


def read_run(where: str | Path | Folder) -> RunData:
    """Reads a run that lives, was killed or has ended.

    Raises:
        FileNotFoundError: there is no such folder, or no run was recorded in it.
    """
    folder = Folder.at(where)
    result = read_result(folder)
    frames = {
        name: read_table(folder, name, schema).to_pandas().sort_values("t_s", kind="stable", ignore_index=True)
        for name, schema in TABLES.items()
    }
    if result is None and all(frame.empty for frame in frames.values()):
        raise FileNotFoundError(f"wanted the folder of a run, with result.json or tables; {folder.path} has neither")
    notices = tuple(
        RunEvent(t_s=t_s, kind=cast(EventKind, kind), worker=worker if isinstance(worker, str) else None, text=text)
        for t_s, kind, worker, text in frames["notices"].itertuples(index=False)
    )
    return RunData(folder.name, result, frames["timeline"], frames["metrics"], frames["throughput"], notices)
