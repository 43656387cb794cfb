"""The page of a sweep: its table, parallel coordinates over all that was searched, and a slice for each field. One file, no network."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from mottle.observe.html import table_html
from mottle.observe.optional import require_plots
from mottle.observe.palette import BLUE, GRID, INK, PAPER
from mottle.observe.wording import clean, count
from mottle.tune.ranking import Mode, Row, best, ranked, score, searched, shown

PAGE_FILE = "sweep.html"
LOG_SPAN = 30.0
"""Positive numbers that spread over more than this factor are drawn on a logarithmic axis."""
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_STYLE = """
body { margin: 0; background: #f6f8fa; color: #1f2328; }
body { font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 64px; }
section { background: #fff; border: 1px solid #d8dee4; border-radius: 10px; padding: 20px 24px; margin-top: 20px; overflow-x: auto; }
h1 { font-size: 28px; margin: 0; } h2 { font-size: 18px; margin: 0 0 4px; } p { color: #57606a; margin: 4px 0 0; max-width: 78ch; }
section table { width: 100%; font-size: 14px; } section td, section th { border-bottom: 1px solid #eaeef2; }
"""


def page_html(title: str, rows: Sequence[Row], metric: str, mode: Mode) -> str:
    """The page as text, about 5 MB: plotly's script is part of it, once.

    Raises:
        MissingDependencyError: the extra `plots` is not installed.
    """
    plotly_js = require_plots("plotly.offline", "the page of a sweep").get_plotlyjs()
    to_html = require_plots("plotly.io", "the page of a sweep").to_html
    parts = [f"<h1>{_text(title)}</h1><p>{_text(_about(rows, metric, mode))}</p>", _section("Trials", "", _table(rows, metric, mode))]
    for heading, caption, figure in _figures(rows, metric):
        drawn = to_html(figure, include_plotlyjs=False, full_html=False, config={"displaylogo": False, "responsive": True})
        parts.append(_section(heading, caption, drawn))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title><style>{_STYLE}</style>'
        f"<script>{plotly_js}</script></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _figures(rows: Sequence[Row], metric: str) -> list[tuple[str, str, Any]]:
    measured = [row for row in rows if score(row, metric) is not None]
    keys = searched(rows)
    if not measured or not keys:
        return []
    drawn = [
        (
            "Parallel coordinates",
            "A line for each trial, coloured by the metric; drag along an axis to pick.",
            coordinates(measured, keys, metric),
        )
    ]
    return drawn + [(f"Slice: {key}", "", slice_figure(measured, key, metric)) for key in keys]


def coordinates(rows: Sequence[Row], keys: Sequence[str], metric: str) -> Any:
    """A line for each measured trial through what was searched and what it came to."""
    graph = require_plots("plotly.graph_objects", "the page of a sweep")
    scores = [score(row, metric) for row in rows]
    axes = [_axis(key, [row.values.get(key) for row in rows]) for key in keys]
    line = {"color": scores, "colorscale": "Viridis", "showscale": True, "colorbar": {"title": _safe(metric)}}
    figure = graph.Figure(graph.Parcoords(line=line, dimensions=[*axes, {"label": _safe(metric), "values": scores}]))
    figure.update_layout(height=420, margin={"l": 70, "r": 30, "t": 60, "b": 30}, paper_bgcolor=PAPER, font=_font())
    return figure


def slice_figure(rows: Sequence[Row], key: str, metric: str) -> Any:
    """What each value of one field came to."""
    graph = require_plots("plotly.graph_objects", "the page of a sweep")
    values = [row.values.get(key) for row in rows]
    numbers = all(is_number(value) for value in values)
    figure = graph.Figure(
        graph.Scatter(
            x=values if numbers else [_safe(shown(value)) for value in values],
            y=[score(row, metric) for row in rows],
            mode="markers",
            marker={"size": 10, "color": BLUE, "opacity": 0.8},
            text=[_safe(row.trial) for row in rows],
            hovertemplate="%{text}: %{x}<br>%{y:.4g}<extra></extra>",
        )
    )
    figure.update_layout(height=320, margin={"l": 70, "r": 20, "t": 20, "b": 60}, paper_bgcolor=PAPER, plot_bgcolor=PAPER, font=_font())
    kind = {"type": "log"} if numbers and is_wide(values) else {} if numbers else {"type": "category"}
    figure.update_xaxes(title=_safe(key), gridcolor=GRID, zeroline=False, **kind)
    figure.update_yaxes(title=_safe(metric), gridcolor=GRID, zeroline=False)
    return figure


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_wide(values: Sequence[Any]) -> bool:
    """Whether positive numbers spread over factors rather than over differences."""
    return bool(min(values) > 0 and max(values) / min(values) > LOG_SPAN)


def _axis(key: str, values: Sequence[Any]) -> dict[str, Any]:
    """One axis: numbers as they are or by their logarithm, everything else at evenly spaced marks."""
    if not all(is_number(value) for value in values):
        names = list(dict.fromkeys(shown(value) for value in values))
        places = [names.index(shown(value)) for value in values]
        return {"label": _safe(key), "values": places, "tickvals": list(range(len(names))), "ticktext": [_safe(name) for name in names]}
    if is_wide(values):
        marks = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
        texts = [f"{10.0**mark:g}" for mark in marks]
        return {"label": _safe(key), "values": [math.log10(value) for value in values], "tickvals": list(marks), "ticktext": texts}
    return {"label": _safe(key), "values": list(values)}


def _table(rows: Sequence[Row], metric: str, mode: Mode) -> str:
    keys = searched(rows)
    heads = ["trial", "state", *map(_text, keys), _text(metric), "samples", "evaluations", ""]
    body = []
    for row in ranked(rows, metric, mode):
        value = score(row, metric)
        cells = [_text(shown(row.values.get(key))) for key in keys]
        told = [f"<b>{shown(value)}</b>", count(row.samples), count(row.evaluations), _text(row.error[:160])]
        body.append([_text(row.trial), row.state, *cells, *told])
    return table_html(heads, body, num_left=2 + len(keys))


def _about(rows: Sequence[Row], metric: str, mode: Mode) -> str:
    first = best(rows, metric, mode)
    failed = sum(row.state == "failed" for row in rows)
    told = f"{count(len(rows))} trials, {failed} failed" if failed else f"{count(len(rows))} trials"
    return told if first is None else f"{told}; the best is {first.trial} with {metric} {shown(score(first, metric))}"


def _section(heading: str, caption: str, body: str) -> str:
    return f"<section><h2>{_text(heading)}</h2>{f'<p>{_text(caption)}</p>' if caption else ''}{body}</section>"


def _font() -> dict[str, Any]:
    return {"family": _FONT, "size": 13, "color": INK}


def _text(words: str) -> str:
    return escape(clean(words))


def _safe(text: str) -> str:
    """Plotly reads labels as a small HTML; a value is text."""
    return escape(clean(str(text)), quote=False)
