"""`report.png`: the report's four main figures as one still picture, for a README or a paper."""

from pathlib import Path
from typing import Any

import numpy as np

from mottle.observe.curves import (
    MANY_MOMENTS,
    headline_metric,
    labelled,
    metric_curve,
    moments,
    presence,
    rates,
    staleness_counts,
    verdict_ticks,
)
from mottle.observe.figures import LANES
from mottle.observe.optional import require_plots
from mottle.observe.palette import BLUE, GRID, INK, MOMENT_COLORS, PAPER, SOFT, VERDICT_COLORS, WORKER_COLORS
from mottle.observe.record import RunData, read_run
from mottle.observe.report import local_target
from mottle.observe.snapshot import VERDICTS
from mottle.observe.wording import clean, duration, label, metric
from mottle.storage.folder import Folder

PICTURE_FILE = "report.png"
_MAX_ROWS = 16  # a name needs this much of the picture's height
_CHAR_SHARE = 0.0125


def report_png(run_dir: str | Path | Folder, *, baseline: str | Path | Folder | None = None, out: Path | None = None) -> Path:
    """Draws a run; arguments and errors are those of `write_report`. 1800 by 1140 pixels."""
    folder = Folder.at(run_dir)
    path = local_target(folder, PICTURE_FILE, out)
    figure = draw(read_run(folder), None if baseline is None else read_run(baseline))
    with Folder.at(path.parent).writing(path.name) as stream:
        figure.savefig(stream, format="png", dpi=150, facecolor=PAPER)
    return path


def draw(run: RunData, baseline: RunData | None = None) -> Any:
    """The picture as a matplotlib `Figure` that belongs to nobody's global state."""
    require_plots("matplotlib", "the picture of a run")
    matplotlib_figure = require_plots("matplotlib.figure", "the picture of a run")
    figure = matplotlib_figure.Figure(figsize=(12, 7.6), layout="constrained")
    axes_22 = figure.subplots(2, 2, gridspec_kw={"height_ratios": [1, 1], "width_ratios": [1.15, 1]})
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    figure.suptitle(_headline(run), x=0.012, ha="left", fontsize=14, fontweight="bold", color=INK)
    _draw_metric(axes_22[0, 0], run, baseline)
    _draw_timeline(axes_22[0, 1], run)
    _draw_rates(axes_22[1, 0], run)
    _draw_staleness(axes_22[1, 1], run)
    return figure


def _headline(run: RunData) -> str:
    parts = [run.result.run if run.result is not None else run.name, run.result.strategy if run.result is not None else "no result yet"]
    if run.result is not None and (name := headline_metric(run)) in run.result.metrics:
        parts.append(f"{label(str(name))} {metric(str(name), run.result.metrics[str(name)])}")
    return _plain("  ·  ".join([*parts, duration(run.wall_s)]))


def _plain(text: str) -> str:
    """Matplotlib reads dollar signs as formulas; a worker's name is text."""
    return clean(text).replace("$", r"\$")


def _dress(axes: Any, title: str, *, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=20)
    axes.set_xlabel(x, color=SOFT, fontsize=9)
    axes.set_ylabel(y, color=SOFT, fontsize=9)
    axes.tick_params(colors=SOFT, labelsize=9, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)


def _along_time(axes: Any, run: RunData) -> None:
    end_s = max(run.wall_s, 1e-9) * 1.01
    axes.set_xlim(0, end_s)
    marked = moments(run)
    width, alpha = (0.6, 0.5) if len(marked) > MANY_MOMENTS else (1.2, 1.0)
    for moment in marked:
        style = ":" if moment.kind == "joined" else "-"
        axes.axvline(moment.t_s, color=MOMENT_COLORS[moment.kind], linewidth=width, alpha=alpha, linestyle=style)
    for middle_s, moment in labelled(marked, end_s, _CHAR_SHARE):
        place = {"xycoords": ("data", "axes fraction"), "xytext": (0, 3), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        axes.annotate(_plain(moment.text), (middle_s, 1), fontsize=8, color=MOMENT_COLORS[moment.kind], **place)


def _draw_metric(axes: Any, run: RunData, baseline: RunData | None) -> None:
    name = headline_metric(run)
    _dress(axes, f"{label(name or 'no metric').capitalize()} over time", x="seconds since the start", y="")
    if name is None:
        return
    for data, style in ((run, {"color": BLUE, "zorder": 3}), (baseline, {"color": SOFT, "linestyle": "--"})):
        if data is not None and len(curve := metric_curve(data, name)):
            title = _plain(data.result.strategy if data.result is not None else data.name)
            axes.plot(curve["t_s"], curve["value"], linewidth=2, label=title, **style)
    if name.endswith("accuracy"):
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(lambda share, _position: f"{share:.0%}")
    if baseline is not None:
        _legend_below(axes)
    _along_time(axes, run)


def _draw_timeline(axes: Any, run: RunData) -> None:
    workers = run.workers[:_MAX_ROWS]
    some = f" ({len(workers)} of {len(run.workers)} workers)" if len(workers) < len(run.workers) else ""
    _dress(axes, f"What became of every update{some}", x="seconds since the start", y="")
    level = {worker: position for position, worker in enumerate(reversed(workers))}
    for worker, (start_s, end_s) in presence(run).items():
        if worker in level:
            axes.broken_barh([(start_s, end_s - start_s)], (level[worker] - 0.42, 0.84), color="#f3f4f6")
    ticks = verdict_ticks(run)
    for verdict in VERDICTS:
        rows = ticks[(ticks["verdict"] == verdict) & ticks["worker"].isin(workers)]
        if len(rows):
            middle = rows["worker"].map(level).to_numpy(dtype=np.float64) + LANES[verdict]
            axes.vlines(rows["t_s"], middle - 0.18, middle + 0.18, color=VERDICT_COLORS[verdict], linewidth=0.9, label=verdict)
    axes.set_yticks(list(level.values()), [_plain(worker) for worker in level])
    axes.set_ylim(-0.6, len(workers) - 0.4)
    axes.grid(visible=False, axis="y")
    _legend_below(axes)
    _along_time(axes, run)


def _draw_rates(axes: Any, run: RunData) -> None:
    _dress(axes, "Throughput of each worker", x="seconds since the start", y="samples per second")
    table = rates(run)
    if table.shape[1] <= len(WORKER_COLORS):
        for worker, color in zip(table.columns, WORKER_COLORS, strict=False):
            axes.plot(table.index, table[worker], color=color, linewidth=1.6, label=_plain(worker))
        axes.set_ylim(bottom=0)
        _legend_below(axes)
    else:
        shown = table
        extent = (0, run.wall_s, shown.shape[1] - 0.5, -0.5)
        image = axes.imshow(shown.to_numpy().T, aspect="auto", extent=extent, cmap="viridis", vmin=0, interpolation="nearest")
        axes.set_ylabel("worker, by order of joining", color=SOFT, fontsize=9)
        axes.grid(visible=False)
        axes.figure.colorbar(image, ax=axes, label="samples per second")
    _along_time(axes, run)


def _draw_staleness(axes: Any, run: RunData) -> None:
    _dress(axes, "Staleness of updates", x="versions the model had moved on", y="updates")
    counts = staleness_counts(run)
    width = 0.85 * (counts.index[1] - counts.index[0] if len(counts) > 1 else 1)
    below = np.zeros(len(counts))
    for verdict in VERDICTS:
        if counts[verdict].any():
            axes.bar(counts.index, counts[verdict], width, bottom=below, color=VERDICT_COLORS[verdict], label=verdict)
            below += counts[verdict].to_numpy()
    axes.grid(visible=False, axis="x")
    _legend_below(axes)


def _legend_below(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            frameon=False,
            fontsize=9,
            ncols=8,
            loc="upper left",
            bbox_to_anchor=(0, -0.17),
            borderaxespad=0,
            handlelength=1.2,
            columnspacing=1.2,
        )
