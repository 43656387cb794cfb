"""A plan as a picture: a Gantt chart of the devices above their memory over time. Needs the extra `plots`."""

from pathlib import Path
from typing import Any

import numpy as np

from mottle.core.errors import ConfigError
from mottle.placement.memory import dynamic_timelines
from mottle.placement.plans import COLOURS, TRANSFER_COLOUR, Plan


def draw(plan: Plan) -> Any:
    """The picture as a plotly figure, which shows itself in a notebook.

    Raises:
        ConfigError: plotly is not installed.
    """
    try:
        from plotly import graph_objects
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise ConfigError("pictures of plans need plotly: pip install 'mottle[plots]'") from error
    graph = plan.problem.graph
    titles = [f"{plan.makespan} ticks by {plan.algorithm}", *(f"memory of {name}" for name in graph.devices)]
    shares = [max(0.4, 1 - 0.15 * graph.num_devices)] + [1.0 / graph.num_devices] * graph.num_devices
    figure = make_subplots(rows=1 + graph.num_devices, cols=1, shared_xaxes=True, row_heights=shares, subplot_titles=titles)
    for bars in (*_op_bars(plan), _transfer_bars(plan)):
        figure.add_trace(graph_objects.Bar(orientation="h", **bars), row=1, col=1)
    for d, curves in enumerate(_memory_curves(plan)):
        for curve in curves:
            figure.add_trace(graph_objects.Scatter(mode="lines", **curve), row=2 + d, col=1)
    figure.update_layout(
        barmode="overlay", bargap=0.15, showlegend=False, height=max(500, 180 + 190 * graph.num_devices), template="plotly_white"
    )
    figure.update_yaxes(autorange="reversed", row=1, col=1)
    figure.update_yaxes(rangemode="tozero", ticksuffix="B", tickformat=".3s", row="all")
    figure.update_yaxes(ticksuffix="", tickformat="", row=1, col=1)
    figure.update_xaxes(title_text=f"ticks of {plan.problem.tick_ns} ns", row=1 + graph.num_devices, col=1)
    return figure


def save_picture(plan: Plan, path: str | Path) -> None:
    """Write the picture as one HTML file that needs nothing from the network."""
    draw(plan).write_html(str(path), include_plotlyjs=True, full_html=True)


def _op_bars(plan: Plan) -> list[dict[str, Any]]:
    """One set of bars a device."""
    graph, trace = plan.problem.graph, plan.simulation.trace
    bars = []
    for d, name in enumerate(graph.devices):
        mine = np.flatnonzero(trace.device == d).tolist()
        bars.append(
            {
                "base": trace.start[mine],
                "x": (trace.end - trace.start)[mine],
                "y": [name] * len(mine),
                "text": [graph.names[i] for i in mine],
                "hovertemplate": "%{text}: [%{base}, +%{x})<extra></extra>",
                "textposition": "inside",
                "insidetextanchor": "middle",
                "marker": {"color": COLOURS[d % len(COLOURS)], "line": {"width": 0.5, "color": "white"}},
            }
        )
    return bars


def _transfer_bars(plan: Plan) -> dict[str, Any]:
    """Thin bars on the row of the destination."""
    copies = plan.simulation.transfers
    return {
        "base": [copy.start for copy in copies],
        "x": [copy.end - copy.start for copy in copies],
        "y": [copy.dst for copy in copies],
        "width": 0.12,
        "offset": 0.4,
        "customdata": [f"{copy.tensor}: {copy.src} to {copy.dst}" for copy in copies],
        "hovertemplate": "%{customdata} [%{base}, +%{x})<extra></extra>",
        "marker": {"color": TRANSFER_COLOUR},
    }


def _memory_curves(plan: Plan) -> list[list[dict[str, Any]]]:
    """Per device: bytes in use, the static peak, and the budget where it is near."""
    graph, trace = plan.problem.graph, plan.simulation.trace
    timelines = dynamic_timelines(graph, trace.device, trace.start, trace.end, trace.transfers)
    curves = []
    for d, line in enumerate(timelines):
        colour = COLOURS[d % len(COLOURS)]
        end = [plan.makespan]
        level = line.level.tolist()
        used = {"x": [*line.time.tolist(), *end], "y": [*level, *level[-1:]], "line": {"shape": "hv", "color": colour}, "fill": "tozeroy"}
        rows = [{**used, "name": "in use", "hovertemplate": "%{y} bytes at %{x}<extra></extra>"}]
        limits = [("static peak", trace.static_peaks[d], "dot")]
        if graph.mem[d] <= 2 * trace.static_peaks[d]:
            limits.append(("budget", graph.mem[d], "dash"))
        for name, value, dash in limits:
            row = {"x": [0, plan.makespan], "y": [value, value], "line": {"dash": dash, "color": "#555555", "width": 1}}
            rows.append({**row, "name": name, "hovertemplate": f"{name}: %{{y}} bytes<extra></extra>"})
        curves.append(rows)
    return curves
