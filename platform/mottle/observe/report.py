"""`report.html`: a run told on one page that needs nothing beside itself, neither files nor a network.

The page states what was recorded and no more: a run that was killed has no result and is called so, contradictions in
the numbers are shown on top, and a cut-off list says how long it was.
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from mottle.observe import figures
from mottle.observe.curves import headline_metric, moments, verdict_totals
from mottle.observe.html import table_html
from mottle.observe.optional import require_plots
from mottle.observe.record import RunData, read_run
from mottle.observe.result import RunResult, WorkerResult
from mottle.observe.snapshot import VERDICTS
from mottle.observe.wording import bytes_size, clean, count, duration, label, metric, ordered_metrics, rate
from mottle.storage.folder import Folder

REPORT_FILE = "report.html"
_MAX_NOTICES = 200
_MAX_EPOCHS = 50

_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f6f8fa; color: #1f2328; }
body { font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 28px; margin: 0; }
h2 { font-size: 18px; margin: 0 0 4px; }
.about, .caption, footer { color: #57606a; margin: 4px 0 0; }
.caption { max-width: 78ch; margin-bottom: 8px; }
section { background: #fff; border: 1px solid #d8dee4; border-radius: 10px; padding: 20px 24px; margin-top: 20px; overflow-x: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 24px; }
.card { background: #fff; border: 1px solid #d8dee4; border-radius: 10px; padding: 12px 14px; }
.card b { display: block; font-size: 26px; line-height: 1.3; font-variant-numeric: tabular-nums; }
.card span { color: #57606a; font-size: 13px; display: block; }
.alert { border-left: 5px solid #d55e00; } .note { border-left: 5px solid #e69f00; }
section table { width: 100%; font-size: 14px; } section td, section th { border-bottom: 1px solid #eaeef2; }
footer { margin-top: 24px; font-size: 13px; }
"""


def write_report(run_dir: str | Path | Folder, *, baseline: str | Path | Folder | None = None, out: Path | None = None) -> Path:
    """Writes the report of a run.

    Args:
        run_dir: a run's folder: a path, a URI or a Folder; the run may live, have ended or been killed.
        baseline: the folder of a run to draw beside it.
        out: where to write; `report.html` in the run's folder when that is local.
    Returns:
        The file that was written.
    Raises:
        ValueError: `run_dir` is remote and `out` is not given.
        FileNotFoundError: no run in one of the folders.
        MissingDependencyError: the extra `plots` is not installed.
    """
    folder = Folder.at(run_dir)
    path = local_target(folder, REPORT_FILE, out)
    Folder.at(path.parent).write_text(path.name, report_html(read_run(folder), None if baseline is None else read_run(baseline)))
    return path


def local_target(folder: Folder, name: str, out: Path | None) -> Path:
    """Where something about a run is written: `out`, else `name` in the run's folder."""
    if out is not None:
        return Path(out)
    if not folder.is_local:
        raise ValueError(f"wanted a local file to write to, for {folder.path} is remote; give out=")
    return Path(folder.path) / name


def report_html(run: RunData, baseline: RunData | None = None) -> str:
    """The page as text, about 5 MB: plotly's script is part of it, once."""
    plotly_js = require_plots("plotly.offline", "the report").get_plotlyjs()
    body = "".join(_body(run, baseline))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(_title(run))}</title><style>{_STYLE}</style><script>{plotly_js}</script></head><body><main>{body}</main></body></html>\n"
    )


def _body(run: RunData, baseline: RunData | None) -> Iterator[str]:
    yield _header(run)
    yield _cards(run, baseline)
    yield from _remarks(run)
    if (name := headline_metric(run)) is not None:
        yield _metric_section(run, name, baseline)
    if len(run.timeline):
        yield _section("What became of every update", _timeline_caption(run), figures.timeline_figure(run))
    if len(run.throughput):
        caption = "Acknowledged samples of each worker a second, from its joining to its leaving." + _cut_off(run)
        yield _section("Throughput of each worker", caption, figures.throughput_figure(run))
    if len(run.timeline):
        caption = (
            "How many versions the model had moved on between the one an update was computed on and the one it met. "
            "Fast workers meet a fresh model; a slow worker's updates arrive late."
        )
        yield _section("Staleness", caption, figures.staleness_figure(run))
    if run.result is not None and run.result.accounting:
        yield _section("Where each worker's time went", _ACCOUNTING_CAPTION + _cut_off(run), figures.accounting_figure(run))
    yield _workers_section(run)
    yield from _numbers_sections(run, baseline)
    yield _notices_section(run)
    yield "<footer>Written by Mottle from the record in this run's folder. All times are seconds since the run began.</footer>"


_ACCOUNTING_CAPTION = (
    "The time each worker was present, split into five parts that add up to it. Useful: computing updates that were used. "
    "Waiting: for work, parameters or others. Stale: computing updates that came too late. Rejected: computing updates that were refused. "
    "Redone: computing again what a loss had taken."
)


def _text(words: str) -> str:
    return escape(clean(words))


def _title(run: RunData) -> str:
    return run.result.run if run.result is not None else run.name


def _header(run: RunData) -> str:
    about = (
        f"{run.result.strategy} · codec {run.result.codec} · ended because {run.result.stopped}"
        if run.result is not None
        else "This run has no result: it is still going, or it was killed. Everything below is what had been written."
    )
    return f'<h1>{_text(_title(run))}</h1><p class="about">{_text(about)}</p>'


def _cards(run: RunData, baseline: RunData | None) -> str:
    totals = verdict_totals(run).sum()
    cards = []
    if (name := headline_metric(run)) is not None:
        beside = None if baseline is None else _last(baseline, name)
        cards.append((label(name), metric(name, _last(run, name)), "" if beside is None else f"comparison: {metric(name, beside)}"))
    samples = run.result.samples if run.result is not None else int(run.metrics["samples"].max()) if len(run.metrics) else None
    cards.append(("samples", "-" if samples is None else count(samples), f"in {duration(run.wall_s)}"))
    if samples is not None and run.wall_s > 0:
        cards.append(("mean speed", rate(samples / run.wall_s), "samples per second"))
    workers = len(run.workers)
    gone = sum(len(moment.workers) for moment in moments(run) if moment.kind in ("killed", "left"))
    came = sum(len(moment.workers) for moment in moments(run) if moment.kind == "joined")
    cards.append(("workers", count(workers), f"{came} came, {gone} went"))
    refused = f"{count(int(totals['rejected']))} rejected, {count(int(totals['discarded']))} discarded"
    cards.append(("updates accepted", count(int(totals["accepted"])), refused))
    if run.result is not None:
        cards.append(("updates lost", count(run.result.updates.lost), f"{count(run.result.updates.duplicated)} applied twice"))
    body = (
        f'<div class="card"><span>{_text(head)}</span><b>{_text(value)}</b><span>{_text(foot)}</span></div>' for head, value, foot in cards
    )
    return f'<div class="cards">{"".join(body)}</div>'


def _last(run: RunData, name: str) -> float | None:
    """The value a run ended with; of its last evaluation when it has no result."""
    if run.result is not None and name in run.result.metrics:
        return run.result.metrics[name]
    values = run.metrics.loc[run.metrics["name"] == name, "value"]
    return float(values.iloc[-1]) if len(values) else None


def _remarks(run: RunData) -> Iterator[str]:
    if run.result is None:
        return
    if problems := run.result.problems():
        lines = "".join(f"<li>{_text(problem)}</li>" for problem in problems)
        yield f'<section class="alert"><h2>These numbers contradict each other</h2><ul>{lines}</ul></section>'
    for note in run.result.notes:
        yield f'<section class="note">{_text(note)}</section>'


def _section(title: str, caption: str, content: Any) -> str:
    """A titled box; `content` is a figure, or HTML."""
    config = {"displaylogo": False, "displayModeBar": False, "responsive": True}
    html = content if isinstance(content, str) else content.to_html(full_html=False, include_plotlyjs=False, config=config)
    return f'<section><h2>{_text(title)}</h2><p class="caption">{_text(caption)}</p>{html}</section>'


def _metric_section(run: RunData, name: str, baseline: RunData | None) -> str:
    caption = "Measured on published versions of the model while training went on."
    if moments(run):
        caption += " Vertical lines mark the moments when workers came (dotted) or went (solid)."
    beside = baseline is not None and (baseline.metrics["name"] == name).any()
    if baseline is not None and beside:
        caption += " The grey dashed line is the comparison run, on its own clock."
    titles = (_strategy(run), _strategy(baseline)) if baseline is not None else ("", "")
    if titles[0] == titles[1] and baseline is not None:
        titles = (_title(run), _title(baseline))
    figure = figures.metric_figure(run, name, title=titles[0], baseline=baseline if beside else None, baseline_title=titles[1])
    return _section(f"{label(name).capitalize()} over time", caption, figure)


def _strategy(run: RunData) -> str:
    return run.result.strategy if run.result is not None else run.name


def _timeline_caption(run: RunData) -> str:
    caption = (
        "One row for each worker, shaded while it was present. Each tick is an update at the moment it was decided: in the upper half "
        "of the row if it was accepted (or left unselected), in the lower half if it was rejected for its content or discarded as too late."
    )
    return caption + _cut_off(run)


def _cut_off(run: RunData) -> str:
    total = len(run.workers)
    return f" The first {figures.MAX_ROWS} of {count(total)} workers are drawn." if total > figures.MAX_ROWS else ""


def _workers_section(run: RunData) -> str:
    if run.result is None:
        totals = verdict_totals(run)
        rows = [[f"<b>{_text(worker)}</b>", *(count(int(totals.loc[worker, verdict])) for verdict in VERDICTS)] for worker in run.workers]
        return _section("Workers", "Counted from the timeline.", table_html(["worker", *VERDICTS], rows, num_left=1))
    heads = ["worker", "device", "joined", "left", "why", "samples", *VERDICTS]
    rows = [
        [
            f"<b>{_text(worker.id)}</b>",
            _text(worker.device),
            duration(worker.joined_s),
            "-" if worker.left_s is None else duration(worker.left_s),
            _text("; ".join(_stay(worker))),
            count(worker.samples),
            *(count(getattr(worker, verdict)) for verdict in VERDICTS),
        ]
        for worker in run.result.workers
    ]
    caption = "Samples are those of all acknowledged updates of a worker, whatever became of them; the four counts say what did."
    return _section("Workers", caption, table_html(heads, rows, num_left=5))


def _stay(worker: WorkerResult) -> Iterator[str]:
    """Why a worker left, and whether it was kept from work."""
    if worker.left_reason:
        yield worker.left_reason
    if worker.quarantines:
        times = "once" if worker.quarantines == 1 else f"{count(worker.quarantines)} times"
        yield f"in quarantine {times}" + (f": {worker.quarantined_for}" if worker.quarantined_for else ", then taken back")


def _numbers_sections(run: RunData, baseline: RunData | None) -> Iterator[str]:
    if run.result is None:
        return
    results = [run.result] + ([baseline.result] if baseline is not None and baseline.result is not None else [])
    caption = (
        "Every acknowledged update is accepted, unselected, rejected, discarded or still in flight; none may be lost or applied twice."
    )
    heads = ["", *(_text(result.run) for result in results)]
    rows = [[_text(name), *values] for name, values in _comparison(results).items()]
    yield _section("The run in numbers", caption, table_html(heads, rows, num_left=1))
    if run.result.epochs:
        heads = ["epoch", "applied", "unselected", "rejected", "missed", "repeated"]
        shown = run.result.epochs[-_MAX_EPOCHS:]
        rows = [[count(epoch.index), *(count(getattr(epoch, name)) for name in heads[1:])] for epoch in shown]
        caption = "Samples of each pass over the data by how they ended. Missed ones may appear in the last pass only, repeated ones never."
        if len(shown) < len(run.result.epochs):
            caption += f" The last {_MAX_EPOCHS} of {count(len(run.result.epochs))} passes."
        yield _section("Passes over the data", caption, table_html(heads, rows, num_left=1))


def _comparison(results: list[RunResult]) -> dict[str, list[str]]:
    """Rows of the numbers table, one cell a run."""
    names = dict.fromkeys(name for result in results for name, _ in ordered_metrics(result.metrics))
    rows = {label(name): [metric(name, result.metrics[name]) if name in result.metrics else "-" for result in results] for name in names}
    rows["strategy"] = [_text(result.strategy) for result in results]
    rows |= {"samples": [count(result.samples) for result in results], "versions": [count(result.versions) for result in results]}
    rows["time"] = [duration(result.wall_s) for result in results]
    for name in ("accepted", "unselected", "rejected", "discarded", "in_flight", "lost", "duplicated"):
        rows[f"updates {label(name)}"] = [count(getattr(result.updates, name)) for result in results]
    for process in ("coordinator", "shard", "worker"):
        sizes = [getattr(result.peak_rss_bytes, process) for result in results]
        if any(size is not None for size in sizes):
            rows[f"peak memory, {process}"] = ["-" if size is None else bytes_size(size) for size in sizes]
    return rows


def _notices_section(run: RunData) -> str:
    shown = run.notices[:_MAX_NOTICES]
    caption = "What the run told its user, in order." + (
        f" The first {_MAX_NOTICES} of {count(len(run.notices))}." if len(run.notices) > len(shown) else ""
    )
    rows = [[duration(event.t_s), _text(label(event.kind)), f"<b>{_text(event.worker or '')}</b>", _text(event.text)] for event in shown]
    return _section("Events", caption, table_html(["when", "what", "who", ""], rows, num_left=4)) if rows else ""
