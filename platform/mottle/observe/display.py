"""The terminal's view of a run: a calm live area, and above it one line for every event.

Where the output is not a terminal (a file, a pipe, a log collector) the same story comes as plain lines without control
codes. The display knows snapshots and nothing else; its only clock is theirs.
"""

import math
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from mottle.observe.snapshot import Snapshot
from mottle.observe.speed import Speed
from mottle.observe.views import event_line, event_row, live_view, progress_line, summary_view
from mottle.observe.wording import clean, count

_WIDTH = 112  # wider lines make the eye lose the row
_NARROW = 96  # columns under which the whole table of workers does not fit
_LINES_AROUND_ROWS = 13  # header, bar, metrics, table frame, updates, a note and the shell's own last line
_PLAIN_STEP = 0.1  # share of the run between two progress lines
_PLAIN_EVERY_S = 30.0
_ASCII = str.maketrans({"✕": "x", "⊘": "/", "✓": "*", "■": "#", "●": "o", "○": ".", "◌": ".", "‖": "=", "·": "|", "…": "~"})


class Display:
    """Shows a run while it goes: `with Display() as display: display.show(snapshot)`, at last `display.finish(snapshot)`.

    Args:
        console: where to write; standard output by default.
        live: a repainted area; by default on a terminal that can repaint.
    """

    def __init__(self, console: Console | None = None, *, live: bool | None = None) -> None:
        self._console = console if console is not None else Console(highlight=False)
        if console is None and not self._console.is_terminal:
            self._console.width = _WIDTH  # a file has no width of its own, and 80 columns would cut the tables
        repaints = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live = Live(console=self._console, auto_refresh=False) if (repaints if live is None else live) else None
        self._speed = Speed()
        self._num_told = 0
        self._next_share, self._next_s = 0.0, 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Prints the events that are new and brings the live area, or the plain progress line, up to date."""
        self._speed.saw(snapshot)
        self._tell_events(snapshot)
        if self._live:
            self._live.update(
                self._fitted(live_view(snapshot, self._speed, max_rows=self._max_rows(), narrow=self._is_narrow())), refresh=True
            )
        elif self._is_due(snapshot):
            self._print(progress_line(snapshot, self._speed))

    def finish(self, snapshot: Snapshot, *, report: str | None = None) -> None:
        """Takes the live area away and leaves the final table.

        Args:
            snapshot: the last one.
            report: where the report lies, if one was written.
        """
        self._tell_events(snapshot)
        if self._live:
            self._live.update(Text(), refresh=True)
            self._live.stop()
        else:
            self._print(Text())
        self._print(self._fitted(summary_view(snapshot, narrow=self._is_narrow())))
        if report is not None:
            self._print(Text.assemble((" report  ", "dim"), clean(report)))

    def _tell_events(self, snapshot: Snapshot) -> None:
        if (missed := snapshot.events_before - self._num_told) > 0:
            self._print(Text(f"{'':10}  …  {count(missed)} events passed too fast to be shown; all are in the run's record", style="dim"))
        for event in snapshot.events[max(0, self._num_told - snapshot.events_before) :]:
            self._print(event_row(event) if self._console.is_terminal else event_line(event))
        self._num_told = max(self._num_told, snapshot.events_before + len(snapshot.events))

    def _is_due(self, snapshot: Snapshot) -> bool:
        share = snapshot.samples / snapshot.total_samples if snapshot.total_samples else 0.0
        if share < self._next_share and snapshot.wall_s < self._next_s:
            return False
        self._next_share = (math.floor(share / _PLAIN_STEP + 1e-9) + 1) * _PLAIN_STEP if snapshot.total_samples else math.inf
        self._next_s = snapshot.wall_s + _PLAIN_EVERY_S
        return True

    def _max_rows(self) -> int:
        return max(3, self._console.height - _LINES_AROUND_ROWS)

    def _is_narrow(self) -> bool:
        return self._console.width < _NARROW

    def _fitted(self, view: RenderableType) -> RenderableType:
        return self._spelt(Constrain(view, _WIDTH))

    def _spelt(self, view: RenderableType) -> RenderableType:
        return view if self._console.encoding.lower().startswith("utf") else _Ascii(view)

    def _print(self, view: RenderableType) -> None:
        # A line in a file is not folded at the width of a terminal that nobody has.
        self._console.print(self._spelt(view), soft_wrap=isinstance(view, Text) and not self._console.is_terminal, highlight=False)


class _Ascii:
    """A view for an output that has no Unicode: rich would stop the program at the first sign that it cannot encode."""

    def __init__(self, view: RenderableType) -> None:
        self._view = view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self._view, options):
            yield Segment(text.translate(_ASCII).encode("ascii", "replace").decode(), style, control)
