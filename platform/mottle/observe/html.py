"""A snapshot as an HTML fragment for a notebook (`_repr_html_`).

Styles are inline and take their colours from the page around, so that it reads on light and dark themes; every text of
the run is escaped, for worker names and reasons may come from hosts that nobody trusts.
"""

from collections.abc import Sequence
from html import escape

from mottle.observe.snapshot import RunEvent, Snapshot, UpdateCounts, WorkerRow
from mottle.observe.wording import GONE, clean, count, duration, label, metric, ordered_metrics, percent, rate, versions

_NUM_EVENTS = 6
_NUM_WORKERS = 50
_LEFT, _RIGHT = "text-align:left;padding:2px 12px 2px 0", "text-align:right;padding:2px 12px 2px 0;font-variant-numeric:tabular-nums"
_FAINT = "opacity:.65"
_BLUE, _AMBER = "#0072b2", "#e69f00"


def snapshot_html(snapshot: Snapshot) -> str:
    """One `<div>`: header, progress, metrics, workers (at most 50), updates and the latest events (at most 6)."""
    return "".join(
        [
            '<div style="font-family:system-ui,sans-serif;font-size:13px;line-height:1.5;max-width:860px">',
            _header(snapshot),
            _progress(snapshot),
            _workers(snapshot.workers),
            _updates(snapshot.updates),
            *(
                f'<div style="border-left:3px solid {_AMBER};padding-left:8px;margin-top:6px">{_text(note)}</div>'
                for note in snapshot.notes
            ),
            _events(snapshot.events),
            "</div>",
        ]
    )


def table_html(heads: Sequence[str], rows: Sequence[Sequence[str]], *, num_left: int, faint: Sequence[bool] = ()) -> str:
    """A table of cells that are HTML already; the first `num_left` columns align left, the others right."""
    aligns = [_LEFT if column < num_left else _RIGHT for column in range(len(heads))]
    head = "".join(f'<th style="{align};font-weight:normal;{_FAINT}">{name}</th>' for name, align in zip(heads, aligns, strict=True))
    lines = [f"<thead><tr>{head}</tr></thead>"]
    for position, row in enumerate(rows):
        style = f' style="{_FAINT}"' if position < len(faint) and faint[position] else ""
        cells = "".join(f'<td style="{align}">{cell}</td>' for cell, align in zip(row, aligns, strict=True))
        lines.append(f"<tr{style}>{cells}</tr>")
    return f'<table style="font:inherit;color:inherit;border-collapse:collapse;border:none;margin:8px 0">{"".join(lines)}</table>'


def _text(words: str) -> str:
    return escape(clean(words))


def _header(snapshot: Snapshot) -> str:
    about = (
        f"{_text(snapshot.strategy)} · codec {_text(snapshot.codec)} · epoch {count(snapshot.epoch)} · version {count(snapshot.version)}"
    )
    return f'<div><b>{_text(snapshot.run)}</b> <span style="{_FAINT}">{about} · {duration(snapshot.wall_s)}</span></div>'


def _progress(snapshot: Snapshot) -> str:
    metrics = "".join(f" · {_text(label(name))} <b>{metric(name, value)}</b>" for name, value in ordered_metrics(snapshot.metrics))
    if snapshot.total_samples is None:
        return f"<div>{count(snapshot.samples)} samples{metrics}</div>"
    share = min(1.0, snapshot.samples / max(1, snapshot.total_samples))
    bar = (
        f'<div role="progressbar" aria-valuenow="{share * 100:.0f}" aria-valuemin="0" aria-valuemax="100"'
        ' style="height:6px;border-radius:3px;background:rgba(128,128,128,.25);margin:6px 0">'
        f'<div style="height:6px;border-radius:3px;background:{_BLUE};width:{share * 100:.1f}%"></div></div>'
    )
    return f"{bar}<div>{count(snapshot.samples)} of {count(snapshot.total_samples)} samples ({percent(share)}){metrics}</div>"


def _workers(workers: tuple[WorkerRow, ...]) -> str:
    if not workers:
        return ""
    heads = ["worker", "device", "state", "samples", "samples/s", "staleness", "accepted", "unselected", "rejected", "discarded"]
    shown = workers[:_NUM_WORKERS]
    table = table_html(heads, [_worker_cells(worker) for worker in shown], num_left=3, faint=[worker.state in GONE for worker in shown])
    more = len(workers) - len(shown)
    return table + (f'<div style="{_FAINT}">and {count(more)} more workers</div>' if more else "")


def _worker_cells(worker: WorkerRow) -> list[str]:
    speed = "-" if worker.state in GONE else rate(worker.samples_per_s)
    staleness = "-" if worker.staleness is None else versions(worker.staleness)
    counts = (worker.accepted, worker.unselected, worker.rejected, worker.discarded)
    return [
        f"<b>{_text(worker.id)}</b>",
        _text(worker.device),
        _text(worker.state + (f": {worker.why}" if worker.why and worker.state not in GONE else "")),
        count(worker.samples),
        speed,
        staleness,
        *map(count, counts),
    ]


def _updates(updates: UpdateCounts) -> str:
    names = ("accepted", "unselected", "rejected", "discarded", "in_flight", "lost", "duplicated")
    return f'<div style="{_FAINT}">updates: ' + " · ".join(f"{count(getattr(updates, name))} {label(name)}" for name in names) + "</div>"


def _events(events: tuple[RunEvent, ...]) -> str:
    if not events:
        return ""
    rows = [
        [duration(event.t_s), _text(label(event.kind)), f"<b>{_text(event.worker or '')}</b>", _text(event.text)]
        for event in events[-_NUM_EVENTS:]
    ]
    return table_html(["when", "what", "who", ""], rows, num_left=4)
