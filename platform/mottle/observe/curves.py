"""From the tables of a run to what is drawn: small frames that the page and the static picture share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from mottle.observe.palette import MOMENT_COLORS
from mottle.observe.record import RunData
from mottle.observe.snapshot import VERDICTS, RunEvent
from mottle.observe.wording import ordered_metrics

NUM_BINS = 36
MANY_MOMENTS = 10  # more marks than this are drawn thin, or they hide what they mark
_MAX_TICKS = 6_000  # more signs than this are gathered into bins: a browser stays quick and the eye sees the same
_TICK_BINS = 320
_MAX_STALENESS_BARS = 40


@dataclass(frozen=True)
class Moment:
    """Something that changed the crew, with the workers it happened to."""

    t_s: float
    kind: str
    workers: tuple[str, ...]

    @property
    def text(self) -> str:
        shown = ", ".join(self.workers[:3])
        return f"{shown}{f' and {len(self.workers) - 3} more' if len(self.workers) > 3 else ''} {self.kind}"


def moments(run: RunData) -> list[Moment]:
    """Joins after the start, departures and quarantines; those of one kind within a hundredth of the run are one."""
    near_s = run.wall_s / 100
    found: list[Moment] = []
    for event in _crew_events(run):
        if event.kind == "joined" and event.t_s <= near_s:
            continue
        before = next((moment for moment in found if moment.kind == event.kind and event.t_s - moment.t_s <= near_s), None)
        if before is not None:
            found.remove(before)
        first_s, workers = (before.t_s, before.workers) if before is not None else (event.t_s, ())
        found.append(Moment(first_s, event.kind, (*workers, event.worker or "a worker")))
    return sorted(found, key=lambda moment: moment.t_s)


def labelled(marked: Sequence[Moment], end_s: float, char_share: float) -> list[tuple[float, Moment]]:
    """The moments whose text fits on the axis beside the texts chosen before, with the middle of each text in seconds.

    Who went is named rather than who came, the earlier rather than the later; at the ends a text moves inwards.

    Args:
        marked: all moments of a run.
        end_s: length of the time axis, which begins at 0.
        char_share: width of a character as a share of the axis.
    """
    chosen: list[tuple[float, float, Moment]] = []
    for moment in sorted(marked, key=lambda moment: (moment.kind == "joined", moment.t_s)):
        half_s = (len(moment.text) / 2 + 1) * char_share * end_s
        middle_s = max(half_s, min(moment.t_s, end_s - half_s))
        if all(abs(middle_s - other_s) > half_s + other_half_s for other_s, other_half_s, _ in chosen):
            chosen.append((middle_s, half_s, moment))
    return [(middle_s, moment) for middle_s, _, moment in chosen]


def presence(run: RunData) -> dict[str, tuple[float, float]]:
    """When each worker was part of the crew, in the order of joining."""
    if run.result is not None:
        rows = {worker.id: (worker.joined_s, run.wall_s if worker.left_s is None else worker.left_s) for worker in run.result.workers}
    else:
        joined = {event.worker: event.t_s for event in _crew_events(run) if event.kind == "joined"}
        left = {event.worker: event.t_s for event in _crew_events(run) if event.kind in ("killed", "left")}
        rows = {worker: (joined.get(worker, 0.0), left.get(worker, run.wall_s)) for worker in run.workers}
    return {worker: rows[worker] for worker in run.workers}


def headline_metric(run: RunData) -> str | None:
    """The metric a reader asks for first: test accuracy, else another of the test, else any; None without metrics."""
    names = ordered_metrics({str(name): None for name in run.metrics["name"].unique()})
    return names[0][0] if names else None


def metric_curve(run: RunData, name: str) -> pd.DataFrame:
    """Columns t_s, samples, version and value of one metric."""
    return run.metrics[run.metrics["name"] == name].drop(columns="name")


def verdict_ticks(run: RunData) -> pd.DataFrame:
    """One row a sign of the timeline: t_s, worker, verdict, updates and a reason; a sign is one update, or one bin of them."""
    timeline = run.timeline
    if len(timeline) <= _MAX_TICKS:
        return timeline[["t_s", "worker", "verdict", "reason"]].assign(updates=1)
    width_s = max(run.wall_s, 1e-9) / _TICK_BINS
    keys = [(timeline["t_s"] // width_s).rename("bin"), timeline["worker"], timeline["verdict"]]
    binned = timeline.groupby(keys, sort=True).agg(t_s=("t_s", "mean"), reason=("reason", "last"), updates=("t_s", "size"))
    return binned.reset_index(["worker", "verdict"]).reset_index(drop=True)


def rates(run: RunData, num_bins: int = NUM_BINS) -> pd.DataFrame:
    """Samples per second: one row a stretch of time (index: its middle, s), one column a worker, NaN while it was away.

    Between two deliveries a worker is taken to have worked evenly, so a slow worker with few large deliveries draws a
    level line and not a comb; the area under a line is exactly its samples up to its last delivery.
    """
    edges_s = np.linspace(0.0, max(run.wall_s, 1e-9), num_bins + 1)
    middles_s = (edges_s[:-1] + edges_s[1:]) / 2
    stays = presence(run)
    by_worker = {str(worker): rows for worker, rows in run.throughput.groupby("worker")}
    columns = {worker: _rate(by_worker.get(worker), stays[worker], edges_s) for worker in run.workers}
    return pd.DataFrame(columns, index=pd.Index(middles_s, name="t_s"))


def staleness_counts(run: RunData) -> pd.DataFrame:
    """Updates by staleness (index: the least staleness of the bar) and verdict (columns); at most 40 bars."""
    staleness = run.timeline["staleness"].fillna(0).clip(lower=0).astype(int)
    width = int(staleness.max()) // _MAX_STALENESS_BARS + 1 if len(staleness) else 1
    counts = pd.crosstab((staleness // width * width).rename("staleness"), run.timeline["verdict"])
    bars = range(0, int(counts.index.max()) + 1, width) if len(counts) else range(0)
    return counts.reindex(index=list(bars), columns=list(VERDICTS), fill_value=0)


def verdict_totals(run: RunData) -> pd.DataFrame:
    """Updates by worker (rows, in the order of joining) and verdict (columns)."""
    return pd.crosstab(run.timeline["worker"], run.timeline["verdict"]).reindex(index=run.workers, columns=list(VERDICTS), fill_value=0)


def _crew_events(run: RunData) -> list[RunEvent]:
    """What the user was told; for a run without notices, what its result says."""
    told: Iterable[RunEvent] = [event for event in run.notices if event.kind in MOMENT_COLORS]
    if not told and run.result is not None:
        ends = [worker for worker in run.result.workers if worker.left_s is not None]
        joined = [RunEvent(t_s=worker.joined_s, kind="joined", worker=worker.id, text="") for worker in run.result.workers]
        told = joined + [
            RunEvent(t_s=worker.left_s or 0.0, kind="killed" if worker.left_reason == "killed" else "left", worker=worker.id, text="")
            for worker in ends
        ]
    return sorted(told, key=lambda event: event.t_s)


def _rate(rows: pd.DataFrame | None, stay_s: tuple[float, float], edges_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if rows is None or not (rows["samples"] > 0).any():
        return np.full(len(edges_s) - 1, np.nan)
    delivered = rows[rows["samples"] > 0]
    start_s, end_s = stay_s[0], float(delivered["t_s"].max())
    times_s = np.concatenate([[min(start_s, float(delivered["t_s"].min()))], delivered["t_s"].to_numpy(dtype=np.float64)])
    total = np.concatenate([[0.0], np.cumsum(delivered["samples"].to_numpy(dtype=np.float64))])
    inside_s = np.clip(edges_s, times_s[0], end_s)
    spans_s = np.diff(inside_s)
    per_s = np.divide(np.diff(np.interp(inside_s, times_s, total)), spans_s, out=np.full(len(spans_s), np.nan), where=spans_s > 1e-9)
    return np.asarray(per_s, dtype=np.float64)
