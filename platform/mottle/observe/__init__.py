"""What a user sees: the live display, the notebook view, the run's folder and its report.

What draws needs pandas (0.3 s to import), which coordinators record without: it is loaded when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mottle.observe.display import Display
from mottle.observe.events import EventLog, LoggedEvent, read_events
from mottle.observe.html import snapshot_html
from mottle.observe.loggers import MetricLogger, MlflowLogger, TensorBoardLogger, WandbLogger
from mottle.observe.optional import MissingDependencyError
from mottle.observe.record import RunData, RunRecord, read_run
from mottle.observe.result import (
    EpochResult,
    PeakRss,
    ResultFormatError,
    RunResult,
    WorkerAccounting,
    WorkerResult,
    read_result,
    result_from_json,
    result_schema,
    result_to_json,
    write_result,
)
from mottle.observe.segments import RecordDamagedError
from mottle.observe.snapshot import EVENT_KINDS, VERDICTS, EventKind, RunEvent, Snapshot, UpdateCounts, Verdict, WorkerRow

if TYPE_CHECKING:
    from mottle.observe.picture import report_png
    from mottle.observe.report import report_html, write_report

_DRAWS = {"report_html": "report", "report_png": "picture", "write_report": "report"}

__all__ = [
    "EVENT_KINDS",
    "VERDICTS",
    "Display",
    "EpochResult",
    "EventKind",
    "EventLog",
    "LoggedEvent",
    "MetricLogger",
    "MissingDependencyError",
    "MlflowLogger",
    "PeakRss",
    "RecordDamagedError",
    "ResultFormatError",
    "RunData",
    "RunEvent",
    "RunRecord",
    "RunResult",
    "Snapshot",
    "TensorBoardLogger",
    "UpdateCounts",
    "Verdict",
    "WandbLogger",
    "WorkerAccounting",
    "WorkerResult",
    "WorkerRow",
    "read_events",
    "read_result",
    "read_run",
    "report_html",
    "report_png",
    "result_from_json",
    "result_schema",
    "result_to_json",
    "snapshot_html",
    "write_report",
    "write_result",
]


def __getattr__(name: str) -> Any:
    if name in _DRAWS:
        return getattr(import_module(f"{__name__}.{_DRAWS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
