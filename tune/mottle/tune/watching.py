"""A sweep under the eyes of a terminal: the table of its trials while they run, or a line for each one that is over."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mottle.observe.wording import clean, count
from mottle.tune.ranking import OVER, Mode, Row, best, ranked, score, searched, shown
from mottle.tune.space import ALWAYS_REPORTED

MAX_ROWS = 20
_STATES = {"PENDING": "waiting", "RUNNING": "running", "PAUSED": "paused", "ERROR": "failed"}


class Display:
    """Shows rows: repainted on a terminal, a line for each trial that is over elsewhere.

    Args:
        metric: what the trials are compared by.
    """

    def __init__(self, console: Console, metric: str, mode: Mode) -> None:
        self._console = console
        self._metric, self._mode = metric, mode
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal and not console.is_dumb_terminal else None
        self._told: set[str] = set()

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *failure: object) -> None:
        if self._live:
            self._live.stop()

    def note(self, text: str) -> None:
        """A sentence of its own."""
        self._console.print(Text(text), soft_wrap=True)

    def show(self, rows: Sequence[Row]) -> None:
        if self._live:
            self._live.update(table(rows, self._metric, self._mode), refresh=True)
            return
        for row in rows:
            if row.state in OVER and row.trial not in self._told:
                self._told.add(row.trial)
                self._console.print(Text(line(row, searched(rows), self._metric)), soft_wrap=True)

    def finish(self, rows: Sequence[Row]) -> None:
        """Leave the whole table."""
        if self._live:
            self._live.update(Text(), refresh=True)
            self._live.stop()
        self._console.print(table(rows, self._metric, self._mode, max_rows=len(rows)))


def line(row: Row, keys: Sequence[str], metric: str) -> str:
    """`trial 3 done: optimizer.lr 0.1, test_accuracy 0.93 after 1,200 samples`."""
    what = ", ".join(f"{key} {shown(row.values.get(key))}" for key in keys)
    came = row.error if row.state == "failed" else f"{metric} {shown(score(row, metric))} after {count(row.samples)} samples"
    return clean(f"{row.trial} {row.state}: {what}; {came}" if what else f"{row.trial} {row.state}: {came}")


def table(rows: Sequence[Row], metric: str, mode: Mode, *, max_rows: int = MAX_ROWS) -> Table:
    """The best first, then what is measured yet, then the others."""
    keys, first = searched(rows), best(rows, metric, mode)
    drawn = Table(box=None, pad_edge=False, header_style="dim")
    for head in ("trial", "state", *keys):
        drawn.add_column(clean(head), no_wrap=True)
    for head in (metric, "samples"):
        drawn.add_column(clean(head), justify="right", no_wrap=True)
    for row in ranked(rows, metric, mode)[:max_rows]:
        cells = [row.trial, row.state, *(shown(row.values.get(key)) for key in keys), shown(score(row, metric)), count(row.samples)]
        style = "bold" if row is first else "dim" if row.state in ("failed", "stopped") else ""
        drawn.add_row(*map(clean, cells), style=style)
    if len(rows) > max_rows:
        drawn.caption = f"and {len(rows) - max_rows} more"
    return drawn


class Watcher(tune.Callback):
    """Keeps the rows of a sweep as Tune tells of it.

    Args:
        show: called with the rows after every change.
        flat: a trial's config as values by dotted key.
    """

    def __init__(self, show: Callable[[Sequence[Row]], None], flat: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        self._show, self._flat = show, flat
        self.rows: list[Row] = []

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._see(trials)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._see(trials)

    def _see(self, trials: list[Any]) -> None:
        numbered = sorted(((_number(trial), trial) for trial in trials), key=lambda item: item[0])
        rows = [row_of(trial, number, self._flat) for number, trial in numbered]
        if rows != self.rows:
            self.rows = rows
            self._show(rows)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune writes its callbacks down with the sweep, and a terminal cannot be


def row_of(trial: Any, number: int, flat: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Row:
    """What Tune knows of a trial."""
    result = trial.last_result or {}
    state: Any = _STATES.get(trial.status, "done" if result.get("complete", True) else "stopped")
    return Row(
        trial=f"trial {number}",
        state=state,
        values=flat(trial.config),
        metrics={name: value for name, value in result.items() if name.startswith("test_") or name in ALWAYS_REPORTED},
        evaluations=int(result.get("training_iteration", 0)),
        error=_reason(trial) if state == "failed" else "",
    )


def _number(trial: Any) -> int:
    """By which Tune made it; a restored sweep has its trials in another order."""
    found = re.match(r"\d+", trial.experiment_tag or "")
    return int(found.group()) if found else 0


def _reason(trial: Any) -> str:
    """The last line of what a trial failed with, without the name of the class; Tune keeps it as a file of the driver's."""
    try:
        text = Path(trial.error_file or "").read_text(encoding="utf-8")
    except OSError:
        return "it failed"
    told = [each.strip() for each in text.splitlines() if each.strip()]
    return re.sub(r"^[\w.]+(Error|Exception): ", "", told[-1]) if told else "it failed"
