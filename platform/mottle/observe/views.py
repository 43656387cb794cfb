"""What the terminal shows of a snapshot, as rich renderables and lines; pure functions."""

import math
from collections import Counter

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from mottle.observe.snapshot import VERDICTS, RunEvent, Snapshot, UpdateCounts, WorkerRow
from mottle.observe.speed import Speed
from mottle.observe.wording import GONE, clean, count, duration, label, metric, ordered_metrics, percent, rate, versions

# Sign and style. The sign tells the kind without colour, the colours stay apart for colour-blind eyes.
_EVENT_LOOK = {
    "joined": ("+", "bright_blue"),
    "left": ("-", "dim"),
    "killed": ("✕", "bold red"),
    "rejected_streak": ("!", "yellow"),
    "overdue": ("…", "bold yellow"),
    "back": ("+", "bright_blue"),
    "straggler": ("…", "yellow"),
    "quarantined": ("⊘", "bold yellow"),
    "probation": ("◌", "yellow"),
    "readmitted": ("+", "bright_blue"),
    "corruption": ("!", "bold red"),
    "draining": ("!", "yellow"),
    "checkpoint": ("✓", "cyan"),
    "replica": ("+", "cyan"),
    "coordinator": ("!", "bold yellow"),
    "configured": ("~", "cyan"),
    "planned": ("~", "bright_blue"),
    "replaced": ("~", "cyan"),
    "undone": ("!", "yellow"),
    "batch": ("~", "cyan"),
    "warning": ("!", "bold yellow"),
    "finished": ("■", "bold"),
}
_STATE_LOOK = {
    "computing": ("●", "bright_blue"),
    "waiting": ("○", "dim"),
    "overdue": ("…", "bold yellow"),
    "paused": ("‖", "dim"),
    "joining": ("◌", "cyan"),
    "quarantined": ("⊘", "bold yellow"),
    "probation": ("◌", "yellow"),
    "leaving": ("◌", "dim"),
    "left": ("-", "dim"),
    "killed": ("✕", "red"),
}


def event_line(event: RunEvent) -> Text:
    """`    12.4 s  ✕  killed       w2   its process is gone`, in one line whatever the text holds."""
    when, sign, kind, worker, words = _event_cells(event)
    return Text(f"{when.plain:>10}  {sign}  {kind.plain:<15}  {worker.plain:<8}  {words}")


def event_row(event: RunEvent) -> Table:
    """The same for a terminal: long words go on below themselves."""
    widths = [Column(width=10, justify="right"), Column(width=1), Column(width=15), Column(min_width=8), Column(ratio=1, overflow="fold")]
    grid = Table.grid(*widths, padding=(0, 2, 0, 0), expand=True)
    grid.add_row(*_event_cells(event))
    return grid


def _event_cells(event: RunEvent) -> tuple[Text, Text, Text, Text, Text]:
    sign, style = _EVENT_LOOK.get(event.kind, ("·", ""))
    return (
        Text(f"{event.t_s:.1f} s", style="dim"),
        Text(sign, style=style),
        Text(label(event.kind), style=style),
        Text(clean(event.worker or ""), style="bold"),
        Text(clean(event.text)),
    )


def progress_line(snapshot: Snapshot, speed: Speed) -> Text:
    """All that matters of a moment in one plain line."""
    parts = _progress_words(snapshot, speed)
    parts += [f"{label(name)} {metric(name, value)}" for name, value in ordered_metrics(snapshot.metrics)]
    parts.append(f"{sum(worker.state not in GONE for worker in snapshot.workers)} workers")
    return Text(f"{snapshot.wall_s:8.1f} s     {'progress':<15}  " + ", ".join(parts))


def live_view(snapshot: Snapshot, speed: Speed, *, max_rows: int, narrow: bool = False) -> RenderableType:
    """The live area: who runs, how far, how well, and every worker (or the `max_rows` that most need an eye)."""
    parts: list[RenderableType] = [Text(), _header(snapshot), _bar(snapshot, speed)]
    if snapshot.metrics:
        parts.append(_metrics_line(snapshot))
    below = Table.grid(Column(style="dim"), Column(ratio=1), padding=(0, 2, 0, 1), pad_edge=True, expand=True)
    below.add_row("updates", updates_lines(snapshot.updates))
    for worker in snapshot.workers:
        if worker.why and worker.state not in GONE:
            below.add_row(clean(worker.id), Text(clean(f"{worker.state}: {worker.why}"), style="yellow"))
    for note in snapshot.notes:
        below.add_row("note", Text(clean(note), style="yellow"))
    return Group(*parts, Text(), _workers_table(snapshot.workers, max_rows, narrow=narrow), Text(), below)


def summary_view(snapshot: Snapshot, *, narrow: bool = False) -> RenderableType:
    """The final table: the run in numbers, then its workers."""
    facts = Table.grid(Column(style="dim"), Column(ratio=1), padding=(0, 2, 0, 1), pad_edge=True, expand=True)
    facts.add_row("run", Text(clean(f"{snapshot.run}  ·  {snapshot.strategy}  ·  codec {snapshot.codec}"), style="bold"))
    for name, value in ordered_metrics(snapshot.metrics):
        facts.add_row(label(name), Text(metric(name, value), style="bold" if name == "test_accuracy" else ""))
    facts.add_row("samples", f"{_samples_words(snapshot)} in {duration(snapshot.wall_s)}, version {count(snapshot.version)}")
    facts.add_row("updates", updates_lines(snapshot.updates))
    for note in snapshot.notes:
        facts.add_row("note", Text(clean(note), style="yellow"))
    return Group(_workers_table(snapshot.workers, len(snapshot.workers), narrow=narrow), Text(), facts, Text())


def updates_lines(updates: UpdateCounts) -> Text:
    """Every count, zeros too (that nothing was lost is a statement and not an omission): verdicts, then what has none."""
    looks = {"accepted": "bright_blue", "rejected": "yellow", "lost": "bold red", "duplicated": "bold red"}
    lines = []
    for names in (("accepted", "unselected", "rejected", "discarded"), ("in_flight", "lost", "duplicated")):
        counts = {name: getattr(updates, name) for name in names}
        words = [
            Text.assemble((count(number), looks.get(name, "bold") if number else "dim"), (f" {label(name)}", "dim"))
            for name, number in counts.items()
        ]
        lines.append(Text.assemble((" · ", "dim")).join(words))
    return Text("\n").join(lines)


def _header(snapshot: Snapshot) -> RenderableType:
    grid = Table.grid(Column(no_wrap=True), Column(justify="right", no_wrap=True), expand=True)
    left = Text.assemble((f" {clean(snapshot.run)}", "bold"), (clean(f"  ·  {snapshot.strategy}  ·  codec {snapshot.codec}"), "dim"))
    right = f"  epoch {count(snapshot.epoch)}  ·  version {count(snapshot.version)}  ·  {duration(snapshot.wall_s)}"
    grid.add_row(left, Text(right, style="dim"))
    return grid


def _bar(snapshot: Snapshot, speed: Speed) -> RenderableType:
    words = Text("  ·  ").join(Text(part) for part in _progress_words(snapshot, speed))
    if snapshot.total_samples is None:
        return Text(" ") + words
    bar = ProgressBar(total=max(1, snapshot.total_samples), completed=snapshot.samples, style="bright_black", complete_style="bright_blue")
    grid = Table.grid(Column(width=1), Column(ratio=1), Column(width=2), Column(justify="right", no_wrap=True), expand=True)
    grid.add_row("", bar, "", words)
    return grid


def _progress_words(snapshot: Snapshot, speed: Speed) -> list[str]:
    """How far, how fast, how long still; what is not known is left out."""
    words = [_samples_words(snapshot)]
    if math.isfinite(speed.per_s):
        words.append(f"{rate(speed.per_s)} samples/s")
    if math.isfinite(eta_s := speed.eta_s(snapshot)) and eta_s > 0:
        words.append(f"{duration(eta_s)} left")
    return words


def _samples_words(snapshot: Snapshot) -> str:
    if snapshot.total_samples is None:
        return f"{count(snapshot.samples)} samples"
    share = min(1.0, snapshot.samples / max(1, snapshot.total_samples))
    return f"{count(snapshot.samples)} / {count(snapshot.total_samples)} samples ({percent(share)})"


def _metrics_line(snapshot: Snapshot) -> Text:
    line = Text(" ")
    for position, (name, value) in enumerate(ordered_metrics(snapshot.metrics)):
        line.append("  ·  " if position else "", style="dim")
        line.append(f"{label(name)} ", style="dim").append(metric(name, value), style="bold" if position == 0 else "")
    return line


def _workers_table(workers: tuple[WorkerRow, ...], max_rows: int, *, narrow: bool) -> RenderableType:
    """One row a worker; `narrow` leaves out the device, and a column of zeros under `unselected` is left out always."""
    without = {"device"} if narrow else set()
    if not any(worker.unselected for worker in workers):
        without.add("unselected")
    columns = [
        Column("worker", no_wrap=True, max_width=16, overflow="ellipsis"),
        Column("device", no_wrap=True, max_width=20, overflow="ellipsis"),
        Column("state", no_wrap=True, max_width=14, overflow="ellipsis"),
        *(Column(name, justify="right", no_wrap=True) for name in ("samples", "samples/s", "staleness", *VERDICTS)),
    ]
    heads = [column.header for column in columns if column.header not in without]
    table = Table(*(column for column in columns if column.header in heads), box=None, header_style="dim", padding=(0, 1))
    if narrow:
        table.columns[heads.index("samples/s")].header, table.columns[heads.index("staleness")].header = "per s", "stale"
    shown = _most_telling(workers, max_rows)
    for worker in shown:
        cells = _worker_cells(worker)
        table.add_row(*(cells[str(head)] for head in heads), style="dim" if worker.state in GONE else "")
    if len(shown) == len(workers):
        return table
    kept = {worker.id for worker in shown}
    hidden = Counter(worker.state for worker in workers if worker.id not in kept)
    states = ", ".join(f"{number} {clean(state)}" for state, number in hidden.most_common())
    return Group(table, Text(f" … and {count(hidden.total())} more: {states}", style="dim"))


def _worker_cells(worker: WorkerRow) -> dict[str, Text]:
    sign, style = _STATE_LOOK.get(worker.state, (" ", ""))
    gone = worker.state in GONE
    return {
        "worker": Text(clean(worker.id), style="" if gone else "bold"),
        "device": Text(clean(worker.device)),
        "state": Text(f"{sign} {clean(worker.state)}", style=style),
        "samples": Text(count(worker.samples)),
        "samples/s": Text("-" if gone else rate(worker.samples_per_s)),
        "staleness": Text("-" if worker.staleness is None else versions(worker.staleness)),
        "accepted": Text(count(worker.accepted)),
        "unselected": Text(count(worker.unselected)),
        "rejected": Text(count(worker.rejected), style="yellow" if worker.rejected and not gone else ""),
        "discarded": Text(count(worker.discarded)),
    }


def _most_telling(workers: tuple[WorkerRow, ...], max_rows: int) -> list[WorkerRow]:
    """All rows, or the `max_rows` with the most trouble, in their given order; workers that are gone come last."""
    if len(workers) <= max_rows:
        return list(workers)
    ranked = sorted(range(len(workers)), key=lambda i: (workers[i].state in GONE, not workers[i].why, -workers[i].rejected, i))
    return [workers[i] for i in sorted(ranked[: max_rows - 1])]
