"""The report's figures, drawn with plotly; each takes runs that were read and returns a figure."""

from typing import Any

import pandas as pd

from mottle.observe.curves import MANY_MOMENTS, labelled, metric_curve, moments, presence, rates, staleness_counts, verdict_ticks
from mottle.observe.optional import require_plots
from mottle.observe.palette import BLUE, GRID, INK, MOMENT_COLORS, PAPER, SOFT, SPENT, VERDICT_COLORS, WORKER_COLORS
from mottle.observe.record import RunData
from mottle.observe.snapshot import VERDICTS
from mottle.observe.wording import clean, label

MAX_ROWS = 40
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_ROW_PX = 34
_CHAR_SHARE = 0.0075  # of the 900 pixels of the time axis, at 12 pixels a character's height
LANES = {"accepted": 0.2, "unselected": 0.2, "rejected": -0.2, "discarded": -0.2}


def metric_figure(run: RunData, name: str, *, title: str, baseline: RunData | None = None, baseline_title: str = "") -> Any:
    """One metric over time; the comparison, if there is one, as a grey dashed line."""
    figure = _figure(height=380)
    is_share = name.endswith("accuracy")
    if baseline is not None:
        curve = metric_curve(baseline, name)
        line = {"color": SOFT, "width": 2, "dash": "dash"}
        figure.add_scatter(
            x=curve["t_s"], y=curve["value"], customdata=curve["samples"], name=_safe(baseline_title), line=line, hovertemplate=_hover(name)
        )
    curve = metric_curve(run, name)
    figure.add_scatter(
        x=curve["t_s"],
        y=curve["value"],
        customdata=curve["samples"],
        name=_safe(title),
        line={"color": BLUE, "width": 2.5},
        hovertemplate=_hover(name),
    )
    figure.update_traces(mode="lines")
    figure.update_yaxes(title_text=label(name), **({"tickformat": ".0%", "range": [0, 1.02]} if is_share else {}))
    figure.update_layout(
        **({"legend": _below(figure), "showlegend": True} if baseline is not None else {"showlegend": False, "margin_b": 48})
    )
    return _along_time(figure, run)


def timeline_figure(run: RunData) -> Any:
    """A row for each worker: a band while it was present, and a tick for each update, accepted above and refused below."""
    workers = run.workers[:MAX_ROWS]
    level = {worker: len(workers) - 1 - position for position, worker in enumerate(workers)}
    figure = _figure(height=130 + _ROW_PX * max(3, len(workers)))
    for worker, (start_s, end_s) in presence(run).items():
        if worker in level:
            y = level[worker]
            figure.add_shape(type="rect", x0=start_s, x1=end_s, y0=y - 0.42, y1=y + 0.42, fillcolor="#f3f4f6", line_width=0, layer="below")
    ticks = verdict_ticks(run)
    for verdict in VERDICTS:
        rows = ticks[(ticks["verdict"] == verdict) & ticks["worker"].isin(workers)]
        if rows.empty:
            continue
        figure.add_scatter(  # a tick is too thin for a legend; this square stands for it
            x=[None],
            y=[None],
            mode="markers",
            name=verdict,
            legendgroup=verdict,
            marker={"symbol": "square", "size": 11, "color": VERDICT_COLORS[verdict]},
        )
        figure.add_scattergl(
            x=rows["t_s"],
            y=rows["worker"].map(level) + LANES[verdict],
            customdata=pd.DataFrame({"worker": rows["worker"].map(_safe), "updates": rows["updates"], "reason": rows["reason"].map(_safe)}),
            mode="markers",
            name=verdict,
            legendgroup=verdict,
            showlegend=False,
            marker={"symbol": "line-ns", "size": 10, "line": {"width": 1.4, "color": VERDICT_COLORS[verdict]}},
            hovertemplate=f"%{{customdata[0]}}, %{{x:.2f}} s<br>%{{customdata[1]}} {verdict}: %{{customdata[2]}}<extra></extra>",
        )
    figure.update_yaxes(
        tickvals=list(level.values()), ticktext=[_safe(worker) for worker in level], range=[-0.6, len(workers) - 0.4], showgrid=False
    )
    figure.update_layout(legend=_below(figure), showlegend=True)
    return _along_time(figure, run)


def throughput_figure(run: RunData) -> Any:
    """Samples per second of each worker over time: lines for a few workers, a map for many."""
    table = rates(run)
    if table.shape[1] > len(WORKER_COLORS):
        return _throughput_map(table, run)
    figure = _figure(height=360)
    for worker, color in zip(table.columns, WORKER_COLORS, strict=False):
        figure.add_scatter(
            x=table.index,
            y=table[worker],
            name=_safe(worker),
            mode="lines",
            line={"color": color, "width": 2},
            hovertemplate="%{y:.3s} samples/s",
        )
    figure.update_yaxes(title_text="samples per second", rangemode="tozero")
    figure.update_layout(hovermode="x unified", showlegend=True, legend=_below(figure))
    return _along_time(figure, run)


def staleness_figure(run: RunData) -> Any:
    """How many updates met the model how many versions late, by verdict."""
    counts = staleness_counts(run)
    figure = _figure(height=320)
    for verdict in VERDICTS:
        if counts[verdict].any():
            figure.add_bar(
                x=counts.index, y=counts[verdict], name=verdict, marker_color=VERDICT_COLORS[verdict], hovertemplate="%{y} " + verdict
            )
    figure.update_layout(barmode="stack", bargap=0.15, hovermode="x unified", showlegend=True, legend=_below(figure))
    figure.update_xaxes(title_text="staleness, versions")
    figure.update_yaxes(title_text="updates")
    return figure


def accounting_figure(run: RunData) -> Any:
    """Each worker's time, split into what it was good for; needs the result of the run."""
    assert run.result is not None
    workers = [worker for worker in run.workers if worker in run.result.accounting][:MAX_ROWS]
    figure = _figure(height=120 + _ROW_PX * max(3, len(workers)))
    for part, (name, color) in SPENT.items():
        seconds = [getattr(run.result.accounting[worker], part) for worker in workers]
        if any(seconds):
            figure.add_bar(
                y=[_safe(worker) for worker in workers],
                x=seconds,
                name=name,
                orientation="h",
                marker_color=color,
                hovertemplate=f"%{{x:.1f}} s {name}",
            )
    figure.update_layout(
        barmode="stack",
        bargap=0.3,
        showlegend=True,
        legend=_below(figure),
    )
    figure.update_xaxes(title_text="seconds present")
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    return figure


def _below(figure: Any) -> dict[str, Any]:
    """A legend in one line under the axis title, at the same distance in pixels whatever the height."""
    plot_px = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    return {"orientation": "h", "x": 0, "xanchor": "left", "y": -46 / plot_px, "yanchor": "top", "traceorder": "normal"}


def _figure(height: int) -> Any:
    """An empty figure in the report's clothes, with seconds along the bottom."""
    figure = require_plots("plotly.graph_objects", "the report").Figure()
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 70, "r": 20, "t": 34, "b": 76},
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        font={"family": _FONT, "size": 13, "color": INK},
        hoverlabel={"bgcolor": PAPER, "font": {"family": _FONT, "size": 12}},
    )
    figure.update_xaxes(
        title="seconds since the start", gridcolor=GRID, linecolor=GRID, zeroline=False, rangemode="tozero", title_standoff=8
    )
    figure.update_yaxes(gridcolor=GRID, linecolor=GRID, zeroline=False, automargin=True, title_standoff=10)
    return figure


def _along_time(figure: Any, run: RunData) -> Any:
    """The whole run along the bottom, and marks where the crew changed: dotted for who came, solid for who went."""
    end_s = max(run.wall_s, 1e-9) * 1.01
    figure.update_xaxes(range=[0, end_s])
    marked = moments(run)
    width, opacity = (0.8, 0.5) if len(marked) > MANY_MOMENTS else (1.5, 1.0)
    for moment in marked:
        dash = "dot" if moment.kind == "joined" else "solid"
        figure.add_vline(x=moment.t_s, line={"color": MOMENT_COLORS[moment.kind], "width": width, "dash": dash}, opacity=opacity)
    for middle_s, moment in labelled(marked, end_s, _CHAR_SHARE):
        font = {"color": MOMENT_COLORS[moment.kind], "size": 12}
        figure.add_annotation(x=middle_s, y=1, yref="paper", yanchor="bottom", text=_safe(moment.text), showarrow=False, font=font)
    return figure


def _throughput_map(table: pd.DataFrame, run: RunData) -> Any:
    shown = table.iloc[:, :MAX_ROWS]
    figure = _figure(height=120 + 18 * shown.shape[1])
    figure.add_heatmap(
        x=shown.index,
        y=[_safe(worker) for worker in shown.columns],
        z=shown.to_numpy().T,
        colorscale="Viridis",
        zmin=0,
        colorbar={"title": "samples/s"},
        hovertemplate="%{y}, %{x:.1f} s: %{z:.3s} samples/s<extra></extra>",
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    return _along_time(figure, run)


def _hover(name: str) -> str:
    value = "%{y:.1%}" if name.endswith("accuracy") else "%{y:.4g}"
    return f"{value} after %{{customdata:,}} samples (%{{x:.1f}} s)"


def _safe(text: str) -> str:
    """Plotly reads labels as a small HTML; a worker's name is text."""
    return clean(str(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
