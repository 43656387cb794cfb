"""The timeline of a simulated run, drawn with plotly: a row for each worker, a bar for each thing it did, a tick for each verdict."""

from collections.abc import Sequence
from typing import Any

from mottle.observe.optional import require_plots
from mottle.observe.palette import BLUE, GREEN, GREY, GRID, INK, MOMENT_COLORS, ORANGE, PAPER, SKY, SOFT, VERDICT_COLORS, WORKER_COLORS
from mottle.observe.snapshot import VERDICTS
from mottle.observe.wording import clean, label
from mottle.simulate.outcome import Outcome
from mottle.simulate.simulation import Simulation
from mottle.simulate.tally import Doing

MAX_ROWS = 40
MAX_SPANS = 12_000
"""Bars that a browser draws without a pause; a longer run is drawn as far as that."""

FEW_SPANS = 500
"""Up to here bars have a white edge between them; among more of them it would hide the bars."""

_DOING: dict[Doing, tuple[str, str]] = {
    "pull": ("reads a version", SKY),
    "compute": ("computes", BLUE),
    "push": ("pushes", GREEN),
    "pause": ("paused", GREY),
}
_TICKS = {**VERDICT_COLORS, "accepted": INK}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_ROW_PX = 30


def timeline_figure(run: Simulation, title: str) -> Any:
    """A plotly figure; `run` kept its spans (`trace=True`)."""
    slots = list(run.tally.workers)[:MAX_ROWS]
    level = {slot: len(slots) - 1 - row for row, slot in enumerate(slots)}
    spans = [span for span in run.tally.spans if span.slot in level]
    spans.sort(key=lambda span: span.start_ns)
    until_ns = spans[MAX_SPANS].start_ns if len(spans) > MAX_SPANS else run.clock.now_ns
    figure = _figure(200 + _ROW_PX * max(4, len(slots)))
    for doing, (name, color) in _DOING.items():
        own = [span for span in spans if span.doing == doing and span.start_ns < until_ns]
        if own:
            _bars(figure, own, level, name, color)
    for verdict in VERDICTS:
        ticks = [judged for judged in run.tally.judged if judged.verdict == verdict and judged.slot in level and judged.now_ns <= until_ns]
        if ticks:
            _ticks(figure, ticks, level, verdict, _TICKS[verdict])
    for mark in run.tally.marks:
        if mark.now_ns <= until_ns and mark.kind in (*MOMENT_COLORS, "paused", "slowed"):
            _moment(figure, mark.now_ns / 1e9, clean(mark.kind), MOMENT_COLORS.get(mark.kind, ORANGE))
    names = [clean(run.tally.workers[slot].name) for slot in slots]
    figure.update_yaxes(tickvals=list(level.values()), ticktext=names, range=[-0.7, len(slots) - 0.3], showgrid=False)
    figure.update_xaxes(title_text="virtual seconds", range=[0, until_ns / 1e9 * 1.01 or 1])
    figure.update_layout(title={"text": clean(_title(title, run, len(slots), until_ns)), "x": 0.01, "font": {"size": 15}})
    return figure


def curves_figure(outcomes: Sequence[Outcome], metric: str) -> Any:
    """One metric over virtual time, a line for each strategy."""
    figure = _figure(420)
    for index, outcome in enumerate(outcomes):
        points = [point for point in outcome.curve if metric in point.metrics]
        figure.add_scatter(
            x=[point.now_ns / 1e9 for point in points],
            y=[point.metrics[metric] for point in points],
            name=clean(outcome.strategy),
            mode="lines+markers",
            marker={"size": 5},
            line={"color": WORKER_COLORS[index % len(WORKER_COLORS)], "width": 2},
        )
    wanted = next((outcome.target.wanted for outcome in outcomes if outcome.target is not None and outcome.target.metric == metric), None)
    if wanted is not None:
        figure.add_hline(y=wanted, line={"color": SOFT, "width": 1, "dash": "dash"}, annotation={"text": f"target {wanted:g}"})
    figure.update_xaxes(title_text="virtual seconds", rangemode="tozero")
    figure.update_yaxes(title_text=label(metric))
    figure.update_layout(title={"text": f"{label(metric)} against time", "x": 0.01, "font": {"size": 15}}, showlegend=True)
    return figure


def _title(title: str, run: Simulation, num_rows: int, until_ns: int) -> str:
    parts = [title]
    if num_rows < len(run.tally.workers):
        parts.append(f"the first {num_rows} of {len(run.tally.workers):,} workers")
    if until_ns < run.clock.now_ns:
        parts.append(f"the first {until_ns / 1e9:.3g} s of {run.clock.now_ns / 1e9:.3g} s")
    return ", ".join(parts)


def _moment(figure: Any, at_s: float, kind: str, color: str) -> None:
    """A line through all rows, with its word above them."""
    figure.add_vline(x=at_s, line={"color": color, "width": 1, "dash": "dot"})
    figure.add_annotation(x=at_s, y=1, yref="paper", yanchor="bottom", text=kind, showarrow=False, font={"size": 11, "color": color})


def _bars(figure: Any, spans: Sequence[Any], level: dict[int, int], name: str, color: str) -> None:
    figure.add_bar(
        base=[span.start_ns / 1e9 for span in spans],
        x=[(span.stop_ns - span.start_ns) / 1e9 for span in spans],
        y=[level[span.slot] for span in spans],
        orientation="h",
        width=0.62,
        name=name,
        marker={"color": color, "line": {"width": 0.5 if len(spans) < FEW_SPANS else 0, "color": PAPER}},
        customdata=[span.work_id for span in spans],
        hovertemplate=f"%{{base:.4f}} s, for %{{x:.4f}} s<br>{name}, order %{{customdata}}<extra></extra>",
    )


def _ticks(figure: Any, judged: Sequence[Any], level: dict[int, int], verdict: str, color: str) -> None:
    figure.add_scattergl(
        x=[each.now_ns / 1e9 for each in judged],
        y=[level[each.slot] + 0.38 for each in judged],
        mode="markers",
        name=verdict,
        marker={"symbol": "triangle-down", "size": 7, "color": color},
        customdata=[[each.work_id, each.staleness, clean(each.reason)] for each in judged],
        hovertemplate=f"%{{x:.4f}} s: order %{{customdata[0]}} {verdict}<br>%{{customdata[2]}}; stale by %{{customdata[1]}}<extra></extra>",
    )


def _figure(height: int) -> Any:
    figure = require_plots("plotly.graph_objects", "the timeline").Figure()
    figure.update_layout(
        template="none",
        height=height,
        barmode="overlay",
        margin={"l": 80, "r": 30, "t": 60, "b": 90},
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        font={"family": _FONT, "size": 13, "color": INK},
        legend={"orientation": "h", "x": 0, "y": -70 / (height - 150), "yanchor": "top"},
    )
    figure.update_xaxes(gridcolor=GRID, linecolor=GRID, zeroline=False)
    figure.update_yaxes(gridcolor=GRID, linecolor=GRID, zeroline=False, automargin=True)
    return figure
