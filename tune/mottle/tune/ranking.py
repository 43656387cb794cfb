"""A sweep as a table: what each trial was and came to, and which one is the best. Knows neither Ray nor files."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["waiting", "running", "paused", "done", "stopped", "failed"]
Mode = Literal["max", "min"]
OVER = ("done", "stopped", "failed")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial."""

    trial: str
    state: State = "waiting"
    values: Mapping[str, Any] = field(default_factory=dict)
    """What was searched, by dotted key, as the trial has it now."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Its last result."""
    evaluations: int = 0
    error: str = ""

    @property
    def samples(self) -> int:
        return int(self.metrics.get("samples", 0))


def score(row: Row, metric: str) -> float | None:
    """The trial's last value of a metric; None for one that failed, was not measured or is not finite."""
    value = row.metrics.get(metric)
    return None if row.state == "failed" or value is None or not math.isfinite(value) else float(value)


def ranked(rows: Sequence[Row], metric: str, mode: Mode) -> list[Row]:
    """The best first; those without a score last, in the order given. Ties stay in the order given."""
    sign = -1.0 if mode == "max" else 1.0

    def rank(row: Row) -> tuple[bool, float]:
        value = score(row, metric)
        return (True, 0.0) if value is None else (False, sign * value)

    return sorted(rows, key=rank)


def best(rows: Sequence[Row], metric: str, mode: Mode) -> Row | None:
    """The trial with the best last value; None if no trial has one."""
    first = next(iter(ranked(rows, metric, mode)), None)
    return first if first is not None and score(first, metric) is not None else None


def searched(rows: Sequence[Row]) -> list[str]:
    """Keys whose values differ between trials, in the order in which they come; all keys of a single trial."""
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    if len(rows) < 2:
        return keys
    return [key for key in keys if len({shown(row.values.get(key)) for row in rows}) > 1]


def shown(value: Any) -> str:
    """A value as a cell shows it: `{sgd: {lr: 0.1}}` as `sgd(lr=0.1)`, numbers with four digits."""
    if isinstance(value, bool) or value is None:
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(_option(name, inner) for name, inner in value.items())
    if isinstance(value, list | tuple):
        return " ".join(shown(each) for each in value)
    return str(value)


def _option(name: str, inner: Any) -> str:
    if isinstance(inner, Mapping):
        return f"{name}({', '.join(f'{key}={shown(each)}' for key, each in inner.items())})"
    return name if inner is None else f"{name}={shown(inner)}"


def table_csv(rows: Sequence[Row]) -> str:
    """All trials with all that was searched and measured, a line each."""
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "evaluations", *keys, *metrics, "error"])
    for row in rows:
        values = [
            "" if (value := row.values.get(key)) is None else value if isinstance(value, int | float) else shown(value) for key in keys
        ]
        writer.writerow([row.trial, row.state, row.evaluations, *values, *(row.metrics.get(name, "") for name in metrics), row.error])
    return text.getvalue()
